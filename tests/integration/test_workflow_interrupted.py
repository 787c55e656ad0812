"""Interrupted runs go on where they were: nothing whole is redone, nothing half taken for whole."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from duccmake.demo.images import Image
from duccmake.workspace.run_lock import hold
from support.crashes import leftovers
from support.faulty_registry import FaultyRegistry, Held, status
from support.images import Layer, LayerBuilder
from support.runs import REPOSITORY, Started, Work, fresh_work
from support.samples import AMD64, slow_layer

T = TypeVar("T")


@pytest.fixture(scope="module")
def lower() -> Layer:
    return LayerBuilder().dir("etc").file("etc/lower", "lower\n").layer()


@pytest.fixture(scope="module")
def upper() -> Layer:
    return slow_layer("upper", 3000)


@pytest.fixture
def work(tmp_path: Path, lower: Layer, upper: Layer) -> Iterator[Work]:
    with fresh_work(tmp_path, FaultyRegistry) as work:
        work.push("team/app:1", Image((lower, upper), {}, platform=AMD64))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        yield work


@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGINT])
def test_a_run_stopped_in_a_download_goes_on_there_and_keeps_what_is_staged(
    work: Work, lower: Layer, upper: Layer, by: signal.Signals
):
    held = Held()
    assert isinstance(work.registry, FaultyRegistry)
    work.registry.break_next(f"^GET .*{upper.digest.hex}", held)
    staged = work.path / "results" / REPOSITORY / "layers" / lower.digest.short
    with work.started("-p") as started:
        started.read_until(
            lambda line: f"Removing temporary output results/blobs/{lower.digest.short}" in line
        )
        assert held.reached.wait(60)
        part = _wait(started, lambda: next((work.path / "results/blobs").glob("*.part"), None))
        _wait(started, lambda: part.stat().st_size or None)
        before = (staged / "layer/layerfs/etc/lower").stat()
        assert started.stop(by) != 0
    held.released.set()
    assert (staged / "layer/layerfs/etc/lower").is_file()
    assert not (work.path / "results/blobs" / upper.digest.short).exists()
    assert list(work.repository.names()) == []

    if by == signal.SIGKILL:
        refused = work.run()
        assert refused.status != 0
        assert "--unlock" in refused.stderr
        work.run("--unlock", check=True)
    run = work.run(check=True)
    assert run.blobs() == [str(upper.digest)]
    [request] = [request for request in run.requests if upper.digest.hex in request.path]
    assert request.range.startswith("bytes=") and not request.range.startswith("bytes=0-")
    after = (work.repository.path / f".layers/{lower.digest.prefix}/{lower.digest.hex}").glob(
        "layerfs/etc/lower"
    )
    assert [(path.stat().st_ino, path.stat().st_mtime_ns) for path in after] == [
        (before.st_ino, before.st_mtime_ns)
    ]
    assert run.outcomes[work.named("team/app:1")][0] == "converted"
    assert work.repository.verify(work.named("team/app:1")) == []


def test_a_run_killed_while_it_unpacks_and_while_it_publishes_ends_in_a_whole_image(
    work: Work, upper: Layer
):
    staged = work.path / "results" / REPOSITORY / "layers" / upper.digest.short
    journal = work.repository.path / ".duccmake/journal.json"
    for moment in (staged, journal):
        with work.started() as started:
            _wait(started, lambda moment=moment: moment.exists() or None)
            started.stop(signal.SIGKILL)
        # Readers see an image whole or not at all.
        assert work.repository.verify(work.named("team/app:1")) in (
            [f"{work.named('team/app:1')} is not published, or not wholly"],
            [],
        )
        work.run("--unlock", check=True)
    work.run(check=True)
    assert work.repository.verify(work.named("team/app:1")) == []
    tree = work.repository.path / work.named("team/app:1")
    assert len(list((tree / "opt").iterdir())) == 3000
    assert leftovers(work.repository.path) == []


def test_what_an_interrupted_run_staged_goes_with_the_next_though_that_has_nothing_to_do(
    work: Work, lower: Layer, upper: Layer
):
    assert isinstance(work.registry, FaultyRegistry)
    work.registry.break_next(f"^GET .*{upper.digest.hex}", status(404), 99)
    assert work.run().status == 1
    staged = work.path / "results" / REPOSITORY / "layers"
    assert [path.name for path in staged.iterdir()] == [lower.digest.short]
    work.wish()
    work.run("-n", check=True)
    assert list(staged.iterdir()), "a dry run removes nothing"
    with hold(work.path):
        work.run(check=True)
        assert list(staged.iterdir()), "nor does a run where another may use it"
    work.run(check=True)
    assert list(staged.iterdir()) == []


def test_what_was_staged_by_a_clock_that_was_ahead_is_used_when_that_is_right_again(
    work: Work, lower: Layer, upper: Layer
):
    assert isinstance(work.registry, FaultyRegistry)
    work.registry.break_next(f"^GET .*{upper.digest.hex}", status(404), 99)
    assert work.run().status == 1
    later = time.time() + 365 * 86400
    for path in (work.path / "results").glob("*/layers/*/**/.snakemake_timestamp"):
        os.utime(path, (later, later))
        os.utime(path.parent, (later, later))
    work.registry.forgive()
    run = work.run(check=True)
    assert run.blobs() == [str(upper.digest)]
    assert work.repository.verify(work.named("team/app:1")) == []


REMOVING = """
import os, shutil, signal
remove = shutil.rmtree
def rmtree(path, *more, **options):
    if f"{os.sep}layers{os.sep}" in str(path) and os.environ.get("TESTS_TOLD_IN_REMOVAL"):
        del os.environ["TESTS_TOLD_IN_REMOVAL"]
        os.kill(os.getpid(), signal.SIGTERM)
    remove(path, *more, **options)
shutil.rmtree = rmtree
"""


def test_sigterm_ends_snakemake_also_while_it_removes_what_it_staged(work: Work, tmp_path: Path):
    (tmp_path / "custom").mkdir()
    (tmp_path / "custom/sitecustomize.py").write_text(REMOVING)
    work.push("team/next:1", Image((LayerBuilder().dir("next").layer(),), {}, platform=AMD64))
    work.wish("{host}/team/app:1", "{host}/team/next:1")
    work.environment = {
        "PYTHONPATH": str(tmp_path / "custom"),
        "TESTS_TOLD_IN_REMOVAL": "yes",
    }
    # Its scheduler holds a lock meanwhile, for which its own handler would wait.
    run = work.run("--cores", "1")
    assert run.status == 1
    assert "Will exit after finishing currently running jobs" in run.said
    work.environment = {}
    work.run(check=True)
    for name in ("team/app:1", "team/next:1"):
        assert work.repository.verify(work.named(name)) == []


def _wait(started: Started, found: Callable[[], T | None]) -> T:
    """What is found, as soon as it is; the run must not end before."""
    while (result := found()) is None:
        assert started.running, "the run ended too early"
        time.sleep(0.002)
    return result
