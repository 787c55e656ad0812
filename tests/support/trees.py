"""Trees as values: a snapshot of all that a file system says of one, and how two differ."""

# Paths here are bytes, or seen from a changed root:
# ruff: noqa: PTH115
from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

_KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "link",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

_OF_THE_HOST = (b"security.selinux", b"trusted.overlay.", b"user.overlay.", b"system.")


@dataclass(frozen=True, slots=True)
class Node:
    """One entry: ``mode`` has twelve bits, ``group`` all names of a file with several."""

    kind: str
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size: int = 0
    sha256: str = ""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    group: tuple[bytes, ...] = ()
    xattrs: tuple[tuple[bytes, bytes], ...] = ()


Tree = Mapping[bytes, Node]


def snapshot(root: Path, *, acting: bool = False) -> dict[bytes, Node]:
    """The tree below ``root`` by path (``.`` is the root); special files are not opened.

    ``acting``: also the attributes that overlayfs reads.
    """
    found = dict(_walk(os.fsencode(root)))
    names: dict[tuple[int, int], list[bytes]] = {}
    for path, (status, _) in found.items():
        if not stat.S_ISDIR(status.st_mode):
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
    tree = {}
    for path, (status, real) in found.items():
        group = names.get((status.st_dev, status.st_ino), [])
        tree[path] = _node(status, real, tuple(sorted(group)) if len(group) > 1 else (), acting)
    return tree


def _walk(root: bytes) -> Iterator[tuple[bytes, tuple[os.stat_result, bytes]]]:
    yield b".", (os.lstat(root), root)
    stack = [(b"", root)]
    while stack:
        prefix, directory = stack.pop()
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                yield prefix + entry.name, (entry.stat(follow_symlinks=False), entry.path)
                if entry.is_dir(follow_symlinks=False):
                    stack.append((prefix + entry.name + b"/", entry.path))


def _node(status: os.stat_result, real: bytes, group: tuple[bytes, ...], acting: bool) -> Node:
    kind = _KINDS[stat.S_IFMT(status.st_mode)]
    sha256 = ""
    if kind == "file":
        with open(os.open(real, os.O_RDONLY | os.O_NOFOLLOW), "rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
    has_device = kind in ("char", "block")
    xattrs = {
        os.fsencode(name): os.getxattr(real, name, follow_symlinks=False)
        for name in os.listxattr(real, follow_symlinks=False)
    }
    return Node(
        kind=kind,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size=status.st_size if kind == "file" else 0,
        sha256=sha256,
        target=os.readlink(real) if kind == "link" else b"",
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if has_device else (0, 0),
        group=group,
        xattrs=tuple(
            (name, value)
            for name, value in sorted(xattrs.items())
            if acting or not name.startswith(_OF_THE_HOST)
        ),
    )


def differences(
    wanted: Tree,
    found: Tree,
    *,
    ignore: Collection[str] = (),
    ignore_on: Mapping[bytes, Collection[str]] | None = None,
) -> list[str]:
    """One line a difference; ``ignore`` are fields of `Node`, ``ignore_on`` those by path."""
    lines = []
    for path in sorted(wanted.keys() | found.keys()):
        if path not in found:
            lines.append(f"{path!r} is missing ({wanted[path].kind})")
        elif path not in wanted:
            lines.append(f"{path!r} is too much ({found[path].kind})")
        else:
            passed_over = {*ignore, *(ignore_on or {}).get(path, ())}
            for field in fields(Node):
                one, other = getattr(wanted[path], field.name), getattr(found[path], field.name)
                if one != other and field.name not in passed_over:
                    lines.append(f"{path!r} has {field.name} {other!r}, wanted {one!r}")
    return lines
