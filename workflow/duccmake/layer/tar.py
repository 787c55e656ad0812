"""A tar archive as a stream of members: ustar, PAX, GNU and V7 headers.

One parser decides what each header says, and everything downstream sees its
decision (CVE-2025-62518 and its kin are disagreements between two).  It is
stricter than Python's ``tarfile``, which takes a damaged header for the end.
Formats: POSIX.1-2017 pax, "pax Interchange Format" and "ustar Interchange
Format"; GNU tar manual, "Basic Tar Format" and "Storing Sparse Files".
"""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import unquote_to_bytes
from zlib import adler32

from ..errors import CorruptLayer, LimitExceeded, UnsafeLayer
from ..tree.mtree import BLOCK, CHAR, DIR, FIFO, FILE, LINK
from .limits import Account, UnpackLimits

HARDLINK = b"hardlink"
"""The kind of a member that names another path's inode (``target``)."""

_BLOCK = 512
_FILE_TYPE = ord("0")
_COPIED = 16 * 1024
_ZERO_BLOCK = bytes(_BLOCK)
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"S": FILE,
    b"1": HARDLINK,
    b"2": LINK,
    b"3": CHAR,
    b"4": BLOCK,
    b"5": DIR,
    b"6": FIFO,
}
_XATTR = b"SCHILY.xattr."
_XATTR_LIBARCHIVE = b"LIBARCHIVE.xattr."
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,8}) ")
_PAX_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?\Z")
_OCTAL = re.compile(rb" *([0-7]+)\0")
_USTAR_MAGIC = b"ustar\0"


@dataclass(slots=True)
class Member:
    """One member: its header after all extensions are applied.

    ``name`` and ``target`` are raw bytes as the archive has them.  ``size`` is the
    file's size in bytes, holes included; ``extents`` are the (offset, length) that
    a sparse file's stored content belongs to, None where there are no holes.
    """

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    extents: tuple[tuple[int, int], ...] | None = None


@dataclass(slots=True)
class _Extensions:
    """What PAX and GNU headers say of the next member."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    long_name: bytes | None = None
    long_target: bytes | None = None
    sparse_map: list[int] = field(default_factory=list)
    size: int = 0
    """Bytes of all these headers together."""


class TarReader:
    """Reads members off an iterator of pieces; iterate over it, take content in between.

    Content of the current member is taken by `content` and skipped when it is
    not.  The input is always read to its end, also past the end-of-archive
    blocks, so that a digest over it is complete.  Entries and holes go to the
    ``account``, a new one with ``limits`` where there is none.  Raises `CorruptLayer`
    for damage, `LimitExceeded` and `UnsafeLayer` for a type that no image may have.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        limits: UnpackLimits | None = None,
        account: Account | None = None,
    ) -> None:
        self._pieces = pieces
        self._account = account or Account(limits or UnpackLimits())
        self._limits = self._account.limits
        self._piece = b""
        self._at = 0
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Member]:
        extensions: _Extensions | None = None
        while True:
            if extensions is None and (plain := self._plain_file()) is not None:
                yield plain
                if self._left or self._padding:
                    self._pass_over_content()
                continue
            header = self._next_header()
            if header is None:
                break
            fields = _HEADER.unpack(header)
            kind = fields[7]
            if kind in b"xgLKX":
                if kind == b"g":
                    # Archives of images carry comments here; containerd passes them over too.
                    self._pass_over(_number(fields[4], "size"))
                    continue
                extensions = extensions or _Extensions()
                self._extend(extensions, kind, _number(fields[4], "size"))
                continue
            self._account.entry()
            if extensions is None and kind != b"S":
                member = self._plain_member(fields)
            else:
                member = self._extended_member(fields, extensions or _Extensions())
                extensions = None
            if kind == b"\0" and member.name.endswith(b"/"):
                # V7 has no type for directories but a slash behind the name.
                member.kind, member.size = DIR, 0
            yield member
            self._pass_over_content()
        if extensions is not None:
            raise CorruptLayer("the archive ends after an extended header without its member")
        for _ in self._pieces:
            pass

    def content(self) -> Iterator[memoryview]:
        """The current member's stored content, piece by piece (holes left out)."""
        while self._left:
            available = len(self._piece) - self._at
            if not available:
                self._refill()
                continue
            take = min(available, self._left)
            view = memoryview(self._piece)[self._at : self._at + take]
            self._at += take
            self._left -= take
            yield view

    def small_content(self) -> bytes | memoryview | None:
        """The current member's whole content, where it lies in one piece; else None."""
        end = self._at + self._left
        behind = end + self._padding
        if behind > len(self._piece):
            return None
        # A copy is cheaper than a view as long as it is small.
        piece = self._piece if self._left <= _COPIED else memoryview(self._piece)
        content = piece[self._at : end]
        self._at = behind
        self._left = self._padding = 0
        return content

    # --- the stream -----------------------------------------------------

    def _refill(self) -> None:
        piece = next(self._pieces, None)
        if piece is None:
            raise CorruptLayer("the archive ends in the middle of a member's content")
        self._piece = piece
        self._at = 0

    def _take(self, size: int) -> bytes | None:
        """Exactly ``size`` bytes; None at a clean end; `CorruptLayer` in between."""
        at = self._at
        end = at + size
        if end <= len(self._piece):
            self._at = end
            return self._piece[at:end]
        parts = [self._piece[at:]]
        missing = size - len(parts[0])
        while missing:
            piece = next(self._pieces, None)
            if piece is None:
                self._piece, self._at = b"", 0
                if missing == size:
                    return None
                raise CorruptLayer("the archive ends in the middle of a header")
            parts.append(piece[:missing])
            self._piece = piece
            self._at = len(parts[-1])
            missing -= self._at
        return b"".join(parts)

    def _next_header(self) -> bytes | None:
        header = self._take(_BLOCK)
        if header is None:
            return None
        if header == _ZERO_BLOCK:
            second = self._take(_BLOCK)
            if second is None or second == _ZERO_BLOCK:
                return None
            raise CorruptLayer("a single zero block stands between the archive's members")
        _check_sum(header)
        return header

    def _open_content(self, size: int) -> None:
        if size < 0:
            raise CorruptLayer(f"a header says that its member has {size} bytes")
        self._left = size
        self._padding = -size % _BLOCK

    def _pass_over_content(self) -> None:
        if self._left:
            for _ in self.content():
                pass
        if self._padding:
            self._pass_over_padding()

    def _pass_over_padding(self) -> None:
        """Go on behind a member; some builders leave out what fills the last one's block."""
        while self._padding:
            step = min(self._padding, len(self._piece) - self._at)
            self._at += step
            self._padding -= step
            if not self._padding:
                return
            piece = next(self._pieces, None)
            if piece is None:
                self._padding = 0
                return
            self._piece, self._at = piece, 0

    def _pass_over(self, size: int) -> None:
        self._open_content(size)
        self._pass_over_content()

    def _header_content(self, extensions: _Extensions, size: int) -> bytes:
        self._open_content(size)
        extensions.size += size
        if self._limits.header_bytes and extensions.size > self._limits.header_bytes:
            raise LimitExceeded(
                f"an entry's extended headers have {extensions.size} bytes, "
                f"more than {self._limits.header_bytes}",
                hint="raise limits.header_bytes if the image is honest",
            )
        content = b"".join(self.content())
        self._pass_over_content()
        return content

    # --- headers --------------------------------------------------------

    def _plain_file(self) -> Member | None:
        """The next member, if it is a file with nothing special, as nearly all are.

        None for everything else, faults included, and then nothing was consumed:
        what this reads, `_plain_member` would read in the same way, at a third of
        the speed.
        """
        at = self._at
        header = self._piece[at : at + _BLOCK]
        if len(header) != _BLOCK or header[156] != _FILE_TYPE or header[345]:
            return None
        size = header[124:135]
        name_end = header.find(0, 0, 100)
        if name_end < 0 or header[135] or not size.isdigit():
            return None
        try:
            if adler32(header) & 0xFFFF != _low_adler(header[148:156]):
                return None
            length = int(size, 8)
            mode, uid, gid = _owner(header[100:124])
            mtime_ns = _mtime_ns(header[136:148])
        except (ValueError, CorruptLayer):
            return None
        self._account.entry()
        self._at = at + _BLOCK
        self._left = length
        self._padding = -length % _BLOCK
        return Member(header[:name_end], FILE, mode, uid, gid, mtime_ns, length)

    def _extend(self, extensions: _Extensions, kind: bytes, size: int) -> None:
        content = self._header_content(extensions, size)
        if kind == b"L":
            extensions.long_name = content.partition(b"\0")[0]
        elif kind == b"K":
            extensions.long_target = content.partition(b"\0")[0]
        else:
            _parse_records(content, extensions)

    def _plain_member(self, fields: tuple[bytes, ...]) -> Member:
        kind = _kind(fields)
        name = fields[0].partition(b"\0")[0]
        if fields[9][:6] == _USTAR_MAGIC and fields[14][0]:
            name = _ustar_prefix(fields) + name
        mode, uid, gid = _owner(b"".join(fields[1:4]))
        member = Member(name, kind, mode, uid, gid, _mtime_ns(fields[5]))
        if kind is FILE:
            member.size = _number(fields[4], "size")
            self._open_content(member.size)
        elif kind is LINK or kind is HARDLINK:
            member.target = fields[8].partition(b"\0")[0]
        elif kind is CHAR or kind is BLOCK:
            member.device = (_device(fields[12]), _device(fields[13]))
        return member

    def _extended_member(self, fields: tuple[bytes, ...], extensions: _Extensions) -> Member:
        records = extensions.records
        if b"size" in records:
            # The record decides, whatever the ustar field says (pax, "size").
            size = b"%o" % _decimal(records[b"size"], "size")
            fields = (*fields[:4], size, *fields[5:])
        member = self._plain_member(fields)
        if extensions.long_name is not None:
            member.name = extensions.long_name
        if extensions.long_target is not None:
            member.target = extensions.long_target
        member.name = records.get(b"path", member.name)
        if member.kind in (LINK, HARDLINK):
            member.target = records.get(b"linkpath", member.target)
        if b"uid" in records:
            member.uid = _decimal(records[b"uid"], "uid")
        if b"gid" in records:
            member.gid = _decimal(records[b"gid"], "gid")
        if b"mtime" in records:
            member.mtime_ns = _time(records[b"mtime"])
        member.xattrs = tuple(sorted(extensions.xattrs.items()))
        if member.kind is FILE:
            if fields[7] == b"S":
                self._open_gnu_sparse(member, fields)
            elif any(key.startswith(b"GNU.sparse.") for key in records):
                self._open_pax_sparse(member, extensions)
        return member

    # --- sparse files ---------------------------------------------------

    def _open_gnu_sparse(self, member: Member, fields: tuple[bytes, ...]) -> None:
        """GNU's old format: four extents and the real size where ustar has the prefix."""
        stored = member.size
        area = b"".join(fields[14:])
        # offset 386 of the header is byte 41 of the prefix field, which begins at 345.
        values = [area[41 + 12 * n : 53 + 12 * n] for n in range(8)]
        more = area[137] != 0
        member.size = _number(area[138:150], "real size")
        while more:
            block = self._take(_BLOCK)
            if block is None:
                raise CorruptLayer("the archive ends in a sparse file's map")
            values += [block[12 * n : 12 * n + 12] for n in range(42)]
            more = block[504] != 0
            self._check_map(len(values) * 12)
        numbers = [_number(value, "sparse map") for value in values if value.strip(b"\0 ")]
        self._open_sparse(member, numbers, stored)

    def _open_pax_sparse(self, member: Member, extensions: _Extensions) -> None:
        """PAX formats 0.0 (a record each), 0.1 (one record) and 1.0 (in the content)."""
        records = extensions.records
        stored = member.size
        member.name = records.get(b"GNU.sparse.name", member.name)
        real = records.get(b"GNU.sparse.realsize", records.get(b"GNU.sparse.size"))
        if real is None:
            raise CorruptLayer("a sparse file's header does not say its size")
        member.size = _decimal(real, "real size")
        if records.get(b"GNU.sparse.major") == b"1":
            numbers, used = self._read_map()
            self._open_sparse(member, numbers, stored - used)
            return
        if b"GNU.sparse.map" in records:
            text = records[b"GNU.sparse.map"]
            numbers = [_decimal(word, "sparse map") for word in text.split(b",") if word]
        else:
            numbers = extensions.sparse_map
        self._open_sparse(member, numbers, stored)

    def _read_map(self) -> tuple[list[int], int]:
        """PAX 1.0's map: decimal lines in front of the content, padded to a block."""
        lines: list[bytes] = []
        rest = b""
        used = 0
        wanted = 1
        while len(lines) < wanted:
            if self._left < _BLOCK:
                raise CorruptLayer("a sparse file's map is longer than its content")
            block = self._take(_BLOCK)
            if block is None:
                raise CorruptLayer("the archive ends in a sparse file's map")
            self._left -= _BLOCK
            used += _BLOCK
            self._check_map(used)
            *complete, rest = (rest + block).split(b"\n")
            lines += complete
            if lines:
                wanted = 1 + 2 * _decimal(lines[0], "sparse map")
        return [_decimal(line, "sparse map") for line in lines[1:wanted]], used

    def _check_map(self, size: int) -> None:
        if self._limits.header_bytes and size > self._limits.header_bytes:
            raise LimitExceeded(
                f"a sparse file's map has more than {self._limits.header_bytes} bytes",
                hint="raise limits.header_bytes if the image is honest",
            )

    def _open_sparse(self, member: Member, numbers: list[int], stored: int) -> None:
        if len(numbers) % 2:
            raise CorruptLayer("a sparse file's map has an odd number of values")
        extents = tuple(zip(numbers[::2], numbers[1::2], strict=True))
        end = 0
        for offset, length in extents:
            if offset < end or offset + length > member.size:
                raise CorruptLayer("a sparse file's map does not fit the file")
            end = offset + length
        if sum(length for _, length in extents) != stored:
            raise CorruptLayer("a sparse file's content does not fit its map")
        # Nothing is stored of holes, but they are hashed and read: a bomb for next to nothing.
        self._account.made(member.size - stored)
        self._left = stored
        member.extents = extents


def _check_sum(header: bytes) -> None:
    """The header's checksum, or `CorruptLayer` (ustar, "chksum").

    adler32's low half is one more than the sum of all bytes modulo 65,521: a
    checksum in C.  Only where it differs is the sum made exactly, also with
    signed bytes, as some old tars did it.
    """
    field_ = header[148:156]
    try:
        if adler32(header) & 0xFFFF == _low_adler(field_):
            return
    except ValueError:
        raise CorruptLayer(f"{header[:20]!r} is no tar header") from None
    signed = sum(struct.unpack("512b", header)) - sum(struct.unpack("8b", field_)) + 256
    if signed != int(field_.strip(b"\0 "), 8):
        raise CorruptLayer(f"the header of {header[:100].rstrip(bytes(1))!r} has a wrong checksum")


# What few texts say in thousands of headers is read once.
_KEPT = 4096


@lru_cache(_KEPT)
def _low_adler(field_: bytes) -> int:
    """The low half of adler32 of a whole header that has this, right, checksum field."""
    return (1 + int(field_.strip(b"\0 "), 8) - 256 + sum(field_)) % 65521


@lru_cache(_KEPT)
def _owner(text: bytes) -> tuple[int, int, int]:
    """The header's fields mode, uid and gid, which stand side by side."""
    return (
        _number(text[:8], "mode") & 0o7777,
        _number(text[8:16], "uid"),
        _number(text[16:], "gid"),
    )


@lru_cache(_KEPT)
def _mtime_ns(text: bytes) -> int:
    return _number(text, "mtime") * 1_000_000_000


def _kind(fields: tuple[bytes, ...]) -> bytes:
    kind = _KINDS.get(fields[7])
    if kind is None:
        name = fields[0].partition(b"\0")[0]
        raise UnsafeLayer(
            f"{name!r} has the tar type {fields[7]!r}, which no image layer may have",
            hint="ask the image's author to build it with a current tool",
        )
    return kind


def _ustar_prefix(fields: tuple[bytes, ...]) -> bytes:
    # star keeps times behind a shorter prefix and says so in the last four bytes.
    prefix = fields[14][:131] if fields[15][8:] == b"tar\0" else fields[14]
    return prefix.partition(b"\0")[0] + b"/"


def _number(text: bytes, what: str) -> int:
    """A header's number: octal, or base-256 where the first bit is set (GNU)."""
    digits = text.rstrip(b"\0 ").lstrip(b" ")
    try:
        if digits.isdigit():
            return int(digits, 8)
        if not digits:
            return 0
        if text[0] & 0x80:
            return _base_256(text)
        return int(_OCTAL.match(digits)[1], 8)  # type: ignore[index]
    except (ValueError, TypeError):
        raise CorruptLayer(f"a header's {what} is {text!r}") from None


def _base_256(text: bytes) -> int:
    """Big-endian in all bits but the first; 0xFF in front makes it negative."""
    negative = text[0] == 0xFF
    value = int.from_bytes(
        text if negative else bytes([text[0] & 0x7F]) + text[1:], signed=negative
    )
    if not -(1 << 63) <= value < 1 << 63:
        raise ValueError
    return value


def _device(text: bytes) -> int:
    value = _number(text, "device")
    if not 0 <= value < 1 << 31:
        raise CorruptLayer(f"a header's device number is {value}")
    return value


def _decimal(text: bytes, what: str) -> int:
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise CorruptLayer(f"an extended header's {what} is {text[:40]!r}")
    return int(text)


def _time(text: bytes) -> int:
    """A PAX time, decimal seconds with a fraction, in nanoseconds."""
    match = _PAX_TIME.match(text)
    if match is None:
        raise CorruptLayer(f"an extended header's mtime is {text[:40]!r}")
    sign, seconds, fraction = match.groups(b"")
    value = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if sign else value


def _parse_records(content: bytes, extensions: _Extensions) -> None:
    """Add the records ``LENGTH KEY=VALUE\\n`` of one extended header (pax, "Extended Header")."""
    records = extensions.records
    at = 0
    while at < len(content):
        match = _PAX_LENGTH.match(content, at)
        end = at + int(match[1]) if match else 0
        if match is None or end > len(content) or content[end - 1 : end] != b"\n":
            raise CorruptLayer(f"{content[at : at + 40]!r} is no record of an extended header")
        key, equals, value = content[match.end() : end - 1].partition(b"=")
        if not key or not equals:
            raise CorruptLayer(f"{content[at : at + 40]!r} is no record of an extended header")
        _add_record(extensions, records, key, value)
        at = end


def _add_record(
    extensions: _Extensions, records: dict[bytes, bytes], key: bytes, value: bytes
) -> None:
    if key.startswith(_XATTR):
        extensions.xattrs[_xattr_name(key[len(_XATTR) :])] = value
    elif key.startswith(_XATTR_LIBARCHIVE):
        name = _xattr_name(unquote_to_bytes(key[len(_XATTR_LIBARCHIVE) :]))
        # SCHILY's record has the raw value and comes from the same tools: it goes before.
        extensions.xattrs.setdefault(name, _base64(value))
    elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
        # PAX 0.0 repeats these, so that a mapping would lose all but the last.
        extensions.sparse_map.append(_decimal(value, "sparse map"))
        records[key] = value
    elif not value:
        records.pop(key, None)
    else:
        if key in (b"path", b"linkpath", b"GNU.sparse.name") and b"\0" in value:
            raise CorruptLayer(f"an extended header's {key.decode()} has a NUL in it")
        records[key] = value


def _xattr_name(name: bytes) -> bytes:
    if not name or b"\0" in name or len(name) > 255:
        raise CorruptLayer(f"{name[:40]!r} is no name of an extended attribute")
    return name


def _base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise CorruptLayer("an extended attribute is not in base64") from None
