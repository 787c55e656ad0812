"""Headers of a tar archive: blocks of 512 bytes with fields of text (POSIX.1-2017, ustar)."""

from __future__ import annotations

import re
import struct
from functools import lru_cache
from zlib import adler32

from ...errors import CorruptLayer, UnsafeLayer
from ...tree.mtree import BLOCK as BLOCK_DEVICE
from ...tree.mtree import CHAR, DIR, FIFO, FILE, LINK

HARDLINK = b"hardlink"
"""The kind of a member that names another path's inode (``target``)."""

BLOCK = 512
ZERO_BLOCK = bytes(BLOCK)
FIELDS = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12s")
"""The fields of a header, in their order."""

FILE_TYPE = ord("0")
USTAR_MAGIC = b"ustar\0"

_KINDS = {
    b"0": FILE,
    b"\0": FILE,
    b"7": FILE,
    b"S": FILE,
    b"1": HARDLINK,
    b"2": LINK,
    b"3": CHAR,
    b"4": BLOCK_DEVICE,
    b"5": DIR,
    b"6": FIFO,
}
_OCTAL = re.compile(rb" *([0-7]+)\0")


def check_sum(header: bytes) -> None:
    """The header's checksum, or `CorruptLayer` (ustar, "chksum").

    adler32's low half is one more than the sum of all bytes modulo 65,521: a
    checksum in C.  Only where it differs is the sum made exactly, also with
    signed bytes, as some old tars did it.
    """
    field_ = header[148:156]
    try:
        if adler32(header) & 0xFFFF == low_adler(field_):
            return
    except ValueError:
        raise CorruptLayer(f"{header[:20]!r} is no tar header") from None
    signed = sum(struct.unpack("512b", header)) - sum(struct.unpack("8b", field_)) + 256
    if signed != int(field_.strip(b"\0 "), 8):
        raise CorruptLayer(f"the header of {header[:100].rstrip(bytes(1))!r} has a wrong checksum")


# What few texts say in thousands of headers is read once.
_KEPT = 4096


@lru_cache(_KEPT)
def low_adler(field_: bytes) -> int:
    """The low half of adler32 of a whole header that has this, right, checksum field."""
    return (1 + int(field_.strip(b"\0 "), 8) - 256 + sum(field_)) % 65521


@lru_cache(_KEPT)
def mode_and_owner(text: bytes) -> tuple[int, int, int]:
    """The header's fields mode, uid and gid, which stand side by side."""
    return (
        number(text[:8], "mode") & 0o7777,
        number(text[8:16], "uid"),
        number(text[16:], "gid"),
    )


@lru_cache(_KEPT)
def mtime_of(text: bytes) -> int:
    """The field mtime, in nanoseconds."""
    return number(text, "mtime") * 1_000_000_000


def kind_of(fields: tuple[bytes, ...]) -> bytes:
    """The kind of a member; `UnsafeLayer` for one that no layer may have."""
    kind = _KINDS.get(fields[7])
    if kind is None:
        name = fields[0].partition(b"\0")[0]
        raise UnsafeLayer(
            f"{name!r} has the tar type {fields[7]!r}, which no image layer may have",
            hint="ask the image's author to build it with a current tool",
        )
    return kind


def ustar_prefix(fields: tuple[bytes, ...]) -> bytes:
    """What stands before the name, where there was no room for it."""
    # star keeps times behind a shorter prefix and says so in the last four bytes.
    prefix = fields[14][:131] if fields[15][8:] == b"tar\0" else fields[14]
    return prefix.partition(b"\0")[0] + b"/"


def number(text: bytes, what: str) -> int:
    """A header's number: octal, or base-256 where the first bit is set (GNU); or `CorruptLayer`."""
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


def device_number(text: bytes) -> int:
    """A field devmajor or devminor."""
    value = number(text, "device")
    if not 0 <= value < 1 << 31:
        raise CorruptLayer(f"a header's device number is {value}")
    return value
