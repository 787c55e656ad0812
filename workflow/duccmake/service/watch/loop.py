"""The watcher's loop: wait, run, judge, and again; until somebody says stop."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from ...config.configuration import Config
from ...errors import DuccmakeError, RepositoryLocked
from ...fs.locks import held
from ...workspace.event_log import EventLog
from ...workspace.results import WATCH_LOCK
from ..heartbeat import BEAT_SECONDS, Heartbeat, clear
from ..invocation import Invocation
from ..notices import Notice, NoticeQueue
from ..systemd import Service
from .child import Child, clear_stale_lock
from .options import check
from .schedule import Ending, Pace
from .wakers import watch_files

logger = logging.getLogger(__name__)

T = TypeVar("T")

MAX_CHOSEN = 100
"""A run that is asked for more images than these asks for all."""

_SETTLE_SECONDS = 0.05
"""Notices come in swarms: so long the next ones are waited for."""

_BUSY_SECONDS = 1.0
_STOP_SECONDS = 0.5
_STOP_EXTENSION = 120.0


class Watcher:
    """Runs Snakemake as ``invocation`` says, one run at a time."""

    def __init__(self, invocation: Invocation, service: Service) -> None:
        self._invocation = invocation
        self._service = service
        self._config: Config = invocation.configuration()
        self._pace = Pace(self._config.watch.interval, self._config.watch.retry)
        self._queue = NoticeQueue(self._config.webhook.spool)
        self._woken = asyncio.Event()
        self._stopping = False
        self._stop_watching = asyncio.Event()
        self._step: asyncio.Task[Any] | None = None
        self._child: Child | None = None
        self._last = "no run yet"
        self._failed = False
        self._began = 0.0

    async def run(self) -> int:
        """Watch until SIGTERM or SIGINT; returns the exit status.

        Raises `CommandLineError` where Snakemake's options are wrong.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._reload)
        await self._unless_stopped(check(self._invocation))
        self._queue.prepare()
        background = [asyncio.create_task(self._watch_files()), asyncio.create_task(self._beat())]
        if self._service.watchdog_seconds:
            background.append(asyncio.create_task(self._be_alive()))
        self._service.ready("started")
        logger.info("watching, with a poll every %g s", self._config.watch.interval)
        try:
            while not self._stopping:
                await self._turn()
        finally:
            self._stop_watching.set()
            for task in background:
                task.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            clear(self._invocation.directory)
        logger.info("stopped")
        return 0

    # --- one turn -------------------------------------------------------

    async def _turn(self) -> None:
        """Wait for a reason to run, and run."""
        now = time.monotonic()
        waiting = self._queue.waiting() > 0
        start = min(self._pace.due, self._pace.earliest) if waiting else self._pace.due
        if start > now:
            self._service.status(
                f"waiting; next poll in {self._pace.due - now:.0f} s; {self._last}"
            )
            self._woken.clear()
            if self._queue.waiting() > 0 and not waiting:
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), start - now)
            return
        if not await self._unless_stopped(clear_stale_lock(self._invocation)):
            self._service.status("waiting for a run that somebody else started")
            await self._pause(_BUSY_SECONDS)
            return
        if waiting:
            await self._pause(_SETTLE_SECONDS)
        if not self._stopping:
            await self._run(whole=self._pace.due <= now)

    async def _run(self, *, whole: bool) -> None:
        self._pace.begun()
        notices = self._queue.take()
        chosen = sorted({notice.image for notice in notices})
        # Whether an image leaves is for a poll of all to say.
        leaving = any(notice.action == "delete" for notice in notices)
        whole = whole or leaving or not chosen or "" in chosen or len(chosen) > MAX_CHOSEN
        self._service.status(f"running for {'all images' if whole else ', '.join(chosen)[:200]}")
        with self._told(whole, notices) as outcomes:
            self._began = time.time()
            self._child = await Child.start(
                self._invocation, () if whole else chosen, events=self._config.events
            )
            self._leave_heartbeat()
            if self._stopping:
                self._child.stop()
            ended = asyncio.create_task(self._child.outcome())
            while not ended.done():
                await asyncio.wait([ended], timeout=_STOP_SECONDS if self._stopping else None)
                if self._stopping and not ended.done():
                    self._service.stopping("finishing what is in hand", _STOP_EXTENSION)
                    self._child.stop()
            outcome = ended.result()
            self._child = None
            outcomes.append(outcome)
        if self._stopping:
            return
        self._pace.ended(outcome, whole=whole)
        self._last, self._failed = _words(outcome), not outcome.completed
        if outcome.completed:
            self._queue.drop(notices)
        else:
            pause = max(0.0, self._pace.earliest - time.monotonic())
            logger.error("%s; trying again in %.0f s", outcome.error, pause)
        self._leave_heartbeat()

    @contextmanager
    def _told(self, whole: bool, notices: Sequence[Notice]) -> Iterator[list[Ending]]:
        """Enter a poll into the event log; the block appends its outcome."""
        outcomes: list[Ending] = []
        log = EventLog(self._config.events)
        with log.span("poll", scope="all" if whole else "some", notices=len(notices)) as span:
            yield outcomes
            for outcome in outcomes:
                span.members["completed"] = outcome.completed
                span.members["reason"] = outcome.error or None
                span.members["failed_images"] = len(outcome.failed)

    # --- what others ask for --------------------------------------------

    def _stop(self) -> None:
        if self._stopping and self._child is not None:
            logger.warning("told to stop again: ending at once all but what is being published")
            self._child.kill()
            return
        self._stopping = True
        logger.info("told to stop%s", "; finishing what is in hand" if self._child else "")
        self._service.stopping("stopping", _STOP_EXTENSION)
        if self._step is not None:
            self._step.cancel()
        if self._child is not None:
            self._child.stop()
        self._woken.set()
        self._stop_watching.set()

    def _reload(self) -> None:
        self._service.reloading()
        try:
            self._config = self._invocation.configuration()
        except DuccmakeError as error:
            logger.error("the configuration stays as it was: %s", error)
        else:
            logger.info("read the configuration again")
            self._pace.interval = self._config.watch.interval
            self._pace.retry = self._config.watch.retry
            self._queue = NoticeQueue(self._config.webhook.spool)
            self._queue.prepare()
            self._pace.changed()
            self._stop_watching.set()
        self._service.ready("read the configuration again")
        self._woken.set()

    def _changed(self) -> None:
        self._pace.changed()
        self._woken.set()

    # --- in the background ----------------------------------------------

    async def _watch_files(self) -> None:
        """Watch files; from the beginning again where the configuration was read again."""
        while not self._stopping:
            self._stop_watching = asyncio.Event()
            files = [source.path for source in self._config.recipe if not source.is_remote]
            try:
                await watch_files(
                    files,
                    self._queue.new,
                    changed=self._changed,
                    noticed=self._woken.set,
                    stop=self._stop_watching,
                )
            except (OSError, RuntimeError) as error:
                logger.warning("files cannot be watched (%s): polling alone", error)
                return

    async def _beat(self) -> None:
        while True:
            self._leave_heartbeat()
            await asyncio.sleep(BEAT_SECONDS)

    def _leave_heartbeat(self) -> None:
        """Say on the disk how we are; a disk that is full is told of by the run."""
        child = self._child
        now = time.time()
        beat = Heartbeat(
            pid=os.getpid(),
            beat=round(now, 3),
            next_poll=round(now + max(0.0, self._pace.due - time.monotonic()), 3),
            last=self._last,
            failed=self._failed,
            run=child.pid if child else 0,
            began=round(self._began, 3) if child else 0.0,
            jobs=tuple(child.jobs()) if child else (),
        )
        with suppress(OSError):
            beat.save(self._invocation.directory)

    async def _be_alive(self) -> None:
        while True:
            self._service.alive()
            await asyncio.sleep(self._service.watchdog_seconds / 3)

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T | None:
        """What some work comes to; None where it was cut off to stop."""
        self._step = asyncio.create_task(work)
        await asyncio.wait([self._step])
        return None if self._step.cancelled() else self._step.result()

    async def _pause(self, seconds: float) -> None:
        """Sleep, but not once told to stop."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            await asyncio.sleep(min(left, _STOP_SECONDS))


def _words(outcome: Ending) -> str:
    if not outcome.completed:
        return f"the last run failed as a whole: {outcome.error}"
    if outcome.failed:
        return f"the last run left {len(outcome.failed)} images for later"
    return "the last run was good"


@contextmanager
def only_watcher(directory: Path) -> Iterator[None]:
    """Hold the working directory against other watchers; `RepositoryLocked` if there is one."""
    path = directory / WATCH_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with held(path, 0):
            yield
    except RepositoryLocked as error:
        raise RepositoryLocked(
            f"another watcher runs here: {error.found}", hint=error.hint
        ) from None
