"""What of a layer's archive is not content of files, by which podman makes the archive again.

containers/storage keeps it as ``<id>.tar-split.gz``: a line of JSON for each header, with all
that goes with it, and for each member, with the CRC of its content (github.com/vbatts/tar-split).
With it an image of a store that can only be read can be saved and pushed: its layers have the
digests then that its configuration promises.
"""

from __future__ import annotations

import json
import re
import zlib
from binascii import b2a_base64
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import anycrc  # type: ignore[import-untyped]

_CRC64 = anycrc.Model("CRC64-GO-ISO")
_PLAIN = re.compile(rb"[A-Za-z0-9_./:@%+=, -]*")
_SEGMENT_BYTES = 4 * 1024 * 1024
"""How much of an archive's end goes into one line."""

_LINES = 2000
_LEVEL = 1
"""As small as with any higher one, by a few percent, and in a third of the time."""


class TarSplit:
    """Takes down an archive as it is read: its pieces, and where members begin in them.

    Call `finish`, and `write` only then.  ``is_whole`` is False where the archive has what
    the form has not: a name twice, or a sparse file.
    """

    def __init__(self) -> None:
        self.is_whole = True
        self._gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 31)
        self._packed: list[bytes] = []
        self._lines: list[bytes] = []
        self._position = 0
        self._names: set[bytes] = set()
        self._members: deque[tuple[int, int, bytes]] = deque()
        self._piece = b""
        self._base = 0
        self._segment = bytearray()
        self._left = 0
        self._crc = 0
        self._open: tuple[bytes, int] = (b"", 0)

    def taking(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        """The same pieces, each of which is taken down once the next one is wanted."""
        for piece in pieces:
            self._take()
            self._piece = piece
            yield piece
        self._take()

    def member(self, offset: int, size: int, name: bytes) -> None:
        """Note a member: where its content begins in the piece at hand, or will, and its size."""
        self._members.append((self._base + offset, size, name))

    def spoil(self) -> None:
        """Say that the form has no words for the archive."""
        self.is_whole = False

    def write(self, path: Path) -> None:
        """Write it, after the last piece, unless there are no words for it."""
        if self.is_whole:
            self._end_segment()
            self._pack()
            path.write_bytes(b"".join([*self._packed, self._gzip.flush()]))

    def _take(self) -> None:
        piece = memoryview(self._piece)
        at, end = 0, len(piece)
        while self.is_whole and (at < end or self._begins(at)):
            if self._left:
                content = piece[at : at + self._left]
                self._crc = _CRC64.calc(content, self._crc)
                at += len(content)
                self._left -= len(content)
                if not self._left:
                    self._end_member()
                continue
            begins = self._members[0][0] - self._base if self._members else end
            stop = min(begins, end)
            if stop > at:
                self._segment += piece[at:stop]
                at = stop
                if len(self._segment) > _SEGMENT_BYTES:
                    self._end_segment()
            if self._begins(at):
                self._begin()
        self._base += end
        self._piece = b""
        if len(self._lines) > _LINES:
            self._pack()

    def _begins(self, at: int) -> bool:
        return not self._left and bool(self._members) and self._members[0][0] == self._base + at

    def _begin(self) -> None:
        _, size, name = self._members.popleft()
        key = _clean(name)
        if key in self._names:
            self.is_whole = False
            return
        self._names.add(key)
        self._end_segment()
        self._open, self._left, self._crc = (name, size), size, 0
        if not size:
            self._end_member()

    def _end_segment(self) -> None:
        if self._segment:
            payload = b2a_base64(self._segment, newline=False)
            self._line(b'{"type":2,"payload":"%b"' % payload)
            self._segment.clear()

    def _end_member(self) -> None:
        name, size = self._open
        said = b'{"type":1,%b' % _name(name)
        if size:
            crc = b2a_base64(self._crc.to_bytes(8, "big"), newline=False)
            self._line(b'%b,"size":%d,"payload":"%b"' % (said, size, crc))
        else:
            self._line(said + b',"payload":null')

    def _line(self, members: bytes) -> None:
        self._lines.append(b'%b,"position":%d}\n' % (members, self._position))
        self._position += 1

    def _pack(self) -> None:
        self._packed.append(self._gzip.compress(b"".join(self._lines)))
        self._lines.clear()


def _name(name: bytes) -> bytes:
    if _PLAIN.fullmatch(name):
        return b'"name":"%b"' % name
    try:
        return b'"name":%b' % json.dumps(name.decode(), ensure_ascii=False).encode()
    except UnicodeDecodeError:
        return b'"name_raw":"%b"' % b2a_base64(name, newline=False)


def _clean(name: bytes) -> bytes:
    """A name as Go's filepath.Clean has it: by it a name is there twice."""
    if b"//" not in name and b"/." not in name and name[:1] not in (b"/", b"."):
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            parts = parts[:-1]
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)
