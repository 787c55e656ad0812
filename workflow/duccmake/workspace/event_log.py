"""The event log: what happened to which image and layer, as lines of JSON.

A superset of DUCC's notification file: the same members with the same names, all
of them texts, so that what reads that file reads this one.  Jobs of several
processes write it at a time.
"""

from __future__ import annotations

import json
import logging
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from ..errors import DuccmakeError
from ..fs.files import append_line
from ..fs.locks import locked

logger = logging.getLogger(__name__)

_MAX_TEXT = 4000


class Action(StrEnum):
    """What events are about, as DUCC calls it where it has the same.

    Those without ``start_`` or ``end_`` that are used with `EventLog.span` get both.
    """

    START_DUCC = "start_ducc"
    END_DUCC = "end_ducc"
    START_IMAGE = "start_image"
    END_IMAGE = "end_image"
    REMOVE_IMAGE = "remove_image"
    HOLD_IMAGE = "hold_image"
    PROBLEM = "problem"
    PUBLISH_LAYER = "publish_layer"
    PUBLISH_FLAT_IMAGE = "publish_flat_image"
    LAYER_DOWNLOAD = "layer_download"
    LAYER_CONVERSION = "layer_conversion"
    FLAT_CONVERSION = "flat_conversion"
    PUBLICATION = "publication"
    THIN_PUSH = "thin_push"


@dataclass(frozen=True, slots=True)
class EventSettings:
    """Where events go: a ``file`` of up to ``max_bytes``, and ``keep`` older ones."""

    file: Path | None = Path("logs/events.jsonl")
    max_bytes: int = 50_000_000
    keep: int = 5


class Span:
    """Something that has begun: what is known of it by its end is added here."""

    def __init__(self) -> None:
        self.members: dict[str, object] = {}

    def size(self, count: int) -> None:
        """Say how many bytes it was about."""
        self.members["size_bytes"] = count


class EventLog:
    """Appends events; ``run``, if given, is a member of each.

    A log that cannot be written is warned of once, and stops nothing.
    """

    def __init__(self, settings: EventSettings, *, run: str = "") -> None:
        self._settings = settings
        self._run = run
        self._broken = False

    def emit(self, action: str, **members: object) -> None:
        """Append one event.  Members that are None are left out.

        ``time`` is the local time in DUCC's form, ``timestamp`` the same in UTC
        (RFC 3339).
        """
        now = datetime.now(UTC)
        local = now.astimezone()
        event = {
            "action": action,
            **{
                name: str(value)[:_MAX_TEXT] for name, value in members.items() if value is not None
            },
            **({"run": self._run} if self._run else {}),
            "time": f"{local:%e %b %Y - %H:%M:%S}.{local.microsecond // 1000:03}",
            "timestamp": now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        self._append(json.dumps(event).encode() + b"\n")

    @contextmanager
    def span(self, action: str, **members: object) -> Iterator[Span]:
        """Emit ``start_ACTION`` and, when the block is left, ``end_ACTION`` with the same id.

        The end has ``status`` (``ok`` or ``error``, then with ``error``) and
        ``time_elapsed_s``.
        """
        members = {**members, "id": uuid.uuid4()}
        self.emit(f"start_{action}", **members)
        span, began = Span(), time.monotonic()
        status: dict[str, object] = {"status": "ok"}
        try:
            yield span
        except BaseException as error:
            found = str(error) if isinstance(error, DuccmakeError) else repr(error)
            status = {"status": "error", "error": found}
            raise
        finally:
            elapsed = f"{time.monotonic() - began:.6f}"
            self.emit(
                f"end_{action}", **{**members, **span.members, **status, "time_elapsed_s": elapsed}
            )

    def _append(self, line: bytes) -> None:
        path = self._settings.file
        if path is None or self._broken:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f".{path.name}.lock")):
                self._rotate(path, len(line))
                append_line(path, line)
        except OSError as error:
            self._broken = True
            logger.warning("the event log %s cannot be written: %s", path, error.strerror)

    def _rotate(self, path: Path, coming: int) -> None:
        try:
            if path.stat().st_size + coming <= self._settings.max_bytes:
                return
        except FileNotFoundError:
            return
        if self._settings.keep == 0:
            path.unlink()
            return
        for number in range(self._settings.keep - 1, 0, -1):
            older = path.with_name(f"{path.name}.{number}")
            if older.exists():
                older.replace(path.with_name(f"{path.name}.{number + 1}"))
        path.replace(path.with_name(f"{path.name}.1"))
