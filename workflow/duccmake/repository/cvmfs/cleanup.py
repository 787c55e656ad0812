"""Trees that are published over what is there already, by another program or half.

An archive adds and replaces; it neither takes away what is too much nor changes the
attributes of a directory that is there.  Both is done by a transaction afterwards,
and what is of another kind goes before.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...cvmfs.catalog import MARKER
from ...cvmfs.keeping import keeps_name
from ...fs.files import remove_tree
from ...tree import mtree
from ...tree.attributes import AttributeSetter
from ...tree.directories import Directories
from ...tree.mtree import Entry
from .removal import delete, is_plain
from .transaction import Transactions

_WHITEOUT = b".wh."
"""Removing such a name within a transaction, cvmfs_server takes it for the removal of the
name without this; DUCC leaves such names in its layers."""


@dataclass(slots=True)
class Overlaid:
    """What has to be done besides an archive, by paths below the repository's root."""

    before: list[bytes] = field(default_factory=list)
    after: list[bytes] = field(default_factory=list)
    directories: dict[bytes, Entry] = field(default_factory=dict)
    markers: list[bytes] = field(default_factory=list)
    trees: list[bytes] = field(default_factory=list)

    def compare(self, published: Path, base: bytes, lines: Iterable[bytes]) -> None:
        """Find what is wrong with the tree ``base`` as it is published."""
        found = Overlaid()
        found._compare(published, base, lines)
        if not all(map(is_plain, found.markers)):
            # There is no way to remove that name alone.
            self.trees.append(base)
            return
        self.before += found.before
        self.after += found.after
        self.directories |= found.directories
        self.markers += found.markers

    def _compare(self, published: Path, base: bytes, lines: Iterable[bytes]) -> None:
        tree = b"%b/%b" % (os.fsencode(published), base)
        if not stat.S_ISDIR(os.lstat(tree).st_mode):
            self.before.append(base)
            return
        wanted = {
            entry.path: entry
            for entry in map(Entry.parse, (line for line in lines if not line.startswith(b"#")))
            # A hard link to a lower layer is there once a chain has put its file there.
            if keeps_name(entry.path) and (b"lower" not in entry.flags or entry.sha256)
        }
        self._directory(base, tree, wanted[b"."])
        pending = [b""]
        while pending:
            above = pending.pop()
            with os.scandir(tree + b"/" + above) as found:
                for item in found:
                    path = above + item.name
                    entry = wanted.get(path)
                    name = b"%b/%b" % (base, path)
                    if entry is None:
                        if item.name == MARKER:
                            continue
                        (self.markers if item.name.startswith(_WHITEOUT) else self.after).append(
                            name
                        )
                        # Its time changes with what is in it.
                        at = above.rstrip(b"/")
                        self.directories[b"%b/%b" % (base, at) if at else base] = wanted[at or b"."]
                    elif (entry.kind == mtree.DIR) != item.is_dir(follow_symlinks=False):
                        self.before.append(name)
                    elif entry.kind == mtree.DIR:
                        self._directory(name, item.path, entry)
                        pending.append(path + b"/")

    def _directory(self, name: bytes, path: bytes, entry: Entry) -> None:
        found = os.lstat(path)
        have = (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, int(found.st_mtime))
        if have != (entry.mode, entry.uid, entry.gid, entry.mtime_ns // 1_000_000_000):
            self.directories[name] = entry

    def clear(self, transactions: Transactions) -> None:
        """Remove what is of another kind than what comes into its place."""
        delete(transactions, self.trees)
        if self.before:
            transactions.write(lambda union: _remove(union, self.before))

    def settle(self, transactions: Transactions) -> None:
        """Remove what is too much, and give directories their attributes."""
        delete(transactions, self.markers)
        if self.after or self.directories:
            transactions.write(self._settle)

    def _settle(self, union: Path) -> None:
        _remove(union, self.after)
        attributes = AttributeSetter()
        with Directories() as directories:
            for path, entry in sorted(self.directories.items(), reverse=True):
                plain = Entry(
                    entry.path, mtree.DIR, entry.mode, entry.uid, entry.gid, entry.mtime_ns
                )
                root = os.fsencode(union.resolve())
                attributes.on_descriptor(directories.get(root, path), plain)


def _remove(union: Path, paths: Iterable[bytes]) -> None:
    for path in paths:
        remove_tree(union / os.fsdecode(path))
