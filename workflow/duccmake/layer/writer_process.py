"""A process that writes to disk, beside the one that parses and hashes.

Two threads would get into each other's way: making small files is short system
calls with Python in between, and only one of them could run that at a time.

The protocol: an order is the name of a method and its arguments.  Orders
go over a socket in batches and are carried out one after another, in the order
in which they were given; the bytes for files lie in shared memory, one slot for
each batch under way.  Each batch is answered, after its last order, with what
that returned, or with the `OSError` that ended the work.
"""

from __future__ import annotations

import gc
import marshal
import mmap
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast

from ..errors import LayerError
from ..fs.closing import Closing
from .place import PIECE

_SLOTS = 16
_ORDERS = 1000
_FORK = multiprocessing.get_context("fork")

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class Writer(Closing, Generic[T]):
    """The caller's side; a context manager around the process.

    ``make`` makes there, of the shared memory, what carries the orders out.  Of the
    caller's descriptors only ``keep`` stay open there.

    Orders and answers may raise the `OSError` of any order before, or `LayerError`
    where the process is gone.  Leaving with an exception kills the process, and
    either way it has ended afterwards.  It ends by itself when the caller's process
    dies.  Enter it before starting threads.
    """

    def __init__(self, make: Callable[[memoryview], T], *, keep: int | None = None) -> None:
        self._memory = memoryview(mmap.mmap(-1, PIECE * _SLOTS))
        self._slot = 0
        self._fill = 0
        self._end = PIECE
        self._orders: list[tuple[str, tuple[object, ...]]] = []
        self._under_way = 0
        self._link, theirs = _FORK.Pipe()
        self._theirs = theirs
        self._process = _FORK.Process(
            target=_serve, args=(make, keep, theirs, self._memory), name="writer", daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        self._theirs.close()
        return self

    def abandon(self) -> None:
        """Kill the process."""
        self._process.kill()

    def close(self) -> None:
        """Wait until the process has ended."""
        self._link.close()
        self._process.join()

    @property
    def pid(self) -> int:
        """The process that writes."""
        assert self._process.pid is not None
        return self._process.pid

    def put(self, content: bytes | memoryview) -> int:
        """Lay out bytes for the next order; where they begin.  At most `PIECE` bytes."""
        start = self._fill
        if start + len(content) > self._end:
            self.flush()
            start = self._fill
        self._fill = start + len(content)
        self._memory[start : self._fill] = content
        return start

    def do(self, order: Callable[Concatenate[T, P], object], *args: P.args, **_: P.kwargs) -> None:
        """Have an order carried out, some time, after those before it."""
        self._orders.append((order.__name__, args))
        if len(self._orders) >= _ORDERS:
            self.flush()

    def ask(self, order: Callable[Concatenate[T, P], R], *args: P.args, **_: P.kwargs) -> R:
        """Wait until all orders, and this last one, are carried out; what it returned."""
        self._orders.append((order.__name__, args))
        self.flush()
        while self._under_way > 1:
            self._answer()
        return cast(R, self._answer())

    def settle(self) -> None:
        """Wait until all orders are carried out."""
        self.flush()
        while self._under_way:
            self._answer()

    def flush(self) -> None:
        """Send what was ordered so far, and wait for a slot for what comes next."""
        if self._orders:
            try:
                self._link.send_bytes(marshal.dumps(self._orders))
            except OSError:
                # It has ended; what it said last says why.
                while True:
                    self._answer()
            self._orders.clear()
            self._under_way += 1
            self._slot = (self._slot + 1) % _SLOTS
        self._fill = self._slot * PIECE
        self._end = self._fill + PIECE
        while self._under_way >= _SLOTS:
            self._answer()

    def _answer(self) -> object:
        try:
            # From our own process, which a stranger cannot reach.
            failure, result = marshal.loads(self._link.recv_bytes())  # noqa: S302
        except (EOFError, OSError):
            self._process.join()
            raise LayerError(
                f"the writing process ended with status {self._process.exitcode}",
                hint="run again; was it killed for want of memory?",
            ) from None
        self._under_way -= 1
        if failure:
            raise OSError(*failure)
        return result


def _serve(
    make: Callable[[memoryview], object], keep: int | None, link: Connection, memory: memoryview
) -> None:
    """Carry out batch after batch until the other side is gone or an order fails."""
    # An interrupt reaches all processes of a terminal: the other side decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _close_others({0, 1, 2, keep, link.fileno()})
    gc.disable()
    try:
        served = make(memory)
        while True:
            result: object = None
            for name, args in marshal.loads(link.recv_bytes()):  # noqa: S302
                result = getattr(served, name)(*args)
            _send(link, None, result)
    except EOFError:
        return
    except OSError as error:
        _report(link, error)


def _report(link: Connection, error: OSError) -> None:
    try:
        _send(link, (error.errno, error.strerror, error.filename), None)
    except OSError:
        # The other side is gone, which may be the error itself.
        return


def _send(link: Connection, failure: tuple[Any, ...] | None, result: Any) -> None:
    link.send_bytes(marshal.dumps((failure, result)))


def _close_others(keep: set[int | None]) -> None:
    """Close what was open in the parent: locks, and the links of other writers."""
    for entry in Path("/proc/self/fd").iterdir():
        if (fd := int(entry.name)) not in keep:
            try:
                os.close(fd)
            except OSError:
                # The listing's own descriptor, which is closed already.
                continue
