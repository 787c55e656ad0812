"""What objects and paths are called inside a repository's storage and catalogs."""

from __future__ import annotations

import struct
from enum import StrEnum
from hashlib import md5, sha1

HASH_BYTES = 20
"""The length of a SHA-1 digest, the only hash that is written here."""

_HALVES = struct.Struct("<qq")


class Kind(StrEnum):
    """What an object is, as the suffix of its name has it."""

    FILE = ""
    CHUNK = "P"
    CATALOG = "C"
    HISTORY = "H"
    CERTIFICATE = "X"
    METAINFO = "M"


def path_key(path: bytes) -> tuple[int, int]:
    """How catalogs know a path: the MD5 of it as two signed little-endian halves.

    Paths are absolute, like ``/a/b``; the repository's root is empty.
    """
    return _HALVES.unpack(md5(path, usedforsecurity=False).digest())


def hash_of(stored: bytes | bytearray | memoryview) -> bytes:
    """The hash that names an object, from its bytes as they are stored (compressed)."""
    return sha1(stored, usedforsecurity=False).digest()


def object_name(digest: bytes, kind: Kind) -> str:
    """An object's name: its hash in hex, and the suffix of its kind."""
    return digest.hex() + kind


def storage_path(name: str) -> str:
    """Where the object of that name is below a repository's storage."""
    return f"data/{name[:2]}/{name[2:]}"
