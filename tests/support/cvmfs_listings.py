"""What all catalogs of a revision say, for comparing one revision with another."""

from __future__ import annotations

from collections.abc import Iterable

from duccmake.cvmfs.catalog import MARKER
from duccmake.cvmfs.revision import Revision
from duccmake.cvmfs.rows import CHUNKED, COUNTERS, MOUNTPOINT, Row, unpack_xattrs
from support.cvmfs_repositories import LARGEST


def listed(revision: Revision) -> dict[bytes, tuple[Row, bytes]]:
    """All rows of a revision, with the content of files, without what is free to differ.

    That is the hashes of content, which depend on how it is compressed and cut, the order
    of extended attributes, the numbers of inodes with several names, and of markers all
    but that they are there.
    """
    found = {}
    names: dict[tuple[tuple[int, int], int], bytes] = {}
    everything = [(b"", revision.row(b"")), *revision.walk(b"")]
    for path, row in everything:
        content = b""
        if row.is_file:
            content = revision.read(path)
        rows = [(path, row)]
        if row.flags & MOUNTPOINT:
            rows.append((path + b" as its own catalog has it", revision.catalog(path).row(path)))
        for name, each in rows:
            xattr = repr(sorted(unpack_xattrs(each.xattr))).encode()
            links = each.hardlinks
            if links >> 32:
                first = names.setdefault((each.parent, links >> 32), each.name)
                xattr += b" one with " + first
                links &= 0xFFFFFFFF
            each = each._replace(hash=None, xattr=xattr, hardlinks=links)
            if each.is_file and each.size <= LARGEST:
                # Where its server finds no place to cut, it stores one object.
                each = each._replace(flags=each.flags & ~CHUNKED)
            if each.mtimens is None:
                each = each._replace(mtimens=0)
            if each.name == MARKER:
                each = each._replace(mtime=0, mtimens=0, uid=0, gid=0, mode=0)
            found[name] = (each, content)
    return found


def counted(revision: Revision) -> dict[bytes, dict[str, int]]:
    """What each catalog counts, but for chunks: these depend on how files are cut."""
    found = {}
    for path in [b"", *(path for path, row in revision.walk(b"") if row.flags & MOUNTPOINT)]:
        own, subtree = revision.catalog(path).counters()
        names = [f"{whose}_{name}" for whose in ("self", "subtree") for name in COUNTERS]
        values = dict(zip(names, (*own, *subtree), strict=True))
        found[path] = {key: value for key, value in values.items() if "chunk" not in key}
    return found


def without_times(rows: dict[bytes, tuple[Row, bytes]], paths: Iterable[bytes]):
    """Rows of directories in which something was changed, whenever that was."""
    for path in paths:
        for name in (path, path + b" as its own catalog has it"):
            if name in rows:
                row, content = rows[name]
                rows[name] = (row._replace(mtime=0, mtimens=None), content)
    return rows


def differences(wanted: dict[bytes, tuple[Row, bytes]], found: dict[bytes, tuple[Row, bytes]]):
    """One line a difference."""
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found or path not in wanted:
            yield f"{path!r} is {'missing' if path in wanted else 'too much'}"
            continue
        (one, its_content), (other, our_content) = wanted[path], found[path]
        for name, its_own, ours in zip(Row._fields, one, other, strict=True):
            if its_own != ours:
                yield f"{path!r} has {name} {ours!r}, wanted {its_own!r}"
        if its_content != our_content:
            yield f"{path!r} has other content"
