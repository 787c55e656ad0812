"""What the watcher leaves on the disk for who asks whether it is alive, and what it does."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..fs.files import write_atomically
from ..workspace.results import HEARTBEAT

BEAT_SECONDS = 5.0
"""So often the watcher says that it is alive."""

ALIVE_SECONDS = 30.0
"""Who has said nothing for so long hangs, or is no more."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """The watcher ``pid`` was alive at ``beat``; times are in seconds since the epoch.

    ``next_poll`` is when the next poll is due, ``last`` how the last run was, in words, and
    ``failed`` whether that came to no images at all.  ``run`` is the process of the run that is
    under way, since ``began``, and 0 without one; ``jobs`` are those of that.
    """

    pid: int
    beat: float
    next_poll: float
    last: str
    failed: bool = False
    run: int = 0
    began: float = 0.0
    jobs: tuple[str, ...] = field(default_factory=tuple)

    def save(self, workdir: Path) -> None:
        """Leave it; raises `OSError`."""
        write_atomically(workdir / HEARTBEAT, json.dumps(asdict(self)).encode() + b"\n")

    @classmethod
    def load(cls, workdir: Path = Path()) -> Heartbeat | None:
        """The last one, of whoever left it; None where there is none that can be read."""
        try:
            members = json.loads((workdir / HEARTBEAT).read_bytes())
            return cls(**{**members, "jobs": tuple(members["jobs"])})
        except (OSError, ValueError, TypeError, KeyError):
            return None

    @property
    def age(self) -> float:
        """How many seconds old it is."""
        return time.time() - self.beat

    @property
    def is_fresh(self) -> bool:
        """Whether the watcher is alive, as far as anybody can tell."""
        return abs(self.age) < ALIVE_SECONDS


def clear(workdir: Path) -> None:
    """Leave none: the watcher ends, as it was told to."""
    found = Heartbeat.load(workdir)
    if found is not None and found.pid == os.getpid():
        (workdir / HEARTBEAT).unlink(missing_ok=True)
