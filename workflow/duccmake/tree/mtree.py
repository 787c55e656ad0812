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
``lost:WHAT``      what this file system could not keep of the entry
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import RepositoryError

FORMAT = b"#mtree v2.0\n"

WHITEOUT = b"type=char uid=0 gid=0 mode=0000 optional device=native,0,0 tags=whiteout"
"""The line of a whiteout behind its path: what overlayfs reads as one, if it is made."""

WIDENED = b"widened"
"""The flag of an entry of a flat tree that more may read than the image says."""

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
        words = [
            encode_path(self.path),
            b"type=%b uid=%d gid=%d mode=%04o" % (self.kind, self.uid, self.gid, self.mode),
        ]
        if self.kind == FILE:
            words.append(b"size=%d" % self.size)
        if b"whiteout" not in self.flags:
            # Nobody sees a whiteout's time.
            words.append(encode_time(self.mtime_ns))
        if self.sha256:
            words.append(b"sha256=%b" % self.sha256.encode())
        if self.kind == LINK:
            words.append(b"link=%b" % encode(self.target))
        if self.kind in (CHAR, BLOCK):
            words.append(b"device=native,%d,%d" % self.device)
        if b"lower" in self.flags or any(flag.startswith(b"lost:") for flag in self.flags):
            words.append(b"optional")
        if tags := self._tags():
            words.append(b"tags=%b" % b",".join(tags))
        return b" ".join(words) + b"\n"

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
