"""What stays after a run to be looked at: the document, a table, metrics, a page."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from ..config.configuration import Config
from ..fs.files import write_atomically
from ..planning.plan import Plan
from ..state.model import Day as Kept
from ..state.model import State
from ..workspace.results import IMAGES_TABLE, METRICS, STATUS
from .document import Day, Document, Image, Totals, timestamp
from .metrics import exposition
from .page.writer import write_page
from .standing import Found, standing
from .status import Status, read_document

_DAYS = 400
_WAITS = 1000

_COLUMNS = (
    *("sync", "health", "image", "reason", "repository", "wanted", "current", "published"),
    *("revision", "first_seen", "failing_since", "failures", "next_try", "compressed"),
    *("unpacked", "files", "own", "recipe", "commit"),
)


def write_status(
    plan: Plan, config: Config, states: Mapping[str, State], status: Status, workdir: Path
) -> None:
    """Write all of it, each file whole or not at all; raises `OSError`."""
    is_success = not (status.failed or status.error)
    success = status.ended if is_success else read_document(workdir).get("last_success")
    document = document_of(standing(plan, config, states, status), states, status, success)
    write_atomically(workdir / IMAGES_TABLE, _table(document.images).encode())
    write_atomically(workdir / METRICS, exposition(document, states.values(), status))
    write_atomically(workdir / STATUS, document.to_json())
    write_page(workdir / STATUS)


def document_of(
    found: Found, states: Mapping[str, State], status: Status, last_success: float | None
) -> Document:
    """The document of a run that has ended."""
    return Document(
        made=round(time.time(), 3),
        run=asdict(status),
        last_success=last_success,
        totals=_totals(found),
        days=tuple(_days(states.values())),
        push_to_visible=tuple(wait for state in states.values() for wait in state.waits)[-_WAITS:],
        layers=tuple(found.layers),
        images=tuple(found.images),
    )


def _totals(found: Found) -> Totals:
    return Totals(
        images=len(found.images),
        sync=Counter(image.sync for image in found.images),
        health=Counter(image.health for image in found.images),
        layers=len(found.layers),
        bytes=sum(layer.bytes or 0 for layer in found.layers),
        shared=sum(layer.bytes or 0 for layer in found.layers if layer.images > 1),
    )


def _days(states: Iterable[State]) -> list[Day]:
    """Days of all repositories together: what one has not run in, it ends as it was before."""
    kept = list(states)
    latest: dict[int, Kept] = {}
    found = []
    for name in sorted({name for state in kept for name in state.days}):
        latest |= {place: one.days[name] for place, one in enumerate(kept) if name in one.days}
        today = [day for day in latest.values() if day.day == name]
        found.append(
            Day(
                day=name,
                converted=sum(day.converted for day in today),
                failed=sum(day.failed for day in today),
                removed=sum(day.removed for day in today),
                images=sum(day.images for day in latest.values()),
                bytes=sum(day.compressed for day in latest.values()),
            )
        )
    return found[-_DAYS:]


def _table(images: Iterable[Image]) -> str:
    """A line an image, after a header."""
    text = io.StringIO()
    writer = csv.writer(text, "excel-tab", lineterminator="\n")
    writer.writerow(_COLUMNS)
    for image in images:
        failure, sizes = image.failure, image.sizes
        writer.writerow(
            (
                image.sync,
                image.health,
                image.title,
                image.reason,
                image.repository,
                image.wanted,
                image.current,
                timestamp(image.published),
                image.revision,
                timestamp(image.first_seen),
                timestamp(failure.first if failure else None),
                failure.count if failure else 0,
                timestamp(image.next_try),
                sizes.compressed,
                sizes.unpacked,
                sizes.files,
                sizes.own,
                image.wish.get("recipe", ""),
                image.wish.get("commit", ""),
            )
        )
    return text.getvalue()
