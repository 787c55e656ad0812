"""What people see of a run: what is pending at its start, one line an image at its end."""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from ..planning.model import PENDING, PlannedImage, PlannedLayer
from ..planning.pending import why_pending
from ..planning.plan import Plan, adopting
from ..planning.thin_images import manifest_of
from ..repository.model import UNMEASURED, WIDENED, ImageRecord
from ..repository.open import open_repository
from ..words import counted, in_bytes
from .status import Status, of_this_process

_STARTED = time.monotonic()
_SELDOM = ("removed", "pushed")
"""What is counted only where it was done."""

_LISTED = 50
"""How many pending or up-to-date images are listed one by one; more are counted."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    image: str
    outcome: str
    remark: str


def announce(plan: Plan, stream: TextIO | None = None) -> None:
    """Say, before anything runs, what the wish lists amount to."""
    out = stream or sys.stderr
    for source in plan.in_force:
        print(f"duccmake: wish list {source}", file=out)
    for warning in plan.warnings:
        print(f"duccmake: {warning}", file=out)
    stale = Counter(image.why for image in plan.images if image.state != PENDING and image.why)
    for why, count in stale.items():
        print(f"duccmake: {_many(count)}{why}; what is published stays in force", file=out)
    for reason, count in Counter(problem.reason for problem in plan.problems).items():
        print(f"duccmake: {_many(count)}{reason}", file=out)
    pending = [image for image in plan.images if image.state == PENDING]
    for image in pending[:_LISTED]:
        print(f"pending  {image.title}  {image.why}", file=out)
    if len(pending) > _LISTED:
        print(f"pending  {len(pending) - _LISTED} more", file=out)
    for item in plan.refused[:_LISTED]:
        verb = "refused " if item.manifest else "expelled"
        print(f"{verb} {item.name}  published by an earlier version: {item.why}", file=out)
    for name, layers in plan.altered.items():
        if layers:
            what = f"files of other images in {counted(len(layers), 'layer')} of an earlier version"
            print(f"duccmake: {name}: {what} are taken out", file=out)
    if plan.departures and plan.config_in(Path.cwd()).removal.policy != "keep":
        for item in plan.departures[:_LISTED]:
            print(f"leaving  {item.name}  {item.why}", file=out)
        if len(plan.departures) > _LISTED:
            print(f"leaving  {len(plan.departures) - _LISTED} more", file=out)
    print(
        f"duccmake: {counted(len(plan.images), 'image')}: {len(pending)} pending, "
        f"{len(plan.images) - len(pending)} up to date; {len(plan.problems)} cannot be resolved"
        f"{_to_fetch(plan, pending)}",
        file=out,
    )


def _to_fetch(plan: Plan, pending: Sequence[PlannedImage]) -> str:
    """How much there is to download, where anything is pending."""
    if not pending:
        return ""
    sizes = {
        layer.digest: layer.descriptor.size
        for image in pending
        for layer in image.layers
        if layer.digest in plan.missing.get(image.repository, frozenset())
    }
    return f"; {counted(len(sizes), 'new layer')}, {in_bytes(sum(sizes.values()))}"


def summarise(
    plan: Plan,
    run: Path,
    *,
    workdir: Path,
    only: Collection[str] = (),
    stream: TextIO | None = None,
) -> Status:
    """Say what became of each image: the repository is asked, not the jobs.

    ``only`` are the targets of a run that was to convert nothing.  The status of any
    other is kept for who started it.
    """
    out = stream or sys.stderr
    events = list(_events(run))
    if "adopt" in only:
        plan = replace(plan, images=tuple(adopting(plan)), problems=(), thins=())
    whole = not only or "adopt" in only
    outcomes = list(_outcomes(plan, events, workdir) if whole else _removals(events))
    width = max((len(item.outcome) for item in outcomes), default=0)
    quiet = sum(item.outcome == "up to date" for item in outcomes) > _LISTED
    for item in outcomes:
        if not (quiet and item.outcome == "up to date"):
            remark = item.remark.removeprefix(f"{item.image}: ")
            remark = f"  {remark}" if remark else ""
            print(f"{item.outcome:{width}}  {item.image}{remark}", file=out)
    became = {item.image: (item.outcome, item.remark) for item in outcomes}
    status = of_this_process(run.name, time.monotonic() - _STARTED, became, plan)
    if only:
        totals = Counter(item.outcome for item in outcomes)
        seconds = time.monotonic() - _STARTED
        adopted = f"{totals['converted']} adopted, " if "adopt" in only else ""
        counts = f"{adopted}{totals['removed']} removed, {totals['failed']} failed"
        print(f"duccmake: {counts}, in {seconds:.1f} s", file=out)
        return status
    counts = ", ".join(
        f"{sum(item.outcome == kind for item in outcomes)} {kind}"
        for kind in ("converted", "up to date", "failed", "skipped", "removed", "pushed")
        if kind not in _SELDOM or any(item.outcome == kind for item in outcomes)
    )
    fetched = sum(event["bytes"] for event in events if event["event"] == "fetched")
    total = sum(
        size for _, size in {(layer.digest, layer.descriptor.size) for layer in _layers(plan)}
    )
    reused = in_bytes(max(0, total - fetched))
    print(
        f"duccmake: {counts}; {in_bytes(fetched)} fetched, {reused} reused, "
        f"in {time.monotonic() - _STARTED:.1f} s",
        file=out,
    )
    status.save(workdir)
    return status


def _layers(plan: Plan) -> Iterator[PlannedLayer]:
    for image in plan.wanted:
        yield from image.layers


def _outcomes(plan: Plan, events: list[dict[str, Any]], workdir: Path) -> Iterator[_Outcome]:
    config = plan.config_in(workdir)
    repositories = {
        name: open_repository(config.repository, name)
        for name in {image.repository for image in plan.images}
    }
    failures = {event["job"]: event["error"] for event in events if event["event"] == "failed"}
    for image in plan.images:
        if image.state != PENDING:
            yield _Outcome(image.title, "up to date", image.why)
            continue
        repository = repositories[image.repository]
        record = repository.record(image.name)
        if record and not why_pending(image, repository, record):
            yield _Outcome(image.title, "converted", _done(image, record))
            continue
        reason = next(_reasons(plan, image, failures), "interrupted, or not tried")
        yield _Outcome(image.title, "skipped" if image.ignorable else "failed", reason)
    for problem in plan.problems:
        outcome = "skipped" if problem.ignorable else "failed"
        yield _Outcome(problem.title, outcome, problem.reason)
    yield from _pushes(plan, events, failures)
    yield from _removals(events)


def _done(image: PlannedImage, record: ImageRecord) -> str:
    """What is to be said of an image that is published now."""
    if image.adopted:
        return "adopted from DUCC as it stands: nothing was fetched"
    kinds = sorted(record.losses.items())
    losses = ", ".join(f"{n} {kind}" for kind, n in kinds if kind not in (UNMEASURED, WIDENED))
    widened = record.losses.get(WIDENED)
    remarks = [
        f"not kept here: {losses}" if losses else "",
        f"readable for all though the image says otherwise: {widened}" if widened else "",
    ]
    return "; ".join(filter(None, remarks))


def _pushes(
    plan: Plan, events: list[dict[str, Any]], failures: dict[str, str]
) -> Iterator[_Outcome]:
    """What became of the thin images; nothing is said of one whose image was not converted."""
    pushed = {event["target"] for event in events if event["event"] == "pushed"}
    for thin in plan.thins:
        reason = failures.get(f"push_thin_image-{thin.repository}-{thin.name}")
        if thin.target in pushed:
            yield _Outcome(thin.target, "pushed", f"the thin image of {thin.name}")
        elif reason is not None:
            # A failure that does not fail the run is handed on in the place of the manifest.
            quiet = thin.output.exists() and manifest_of(thin.output) is None
            yield _Outcome(thin.target, "skipped" if quiet else "failed", reason)


def _removals(events: list[dict[str, Any]]) -> Iterator[_Outcome]:
    """What left, what was freed, and what kept that from being done."""
    for event in events:
        if event["event"] == "pruned":
            for name, why in event["images"]:
                yield _Outcome(name, "removed", why)
        elif event["event"] == "collected":
            yield _Outcome(event["repository"], "freed", event["words"])
        elif event["event"] in ("pinned", "unpinned"):
            yield _Outcome(event["image"], event["event"], event["words"])
        elif event["event"] == "failed" and event["job"].startswith(_MAINTENANCE):
            rule, _, repository = event["job"].partition("-")
            yield _Outcome(repository or rule, "failed", event["error"])


_MAINTENANCE = ("prune_images-", "refuse_images-", "collect_garbage-", "rollback", "unpin")


def _reasons(plan: Plan, image: PlannedImage, failures: dict[str, str]) -> Iterator[str]:
    jobs = [f"publish_image-{image.repository}-{image.name}"]
    jobs += [f"fetch_blob-{key}" for key in plan.staged_layers(image)]
    jobs += [f"unpack_layer-{image.repository}-{key}" for key in plan.staged_layers(image)]
    jobs += [f"flatten_image-{image.repository}-{plan.flat_key(image)}"]
    for job in jobs:
        if job in failures:
            yield failures[job]


def _events(run: Path) -> Iterator[dict[str, Any]]:
    for path in sorted(run.glob("*.json")) if run.is_dir() else []:
        yield json.loads(path.read_bytes())


def _many(number: int) -> str:
    """What stands before a line that is said for several images at once."""
    return f"{number} images: " if number > 1 else ""
