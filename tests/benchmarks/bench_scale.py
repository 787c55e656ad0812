"""Thousands of images: many that are pending, and few among many that are published."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml
from compare import Program, Run, run
from rows import Row, leave

from duccmake.repository.directory.backend import DirectoryRepository
from support import quick_registry
from support.pipeline import change_set, stage

CHECKOUT = Path(__file__).parents[2]
REPOSITORY = "images.example.org"
DELAY_SECONDS = 0.02
CONNECTIONS = 32

PENDING, LAYERS, SHARED = 2000, 15, 12
PUBLISHED, SMALL = (100, 1000, 5000), 3
FILLED = 300


@contextmanager
def registry(layers: int, shared: int) -> Iterator[str]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    with quick_registry.running(DELAY_SECONDS, layers, shared) as host:
        yield host


def configure(base: Path, host: str, images: int, **members: object) -> None:
    """A wish list of so many images, and a configuration for it."""
    (base / "config").mkdir(parents=True, exist_ok=True)
    names = [f"http://{host}/team/app{number:04}:1" for number in range(images)]
    recipe = {"version": 1, "user": "benchmark", "cvmfs_repo": REPOSITORY, "input": names}
    (base / "config/recipe.yaml").write_text(yaml.safe_dump(recipe))
    registries = {host: {"scheme": "http", "limits": {"connections": CONNECTIONS}}}
    settings = {"resolve": {"connections": CONNECTIONS}, "registries": registries, **members}
    settings |= {"products": ["layers", "flat"], "platforms": ["linux/amd64"]}
    (base / "config/config.yaml").write_text(yaml.safe_dump(settings))


def workflow(base: Path, *options: str) -> Program:
    command = [sys.executable, "-m", "snakemake", "--snakefile", CHECKOUT / "Snakefile"]
    return Program("duccmake", [*command, "--directory", base, *options])


def show(what: str, taken: Run) -> None:
    cpu = taken.user + taken.system
    leave(Row(what, "s", taken.wall))
    leave(Row(f"{what}: memory", "MB", taken.memory))
    print(f"  {what:52}{taken.wall:8.1f} s{cpu:8.1f} s of CPU{taken.memory:8.0f} MB", flush=True)


def trips(images: int, each: int = 1) -> float:
    """The seconds that so many images' round trips take at least."""
    return images * each * DELAY_SECONDS / CONNECTIONS


def test_dry_run_of_many_pending_images(tmp_path: Path) -> None:
    print(f"\n{PENDING} pending images of {LAYERS} layers ({PENDING * LAYERS} references)")
    with registry(LAYERS, SHARED) as host:
        configure(tmp_path, host, PENDING)
        show(f"{PENDING} pending: the first dry run", run(workflow(tmp_path, "-n")))
        again = run(workflow(tmp_path, "-n"))
        show(f"{PENDING} pending: another", again)
    assert again.wall < 20 and again.memory < 1000


def test_fill(tmp_path: Path) -> None:
    print(f"\na first fill of {FILLED} images of {LAYERS} layers")
    with registry(LAYERS, SHARED) as host:
        configure(tmp_path, host, FILLED)
        taken = run(workflow(tmp_path, "--cores", "2"))
        show(f"a first fill of {FILLED} images of {LAYERS} layers", taken)
        print(f"  {FILLED / taken.wall:.2f} images a second")


def test_runs_among_many_published_images(tmp_path: Path) -> None:
    print(f"\nimages of {SMALL} layers that are published")
    staging = tmp_path / "staging"
    repository = DirectoryRepository(tmp_path / "cvmfs", REPOSITORY, durable=False)
    done = 0
    with registry(SMALL, SMALL - 1) as host:
        for number in PUBLISHED:
            _publish(repository, host, range(done, number), staging)
            done = number
            configure(tmp_path, host, number)
            run(workflow(tmp_path, "--cores", "2"))
            show(f"{number} published: nothing to do", run(workflow(tmp_path, "--cores", "2")))
            show(f"{number} published: a dry run", run(workflow(tmp_path, "-n")))
            configure(tmp_path, host, number + 1)
            show(f"{number} published: one more", run(workflow(tmp_path, "--cores", "2")))
            done += 1


def _publish(
    repository: DirectoryRepository, host: str, numbers: Sequence[int], staging: Path
) -> None:
    """Have so many images published, in one commit."""
    images = [
        stage(
            f"{host}/team/app{number:04}:1",
            quick_registry.image(f"team/app{number:04}", SMALL, SMALL - 1),
            staging,
        )
        for number in numbers
    ]
    with repository.lock():
        repository.publish(change_set(images, staging))
    subprocess.run(["rm", "-rf", staging], check=True)
