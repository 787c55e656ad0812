"""All images of the wish lists as a table: what the newest plan and the last run know of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import one_line
from ..planning.model import PlannedImage
from ..planning.model import State as Planned
from ..planning.plan import Plan
from ..workspace.results import PLANS
from .status import Outcome, Status

if TYPE_CHECKING:
    import pandas


class State(StrEnum):
    """How an image stands, those first that want to be looked at.

    What fails or is skipped, is stale or leaves may well be published, as it was before.
    """

    FAILED = "failed"
    SKIPPED = "skipped"
    PENDING = "pending"
    LEAVING = "leaving"
    STALE = "stale"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Row:
    """An image: how it stands and why, its name, and the manifest's digest that is wished for."""

    state: State
    image: str
    reason: str
    repository: str
    digest: str = ""


def newest_plan(workdir: Path) -> Path | None:
    """The plan that was made or used last, if there is any."""
    plans = (workdir / PLANS).glob("*.json")
    return max(plans, key=lambda path: path.stat().st_mtime, default=None)


def table(plan: Plan, name: str, status: Status | None) -> pandas.DataFrame:
    """A row for each image, with the members of `Row`; ``name`` is that of the plan's file."""
    import pandas  # slow to import

    order = list(State)
    rows = sorted(_rows(plan, name, status), key=lambda row: (order.index(row.state), row.image))
    return pandas.DataFrame([asdict(row) for row in rows], columns=list(Row.__slots__), dtype=str)


def _rows(plan: Plan, name: str, status: Status | None) -> Iterator[Row]:
    became = status.images if status else {}
    has_run = status is not None and status.run.startswith(name[:12])
    for image in plan.images:
        outcome, remark = became.get(image.title, (None, ""))
        state, reason = _state(image, outcome if has_run or outcome in _FAILURES else None, remark)
        yield Row(state, image.title, one_line(reason), image.repository, str(image.manifest))
    for problem in plan.problems:
        state = State.SKIPPED if problem.ignorable else State.FAILED
        yield Row(state, problem.title, one_line(problem.reason), problem.repository)
    gone = became if has_run else {}
    for item in plan.departures:
        if gone.get(item.name, (None, ""))[0] != Outcome.REMOVED:
            yield Row(State.LEAVING, item.name, item.why, item.repository, item.manifest)


_FAILURES = {Outcome.FAILED: State.FAILED, Outcome.SKIPPED: State.SKIPPED}


def _state(image: PlannedImage, outcome: Outcome | None, remark: str) -> tuple[State, str]:
    if image.state == Planned.PUBLISHED:
        return (State.STALE, image.why) if image.why else (State.PUBLISHED, "")
    if outcome in _FAILURES:
        return _FAILURES[outcome], remark
    if outcome == Outcome.CONVERTED:
        return State.PUBLISHED, remark
    return State.PENDING, image.why
