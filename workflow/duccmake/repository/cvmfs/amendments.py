"""Complete layers for their chains: what is added to a layer, as values.

The rules are those of `duccmake.repository.amend`: nothing is taken away, a layer
that no image has yet gets other attributes on the directories that it only
implies, and what another chain has put in a place stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ... import mtree
from ...errors import RepositoryError
from ...mtree import Entry
from ..amend import tree_order


@dataclass(slots=True)
class Completed:
    """A layer with what chains have it need.

    ``entries`` are the whole layer's by path, ``added`` the paths of those that are
    new or made anew, ``links`` where the files among them are published.
    ``new`` says whether the layer is not published yet.
    """

    entries: dict[bytes, Entry]
    new: bool
    added: dict[bytes, None] = field(default_factory=dict)
    links: dict[bytes, bytes] = field(default_factory=dict)
    _chains: int = 0

    def complete(
        self, wanted: Iterable[Entry], layers: Sequence[bytes], is_there: Callable[[bytes], bool]
    ) -> None:
        """Add what one chain wants; ``layers`` are its layers' trees, lowest first.

        ``is_there`` tells whether a path of the layer is published.
        """
        fresh = self.new and self._chains == 0
        self._chains += 1
        for entry in wanted:
            have = self.entries.get(entry.path)
            if entry.kind == mtree.DIR:
                if have is None:
                    self._add(entry)
                elif fresh and have.kind == mtree.DIR and b"implied" in have.flags:
                    # The layer's own word on whether it is opaque stands.
                    self._add(replace(entry, flags=entry.flags | have.flags))
            elif b"whiteout" in entry.flags:
                if have is None:
                    self._add(entry)
            elif have is None or (
                b"lower" in have.flags and entry.path not in self.links and not is_there(entry.path)
            ):
                if entry.layer is None or entry.layer >= len(layers):
                    raise RepositoryError(f"{entry.path!r} of a layer's amendments names no layer")
                self.links[entry.path] = b"%b/%b" % (layers[entry.layer], entry.content_path)
                if have is not None:
                    # Another chain has another file there: what the layer says is kept.
                    flags = entry.flags | have.flags
                    entry = replace(entry, flags=flags, hardlink=have.hardlink)
                self._add(entry)

    def _add(self, entry: Entry) -> None:
        self.entries[entry.path] = replace(entry, layer=None, source=b"")
        self.added[entry.path] = None

    def in_order(self) -> list[Entry]:
        """All entries, parents first."""
        return sorted(self.entries.values(), key=tree_order)

    def additions(self) -> Iterator[Entry]:
        """What was added, parents first."""
        return iter(sorted((self.entries[path] for path in self.added), key=tree_order))
