"""The start and the end of a run, and of its images, in the event log."""

from __future__ import annotations

import os
import uuid
from collections.abc import Collection
from pathlib import Path

from ..planning.model import PlannedImage
from ..planning.plan import Plan
from ..workspace.event_log import EventLog
from .status import Status


def note_start(plan: Plan, run: Path, *, workdir: Path, only: Collection[str] = ()) -> None:
    """A run begins its jobs; ``only`` are the targets of one that converts nothing."""
    log = EventLog(plan.config_in(workdir).events, run=run.name)
    log.emit("start_ducc", pid=os.getpid())
    for image in () if only else plan.wanted:
        log.emit("start_image", **_identity(run.name, image))


def note_end(plan: Plan, status: Status, *, workdir: Path, only: Collection[str] = ()) -> None:
    """A run that `note_start` noted has ended, and how it was."""
    log = EventLog(plan.config_in(workdir).events, run=status.run)
    for image in () if only else plan.wanted:
        outcome, remark = status.images.get(image.title, ("up to date", ""))
        good = outcome in ("converted", "up to date")
        log.emit(
            "end_image",
            **_identity(status.run, image),
            size_bytes=sum(layer.descriptor.size for layer in image.layers),
            status="ok" if good else "error",
            error=None if good else remark,
        )
    for name, (outcome, why) in status.images.items():
        if outcome == "removed":
            log.emit("remove_image", image=name, status="ok", reason=why)
    for problem in plan.problems:
        log.emit("problem", image=problem.name, status="error", error=problem.reason)
    log.emit("end_ducc", pid=os.getpid(), time_elapsed_s=f"{status.seconds:.6f}")


def _identity(run: str, image: PlannedImage) -> dict[str, str]:
    """What the events at the start and at the end of an image's conversion share."""
    return {
        "image": image.name,
        "image_request": str(image.reference),
        "repository": image.repository,
        "manifest": str(image.manifest),
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"{run}/{image.repository}/{image.name}")),
    }
