"""Verifying an image by catalogs finds what a comparison through the mount finds, and more."""

from __future__ import annotations

import os
from pathlib import PurePosixPath
from random import Random

import pytest

from duccmake.cvmfs.catalog import MARKER
from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.keeping import Keeping
from duccmake.cvmfs.objects import Objects, names_of
from duccmake.cvmfs.rows import Row
from duccmake.oci.reference import Digest
from duccmake.repository.damage import Damage
from duccmake.repository.removal import FLAT, LAYER, Thing, freed_bytes
from duccmake.tree.file_tree import FileTree
from duccmake.tree.verify import Compared, differences
from support.cvmfs_commits import commit, newest, storage_of
from support.staged_trees import (
    NAME,
    char,
    directory,
    fifo,
    file,
    hard_link,
    publish,
    stage,
    symlink,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

CONTENT = b"content of one file alone"
TWICE = file("opt/twice", b"under two names", 0o755)
LAYER_OF_ALL = [
    directory(".", 0o711),
    directory("opt", 0o1777, uid=7),
    directory("opt/below", 0o750),
    directory("opt/empty"),
    file("opt/alone", CONTENT, 0o644, uid=5, gid=6),
    file("opt/below/other", b"other"),
    file("opt/named", b"", xattrs=((b"user.one", b"1"), (b"user.two", b"2"))),
    TWICE,
    hard_link("opt/twice-again", TWICE),
    symlink("opt/link", "alone"),
    char("opt/null", 1, 3),
    fifo("opt/fifo"),
]


@pytest.fixture
def published(cvmfs, staging):
    """A repository with an image, and the path of its topmost layer's files there."""
    repository = cvmfs.open(publisher="catalogs", hard_links=True)
    (image,) = publish(
        repository, stage(staging, top=LAYER_OF_ALL, keeping=Keeping(hard_links=True))
    )
    assert repository.verify(NAME) == repository.verify(NAME, content=False) == []
    return repository, image


def layer_of(repository, digest: Digest) -> bytes:
    return b"/" + os.fsencode(repository.view.layout.layerfs(digest))


def damage(random: Random, changes: Changes, at: bytes, rows: dict[bytes, Row]) -> None:
    """Change some entries of a tree, none of them below another, and add one."""
    chosen: list[bytes] = []
    for path, row in random.sample(sorted(rows.items()), 5):
        if any(one.startswith(path + b"/") or path.startswith(one + b"/") for one in chosen):
            continue
        chosen.append(path)
        where, what = at + path, random.randrange(6)
        if what == 0 and (row.is_directory or (row.is_file and row.hardlinks == 1)):
            changes.set_xattrs(where, [(b"user.one", b"3")])
            continue
        changes.remove(where)
        if what == 1:
            changes.put_link(where, b"elsewhere")
        elif what == 2:
            changes.put_file(where, random.randbytes(row.size), 0o600, mtime=row.mtime)
        elif what == 3:
            changes.put_file(where, b"of another size", row.mode & 0o7777, uid=9)
        elif what == 4:
            changes.make_directory(where, 0o700)
    standing = [b"", *(path for path, row in rows.items() if row.is_directory)]
    parent = random.choice([path for path in standing if path not in chosen])
    if not any(parent.startswith(one + b"/") for one in chosen):
        changes.put_file(at + parent + b"/new", b"new")


def through_the_mount(repository, path: PurePosixPath, manifest: PurePosixPath) -> list[str]:
    compared = Compared(ignored={MARKER})
    with FileTree(os.fsencode(repository.path / path)) as tree:
        lines = (repository.path / manifest).read_bytes().splitlines(keepends=True)
        found = differences(tree, lines, {}, compared)
        return [
            str(Damage(f"{path}/{at}" if at != "." else str(path), words)) for at, words in found
        ]


@pytest.mark.parametrize("seed", range(8))
def test_damages_are_found_as_through_the_mount(published, cvmfs, tmp_path, seed):
    repository, image = published
    digest, layout = image.layers[1], repository.view.layout
    at = layer_of(repository, digest)
    with newest(cvmfs) as revision:
        everything = [(path.removeprefix(at), row) for path, row in revision.walk(at)]
        rows = {path: row for path, row in everything if row.name != MARKER}
    (tmp_path / "objects").mkdir()
    random = Random(seed)
    commit(
        cvmfs,
        Objects(tmp_path / "objects"),
        lambda changes: damage(random, changes, at, rows),
    )
    repository = cvmfs.open()
    found = repository.verify(NAME)
    wanted = through_the_mount(repository, layout.layerfs(digest), layout.layer_manifest(digest))
    assert wanted
    assert sorted(found) == sorted(wanted)
    seen = [line for line in wanted if "sha256" not in line]
    assert sorted(repository.verify(NAME, content=False)) == sorted(seen)


@pytest.mark.parametrize("content", [True, False])
def test_content_that_is_gone_is_found_though_no_file_is_read(published, cvmfs, content):
    repository, image = published
    path = layer_of(repository, image.layers[1]) + b"/opt/alone"
    with newest(cvmfs) as revision:
        found = revision.catalog(path.rpartition(b"/")[0]).content(revision.row(path))
    for name in names_of(found):
        storage_of(cvmfs).delete(name)
    lines = repository.verify(NAME, content=content)
    assert len(lines) == 2, lines  # in the flat tree and in the layer
    assert all("opt/alone: " in line for line in lines)
    assert all(("cannot be read" if content else "content is not there") in one for one in lines)


def test_what_removing_layers_frees_is_known_and_trees_free_nothing_beside(published):
    repository, image = published
    layers = [Thing(LAYER, digest.hex) for digest in image.layers]
    trees = [repository.path / repository.view.layout.layerfs(digest) for digest in image.layers]
    each = [
        sum(
            path.lstat().st_size
            for path in tree.rglob("*")
            if path.is_file() and not path.is_symlink()
        )
        for tree in trees
    ]
    freed = [freed_bytes(repository.view, [layer]) for layer in layers]
    assert all(0 <= more - size < 20_000 for more, size in zip(freed, each, strict=True))
    assert each[1] > len(CONTENT)
    assert freed_bytes(repository.view, layers) == sum(freed)
    assert freed_bytes(repository.view, [Thing(FLAT, image.config.hex), *layers]) == sum(freed)
    assert freed_bytes(repository.view, [Thing(LAYER, "0" * 64)]) == 0
