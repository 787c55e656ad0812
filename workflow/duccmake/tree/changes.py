"""What changed from one tree to another, by their manifests: in numbers, and the largest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from heapq import nlargest

from .mtree import has_tag

NAMED = 10
"""So many files are named."""

_PATH_BYTES = 200
"""So much of a path is kept: its end."""

_FILE = re.compile(
    rb"\./(\S+) type=file .*?size=([0-9]+) (time=\S+)(?: sha256=([0-9a-f]+))?.*\n?\Z"
)


class TooMany(Exception):
    """The trees have more files than are compared."""


@dataclass(frozen=True, slots=True)
class Part:
    """Files that were added, removed or changed, and their sizes together.

    Of those that changed the sizes are what they are now.
    """

    files: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """Files of one tree compared with those of another.

    ``largest`` are the largest of them, each "added", "removed" or "changed", its path as
    manifests have it, and its size.
    """

    added: Part
    removed: Part
    changed: Part
    largest: tuple[tuple[str, str, int], ...]


def compare(before: Iterable[bytes], after: Iterable[bytes], *, most: int) -> Changes:
    """What changed, by the lines of two manifests of flat trees.

    A file has changed where its content has, or where no digest of that is known, its time.
    Files that no layer has are left out.  Raises `TooMany` where a tree has more than
    ``most`` files.
    """
    old: dict[bytes, tuple[int, bytes]] = {}
    for path, size, mark in _files(before, most):
        old[path] = size, mark
    found: list[tuple[int, str, bytes]] = []
    for path, size, mark in _files(after, most):
        was = old.pop(path, None)
        if was is None:
            found.append((size, "added", path))
        elif was != (size, mark):
            found.append((size, "changed", path))
    found += [(size, "removed", path) for path, (size, _) in old.items()]
    return Changes(
        **{kind: _part(found, kind) for kind in ("added", "removed", "changed")},
        largest=tuple((kind, _text(path), size) for size, kind, path in nlargest(NAMED, found)),
    )


def _files(lines: Iterable[bytes], most: int) -> Iterable[tuple[bytes, int, bytes]]:
    number = 0
    for line in lines:
        match = _FILE.match(line)
        if match and not has_tag(line, b"generated"):
            number += 1
            if number > most:
                raise TooMany
            path, size, moment, digest = match.groups()
            yield path, int(size), digest or moment


def _part(found: Iterable[tuple[int, str, bytes]], wanted: str) -> Part:
    sizes = [size for size, kind, _ in found if kind == wanted]
    return Part(len(sizes), sum(sizes))


def _text(path: bytes) -> str:
    kept = path if len(path) <= _PATH_BYTES else b"..." + path[-_PATH_BYTES:]
    return kept.decode("ascii", "backslashreplace")
