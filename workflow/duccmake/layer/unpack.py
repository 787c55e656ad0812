"""Unpacking a layer: one pass from the blob to a staged tree and its manifest.

Rules: image-spec, layer.md ("Applying Changesets", "Whiteouts").  A layer is
unpacked without knowing what lies below it: whiteouts become overlayfs', hard
links to lower layers and parents that it does not mention are noted in the
manifest, and `duccmake.layer.flatten` puts layers together.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import CorruptLayer, LimitExceeded, NoSpace, UnsafeLayer
from ..oci.reference import Digest
from ..tree import mtree
from ..tree.mtree import DIR, FILE, LINE, LINK, LOST, encode, plain_file_rest, tagged
from .builder import (
    NOT_MADE,
    PIECE,
    Attributes,
    Directory,
    Inode,
    LowerLink,
    Place,
    Staging,
    describe,
    may_lose,
)
from .disk import Lost
from .limits import Account, UnpackLimits
from .measured import STAGED
from .pack import Pack
from .stream import LayerStream, StreamResult
from .tar import HARDLINK, Member, TarReader

if TYPE_CHECKING:
    from .writers import Writers

logger = logging.getLogger(__name__)

LAYER_FORMAT = 3
"""Version of what a staged layer looks like."""

_WHITEOUT = b".wh."
_OPAQUE = b".wh..wh..opq"
_AUFS = b".wh..wh."
_SPECIAL = (b"", b".")
"""How names begin that may be whiteouts, ``.`` or ``..``, or end in a slash (empty)."""

_MAX_ID = 2**32 - 2
"""The highest owner: 2**32 - 1 means "leave as it is" to the kernel."""

_ZEROS = bytes(1024 * 1024)

_SHA256 = hashlib.sha256()
"""Copied, at half the price of making one, for each small file."""


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A staged layer: where it is, what its stream was, what could not be kept (counts)."""

    path: Path
    stream: StreamResult
    entries: int
    lost: dict[str, int]


def unpack_layer(
    blob: Path,
    destination: Path,
    *,
    digest: Digest,
    diff_algorithms: Collection[str] = ("sha256",),
    packed: bool = False,
    limits: UnpackLimits | None = None,
    progress: Callable[[int], None] | None = None,
) -> UnpackedLayer:
    """Unpack ``blob`` into ``destination/layer``: its manifest, and a tree or a pack.

    The manifest and a summary are in ``.metadata/``, the tree is ``layerfs/``; where
    the layer shall be ``packed``, the content of its files is in a `duccmake.layer.pack`.
    The blob has to have the ``digest``; what it unpacks to is measured, by each of
    ``diff_algorithms``, and noted in the summary (`duccmake.layer.measured`).  The directory
    appears only when everything was right, and nothing remains when it was not.
    ``progress`` gets the bytes of each uncompressed piece.  Raises `LayerError`
    and its kin, `DigestMismatch` and `NoSpace`.
    """
    partial = destination / "layer.partial"
    try:
        _remove_tree(partial)
        # Private: what a layer says of setuid files and devices counts once it is published.
        destination.mkdir(mode=0o700, parents=True, exist_ok=True)
        destination.chmod(0o700)
        for directory in (partial, partial / ".metadata"):
            directory.mkdir(mode=0o755)
        place = _packed(partial) if packed else _tree(partial / "layerfs")
        with place as made:
            stream = LayerStream(
                blob, algorithm=digest.algorithm, diff_algorithms=diff_algorithms, limits=limits
            )
            unpacked = _unpack(stream, partial, made, digest, progress)
        partial.rename(destination / "layer")
    except OSError as error:
        _discard(partial)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while unpacking {digest}",
                hint=f"make room on the file system of {destination} and run again",
            ) from error
        raise describe(error) from error
    except BaseException:
        _discard(partial)
        raise
    return unpacked


@contextmanager
def _packed(directory: Path) -> Iterator[Pack]:
    with closing(Pack(directory)) as pack:
        yield pack
        pack.finish()


@contextmanager
def _tree(directory: Path) -> Iterator[Writers]:
    from .writers import Writers  # slow to import

    directory.mkdir(mode=0o755)
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    mask = os.umask(0)  # modes are as the layer gives them
    try:
        with Writers(root_fd) as writers:
            yield writers
    finally:
        os.umask(mask)
        os.close(root_fd)


def _unpack(
    layer: LayerStream,
    partial: Path,
    place: Place,
    digest: Digest,
    progress: Callable[[int], None] | None,
) -> UnpackedLayer:
    with layer as stream:
        account = stream.account
        staging = Staging(place, account)
        reader = TarReader(_reported(stream, progress), account=account)
        _Unpacker(staging, account).apply(reader)
    result = stream.result
    result.verify(digest)
    staging.finish()
    manifest = partial / ".metadata" / "tree.mtree"
    entries = _write_manifest(manifest, staging.root, digest, account)
    lost = staging.losses()
    summary = {
        "format": LAYER_FORMAT,
        "digest": str(digest),
        "diff_ids": list(map(str, result.diff_ids)),
        "blob_bytes": result.blob_bytes,
        "diff_bytes": result.diff_bytes,
        "compression": result.compression,
        "entries": entries,
        "lost": lost,
    }
    (partial / ".metadata" / STAGED).write_text(json.dumps(summary, indent=1) + "\n")
    if lost:
        logger.warning("this file system cannot keep all of layer %s: %s", digest, _count(lost))
    return UnpackedLayer(partial.parent / "layer", result, entries, lost)


def _reported(stream: LayerStream, progress: Callable[[int], None] | None) -> Iterator[bytes]:
    for piece in stream:
        if progress is not None:
            progress(len(piece))
        yield piece


class _Unpacker:
    """Applies the members of one archive to a staging directory."""

    def __init__(self, staging: Staging, account: Account) -> None:
        self._staging = staging
        self._account = account
        self._open_links: list[tuple[Directory, bytes, LowerLink]] = []

    def apply(self, reader: TarReader) -> None:
        """Apply all members, in the archive's order."""
        spelled = self._staging.spelled
        for member in reader:
            if not 0 <= member.uid <= _MAX_ID or not 0 <= member.gid <= _MAX_ID:
                raise CorruptLayer(f"{member.name!r} belongs to {member.uid}:{member.gid}")
            before, _, name = member.name.rpartition(b"/")
            parent = spelled.get(before)
            if parent is None or name[:1] in _SPECIAL or len(name) > parent.room:
                self._apply_anywhere(member, reader)
            elif member.kind is FILE:
                parent.entries[name] = self._write_file(member, parent, name, reader)
            else:
                self._apply(member, parent, name, reader)
        self._link_late()

    def _apply_anywhere(self, member: Member, reader: TarReader) -> None:
        """Apply a member whose name is special, or the first one in its directory."""
        path = normal_path(member.name)
        limit = self._account.limits.path_bytes
        if limit and len(path) > limit:
            raise LimitExceeded(
                f"a path has {len(path)} bytes, more than {limit}",
                hint="raise limits.path_bytes if the image is honest",
            )
        parent_path, _, name = path.rpartition(b"/")
        if not name:
            self._apply_root(member)
            return
        if _AUFS in path and _is_aufs(path):
            return
        if name.startswith(_WHITEOUT):
            self._apply_whiteout(self._staging.whiteout_directory(parent_path), name)
            return
        parent = self._staging.directory(parent_path)
        self._staging.check_room(parent, name)
        before, _, last = member.name.rpartition(b"/")
        if last[:1] not in _SPECIAL:
            self._staging.spelled[before] = parent
        self._apply(member, parent, name, reader)

    def _apply_root(self, member: Member) -> None:
        if member.kind != DIR:
            raise UnsafeLayer("the layer's root is no directory (CVE-2021-29136)")
        self._staging.root.attributes = _attributes(member)
        self._staging.root.implied = False

    def _apply_whiteout(self, parent: Directory | None, name: bytes) -> None:
        if name == _OPAQUE:
            if parent is not None:
                parent.opaque = True
            return
        hidden = name[len(_WHITEOUT) :]
        if hidden in (b"", b".", b".."):
            raise UnsafeLayer(f"{name!r} is the whiteout of nothing")
        if parent is None:
            return
        if parent.whiteouts is None:
            parent.whiteouts = set()
        parent.whiteouts.add(hidden)

    def _apply(self, member: Member, parent: Directory, name: bytes, reader: TarReader) -> None:
        staging = self._staging
        kind = member.kind
        if kind is FILE:
            parent.entries[name] = self._write_file(member, parent, name, reader)
        elif kind is DIR:
            staging.make_directory(parent, name, _attributes(member))
        elif kind is LINK:
            lost = staging.make_symlink(parent, name, member)
            member.mode = 0o777
            parent.entries[name] = Inode(_rest(member, lost), member.target)
        elif kind is HARDLINK:
            self._link(member, parent, name)
        else:
            made = staging.make_node(parent, name, member)
            if made is None:
                rest = tagged(_rest(member, (), optional=True), NOT_MADE)
            else:
                rest = _rest(member, made)
            parent.entries[name] = rest

    def _link(self, member: Member, parent: Directory, name: bytes) -> None:
        target = normal_path(member.target)
        if not target:
            raise UnsafeLayer(f"{name!r} is a hard link to the layer's root")
        source = self._staging.find(target)
        if source is None:
            link = LowerLink(self._staging.lower_path(target))
        else:
            there = source[0].entries[source[1]]
            if there is parent.entries.get(name):
                return
            if not isinstance(there, LowerLink):
                self._staging.make_hard_link(source, parent, name)
                return
            link = there
        if name in parent.entries:
            self._staging.remove(parent, name)
        parent.entries[name] = link
        self._open_links.append((parent, name, link))

    def _link_late(self) -> None:
        """Make the hard links whose targets came after them; the others are to lower layers."""
        lower: set[LowerLink] = set()
        for parent, name, link in self._open_links:
            # A link may lead to a link that waits as well: follow them, make the last one first.
            chain: dict[tuple[Directory, bytes], LowerLink] = {}
            place, node = (parent, name), parent.entries.get(name)
            if node is not link:
                continue
            self._account.check_time()
            while isinstance(node, LowerLink) and node not in lower and place not in chain:
                chain[place] = node
                source = self._staging.find(node.target)
                if source is None:
                    lower.add(node)
                    break
                place, node = source, source[0].entries[source[1]]
            if isinstance(node, LowerLink):
                lower.update(chain.values())
                for directory, waiting in chain:
                    directory.entries[waiting] = node
                continue
            for at, each in reversed(chain):
                self._staging.make_hard_link(place, at, each)

    def _write_file(
        self, member: Member, parent: Directory, name: bytes, reader: TarReader
    ) -> bytes:
        staging = self._staging
        if member.size <= PIECE and member.extents is None and not may_lose(member):
            content = reader.small_content()
            if content is not None:
                staging.make_file(parent, name, member, content)
                sha256 = _SHA256.copy()
                sha256.update(content)
                return plain_file_rest(
                    member.mode,
                    member.uid,
                    member.gid,
                    member.mtime_ns,
                    member.size,
                    sha256.hexdigest(),
                )
        staging.open_file(parent, name, member)
        if member.extents is None:
            digest = _write_pieces(staging, reader)
        else:
            digest = _write_sparse(staging, member, member.extents, reader, self._account)
        lost = staging.close_file(member)
        return _rest(member, lost, sha256=digest)


def normal_path(name: bytes) -> bytes:
    """A member's name relative to the root, without ``.``, ``..``, doubled and outer slashes.

    The root itself is empty.  `UnsafeLayer` where ``..`` leads above the root.
    """
    if name.startswith(b"./"):
        name = name[2:]
    if b"//" not in name and b"/." not in name and not name.startswith((b"/", b".")):
        return name.rstrip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if not parts:
                raise UnsafeLayer(
                    f"{name!r} leads out of the layer", hint="do not trust this image"
                )
            parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


def _is_aufs(path: bytes) -> bool:
    """Whether the path is AUFS' own bookkeeping (``.wh..wh.plnk`` and the like)."""
    parts = path.split(b"/")
    return any(part.startswith(_AUFS) for part in parts[:-1]) or (
        parts[-1].startswith(_AUFS) and parts[-1] != _OPAQUE
    )


def _attributes(member: Member) -> Attributes:
    return Attributes(member.mode, member.uid, member.gid, member.mtime_ns, member.xattrs)


def _write_pieces(staging: Staging, reader: TarReader) -> str:
    digest = hashlib.sha256()
    for piece in reader.content():
        digest.update(piece)
        staging.write(piece)
    return digest.hexdigest()


def _write_sparse(
    staging: Staging,
    member: Member,
    extents: tuple[tuple[int, int], ...],
    reader: TarReader,
    account: Account,
) -> str:
    """Write the extents where they belong and leave holes; the digest covers the zeros."""
    digest = hashlib.sha256()
    pieces = reader.content()
    piece = memoryview(b"")
    at = 0
    for offset, length in extents:
        _hash_zeros(digest, offset - at, account)
        staging.seek(offset)
        at = offset + length
        while length:
            piece = piece or next(pieces)
            part = piece[:length]
            digest.update(part)
            staging.write(part)
            piece = piece[len(part) :]
            length -= len(part)
    _hash_zeros(digest, member.size - at, account)
    return digest.hexdigest()


def _hash_zeros(digest: hashlib._Hash, count: int, account: Account) -> None:
    while count > 0:
        account.check_time()
        digest.update(memoryview(_ZEROS)[:count])
        count -= len(_ZEROS)


# --- the manifest -------------------------------------------------------


def _rest(member: Member, lost: Lost, *, sha256: str = "", optional: bool = False) -> bytes:
    return mtree.rest_of(
        member.kind,
        member,
        size=member.size,
        sha256=sha256,
        target=member.target,
        device=member.device,
        optional=optional,
        flags=[LOST + kind for kind in lost],
    )


def _write_manifest(path: Path, root: Directory, digest: Digest, account: Account) -> int:
    """Write the manifest, parents first; return the number of its entries."""
    count = 0
    with path.open("wb", buffering=1024 * 1024) as out:
        out.write(mtree.FORMAT + b"# layer %b\n" % str(digest).encode())
        for line in _manifest_lines(root):
            account.made(len(line))
            out.write(line)
            count += 1
    return count


def _manifest_lines(root: Directory) -> Iterator[bytes]:
    stack: list[tuple[bytes, Directory]] = [(b".", root)]
    while stack:
        path, directory = stack.pop()
        yield LINE % (path, _directory_rest(directory))
        entries = directory.entries
        below: list[tuple[bytes, Directory]] = []
        for name in sorted(entries):
            node = entries[name]
            entry_path = b"%b/%b" % (path, encode(name))
            if isinstance(node, bytes):
                yield LINE % (entry_path, node)
            elif isinstance(node, Directory):
                below.append((entry_path, node))
            elif isinstance(node, LowerLink):
                yield mtree.lower_link(mtree.decode_path(entry_path), node.target).line()
            elif node.first:
                yield LINE % (entry_path, tagged(node.rest, b"link:" + node.first))
            else:
                node.first = entry_path[2:]
                yield LINE % (entry_path, node.rest)
        for name in sorted(directory.whiteouts or ()):
            if name not in entries:
                yield LINE % (b"%b/%b" % (path, encode(name)), mtree.WHITEOUT)
        stack += reversed(below)


def _directory_rest(directory: Directory) -> bytes:
    flags = [LOST + kind for kind in directory.lost]
    if directory.opaque:
        flags.insert(0, b"opaque")
    if directory.implied:
        flags.insert(0, b"implied")
    return mtree.rest_of(DIR, directory.attributes, flags=flags)


def _count(lost: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items()))


def _remove_tree(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _discard(path: Path) -> None:
    """Remove what a failure leaves; the failure is what is to be told, not what comes of this."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        logger.warning("%s could not be removed", path)
