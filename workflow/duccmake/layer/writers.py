"""Several processes that fill one tree, and what must happen between them.

Making a file costs the kernel more than reading one out of an archive costs us, so
one process that writes would be what everything waits for.  Each directory is one
process' own: what is made or removed in it happens there, in the order given.
Directories themselves, which others rely on, are made and removed here at once.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from contextlib import ExitStack
from functools import partial
from typing import Self

from ..fs.closing import Closing
from ..tree import mtree
from .disk import Disk
from .place import PIECE, ROOT, Attributes, Lost, may_lose
from .tar import Member
from .writer_process import Writer

_WRITERS = 2
"""The one that reads and hashes keeps no more of them busy."""


class Writers(Closing):
    """Writers for the tree below ``root_fd``; a context manager around their processes.

    Keeps to `duccmake.layer.place.Place`.  Raises what `Writer` does.  Enter it before
    starting threads.
    """

    def __init__(self, root_fd: int) -> None:
        count = min(_WRITERS, len(os.sched_getaffinity(0)))
        self._writers = tuple(Writer(partial(Disk, root_fd), keep=root_fd) for _ in range(count))
        self._disk = Disk(root_fd, memoryview(b""))
        self._open = self._writers[0]
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._disk.close)
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def close(self) -> None:
        """Wait until the processes have ended."""
        self._stack.close()

    def abandon(self) -> None:
        """Kill them."""
        for writer in self._writers:
            writer.abandon()

    def of(self, directory: int) -> Writer[Disk]:
        """Who writes in a directory."""
        return self._writers[directory % len(self._writers)]

    def settle(self, directory: int) -> None:
        """Wait until all that was ordered in a directory is done."""
        self.of(directory).settle()

    # --- directories ----------------------------------------------------

    def make_directory(self, parent: int, name: bytes, number: int) -> None:
        """Make a directory at once, of which all know from now on as ``number``.

        If its name was another's before, settle its parent's writer first.
        """
        self._disk.make_directory(parent, name, number)
        for writer in self._writers:
            writer.do(Disk.know_directory, parent, name, number)

    def remove_directory(self, number: int) -> None:
        """Remove a directory, once everything in it is removed."""
        assert number != ROOT
        self.of(number).settle()
        self._disk.remove_directory(number)
        for writer in self._writers:
            writer.do(Disk.forget_directory, number)

    def finish_directory(
        self, number: int, attributes: Attributes, whiteouts: tuple[bytes, ...], *, opaque: bool
    ) -> Lost:
        """Make the whiteouts and set the attributes, once nothing else comes below."""
        at, writer = attributes, self.of(number)
        order = (number, at.mode, at.uid, at.gid, at.mtime_ns, at.xattrs, whiteouts, opaque)
        if may_lose(at):
            return writer.ask(Disk.finish_directory, *order)
        writer.do(Disk.finish_directory, *order)
        return ()

    # --- files ----------------------------------------------------------

    def make_file(
        self, parent: int, name: bytes, member: Member, content: bytes | memoryview, sha256: str
    ) -> None:
        """Make a file of at most `PIECE` bytes, without holes and xattrs."""
        writer = self._writers[parent % len(self._writers)]
        start = writer.put(content)
        writer.do(
            Disk.make_file,
            parent,
            name,
            member.mode,
            member.uid,
            member.gid,
            member.mtime_ns,
            start,
            len(content),
        )

    def open_file(self, parent: int, name: bytes, member: Member) -> None:
        """Make an empty file for `write` and `seek`, up to `close_file`."""
        self._open = self.of(parent)
        self._open.do(Disk.open_file, parent, name, member.mode)

    def write(self, content: memoryview) -> None:
        """Append to the open file."""
        for at in range(0, len(content), PIECE):
            piece = content[at : at + PIECE]
            start = self._open.put(piece)
            self._open.do(Disk.write, start, len(piece))

    def seek(self, offset: int) -> None:
        """Leave a hole in the open file."""
        self._open.do(Disk.seek, offset)

    def close_file(self, member: Member, sha256: str) -> Lost:
        """Give the open file its size and attributes."""
        if member.extents is not None:
            self._open.do(Disk.truncate, member.size)
        attributes = (member.mode, member.uid, member.gid, member.mtime_ns, member.xattrs)
        if may_lose(member):
            return self._open.ask(Disk.close_file, *attributes)
        self._open.do(Disk.close_file, *attributes)
        return ()

    # --- other names ----------------------------------------------------

    def make_symlink(self, parent: int, name: bytes, member: Member) -> Lost:
        """Make a symlink."""
        attributes = (member.uid, member.gid, member.mtime_ns, member.xattrs)
        order = (parent, name, member.target, *attributes)
        if may_lose(member):
            return self.of(parent).ask(Disk.make_symlink, *order)
        self.of(parent).do(Disk.make_symlink, *order)
        return ()

    def make_node(self, parent: int, name: bytes, member: Member) -> Lost | None:
        """Make a device or a FIFO; None where the system does not let us."""
        kind = member.kind
        file_type = {mtree.CHAR: stat.S_IFCHR, mtree.BLOCK: stat.S_IFBLK}.get(kind, stat.S_IFIFO)
        return self.of(parent).ask(
            Disk.make_node,
            parent,
            name,
            member.mode | file_type,
            os.makedev(*member.device) if kind != mtree.FIFO else 0,
            member.uid,
            member.gid,
            member.mtime_ns,
            member.xattrs,
        )

    def remove_name(self, parent: int, name: bytes) -> None:
        """Remove a name that is no directory."""
        self.of(parent).do(Disk.remove_name, parent, name)

    def make_hard_link(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> None:
        """Give a name that is no directory a second name."""
        source, target = self.of(source_parent), self.of(parent)
        if source is target:
            target.do(Disk.make_hard_link, source_parent, source_name, parent, name)
            return
        # What either of them does with these names later must find the link made.
        self.settle(source_parent)
        self.settle(parent)
        self._disk.make_hard_link(source_parent, source_name, parent, name)

    def link_or_copy(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> int | None:
        """The same at once, or where the file takes no more names, a copy: of so many bytes."""
        self.settle(source_parent)
        self.settle(parent)
        return self._disk.link_or_copy(source_parent, source_name, parent, name)

    def losses(self) -> dict[str, int]:
        """Wait until everything is made; how often something could not be kept."""
        total = Counter(self._disk.losses())
        for writer in self._writers:
            writer.flush()
        for writer in self._writers:
            total.update(writer.ask(Disk.losses))
        return dict(total)
