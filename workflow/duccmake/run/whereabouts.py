"""Where an image is that somebody asks for, by what runs leave in the working directory.

Nothing is guessed: who is told that bytes were fetched is told of files that are there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from ..errors import one_line
from ..planning.model import PlannedImage
from ..planning.model import State as Planned
from ..planning.plan import Plan
from ..planning.poll_memory import PollMemory
from ..products import Product
from ..workspace.reports import Arrivals, Kind
from ..workspace.results import POLLS, RUNS, STATUS, staged_flat_tree, staged_layer
from .document import Health, Sync
from .progress import Gauge
from .status import read_document
from .table import newest_plan

T = TypeVar("T")

_FOLLOWED = 256
"""Of so many images at a time it is known what was there when they were first asked for."""


class State(StrEnum):
    """How far an image is."""

    QUEUED = "queued"
    RESOLVING = "resolving"
    FETCHING = "fetching"
    UNPACKING = "unpacking"
    PUBLISHING = "publishing"
    VISIBLE = "visible"
    FAILED = "failed"


FINAL = frozenset({State.VISIBLE, State.FAILED})
"""States in which waiting is over."""


class Waiting(StrEnum):
    """Whether a notice of an image is yet to be acted on, or a run acts on it, or one has."""

    NEW = "new"
    TAKEN = "taken"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Asked:
    """An image by its ``name`` in the wish list, and when somebody asked for it.

    With a ``digest`` it is visible where the name leads to that one, be it the manifest's or
    that of an index.  ``since`` is in seconds since the epoch; for 0 it counts how all stood at
    the end of the last run.
    """

    name: str
    digest: str = ""
    since: float = 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """A run that is under way: its process, and when it was started."""

    pid: int
    began: float


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an image is, and why not further.

    ``next_try`` is when it is tried again, in seconds since the epoch, and None where the next
    run does so.  ``fetched`` of ``bytes`` are here, while that is known.  ``revision`` is one of
    the repository that has it, where there are revisions, and ``manifests`` are those that are
    published, one a platform.
    """

    image: str
    digest: str
    state: State
    reason: str = ""
    next_try: float | None = None
    revision: int | None = None
    fetched: int | None = None
    bytes: int | None = None
    manifests: tuple[str, ...] = ()


def is_there(manifests: Collection[str], digest: str, meant: Collection[str]) -> bool:
    """Whether a digest is what published manifests, one a platform, are.

    It is that of one of them, or of an index of which all are ``meant``.
    """
    if not digest or not manifests:
        return False
    return digest in manifests or set(meant).issuperset(manifests)


class Whereabouts:
    """Answers for the working directory that this process is in; from several threads, too."""

    def __init__(self) -> None:
        self._document = _Kept(STATUS, lambda: _by_name(read_document(Path())))
        self._polls = _Kept(POLLS, lambda: PollMemory(POLLS))
        self._plan: tuple[Path, Plan] | None = None
        self._followed: OrderedDict[tuple[Path, int, Asked], _Followed] = OrderedDict()
        self._lock = threading.Lock()

    def last_run(self) -> Mapping[str, Any]:
        """The last run, as the document has it; empty where there has been none."""
        return self._document.value().run

    def look(self, asked: Asked, waiting: Waiting, run: Running | None = None) -> Progress:
        """How far an image is, given whether a notice of it waits and which run is under way."""
        found = self._document.value()
        images = found.images.get(asked.name, [])
        meant = self._meant(asked.digest)
        start = Progress(asked.name, asked.digest, State.QUEUED)
        if images and is_there({image["current"] for image in images}, asked.digest, meant):
            return _visible(start, images)
        if waiting is Waiting.NEW:
            return start
        if waiting is Waiting.TAKEN and run is not None:
            return self._follow(asked, run, start, meant)
        if waiting is Waiting.TAKEN or found.began < asked.since:
            return replace(start, reason=found.run.get("error", ""))
        return _told(asked, start, images, meant)

    def _meant(self, digest: str) -> set[str]:
        """The digest, and what was found behind it where it is an index."""
        return {digest} | self._polls.value().manifests_of(digest) if digest else set()

    def _follow(self, asked: Asked, run: Running, start: Progress, meant: set[str]) -> Progress:
        """What a run under way has come to."""
        plan = newest_plan(Path())
        if plan is None or plan.stat().st_mtime < run.began:
            return replace(start, state=State.RESOLVING)
        with self._lock:
            key = plan, run.pid, asked
            if key not in self._followed:
                directory = RUNS / f"{plan.stem[:12]}-{run.pid}"
                self._followed[key] = _Followed(
                    self._loaded(plan), directory, asked.name, asked.digest
                )
            self._followed.move_to_end(key)
            while len(self._followed) > _FOLLOWED:
                self._followed.popitem(last=False)
            return self._followed[key].progress(start, meant)

    def _loaded(self, path: Path) -> Plan:
        if self._plan is None or self._plan[0] != path:
            self._plan = path, Plan.load(path)
        return self._plan[1]


@dataclass(frozen=True, slots=True)
class _Known:
    """The document: its images by their names in wish lists, and the last run."""

    images: Mapping[str, list[Mapping[str, Any]]]
    run: Mapping[str, Any]

    @property
    def began(self) -> float:
        """When the last run began; it saw all that had happened by then."""
        return float(self.run.get("ended", 0.0)) - float(self.run.get("seconds", 0.0))


def _by_name(document: Mapping[str, Any]) -> _Known:
    images: dict[str, list[Mapping[str, Any]]] = {}
    for image in document.get("images", ()):
        # Of several platforms each is an image, with the platform behind its name.
        images.setdefault(image["title"].partition(" ")[0], []).append(image)
    return _Known(images, document.get("run") or {})


def _visible(start: Progress, images: list[Mapping[str, Any]]) -> Progress:
    revisions = [image["revision"] for image in images if image["revision"] is not None]
    manifests = tuple(sorted({image["current"] for image in images}))
    revision = max(revisions, default=None)
    return replace(start, state=State.VISIBLE, revision=revision, manifests=manifests)


def _told(
    asked: Asked, start: Progress, images: list[Mapping[str, Any]], meant: set[str]
) -> Progress:
    """What the last run says of an image that is not visible as it was asked for."""
    if not images:
        words = "the last run found no such image: see its tag, and what the wish list lets pass"
        return replace(start, state=State.FAILED, reason=words)
    if asked.digest and not asked.since and not all(one["wanted"] in meant for one in images):
        return start  # it may have been pushed since
    for image in images:
        if image["health"] in (Health.FAILING, Health.STALE) or image["sync"] == Sync.LEAVING:
            reason = image["reason"] or image["verdict"]
            return replace(start, state=State.FAILED, reason=reason, next_try=image["next_try"])
    for image in images:
        if image["sync"] != Sync.UP_TO_DATE:
            return replace(start, reason=image["reason"])
    if asked.digest:
        words = f"its tag leads to {images[0]['current']}"
        return replace(start, state=State.FAILED, reason=words)
    return _visible(start, images)


class _Followed:
    """An image of a plan that a run is about."""

    def __init__(self, plan: Plan, run: Path, name: str, digest: str) -> None:
        self._plan = plan
        self._digest = digest
        self._images = [image for image in plan.images if image.reference.name == name]
        held = [image.why for image in self._images if image.state == Planned.HELD]
        told = [one.reason for one in plan.problems if one.name == name]
        self._reason = one_line(next(iter(held + told), ""))
        self._pending = [image for image in self._images if plan.wants(image)]
        self._gauge = Gauge(plan, run, self._pending) if self._pending else None
        self._failures = Arrivals(run, Kind.FAILED)
        self._published = Arrivals(run, Kind.PUBLISHED)
        self._revision: int | None = None
        self._parts = set[str]().union(*map(self._keys, self._pending))

    def _keys(self, image: PlannedImage) -> set[str]:
        """What the jobs of an image go by."""
        layers = {self._plan.key(layer.digest) for layer in image.layers}
        return {image.name, self._plan.flat_key(image), *layers}

    def progress(self, start: Progress, meant: set[str]) -> Progress:
        """How far it is now."""
        for failure in self._failures.new():
            if not self._parts.isdisjoint(failure.job.wildcards):
                self._reason = one_line(failure.words)
        for report in self._published.new():
            if report.subject in {image.title for image in self._pending}:
                self._revision = max(self._revision or 0, report.revision)
        start = replace(start, reason=self._reason)
        if self._gauge is None:
            return (
                self._visible(start)
                if self._is_up_to_date(meant)
                else replace(start, state=State.RESOLVING)
            )
        now = self._gauge.read()
        start = replace(start, fetched=now.fetched, bytes=now.to_fetch)
        if now.fetched < now.to_fetch:
            return replace(start, state=State.FETCHING)
        if now.images == now.all_images and self._is_whole(meant):
            return self._visible(start)
        is_staged = all(map(self._is_staged, self._pending))
        return replace(start, state=State.PUBLISHING if is_staged else State.UNPACKING)

    def _visible(self, start: Progress) -> Progress:
        manifests = tuple(sorted({str(image.manifest) for image in self._images}))
        return replace(start, state=State.VISIBLE, revision=self._revision, manifests=manifests)

    def _is_up_to_date(self, meant: set[str]) -> bool:
        """Whether the run found all published as it is wished for, and nothing to be done."""
        good = (image.state == Planned.PUBLISHED and not image.why for image in self._images)
        return bool(self._images) and all(good) and self._is_whole(meant)

    def _is_whole(self, meant: set[str]) -> bool:
        """Whether what is published now is what was asked for."""
        manifests = {str(image.manifest) for image in self._images}
        return not meant or is_there(manifests, self._digest, meant)

    def _is_staged(self, image: PlannedImage) -> bool:
        """Whether all is made of an image that is to be published of it."""
        if image.prepared:
            return True
        if Product.FLAT in image.products:
            return staged_flat_tree(image.repository, self._plan.flat_key(image)).exists()
        layers = self._plan.staged_layers(image)
        return all(staged_layer(image.repository, key).exists() for key in layers)


class _Kept(Generic[T]):
    """What a file stands for, read again when the file is another."""

    def __init__(self, path: Path, read: Callable[[], T]) -> None:
        self._path = path
        self._read = read
        self._stamp: object = None
        self._value: T | None = None
        self._lock = threading.Lock()

    def value(self) -> T:
        """What it stands for now."""
        with self._lock:
            stamp = _stamp(self._path)
            if self._value is None or stamp != self._stamp:
                self._value, self._stamp = self._read(), stamp
            return self._value


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
