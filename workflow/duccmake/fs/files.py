"""What is remembered between runs: manifests by digest, and what tags meant when last asked.

All of it can be lost without harm: it costs a poll, never a conversion.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import InvalidReference
from ..oci.reference import Digest


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old content or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(content)
        temporary = Path(name)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def append_line(path: Path, line: bytes) -> None:
    """Append a line in one piece; what a crash cut short before it gets its own end.

    The directory has to be there.  Raises `OSError`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            line = b"\n" + line
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def remove_tree(path: Path) -> None:
    """Remove a directory with all that is in it, a file or a symlink; nothing is fine as well."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


class ContentStore:
    """Small content (manifests, configurations) under its digest."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def put(self, digest: Digest, content: bytes) -> None:
        """Keep ``content``, which the caller has verified to have this digest."""
        if not self.has(digest):
            write_atomically(self.path(digest), content)

    def has(self, digest: Digest) -> bool:
        """Whether the content is kept, whole."""
        return self.get(digest) is not None

    def get(self, digest: Digest) -> bytes | None:
        """The content, or None where it is not kept or was damaged since."""
        try:
            with open(self._name(digest), "rb") as file:
                content = file.read()
        except OSError:
            return None
        return content if hashlib.new(digest.algorithm, content).hexdigest() == digest.hex else None

    def path(self, digest: Digest) -> Path:
        """Where the content is kept."""
        return Path(self._name(digest))

    def _name(self, digest: Digest) -> str:
        # A poll reads thousands, and putting a Path together costs more than reading.
        return f"{self._root}/{digest.algorithm}/{digest.prefix}/{digest.hex}"


class LineMemory:
    """Values by key that outlast a run, in a file with a line of JSON each, ``[key, value]``.

    The last line of a key counts; what cannot be read is as if it never was noted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Any:
        """What was noted last of ``key``, or None."""
        return self._known.get(key)

    def note(self, key: str, value: Any) -> None:
        """Keep a value (of JSON's kinds)."""
        self._known[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._path, json.dumps([key, value]).encode() + b"\n")

    @cached_property
    def _known(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return {}
        for line in lines:
            try:
                key, value = json.loads(line)
                known[str(key)] = value
            except (ValueError, TypeError):
                continue  # of a run that was killed
        return known


@dataclass(frozen=True, slots=True)
class Poll:
    """What a reference meant for a platform: index or manifest, manifest, configuration.

    ``checked`` is when the registry said so, in seconds since the epoch.
    """

    top: Digest
    manifest: Digest
    config: Digest
    checked: float


class PollMemory:
    """The last poll of each reference and the last tags of each glob, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        members = self._read()
        self._polls = _mapping(members.get("polls"))
        self._tags = _mapping(members.get("tags"))
        self._absent = _mapping(members.get("absent"))
        self._before = self._text()

    def poll(self, key: str) -> Poll | None:
        """The last poll of ``key``, if there was one."""
        try:
            top, manifest, config, checked = self._polls[key]
            return Poll(
                Digest.parse(top), Digest.parse(manifest), Digest.parse(config), float(checked)
            )
        except (KeyError, TypeError, ValueError, InvalidReference):
            return None

    def remember(self, key: str, poll: Poll) -> None:
        """Keep a poll."""
        self._polls[key] = [
            str(poll.top),
            str(poll.manifest),
            str(poll.config),
            round(poll.checked, 3),
        ]

    def tags(self, key: str) -> tuple[tuple[str, ...], float] | None:
        """The last tags of a glob's repository, and when they were listed."""
        try:
            tags, checked = self._tags[key]
            return tuple(str(tag) for tag in tags), float(checked)
        except (KeyError, TypeError, ValueError):
            return None

    def remember_tags(self, key: str, tags: tuple[str, ...], checked: float) -> None:
        """Keep a listing."""
        self._tags[key] = [list(tags), round(checked, 3)]

    def absent_since(self, name: str) -> float | None:
        """Since when, if so, polls have found that the registry lacks an image's tag.

        In seconds since the epoch.  Polls that failed do not count, either way.
        """
        since = self._absent.get(name)
        return float(since) if isinstance(since, (int, float)) else None

    def note_absence(self, name: str, now: float) -> None:
        """Keep that the registry lacks an image's tag; a first time stands."""
        if self.absent_since(name) is None:
            self._absent[name] = round(now, 3)

    def note_presence(self, name: str) -> None:
        """Keep that the registry has an image's tag."""
        self._absent.pop(name, None)

    def save(self) -> None:
        """Write the file, if anything changed."""
        text = self._text()
        if text != self._before:
            write_atomically(self._path, text.encode())
            self._before = text

    def _text(self) -> str:
        members = {"polls": self._polls, "tags": self._tags, "absent": self._absent}
        return json.dumps(members, indent=0, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        try:
            return _mapping(json.loads(self._path.read_bytes()))
        except (OSError, ValueError):
            return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
