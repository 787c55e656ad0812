"""The document of a run: how each image stands, for programs and for the page made of it.

``status.schema.yaml`` beside this module has its members with their meaning; they are called
as here.  Times are in seconds since the epoch, sizes in bytes; None is what nobody knows.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from .. import __version__
from ..state.model import Move

FORMAT = 1
"""Version of the document; raised where a member goes or means something else."""


class Sync(StrEnum):
    """Whether an image is as it is wished for, or will be."""

    UP_TO_DATE = "up to date"
    PENDING = "pending"
    HELD = "held"
    LEAVING = "leaving"


class Health(StrEnum):
    """Whether something is wrong with an image."""

    OK = "ok"
    FAILING = "failing"
    STALE = "stale"
    DEGRADED = "degraded"


@dataclass(frozen=True, slots=True)
class Failed:
    """Tries that failed one after another; ``next`` is when it is tried again, if that waits.

    ``ended`` is when it came right, or when something else was tried.
    """

    kind: str
    reason: str
    first: float
    last: float
    count: int
    next: float | None = None
    ended: float | None = None


@dataclass(frozen=True, slots=True)
class Sizes:
    """How large an image is; ``own`` is what no other image of the repository shares.

    ``compressed`` and ``own`` are of blobs, ``unpacked`` of what they unpack to, and ``files``
    counts the entries of the flat tree.
    """

    compressed: int | None = None
    unpacked: int | None = None
    files: int | None = None
    own: int | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a wish list, or one that leaves; ``layers`` are places in those of all."""

    name: str
    title: str
    repository: str
    platform: str
    platforms: tuple[str, ...]
    wish: Mapping[str, str]
    sync: Sync
    health: Health
    verdict: str
    reason: str
    next_try: float | None
    wanted: str
    current: str
    history: tuple[Move, ...]
    first_seen: float | None
    published: float | None
    revision: int | None
    failure: Failed | None
    failures: tuple[Failed, ...]
    sizes: Sizes
    losses: Mapping[str, int]
    layers: tuple[int, ...]
    paths: Mapping[str, str]
    changes: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer of published images, and how many of them have it."""

    repository: str
    digest: str
    bytes: int | None
    unpacked: int | None
    images: int


@dataclass(frozen=True, slots=True)
class Day:
    """What happened in a day (UTC), and what there was at the end of its last run."""

    day: str
    converted: int
    failed: int
    removed: int
    images: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Totals:
    """All images together; ``bytes`` counts each layer once, ``shared`` those of several images."""

    images: int = 0
    sync: Mapping[str, int] = field(default_factory=dict)
    health: Mapping[str, int] = field(default_factory=dict)
    layers: int = 0
    bytes: int = 0
    shared: int = 0


@dataclass(frozen=True, slots=True)
class Document:
    """All of it; ``run`` is the last run (`duccmake.run.status.Status`).

    ``last_success`` is when one ended last in which nothing failed.
    """

    made: float = 0.0
    version: str = __version__
    run: Mapping[str, Any] | None = None
    last_success: float | None = None
    totals: Totals = field(default_factory=Totals)
    days: tuple[Day, ...] = ()
    push_to_visible: tuple[float, ...] = ()
    layers: tuple[Layer, ...] = ()
    images: tuple[Image, ...] = ()
    format: int = FORMAT

    def to_json(self) -> bytes:
        """The document as a file has it."""
        return json.dumps(self, default=_members).encode() + b"\n"


def _members(value: Any) -> Mapping[str, Any]:
    """A value's members as they are: `dataclasses.asdict` copies all that is below them."""
    return {name: getattr(value, name) for name in type(value).__slots__}


def timestamp(moment: float | None) -> str:
    """A time as tables have it (RFC 3339, UTC); empty where it is not known."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment)) if moment else ""


def schema() -> Mapping[str, Any]:
    """The JSON schema of the document."""
    import yaml

    text = Path(__file__).with_name("status.schema.yaml").read_text()
    found: Mapping[str, Any] = yaml.safe_load(text)
    return found
