"""A run that goes through many images in parts, each a Snakemake of its own in one process.

Its DAG, and what it keeps in memory, would else grow with all that is pending.  When the jobs of
a part have ended, and Snakemake has tidied up, the process begins again with the same command
line; what it has to know then is in an environment variable.  Nobody who watches the process,
signals it or waits for it notices.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import weakref
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

VARIABLE = "DUCCMAKE_PART"

_SIGNALS = frozenset({signal.SIGINT, signal.SIGTERM})


@dataclass(frozen=True, slots=True)
class Begun:
    """What the process ``pid`` knows of its run: the plan, and the next part's ``number``.

    ``began`` and ``seen`` are as `Session` has them; ``has_failed`` says whether something did.
    """

    pid: int
    plan_file: str
    run: str
    began: float
    seen: float
    number: int
    has_failed: bool


def begun() -> Begun | None:
    """The run that this process has begun before, if it has: asked once."""
    found = os.environ.pop(VARIABLE, "")
    if not found:
        return None
    run = Begun(**json.loads(found))
    return run if run.pid == os.getpid() else None


def heed_signals() -> None:
    """Hear again of what this process was told while it began anew."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def begin_anew(run: Begun, is_stopped: Callable[[], bool], end: Callable[[], object]) -> None:
    """Go on with the next part, in place of ending; unless told to stop, which ``end`` tells of.

    To be called when Python exits.  What is told from here on, the next part hears.
    """
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if not is_stopped():
            os.environ[VARIABLE] = json.dumps(asdict(run))
            _tidy_up()
            os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    finally:
        os.environ.pop(VARIABLE, None)
        heed_signals()
        end()


def end_failed() -> NoReturn:
    """End the process as a failure, whatever Snakemake has made of it: when Python exits."""
    _tidy_up()
    os._exit(1)


def _tidy_up() -> None:
    """What Python does last of all when it exits, such as to remove temporary directories."""
    weakref.finalize._exitfunc()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()


def takes_all(arguments: Sequence[str]) -> bool:
    """Whether a run has one part: files that a command line names are in no part for sure.

    Nor is there a command line to begin anew with where a program runs Snakemake by itself.
    """
    is_command = "snakemake" in Path(sys.argv[0]).parts[-2:]
    return not is_command or any(Path(word).parts[:1] == ("results",) for word in arguments)
