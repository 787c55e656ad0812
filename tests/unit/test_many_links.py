"""One file with more names than a file system takes: every name is there, and right."""

from __future__ import annotations

import errno
import gzip
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corpus.streams import END, header, member, pax
from duccmake.errors import LimitExceeded
from duccmake.fs.duplicate import duplicate
from duccmake.layer import builder
from duccmake.layer.limits import UnpackLimits
from duccmake.tree import mtree
from support.images import Layer
from support.oracles import needs_root
from support.other_user import run_as
from support.pipeline import publish, unpack_blob

ME = {"uid": os.geteuid(), "gid": os.getegid()}


@contextmanager
def few_names(most: int, *, sure: int = 1) -> Iterator[None]:
    """A file system on which a file has so many names; ``sure`` is what is never asked."""
    real = os.link

    def link(source, target, **more):
        found = os.stat(source, dir_fd=more.get("src_dir_fd"), follow_symlinks=False)
        if found.st_nlink >= most:
            raise OSError(errno.EMLINK, os.strerror(errno.EMLINK))
        real(source, target, **more)

    with mock.patch.object(os, "link", link), mock.patch.object(builder, "_NAMES", sure):
        yield


def inodes(tree: Path, names: list[str]) -> set[int]:
    return {(tree / name).lstat().st_ino for name in names}


def links(count: int, target: bytes = b"x") -> bytes:
    """Hard links to a member, in some directories."""
    return b"".join(header(b"d%d/l%d" % (n % 7, n), kind=b"1", target=target) for n in range(count))


NAMES = ["x", *(f"d{n % 7}/l{n}" for n in range(20))]

KINDS = {
    "file": member(b"x", b"content", mode=0o4640, **ME),
    "file-with-attributes": pax({b"SCHILY.xattr.user.note": b"\0a", b"mtime": b"5.000000001"})
    + member(b"x", b"content", mode=0o604, **ME),
    "unreadable": member(b"x", b"content", mode=0, **ME),
    "symlink": header(b"x", kind=b"2", target=b"elsewhere", **ME),
    "fifo": header(b"x", kind=b"6", mode=0o620, **ME),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_has_what_the_file_has(kind, tmp_path):
    tar = KINDS[kind] + links(20) + END
    with few_names(5):
        unpacked = unpack_blob(tar, tmp_path)
    tree = unpacked.path / "layerfs"
    assert len(inodes(tree, NAMES)) == 5
    assert unpacked.lost == {"hardlinks": 4}
    first = (tree / "x").lstat()
    for name in NAMES:
        found = (tree / name).lstat()
        assert (found.st_mode, found.st_mtime_ns, found.st_size, found.st_uid) == (
            first.st_mode,
            first.st_mtime_ns,
            first.st_size,
            first.st_uid,
        )
        assert os.listxattr(tree / name, follow_symlinks=False) == os.listxattr(
            tree / "x", follow_symlinks=False
        )
        if kind == "symlink":
            assert (tree / name).readlink() == Path("elsewhere")
        elif kind.startswith("file"):
            assert (tree / name).read_bytes() == b"content"
    manifest = mtree.read(unpacked.path / ".metadata" / "tree.mtree")
    flags = {entry.path.decode(): entry.flags for entry in manifest}
    assert all(b"lost:hardlinks" in flags[name] for name in NAMES)


@needs_root
def test_what_cannot_be_read_without_root_is_copied_without_root():
    layer = Layer(member(b"x", b"content", mode=0, uid=1234, gid=1234) + links(20) + END)
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o777)

        def unpack_it() -> list[str]:
            with few_names(5):
                unpacked = unpack_blob(layer.tar, base / "own")
            found = [(unpacked.path / "layerfs" / name).stat() for name in NAMES]
            return [f"{stat.S_IMODE(each.st_mode):o} {each.st_size}" for each in found]

        assert run_as(1234, unpack_it) == ["0 7"] * 21


def test_an_image_with_too_many_names_is_published_whole(tmp_path):
    tar = KINDS["file"] + links(20) + END
    with few_names(6):
        published = publish([Layer(tar)], tmp_path)
    assert published.problems == ()
    assert published.losses["hardlinks"] > 0
    for tree in (published.flat, published.layers[0]):
        assert {(tree / name).read_bytes() for name in NAMES} == {b"content"}
        assert len(inodes(tree, NAMES)) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [2, 3, 21, 22, 41, 42])
def test_a_flat_tree_has_every_name_whatever_its_layer_could_have(kind, most, tmp_path):
    with few_names(most):
        published = publish([Layer(KINDS[kind] + links(20) + END)], tmp_path)
    assert published.problems == ()
    first = (published.flat / "x").lstat()
    for name in NAMES:
        found = (published.flat / name).lstat()
        assert (found.st_mode, found.st_size) == (first.st_mode, first.st_size)
    assert ("hardlinks" in published.losses) == (most < 21)


def test_copies_count_for_the_limits(tmp_path):
    tar = member(b"x", bytes(1_000_000)) + links(20) + END
    with few_names(5):
        unpack_blob(tar, tmp_path / "enough", UnpackLimits(bytes=6_000_000))
        with pytest.raises(LimitExceeded, match=r"limits\.bytes"):
            unpack_blob(tar, tmp_path / "out", UnpackLimits(bytes=5_000_000))


def test_a_copy_of_a_file_with_holes_has_holes(tmp_path):
    records = {b"GNU.sparse.map": b"20000000,7", b"GNU.sparse.size": b"50000000"}
    tar = pax({**records, b"GNU.sparse.name": b"x"}) + member(b"s", b"content") + links(20) + END
    with few_names(5):
        unpacked = unpack_blob(gzip.compress(tar), tmp_path / "out", UnpackLimits(ratio=0))
    tree = unpacked.path / "layerfs"
    for name in NAMES:
        assert (tree / name).stat().st_size == 50_000_000
        assert (tree / name).stat().st_blocks * 512 < 1_000_000
    content = bytes(20_000_000) + b"content" + bytes(50_000_000 - 20_000_007)
    assert {(tree / name).read_bytes() == content for name in NAMES[::5]} == {True}


@needs_root
def test_a_device_is_made_again(tmp_path):
    (tmp_path / "a").mkdir()
    os.mknod(tmp_path / "null", stat.S_IFCHR | 0o640, os.makedev(1, 3))
    here = os.open(tmp_path, os.O_RDONLY)
    try:
        assert duplicate(here, b"null", here, b"again") == 0
    finally:
        os.close(here)
    found = (tmp_path / "again").stat()
    assert (found.st_rdev, stat.S_IMODE(found.st_mode)) == (os.makedev(1, 3), 0o640)


# Links and replacements in any order: what a name has is what it got last.
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 5)), max_size=40)


@settings(deadline=None, max_examples=40)
@given(STEPS, st.integers(2, 4))
def test_links_among_names_that_are_replaced_are_right_at_every_limit(steps, most):
    tar, model = member(b"n0", b"first"), {b"n0": b"first"}
    for number, (linked, target, name) in enumerate(steps):
        target, name = b"n%d" % target, b"n%d" % name
        if linked and target in model and target != name:
            tar += header(name, kind=b"1", target=target)
            model[name] = model[target]
        else:
            model[name] = b"%d" % number
            tar += member(name, model[name])
    with tempfile.TemporaryDirectory() as directory, few_names(most):
        unpacked = unpack_blob(tar + END, Path(directory))
        tree = unpacked.path / "layerfs"
        assert {os.fsencode(path.name): path.read_bytes() for path in tree.iterdir()} == model
        for path in tree.iterdir():
            assert path.stat().st_nlink <= most


def test_a_file_has_as_many_names_as_this_file_system_takes(tmp_path):
    count = 66_000
    tar = member(b"x", b"x") + links(count) + END
    unpacked = unpack_blob(gzip.compress(tar), tmp_path)
    tree = unpacked.path / "layerfs"
    names = ["x", *(f"d{n % 7}/l{n}" for n in range(count))]
    assert all((tree / name).lstat().st_size == 1 for name in names)
    copies = len(inodes(tree, names)) - 1
    assert unpacked.lost == ({"hardlinks": copies} if copies else {})
    subprocess.run(["rm", "-rf", tree], check=True)
