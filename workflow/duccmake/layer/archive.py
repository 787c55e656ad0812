"""The members of a layer's archive, applied one by one to the tree that is staged."""

from __future__ import annotations

import hashlib

from ..errors import CorruptLayer, LimitExceeded, UnsafeLayer
from ..tree import mtree
from ..tree.mtree import DIR, FILE, LINK, LOST, plain_file_rest, tagged
from .builder import Staging
from .limits import Account
from .place import PIECE, Attributes, Lost, may_lose
from .staged_nodes import NOT_MADE, Directory, Inode, LowerLink
from .tar import HARDLINK, Member, TarReader

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


class Unpacker:
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
                sha256 = _SHA256.copy()
                sha256.update(content)
                digest = sha256.hexdigest()
                staging.make_file(parent, name, member, content, digest)
                return plain_file_rest(
                    member.mode, member.uid, member.gid, member.mtime_ns, member.size, digest
                )
        staging.open_file(parent, name, member)
        if member.extents is None:
            digest = _write_pieces(staging, reader)
        else:
            digest = _write_sparse(staging, member, member.extents, reader, self._account)
        lost = staging.close_file(member, digest)
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
