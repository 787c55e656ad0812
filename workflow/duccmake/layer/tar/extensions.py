"""Headers that say more of the next member: PAX records, and long names as GNU tar has them."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from ...errors import CorruptLayer

_XATTR = b"SCHILY.xattr."
_XATTR_LIBARCHIVE = b"LIBARCHIVE.xattr."
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,8}) ")
_PAX_TIME = re.compile(rb"(-?)([0-9]{1,18})(?:\.([0-9]*))?\Z")


@dataclass(slots=True)
class Extensions:
    """What PAX and GNU headers say of the next member."""

    records: dict[bytes, bytes] = field(default_factory=dict)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    long_name: bytes | None = None
    long_target: bytes | None = None
    sparse_map: list[int] = field(default_factory=list)
    size: int = 0
    """Bytes of all these headers together."""


def decimal(text: bytes, what: str) -> int:
    """A record's number; `CorruptLayer` for what is none, or not below 2**63."""
    if not text.isdigit() or len(text) > 19 or int(text) >= 1 << 63:
        raise CorruptLayer(f"an extended header's {what} is {text[:40]!r}")
    return int(text)


def time_ns(text: bytes) -> int:
    """A PAX time, decimal seconds with a fraction, in nanoseconds."""
    match = _PAX_TIME.match(text)
    if match is None:
        raise CorruptLayer(f"an extended header's mtime is {text[:40]!r}")
    sign, seconds, fraction = match.groups(b"")
    value = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
    return -value if sign else value


def parse_records(content: bytes, extensions: Extensions) -> None:
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
    extensions: Extensions, records: dict[bytes, bytes], key: bytes, value: bytes
) -> None:
    if key.startswith(_XATTR):
        extensions.xattrs[_xattr_name(key[len(_XATTR) :])] = value
    elif key.startswith(_XATTR_LIBARCHIVE):
        name = _xattr_name(unquote_to_bytes(key[len(_XATTR_LIBARCHIVE) :]))
        # SCHILY's record has the raw value and comes from the same tools: it goes before.
        extensions.xattrs.setdefault(name, _base64(value))
    elif key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
        # PAX 0.0 repeats these, so that a mapping would lose all but the last.
        extensions.sparse_map.append(decimal(value, "sparse map"))
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
