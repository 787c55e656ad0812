"""A tar stream that is written while CernVM-FS reads it: ustar and GNU format, raw bytes.

Headers are put together by hand from parts, since the generator has to keep ahead
of CernVM-FS' compression.  Names go out as they are, because PAX names are mangled
under the C locale: in ustar's two fields where they fit, else in GNU's records for
long names.

What has been written always ends within a block, up to the very end: a publisher
that dies leaves a truncated archive, which CernVM-FS refuses, and never one that
could pass for a shorter whole.
"""

from __future__ import annotations

import functools
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator

from ...errors import RepositoryError

_BLOCK = 512
_PIECE = 1024 * 1024
_NAME = 100
_RECORD = 20 * _BLOCK

_PREFIX = 155

_pack = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x").pack
_USTAR = b"ustar\x0000"
_GNU = b"ustar  \0"
_NO_SUM = b"        "
_PADDING = bytes(_BLOCK)

FILE, LINK, SYMLINK, CHAR, BLOCK_DEVICE, DIRECTORY, FIFO = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"4",
    b"5",
    b"6",
)


def header(
    name: bytes,
    kind: bytes,
    *,
    mode: int = 0,
    uid: int = 0,
    gid: int = 0,
    size: int = 0,
    mtime_ns: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """The header blocks of a member, with long-name records before it where it needs them.

    Parts of a second go before it as well, in a PAX header that has no name in it.
    """
    head = _head(
        name,
        (
            _number(mode, 8),
            _number(uid, 8),
            _number(gid, 8),
            _number(size, 12),
            _number(mtime_ns // 1_000_000_000, 12),
            _NO_SUM,
            kind,
        ),
        link,
        (b"root", b"root", _number(device[0], 8), _number(device[1], 8)),
    )
    return _time(mtime_ns) + head if mtime_ns % 1_000_000_000 else head


def link_header(name: bytes, target: bytes) -> bytes:
    """The header of a hard link; CernVM-FS takes all but the two names from the target."""
    return _head(name, _LINK_NUMBERS, target, _LINK_REST)


def _head(
    name: bytes, numbers: tuple[bytes, ...], link: bytes, rest: tuple[bytes, bytes, bytes, bytes]
) -> bytes:
    prefix, last, magic, long = b"", name, _USTAR, b""
    if len(name) > _NAME:
        # As much as fits goes into the second field, at a slash.
        cut = name.rfind(b"/", 0, _PREFIX + 1)
        if cut > 0 and len(name) - cut - 1 <= _NAME:
            prefix, last = name[:cut], name[cut + 1 :]
        else:
            magic, long = _GNU, _long(b"L", name)
    head = _summed(_pack(last[:_NAME], *numbers, link[:_NAME], magic, *rest, prefix))
    if len(link) > _NAME:
        long += _long(b"K", link)
    return long + head if long else head


def _long(kind: bytes, name: bytes) -> bytes:
    size = len(name) + 1
    return _long_head(kind, size) + name + bytes(_BLOCK - (size - 1) % _BLOCK)


@functools.lru_cache(1024)
def _long_head(kind: bytes, size: int) -> bytes:
    head = _pack(
        b"././@LongLink",
        *_LINK_NUMBERS[:3],
        _number(size, 12),
        _LINK_NUMBERS[4],
        _NO_SUM,
        kind,
        b"",
        _GNU,
        *_LINK_REST,
        b"",
    )
    return _summed(head)


def _time(mtime_ns: int) -> bytes:
    """A PAX header with a time (pax(1), "mtime"), as CernVM-FS' libarchive reads it.

    That takes what is behind the point for a positive number, before the epoch too.
    """
    record = b" mtime=%d.%09d\n" % divmod(mtime_ns, 1_000_000_000)
    length = len(record) + 2
    content = b"%d%b" % (length, record)
    head = _head(
        b"time",
        (*_LINK_NUMBERS[:3], _number(length, 12), *_LINK_NUMBERS[4:6], b"x"),
        b"",
        _LINK_REST,
    )
    return head + content + bytes(_BLOCK - length)


def _summed(head: bytes) -> bytes:
    """The header with its checksum; adler32's lower half is the sum of the bytes, plus one."""
    low = zlib.adler32(head) & 0xFFFF
    total = low - 1 if b"\x80" not in head and b"\xff" not in head else sum(head)
    return b"%b%06o\0 %b" % (head[:148], total, head[156:])


@functools.lru_cache(4096)
def _number(value: int, width: int) -> bytes:
    """Octal where it fits, else base 256 as GNU has it."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = value.to_bytes(width, "big", signed=True)
    return (b"\xff" if value < 0 else b"\x80") + raw[1:]


_LINK_NUMBERS = (
    _number(0o644, 8),
    _number(0, 8),
    _number(0, 8),
    _number(0, 12),
    _number(0, 12),
    _NO_SUM,
    LINK,
)
_LINK_REST = (b"root", b"root", _number(0, 8), _number(0, 8))


class TarStream:
    """Hands members over to ``write`` (which takes all it is given) in large pieces.

    ``size`` and ``members`` count what was written.  Nothing but `close` ends
    the archive properly.  ``settle`` waits until the archive is read.
    """

    def __init__(
        self,
        write: Callable[[bytes | memoryview], object],
        settle: Callable[[], object] = lambda: None,
    ) -> None:
        self._hand_over = write
        self.settle = settle
        self._parts: list[bytes | memoryview] = []
        self._pending = 0
        self._written = 0
        self.members = 0

    @property
    def size(self) -> int:
        """Bytes written so far, with those that still wait for more."""
        return self._written + self._pending

    def add(self, head: bytes) -> None:
        """A member that is all header."""
        self.members += 1
        self._parts.append(head)
        self._pending += len(head)
        if self._pending >= _PIECE:
            self._flush()

    def add_link(self, name: bytes, target: bytes) -> None:
        """A hard link, to a published file or one of the archive."""
        self.add(link_header(name, target))

    def add_file(self, head: bytes, content: bytes) -> None:
        """A file whose content is at hand."""
        self.add_pieces(head, (content,), len(content))

    def add_open(self, head: bytes, source: int, size: int) -> None:
        """A file with ``size`` bytes of content, read from the descriptor ``source``.

        Raises `RepositoryError` where there are fewer or more.
        """
        self.add_pieces(head, _read(source), size)

    def add_pieces(self, head: bytes, pieces: Iterable[bytes], size: int) -> None:
        """A file with ``size`` bytes of content, in pieces.

        Raises `RepositoryError` where there are fewer or more.
        """
        self.members += 1
        self._parts.append(head)
        self._pending += len(head)
        left = size
        for content in pieces:
            left -= len(content)
            if left < 0:
                break
            self._parts.append(content)
            self._pending += len(content)
            if self._pending >= _PIECE:
                self._flush()
        if left:
            raise RepositoryError(
                "a staged file has another size than its manifest says",
                hint="remove what is staged and run again",
            )
        if size % _BLOCK:
            padding = _BLOCK - size % _BLOCK
            self._parts.append(_PADDING[:padding])
            self._pending += padding
        if self._pending >= _PIECE:
            self._flush()

    def close(self) -> None:
        """End the archive and hand everything over."""
        end = 2 * _BLOCK
        end += -(self.size + end) % _RECORD
        self._parts.append(bytes(end))
        self._pending += end
        self._write(b"".join(self._parts))
        self._parts, self._pending = [], 0

    def _flush(self) -> None:
        """Write all but the last part of a block, so that what is there is never whole."""
        joined = memoryview(b"".join(self._parts))
        ready = len(joined) - (self._written + len(joined) - _BLOCK // 2) % _BLOCK
        self._write(joined[:ready])
        self._parts = [joined[ready:]]
        self._pending = len(joined) - ready

    def _write(self, content: bytes | memoryview) -> None:
        self._hand_over(content)
        self._written += len(content)


def _read(source: int) -> Iterator[bytes]:
    while content := os.read(source, _PIECE):
        yield content
