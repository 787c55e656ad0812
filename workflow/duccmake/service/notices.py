"""Notices that wait for the watcher: a folder with a file for each image, which outlives us all.

A notice that has been put is on the disk.  However often the same one comes, it is
one file.  The watcher takes all that there are, polls, and drops them when the
poll is done; what came meanwhile is new again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..errors import DuccmakeError

MAX_NOTICES = 10_000
"""So many may wait; a sender is asked to come back later with more."""


class QueueFull(DuccmakeError):
    """More notices wait than the folder may hold."""


@dataclass(frozen=True, slots=True, order=True)
class Notice:
    """Something happened to an image, says ``sender``: a ``push`` or a ``delete``.

    ``image`` is a name as the wish list has it, its tag perhaps a glob; empty where the
    sender could not say which.
    """

    image: str
    action: str = "push"
    sender: str = ""

    @property
    def key(self) -> str:
        """What makes two notices the same."""
        return hashlib.sha256(f"{self.action} {self.image}".encode()).hexdigest()[:40]


class NoticeQueue:
    """The folder ``path``: notices in ``new``, those that a poll is about in ``taken``."""

    def __init__(self, path: Path) -> None:
        self._new, self._taken = path / "new", path / "taken"

    @property
    def new(self) -> Path:
        """The folder in which a file appears for each notice that is put."""
        return self._new

    def prepare(self) -> None:
        """Make the folders."""
        for directory in (self._new, self._taken):
            directory.mkdir(parents=True, exist_ok=True)

    def put(self, notice: Notice) -> bool:
        """Keep a notice, on the disk when this returns; False if it waits already.

        Raises `QueueFull`, and OSError where the folder cannot be written.
        """
        path = self._new / f"{notice.key}.json"
        if path.exists():
            return False
        if self.waiting() >= MAX_NOTICES:
            raise QueueFull(
                f"{MAX_NOTICES} notices wait in {self._new}", hint="see whether the watcher runs"
            )
        members = {
            "image": notice.image,
            "action": notice.action,
            "sender": notice.sender,
            "time": round(time.time(), 3),
        }
        descriptor, name = tempfile.mkstemp(dir=self._new, prefix=".", suffix=".tmp")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(json.dumps(members).encode())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        _sync(self._new)
        return True

    def stands(self, notice: Notice) -> Literal["new", "taken", "done"]:
        """Whether such a notice waits, or a poll is about it; or neither."""
        name = f"{notice.key}.json"
        if (self._new / name).exists():
            return "new"
        return "taken" if (self._taken / name).exists() else "done"

    def waiting(self) -> int:
        """How many notices are new."""
        return sum(not path.name.startswith(".") for path in self._new.iterdir())

    def take(self) -> list[Notice]:
        """Take all that wait, those that were taken by somebody who died among them."""
        for path in self._new.glob("[!.]*.json"):
            with suppress(FileNotFoundError):
                path.replace(self._taken / path.name)
        return sorted(filter(None, map(_read, self._taken.glob("*.json"))))

    def drop(self, notices: Iterable[Notice]) -> None:
        """Forget what was taken: a poll has seen it."""
        for notice in notices:
            (self._taken / f"{notice.key}.json").unlink(missing_ok=True)


def _read(path: Path) -> Notice | None:
    """A notice, or None for a file that is none, which is removed."""
    try:
        members = json.loads(path.read_bytes())
        notice = Notice(str(members["image"]), str(members["action"]), str(members["sender"]))
        if path.name == f"{notice.key}.json":
            return notice
    except (OSError, ValueError, KeyError, TypeError):
        pass
    path.unlink(missing_ok=True)
    return None


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
