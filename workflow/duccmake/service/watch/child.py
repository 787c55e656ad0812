"""One run of Snakemake as a child process: started, judged, and stopped with care."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from ...errors import DuccmakeError
from ...run.events import note_failure
from ...run.status import Status, of_failure
from ...run.stopping import cut_off, is_server, rule_of
from ...workspace import run_lock
from ...workspace.event_log import EventSettings
from ...workspace.reports import WRITERS
from ..invocation import Invocation
from .schedule import Ending

logger = logging.getLogger(__name__)

CHECKOUT = Path(__file__).resolve().parents[4]

_LOCKS = Path(".snakemake/locks")
_LOGS = Path(".snakemake/log")
_KEPT_LOGS = 200

_PATIENCE_SECONDS = 10.0
"""So long Snakemake may take to end once no job runs that must not be cut off."""

_ORPHAN_SECONDS = 0.2
"""So often jobs are looked at whose Snakemake is dead."""


def command(invocation: Invocation, only: Sequence[str] = ()) -> list[str]:
    """Snakemake's command line; ``only`` are the images that the run shall ask for."""
    words = [sys.executable, "-m", "snakemake", "--directory", str(invocation.directory)]
    if not {"-s", "--snakefile"}.intersection(invocation.rest):
        words += ["--snakefile", str(CHECKOUT / "Snakefile")]
    words += invocation.rest
    if invocation.configfiles:
        words += ["--configfile", *map(str, invocation.configfiles)]
    if values := _values(invocation, only):
        words += ["--config", *values]
    return words


def _values(invocation: Invocation, only: Sequence[str]) -> list[str]:
    """The values for ``--config``, which knows each key once."""
    if not only:
        return list(invocation.values)
    resolve: dict[str, Any] = {}
    others = []
    for value in invocation.values:
        key, _, text = value.partition("=")
        if key == "resolve":
            resolve.update(yaml.safe_load(text))
        else:
            others.append(value)
    resolve["only"] = list(only)
    text = yaml.safe_dump(resolve, default_flow_style=True, width=10**9).strip()
    return [*others, f"resolve={text}"]


class Child:
    """A run of Snakemake under way, in a session of its own: signals reach it through us."""

    def __init__(
        self, process: asyncio.subprocess.Process, directory: Path, events: EventSettings
    ) -> None:
        self._process = process
        self._directory = directory
        self._events = events
        self._began = time.monotonic()
        self._told = -math.inf
        self._deadline = math.inf

    @classmethod
    async def start(
        cls, invocation: Invocation, only: Sequence[str] = (), *, events: EventSettings
    ) -> Child:
        """Start it; if it dies, that goes into the event log."""
        process = await asyncio.create_subprocess_exec(
            *command(invocation, only),
            cwd=invocation.directory,
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(process, invocation.directory, events)

    @property
    def pid(self) -> int:
        """Its process."""
        return self._process.pid

    def jobs(self) -> list[str]:
        """The jobs that run on this machine, each by its rule and what it is about."""
        found = set()
        for process in self._members():
            with suppress(psutil.Error):
                words = process.cmdline()
                if (rule := rule_of(words)) is not None:
                    # Its log is named by what the job is about: logs/RULE/....log
                    logs = [word for word in words if word.startswith(f"logs/{rule}/")]
                    about = "".join(logs[:1]).removeprefix(f"logs/{rule}/").removesuffix(".log")
                    found.add(f"{rule} {about}".rstrip())
        return sorted(found)

    async def outcome(self) -> Ending:
        """Wait for its end, and that of all its jobs, and say how it was."""
        status = await self._process.wait()
        # Who dies leaves its jobs behind, one of which may be publishing.
        while cut_off(self._members()) or self._servers(self._members()):
            await asyncio.sleep(_ORPHAN_SECONDS)
        _prune(self._directory / _LOGS)
        told = Status.load(self._directory)
        if told is None or told.pid != self._process.pid:
            return Ending(completed=True) if status == 0 else self._died(status)
        if told.error:
            return Ending(completed=False, error=told.error)
        return Ending(True, told.failed | frozenset(told.stale))

    def _died(self, status: int) -> Ending:
        """It has ended and said nothing: say that in its place, unless it was told to."""
        how = f"was killed by {_signal(-status)}" if status < 0 else f"ended with status {status}"
        error = DuccmakeError(
            f"Snakemake {how}, and did not say what became of its images",
            step="run",
            hint="what it printed stands in the watcher's log",
        )
        if self._told == -math.inf:
            with suppress(OSError):
                took = time.monotonic() - self._began
                of_failure(error, took, pid=self._process.pid).save(self._directory)
            note_failure(self._events, error, pid=self._process.pid)
        return Ending(completed=False, error=str(error))

    def stop(self) -> None:
        """Ask it to end: no new job, what can be repeated is cut off, a transaction is finished.

        Call it again until it has ended: Snakemake may be deaf, and is killed then, but
        never while a job writes to a repository.
        """
        now = time.monotonic()
        writing = self._writers(cut_off(self._members()))
        self._deadline = math.inf if writing else min(self._deadline, now + _PATIENCE_SECONDS)
        if now >= self._deadline:
            logger.warning("Snakemake does not end, and nothing is being published: killing it")
            self.kill()
        elif now >= self._told + _PATIENCE_SECONDS / 2:
            self._told = now
            with suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """End it at once, with all that it started, but for what writes to a repository.

        The next run mends what is half done.
        """
        members = list(self._members())
        spared = set()
        if writers := self._writers(members):
            # What a server forked for others ends with those who stand for it.
            for process in (*writers, *self._servers(members)):
                with suppress(psutil.Error):
                    spared |= {process, *process.children(recursive=True)}
        for process in members:
            if process not in spared:
                with suppress(psutil.Error):
                    process.kill()

    def _members(self) -> Iterator[psutil.Process]:
        """It and all that it started, also where that lost its parent."""
        for process in psutil.process_iter():
            with suppress(ProcessLookupError):
                if os.getsid(process.pid) == self._process.pid:
                    yield process

    def _writers(self, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
        """Jobs that write to a repository, or wait for it and have not heeded SIGTERM yet."""
        return _with(processes, lambda command: rule_of(command) in WRITERS)

    def _servers(self, processes: Iterable[psutil.Process]) -> list[psutil.Process]:
        """What forks jobs, as those that write."""
        return _with(processes, is_server)


def _with(
    processes: Iterable[psutil.Process], is_meant: Callable[[Sequence[str]], bool]
) -> list[psutil.Process]:
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if is_meant(process.cmdline()):
                found.append(process)
    return found


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _prune(logs: Path) -> None:
    """Remove all but the newest of the logs that Snakemake leaves of each run."""
    for path in sorted(logs.glob("*.snakemake.log"))[:-_KEPT_LOGS]:
        path.unlink(missing_ok=True)


async def clear_stale_lock(invocation: Invocation) -> bool:
    """Take away Snakemake's lock if whoever had it is dead; False if somebody runs.

    Can be cancelled.
    """
    if not any((invocation.directory / _LOCKS).glob("*")):
        return True
    with run_lock.nobody_runs(invocation.directory) as alone:
        if not alone:
            return False
        logger.warning("a run was killed: taking its lock away")
        unlock = await asyncio.create_subprocess_exec(
            *command(invocation),
            "--unlock",
            cwd=invocation.directory,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            await unlock.wait()
        except asyncio.CancelledError:
            unlock.kill()
            raise
    return True
