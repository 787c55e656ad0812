"""Trees as text: mtree(5) manifests, one line an entry, full paths, parents first.

A manifest is the truth about a layer's or an image's tree, also where the file
system that holds the tree cannot keep it (owners without root, xattrs on
CernVM-FS).  Everything beyond mtree(5)'s keywords stands in ``tags``, which
other readers pass over:

``implied``        a directory that the layer does not mention but needs
``opaque``         a directory that hides what lower layers have in it
``whiteout``       hides this path of lower layers; published as device 0:0
``lower``          a hard link to a path of a lower layer; ``link:`` names it
``link:PATH``      the same inode as PATH (always the group's first path)
``xattr:NAME:B64`` an extended attribute, its value in base64
``layer:N``        in an image: the layer, lowest is 0, that provides the entry
``source:PATH``    its path in that layer, where that is another
``generated``      in an image: a file that no layer has
``widened``        in an image: more may read it than the image says
``lost:WHAT``      what this file system could not keep of the entry

What goes over hundreds of thousands of lines does not take them apart as `Entry`
does.  The functions and patterns for that are here too: nothing else knows how a
line is written.  A line's ``rest`` is all behind its path, without the newline.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Protocol

from ..errors import RepositoryError

FORMAT = b"#mtree v2.0\n"

LINE = b"%b %b\n"
"""What a path, as manifests have it, and a rest make a line."""

TAGS = b" tags="
"""What stands before a rest's tags, the last of its words."""

WHITEOUT_TAG = b" tags=whiteout"
"""What the rest of a whiteout has in it, and no other."""

WHITEOUT = b"type=char uid=0 gid=0 mode=0000 optional device=native,0,0" + WHITEOUT_TAG
"""The rest of a whiteout: what overlayfs reads as one, if it is made."""

TYPE_DIR = b"type=dir"
"""How a directory's rest begins."""

IMPLIED_DIR = b"type=dir uid=0 gid=0 mode=0755 time=0.000000000"
"""The rest of a directory that a layer needs and does not mention, without tags."""

LOST = b"lost:"
"""How an entry's flag begins that says what the file system could not keep."""

WIDENED = b"widened"
"""The flag of an entry of a flat tree that more may read than the image says."""

NO_LAYER = -1
"""In the place of a layer's number: no layer has the entry, it is generated."""

PLAIN = re.compile(
    rb"\./(?P<path>\S+) type=(?P<kind>file|dir|link) uid=(?P<uid>[0-9]+) gid=(?P<gid>[0-9]+) "
    rb"mode=(?P<mode>[0-7]+) (?:size=(?P<size>[0-9]+) )?time=(?P<seconds>-?[0-9]+)\.000000000"
    rb"(?: sha256=[0-9a-f]+)?(?: link=(?P<target>\S+))?"
    rb"(?: tags=layer:(?P<layer>[0-9]+)(?:,source:(?P<source>[^,\s]+))?)?\n\Z"
)
"""A line with no tags but where it comes from, and a time of whole seconds; names are encoded."""

PROVIDED_FILE = re.compile(rb"\./(\S+) type=file .* tags=layer:([0-9]+)(?:,source:([^,\s]+))?\n\Z")
"""The line of a file of an image with no other tags: path, layer, path there if another.

Whoever needs no more of the line gets it at half the price of `PLAIN`.
"""

FILE_SIZE = re.compile(rb" type=file .* size=([0-9]+) ")
"""Searched for in a line: the size, where it is a file's."""

DIR, FILE, LINK, CHAR, BLOCK, FIFO, SOCKET = (
    b"dir",
    b"file",
    b"link",
    b"char",
    b"block",
    b"fifo",
    b"socket",
)

_UNSAFE = re.compile(rb"[^A-Za-z0-9._/+@:~%-]")
_ESCAPE = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a manifest.

    ``path`` is relative to the root, without ``./``; the root itself is ``.``.
    ``mtime_ns`` is in nanoseconds since the epoch, ``size`` in bytes.
    """

    path: bytes
    kind: bytes
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    hardlink: bytes = b""
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    layer: int | None = None
    source: bytes = b""
    flags: frozenset[bytes] = frozenset()

    @classmethod
    def parse(cls, line: bytes) -> Entry:
        """Read one line as `line` writes it; `RepositoryError` for anything else."""
        try:
            return _parse(line)
        except (KeyError, ValueError, IndexError):
            raise RepositoryError(
                f"{line[:80]!r} is no line of a tree manifest",
                hint="the manifest is damaged: remove it and run again",
            ) from None

    @property
    def content_path(self) -> bytes:
        """Where the providing layer has it."""
        return self.source or self.path

    def line(self) -> bytes:
        """The entry as one line, newline included."""
        return LINE % (encode_path(self.path), self.rest())

    def rest(self) -> bytes:
        """The line without path and newline."""
        # Nobody sees a whiteout's time.
        mtime_ns = None if b"whiteout" in self.flags else self.mtime_ns
        rest = _keywords(
            self.kind, self, mtime_ns, self.size, self.sha256, self.target, self.device
        )
        if b"lower" in self.flags or any(flag.startswith(LOST) for flag in self.flags):
            rest += b" optional"
        if tags := self._tags():
            rest += TAGS + b",".join(tags)
        return rest

    def _tags(self) -> list[bytes]:
        tags = sorted(self.flags)
        if self.hardlink:
            tags.append(b"link:" + encode(self.hardlink))
        tags += [xattr_tag(name, value) for name, value in self.xattrs]
        if self.layer is not None:
            tags.append(b"layer:%d" % self.layer)
        if self.source:
            tags.append(b"source:" + encode(self.source))
        return tags


def _parse(line: bytes) -> Entry:
    words = line.split()
    values = dict(word.partition(b"=")[::2] for word in words[1:])
    seconds, _, nanoseconds = values.get(b"time", b"0.0").partition(b".")
    flags, xattrs = [], []
    hardlink = source = b""
    layer = None
    for tag in values.get(b"tags", b"").split(b","):
        name, _, value = tag.partition(b":")
        if name == b"link":
            hardlink = decode(value)
        elif name == b"source":
            source = decode(value)
        elif name == b"layer":
            layer = int(value)
        elif name == b"xattr":
            key, _, content = value.partition(b":")
            xattrs.append((decode(key), base64.urlsafe_b64decode(content)))
        elif tag:
            flags.append(tag)
    device = values.get(b"device", b"native,0,0").split(b",")
    return Entry(
        path=decode_path(words[0]),
        kind=values[b"type"],
        mode=int(values[b"mode"], 8),
        uid=int(values[b"uid"]),
        gid=int(values[b"gid"]),
        mtime_ns=int(seconds) * 1_000_000_000 + int(nanoseconds),
        size=int(values.get(b"size", b"0")),
        sha256=values.get(b"sha256", b"").decode(),
        target=decode(values.get(b"link", b"")),
        device=(int(device[1]), int(device[2])),
        hardlink=hardlink,
        xattrs=tuple(xattrs),
        layer=layer,
        source=source,
        flags=frozenset(flags),
    )


def lower_link(path: bytes, target: bytes) -> Entry:
    """A layer's hard link to a lower layer's file: what that is differs from image to image."""
    return Entry(path, FILE, mode=0, hardlink=target, flags=frozenset({b"lower"}))


class _Attributed(Protocol):
    """What has the attributes that every entry has."""

    @property
    def mode(self) -> int: ...
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...
    @property
    def mtime_ns(self) -> int: ...
    @property
    def xattrs(self) -> tuple[tuple[bytes, bytes], ...]: ...


def rest_of(
    kind: bytes,
    of: _Attributed,
    *,
    size: int = 0,
    sha256: str = "",
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    optional: bool = False,
    flags: Iterable[bytes] = (),
) -> bytes:
    """The rest of a line of a layer's manifest; ``optional`` says that it could not be made."""
    rest = _keywords(kind, of, of.mtime_ns, size, sha256, target, device)
    if optional:
        rest += b" optional"
    for flag in flags:
        rest = tagged(rest, flag)
    for name, value in of.xattrs:
        rest = tagged(rest, xattr_tag(name, value))
    return rest


def _keywords(
    kind: bytes,
    of: _Attributed,
    mtime_ns: int | None,
    size: int,
    sha256: str,
    target: bytes,
    device: tuple[int, int],
) -> bytes:
    words = b"type=%b uid=%d gid=%d mode=%04o" % (kind, of.uid, of.gid, of.mode)
    if kind == FILE:
        words += b" size=%d" % size
    if mtime_ns is not None:
        words += b" " + encode_time(mtime_ns)
    if sha256:
        words += b" sha256=" + sha256.encode()
    if kind == LINK:
        words += b" link=" + encode(target)
    elif kind in (CHAR, BLOCK):
        words += b" device=native,%d,%d" % device
    return words


def plain_file_rest(mode: int, uid: int, gid: int, mtime_ns: int, size: int, sha256: str) -> bytes:
    """`rest_of` for most entries by far: files without extended attributes and flags."""
    owner, time = _owner_words(uid, gid, mode), _time_word(mtime_ns)
    return f"type=file {owner} size={size} {time} sha256={sha256}".encode()


# What few texts say in thousands of lines is written once.
@lru_cache(4096)
def _owner_words(uid: int, gid: int, mode: int) -> str:
    return f"uid={uid} gid={gid} mode={mode:04o}"


@lru_cache(4096)
def _time_word(mtime_ns: int) -> str:
    return encode_time(mtime_ns).decode()


_TARGET = re.compile(rb" link=(\S+)")
_FIRST = re.compile(rb"[=,]link:([^,\s]+)")
_KIND_AND_MODE = re.compile(rb"type=([a-z]+) .*?\bmode=([0-7]+)")


def tagged(rest: bytes, tags: bytes) -> bytes:
    """A rest with a tag more, or several with commas between them."""
    return rest + (b"," if TAGS in rest else TAGS) + tags


def has_tag(rest: bytes, tag: bytes) -> bool:
    """Whether a rest, or a whole line, has a tag (by all of its name)."""
    return tag in rest and tag in rest.partition(TAGS)[2].rstrip(b"\n").split(b",")


def take_tags(rest: bytes, taken: Collection[bytes]) -> tuple[bytes, list[bytes]]:
    """A rest without some tags, and all tags that it has had."""
    head, separator, tags = rest.partition(TAGS)
    if not separator:
        return rest, []
    words = tags.split(b",")
    kept = [word for word in words if word not in taken]
    return (head + TAGS + b",".join(kept) if kept else head), words


def first_name(rest: bytes) -> bytes | None:
    """The (encoded) path of which a rest's entry is one more name; None where it is none."""
    match = _FIRST.search(rest, rest.find(TAGS)) if TAGS in rest else None
    return match[1] if match else None


def symlink_target(rest: bytes) -> bytes | None:
    """Where the rest of a symlink leads, decoded; None for any other rest."""
    match = _TARGET.search(rest) if rest.startswith(b"type=link") else None
    return decode(match[1]) if match else None


def with_more_mode(rest: bytes, more: Callable[[bytes, int], int]) -> bytes:
    """A rest with the permissions added that ``more`` grants an entry of a kind and a mode."""
    match = _KIND_AND_MODE.match(rest)
    if match is None:
        return rest
    mode = int(match[2], 8)
    wanted = mode | more(match[1], mode)
    start, end = match.span(2)
    return rest if wanted == mode else b"%b%04o%b" % (rest[:start], wanted, rest[end:])


def with_origin(rest: bytes, layer: int, source: bytes = b"") -> bytes:
    """A rest with the layer that provides the entry, and its path there if another.

    ``source`` begins with ``./``, as in a line; ``layer`` may be `NO_LAYER`.
    """
    origin = b"generated" if layer == NO_LAYER else b"layer:%d" % layer
    if source:
        origin += b",source:" + source[2:]
    return tagged(rest, origin)


def encode(raw: bytes) -> bytes:
    """Bytes as mtree(5) writes names: all but plain characters as ``\\ooo``."""
    if _UNSAFE.search(raw) is None:
        return raw
    return _UNSAFE.sub(lambda match: b"\\%03o" % match[0][0], raw)


def decode(text: bytes) -> bytes:
    """The inverse of `encode`."""
    if b"\\" not in text:
        return text
    return _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), text)


def encode_path(path: bytes) -> bytes:
    """A path as a line's first word: ``.`` or ``./usr/bin``."""
    return b"." if path == b"." else b"./" + encode(path)


def decode_path(word: bytes) -> bytes:
    """The inverse of `encode_path`."""
    return decode(word[2:] if word.startswith(b"./") else word)


def encode_time(mtime_ns: int) -> bytes:
    """``time=`` with nine digits; before the epoch the seconds are rounded down."""
    seconds, nanoseconds = divmod(mtime_ns, 1_000_000_000)
    return b"time=%d.%09d" % (seconds, nanoseconds)


def xattr_tag(name: bytes, value: bytes) -> bytes:
    """An extended attribute as a tag."""
    return b"xattr:%b:%b" % (encode(name).replace(b":", b"\\072"), base64.urlsafe_b64encode(value))


def read(path: Path) -> Iterator[Entry]:
    """The entries of a manifest file, in its order (parents first)."""
    with path.open("rb") as lines:
        for line in lines:
            if not line.startswith(b"#"):
                yield Entry.parse(line)


def write(path: Path, entries: Iterable[Entry], *, comments: Iterable[str] = ()) -> None:
    """Write a manifest file; ``entries`` must come parents first."""
    with path.open("wb") as out:
        out.write(FORMAT)
        out.writelines(f"# {comment}\n".encode() for comment in comments)
        out.writelines(entry.line() for entry in entries)
