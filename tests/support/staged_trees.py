"""Staged layers and images made by hand, as the unpacker and the flattener leave them."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.rows import Content
from duccmake.layer.catalogs import CatalogForm, write_catalogs
from duccmake.oci.reference import Digest, Platform
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.model import ChangeSet, StagedImage, StagedLayer
from duccmake.tree import mtree
from duccmake.tree.mtree import Entry
from support.on_disk import OnDisk

ROOT = os.geteuid() == 0
OWNER = (0, 0) if ROOT else (os.geteuid(), os.getegid())
MTIME = 1_600_000_000_123_456_789
NAME = "registry.example.org/tools/app:1"
KEEPING = Keeping()
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BLOB_BYTES = 10
"""What each blob would have."""


def digest_of(text: str | bytes) -> Digest:
    raw = text.encode() if isinstance(text, str) else text
    return Digest("sha256", hashlib.sha256(raw).hexdigest())


def directory(path: str, mode: int = 0o755, **more: object) -> Entry:
    return _entry(path, mtree.DIR, mode=mode, **more)


def file(path: str, content: bytes = b"", mode: int = 0o644, **more: object) -> tuple[Entry, bytes]:
    entry = _entry(path, mtree.FILE, mode=mode, **more)
    return replace(entry, size=len(content), sha256=digest_of(content).hex), content


def symlink(path: str, target: str) -> Entry:
    return _entry(path, mtree.LINK, mode=0o777, target=target.encode())


def fifo(path: str) -> Entry:
    return _entry(path, mtree.FIFO, mode=0o640)


def char(path: str, major: int, minor: int) -> Entry:
    return _entry(path, mtree.CHAR, mode=0o660, device=(major, minor))


def whiteout(path: str) -> Entry:
    return _entry(path, mtree.CHAR, mode=0, flags=frozenset({b"whiteout"}))


def hard_link(path: str, first: tuple[Entry, bytes]) -> tuple[Entry, bytes]:
    return replace(first[0], path=path.encode(), hardlink=first[0].path), first[1]


def _entry(path: str, kind: bytes, **more: object) -> Entry:
    members = {"uid": OWNER[0], "gid": OWNER[1], "mtime_ns": MTIME, **more}
    return Entry(path.encode(), kind, **members)  # type: ignore[arg-type]


Spec = Entry | tuple[Entry, bytes]


def order(entry: Entry) -> list[tuple[bool, bytes]]:
    if entry.path == b".":
        return []
    *parents, name = entry.path.split(b"/")
    return [(True, parent) for parent in parents] + [(entry.kind == mtree.DIR, name)]


def split(specs: Sequence[Spec]) -> tuple[list[Entry], dict[bytes, bytes]]:
    entries = [spec if isinstance(spec, Entry) else spec[0] for spec in specs]
    contents = {spec[0].path: spec[1] for spec in specs if isinstance(spec, tuple)}
    if not any(entry.path == b"." for entry in entries):
        entries.append(directory("."))
    return sorted(entries, key=order), contents


def stage_layer(
    base: Path, name: str, specs: Sequence[Spec], *, prefix: str = "", keeping: Keeping = KEEPING
) -> StagedLayer:
    """A layer with these entries, staged below ``base`` under its digest, in every form.

    Its catalogs are for a repository with everything below ``prefix``.
    """
    digest = digest_of(name)
    path = base / digest.prefix / digest.hex / "layer"
    shutil.rmtree(path, ignore_errors=True)
    (path / ".metadata").mkdir(parents=True)
    (path / "layerfs").mkdir()
    entries, contents = split(specs)
    for entry in entries:
        _make(path / "layerfs", entry, contents)
    for entry in reversed(entries):
        if entry.kind == mtree.DIR:
            _finish(path / "layerfs" / os.fsdecode(entry.path), entry)
    mtree.write(path / ".metadata" / "tree.mtree", entries)
    at = f"{_top(prefix)}/.layers/{digest.prefix}/{digest.hex}/layerfs".encode()
    manifest = path / ".metadata" / "tree.mtree"
    write_staged_catalogs(path, manifest, at, lambda _, file: contents[file], keeping)
    summary = {
        "digest": str(digest),
        "diff_ids": [str(digest_of(f"diff {name}"))],
        "blob_bytes": BLOB_BYTES,
        "diff_bytes": 20,
    }
    (path / ".metadata" / "layer.json").write_text(json.dumps(summary))
    return StagedLayer(digest, path)


def _top(prefix: str) -> str:
    return f"/{prefix}" if prefix else ""


def write_staged_catalogs(
    path: Path,
    manifest: Path,
    at: bytes,
    content: Callable[[int | None, bytes], bytes],
    keeping: Keeping,
) -> None:
    """The objects and catalogs of a tree, whatever staged it."""
    shutil.rmtree(path / "objects", ignore_errors=True)
    (path / "objects").mkdir()
    objects = Objects(path / "objects")

    def stored(layer: int | None, file: bytes) -> Content:
        found = content(layer, file)
        return objects.file([found], len(found))

    form = CatalogForm(at, keeping, Codec(), secrets.token_hex(4))
    write_catalogs(path, manifest, stored, objects, form)


def _make(tree: Path, entry: Entry, contents: Mapping[bytes, bytes]) -> None:
    path = tree / os.fsdecode(entry.path)
    if entry.kind == mtree.DIR:
        path.mkdir(exist_ok=True)
        return
    if b"lower" in entry.flags:
        return
    if entry.hardlink:
        os.link(tree / os.fsdecode(entry.hardlink), path, follow_symlinks=False)
        return
    if entry.kind == mtree.FILE:
        path.write_bytes(contents[entry.path])
    elif entry.kind == mtree.LINK:
        path.symlink_to(os.fsdecode(entry.target))
    elif entry.kind == mtree.FIFO:
        os.mkfifo(path)
    else:
        os.mknod(path, stat.S_IFCHR, os.makedev(*entry.device))
    _finish(path, entry)


def _finish(path: Path, entry: Entry) -> None:
    if os.geteuid() == 0:
        os.chown(path, entry.uid, entry.gid, follow_symlinks=False)
    for name, value in entry.xattrs:
        os.setxattr(path, name, value, follow_symlinks=False)
    if entry.kind != mtree.LINK:
        path.chmod(entry.mode)
    os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=False)


def merged(layers: Sequence[Sequence[Spec]]) -> list[Entry]:
    """A plain merge, enough for these tests: the image's manifest."""
    tree: dict[bytes, Entry] = {}
    for index, specs in enumerate(layers):
        for entry in split(specs)[0]:
            if entry.kind != mtree.DIR:
                for path in [p for p in tree if (p + b"/").startswith(entry.path + b"/")]:
                    del tree[path]
            if b"whiteout" in entry.flags or (b"implied" in entry.flags and entry.path in tree):
                continue
            tree[entry.path] = replace(entry, layer=index, flags=frozenset(), source=entry.hardlink)
    return sorted(tree.values(), key=order)


def stage_image(
    base: Path,
    name: str,
    layers: Sequence[tuple[StagedLayer, Sequence[Spec]]],
    *,
    config: str = "",
    generated: Sequence[tuple[Entry, bytes]] = (),
    notes: Mapping[Digest, Sequence[Entry]] | None = None,
    products: tuple[str, ...] = ("layers", "flat"),
    prefix: str = "",
    keeping: Keeping = KEEPING,
) -> StagedImage:
    """An image of these layers; ``config`` tells images with the same layers apart."""
    config_digest = digest_of(config or f"config of {name}")
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": CONFIG, "digest": str(config_digest), "size": 1},
        "layers": [
            {"mediaType": LAYER, "digest": str(layer.digest), "size": BLOB_BYTES}
            for layer, _ in layers
        ],
        "annotations": {"name": config or name},
    }
    raw = json.dumps(manifest, indent=3).encode()
    path = base / digest_of(name.encode() + raw).hex
    shutil.rmtree(path, ignore_errors=True)
    (path / "layers").mkdir(parents=True)
    entries = merged([specs for _, specs in layers])
    for entry, content in generated:
        target = path / "generated" / os.fsdecode(entry.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        entries.append(replace(entry, flags=entry.flags | {b"generated"}))
    mtree.write(path / "tree.mtree", sorted(entries, key=order))
    own = {entry.path: content for entry, content in generated}
    contents = [split(specs)[1] for _, specs in layers]
    write_staged_catalogs(
        path,
        path / "tree.mtree",
        f"{_top(prefix)}/.flat/{config_digest.prefix}/{config_digest.hex}".encode(),
        lambda layer, file: own[file] if layer is None else contents[layer][file],
        keeping,
    )
    digests = [layer.digest for layer, _ in layers]
    for digest, noted in (notes or {}).items():
        file = path / "layers" / f"{digests.index(digest)}.mtree"
        mtree.write(file, sorted(noted, key=order))
    return StagedImage(
        name=name,
        platform=Platform("linux", "amd64"),
        manifest=digest_of(raw),
        manifest_bytes=raw,
        config=config_digest,
        layers=tuple(layer.digest for layer, _ in layers),
        path=path,
        products=products,
    )


# --- an image of two layers, and its publication ---

BUSYBOX = file("bin/busybox", b"\x7fELF busybox", 0o755)
BASE = [
    directory(".", 0o755),
    directory("bin"),
    BUSYBOX,
    hard_link("bin/sh", BUSYBOX),
    directory("etc"),
    file("etc/passwd", b"root:x:0:0\n"),
    file("etc/old.conf", b"old"),
    directory("tmp", 0o1777),
    symlink("lib", "usr/lib"),
    directory("usr"),
    directory("usr/lib", mtime_ns=-1_500_000_000),
    file("usr/lib/setuid", b"s", 0o4755),
    file("usr/lib/odd name\n\\", b"odd"),
    fifo("tmp/fifo"),
]
TOP = [
    directory(".", 0o755, flags=frozenset({b"implied"})),
    directory("etc", 0o750, mtime_ns=MTIME + 5),
    whiteout("etc/old.conf"),
    file("etc/new.conf", b"new", 0o600),
    directory("usr", flags=frozenset({b"implied"}), mtime_ns=0),
    directory("usr/share", 0o700),
    file("usr/share/doc", b"doc" * 1000),
]


def open_repository(base: Path, **settings: Any) -> DirectoryRepository:
    """A repository below ``base`` that neither waits for its lock nor for the disk."""
    settings = {"lock_seconds": 0, "durable": False, **settings}
    return DirectoryRepository(base / "root", "unpacked.example.org", **settings)


def stage(staging, name=NAME, top=TOP, *, prefix="", keeping=KEEPING, **more):
    """An image of two layers, of which the lower is the same for all."""
    form = {"prefix": prefix, "keeping": keeping}
    layers = [(stage_layer(staging, "base", BASE, **form), BASE)]
    layers.append((stage_layer(staging, f"top {len(top)} {hash_of(top)}", top, **form), top))
    image = stage_image(staging / "images", name, layers, **form, **more)
    return ChangeSet(tuple(layer for layer, _ in layers), (image,))


def hash_of(specs):
    return digest_of(repr(specs)).short


def publish(repository, *changes):
    joined = ChangeSet(
        tuple(layer for change in changes for layer in change.layers),
        tuple(image for change in changes for image in change.images),
    )
    with repository.lock():
        repository.publish(joined)
    return joined.images


def flat_of(repository, image):
    return OnDisk(repository.path).flat(image.config)


def names(directory: Path) -> list[str]:
    return sorted(entry.name for entry in directory.iterdir())


def listing(tree):
    """Everything about a tree that stat(2), read(2) and readlink(2) tell, by path."""
    found = {}
    for base, directories, files in os.walk(tree):
        for name in [".", *directories, *files] if base == str(tree) else directories + files:
            path = Path(base, name)
            at = path.lstat()
            content: object = None
            if stat.S_ISREG(at.st_mode):
                content = path.read_bytes()
            elif stat.S_ISLNK(at.st_mode):
                content = str(path.readlink())
            elif stat.S_ISCHR(at.st_mode):
                content = at.st_rdev
            found[str(path.relative_to(tree))] = (
                stat.S_IFMT(at.st_mode),
                stat.S_IMODE(at.st_mode),
                at.st_uid,
                at.st_gid,
                at.st_mtime_ns,
                content,
            )
    return found
