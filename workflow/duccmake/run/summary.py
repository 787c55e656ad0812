"""What people see at the end of a run: one line an image."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from ..errors import DuccmakeError
from ..oci.reference import Reference
from ..planning.holds import held_in_words
from ..planning.model import PlannedImage, State
from ..planning.pending import why_pending
from ..planning.plan import Plan, adopting, repositories
from ..planning.thin_images import manifest_of
from ..repository.model import OF_LAYERS, UNMEASURED, WIDENED, ImageRecord
from ..repository.open import open_repository
from ..words import in_bytes
from ..workspace.reports import JobName, Kind, Report, Rule, read_reports
from ..workspace.results import STATUS
from .lines import briefly, say
from .lives import keep
from .mending import after_repair, note_damage
from .session import Session
from .status import Outcome, Result, Status, of_this_process
from .telling import write_status

_SELDOM = (Outcome.HELD, Outcome.SKIPPED, Outcome.REMOVED, Outcome.PUSHED)
"""What is counted only where there is any."""

_COUNTED = (Outcome.CONVERTED, Outcome.UP_TO_DATE, Outcome.FAILED, *_SELDOM)

_LISTED = 50
"""So many images that are up to date are listed one by one."""


def summarise(
    session: Session,
    *,
    workdir: Path,
    only: frozenset[str] = frozenset(),
    held_back: Mapping[str, str] | None = None,
    stream: TextIO | None = None,
) -> Status:
    """Say what became of each image: the repository is asked, not the jobs.

    ``only`` are the targets of a run that was to convert nothing.  The status of any
    other is kept for who started it, unless that was to see something only.  ``held_back``
    is what `announce` said of repositories that nothing leaves, for who sees the end alone.
    """
    kept = list((held_back or {}).values())
    run = session.run
    plan = replace(session.plan, warnings=(*session.plan.warnings, *kept))
    out = stream or sys.stderr
    reports = read_reports(run)
    if "adopt" in only:
        plan = replace(plan, images=tuple(adopting(plan)), problems=(), thins=())
    is_about_images = not only or not only.isdisjoint({"adopt", "repair"})
    results = list(_results(plan, reports, workdir) if is_about_images else _removals(reports))
    config = plan.config_in(workdir)
    if "repair" in only and not session.preview:
        results = after_repair(plan, config, results)
    status = of_this_process(run.name, time.monotonic() - session.began, results, plan)
    totals = Counter(item.outcome for item in results)
    if only:
        counts = _counts_of(totals, only, reports)
    else:
        counts = f"{_counts(totals)}{_bytes(results, plan, reports)}"
    last = f"duccmake: {counts}, in {status.seconds:.1f} s"
    say(*_lines(results), *(f"duccmake: {why}" for why in kept), last, stream=out)
    if not only.isdisjoint(("repair", "verify")) and not session.preview:
        note_damage(repositories(plan), workdir)
    if not (only or session.preview):
        states = keep(plan, config, session.seen, results, reports, run=run.name)
        try:
            write_status(plan, config, states, status, workdir)
        except OSError as error:
            say(f"duccmake: {workdir / STATUS} cannot be written: {error.strerror}", stream=out)
    return status


def is_made_up_for(status: Status, session: Session) -> bool:
    """Whether jobs failed to publish images, and other jobs took along all of them."""
    return not status.failed and any(
        report.kind == Kind.FAILED and report.job.rule == Rule.PUBLISH_IMAGE
        for report in read_reports(session.run)
    )


def _lines(results: Sequence[Result]) -> Iterator[str]:
    """A line for each result; those that are up to date are left out where they are many."""
    width = max((len(item.outcome) for item in results), default=0)
    up_to_date = [item for item in results if item.outcome == Outcome.UP_TO_DATE]
    unsaid = up_to_date if len(up_to_date) > _LISTED else []
    for item in results:
        if not (unsaid and item.outcome == Outcome.UP_TO_DATE):
            words = "; ".join(filter(None, (briefly(item.title, item.remark), item.more)))
            yield f"{item.outcome:{width}}  {item.title}{f'  {words}' if words else ''}"


def _counts(totals: Counter[Outcome]) -> str:
    return ", ".join(
        f"{totals[kind]} {kind}" for kind in _COUNTED if totals[kind] or kind not in _SELDOM
    )


def _bytes(results: Sequence[Result], plan: Plan, reports: Sequence[Report]) -> str:
    """What was fetched, and what was there already of the images that were converted."""
    fetched = {
        report.job.wildcards: report.size for report in reports if report.kind == Kind.FETCHED
    }
    converted = {item.title for item in results if item.outcome == Outcome.CONVERTED}
    there = {
        layer.digest: layer.descriptor.size
        for image in plan.wanted
        if image.title in converted
        for layer in image.layers
        if (plan.key(layer.digest),) not in fetched
    }
    if not (fetched or converted):
        return ""
    return f"; {in_bytes(sum(fetched.values()))} fetched, {in_bytes(sum(there.values()))} reused"


def _counts_of(totals: Counter[Outcome], only: Collection[str], reports: Sequence[Report]) -> str:
    """The counts of a run that was to convert nothing."""
    looked_at = [report.words for report in reports if report.kind == Kind.VERIFIED]
    if "verify" in only and looked_at:
        damaged = totals[Outcome.DAMAGED]
        said = f"{damaged} damaged" if damaged else "nothing is damaged"
        return "; ".join([said, *looked_at, *([_MEND] if damaged else [])])
    words = {Outcome.CONVERTED: "adopted" if "adopt" in only else "converted"}
    kinds = (Outcome.CONVERTED, Outcome.MENDED, Outcome.REMOVED, Outcome.FAILED, Outcome.DAMAGED)
    return (
        ", ".join(f"{totals[kind]} {words.get(kind, kind)}" for kind in kinds if totals[kind])
        or "done"
    )


# --- what became of what ------------------------------------------------


def _results(plan: Plan, reports: Sequence[Report], workdir: Path) -> Iterator[Result]:
    config = plan.config_in(workdir)
    repositories = {
        name: open_repository(config.repository, name)
        for name in {image.repository for image in plan.images}
    }
    failures = {
        # Without the image: others may fail of the same.
        report.job: replace(report, words=briefly(report.subject, report.words))
        for report in reports
        if report.kind == Kind.FAILED
    }
    for image in plan.images:
        if image.state == State.HELD:
            yield Result(image.title, Outcome.HELD, held_in_words(image.why, image.until))
            continue
        if image.state == State.PUBLISHED:
            yield Result(image.title, Outcome.UP_TO_DATE, image.why)
            continue
        repository = repositories[image.repository]
        record = repository.record(image.name)
        if record and not why_pending(image, repository, record):
            yield Result(image.title, Outcome.CONVERTED, _done(image, record))
            continue
        failure = next(_failures_of(plan, image, failures), None)
        reason = failure.words if failure else "interrupted, or not tried: run again"
        fault = failure.fault if failure else ""
        more = "; ".join((_in_force(repository.description(image.name)), *_see(failure)))
        yield Result(image.title, _failed(image.ignorable), reason, more, fault)
    for problem in plan.problems:
        if problem.until:
            yield Result(problem.title, Outcome.HELD, held_in_words(problem.reason, problem.until))
            continue
        known = None
        with suppress(DuccmakeError):  # it need not be an image, nor of a repository that is there
            repository = open_repository(config.repository, problem.repository)
            known = repository.description(problem.name)
        # Of a glob, tags may be published that it matched before.
        more = _in_force(known) if known else ""
        outcome = _failed(problem.ignorable)
        yield Result(problem.title, outcome, problem.reason, more, problem.fault)
    yield from _pushes(plan, reports, failures)
    yield from _removals(reports)


def _failed(quietly: bool) -> Outcome:
    return Outcome.SKIPPED if quietly else Outcome.FAILED


def _see(failure: Report | None) -> Iterator[str]:
    """Where a failure is told at length."""
    if failure and failure.log:
        yield f"see {failure.log}"


def _in_force(known: ImageRecord | None) -> str:
    """What readers have of an image that failed."""
    if known is None:
        return "nothing is published of it"
    return f"{known.manifest.short} stays published"


def _done(image: PlannedImage, record: ImageRecord) -> str:
    """What is to be said of an image that is published now."""
    if image.adopted:
        return "adopted from DUCC as it stands: nothing was fetched"
    found = dict(record.losses)
    widened = found.pop(WIDENED, 0)
    found.pop(UNMEASURED, None)
    kept, shown = (
        ", ".join(f"{n} {kind}" for kind, n in sorted(found.items()) if (kind in OF_LAYERS) == of)
        for of in (False, True)
    )
    remarks = [
        f"not kept here: {kept}" if kept else "",
        f"no failure, a remark: whoever stacks its layers by themselves misses {shown}"
        if shown
        else "",
        f"readable for all though the image says otherwise: {widened}" if widened else "",
    ]
    return "; ".join(filter(None, remarks))


def _pushes(
    plan: Plan, reports: Sequence[Report], failures: Mapping[JobName, Report]
) -> Iterator[Result]:
    """What became of the thin images; nothing is said of one whose image failed before that.

    Those that one registry does not take are told of in one line.
    """
    pushed = {report.subject for report in reports if report.kind == Kind.PUSHED}
    skipped: dict[str, list[Result]] = {}
    for thin in plan.thins:
        failure = failures.get(JobName(Rule.PUSH_THIN_IMAGE, (thin.repository, thin.name)))
        if thin.target in pushed:
            yield Result(thin.target, Outcome.PUSHED, f"the thin image of {thin.name}")
        elif failure is not None:
            # A failure that does not fail the run is handed on in the place of the manifest.
            quietly = thin.output.exists() and manifest_of(thin.output) is None
            more = ("" if quietly else f"{thin.name} itself is published", *_see(failure))
            words = "; ".join(filter(None, more))
            result = Result(thin.target, _failed(quietly), failure.words, words)
            if quietly:
                skipped.setdefault(Reference.parse(thin.target).host, []).append(result)
            else:
                yield result
        elif any(
            JobName(Rule.PUBLISH_IMAGE, (thin.repository, name)) in failures for name in thin.images
        ):
            yield Result(thin.target, _failed(thin.ignorable), "not tried: run again")
    for host, results in skipped.items():
        first = results[0]
        title = first.title if len(results) == 1 else f"{len(results)} thin images for {host}"
        yield replace(first, title=title)


_MEND = "'snakemake repair --cores N' makes anew what is"

_MAINTENANCE = frozenset(
    {Rule.VERIFY_PART, Rule.VERIFY}
    | {Rule.PRUNE_IMAGES, Rule.REFUSE_IMAGES, Rule.COLLECT_GARBAGE, Rule.ROLLBACK, Rule.UNPIN}
)


def _removals(reports: Sequence[Report]) -> Iterator[Result]:
    """What left, what was freed, and what kept that from being done."""
    for report in reports:
        if report.kind == Kind.REMOVED:
            yield from (Result(name, Outcome.REMOVED, why) for name, why in report.images)
        elif report.kind == Kind.DAMAGED:
            for path, words in report.images:
                yield Result(report.subject, Outcome.DAMAGED, f"{path}: {words}".lstrip(": "))
        elif report.kind in _SAID:
            yield Result(report.subject, _SAID[report.kind], report.words)
        elif report.kind == Kind.FAILED and report.job.rule in _MAINTENANCE:
            words = report.words.removeprefix(f"{report.title}: ")
            yield Result(report.title, Outcome.FAILED, words, "; ".join(_see(report)))


_SAID = {
    Kind.FREED: Outcome.FREED,
    Kind.PINNED: Outcome.PINNED,
    Kind.UNPINNED: Outcome.UNPINNED,
}


def _failures_of(
    plan: Plan, image: PlannedImage, failures: Mapping[JobName, Report]
) -> Iterator[Report]:
    """Why an image could not be converted, the last step's failure first."""
    repository, layers = image.repository, plan.staged_layers(image)
    jobs = [
        JobName(Rule.PUBLISH_IMAGE, (repository, image.name)),
        *(JobName(Rule.FETCH_BLOB, (key,)) for key in layers),
        *(JobName(Rule.UNPACK_LAYER, (repository, key)) for key in layers),
        JobName(Rule.FLATTEN_IMAGE, (repository, plan.flat_key(image))),
    ]
    yield from (failures[job] for job in jobs if job in failures)
