"""Build a flat tree from an image's manifest and the layers that provide its files."""

from __future__ import annotations

import logging
import os
import stat
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from ..errors import RepositoryError
from . import content, mtree
from .attributes import UNSUPPORTED, AttributeSetter, has_xattrs
from .directories import Directories, split
from .mtree import LOST, Entry

log = logging.getLogger(__name__)

FlatMode = Literal["hardlink", "reflink", "copy"]
"""How a flat tree gets its files from the layers."""

_OWN = frozenset({b"generated", mtree.WIDENED})
"""Flags of files that are not the layer's."""

_KIND_BITS = {
    mtree.CHAR: stat.S_IFCHR,
    mtree.BLOCK: stat.S_IFBLK,
    mtree.FIFO: stat.S_IFIFO,
    mtree.SOCKET: stat.S_IFSOCK,
}


def build(
    manifest: Path,
    target: Path,
    *,
    layers: Sequence[Path],
    generated: Path,
    mode: FlatMode,
    published: Path,
) -> Counter[str]:
    """Make the directory ``target`` the tree of ``manifest``; return the losses by kind.

    ``layers`` are the layers' trees, lowest first, ``generated`` has the content
    of generated files.  The manifest, with what was lost noted in its entries,
    is written to ``published``.  In mode ``hardlink`` files share the inodes of
    the layers; where that is impossible, or they have another mode, they are copied.
    """
    with Directories() as directories:
        builder = _Builder(directories, target, layers, generated, mode)
        lost = builder.build(manifest)
    with manifest.open("rb") as lines, published.open("wb") as out:
        os.fchmod(out.fileno(), 0o644)
        out.writelines(_relabel(line, lost) if lost or LOST in line else line for line in lines)
    counts = Counter(kind.decode() for kinds in lost.values() for kind in kinds)
    return counts + Counter({mtree.WIDENED.decode(): builder.widened})


class _Builder:
    def __init__(
        self,
        directories: Directories,
        target: Path,
        layers: Sequence[Path],
        generated: Path,
        mode: FlatMode,
    ) -> None:
        self._directories = directories
        self._target = os.fsencode(target)
        self._layers = [os.fsencode(layer) for layer in layers]
        self._generated = os.fsencode(generated)
        self._mode = mode
        self._attributes = AttributeSetter()
        self._shares_plainly = mode == "hardlink" and self._attributes.keeps_all_owners
        self._groups: dict[bytes, list[bytes]] = {}
        self._heads: dict[bytes, bytes] = {}
        self._copied: Counter[str] = Counter()
        self.widened = 0
        self._lost: dict[bytes, frozenset[bytes]] = {}

    def build(self, manifest: Path) -> dict[bytes, frozenset[bytes]]:
        """Make the tree; the losses by path."""
        os.mkdir(self._target, 0o700)  # noqa: PTH102 (a path in bytes)
        made: list[Entry] = []
        with manifest.open("rb") as lines:
            for line in lines:
                if line.startswith(b"#") or self._share_plain_file(line):
                    continue
                entry = Entry.parse(line)
                self.widened += mtree.WIDENED in entry.flags
                if entry.kind == mtree.DIR:
                    made.append(entry)
                    self._directory(entry)
                else:
                    self._note(entry, self._make(entry))
        if not made or made[0].path != b".":
            raise RepositoryError(
                f"{manifest} does not begin with the tree's root",
                hint="remove the staged image and run again",
            )
        # Children change the times of their directories, so those come last, deepest first.
        for entry in reversed(made):
            descriptor = self._directories.get(self._target, entry.path)
            self._note(entry, self._attributes.on_descriptor(descriptor, entry))
        for reason, count in sorted(self._copied.items()):
            log.warning("%d files were copied, not shared: %s", count, reason)
        return self._lost

    def _share_plain_file(self, line: bytes) -> bool:
        """Link a file that needs nothing else; False where the line wants a closer look.

        Reading such a line as an `Entry` costs more than making the link.
        """
        match = mtree.PROVIDED_FILE.match(line) if self._shares_plainly else None
        if match is None or int(match[2]) >= len(self._layers):
            return False
        layer, path = self._layers[int(match[2])], mtree.decode(match[1])
        source = mtree.decode(match[3]) if match[3] else path
        try:
            content.link(self._directories, (layer, source), (self._target, path))
        except OSError as error:
            if error.errno not in content.NO_LINK:
                raise
            return False
        return True

    def _directory(self, entry: Entry) -> None:
        if entry.path != b".":
            directory, name = self._place(entry.path)
            os.mkdir(name, 0o700, dir_fd=directory)

    def _note(self, entry: Entry, lost: set[bytes]) -> None:
        if lost:
            self._lost[entry.path] = frozenset(lost)

    def _place(self, path: bytes) -> tuple[int, bytes]:
        parent, name = split(path)
        return self._directories.get(self._target, parent), name

    def _make(self, entry: Entry) -> set[bytes]:
        if entry.hardlink:
            return self._join_group(entry)
        if entry.kind == mtree.FILE:
            return self._file(entry)
        directory, name = self._place(entry.path)
        if entry.kind == mtree.LINK:
            os.symlink(entry.target, name, dir_fd=directory)
        else:
            try:
                bits = _KIND_BITS[entry.kind] | stat.S_IMODE(entry.mode)
                os.mknod(name, bits, os.makedev(*entry.device), dir_fd=directory)
            except OSError as error:
                if error.errno not in UNSUPPORTED:
                    raise
                return {b"devices"}
        return self._attributes.on_name(directory, name, entry)

    def _file(self, entry: Entry) -> set[bytes]:
        if self._mode != "hardlink" or entry.flags & _OWN:
            return self._copy(entry)
        target = (self._target, entry.path)
        try:
            content.link(self._directories, self._provider(entry), target)
        except OSError as error:
            if error.errno not in content.NO_LINK:
                raise
            return self._copy(entry, os.strerror(error.errno))
        return self._shared_losses(entry)

    def _shared_losses(self, entry: Entry) -> set[bytes]:
        """What the layer's inode lacks: the unpacker noted it, or it shows here."""
        lost = {flag[len(LOST) :] for flag in entry.flags if flag.startswith(LOST)}
        if not self._attributes.keeps_owner(entry):
            lost.add(b"owners")
        if entry.xattrs and not has_xattrs(*self._place(entry.path), entry):
            lost.add(b"xattrs")
        return lost

    def _join_group(self, entry: Entry) -> set[bytes]:
        """Make one more name of a file that the tree has already."""
        first = entry.hardlink
        if b"devices" in self._lost.get(first, ()):
            return {b"devices"}
        head = self._heads.get(first, first)
        try:
            self._link_within(head, entry.path)
        except OSError as error:
            if error.errno not in content.NO_LINK:
                raise
            shared = head == first and self._is_shared(entry)
            lost = self._anew(entry, os.strerror(error.errno))
            if shared:
                # The layer's inode takes no more names: the whole group moves over to a copy.
                for earlier in (first, *self._groups.get(first, ())):
                    directory, name = self._place(earlier)
                    os.unlink(name, dir_fd=directory)
                    self._link_within(entry.path, earlier)
            else:
                # Nor does the tree's own: what follows are names of the next one.
                self._heads[first] = entry.path
                lost.add(b"hardlinks")
        else:
            lost = set(self._lost.get(head, ()))
        self._groups.setdefault(first, []).append(entry.path)
        return lost

    def _is_shared(self, entry: Entry) -> bool:
        """Whether the first name of an entry's group is the layer's own file."""
        if entry.kind != mtree.FILE or entry.flags & _OWN:
            return False
        tree, path = self._provider(entry)
        parent, name = split(path)
        directory = self._directories.get(tree, parent)
        theirs = os.stat(name, dir_fd=directory, follow_symlinks=False)
        directory, name = self._place(entry.hardlink)
        ours = os.stat(name, dir_fd=directory, follow_symlinks=False)
        return os.path.samestat(theirs, ours)

    def _anew(self, entry: Entry, reason: str) -> set[bytes]:
        """Make an entry that has another name as one of its own."""
        if entry.kind == mtree.FILE:
            return self._copy(entry, reason)
        return self._make(replace(entry, hardlink=b""))

    def _link_within(self, path: bytes, new: bytes) -> None:
        content.link(self._directories, (self._target, path), (self._target, new))

    def _copy(self, entry: Entry, reason: str = "") -> set[bytes]:
        lost, refused = content.copy(
            self._directories,
            self._provider(entry),
            (self._target, entry.path),
            entry,
            self._attributes,
            clone=self._mode == "reflink",
        )
        if reason or refused:
            self._copied[reason or refused] += 1
        return lost

    def _provider(self, entry: Entry) -> content.Location:
        if b"generated" in entry.flags:
            return self._generated, entry.path
        if entry.layer is None or not 0 <= entry.layer < len(self._layers):
            raise RepositoryError(
                f"{entry.path!r} of the image's manifest names no layer of the image",
                hint="remove the staged image and run again",
            )
        return self._layers[entry.layer], entry.content_path


def _relabel(line: bytes, lost: Mapping[bytes, frozenset[bytes]]) -> bytes:
    if line.startswith(b"#"):
        return line
    entry = Entry.parse(line)
    flags = {flag for flag in entry.flags if not flag.startswith(LOST)}
    flags.update(LOST + kind for kind in lost.get(entry.path, ()))
    return replace(entry, flags=frozenset(flags)).line()
