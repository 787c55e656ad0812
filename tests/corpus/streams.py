"""Blobs, sound and damaged, and archives in every dialect, put together byte by byte."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
import zlib
from collections.abc import Mapping
from pathlib import Path

from duccmake.layer import zstd as pep784

BLOCK = 512
END = bytes(2 * BLOCK)


def number(value: int, width: int) -> bytes:
    """A numeric field: octal, or base-256 where it does not fit (GNU)."""
    if 0 <= value < 8 ** (width - 1):
        return b"%0*o\0" % (width - 1, value)
    raw = value.to_bytes(width, "big", signed=True)
    return raw if value < 0 else bytes([raw[0] | 0x80]) + raw[1:]


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int = 0,
    mode: int = 0o644,
    uid: int = 0,
    gid: int = 0,
    mtime: int = 1_700_000_000,
    target: bytes = b"",
    magic: bytes = b"ustar\x0000",
    device: tuple[int, int] | None = None,
    tail: bytes = b"",
) -> bytes:
    """One header; ``tail`` is what stands from the prefix field on."""
    fields = [
        name.ljust(100, b"\0")[:100],
        number(mode, 8),
        number(uid, 8),
        number(gid, 8),
        number(size, 12),
        number(mtime, 12),
        b" " * 8,
        kind,
        target.ljust(100, b"\0")[:100],
        magic,
        bytes(64),
        b"".join(number(part, 8) for part in device) if device else bytes(16),
        tail.ljust(167, b"\0"),
    ]
    return checked(b"".join(fields))


def checked(raw: bytes) -> bytes:
    """The header with its checksum made right."""
    blank = raw[:148] + b" " * 8 + raw[156:]
    return raw[:148] + b"%06o\0 " % sum(blank) + raw[156:]


def padded(content: bytes) -> bytes:
    return content + bytes(-len(content) % BLOCK)


def member(name: bytes, content: bytes = b"", **fields: object) -> bytes:
    return header(name, size=len(content), **fields) + padded(content)  # type: ignore[arg-type]


def record(key: bytes, value: bytes) -> bytes:
    """One record of an extended header."""
    length = len(key) + len(value) + 3
    while length != len(str(length)) + len(key) + len(value) + 3:
        length += 1
    return b"%d %b=%b\n" % (length, key, value)


def pax(records: Mapping[bytes, bytes], *, kind: bytes = b"x") -> bytes:
    return member(
        b"PaxHeader", b"".join(record(key, value) for key, value in records.items()), kind=kind
    )


def long_name(name: bytes) -> bytes:
    return member(b"././@LongLink", name + b"\0", kind=b"L", magic=b"ustar  \0")


# --- compressions ----------------------------------------------------------


def gzip_members(tar: bytes, count: int = 3) -> bytes:
    """Several members one after the other, as pigz and eStargz write them."""
    step = len(tar) // count + 1
    return b"".join(gzip.compress(tar[at : at + step]) for at in range(0, len(tar), step))


def gzip_with_all_fields(tar: bytes) -> bytes:
    """A header with extra field, name, comment and its own checksum (RFC 1952)."""
    head = b"\x1f\x8b\x08\x1e" + bytes(4) + b"\0\3"
    head += struct.pack("<H", 4) + b"AB\0\0" + b"name.tar\0" + b"a comment\0"
    head += struct.pack("<H", zlib.crc32(head) & 0xFFFF)
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(tar) + deflate.flush()
    return head + body + struct.pack("<II", zlib.crc32(tar), len(tar) & 0xFFFFFFFF)


def zstd(tar: bytes) -> bytes:
    with_checksum = {pep784.zstd.CompressionParameter.checksum_flag: 1}
    return pep784.zstd.compress(tar, options=with_checksum)


def zstd_frames(tar: bytes) -> bytes:
    half = len(tar) // 2
    return zstd(tar[:half]) + zstd(tar[half:])


def skippable(content: bytes = b"about the frames", number_: int = 0) -> bytes:
    """A frame that readers pass over; zstd:chunked has its table of contents in one."""
    return struct.pack("<II", 0x184D2A50 + number_, len(content)) + content


SOUND = {
    "raw": lambda tar: tar,
    "gzip": lambda tar: gzip.compress(tar),
    "gzip-stored": lambda tar: gzip.compress(tar, 0),
    "gzip-members": gzip_members,
    "gzip-with-an-empty-member": lambda tar: gzip.compress(b"") + gzip.compress(tar),
    "gzip-with-all-header-fields": gzip_with_all_fields,
    "gzip-padded-with-zeros": lambda tar: gzip.compress(tar) + bytes(1000),
    "zstd": zstd,
    "zstd-frames": zstd_frames,
    "zstd-with-a-skippable-frame-first": lambda tar: skippable() + zstd(tar),
    "zstd-with-a-skippable-frame-last": lambda tar: zstd(tar) + skippable(number_=15),
    "zstd-with-a-skippable-frame-between": lambda tar: (
        zstd(tar[:BLOCK]) + skippable(b"x" * 300_000) + zstd(tar[BLOCK:])
    ),
    "bzip2": bz2.compress,
    "bzip2-streams": lambda tar: bz2.compress(tar[:700]) + bz2.compress(tar[700:]),
    "xz": lzma.compress,
    "xz-streams": lambda tar: lzma.compress(tar[:700]) + lzma.compress(tar[700:]),
}
"""Blobs that hold an archive, by name: functions of the archive."""


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 0xFF]) + data[at + 1 :]


DAMAGED = {
    "gzip-with-a-wrong-crc": lambda tar: flipped(gzip.compress(tar), -8 % len(gzip.compress(tar))),
    "gzip-with-a-wrong-length": lambda tar: flipped(
        gzip.compress(tar), -4 % len(gzip.compress(tar))
    ),
    "gzip-without-its-trailer": lambda tar: gzip.compress(tar)[:-8],
    "gzip-with-half-a-trailer": lambda tar: gzip.compress(tar)[:-3],
    "gzip-cut-in-the-header": lambda tar: gzip.compress(tar)[:5],
    "gzip-cut-in-the-middle": lambda tar: gzip.compress(tar)[: len(gzip.compress(tar)) // 2],
    "gzip-with-a-wrong-crc-in-the-first-member": lambda tar: (
        flipped(gzip.compress(tar[:600]), len(gzip.compress(tar[:600])) - 6)
        + gzip.compress(tar[600:])
    ),
    "gzip-with-a-cut-second-member": lambda tar: (
        gzip.compress(tar[:600]) + gzip.compress(tar[600:])[:-2]
    ),
    "gzip-and-something-else": lambda tar: gzip.compress(tar) + b"and a text",
    "gzip-and-the-magic-of-another": lambda tar: gzip.compress(tar) + b"\x1f\x8b",
    "gzip-and-zeros-and-something-else": lambda tar: gzip.compress(tar) + bytes(9000) + b"text",
    "gzip-then-zstd": lambda tar: gzip.compress(tar[:600]) + zstd(tar[600:]),
    "zstd-cut": lambda tar: zstd(tar)[:-5],
    "zstd-with-a-wrong-checksum": lambda tar: flipped(zstd(tar), len(zstd(tar)) - 1),
    "zstd-with-a-cut-skippable-frame": lambda tar: zstd(tar) + skippable()[:-3],
    "bzip2-cut": lambda tar: bz2.compress(tar)[:-4],
    "bzip2-damaged": lambda tar: flipped(bz2.compress(tar), len(bz2.compress(tar)) // 2),
    "xz-cut": lambda tar: lzma.compress(tar)[:-4],
    "xz-damaged": lambda tar: flipped(lzma.compress(tar), len(lzma.compress(tar)) // 2),
}
"""Blobs that must be refused."""


# --- archives by real programs ---------------------------------------------

SPARSE_FORMATS = {
    "gnu": ["--format=gnu"],
    "pax-0.0": ["--format=pax", "--sparse-version=0.0"],
    "pax-0.1": ["--format=pax", "--sparse-version=0.1"],
    "pax-1.0": ["--format=pax", "--sparse-version=1.0"],
}


def gnu_tar(source: Path, *options: str) -> bytes:
    """What GNU tar makes of a directory's content."""
    command = ["tar", "--create", "--numeric-owner", "--sort=name", *options, "-C", str(source)]
    return subprocess.run([*command, "."], check=True, capture_output=True).stdout
