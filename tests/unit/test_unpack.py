from __future__ import annotations

import errno
import gzip
import hashlib
import json
import logging
import os
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest

from corpus.case import fifo, file, link
from corpus.streams import END, SPARSE_FORMATS, gnu_tar, header, member, pax
from duccmake.demo.images import MTIME
from duccmake.errors import (
    CorruptLayer,
    DigestMismatch,
    LimitExceeded,
    NoSpace,
    UnsafeLayer,
)
from duccmake.layer import measured
from duccmake.layer.limits import UnpackLimits
from duccmake.layer.unpack import unpack_layer
from duccmake.oci.reference import Digest
from duccmake.tree import mtree
from support import oracles, trees
from support.images import LayerBuilder
from support.oracles import needs_root
from support.other_user import run_as
from support.pipeline import digest_of, publish, unpack, unpack_blob

ME = (os.geteuid(), os.getegid())


def entries(base: Path) -> dict[bytes, mtree.Entry]:
    manifest = base / "layer" / ".metadata" / "tree.mtree"
    return {entry.path: entry for entry in mtree.read(manifest)}


def tree(base: Path) -> dict[bytes, trees.Node]:
    return trees.snapshot(base / "layer" / "layerfs")


def assert_nothing_remains(base: Path) -> None:
    assert {path.name for path in base.iterdir()} <= {"blob"}


# --- the result ------------------------------------------------------------


def test_layer_appears_with_its_manifest_and_a_summary(tmp_path):
    layer = LayerBuilder().dir("d").file("d/x", "content").layer()
    unpacked = unpack(layer, tmp_path)
    assert unpacked.path == tmp_path / "layer"
    assert (unpacked.path / "layerfs" / "d" / "x").read_text() == "content"
    assert unpacked.stream.diff_ids == (layer.diff_id,)
    assert (unpacked.entries, unpacked.lost) == (3, {})
    summary = json.loads((unpacked.path / ".metadata" / "layer.json").read_bytes())
    assert summary["digest"] == str(layer.digest)
    assert summary["diff_ids"] == [str(layer.diff_id)]
    assert summary["diff_bytes"] == len(layer.tar)
    assert summary["entries"] == 3


def test_manifest_has_every_entry_with_the_digest_of_its_content(tmp_path):
    big = os.urandom(3_000_000)
    layer = LayerBuilder().file("big", big).file("small", "s").symlink("l", "small").fifo("f")
    unpack(layer.layer(), tmp_path)
    found = entries(tmp_path)
    assert found[b"big"].sha256 == hashlib.sha256(big).hexdigest()
    assert found[b"small"].sha256 == hashlib.sha256(b"s").hexdigest()
    assert (found[b"l"].kind, found[b"l"].target) == (mtree.LINK, b"small")
    assert found[b"f"].kind == mtree.FIFO
    assert found[b"."].flags == {b"implied"}


def test_staging_is_private_whatever_its_parents_mode_and_the_umask(tmp_path):
    old = os.umask(0)
    try:
        unpack(LayerBuilder().file("x", mode=0o4755).layer(), tmp_path / "new" / "staging")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "new" / "staging").stat().st_mode) == 0o700


def test_the_callers_umask_is_neither_used_nor_changed(tmp_path):
    old = os.umask(0o077)
    try:
        unpack(LayerBuilder().file("x", mode=0o666).dir("d", mode=0o777).layer(), tmp_path)
        assert os.umask(0o077) == 0o077
    finally:
        os.umask(old)
    found = tree(tmp_path)
    assert (found[b"x"].mode, found[b"d"].mode) == (0o666, 0o777)


@pytest.mark.parametrize("form", SPARSE_FORMATS)
def test_sparse_files_have_their_content_and_their_holes(form, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as out:
        for number in range(20):
            out.seek(number * 1_000_000 + 4096)
            out.write(b"%05d" % number * 1000)
        out.truncate(30_000_000)
    tar = gnu_tar(source, "--sparse", "--owner=0", "--group=0", *SPARSE_FORMATS[form])
    unpack_blob(gzip.compress(tar), tmp_path / "ours")
    result = tmp_path / "ours" / "layer" / "layerfs" / "sparse"
    assert result.read_bytes() == (source / "sparse").read_bytes()
    assert result.stat().st_blocks * 512 < 2_000_000
    digest = hashlib.sha256(result.read_bytes()).hexdigest()
    assert entries(tmp_path / "ours")[b"sparse"].sha256 == digest


def test_gnu_tar_extracts_the_same_from_its_own_archive(tmp_path):
    source = tmp_path / "source"
    (source / "d" / ("e" * 150)).mkdir(parents=True)
    (source / "d" / ("e" * 150) / "x").write_bytes(b"x" * 5000)
    (source / "link").symlink_to("y" * 300)
    (source / "hard").hardlink_to(source / "d" / ("e" * 150) / "x")
    os.mkfifo(source / "fifo")
    (source / "mode").write_bytes(b"")
    (source / "mode").chmod(0o4751)
    for form in ("gnu", "pax"):
        base = tmp_path / form
        tar = gnu_tar(source, f"--format={form}")
        unpack_blob(tar, base)
        theirs = base / "theirs"
        theirs.mkdir()
        subprocess.run(["tar", "-xpf", "-", "-C", theirs], input=tar, check=True)
        assert trees.differences(trees.snapshot(theirs), tree(base)) == []


# --- failures --------------------------------------------------------------


REFUSED = {
    "half a trailer": (gzip.compress(member(b"x", b"1") + END)[:-4], CorruptLayer),
    "half a member": (gzip.compress(member(b"x", b"1" * 2000)[:1000]), CorruptLayer),
    "a name outside": (gzip.compress(member(b"../x", b"1")), UnsafeLayer),
    "an owner that is none": (gzip.compress(member(b"x", uid=2**32 - 1)), CorruptLayer),
    "a negative group": (gzip.compress(member(b"x", gid=-1)), CorruptLayer),
    "a file that is a directory": (
        gzip.compress(member(b"n" * 99 + b"/", b"", kind=b"0") + b"text" * 128),
        CorruptLayer,
    ),
    "a link to nothing": (gzip.compress(header(b"l", kind=b"2")), UnsafeLayer),
    "a long name": (gzip.compress(pax({b"path": b"n" * 256}) + member(b"x")), UnsafeLayer),
    "a long target": (
        gzip.compress(pax({b"linkpath": b"n" * 5000}) + header(b"l", kind=b"2")),
        UnsafeLayer,
    ),
    "an entry below a file": (gzip.compress(member(b"f") + member(b"f/x")), UnsafeLayer),
    "a login page": (b"<html>this is a login page</html>" * 20, CorruptLayer),
}


@pytest.mark.parametrize(("blob", "error"), REFUSED.values(), ids=REFUSED)
def test_nothing_remains_of_a_layer_that_is_refused(blob, error, tmp_path):
    with pytest.raises(error):
        unpack_blob(blob, tmp_path)
    assert_nothing_remains(tmp_path)


def test_nothing_remains_where_a_digest_is_wrong(tmp_path):
    layer = LayerBuilder().file("x", "1").layer()
    (tmp_path / "blob").write_bytes(layer.blob)
    with pytest.raises(DigestMismatch):
        unpack_layer(tmp_path / "blob", tmp_path, digest=digest_of(b""))
    assert_nothing_remains(tmp_path)


def test_what_a_layer_unpacks_to_is_measured_by_each_algorithm_that_is_asked_for(tmp_path):
    layer = LayerBuilder().file("x", "1").layer()
    (tmp_path / "blob").write_bytes(layer.blob)
    wanted = ("sha256", "sha512")
    unpack_layer(tmp_path / "blob", tmp_path, digest=layer.digest, diff_algorithms=wanted)
    found = measured.staged(tmp_path / "layer" / ".metadata")
    assert found is not None
    by_hand = {name: Digest(name, hashlib.new(name, layer.tar).hexdigest()) for name in wanted}
    assert {name: found.diff_id(name) for name in wanted} == by_hand
    assert (found.blob_bytes, found.diff_bytes) == (len(layer.blob), len(layer.tar))


def test_bytes_after_the_archive_count_for_the_diff_id(tmp_path):
    tar = member(b"x", b"1") + END
    padded = tar + b"anything"
    unpacked = unpack_blob(gzip.compress(padded), tmp_path)
    assert unpacked.stream.diff_ids == (digest_of(padded),)


def test_what_an_interrupted_run_left_is_replaced(tmp_path):
    (tmp_path / "layer.partial" / "layerfs" / "old").mkdir(parents=True)
    unpack(LayerBuilder().file("new").layer(), tmp_path)
    assert set(tree(tmp_path)) == {b".", b"new"}


@needs_root
@pytest.mark.parametrize("size", ["16k", "64k", "1m"])
def test_a_full_disk_is_no_space_and_nothing_remains(size, tmp_path):
    builder = LayerBuilder()
    for number in range(400):
        builder.dir(f"d{number}").file(f"d{number}/x", os.urandom(5000))
    layer = builder.layer()
    (tmp_path / "blob").write_bytes(layer.blob)
    with oracles.tmpfs(tmp_path / "small", size) as disk:
        with pytest.raises(NoSpace) as raised:
            unpack_layer(tmp_path / "blob", disk / "staging", digest=layer.digest)
        assert str(disk) in str(raised.value)
        assert not list((disk / "staging").iterdir())


@needs_root
def test_a_disk_without_inodes_is_no_space(tmp_path):
    layer = LayerBuilder().file("x").layer()
    (tmp_path / "blob").write_bytes(layer.blob)
    with oracles.tmpfs(tmp_path / "small", "1m,nr_inodes=2") as disk:
        with pytest.raises(NoSpace):
            unpack_layer(tmp_path / "blob", disk / "staging", digest=layer.digest)
        assert not list((disk / "staging").iterdir())


# --- limits ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("builder", "limits"),
    [
        (LayerBuilder().file("x", bytes(10_000)), {"bytes": 9_999}),
        (LayerBuilder().file("x").file("y").file("z"), {"entries": 2}),
        (LayerBuilder().file("a/b/c/d/e/x"), {"entries": 3}),
        (LayerBuilder().file("p" * 60 + "/" + "x" * 60), {"path_bytes": 100}),
        (LayerBuilder().file("a/b/c/d/x"), {"path_depth": 3}),
        (LayerBuilder().file("x" * 200, pax={"comment": "c" * 2000}), {"header_bytes": 1000}),
    ],
)
def test_limits_are_told_by_name(builder, limits, tmp_path):
    (name,) = limits
    with pytest.raises(LimitExceeded, match=rf"limits\.{name}"):
        unpack(builder.layer(), tmp_path, UnpackLimits(**limits))
    assert_nothing_remains(tmp_path)


def test_a_path_of_more_than_4096_bytes_is_refused(tmp_path):
    name = "/".join(["d" * 100] * 45)
    with pytest.raises(LimitExceeded):
        unpack(LayerBuilder().file(name).layer(), tmp_path)
    none = UnpackLimits(path_bytes=0)
    unpack(LayerBuilder().file(name).layer(), tmp_path / "wished", none)
    assert name.encode() in entries(tmp_path / "wished")
    subprocess.run(["rm", "-rf", tmp_path / "wished"], check=True)


def test_directories_as_deep_as_the_limit_allows(tmp_path):
    name = "/".join(["d"] * 511)
    unpack(LayerBuilder().file(f"{name}/x", "deep").whiteout(name).layer(), tmp_path)
    assert f"{name}/x".encode() in entries(tmp_path)


def test_many_files_in_one_directory_and_many_links_to_one_file(tmp_path):
    builder = LayerBuilder().file("x", "x")
    for number in range(3000):
        builder.hardlink(f"l{number}", "x" if number % 2 else f"l{number - 1}" if number else "x")
    unpack(builder.layer(), tmp_path)
    assert (tmp_path / "layer" / "layerfs" / "l2999").stat().st_nlink == 3001


# --- what gets lost --------------------------------------------------------


def test_times_beyond_the_file_systems_are_noted(tmp_path, caplog):
    builder = LayerBuilder()
    far = {"pax": {"mtime": "99999999999.5"}}
    builder.file("f", **far).dir("d", **far).symlink("l", "f", **far).fifo("p", **far)
    builder.file("ok", pax={"mtime": "-2147483648"})
    with caplog.at_level(logging.WARNING):
        unpacked = unpack(builder.layer(), tmp_path)
    found, real = entries(tmp_path), tree(tmp_path)
    for path in (b"f", b"d", b"l", b"p"):
        assert found[path].mtime_ns == 99_999_999_999_500_000_000
        kept = real[path].mtime_ns == found[path].mtime_ns
        assert kept or b"lost:mtimes" in found[path].flags
    assert real[b"ok"].mtime_ns == -(2**31) * 10**9
    if unpacked.lost:
        assert unpacked.lost == {"mtimes": 4}
        assert "4 mtimes" in caplog.text


@pytest.mark.parametrize("mtime", ["-999999999999999999", "999999999999999999.999999999"])
def test_times_beyond_everything_are_no_crash(mtime, tmp_path):
    unpack(LayerBuilder().file("f", pax={"mtime": mtime}).layer(), tmp_path)
    assert b"f" in entries(tmp_path)


def test_xattrs_that_cannot_be_kept_are_noted_and_in_the_manifest(tmp_path):
    builder = LayerBuilder()
    builder.file("big", xattrs={"user.big": b"v" * 60_000})
    builder.dir("dir", xattrs={"no-such-namespace.x": b"v"})
    builder.file("acts", xattrs={"trusted.overlay.opaque": b"y"})
    builder.symlink("link", "x", xattrs={"user.not-on-links": b"v"})
    unpacked = unpack(builder.layer(), tmp_path)
    found = entries(tmp_path)
    for path in (b"dir", b"acts", b"link"):
        assert b"lost:xattrs" in found[path].flags, path
    assert found[b"big"].xattrs == ((b"user.big", b"v" * 60_000),)
    assert unpacked.lost["xattrs"] >= 3
    acting = trees.snapshot(tmp_path / "layer" / "layerfs", acting=True)[b"acts"]
    assert acting.xattrs == ()


@needs_root
def test_without_root_the_manifest_has_what_the_tree_cannot_have():
    builder = LayerBuilder()
    builder.file("owned", "x", uid=5, gid=6, mode=0o4711).device("null", 1, 3).whiteout("gone")
    builder.dir("closed", mode=0).file("closed/x", "inside").opaque("closed").dir("open")
    layer = builder.layer()
    with tempfile.TemporaryDirectory() as directory:
        base = Path(directory)
        base.chmod(0o777)
        (base / "blob").write_bytes(layer.blob)

        def unpack_it():
            blob, staging = base / "blob", base / "staging"
            return unpack_layer(blob, staging, digest=layer.digest).lost

        lost = dict(run_as(1234, unpack_it))
        found = entries(base / "staging")
        marks = os.listxattr(base / "staging" / "layer" / "layerfs" / "closed")
    # Kernels since 4.18 let anybody make a device 0:0.
    assert lost.pop("whiteouts", 1) == 1
    assert lost == {"devices": 1}
    assert (found[b"owned"].uid, found[b"owned"].gid, found[b"owned"].mode) == (5, 6, 0o4711)
    assert found[b"null"].device == (1, 3)
    assert b"lost:device" in found[b"null"].flags
    assert b"whiteout" in found[b"gone"].flags
    assert found[b"closed"].mode == 0
    assert b"opaque" in found[b"closed"].flags
    assert "user.overlay.opaque" in marks


def test_whiteouts_that_no_file_system_holds_are_in_the_manifest_and_in_the_images_record(
    tmp_path, monkeypatch, caplog
):
    def refused(*args: object, **more: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "mknod", refused)
    base = LayerBuilder().file("gone", uid=ME[0], gid=ME[1]).dir("d", uid=ME[0], gid=ME[1])
    with caplog.at_level(logging.WARNING):
        published = publish([base.layer(), LayerBuilder().whiteout("gone").layer()], tmp_path)
    assert "1 whiteouts" in caplog.text
    assert published.losses["whiteouts"] == 1
    [gone] = [e for e in mtree.read(published.layer_manifests[1]) if e.path == b"gone"]
    assert b"whiteout" in gone.flags
    assert not (published.flat / "gone").exists()


def test_a_symlink_that_a_layer_goes_through_is_counted_and_logged_as_covered(tmp_path, caplog):
    base = LayerBuilder().dir("usr").symlink("lib", "usr")
    with caplog.at_level(logging.WARNING):
        published = publish([base.layer(), LayerBuilder().file("lib/x").layer()], tmp_path)
    assert published.losses["covered"] == 1
    assert "1 covered" in caplog.text
    assert (published.flat / "usr" / "x").is_file()
    assert (published.flat / "lib").is_symlink()


# --- what layers say -------------------------------------------------------


@needs_root
def test_whiteouts_are_overlayfs_own_and_recorded(tmp_path):
    builder = LayerBuilder().whiteout("gone").opaque("d").file("d/own")
    unpack(builder.layer(), tmp_path)
    real = trees.snapshot(tmp_path / "layer" / "layerfs", acting=True)
    assert (real[b"gone"].kind, real[b"gone"].device) == ("char", (0, 0))
    assert (b"trusted.overlay.opaque", b"y") in real[b"d"].xattrs
    found = entries(tmp_path)
    assert b"whiteout" in found[b"gone"].flags
    assert found[b"d"].flags == {b"implied", b"opaque"}
    assert not any(path.endswith(b".wh..wh..opq") for path in found)


def test_hard_links_to_lower_layers_are_recorded_and_not_made(tmp_path):
    unpack(LayerBuilder().hardlink("b", "./a").layer(), tmp_path)
    assert set(tree(tmp_path)) == {b"."}
    entry = entries(tmp_path)[b"b"]
    assert b"lower" in entry.flags
    assert entry.hardlink == b"a"


def test_the_first_of_linked_names_is_the_groups_in_the_manifests_order(tmp_path):
    unpack(
        LayerBuilder().file("z", "x").dir("d").hardlink("d/a", "z").hardlink("b", "z").layer(),
        tmp_path,
    )
    found = entries(tmp_path)
    assert [path for path in found if not found[path].hardlink] == [b".", b"b", b"d"]
    assert found[b"z"].hardlink == found[b"d/a"].hardlink == b"b"
    assert len(tree(tmp_path)[b"z"].group) == 3


def test_every_attribute_reaches_the_tree(tmp_path):
    uid, gid = (7, 8) if ME[0] == 0 else ME
    builder = LayerBuilder()
    builder.file("f", "x", mode=0o640, uid=uid, gid=gid, pax={"mtime": "5.000000001"})
    builder.symlink("l", "f", uid=uid, gid=gid, mtime=MTIME)
    builder.fifo("p", mode=0o600, uid=uid, gid=gid)
    unpack(builder.layer(), tmp_path)
    found = tree(tmp_path)
    del found[b"."]
    assert found == {
        b"f": file("x", 0o640, uid=uid, gid=gid, mtime_ns=5_000_000_001),
        b"l": link("f", uid=uid, gid=gid),
        b"p": fifo(0o600, uid=uid, gid=gid),
    }
