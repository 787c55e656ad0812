"""Complete a published layer, so that the kernel's overlay of a chain is the image.

A layer as it was unpacked says what it changes; overlayfs wants more in some
chains: a whiteout for each hidden path, attributes of the directories that the
layer only passes through, hard links to files of lower layers.  Amending adds
these and takes nothing away, so that other chains with the layer stay right.
What a chain cannot be given in this way is flagged ``lost:`` among its amendments, or
counted where another chain has put its own file.
It may be interrupted and repeated: the layer's manifest is written last.
"""

from __future__ import annotations

import errno
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import mtree
from ..errors import RepositoryError
from ..mtree import Entry
from ..reference import Digest
from . import content
from .attributes import UNSUPPORTED, Attributes, set_mtime
from .descriptors import Directories, split
from .layout import temporary
from .plant import LOST

log = logging.getLogger(__name__)

_BEYOND = frozenset({LOST + b"covered", LOST + b"whiteouts"})
"""What flattening says of entries that no addition to a layer puts right."""


def amendments(staged: Path, layers: Sequence[Digest]) -> dict[Digest, list[Entry]]:
    """What each layer of a staged image needs for its chain, parents first.

    They are numbered, since images that share a configuration, and so what is staged,
    may have their layers in other compressions.  A layer that comes twice has one
    tree, which needs what both need.
    """
    wanted: dict[Digest, dict[bytes, Entry]] = {digest: {} for digest in layers}
    for number, digest in enumerate(layers):
        path = staged / "layers" / f"{number}.mtree"
        if path.exists():
            wanted[digest].update((entry.path, entry) for entry in mtree.read(path))
    return {
        digest: sorted(entries.values(), key=lambda entry: entry.path)
        for digest, entries in wanted.items()
    }


def amend(
    layerfs: Path, manifest: Path, wanted: Sequence[Entry], *, layers: Sequence[Path], fresh: bool
) -> Counter[str]:
    """Put the entries ``wanted`` into a layer and its manifest; return what could not be.

    ``layers`` are the chain's trees, lowest first.  Only a ``fresh`` layer, one
    that no image has yet, gets other attributes on its implied directories.
    """
    additions, lost = chain_wants(wanted)
    if not additions and not lost:
        return Counter()
    known = {entry.path: entry for entry in mtree.read(manifest)}
    with Directories() as directories:
        amender = _Amender(directories, layerfs, layers, known, fresh)
        amender.amend(additions)
    if amender.entries != known:
        _rewrite(manifest, amender.entries)
    lost += amender.lost
    warn_of(layerfs.parent.name, lost)
    return lost


def chain_wants(wanted: Iterable[Entry]) -> tuple[list[Entry], Counter[str]]:
    """What is to be added of ``wanted``, and how much of it no addition can mend, by kind."""
    additions: list[Entry] = []
    lost: Counter[str] = Counter()
    for entry in wanted:
        kinds = [flag[len(LOST) :].decode() for flag in entry.flags if flag in _BEYOND]
        lost.update(kinds)
        if not kinds:
            additions.append(entry)
    return additions, lost


def is_taken(entry: Entry, have: Entry) -> bool:
    """Whether another chain has put another file where this one's is to be a link.

    A layer says of a hard link to a lower layer where it leads, and ``have`` says
    more only once a chain has put its file there.
    """
    if b"lower" not in have.flags or (have.kind == mtree.FILE and not have.sha256):
        return False
    plain = replace(entry, flags=have.flags, hardlink=have.hardlink, layer=None, source=b"")
    return plain != have


def warn_of(layer: str, lost: Counter[str]) -> None:
    """Log what an overlay of a chain with this layer (a digest in hex) does not show as it is."""
    if lost:
        log.warning(
            "the layer %s lacks what an overlay of its chain needs (the flat tree is right): %s",
            layer[:12],
            ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items())),
        )


def _rewrite(manifest: Path, entries: dict[bytes, Entry]) -> None:
    new = temporary(manifest)
    mtree.write(new, sorted(entries.values(), key=tree_order))
    new.chmod(0o644)
    new.rename(manifest)


def tree_order(entry: Entry) -> list[tuple[bool, bytes]]:
    """A directory, what is in it, then its directories: so a link group's first path stays so."""
    if entry.path == b".":
        return []
    *parents, name = entry.path.split(b"/")
    return [(True, parent) for parent in parents] + [(entry.kind == mtree.DIR, name)]


class _Amender:
    def __init__(
        self,
        directories: Directories,
        layerfs: Path,
        layers: Sequence[Path],
        known: dict[bytes, Entry],
        fresh: bool,
    ) -> None:
        self.entries = dict(known)
        self.lost: Counter[str] = Counter()
        self._directories = directories
        self._tree = os.fsencode(layerfs)
        self._layers = [os.fsencode(layer) for layer in layers]
        self._fresh = fresh
        self._attributes = Attributes()
        self._missing: set[bytes] = set()
        self._unsettled: set[bytes] = set()

    def amend(self, wanted: Sequence[Entry]) -> None:
        """Add ``wanted`` (parents first) to the tree and to ``entries``."""
        for entry in wanted:
            have = self.entries.get(entry.path)
            if entry.kind == mtree.DIR:
                self._directory(entry, have)
            elif b"whiteout" in entry.flags:
                if have is None or b"whiteout" in have.flags:
                    self._leaf(entry, have, b"whiteouts", self._make_whiteout)
            elif have is not None and is_taken(entry, have):
                self.lost["links"] += 1
            elif have is None or b"lower" in have.flags:
                self._leaf(entry, have, b"links", self._make_link)
        parents = {split(entry.path)[0] for entry in wanted if entry.path != b"."}
        for path in sorted(parents | self._unsettled, reverse=True):
            self._settle(path)

    def _directory(self, entry: Entry, have: Entry | None) -> None:
        if have is None:
            if self._made(entry, b"directories", self._make_directory):
                self.entries[entry.path] = _plain(entry)
                self._unsettled.add(entry.path)
        elif self._fresh and have.kind == mtree.DIR and b"implied" in have.flags:
            # The layer's own word on whether it is opaque stands.
            self.entries[entry.path] = replace(_plain(entry), flags=entry.flags | have.flags)
            self._unsettled.add(entry.path)

    def _leaf(
        self,
        entry: Entry,
        have: Entry | None,
        kind: bytes,
        make: Callable[[int, bytes, Entry], None],
    ) -> None:
        if self._made(entry, kind, make):
            if have is None:
                self.entries[entry.path] = _plain(entry)
            elif b"lower" in have.flags:
                # Another chain may have another file there: what the layer says is kept.
                self.entries[entry.path] = replace(
                    _plain(entry), flags=entry.flags | have.flags, hardlink=have.hardlink
                )

    def _made(self, entry: Entry, kind: bytes, make: Callable[[int, bytes, Entry], None]) -> bool:
        parent, name = split(entry.path)
        try:
            if parent in self._missing:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            make(self._directories.get(self._tree, parent), name, entry)
        except FileExistsError:
            return True
        except OSError as error:
            if error.errno not in UNSUPPORTED:
                raise
        else:
            return True
        self._missing.add(entry.path)
        self.lost[kind.decode()] += 1
        self.entries[entry.path] = replace(_plain(entry), flags=entry.flags | {LOST + kind})
        return False

    def _make_directory(self, parent: int, name: bytes, entry: Entry) -> None:
        os.mkdir(name, 0o700, dir_fd=parent)

    def _make_whiteout(self, parent: int, name: bytes, entry: Entry) -> None:
        os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)

    def _make_link(self, parent: int, name: bytes, entry: Entry) -> None:
        if entry.layer is None or not 0 <= entry.layer < len(self._layers):
            raise RepositoryError(f"{entry.path!r} of a layer's amendments names no layer")
        source = (self._layers[entry.layer], entry.content_path)
        target = (self._tree, entry.path)
        try:
            content.link(self._directories, source, target)
        except FileExistsError:
            raise
        except OSError as error:
            if error.errno not in content.NO_LINK or entry.kind != mtree.FILE:
                raise
            content.copy(self._directories, source, target, entry, self._attributes)

    def _settle(self, path: bytes) -> None:
        """Give a directory its attributes, or back its time, after its children changed it."""
        entry = self.entries.get(path)
        if entry is None or path in self._missing or entry.kind != mtree.DIR:
            return
        descriptor = self._directories.get(self._tree, path)
        if path in self._unsettled:
            lost = self._attributes.on_descriptor(descriptor, entry)
            flags = {flag for flag in entry.flags if not flag.startswith(LOST)}
            flags.update(LOST + kind for kind in lost)
            self.entries[path] = replace(entry, flags=frozenset(flags))
        else:
            set_mtime(descriptor, entry.mtime_ns)


def _plain(entry: Entry) -> Entry:
    """The entry without the layer that provides it in this chain: another chain has others."""
    return replace(entry, layer=None, source=b"")
