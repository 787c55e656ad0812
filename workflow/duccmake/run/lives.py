"""What a run tells of images is kept beside their repositories."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from typing import Any

from ..config.configuration import Config
from ..errors import DuccmakeError
from ..oci.manifest import Manifest, parse_manifest
from ..oci.reference import Digest
from ..planning.holds import key_of_image, key_of_problem
from ..planning.model import Departure, PlannedImage, Problem, State
from ..planning.plan import Plan, repositories
from ..repository.model import ImageRecord
from ..repository.open import open_repository
from ..repository.protocol import Repository
from ..state.model import RUN_BYTES, RUN_IMAGES, RUN_SECONDS, Day, LayerSizes, Life
from ..state.model import State as Kept
from ..state.store import changing
from ..tree.changes import TooMany, compare
from ..workspace.event_log import Action, EventLog
from ..workspace.reports import Kind, Report
from ..workspace.results import content_store
from .document import timestamp
from .status import Outcome, Result

logger = logging.getLogger(__name__)

VISIBLE = (30, 60, 120, 300, 600, 1800, 3600, 6 * 3600, 86400)
"""Bounds, in seconds, by which it is counted how long digests took to be visible."""

_COMPARED_FILES = 300_000
_COMPARING_SECONDS = 10.0
"""Trees of so many files are compared with those before, for so long in a run."""

_TRIED = frozenset({Outcome.FAILED, Outcome.SKIPPED})


def keep(
    plan: Plan,
    config: Config,
    seen: float,
    results: Sequence[Result] = (),
    reports: Sequence[Report] = (),
    *,
    run: str = "",
    has_ended: bool = True,
) -> dict[str, Kept]:
    """Keep what is known of all images of a plan that was made at ``seen``; returns it.

    ``results`` and ``reports`` are those of the run of that name, which ``has_ended``.  What is
    held from now on is entered in the event log.  What cannot be written is warned of and
    returned all the same.
    """
    kept = {}
    for name in repositories(plan):
        repository = open_repository(config.repository, name)
        known = plan, config, repository, seen, results, reports
        entries = _Entries(*known)
        try:
            with _changing(repository) as state:
                entries.enter(state, has_ended=has_ended)
        except (DuccmakeError, OSError) as error:
            logger.warning("%s: %s", name, error)
            state = Kept()
            entries = _Entries(*known)
            entries.enter(state, has_ended=has_ended)
        else:
            entries.note_holds(EventLog(config.events, run=run))
        kept[name] = state
    return kept


@contextmanager
def _changing(repository: Repository) -> Iterator[Kept]:
    """What is kept, to be changed; where nothing can be, what is forgotten afterwards."""
    directory = repository.own_directory
    if directory is None:
        yield Kept()
        return
    repository.prepare()
    with changing(directory) as state:
        yield state


class _Entries:
    """What a plan, and a run, say of the images of one repository."""

    def __init__(
        self,
        plan: Plan,
        config: Config,
        repository: Repository,
        seen: float,
        results: Sequence[Result],
        reports: Sequence[Report],
    ) -> None:
        self._plan = plan
        self._config = config
        self._repository = repository
        self._seen = seen
        self._now = time.time()
        self._results = {item.title: item for item in results}
        self._files = {
            report.job.wildcards: report.files
            for report in reports
            if report.kind == Kind.FLATTENED
        }
        self._revisions = {
            report.job.wildcards: report.revision
            for report in reports
            if report.kind == Kind.PUBLISHED
        }
        self._fetched = {
            report.job.wildcards[0]: report.size
            for report in reports
            if report.kind == Kind.FETCHED
        }
        self._removed = 0
        self._converted = 0
        self._failed = 0
        self._held: list[Life] = []
        self._comparing = _COMPARING_SECONDS

    def enter(self, state: Kept, *, has_ended: bool) -> None:
        """Enter it all."""
        name = self._repository.name
        met: set[str] = set()
        for image in self._plan.images:
            if image.repository == name:
                met.add(image.title)
                self._put(state, image.title, self._image(state, image))
        for problem in self._plan.problems:
            if problem.repository == name:
                met.add(problem.title)
                self._put(state, problem.title, self._problem(state, problem))
        met |= self._unplanned(state, met)
        titles = {life.path: title for title, life in state.lives.items()}
        for departure in self._plan.departures:
            if departure.repository == name:
                title = titles.get(departure.name, departure.name)
                met.add(title)
                self._put(state, title, self._departure(state, title, departure))
        if not self._config.resolve.only:  # who asks for some images says nothing of the others
            self._forsake(state, met)
        if has_ended:
            self._count(state)

    def note_holds(self, log: EventLog) -> None:
        """Enter in the event log what failed, and is held from now on."""
        for life in self._held:
            failure = life.failure
            if failure and failure.next and failure.next > self._now:
                log.emit(
                    Action.HOLD_IMAGE,
                    image=life.title,
                    repository=self._repository.name,
                    status="held",
                    error=failure.reason,
                    failures=failure.count,
                    next_try=timestamp(failure.next),
                )

    @staticmethod
    def _put(state: Kept, title: str, life: Life) -> None:
        # What has not changed is not written, which goes by identity.
        if state.lives.get(title) != life:
            state.lives[title] = life

    def _unplanned(self, state: Kept, met: Collection[str]) -> set[str]:
        """The titles of published images whose registries could not say what they are now."""
        name = self._repository.name
        paths = {path for repository, path in self._plan.unplanned if repository == name}
        paths -= {state.lives[title].path for title in met}
        titles = {life.path: title for title, life in state.lives.items()}
        for path in paths:
            life = state.lives.get(titles.get(path, path)) or Life(path, self._seen, path=path)
            self._put(state, life.title, replace(self._as_it_was(state, life), gone=None))
        return {titles.get(path, path) for path in paths}

    def _forsake(self, state: Kept, met: Collection[str]) -> None:
        share = self._config.repository.share
        for title, life in state.lives.items():
            if title not in met and life.gone is None and share.has(life.path or title):
                state.lives[title] = replace(self._as_it_was(state, life), gone=self._now)

    # --- one image ------------------------------------------------------

    def _image(self, state: Kept, image: PlannedImage) -> Life:
        life = state.lives.get(image.title) or Life(image.title, self._seen)
        life = replace(life, path=image.name, source=dict(image.source), gone=None)
        life = life.moved(str(image.manifest), self._seen)
        result, outcome = self._results.get(image.title), self._outcome(image)
        if image.state == State.PUBLISHED or outcome == Outcome.CONVERTED:
            life = life.recovered(self._now)
            if life.published != str(image.manifest) or outcome == Outcome.CONVERTED:
                life = self._published(state, life, image)
                self._converted += outcome == Outcome.CONVERTED
            return life
        if result and outcome in _TRIED and result.fault:
            key = key_of_image(image, self._plan.members)
            life = self._noted(state, life, result, key)
        return self._as_it_was(state, life)

    def _problem(self, state: Kept, problem: Problem) -> Life:
        life = state.lives.get(problem.title) or Life(problem.title, self._seen)
        life = replace(life, path=problem.path or life.path or problem.name, gone=None)
        result = self._results.get(problem.title)
        if result and result.outcome in _TRIED:
            key = key_of_problem(problem, self._plan.members)
            life = self._noted(state, life, result, key)
        return self._as_it_was(state, life)

    def _departure(self, state: Kept, title: str, departure: Departure) -> Life:
        life = state.lives.get(title) or Life(title, self._seen, path=departure.name)
        result = self._results.get(departure.name)
        if result and result.outcome == Outcome.REMOVED:
            self._removed += 1
            return replace(life, gone=self._now, published="", layers=())
        return replace(self._as_it_was(state, life), gone=life.gone or self._now)

    def _noted(self, state: Kept, life: Life, result: Result, key: str) -> Life:
        self._failed += 1
        state.count(f"failed {result.fault}")
        life = self._config.retry.noted(life, result.fault, key, result.remark, self._now)
        self._held.append(life)
        return life

    # --- what is published ----------------------------------------------

    def _published(self, state: Kept, life: Life, image: PlannedImage) -> Life:
        record = self._repository.record(image.name)
        if record is None:
            return life
        changes = life.changes
        if life.published != str(record.manifest):
            changes = self._changes(life, record)
        life = replace(self._recorded(state, life, record), changes=changes)
        wildcards = (image.repository, self._plan.flat_key(image)) if image.layers else ()
        revision = self._revisions.get((image.repository, image.name))
        life = replace(
            life,
            files=self._files.get(wildcards, life.files),
            revision=revision or life.revision,
        )
        found = next((move for move in life.moves if move.digest == life.published), None)
        waited = (life.published_at or 0.0) - found.seen if found else -1.0
        if waited >= 0 and not image.adopted:
            state.waits.append(round(waited, 1))
            state.count("visible seconds", waited)
            state.count(f"visible {next((top for top in VISIBLE if waited <= top), 'later')}")
        return life

    def _as_it_was(self, state: Kept, life: Life) -> Life:
        """With what is published of an image that is not as it is wished for."""
        record = None
        with suppress(DuccmakeError):  # a wish that is none has no place either
            record = self._repository.record(life.path)
        if record is None:
            return replace(life, published="", published_at=None, revision=None, layers=())
        return (
            life if life.published == str(record.manifest) else self._recorded(state, life, record)
        )

    def _recorded(self, state: Kept, life: Life, record: ImageRecord) -> Life:
        view = self._repository.view
        with self._repository.reading():
            at = view.mtime_ns(view.layout.record(record.name)) / 1e9
        for digest in record.layers:
            if str(digest) not in state.layers:
                state.layers[str(digest)] = self._sizes(digest, record)
        return replace(
            life,
            published=str(record.manifest),
            published_at=round(at, 3),
            revision=self._repository.revision,
            files=None,
            losses=dict(record.losses),
            layers=tuple(map(str, record.layers)),
            config=str(record.config),
            changes={},
        )

    def _sizes(self, digest: Digest, record: ImageRecord) -> LayerSizes:
        measured = self._repository.measured(digest)
        if measured is not None:
            return LayerSizes(measured.blob_bytes, measured.diff_bytes)
        with suppress(DuccmakeError):
            manifest = parse_manifest(content_store().get(record.manifest) or b"")
            if isinstance(manifest, Manifest):
                claimed = {layer.digest: layer.size for layer in manifest.layers}
                return LayerSizes(claimed.get(digest))
        return LayerSizes()

    def _changes(self, before: Life, record: ImageRecord) -> Mapping[str, Any]:
        """What changed from what was published before; empty where that is not at hand."""
        began = time.monotonic()
        try:
            if before.config in ("", str(record.config)) or self._comparing <= 0:
                return {}
            view, configs = self._repository.view, (Digest.parse(before.config), record.config)
            with self._repository.reading():
                trees = (view.lines(view.layout.flat_manifest(config)) for config in configs)
                return {"since": before.published, **asdict(compare(*trees, most=_COMPARED_FILES))}
        except (DuccmakeError, OSError, TooMany):
            return {}
        finally:
            self._comparing -= time.monotonic() - began

    # --- all together ---------------------------------------------------

    def _count(self, state: Kept) -> None:
        """What happened today, and what there is."""
        published = [life for life in state.lives.values() if life.published]
        digests = {digest for life in published for digest in life.layers}
        sizes = (state.layers.get(digest, LayerSizes()).compressed or 0 for digest in digests)
        name = time.strftime("%Y-%m-%d", time.gmtime(self._now))
        newest = max(state.days, default="")
        last = state.days.get(newest, Day(newest))
        before = state.days.get(
            name, replace(Day(name), images=last.images, compressed=last.compressed)
        )
        day = replace(
            before,
            converted=before.converted + self._converted,
            failed=before.failed + self._failed,
            removed=before.removed + self._removed,
            images=len(published),
            compressed=sum(sizes),
        )
        # A run in which nothing happened writes nothing.
        if day != before:
            state.days[name] = day
        for what, number in (("converted", self._converted), ("removed", self._removed)):
            if number:
                state.count(what, number)
        self._count_run(state)

    def _count_run(self, state: Kept) -> None:
        """How long it takes to convert images, for who asks how long others will take."""
        made = [
            image
            for image in self._plan.images
            if not image.prepared and self._outcome(image) == Outcome.CONVERTED
        ]
        mine = [image for image in made if image.repository == self._repository.name]
        keys = {self._plan.key(layer.digest) for image in mine for layer in image.layers}
        if mine:
            state.count(RUN_IMAGES, len(mine))
            state.count(RUN_BYTES, sum(self._fetched.get(key, 0) for key in keys))
            state.count(RUN_SECONDS, (self._now - self._seen) * len(mine) / len(made))

    def _outcome(self, image: PlannedImage) -> Outcome | None:
        result = self._results.get(image.title)
        return result.outcome if result else None
