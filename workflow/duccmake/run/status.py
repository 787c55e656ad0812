"""The last run: what became of each image, and which wish lists are in force."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import DuccmakeError
from ..fs.files import write_atomically
from ..planning.plan import Plan
from ..workspace.results import STATUS
from .document import FORMAT, Document
from .page.writer import write_page


class Outcome(StrEnum):
    """What became of an image, a thin image or a repository in a run."""

    CONVERTED = "converted"
    UP_TO_DATE = "up to date"
    FAILED = "failed"
    HELD = "held"
    SKIPPED = "skipped"
    REMOVED = "removed"
    PUSHED = "pushed"
    FREED = "freed"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    DAMAGED = "damaged"
    MENDED = "mended"


@dataclass(frozen=True, slots=True)
class Result:
    """The outcome of what is called ``title``, and what is to be said of it.

    ``more`` is for people at a terminal alone: what is in force, and where to read on.
    ``fault`` is what was at fault (`duccmake.errors.Fault`) where a try of it failed.
    """

    title: str
    outcome: Outcome
    remark: str = ""
    more: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Status:
    """The end of a run, by the process ``pid``.

    ``images`` are those that were not up to date, each with outcome and reason;
    ``counts`` are all of them by outcome.
    ``stale`` are images that are up to date as far as is known: their registry did not
    answer.  ``in_force`` and ``warnings`` are as the plan has them; ``ended`` is in seconds
    since the epoch.  ``error`` is why the run ended before it could say what became of its images.
    """

    pid: int
    run: str
    ended: float
    seconds: float
    counts: Mapping[str, int]
    images: Mapping[str, tuple[Outcome, str]]
    stale: tuple[str, ...]
    in_force: tuple[str, ...]
    warnings: tuple[str, ...]
    error: str = ""

    @property
    def failed(self) -> frozenset[str]:
        """What failed."""
        return frozenset(
            name for name, (outcome, _) in self.images.items() if outcome == Outcome.FAILED
        )

    def save(self, workdir: Path) -> None:
        """Write it into the document, which stays as it is else, for `load` and for people."""
        members = read_document(workdir) or json.loads(Document().to_json())
        members |= {"made": self.ended, "run": asdict(self)}
        write_atomically(workdir / STATUS, json.dumps(members).encode() + b"\n")
        with suppress(KeyError):  # in the document of an older version; the next run's is whole
            write_page(workdir / STATUS)

    @classmethod
    def load(cls, workdir: Path) -> Status | None:
        """The last run's status, or None where there is none that can be read."""
        try:
            members = read_document(workdir)["run"]
            images = {
                name: (Outcome(outcome), why)
                for name, (outcome, why) in members.pop("images").items()
            }
            return cls(**{**members, "images": images})
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return None


def read_document(workdir: Path) -> dict[str, Any]:
    """The members of the document of the last run; empty where there is none that can be read."""
    try:
        found = json.loads((workdir / STATUS).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and found.get("format") == FORMAT else {}


def of_this_process(run: str, seconds: float, results: Sequence[Result], plan: Plan) -> Status:
    """The status of a run that this process is ending."""
    current = {item.title: item for item in results}
    up_to_date = {title for title, it in current.items() if it.outcome == Outcome.UP_TO_DATE}
    return Status(
        pid=os.getpid(),
        run=run,
        ended=round(time.time(), 3),
        seconds=round(seconds, 3),
        counts=dict(Counter(item.outcome for item in current.values())),
        images={
            title: (item.outcome, item.remark)
            for title, item in current.items()
            if title not in up_to_date
        },
        stale=tuple(
            title for title, item in current.items() if title in up_to_date and item.remark
        ),
        in_force=plan.in_force,
        warnings=plan.warnings,
    )


def of_failure(error: DuccmakeError, seconds: float, *, pid: int | None = None) -> Status:
    """The status of a run that came to no end of its own: of this process, if none is named."""
    ended = round(time.time(), 3)
    return Status(pid or os.getpid(), "", ended, round(seconds, 3), {}, {}, (), (), (), str(error))
