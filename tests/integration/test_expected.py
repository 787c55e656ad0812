"""Whole sessions, as an operator sees them, compared with the texts in ``tests/expected``."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support import expected
from support.cvmfs_repositories import StandIn
from support.faulty_registry import Answer, FaultyHandler, FaultyRegistry, Held
from support.images import LayerBuilder
from support.private_registry import PrivateRegistry
from support.runs import Work, checkout_copy, days_later, fresh_work, hear_interrupts
from support.samples import AMD64
from support.servers import add_image, without_proxies


def session(work: Work, *commands: str) -> str:
    """Commands, and all that each prints, in its order."""
    places = {work.checkout: "CHECKOUT", work.path: "WORKDIR"}
    return "\n".join(
        expected.normalised(f"$ {command}\n{_printed(work, command)}", places)
        for command in commands
    )


def _printed(work: Work, command: str) -> str:
    options = shlex.split(command)[1:]
    snakefile = ["--snakefile", f"{work.checkout}/Snakefile"]
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *snakefile, *options],
        cwd=work.path,
        env=work.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return f"{done.stdout}(status {done.returncode})"


def image(text: str) -> Image:
    """An image that no repository loses anything of, whoever runs this."""
    mine = {"uid": os.geteuid(), "gid": os.getegid()}
    builder = LayerBuilder().dir(".", **mine).file("content", text, **mine)
    return Image((builder.layer(),), {}, platform=AMD64)


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """All sessions of an operator's month, by name."""
    with fresh_work(tmp_path_factory.mktemp("month")) as work:
        return dict(_month(work))


def _month(work: Work) -> Iterator[tuple[str, str]]:
    run = "snakemake --cores 2"
    for name in ("team/app:1", "team/app:2", "team/tools:2024"):
        work.push(name, image(name))
    work.wish("{host}/team/app:*", "{host}/team/tools:2024")
    work.configure(platforms=[str(AMD64)], products=["layers", "flat"])
    yield "first-run", session(work, "snakemake -n", run)
    yield "nothing-to-do", session(work, run)

    work.push("team/app:1", image("moved"))
    yield "moved-tag", session(work, "snakemake -n", run)
    first = image("team/app:1").digest
    name = work.named("team/app:1")
    ask = f"snakemake rollback --cores 1 --config image={name}"
    yield (
        "rollback",
        session(
            work,
            ask,
            f"{ask} digest={first}",
            run,
            f"snakemake unpin --cores 1 --config image={name}",
        ),
    )

    broken = image("broken")
    work.push("team/app:3", broken)
    assert work.registry
    work.registry.store.blob_path(broken.layers[0].digest).unlink()
    work.wish("{host}/team/app:*", "{host}/team/tools:2024", "{host}/team/gone:1")
    yield "failing-run", session(work, run)
    plain = {"platforms": [str(AMD64)], "products": ["layers", "flat"]}
    work.configure(**plain, retry={})
    yield "held", session(work, run, "snakemake -n", run, f"{run} --config retry_failed=true")
    work.configure(**plain)
    yield "mistake", session(work, "snakemake --cores 2 --config scope=everything")

    work.wish("{host}/team/app:1", "{host}/team/app:2")
    yield "prune", session(work, run, "snakemake prune -n", "snakemake prune --cores 1")
    yield "gc-too-early", session(work, "snakemake gc --cores 1")
    yield "gc", session(days_later(work, 31), "snakemake gc -n", "snakemake gc --cores 1")

    for number in range(4, 7):
        work.push(f"team/more:{number}", image(str(number)))
    work.wish("{host}/team/app:*", "{host}/team/more:*", ignoreErrors=["*/team/app:3"])
    work.run(check=True)
    work.wish("{host}/team/app:1")
    schedule = "--config 'removal={policy: schedule}'"
    yield "too-many-leave", session(work, f"{run} {schedule}", "snakemake prune --cores 1")


TROUBLES = (
    "registry-down",
    "no-credentials",
    "second-run",
    "control-c",
    "control-c-early",
    "output-full",
    "transaction-open",
    "push-refused",
)


@contextmanager
def _held_run(work: Work, pattern: str = "") -> Iterator[subprocess.Popen[str]]:
    """A run that waits for an answer, to what downloads a layer by default, while in the block."""
    held = Held()
    assert isinstance(work.registry, FaultyRegistry)
    [layer] = image("team/app:1").layers
    work.registry.break_next(pattern or f"^GET .*/blobs/{layer.digest}", held)
    process = subprocess.Popen(
        work.command(),
        cwd=work.path,
        env=work.env(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=hear_interrupts,
    )
    try:
        assert held.reached.wait(60)
        yield process
    finally:
        held.released.set()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Work]:
    """One image that is wished for, and a registry that answers as one says."""
    with fresh_work(tmp_path, FaultyRegistry) as work:
        work.push("team/app:1", image("team/app:1"))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat"])
        yield work


def test_a_registry_that_is_down(one: Work) -> None:
    run = "snakemake --cores 2"
    one.run(check=True)
    one.wish("{host}/team/app:1", "{host}/team/app:2")
    one.configure(
        platforms=[str(AMD64)],
        products=["layers", "flat"],
    )
    with one.deserted():
        expected.check("registry-down", session(one, run))


def test_an_image_that_needs_credentials(tmp_path: Path) -> None:
    with fresh_work(tmp_path, PrivateRegistry) as work:
        assert work.registry
        add_image(work.registry.store, "private/app", "1")
        work.wish("{host}/private/app:1")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat"])
        expected.check("no-credentials", session(work, "snakemake --cores 2"))


def test_a_second_run_while_one_runs(one: Work) -> None:
    with _held_run(one):
        expected.check("second-run", session(one, "snakemake --cores 2", "snakemake -n"))


@pytest.mark.parametrize(
    ("name", "pattern", "when"),
    [
        ("control-c", "", "while a layer is fetched"),
        ("control-c-early", "^GET .*/manifests/", "while registries are asked"),
    ],
)
def test_control_c(one: Work, name: str, pattern: str, when: str) -> None:
    with _held_run(one, pattern) as process:
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=60)
    command = f"$ snakemake --cores 2  # and Control-C {when}"
    text = f"{command}\n{said}(status {process.returncode})"
    expected.check(name, expected.normalised(text, {one.checkout: "CHECKOUT"}))


def test_an_output_that_is_full(one: Work) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            one.command("-n"),
            cwd=one.path,
            env=one.env(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    text = f"$ snakemake -n >/dev/full\n{done.stderr}(status {done.returncode})"
    expected.check("output-full", expected.normalised(text, {one.checkout: "CHECKOUT"}))


def test_a_transaction_of_somebody_else(one: Work) -> None:
    cvmfs = StandIn(one.path / "standin").make()
    cvmfs.server("transaction", cvmfs.name)
    one.wish("{host}/team/app:1", cvmfs_repo=cvmfs.name)
    backend = {"mounts": str(cvmfs.mounts), "server_config": str(cvmfs.server_config)}
    one.configure(
        platforms=[str(AMD64)],
        products=["layers", "flat"],
        repository={"backend": "cvmfs", "lock_seconds": 1, **backend},
    )
    work = replace(one, environment=cvmfs.environment)
    expected.check("transaction-open", session(work, "snakemake --cores 2"))


def _deny(handler: FaultyHandler, answer: Answer) -> None:
    handler.refuse(403, "DENIED", "requested access to the resource is denied")


def test_a_thin_image_that_the_registry_refuses(one: Work) -> None:
    assert isinstance(one.registry, FaultyRegistry)
    one.configure(
        platforms=[str(AMD64)], products=["layers", "flat", "thin"], thin={"push": "always"}
    )
    one.registry.break_next("^POST .*/blobs/uploads/", _deny, times=9)
    expected.check("push-refused", session(one, "snakemake --cores 2"))


@pytest.mark.parametrize(
    "name",
    [
        "first-run",
        "nothing-to-do",
        "moved-tag",
        "rollback",
        "failing-run",
        "held",
        "mistake",
        "prune",
        "gc-too-early",
        "gc",
        "too-many-leave",
    ],
)
def test_a_session_looks_as_it_is_kept(sessions: dict[str, str], name: str) -> None:
    expected.check(name, sessions[name])


def test_every_text_that_is_kept_is_one_of_a_session(sessions: dict[str, str]) -> None:
    kept = {path.stem for path in expected.EXPECTED.iterdir()}
    assert kept == {*sessions, "demo", *TROUBLES}


def test_the_demo_looks_as_it_is_kept(tmp_path: Path) -> None:
    checkout = checkout_copy(tmp_path / "checkout")
    done = subprocess.run(
        [sys.executable, str(checkout / "scripts/demo.py")],
        cwd=tmp_path,
        env=without_proxies(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    text = expected.normalised(done.stdout, {checkout: "CHECKOUT"})
    story, _, program = text.partition("=== Run demo/hello:latest")
    assert "Hello from 1.1" in program or "It cannot be run here" in program
    expected.check("demo", story + "=== What next" + program.partition("=== What next")[2])
