"""All images of the wish lists as a table: what the newest plan, and the document, say of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import one_line
from ..planning.holds import held_in_words
from ..planning.model import PlannedImage
from ..planning.model import State as Planned
from ..planning.plan import Plan
from ..workspace.results import PLANS
from .document import timestamp
from .status import Outcome, Status

if TYPE_CHECKING:
    import pandas


class State(StrEnum):
    """How an image stands, those first that want to be looked at.

    What fails or is skipped, is stale or leaves may well be published, as it was before.
    """

    FAILED = "failed"
    HELD = "held"
    SKIPPED = "skipped"
    PENDING = "pending"
    LEAVING = "leaving"
    STALE = "stale"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class Row:
    """An image: how it stands and why, its name, and the manifest's digest that is wished for.

    Where the last run told of it: since when it is published, and of what fails since when,
    how often, and when it is tried again.  Times are in RFC 3339.
    """

    state: State
    image: str
    reason: str
    repository: str
    digest: str = ""
    published: str = ""
    failing_since: str = ""
    failures: str = ""
    next_try: str = ""


def newest_plan(workdir: Path) -> Path | None:
    """The plan that was made or used last, if there is any."""
    plans = (workdir / PLANS).glob("*.json")
    return max(plans, key=lambda path: path.stat().st_mtime, default=None)


def table(
    plan: Plan, name: str, status: Status | None, document: Mapping[str, Any] | None = None
) -> pandas.DataFrame:
    """A row for each image, with the members of `Row`, what failed newest first.

    ``name`` is that of the plan's file, ``document`` what the last run left.
    """
    import pandas  # slow to import

    known = {
        (image["repository"], image["title"]): image for image in (document or {}).get("images", ())
    }
    order = {state: place for place, state in enumerate(State)}

    def by_need(row: Row) -> tuple[int, float, str]:
        failure = _failure(known.get((row.repository, row.image)))
        return order[row.state], -(failure["last"] if failure else 0.0), row.image

    found = sorted(_rows(plan, name, status), key=by_need)
    rows = [_told(row, known.get((row.repository, row.image))) for row in found]
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
        reason = one_line(problem.reason)
        if problem.until:
            state, reason = State.HELD, held_in_words(reason, problem.until)
        yield Row(state, problem.title, reason, problem.repository)
    gone = became if has_run else {}
    for item in plan.departures:
        if gone.get(item.name, (None, ""))[0] != Outcome.REMOVED:
            yield Row(State.LEAVING, item.name, item.why, item.repository, item.manifest)


def _failure(image: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The failure that stands of an image of the document."""
    failure = image.get("failure") if image else None
    return failure if isinstance(failure, Mapping) else None


def _told(row: Row, image: Mapping[str, Any] | None) -> Row:
    """The row with what the last run told of the image."""
    if image is None:
        return row
    row = replace(row, published=timestamp(image["published"]))
    failure = _failure(image)
    if failure is None or row.state in (State.PUBLISHED, State.STALE, State.LEAVING):
        return row
    due, reason = failure["next"] or 0.0, row.reason
    if row.state in _FAILURES.values() and due > time.time():
        reason = held_in_words(reason, due)
    return replace(
        row,
        reason=reason,
        failing_since=timestamp(failure["first"]),
        failures=str(failure["count"]),
        next_try=timestamp(due),
    )


_FAILURES = {Outcome.FAILED: State.FAILED, Outcome.SKIPPED: State.SKIPPED}


def _state(image: PlannedImage, outcome: Outcome | None, remark: str) -> tuple[State, str]:
    if image.state == Planned.PUBLISHED:
        return (State.STALE, image.why) if image.why else (State.PUBLISHED, "")
    if image.state == Planned.HELD:
        return State.HELD, held_in_words(image.why, image.until)
    if outcome in _FAILURES:
        return _FAILURES[outcome], remark
    if outcome == Outcome.CONVERTED:
        return State.PUBLISHED, remark
    return State.PENDING, image.why
