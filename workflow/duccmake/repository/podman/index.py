"""The index files of an image store, ``images.json`` and ``layers.json``, as values.

containers/storage reads them whole, refuses a name that two entries have, and
passes over members that it does not know.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import RepositoryError
from ..edits import Edits

Entry = dict[str, Any]


class Index:
    """The entries of an index file by their id, in the file's order.

    Of entries with one id, and of images with one name, the last counts; a layer is
    not its own parent.  `RepositoryError` with its ``path`` where the file is damaged.
    """

    def __init__(self, content: bytes, path: Path) -> None:
        self.entries: dict[str, Entry] = {}
        self._names: dict[str, Entry] = {}
        for entry in _parse(content, path):
            identity = entry["id"]
            if entry.get("parent") == identity:
                del entry["parent"]
            if identity in self.entries:
                known = self.entries.pop(identity)
                entry["names"] = [*known.get("names", ()), *entry.get("names", ())]
            self.entries[identity] = entry
        for entry in self.entries.values():
            if "names" in entry:
                self.name(entry, entry["names"])

    def name(self, entry: Entry, names: object) -> None:
        """Give an entry these names and no other; whoever had one of them loses it."""
        wished = dict.fromkeys(map(str, names if isinstance(names, list | tuple) else ()))
        for name in entry.get("names", ()):
            if self._names.get(name) is entry:
                del self._names[name]
        for name in wished:
            owner = self._names.get(name)
            if owner is not None:
                owner["names"] = [other for other in owner["names"] if other != name]
            self._names[name] = entry
        if wished or "names" in entry:
            entry["names"] = list(wished)

    def dump(self) -> bytes:
        """The file's content."""
        return json.dumps(list(self.entries.values()), separators=(",", ":")).encode() + b"\n"


def save(edits: Edits, index: Index, path: PurePosixPath) -> None:
    """Write an index file, and its lock file after it."""
    content = index.dump()
    edits.file(path, content)
    edits.file(path.with_name(f"{path.stem}.lock"), last_writer(content))


def last_writer(content: bytes) -> bytes:
    """What the lock file of an index holds: 64 bytes that are others after each change.

    By them a process that runs on, such as CRI-O, sees that it has to read the
    index again.
    """
    return hashlib.sha256(content).hexdigest().encode()


def _parse(content: bytes, path: Path) -> list[Entry]:
    if not content:
        return []
    try:
        entries = json.loads(content)
        # An empty list is null as Go writes it.
        return [entry for entry in entries or [] if isinstance(entry["id"], str)]
    except (ValueError, KeyError, TypeError):
        raise RepositoryError(
            f"{path} is damaged",
            hint=f"remove {path.parents[1]}: the next run writes it anew",
        ) from None
