"""The members of an archive, whichever of the formats their headers have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import adler32

from ...errors import CorruptLayer, LimitExceeded
from ...tree.mtree import BLOCK as BLOCK_DEVICE
from ...tree.mtree import CHAR, DIR, FILE, LINK
from ..limits import Account, UnpackLimits
from . import sparse
from .blocks import Blocks
from .extensions import Extensions, decimal, parse_records, time_ns
from .headers import (
    BLOCK,
    FIELDS,
    FILE_TYPE,
    HARDLINK,
    USTAR_MAGIC,
    device_number,
    kind_of,
    low_adler,
    mode_and_owner,
    mtime_of,
    number,
    ustar_prefix,
)

if TYPE_CHECKING:
    from ..tar_split import TarSplit


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
    extents: sparse.Extents | None = None


class TarReader(Blocks):
    """Reads members off an iterator of pieces; iterate over it, take content in between.

    Content of the current member is taken by `content` and skipped when it is
    not.  The input is always read to its end, also past the end-of-archive
    blocks, so that a digest over it is complete.  Entries and holes go to the
    ``account``, a new one with ``limits`` where there is none, and all else to ``split``,
    if there is one.  Raises `CorruptLayer`
    for damage, `LimitExceeded` and `UnsafeLayer` for a type that no image may have.
    """

    def __init__(
        self,
        pieces: Iterator[bytes],
        limits: UnpackLimits | None = None,
        account: Account | None = None,
        split: TarSplit | None = None,
    ) -> None:
        super().__init__(split.taking(pieces) if split else pieces)
        self._split = split
        self._account = account or Account(limits or UnpackLimits())
        self._limits = self._account.limits

    def __iter__(self) -> Iterator[Member]:
        extensions: Extensions | None = None
        while True:
            if extensions is None and (plain := self._plain_file()) is not None:
                if self._split is not None:
                    self._split.member(self._at, self._left, plain.name)
                yield plain
                if self._left or self._padding:
                    self._pass_over_content()
                continue
            header = self._next_header()
            if header is None:
                break
            fields = FIELDS.unpack(header)
            kind = fields[7]
            if kind in b"xgLKX":
                if kind == b"g":
                    # Archives of images carry comments here; containerd passes them over too.
                    self._pass_over(number(fields[4], "size"))
                    continue
                extensions = extensions or Extensions()
                self._extend(extensions, kind, number(fields[4], "size"))
                continue
            self._account.entry()
            if extensions is None and kind != b"S":
                member = self._plain_member(fields)
            else:
                member = self._extended_member(fields, extensions or Extensions())
                extensions = None
            if kind == b"\0" and member.name.endswith(b"/"):
                # V7 has no type for directories but a slash behind the name.
                member.kind, member.size = DIR, 0
            if self._split is not None:
                self._tell(self._split, member)
            yield member
            self._pass_over_content()
        if extensions is not None:
            raise CorruptLayer("the archive ends after an extended header without its member")
        for _ in self._pieces:
            pass

    def _tell(self, split: TarSplit, member: Member) -> None:
        split.member(self._at, self._left, member.name)
        if member.extents is not None or (self._left and member.kind is not FILE):
            split.spoil()

    def _header_content(self, extensions: Extensions, size: int) -> bytes:
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

    def _plain_file(self) -> Member | None:
        """The next member, if it is a file with nothing special, as nearly all are.

        None for everything else, faults included, and then nothing was consumed:
        what this reads, `_plain_member` would read in the same way, at a third of
        the speed.
        """
        at = self._at
        header = self._piece[at : at + BLOCK]
        if len(header) != BLOCK or header[156] != FILE_TYPE or header[345]:
            return None
        size = header[124:135]
        name_end = header.find(0, 0, 100)
        if name_end < 0 or header[135] or not size.isdigit():
            return None
        try:
            if adler32(header) & 0xFFFF != low_adler(header[148:156]):
                return None
            length = int(size, 8)
            mode, uid, gid = mode_and_owner(header[100:124])
            mtime_ns = mtime_of(header[136:148])
        except (ValueError, CorruptLayer):
            return None
        self._account.entry()
        self._at = at + BLOCK
        self._left = length
        self._padding = -length % BLOCK
        return Member(header[:name_end], FILE, mode, uid, gid, mtime_ns, length)

    def _extend(self, extensions: Extensions, kind: bytes, size: int) -> None:
        content = self._header_content(extensions, size)
        if kind == b"L":
            extensions.long_name = content.partition(b"\0")[0]
        elif kind == b"K":
            extensions.long_target = content.partition(b"\0")[0]
        else:
            parse_records(content, extensions)

    def _plain_member(self, fields: tuple[bytes, ...]) -> Member:
        kind = kind_of(fields)
        name = fields[0].partition(b"\0")[0]
        if fields[9][:6] == USTAR_MAGIC and fields[14][0]:
            name = ustar_prefix(fields) + name
        mode, uid, gid = mode_and_owner(b"".join(fields[1:4]))
        member = Member(name, kind, mode, uid, gid, mtime_of(fields[5]))
        if kind is FILE:
            member.size = number(fields[4], "size")
            self._open_content(member.size)
        elif kind is LINK or kind is HARDLINK:
            member.target = fields[8].partition(b"\0")[0]
        elif kind is CHAR or kind is BLOCK_DEVICE:
            member.device = (device_number(fields[12]), device_number(fields[13]))
        return member

    def _extended_member(self, fields: tuple[bytes, ...], extensions: Extensions) -> Member:
        records = extensions.records
        if b"size" in records:
            # The record decides, whatever the ustar field says (pax, "size").
            size = b"%o" % decimal(records[b"size"], "size")
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
            member.uid = decimal(records[b"uid"], "uid")
        if b"gid" in records:
            member.gid = decimal(records[b"gid"], "gid")
        if b"mtime" in records:
            member.mtime_ns = time_ns(records[b"mtime"])
        member.xattrs = tuple(sorted(extensions.xattrs.items()))
        if member.kind is FILE:
            if fields[7] == b"S":
                self._open_gnu_sparse(member, fields)
            elif sparse.is_pax_sparse(records):
                self._open_pax_sparse(member, extensions)
        return member

    # --- sparse files ---------------------------------------------------

    def _open_gnu_sparse(self, member: Member, fields: tuple[bytes, ...]) -> None:
        stored = member.size
        limit = self._limits.header_bytes
        member.size, numbers = sparse.gnu_map(fields, self._map_block, limit)
        self._open_sparse(member, numbers, stored)

    def _open_pax_sparse(self, member: Member, extensions: Extensions) -> None:
        records = extensions.records
        stored = member.size
        member.name = records.get(b"GNU.sparse.name", member.name)
        member.size = sparse.pax_size(records)
        if records.get(b"GNU.sparse.major") == b"1":
            limit = self._limits.header_bytes
            numbers, used = sparse.pax_map_in_content(self._content_block, limit)
            stored -= used
        else:
            numbers = sparse.pax_map(records, extensions.sparse_map)
        self._open_sparse(member, numbers, stored)

    def _map_block(self) -> bytes:
        block = self._take(BLOCK)
        if block is None:
            raise CorruptLayer("the archive ends in a sparse file's map")
        return block

    def _content_block(self) -> bytes:
        if self._left < BLOCK:
            raise CorruptLayer("a sparse file's map is longer than its content")
        block = self._map_block()
        self._left -= BLOCK
        return block

    def _open_sparse(self, member: Member, numbers: list[int], stored: int) -> None:
        member.extents = sparse.extents(numbers, member.size, stored)
        # Nothing is stored of holes, but they are hashed and read: a bomb for next to nothing.
        self._account.made(member.size - stored)
        self._left = stored
