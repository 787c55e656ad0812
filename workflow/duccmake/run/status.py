"""The last run as a file: what became of each image, and which wish lists are in force."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from ..fs.files import write_atomically
from ..planning.plan import Plan
from ..workspace.results import STATUS


@dataclass(frozen=True, slots=True)
class Status:
    """The end of a run, by the process ``pid``.

    ``images`` are those that were not up to date, each with outcome (``converted``,
    ``failed``, ``skipped``) and reason; ``counts`` are all of them by outcome.
    ``stale`` are images that are up to date as far as is known: their registry did not
    answer.  ``in_force`` and ``warnings`` are as the plan has them; ``ended`` is in seconds
    since the epoch.
    """

    pid: int
    run: str
    ended: float
    seconds: float
    counts: Mapping[str, int]
    images: Mapping[str, tuple[str, str]]
    stale: tuple[str, ...]
    in_force: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def failed(self) -> frozenset[str]:
        """What failed."""
        return frozenset(name for name, found in self.images.items() if found[0] == "failed")

    def save(self, workdir: Path) -> None:
        """Write it, for `load` and for people."""
        write_atomically(workdir / STATUS, json.dumps(asdict(self), indent=1).encode() + b"\n")

    @classmethod
    def load(cls, workdir: Path) -> Status | None:
        """The last run's status, or None where there is none that can be read."""
        try:
            members = json.loads((workdir / STATUS).read_bytes())
            images = {name: tuple(found) for name, found in members.pop("images").items()}
            return cls(**{**members, "images": images})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def of_this_process(
    run: str, seconds: float, outcomes: Mapping[str, tuple[str, str]], plan: Plan
) -> Status:
    """The status of a run that this process is ending: what became of each image, and why."""
    return Status(
        pid=os.getpid(),
        run=run,
        ended=round(time.time(), 3),
        seconds=round(seconds, 3),
        counts=dict(Counter(outcome for outcome, _ in outcomes.values())),
        images={name: found for name, found in outcomes.items() if found[0] != _UP_TO_DATE},
        stale=tuple(
            name for name, found in outcomes.items() if found[0] == _UP_TO_DATE and found[1]
        ),
        in_force=plan.in_force,
        warnings=plan.warnings,
    )


_UP_TO_DATE = "up to date"
