"""Processes that compress what files are made of into objects, as many as there are cores.

One that unpacks reads, hashes and parses several times as fast as one core compresses.
Threads would share one interpreter, which for small files is what takes the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Self

from ..cvmfs.codec import Bytes, Codec
from ..cvmfs.names import Kind
from ..cvmfs.objects import Objects
from ..fs.closing import Closing
from .place import PIECE
from .writer_process import Writer

_MOST = 3
"""More than that wait for the one that reads, and each holds an object twice, as it is and
compressed."""

Made = tuple[int, int, int, str, bytes]
"""A file's number, offset and size of what was compressed, the kind, and the hash."""


class Compressor:
    """What a process does; orders name what is in ``memory`` by start and size in bytes."""

    def __init__(self, directory: Path, codec: Codec, memory: memoryview) -> None:
        self._objects = Objects(directory, codec)
        self._memory = memory
        self._waiting = bytearray()
        self._made: list[Made] = []

    def whole(self, file: int, start: int, size: int) -> None:
        """Make the object of a file's content."""
        self._put(file, 0, Kind.FILE, self._memory[start : start + size])

    def add(self, start: int, size: int) -> None:
        """Append to what is waiting."""
        self._waiting += self._memory[start : start + size]

    def end(self, file: int, offset: int, kind: str) -> None:
        """Make the object of what is waiting, which begins at an offset of a file."""
        waiting, self._waiting = self._waiting, bytearray()
        self._put(file, offset, Kind(kind), waiting)

    def made(self) -> list[Made]:
        """All objects that were made."""
        return self._made

    def _put(self, file: int, offset: int, kind: Kind, content: Bytes) -> None:
        digest = self._objects.put(content, kind)
        self._made.append((file, offset, len(content), str(kind), digest))


class Compressors(Closing):
    """Makes objects in ``directory``; a context manager around the processes.

    Raises what `Writer` does.  Enter it before starting threads.
    """

    def __init__(self, directory: Path, codec: Codec) -> None:
        count = min(_MOST, len(os.sched_getaffinity(0)))
        self._writers = [Writer(partial(Compressor, directory, codec)) for _ in range(count)]
        self._given = [0] * count
        self._stack = ExitStack()
        self._open = self._writers[0]

    def __enter__(self) -> Self:
        with ExitStack() as stack:
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

    def whole(self, file: int, content: bytes | memoryview) -> None:
        """Make the object of a file of at most `PIECE` bytes."""
        writer = self._least_busy(len(content))
        start = writer.put(content)
        writer.do(Compressor.whole, file, start, len(content))

    def begin(self, size: int) -> None:
        """Begin an object of so many bytes; give them to `add`, and then `end` it."""
        self._open = self._least_busy(size)

    def add(self, content: Bytes) -> None:
        """Append to the object that was begun."""
        view = memoryview(content)
        for at in range(0, len(view), PIECE):
            piece = view[at : at + PIECE]
            start = self._open.put(piece)
            self._open.do(Compressor.add, start, len(piece))

    def end(self, file: int, offset: int, kind: Kind) -> None:
        """The object is whole; it begins at an offset of a file."""
        self._open.do(Compressor.end, file, offset, str(kind))

    def made(self) -> Iterator[Made]:
        """Wait for all objects, and tell them."""
        for writer in self._writers:
            writer.flush()
        for writer in self._writers:
            yield from writer.ask(Compressor.made)

    def _least_busy(self, size: int) -> Writer[Compressor]:
        index = self._given.index(min(self._given))
        # What a small object costs beside its bytes.
        self._given[index] += size + 4096
        return self._writers[index]
