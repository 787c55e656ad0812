"""The manifest of an unpacked layer: what its tree in memory is, as lines of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..oci.reference import Digest
from ..tree import mtree
from ..tree.mtree import LINE, LOST, encode, tagged
from .limits import Account
from .staged_nodes import Directory, LowerLink


def write_manifest(path: Path, root: Directory, digest: Digest, account: Account) -> int:
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
    return mtree.rest_of(mtree.DIR, directory.attributes, flags=flags)
