"""Complete layers for their chains: what is added to a layer, as values.

The rules are those of `duccmake.repository.amend`: nothing is taken away, a layer
that no image has yet gets other attributes on the directories that it only
implies, and what another chain has put in a place stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ... import mtree
from ...errors import RepositoryError
from ...mtree import Entry, decode_path, encode_path
from ..amend import is_taken, tree_order


class Completed:
    """A layer with what its chains have it need; ``manifest`` is the layer's own.

    ``added`` are the entries that are new or made anew, by path, and ``links`` says
    where the files among them are published.  ``new``: the layer is not published yet.
    """

    def __init__(self, manifest: Path, *, new: bool) -> None:
        # Most lines stay as they are and are never taken apart.
        self._lines: dict[bytes, bytes] = {}
        with manifest.open("rb") as lines:
            for line in lines:
                if not line.startswith(b"#"):
                    self._lines[line.partition(b" ")[0]] = line
        self.new = new
        self.added: dict[bytes, Entry] = {}
        self.links: dict[bytes, bytes] = {}
        self._chains = 0
        self._in_order = True

    def complete(
        self, wanted: Iterable[Entry], layers: Sequence[bytes], is_there: Callable[[bytes], bool]
    ) -> None:
        """Add what one chain wants; ``layers`` are its layers' trees, lowest first.

        ``is_there`` tells whether a path of the layer is published.
        """
        for entry, link in self._missing(wanted, layers, is_there):
            if link:
                self.links[entry.path] = link
            self._add(entry)
        self._chains += 1

    def taken(self, wanted: Iterable[Entry]) -> int:
        """In how many places of its links another chain has another file."""
        pairs = ((entry, self._entry(entry.path)) for entry in wanted)
        return sum(have is not None and is_taken(entry, have) for entry, have in pairs)

    def lacks(
        self, wanted: Iterable[Entry], layers: Sequence[bytes], is_there: Callable[[bytes], bool]
    ) -> bool:
        """Whether `complete` would add something."""
        return any(True for _ in self._missing(wanted, layers, is_there))

    def _missing(
        self, wanted: Iterable[Entry], layers: Sequence[bytes], is_there: Callable[[bytes], bool]
    ) -> Iterator[tuple[Entry, bytes]]:
        """What is to be added, and the published path of what is a link."""
        fresh = self.new and self._chains == 0
        for entry in wanted:
            have = self._entry(entry.path)
            if entry.kind == mtree.DIR:
                if have is None:
                    yield entry, b""
                elif fresh and have.kind == mtree.DIR and b"implied" in have.flags:
                    # The layer's own word on whether it is opaque stands.
                    yield replace(entry, flags=entry.flags | have.flags), b""
            elif b"whiteout" in entry.flags:
                if have is None:
                    yield entry, b""
            elif have is None or (
                b"lower" in have.flags and entry.path not in self.links and not is_there(entry.path)
            ):
                if entry.layer is None or entry.layer >= len(layers):
                    raise RepositoryError(f"{entry.path!r} of a layer's amendments names no layer")
                link = b"%b/%b" % (layers[entry.layer], entry.content_path)
                if have is not None:
                    # Another chain may have another file there: what the layer says is kept.
                    flags = entry.flags | have.flags
                    entry = replace(entry, flags=flags, hardlink=have.hardlink)
                yield entry, link

    def _entry(self, path: bytes) -> Entry | None:
        line = self._lines.get(encode_path(path))
        return None if line is None else Entry.parse(line)

    def _add(self, entry: Entry) -> None:
        plain = replace(entry, layer=None, source=b"")
        key = encode_path(entry.path)
        self._in_order &= key in self._lines
        self._lines[key] = plain.line()
        self.added[entry.path] = plain

    def lines(self) -> Iterable[bytes]:
        """The whole manifest, parents first."""
        if not self._in_order:
            self._lines = dict(sorted(self._lines.items(), key=_line_order))
            self._in_order = True
        return self._lines.values()

    def additions(self) -> list[Entry]:
        """What was added, parents first."""
        return sorted(self.added.values(), key=tree_order)


def _line_order(item: tuple[bytes, bytes]) -> list[tuple[bool, bytes]]:
    """As `tree_order` has it, from the path and the line."""
    path, line = item
    if path == b".":
        return []
    *parents, name = decode_path(path).split(b"/")
    return [(True, parent) for parent in parents] + [(b" type=dir " in line, name)]
