"""What a layer is unpacked into, entry by entry: its tree, in memory and in a `Place`.

All names are resolved in memory, against what was made here; a place is told one
name in a directory that it knows by a number.  So nothing outside is touched,
whatever a layer says and whatever another process does meanwhile.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from ..errors import LimitExceeded, UnsafeLayer
from ..tree.mtree import LOST, has_tag, tagged
from .limits import Account
from .place import ROOT, Attributes, Lost, Place
from .staged_nodes import NOT_MADE, Directory, Inode, LowerLink, Node
from .tar import Member

_SPELLINGS = 8192
_SYMLINK_HOPS = 40

_NAMES = 1000
"""So many names of one file any file system takes."""


class _NoDirectory(UnsafeLayer):
    """A path through something of the same layer that is no directory."""


class Staging:
    """The tree being made, in ``place``, at the expense of ``account``.

    What makes an entry returns what could not be kept of it.
    ``spelled`` is the caller's to fill: directories by what led to them, in any
    spelling.  It is emptied when a removal may have made it wrong, or it is full.
    """

    def __init__(self, place: Place, account: Account) -> None:
        self._account = account
        self._limits = account.limits
        self.root = Directory(ROOT, None, room=self._limits.path_bytes or sys.maxsize)
        self._place = place
        self.spelled: dict[bytes, Directory] = {}
        self._directories = 0
        self.write = place.write
        self.seek = place.seek
        self.close_file = place.close_file
        self.losses = place.losses

    # --- names ----------------------------------------------------------

    def directory(self, path: bytes) -> Directory:
        """The directory at ``path``, through this layer's symlinks, inside the root.

        What is missing is made, as implied directories.
        """
        if len(self.spelled) >= _SPELLINGS:
            self.spelled.clear()
        found = self._walk(path, make=True)
        assert found is not None
        return found

    def whiteout_directory(self, path: bytes) -> Directory | None:
        """Like `directory`, but None below a file of this layer: nothing lower shows there."""
        try:
            return self.directory(path)
        except _NoDirectory:
            return None

    def find(self, path: bytes) -> tuple[Directory, bytes] | None:
        """Where ``path`` is in this layer (parents resolved, itself not), or None."""
        parent_path, _, name = path.rpartition(b"/")
        parent = self._walk(parent_path, make=False)
        if parent is None or name not in parent.entries:
            return None
        return parent, name

    def lower_path(self, path: bytes) -> bytes:
        """Where a path leads that this layer has not, as far as its own symlinks tell."""
        here, trail = self.root, list[bytes]()
        pending = path.split(b"/")[::-1]
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.parent or self.root
                del trail[-1:]
                continue
            node = here.entries.get(name)
            if pending and isinstance(node, Inode) and node.target is not None:
                if node.target.startswith(b"/"):
                    here = self.root
                    trail.clear()
                pending += node.target.split(b"/")[::-1]
            elif isinstance(node, Directory):
                here = node
                trail.append(name)
            else:
                return b"/".join([*trail, name, *pending[::-1]])
        return b"/".join(trail)

    def _walk(self, path: bytes, *, make: bool) -> Directory | None:
        here = self.root
        pending = path.split(b"/")[::-1]
        hops = 0
        while pending:
            name = pending.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = here.parent or self.root
                continue
            node = here.entries.get(name)
            if isinstance(node, Directory):
                here = node
            elif node is None:
                if not make:
                    return None
                here = self._make_implied(here, name)
            elif isinstance(node, Inode) and node.target is not None:
                hops += 1
                if hops > _SYMLINK_HOPS:
                    raise UnsafeLayer(f"{path!r} leads through more than {hops - 1} symlinks")
                if node.target.startswith(b"/"):
                    here = self.root
                pending += node.target.split(b"/")[::-1]
            elif not make:
                return None
            else:
                raise _NoDirectory(f"{path!r} leads through {name!r}, which is no directory")
        return here

    def _make_implied(self, parent: Directory, name: bytes) -> Directory:
        self._account.entry()
        return self.make_directory(parent, name)

    def check_room(self, parent: Directory, name: bytes) -> None:
        """Hold the path of an entry to ``limits.path_bytes``, wherever symlinks have led it."""
        if len(name) > parent.room:
            limit = self._limits.path_bytes
            raise LimitExceeded(
                f"a path has {limit - parent.room + len(name)} bytes, more than {limit}",
                hint="raise limits.path_bytes if the image is honest",
            )

    # --- making entries -------------------------------------------------

    def make_directory(
        self, parent: Directory, name: bytes, attributes: Attributes | None = None
    ) -> Directory:
        """Make a directory, or give an existing one its attributes (None: it is implied)."""
        directory = parent.entries.get(name)
        if not isinstance(directory, Directory):
            replaced = directory is not None
            if replaced:
                self.remove(parent, name)
                self._place.settle(parent.number)
            depth = parent.depth + 1
            if self._limits.path_depth and depth > self._limits.path_depth:
                raise LimitExceeded(
                    f"a path has more than {self._limits.path_depth} components",
                    hint="raise limits.path_depth if the image is honest",
                )
            self.check_room(parent, name)
            self._directories += 1
            number = self._directories
            self._place.make_directory(parent.number, name, number)
            directory = Directory(number, parent, depth, parent.room - len(name) - 1)
            # What was here in between has removed the lower layers' directory.
            directory.opaque = replaced
            parent.entries[name] = directory
        if attributes is not None:
            directory.attributes = attributes
            directory.implied = False
        return directory

    def make_file(
        self,
        parent: Directory,
        name: bytes,
        member: Member,
        content: bytes | memoryview,
        sha256: str,
    ) -> None:
        """Make a file of at most `PIECE` bytes, without holes and xattrs; its digest is known."""
        if name in parent.entries:
            self.remove(parent, name)
        self._place.make_file(parent.number, name, member, content, sha256)

    def open_file(self, parent: Directory, name: bytes, member: Member) -> None:
        """Make an empty file for `write` and `seek`, up to `close_file`."""
        if name in parent.entries:
            self.remove(parent, name)
        self._place.open_file(parent.number, name, member)

    def make_symlink(self, parent: Directory, name: bytes, member: Member) -> Lost:
        """Make a symlink."""
        if name in parent.entries:
            self.remove(parent, name)
        if not member.target:
            raise UnsafeLayer(f"the symlink {name!r} has an empty target")
        return self._place.make_symlink(parent.number, name, member)

    def make_node(self, parent: Directory, name: bytes, member: Member) -> Lost | None:
        """Make a device or a FIFO; None where that cannot be made."""
        if name in parent.entries:
            self.remove(parent, name)
        return self._place.make_node(parent.number, name, member)

    def make_hard_link(
        self, source: tuple[Directory, bytes], parent: Directory, name: bytes
    ) -> None:
        """Give what ``source`` names a second name."""
        source_parent, source_name = source
        node = source_parent.entries[source_name]
        if isinstance(node, Directory):
            raise UnsafeLayer(f"{name!r} is a hard link to the directory {source_name!r}")
        if name in parent.entries:
            if parent.entries[name] is node:
                return
            self.remove(parent, name)
        if isinstance(node, bytes):
            node = source_parent.entries[source_name] = Inode(node)
        if not isinstance(node, LowerLink) and not _is_missing(node):
            self._make_name(source, node, parent, name)
        parent.entries[name] = node

    def _make_name(
        self, source: tuple[Directory, bytes], node: Inode, parent: Directory, name: bytes
    ) -> None:
        node.names += 1
        if node.names <= _NAMES:
            self._place.make_hard_link(source[0].number, source[1], parent.number, name)
            return
        if node.copy is not None and node.copy[0].entries.get(node.copy[1]) is node:
            source = node.copy
        copied = self._place.link_or_copy(source[0].number, source[1], parent.number, name)
        if copied is not None:
            self._account.made(copied)
            if node.copy is None:
                node.rest = tagged(node.rest, LOST + b"hardlinks")
            node.copy = parent, name

    def remove(self, parent: Directory, name: bytes) -> None:
        """Take an entry of this layer away again, with all below it."""
        node = parent.entries.pop(name)
        self.spelled.clear()
        if isinstance(node, Directory):
            for child in list(node.entries):
                self.remove(node, child)
            self._place.remove_directory(node.number)
        elif not isinstance(node, LowerLink) and not _is_missing(node):
            self._place.remove_name(parent.number, name)

    # --- the end --------------------------------------------------------

    def finish(self) -> None:
        """Order the whiteouts and the directories' attributes, children first."""
        stack = [(self.root, False)]
        while stack:
            directory, seen = stack.pop()
            if seen:
                self._finish_directory(directory)
                continue
            for name in directory.whiteouts or ():
                node = directory.entries.get(name)
                if isinstance(node, Directory) and _is_bare(node):
                    # It is here for whiteouts only, which this one makes needless.
                    self.remove(directory, name)
                elif isinstance(node, Directory):
                    # Removed and made again: nothing of the lower one may show through,
                    # be it a directory or a symlink to one.
                    node.opaque = True
                    node.implied = False
            stack.append((directory, True))
            stack += [
                (node, False) for node in directory.entries.values() if isinstance(node, Directory)
            ]

    def forget(self) -> None:
        """Let go of the tree, which its directories would keep in memory for longer."""
        self.root.entries.clear()
        self.spelled.clear()

    def _finish_directory(self, directory: Directory) -> None:
        hidden = _missing(directory.whiteouts or (), directory.entries)
        directory.lost = self._place.finish_directory(
            directory.number, directory.attributes, hidden, opaque=directory.opaque
        )


def _missing(names: Iterable[bytes], entries: dict[bytes, Node]) -> tuple[bytes, ...]:
    return tuple(name for name in names if name not in entries)


def _is_bare(directory: Directory) -> bool:
    """Whether a directory is implied and has nothing in it but directories like that."""
    stack = [directory]
    while stack:
        here = stack.pop()
        if not here.implied or not all(
            isinstance(node, Directory) for node in here.entries.values()
        ):
            return False
        stack += [node for node in here.entries.values() if isinstance(node, Directory)]
    return True


def _is_missing(node: Inode | bytes) -> bool:
    return has_tag(node if isinstance(node, bytes) else node.rest, NOT_MADE)
