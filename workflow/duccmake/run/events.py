"""The start and the end of a run, and of its images, in the event log."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from pathlib import Path

from ..errors import DuccmakeError
from ..planning.model import PlannedImage
from ..planning.plan import Plan
from ..workspace.event_log import Action, EventLog, EventSettings
from .status import Outcome, Status


def note_start(plan: Plan, run: Path, *, workdir: Path, only: Collection[str] = ()) -> None:
    """A run begins its jobs; ``only`` are the targets of one that converts nothing."""
    log = EventLog(plan.config_in(workdir).events, run=run.name)
    log.emit(Action.START_DUCC, pid=os.getpid())
    for image in () if only else plan.wanted:
        log.emit(Action.START_IMAGE, **_identity(run.name, image))


def note_end(plan: Plan, status: Status, *, workdir: Path, only: Collection[str] = ()) -> None:
    """A run that `note_start` noted has ended, and how it was."""
    log = EventLog(plan.config_in(workdir).events, run=status.run)
    for image in () if only else plan.wanted:
        outcome, remark = status.images.get(image.title, (Outcome.UP_TO_DATE, ""))
        good = outcome in (Outcome.CONVERTED, Outcome.UP_TO_DATE)
        log.emit(
            Action.END_IMAGE,
            **_identity(status.run, image),
            size_bytes=sum(layer.descriptor.size for layer in image.layers),
            status="ok" if good else "error",
            error=None if good else remark,
        )
    for name, (outcome, why) in status.images.items():
        if outcome == Outcome.REMOVED:
            log.emit(Action.REMOVE_IMAGE, image=name, status="ok", reason=why)
    for problem in plan.problems:
        if not problem.until:
            log.emit(Action.PROBLEM, image=problem.name, status="error", error=problem.reason)
    log.emit(Action.END_DUCC, pid=os.getpid(), time_elapsed_s=f"{status.seconds:.6f}")


def note_failure(settings: EventSettings, error: DuccmakeError, *, pid: int | None = None) -> None:
    """The run of a process, of this one if none is named, has ended before it said how."""
    log = EventLog(settings)
    log.emit(Action.END_DUCC, pid=pid or os.getpid(), status="error", error=error)


def _identity(run: str, image: PlannedImage) -> dict[str, str]:
    """What the events at the start and at the end of an image's conversion share."""
    return {
        "image": image.name,
        "image_request": str(image.reference),
        "repository": image.repository,
        "manifest": str(image.manifest),
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run}/{image.repository}/{image.name}")),
    }
