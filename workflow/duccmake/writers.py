"""Several processes that fill one tree, and what must happen between them.

Making a file costs the kernel more than reading one out of an archive costs us, so
one process that writes would be what everything waits for.  Each directory is one
process' own: what is made or removed in it happens there, in the order given.
Directories themselves, which others rely on, are made and removed here at once.
"""

from __future__ import annotations

import os
from collections import Counter
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from .disk import ROOT, Disk
from .writer import Writer

_WRITERS = 2
"""The one that reads and hashes keeps no more of them busy."""


class Writers:
    """Writers for the tree below ``root_fd``; a context manager around their processes.

    Raises what `Writer` does.  Enter it before starting threads.
    """

    def __init__(self, root_fd: int) -> None:
        count = min(_WRITERS, len(os.sched_getaffinity(0)))
        self._writers = tuple(Writer(root_fd) for _ in range(count))
        self._disk = Disk(root_fd, memoryview(b""))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self._disk.close)
            for writer in self._writers:
                stack.enter_context(writer)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    @property
    def pids(self) -> list[int]:
        """The processes that write."""
        return [writer.pid for writer in self._writers]

    def of(self, directory: int) -> Writer:
        """Who writes in a directory."""
        return self._writers[directory % len(self._writers)]

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

    def make_hard_link(
        self, source_parent: int, source_name: bytes, parent: int, name: bytes
    ) -> None:
        """Give a name that is no directory a second name."""
        source, target = self.of(source_parent), self.of(parent)
        if source is target:
            target.do(Disk.make_hard_link, source_parent, source_name, parent, name)
            return
        # What either of them does with these names later must find the link made.
        source.settle()
        target.settle()
        self._disk.make_hard_link(source_parent, source_name, parent, name)

    def losses(self) -> dict[str, int]:
        """Wait until everything is made; how often something could not be kept."""
        total: Counter[str] = Counter()
        for writer in self._writers:
            writer.flush()
        for writer in self._writers:
            total.update(writer.ask(Disk.losses))
        return dict(total)
