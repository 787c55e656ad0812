"""When to run next: at an interval, sooner after a failure, later after each further one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Ending:
    """How a run ended.

    ``completed`` says that it polled and did what it could.  ``failed`` are images
    that failed, or whose registry did not answer: they want another try.  ``error`` is
    why it did not complete.
    """

    completed: bool
    failed: frozenset[str] = field(default_factory=frozenset)
    error: str = ""


class Pace:
    """Decides when to run, on a clock that never goes back.

    ``due`` is when the next poll is due whatever happens; before ``earliest`` nothing
    runs, not even for a notice.
    """

    def __init__(
        self, interval: float, retry: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.interval = interval
        self.retry = retry
        self._clock = clock
        self._failures = 0
        self._failed: frozenset[str] = frozenset()
        self._changed_since = False
        self.due = self.earliest = clock()

    def begun(self) -> None:
        """A run begins: it sees all that has changed before."""
        self._changed_since = False

    def ended(self, outcome: Ending, *, whole: bool = True) -> None:
        """A run has ended; ``whole`` if it asked for all images and not for some only.

        What cannot be run at all is left alone for a while.  Images that fail are
        tried again, and make no other wait.
        """
        now = self._clock()
        if self._changed_since:  # it may have read the wish list before that
            self.changed()
            return
        if outcome.completed and not outcome.failed:
            if whole:
                self._failures, self._failed = 0, frozenset()
                self.due = now + self.interval
            self.earliest = now
            return
        # Other images than before: a new failure, not a further one.
        same = not outcome.completed or outcome.failed == self._failed
        self._failures = self._failures + 1 if same else 1
        self._failed = outcome.failed
        pause = self._pause()
        self.due = now + pause if whole else min(self.due, now + pause)
        self.earliest = now if outcome.completed else now + pause
        if not outcome.completed:
            self.due = now + pause

    def changed(self) -> None:
        """Something was mended, perhaps: run at once, or after the run that is under way."""
        self._changed_since = True
        self._failures, self._failed = 0, frozenset()
        self.due = self.earliest = self._clock()

    def _pause(self) -> float:
        doubled: float = self.retry * 2.0 ** min(self._failures - 1, 30)
        return min(self.interval, doubled)
