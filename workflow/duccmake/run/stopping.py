"""Being told to stop: no new job, what can be repeated is cut off, what is written is finished."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from types import FrameType
from typing import TYPE_CHECKING

from ..workspace.reports import Rule

if TYPE_CHECKING:
    import psutil

_AGAIN_SECONDS = 0.5
"""So often what has been started meanwhile is looked for."""


def exit_on_sigterm() -> None:
    """Have SIGTERM end this process as an exception does, so that Snakemake takes its lock away."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def stop_on_signals(stop: Callable[[], None], cancel: Callable[[], None]) -> None:
    """Have SIGTERM call ``stop``, cut off the jobs below this process and ``cancel`` all others.

    Control-C is noted.

    In a thread: a handler runs within whatever it interrupts, and what that holds, such as
    the lock of Snakemake's scheduler while something is removed, it would wait for for ever.
    """
    told: SimpleQueue[None] = SimpleQueue()  # which may be put to inside of a handler

    def heed() -> None:
        told.get()
        stop()
        import psutil  # slow to import

        while True:
            cut_off(psutil.Process().children(recursive=True))
            cancel()
            time.sleep(_AGAIN_SECONDS)

    def on_sigterm(number: int, frame: FrameType | None) -> None:
        _told.add(number)
        told.put(None)

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        _told.add(number)
        signal.default_int_handler(number, frame)

    threading.Thread(target=heed, name="heed SIGTERM", daemon=True).start()
    signal.signal(signal.SIGTERM, on_sigterm)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, on_interrupt)


_told: set[int] = set()


def is_told_to_stop() -> bool:
    """Whether a signal has come, since `stop_on_signals`, that ends a run."""
    return bool(_told)


def cut_off(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Tell those of the processes that are jobs of the workflow to end; returns them.

    One that writes to a repository finishes that first, as it knows by itself.
    """
    import psutil

    jobs = []
    for process in processes:
        with suppress(psutil.Error):
            if rule_of(process.cmdline()) is not None:
                process.terminate()
                jobs.append(process)
    return jobs


def rule_of(command: Sequence[str]) -> Rule | None:
    """The rule whose job a process is, or stands for, by the script that it runs."""
    for place, word in enumerate(command[1:3], 2):
        path = Path(word)
        if path.suffix == ".py" and path.parent.name == "scripts":
            name = path.stem if path.stem != "job" else "".join(command[place : place + 1])
            return Rule(name) if name in set(Rule) else None
    return None


def is_server(command: Sequence[str]) -> bool:
    """Whether a process forks jobs or was forked as one; it ends with those who stand for them."""
    return "duccmake.jobs.server" in command[:3]
