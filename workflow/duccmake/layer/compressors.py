"""Processes that compress what files are made of into objects, as many as there are cores.

One that unpacks reads, hashes and parses several times as fast as one core compresses.
Threads would share one interpreter, which for small files is what takes the time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import BinaryIO, Self

from ..cvmfs.codec import Bytes, Codec
from ..cvmfs.known import KnownContent
from ..cvmfs.names import Kind
from ..cvmfs.objects import Objects
from ..fs.closing import Closing
from .known_objects import Known, KnownObjects
from .place import PIECE
from .writer_process import Writer

_MOST = 3
"""More than that wait for the one that reads, and each holds an object twice, as it is and
compressed."""

_SOME = 10_000
"""Of so many objects it is told at once what they are."""

_SPOOL = ".new-spool"

NO_FILE = -1
"""In the place of a file's number: nothing needs the object."""

Made = tuple[int, int, int, str, bytes]
"""A file's number, offset and size of what an object has of it, the kind, and the hash."""


class Compressor:
    """What a process does; orders name what is in ``memory`` by start and size in bytes."""

    def __init__(
        self, directory: Path, codec: Codec, known: Known | None, memory: memoryview
    ) -> None:
        self._objects = Objects(directory, codec)
        self._known = KnownObjects(known) if known else None
        self._memory = memory
        self._waiting = bytearray()
        self._made: list[Made] = []

    def whole(self, file: int, start: int, size: int, sha256: str) -> None:
        """Make the object of a file's content."""
        self._make(file, 0, Kind.FILE, self._memory[start : start + size], sha256)

    def add(self, start: int, size: int) -> None:
        """Append to what is waiting."""
        self._waiting += self._memory[start : start + size]

    def end(self, file: int, offset: int, kind: str, sha256: str) -> None:
        """Make the object of what is waiting, which begins at an offset of a file."""
        waiting, self._waiting = self._waiting, bytearray()
        self._make(file, offset, Kind(kind), waiting, sha256)

    def take(self, file: int, spooled: str, sha256: str) -> bool:
        """Take the objects of a file whose content is in another one; whether they are known."""
        with (
            open(spooled, "rb") as source,
            mmap(source.fileno(), 0, access=ACCESS_READ) as content,
            memoryview(content) as view,
        ):
            return self._take(file, view, sha256)

    def made(self) -> list[Made]:
        """Some of the objects that were made, each once; empty when those were all."""
        some = self._made[-_SOME:]
        del self._made[-_SOME:]
        return some

    def _make(self, file: int, offset: int, kind: Kind, content: Bytes, sha256: str) -> None:
        if sha256 and self._take(file, content, sha256):
            return
        digest = self._objects.put(content, kind)
        self._made.append((file, offset, len(content), str(kind), digest))

    def _take(self, file: int, content: Bytes, sha256: str) -> bool:
        if self._known is None:
            return False
        taken, is_whole = self._known.take(sha256, content, self._objects)
        number = file if is_whole else NO_FILE
        self._made += [(number, at, size, str(kind), digest) for at, size, kind, digest in taken]
        return is_whole


class Compressors(Closing):
    """Makes objects in ``directory``; a context manager around the processes.

    Those of content that is ``known`` are taken from where they are.  Where an order has
    a ``sha256``, that is the digest of the file's whole content, in hex.
    Raises what `Writer` does.  Enter it before starting threads.
    """

    def __init__(self, directory: Path, codec: Codec, known: Known | None = None) -> None:
        count = min(_MOST, len(os.sched_getaffinity(0)))
        make = partial(Compressor, directory, codec, known)
        self._writers = [Writer(make) for _ in range(count)]
        self._spool = directory / _SPOOL
        self._known = KnownContent(known.index) if known else None
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
        self._spool.unlink(missing_ok=True)
        if self._known is not None:
            self._known.close()

    def abandon(self) -> None:
        """Kill them."""
        for writer in self._writers:
            writer.abandon()

    def whole(self, file: int, content: bytes | memoryview, sha256: str) -> None:
        """Make the object of a file of at most `PIECE` bytes."""
        writer = self._least_busy(len(content))
        start = writer.put(content)
        writer.do(Compressor.whole, file, start, len(content), sha256)

    def spool(self, size: int) -> BinaryIO | None:
        """A file for large content, to be given to `take`; None where none of that size is known.

        It takes no more room than the largest file of a layer.
        """
        if self._known is None or not self._known.has_large(size):
            return None
        return self._spool.open("w+b")

    def take(self, file: int, sha256: str) -> bool:
        """Take the objects of what was spooled; whether they are known."""
        return self._least_busy(0).ask(Compressor.take, file, str(self._spool), sha256)

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

    def end(self, file: int, offset: int, kind: Kind, sha256: str = "") -> None:
        """The object is whole; it begins at an offset of a file."""
        self._open.do(Compressor.end, file, offset, str(kind), sha256)

    def made(self) -> Iterator[Made]:
        """Wait for all objects, and tell them."""
        for writer in self._writers:
            writer.flush()
        for writer in self._writers:
            while some := writer.ask(Compressor.made):
                yield from some

    def _least_busy(self, size: int) -> Writer[Compressor]:
        index = self._given.index(min(self._given))
        # What a small object costs beside its bytes.
        self._given[index] += size + 4096
        return self._writers[index]
