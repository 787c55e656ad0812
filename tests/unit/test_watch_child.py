"""How the watcher calls Snakemake, and what it makes of its end."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest
import yaml

from duccmake.errors import ConfigError
from duccmake.run.status import Outcome, Status
from duccmake.service.invocation import Invocation
from duccmake.service.watch import child
from duccmake.service.watch.child import CHECKOUT, Child, command
from duccmake.service.watch.schedule import Ending
from duccmake.workspace.event_log import EventSettings
from duccmake.workspace.reports import WRITERS, Rule
from duccmake.workspace.results import STATUS
from duccmake.workspace.run_lock import hold, is_alone, nobody_runs


def invocation(*arguments: str) -> Invocation:
    return Invocation.parse(arguments, program="watch.py", description="")


async def started(directory: Path) -> Child:
    events = EventSettings(directory / "events.jsonl")
    return await Child.start(invocation("-d", str(directory)), events=events)


def test_options_of_snakemake_are_handed_on():
    words = command(
        invocation("--cores", "4", "-d", "/work", "--configfile", "/etc/a.yaml", "--quiet")
    )
    assert words == [
        sys.executable, "-m", "snakemake", "--directory", "/work",
        "--snakefile", f"{CHECKOUT}/Snakefile", "--cores", "4", "--quiet",
        "--configfile", "/etc/a.yaml",
    ]  # fmt: skip
    assert command(invocation("-s", "/other/Snakefile"))[5:] == ["-s", "/other/Snakefile"]


def test_chosen_images_join_the_operators_own_values():
    found = command(
        invocation("--config", "scope=all", "resolve={max_age: 5}", "--cores", "1"),
        ["r.example.org/a:1", "r.example.org/b:*", "r.example.org/c@sha256:ab"],
    )
    at = found.index("--config")
    assert found[at + 1] == "scope=all"
    [name, text] = found[at + 2].split("=", 1)
    assert name == "resolve" and "\n" not in text
    assert yaml.safe_load(text) == {
        "max_age": 5,
        "only": ["r.example.org/a:1", "r.example.org/b:*", "r.example.org/c@sha256:ab"],
    }
    assert len(found) == at + 3


def test_the_configuration_is_put_together_as_snakemake_does_it(tmp_path: Path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("watch: {interval: 5, retry: 2}\nscope: all\n")
    (tmp_path / "site.yaml").write_text("watch: {interval: 7}\n")
    call = invocation(
        "-d",
        str(tmp_path),
        "--configfile",
        str(tmp_path / "site.yaml"),
        "--config",
        "scope=pending",
    )
    found = call.configuration()
    assert (found.watch.interval, found.watch.retry, found.scope) == (7, 2, "pending")


@pytest.mark.parametrize("content", ["[1]", "a: [", None])
def test_a_configuration_that_cannot_be_read_is_told(tmp_path: Path, content: str | None):
    path = tmp_path / "site.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=r"site\.yaml"):
        invocation("-d", str(tmp_path), "--configfile", str(path)).configuration()


UNTOLD = (
    "run: Snakemake {}, and did not say what became of its images; "
    "what it printed stands in the watcher's log"
)


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("pass", Ending(True)),
        ("import sys; sys.exit(1)", Ending(False, error=UNTOLD.format('ended with status 1'))),
        ("os.kill(os.getpid(), 9)", Ending(False, error=UNTOLD.format('was killed by SIGKILL'))),
        ("save({'a:1': ('failed', 'x'), 'b:1': ('converted', '')}, ('c:1',)); sys.exit(1)",
         Ending(True, frozenset({"a:1", "c:1"}))),
        ("save({}, ()); sys.exit(0)", Ending(True)),
        ("save({}, (), pid=1); sys.exit(1)",
         Ending(False, error=UNTOLD.format("ended with status 1"))),
        ("of_failure(DuccmakeError('broken'), 1).save(Path.cwd()); sys.exit(1)",
         Ending(False, error="broken")),
    ],
)  # fmt: skip
def test_a_run_is_judged_by_what_it_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, wanted: Ending
):
    code = f"""
import os, sys
sys.path.insert(0, {str(CHECKOUT / "workflow")!r})
from pathlib import Path
from duccmake.errors import DuccmakeError
from duccmake.run.status import Status, of_failure
def save(images, stale, pid=0):
    Status(pid or os.getpid(), "r", 0, 0, {{}}, images, stale, (), ()).save(Path.cwd())
{script}
"""
    monkeypatch.setattr(child, "command", lambda *_: [sys.executable, "-c", code])

    async def run() -> Ending:
        return await (await started(tmp_path)).outcome()

    assert asyncio.run(run()) == wanted


def test_a_status_survives_its_file(tmp_path: Path):
    status = Status(
        7, "r", 1.5, 2.5, {"failed": 1}, {"a:1": (Outcome.FAILED, "x")}, ("b:1",), ("c",), ()
    )
    status.save(tmp_path)
    found = Status.load(tmp_path)
    assert found is not None and found.failed == {"a:1"} and found.pid == 7
    (tmp_path / STATUS).write_text("{")
    assert Status.load(tmp_path) is None


def test_who_stays_is_seen_from_outside(tmp_path: Path):
    with nobody_runs(tmp_path) as alone:
        assert alone
    with hold(tmp_path), nobody_runs(tmp_path) as alone:
        assert not alone
    with nobody_runs(tmp_path) as alone:
        assert alone


def test_who_runs_alone_can_tell(tmp_path: Path):
    with hold(tmp_path) as ours:
        assert is_alone(ours)
        with nobody_runs(tmp_path) as alone:
            assert not alone
    with hold(tmp_path) as ours, hold(tmp_path):
        assert not is_alone(ours)


DEAF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
job = subprocess.Popen([sys.executable, sys.argv[1], *sys.argv[2:]]) if sys.argv[1:] else None
print("ready", flush=True)
while True:
    time.sleep(1)
"""
DYING = """
import os, signal, subprocess, sys
subprocess.Popen([sys.executable, *sys.argv[1:]])
with open(sys.argv[2]) as begun:
    begun.read()
os.kill(os.getpid(), signal.SIGKILL)
"""
WAITING = """
import signal, subprocess, sys
signal.signal(signal.SIGTERM, lambda *_: None)
sys.exit(subprocess.Popen([sys.executable, *sys.argv[1:]]).wait())
"""
JOB = """
import signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1], "w").close()
open(sys.argv[2]).read()
"""


def with_job(base: Path, rule: Rule, snakemake: str, job: str) -> tuple[list[str], Path, Path]:
    """A command in Snakemake's place that runs a rule's job, and the job's two pipes.

    What opens the one knows that the job has begun; it ends when something opens the other.
    """
    script = base / "scripts" / f"{rule}.py"
    script.parent.mkdir()
    script.write_text(job)
    begun, may_end = base / "begun", base / "may_end"
    os.mkfifo(begun)
    os.mkfifo(may_end)
    return [sys.executable, "-c", snakemake, *map(str, (script, begun, may_end))], begun, may_end


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(child, "_PATIENCE_SECONDS", 0.0)


async def stopped(process: Child) -> None:
    """Stop it as the watcher does, until it has ended."""
    ended = asyncio.ensure_future(process.outcome())
    while not ended.done():
        process.stop()
        await asyncio.wait([ended], timeout=0.05)


def test_snakemake_that_is_deaf_is_killed_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None
):
    monkeypatch.setattr(child, "command", lambda *_: [sys.executable, "-c", DEAF])

    async def run() -> None:
        await stopped(await started(tmp_path))

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("rule", sorted(WRITERS))
def test_it_is_never_killed_while_a_job_writes_to_a_repository(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, impatient: None, rule: Rule
):
    command, begun, may_end = with_job(tmp_path, rule, DEAF, JOB)
    monkeypatch.setattr(child, "command", lambda *_: command)

    async def run() -> None:
        process = await started(tmp_path)
        await asyncio.to_thread(begun.read_bytes)
        stopping = asyncio.ensure_future(stopped(process))
        # It is asked many times while the job writes.
        for _ in range(20):
            await asyncio.wait([stopping], timeout=0.05)
        assert not stopping.done()
        await asyncio.to_thread(may_end.write_bytes, b"x")
        await stopping

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("rule", sorted(set(Rule) - WRITERS))
def test_what_can_be_repeated_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Rule
):
    monkeypatch.setattr(child, "_PATIENCE_SECONDS", float("inf"))
    heeding = JOB.replace("signal.signal", "print")
    command, begun, _ = with_job(tmp_path, rule, WAITING, heeding)
    monkeypatch.setattr(child, "command", lambda *_: command)

    async def run() -> None:
        process = await started(tmp_path)
        await asyncio.to_thread(begun.read_bytes)
        await stopped(process)

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("rule", sorted(Rule))
def test_jobs_that_outlive_snakemake_are_cut_off_and_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Rule
):
    job = JOB if rule in WRITERS else JOB.replace("signal.signal", "print")
    command, _, may_end = with_job(tmp_path, rule, DYING, job)
    monkeypatch.setattr(child, "command", lambda *_: command)

    async def run() -> None:
        process = await started(tmp_path)
        ended = asyncio.ensure_future(process.outcome())
        if rule in WRITERS:
            await asyncio.wait([ended], timeout=1)
            assert not ended.done()
            await asyncio.to_thread(may_end.write_bytes, b"x")
        assert not (await ended).completed

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize("rule", sorted(WRITERS))
def test_told_twice_to_stop_it_ends_all_but_what_writes_and_what_that_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rule: Rule
):
    # What it has started may be cvmfs_server, without which it gets nowhere.
    starting = JOB.replace(
        "open(sys.argv[2]).read()",
        "import subprocess; sys.exit(subprocess.run(['cat', sys.argv[2]]).returncode or "
        "open(sys.argv[3], 'w').close())",
    )
    command, begun, may_end = with_job(tmp_path, rule, DEAF, starting)
    finished = tmp_path / "finished"
    monkeypatch.setattr(child, "command", lambda *_: [*command, str(finished)])

    async def run() -> None:
        process = await started(tmp_path)
        await asyncio.to_thread(begun.read_bytes)
        ended = asyncio.ensure_future(process.outcome())
        process.stop()
        process.kill()
        await process._process.wait()
        assert not ended.done()
        await asyncio.to_thread(may_end.write_bytes, b"x")
        await ended

    asyncio.run(asyncio.wait_for(run(), 60))
    assert finished.exists()
