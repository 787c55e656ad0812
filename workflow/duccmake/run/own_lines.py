"""Which lines of Snakemake's people see: what it refuses, not what it does for us."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from pathlib import Path

from ..workspace.reports import Arrivals, Kind, Report, Rule
from .lines import say
from .progress import ProgressLine
from .session import is_full

_OTHER_CALLS = frozenset(
    {"--lint", "--unlock", "--list-rules", "--list", "-l", "--touch", "-t", "--archive"}
    | {"--delete-all-output", "--delete-temp-output", "--cleanup-metadata", "--cleanup-shadow"}
    | {"--report", "--list-target-rules", "--lt", "--containerize", "--conda-create-envs-only"}
)
"""Calls in which Snakemake does the work, so that its lines are the answer."""

_JOB_EVENTS = frozenset({"job_error", "group_error"})
_TOLD_ALREADY = (
    "Exiting because a job execution failed",
    "At least one job did not complete successfully",
    "CalledProcessError in file",
)
"""How errors begin that the summary says, and better."""

_INTERRUPTED = "Terminating processes on user request"
"""How the line begins after which jobs fail because somebody pressed Control-C."""

_WORTH_SAYING = (
    "Will exit after finishing",
    "Trying to restart",
    "Waiting at most",
    "Creating conda environment",
    "Environment for",
)
"""How other lines begin that are no errors, and that people want."""


def are_wanted(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for something that Snakemake itself answers."""
    return any(word.partition("=")[0] in _OTHER_CALLS for word in arguments)


class OwnLines(logging.Filter):
    """Lets through of Snakemake's log what people need; says failures in our words.

    Before `follow`, failures of jobs are said as Snakemake does.
    """

    def __init__(self) -> None:
        super().__init__()
        self._failures: Arrivals | None = None
        self._progress: ProgressLine | None = None
        self._told: set[str] = set()
        self._lines: set[str] = set()
        self._interrupted = False

    def follow(self, run: Path, progress: ProgressLine | None) -> None:
        """The jobs of a run begin, with a progress line if there is one."""
        self._failures = Arrivals(run, Kind.FAILED)
        self._failures.new()  # those of parts before are said
        self._progress = progress

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether Snakemake is to write a record itself."""
        if str(getattr(record, "event", "")) in _JOB_EVENTS:
            return not self._said(record)
        text = "" if record.msg is None else record.getMessage()
        if record.levelno >= logging.WARNING:
            return self._make_room(not any(told in text for told in _TOLD_ALREADY))
        self._interrupted |= text.startswith(_INTERRUPTED)
        return self._make_room(text.startswith((_INTERRUPTED, *_WORTH_SAYING)))

    def _make_room(self, is_shown: bool) -> bool:
        if is_shown and self._progress:
            with self._progress.aside():
                pass
        return is_shown

    def _said(self, record: logging.LogRecord) -> bool:
        """Say what failed, if the job has left word; one that was killed has not."""
        arrived = self._failures.new() if self._failures else []
        with self._progress.aside() if self._progress else nullcontext():
            say(*self._new(map(_in_words, arrived)), stream=sys.stderr)
        self._told.update(report.log for report in arrived)
        told = not self._told.isdisjoint(map(str, getattr(record, "log", ())))
        # Where there is no room for a report, the job says its line itself.
        return told or self._interrupted or is_full()

    def _new(self, lines: Iterable[str]) -> list[str]:
        """Those that were not said yet: a failure that is handed on is reported by each job."""
        new = [line for line in dict.fromkeys(lines) if line and line not in self._lines]
        self._lines.update(new)
        return new


def _in_words(report: Report) -> str:
    """The failure as a line; wishes that cannot be followed are said before jobs begin."""
    if report.job.rule == Rule.REPORT_PROBLEM:
        return ""
    return f"failed  {report.title}  {report.words.removeprefix(f'{report.title}: ')}"
