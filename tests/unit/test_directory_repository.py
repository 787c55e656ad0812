from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import stat
import subprocess
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.errors import InvalidReference, NoSpace, RepositoryError, RepositoryLocked
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.model import ChangeSet
from duccmake.tree import mtree
from support import staged_trees as make
from support.on_disk import OnDisk
from support.other_user import run_as
from support.staged_trees import (
    BASE,
    NAME,
    ROOT,
    TOP,
    char,
    directory,
    file,
    flat_of,
    hard_link,
    listing,
    names,
    open_repository,
    order,
    publish,
    stage,
    stage_image,
    stage_layer,
    symlink,
)

needs_root = pytest.mark.skipif(not ROOT, reason="needs root")


EXPECTED_PATHS = {
    ".",
    "bin",
    "bin/busybox",
    "bin/sh",
    "etc",
    "etc/passwd",
    "etc/new.conf",
    "tmp",
    "tmp/fifo",
    "lib",
    "usr",
    "usr/lib",
    "usr/lib/setuid",
    "usr/lib/odd name\n\\",
    "usr/share",
    "usr/share/doc",
}


def expected(entries, contents):
    kinds = {
        mtree.DIR: stat.S_IFDIR,
        mtree.FILE: stat.S_IFREG,
        mtree.LINK: stat.S_IFLNK,
        mtree.FIFO: stat.S_IFIFO,
        mtree.CHAR: stat.S_IFCHR,
    }
    return {
        os.fsdecode(entry.path): (
            kinds[entry.kind],
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            contents.get(entry.path, os.fsdecode(entry.target) if entry.target else None),
        )
        for entry in entries
    }


@pytest.mark.parametrize("mode", ["hardlink", "copy", "reflink"])
def test_the_flat_tree_is_what_the_manifest_says(tmp_path, staging, mode):
    repository = open_repository(tmp_path, flat=mode)
    changes = stage(staging)
    entries = list(mtree.read(changes.images[0].path / "tree.mtree"))
    contents = {**make.split(BASE)[1], **make.split(TOP)[1]}
    (image,) = publish(repository, changes)
    flat = flat_of(repository, image)

    assert set(listing(flat)) == EXPECTED_PATHS
    assert listing(flat) == expected(entries, contents)
    assert (flat / "bin/sh").stat().st_ino == (flat / "bin/busybox").stat().st_ino
    layer = OnDisk(repository.path).layerfs(image.layers[0])
    shared = (layer / "bin/sh").stat().st_ino == (flat / "bin/sh").stat().st_ino
    assert shared == (mode == "hardlink")
    assert repository.verify(NAME) == []


def test_everything_of_the_layout_is_there(repository, staging):
    changes = stage(staging)
    (image,) = publish(repository, changes)
    layout = OnDisk(repository.path)

    assert layout.manifest(NAME).read_bytes() == image.manifest_bytes
    record = repository.record(NAME)
    assert record is not None
    assert (record.config, record.manifest, record.layers) == (
        image.config,
        image.manifest,
        image.layers,
    )
    assert record.losses == {}
    assert list(repository.names()) == [NAME]
    for digest in image.layers:
        assert repository.has_layer(digest)
        assert json.loads(layout.origin(digest).read_bytes()) == {"origin": [str(image.config)]}
        (info,) = json.loads((layout.layer(digest) / ".metadata/layers.json").read_bytes())
        assert info["compressed-diff-digest"] == str(digest)
        assert info["diff-digest"] == f"sha256:{info['id']}"
        assert info["diff-size"] == 20
    assert not layout.remove_schedule.exists()
    link = layout.link(NAME)
    assert not link.readlink().is_absolute()
    assert (link / "etc/new.conf").read_bytes() == b"new"
    assert layout.flat_manifest(image.config).is_file()


def test_what_refers_to_an_image_is_there_with_it_and_goes_with_it(repository, staging):
    changes = stage(staging)
    files = {"index.json": b"{}", "blobs/sha256/aa": b"a", "blobs/sha256/bb": b"b"}
    kept = OnDisk(repository.path).referrers(NAME)
    for wanted in (files, {"index.json": b"[]", "blobs/sha256/bb": b"b"}, {}):
        image = replace(changes.images[0], referrers=wanted, signatures={"policy": len(wanted)})
        publish(repository, ChangeSet(changes.layers, (image,)))
        found = {str(path.relative_to(kept)): path for path in kept.rglob("*") if path.is_file()}
        assert {name: path.read_bytes() for name, path in found.items()} == wanted
        assert list(repository.names()) == [NAME] and repository.verify(NAME) == []


def test_nothing_is_left_beside_what_is_published(repository, staging):
    publish(repository, stage(staging))
    found = [path.name for path in repository.path.rglob("*")]
    assert not [name for name in found if name.endswith((".new", ".old"))]
    assert names(repository.path / ".duccmake") == ["lock"]
    assert stat.S_IMODE((repository.path / ".duccmake").stat().st_mode) == 0o700


def test_published_layers_are_readable_and_free_of_what_staging_adds(repository, staging):
    changes = stage(staging)
    for layer in changes.layers:
        layer.path.chmod(0o700)
        (layer.path / ".metadata").chmod(0o700)
        (layer.path / ".timestamp").touch()
    publish(repository, changes)
    for layer in changes.layers:
        published = OnDisk(repository.path).layer(layer.digest)
        assert names(published) == [".metadata", "layerfs"]
        assert stat.S_IMODE(published.stat().st_mode) == 0o755
        assert stat.S_IMODE((published / ".metadata/tree.mtree").stat().st_mode) == 0o644


def test_nothing_is_written_before_the_lock(tmp_path):
    repository = open_repository(tmp_path)
    assert repository.record(NAME) is None
    assert list(repository.names()) == []
    assert not repository.has_layer(make.digest_of("x"))
    assert not (tmp_path / "root").exists()


def test_publishing_twice_changes_nothing(repository, staging):
    publish(repository, stage(staging))
    before = inodes(repository.path)
    publish(repository, stage(staging))
    assert inodes(repository.path) == before


def inodes(path):
    return {
        str(entry): (entry.lstat().st_ino, entry.lstat().st_mtime_ns)
        for entry in path.rglob("*")
        if ".duccmake" not in entry.parts
    }


def test_generated_files_are_the_images_own(repository, staging):
    generated = [file(".run", b"#!/bin/sh\n", 0o755), file("usr/note", b"note")]
    (image,) = publish(repository, stage(staging, generated=generated))
    flat = flat_of(repository, image)
    assert (flat / ".run").read_bytes() == b"#!/bin/sh\n"
    assert stat.S_IMODE((flat / ".run").stat().st_mode) == 0o755
    assert (flat / "usr/note").stat().st_mtime_ns == make.MTIME
    assert repository.verify(NAME) == []


def test_a_file_may_have_another_path_in_its_layer(repository, staging):
    changes = stage(staging)
    manifest = changes.images[0].path / "tree.mtree"
    entries = [
        replace(entry, path=b"etc/a, b\n", source=entry.path)
        if entry.path == b"etc/passwd"
        else entry
        for entry in mtree.read(manifest)
    ]
    mtree.write(manifest, entries)
    (image,) = publish(repository, changes)
    assert (flat_of(repository, image) / "etc/a, b\n").read_bytes() == b"root:x:0:0\n"
    assert repository.verify(NAME) == []


@pytest.mark.parametrize("layer", [None, 2])
def test_an_entry_that_no_layer_provides_is_refused(repository, staging, layer):
    changes = stage(staging)
    manifest = changes.images[0].path / "tree.mtree"
    entries = [replace(e, layer=layer) if e.sha256 else e for e in mtree.read(manifest)]
    mtree.write(manifest, entries)
    with pytest.raises(RepositoryError, match="names no layer") as caught:
        publish(repository, changes)
    assert caught.value.image == NAME


def test_two_names_of_one_configuration_share_one_flat_tree(repository, staging):
    one = stage(staging, "host/a:1", config="same")
    publish(repository, one)
    inode = flat_of(repository, one.images[0]).stat().st_ino
    publish(repository, stage(staging, "host/a:2", config="same"))
    assert list(repository.names()) == ["host/a:1", "host/a:2"]
    assert (repository.path / "host/a:2").stat().st_ino == inode
    origin = OnDisk(repository.path).origin(one.images[0].layers[0])
    assert json.loads(origin.read_bytes())["origin"] == [str(one.images[0].config)]


def test_one_layer_twice_in_an_image(repository, staging):
    layer = stage_layer(staging, "base", BASE)
    image = stage_image(staging / "images", NAME, [(layer, BASE), (layer, BASE)])
    publish(repository, ChangeSet((layer,), (image,)))
    assert repository.verify(NAME) == []


def test_an_image_without_flat_tree_has_layers_and_metadata_alone(repository, staging):
    (image,) = publish(repository, stage(staging, products=("layers",)))
    assert repository.record(NAME) is not None
    assert not flat_of(repository, image).exists()
    assert not os.path.lexists(repository.path / NAME)


def test_dropping_the_flat_tree_takes_the_link_away(repository, staging):
    publish(repository, stage(staging))
    publish(repository, stage(staging, products=("layers",)))
    assert not os.path.lexists(repository.path / NAME)
    assert repository.record(NAME).products == ("layers",)


def test_a_layer_from_elsewhere_without_manifest_is_replaced(repository, staging):
    changes = stage(staging)
    old = OnDisk(repository.path).layerfs(changes.layers[0].digest)
    old.mkdir(parents=True)
    (old / "raw .wh. file").touch()
    publish(repository, changes)
    assert not (old / "raw .wh. file").exists()
    assert repository.verify(NAME) == []


def test_a_flat_tree_of_another_format_is_built_again(repository, staging):
    changes = stage(staging)
    (image,) = publish(repository, changes)
    flat, known = flat_of(repository, image), OnDisk(repository.path).flat_record(image.config)
    (flat / "stale").touch()
    known.write_text(json.dumps({"format": 0, "losses": {}}))
    publish(repository, stage(staging))
    assert set(listing(flat)) == EXPECTED_PATHS
    assert repository.verify(NAME) == []
    assert not [path for path in flat.parent.iterdir() if path != flat]


# --- tags that move -----------------------------------------------------

OTHER_TOP = [*TOP, file("usr/share/version", b"2")]


def schedule(repository):
    path = OnDisk(repository.path).remove_schedule
    return [entry["config"]["digest"] for entry in json.loads(path.read_bytes())]


def test_a_moved_tag_shows_the_new_tree_and_schedules_the_old_manifest(repository, staging):
    (old,) = publish(repository, stage(staging, config="one"))
    (new,) = publish(repository, stage(staging, top=OTHER_TOP, config="two"))
    assert (repository.path / NAME / "usr/share/version").read_bytes() == b"2"
    assert flat_of(repository, old).is_dir()
    (listed,) = json.loads(OnDisk(repository.path).remove_schedule.read_bytes())
    added = listed.pop("duccmake")
    assert listed == json.loads(old.manifest_bytes)
    assert (added["image"], added["why"]) == (NAME, f"moved to {new.manifest}")
    assert repository.record(NAME).config == new.config
    origin = OnDisk(repository.path).origin(old.layers[0])
    assert json.loads(origin.read_bytes())["origin"] == [str(old.config), str(new.config)]


def test_a_manifest_that_is_wished_again_is_no_longer_scheduled(repository, staging):
    (one,) = publish(repository, stage(staging, config="one"))
    (two,) = publish(repository, stage(staging, top=OTHER_TOP, config="two"))
    assert schedule(repository) == [str(one.config)]
    publish(repository, stage(staging, config="one"))
    assert schedule(repository) == [str(two.config)]
    assert repository.verify(NAME) == []


def test_a_manifest_that_another_name_has_is_not_scheduled(repository, staging):
    publish(repository, stage(staging, "host/a:1", config="one"))
    (one,) = publish(repository, stage(staging, "host/a:latest", config="one"))
    publish(repository, stage(staging, "host/a:latest", top=OTHER_TOP, config="two"))
    assert not OnDisk(repository.path).remove_schedule.exists() or schedule(repository) == []
    publish(repository, stage(staging, "host/a:1", top=OTHER_TOP, config="two"))
    assert schedule(repository) == [str(one.config)]


def test_readers_never_meet_a_broken_link_while_tags_move(repository, staging):
    one = stage(staging, config="one")
    publish(repository, one)
    seen, failures, done = set(), [], threading.Event()
    started = threading.Event()

    def read():
        while not done.is_set():
            try:
                seen.add(tuple(names(repository.path / NAME / "usr/share")))
            except OSError as error:
                failures.append(error)
            started.set()

    reader = threading.Thread(target=read)
    reader.start()
    started.wait()
    for turn in range(30):
        top, config = (OTHER_TOP, "two") if turn % 2 == 0 else (TOP, "one")
        publish(repository, stage(staging, top=top, config=config))
    done.set()
    reader.join()
    assert failures == []
    assert seen <= {("doc",), ("doc", "version")}


# --- refusals -----------------------------------------------------------


def test_publishing_without_the_lock_is_refused(repository, staging):
    with pytest.raises(RepositoryError, match="lock"):
        repository.publish(stage(staging))


@pytest.mark.parametrize("name", ["../../outside:1", "/etc/x:1", "host/../x:1"])
def test_names_that_lead_out_are_refused_and_nothing_is_written(repository, staging, name):
    changes = stage(staging)
    changes = replace(changes, images=(replace(changes.images[0], name=name),))
    with repository.lock(), pytest.raises(InvalidReference):
        repository.publish(changes)
    assert names(repository.path) == [".duccmake"]


def test_a_name_through_another_images_tree_is_refused(repository, staging):
    (image,) = publish(repository, stage(staging))
    flat = flat_of(repository, image)
    before = listing(flat)
    evil = f"{NAME}/etc/evil:1"
    with pytest.raises(RepositoryError, match="symlink") as caught:
        publish(repository, stage(staging, evil, config="evil"))
    assert caught.value.image == evil
    assert listing(flat) == before
    assert repository.record(evil) is None


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden"])
def test_a_repository_needs_a_plain_name(tmp_path, name):
    with pytest.raises(InvalidReference):
        DirectoryRepository(tmp_path, name)


def test_an_image_with_a_layer_that_is_nowhere_is_refused_by_name(repository, staging):
    changes = stage(staging)
    with pytest.raises(RepositoryError) as caught:
        publish(repository, replace(changes, layers=changes.layers[:1]))
    assert caught.value.image == NAME
    assert str(changes.layers[1].digest) in str(caught.value)
    assert list(repository.names()) == []


def test_one_bad_image_keeps_the_whole_change_set_from_being_seen(repository, staging):
    good = stage(staging, "host/good:1")
    bad = stage(staging, "host/bad:1")
    manifest = bad.images[0].path / "tree.mtree"
    manifest.write_bytes(manifest.read_bytes() + b"garbage\n")
    with pytest.raises(RepositoryError) as caught:
        publish(repository, good, bad)
    assert caught.value.image == "host/bad:1"
    assert list(repository.names()) == []
    assert not (repository.path / "host").exists()
    assert not (repository.path / ".flat").exists()
    publish(repository, good)
    assert repository.verify("host/good:1") == []


def test_a_directory_in_the_links_place_is_not_replaced(repository, staging):
    blocker = repository.path / NAME
    blocker.mkdir(parents=True)
    with pytest.raises(RepositoryError, match="in the way") as caught:
        publish(repository, stage(staging))
    assert caught.value.image == NAME
    assert blocker.is_dir()


# --- the system refuses -------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["link", "symlink", "open"])
def test_a_full_disk_is_said_so_and_leaves_nothing(repository, staging, monkeypatch, code, call):
    changes = stage(staging)
    real = getattr(os, call)

    def full(*arguments, **more):
        if "dst_dir_fd" in more or "dir_fd" in more:
            raise OSError(code, os.strerror(code))
        return real(*arguments, **more)

    with repository.lock():
        with monkeypatch.context() as patch:
            patch.setattr(os, call, full)
            if call == "open":
                patch.setattr(shutil, "rmtree", remove_with(real))
            with pytest.raises(NoSpace) as caught:
                repository.publish(changes)
        assert caught.value.image == NAME
        assert list(repository.names()) == []
        assert not (repository.path / ".flat").exists()
        repository.publish(changes)
    assert repository.verify(NAME) == []


def remove_with(real_open):
    def remove(path):
        subprocess.run(["rm", "-rf", str(path)], check=True)

    return remove


def test_files_whose_inode_is_full_are_copied_with_their_groups(
    repository, staging, monkeypatch, caplog
):
    real = os.link
    full = {(Path("bin/busybox").name).encode()}

    def link(source, target, **more):
        if source in full and more["src_dir_fd"] != more["dst_dir_fd"]:
            raise OSError(errno.EMLINK, "Too many links")
        return real(source, target, **more)

    changes = stage(staging)
    monkeypatch.setattr(os, "link", link)
    with caplog.at_level(logging.WARNING):
        (image,) = publish(repository, changes)
    flat = flat_of(repository, image)
    layer = OnDisk(repository.path).layerfs(image.layers[0])
    assert (flat / "bin/busybox").stat().st_ino == (flat / "bin/sh").stat().st_ino
    assert (flat / "bin/busybox").stat().st_ino != (layer / "bin/busybox").stat().st_ino
    assert (flat / "etc/passwd").stat().st_ino == (layer / "etc/passwd").stat().st_ino
    assert "copied" in caplog.text
    assert repository.verify(NAME) == []


def test_a_group_whose_inode_fills_up_midway_moves_to_a_copy_whole(
    repository, staging, monkeypatch
):
    first = file("a", b"content")
    specs = [directory("."), first, hard_link("b", first), hard_link("c", first)]
    layer = stage_layer(staging, "group", specs)
    image = stage_image(staging / "images", NAME, [(layer, specs)])
    published = OnDisk(repository.path).layerfs(layer.digest) / "a"
    real = os.link
    limit = 5  # three names in the layer, two more in the flat tree

    def link(source, target, **more):
        at = os.stat(source, dir_fd=more["src_dir_fd"])
        if at.st_ino == published.stat().st_ino and at.st_nlink >= limit:
            raise OSError(errno.EMLINK, "Too many links")
        return real(source, target, **more)

    monkeypatch.setattr(os, "link", link)
    publish(repository, ChangeSet((layer,), (image,)))
    flat = flat_of(repository, image)
    assert len({(flat / name).stat().st_ino for name in "abc"}) == 1
    assert (flat / "a").stat().st_ino != published.stat().st_ino
    assert repository.verify(NAME) == []


def test_layers_staged_on_another_file_system_are_copied_whole(tmp_path, repository):
    other = Path("/dev/shm")
    if not other.is_dir() or other.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system")
    staging = other / f"duccmake-test-{os.getpid()}"
    staging.mkdir()
    try:
        changes = stage(staging)
        publish(repository, changes)
        assert not [layer for layer in changes.layers if layer.path.exists()]
        layerfs = OnDisk(repository.path).layerfs(changes.layers[0].digest)
        assert (layerfs / "bin/sh").stat().st_ino == (layerfs / "bin/busybox").stat().st_ino
        assert repository.verify(NAME) == []
    finally:
        shutil.rmtree(staging)


@needs_root
def test_devices_and_attributes_are_kept_as_root(repository, staging):
    attributes = ((b"trusted.overlay.opaque", b"y"), (b"user.note", b"\0 bytes"))
    specs = [
        directory(".", uid=7, gid=8),
        char("null", 1, 3),
        directory("d", 0o2750, uid=70000, gid=70001, xattrs=((b"user.d", b"1"),)),
        file("d/f", b"x", 0o6711, uid=1, gid=2, xattrs=attributes[1:]),
    ]
    layer = stage_layer(staging, "devices", specs)
    image = stage_image(staging / "images", NAME, [(layer, specs)])
    manifest = image.path / "tree.mtree"
    entries = [
        replace(entry, xattrs=attributes) if entry.path == b"d" else entry
        for entry in mtree.read(manifest)
    ]
    mtree.write(manifest, entries)
    publish(repository, ChangeSet((layer,), (image,)))
    flat = flat_of(repository, image)
    assert (flat / "null").stat().st_rdev == os.makedev(1, 3)
    assert os.getxattr(flat / "d", "user.note") == b"\0 bytes"
    # An image's own overlay attributes would act in an overlay of its tree.
    assert os.listxattr(flat / "d") == ["user.note"]
    assert repository.record(NAME).losses == {"xattrs": 1}
    assert repository.verify(NAME) == []


@needs_root
def test_what_only_root_can_keep_is_counted_without_root(monkeypatch):
    with tempfile.TemporaryDirectory() as place:
        home = Path(place)
        os.chown(home, 65534, 65534)
        monkeypatch.setattr(make, "OWNER", (65534, 65534))
        losses, differences = run_as(65534, lambda: publish_what_only_root_can_keep(home))
        assert losses == {"owners": 2, "devices": 1, "modes": 1}
        assert differences == []
        check_what_only_root_can_keep(home)


def publish_what_only_root_can_keep(home):
    specs = [directory("."), directory("d"), file("d/f", b"x"), file("g", b"y")]
    layer = stage_layer(home / "staging", "layer", specs)
    image = stage_image(home / "images", "host/a:1", [(layer, specs)])
    manifest = image.path / "tree.mtree"
    entries = {entry.path: entry for entry in mtree.read(manifest)}
    entries[b"d"] = replace(entries[b"d"], mode=0o500)
    entries[b"d/f"] = replace(entries[b"d/f"], uid=0, gid=0)
    entries[b"link"] = replace(symlink("link", "g"), uid=5)
    entries[b"null"] = char("null", 1, 3)
    mtree.write(manifest, sorted(entries.values(), key=order))
    repository = DirectoryRepository(home / "root", "repo.example.org", durable=False)
    with repository.lock():
        repository.publish(ChangeSet((layer,), (image,)))
    return repository.record("host/a:1").losses, repository.verify("host/a:1")


def check_what_only_root_can_keep(home):
    flat = next((home / "root/repo.example.org/.flat").glob("*/*"))
    assert stat.S_IMODE((flat / "d").stat().st_mode) == 0o700
    assert not os.path.lexists(flat / "null")
    manifest = next((home / "root/repo.example.org/.metadata/.flat").rglob("tree.mtree"))
    flags = {entry.path: entry.flags for entry in mtree.read(manifest)}
    assert flags[b"null"] == {b"lost:devices"}
    assert flags[b"d"] == {b"lost:modes"}
    assert flags[b"g"] == frozenset()


# --- verification -------------------------------------------------------


def spoil_content(flat):
    path = flat / "etc/passwd"
    at = path.stat()
    path.write_bytes(b"toor:x:0:0\n")
    os.utime(path, ns=(at.st_mtime_ns, at.st_mtime_ns))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (spoil_content, "etc/passwd: has the sha256"),
        (lambda flat: (flat / "etc/passwd").write_bytes(b""), "etc/passwd: has 0 bytes"),
        (lambda flat: (flat / "etc/passwd").unlink(), "etc/passwd: cannot be read"),
        (lambda flat: (flat / "etc/more").touch(), "etc/more: is not in the manifest"),
        (lambda flat: (flat / "usr/share").chmod(0o755), "usr/share: has the mode 0755"),
        (lambda flat: os.utime(flat / "bin", ns=(0, 5)), "bin: has the time 5 ns"),
        (
            lambda flat: ((flat / "lib").unlink(), (flat / "lib").symlink_to("/etc")),
            "lib: leads to /etc",
        ),
        (
            lambda flat: ((flat / "bin/sh").unlink(), (flat / "bin/sh").write_bytes(b"")),
            "bin/sh: is another file than bin/busybox",
        ),
        (
            lambda flat: ((flat / "tmp/fifo").unlink(), (flat / "tmp/fifo").mkdir()),
            "tmp/fifo: is a dir, the manifest has a fifo",
        ),
        pytest.param(
            lambda flat: os.chown(flat / "etc", 5, 6), "etc: belongs to (5, 6)", marks=needs_root
        ),
        pytest.param(
            lambda flat: os.setxattr(flat / "usr", "user.x", b"1"),
            "usr: has the attribute user.x",
            marks=needs_root,
        ),
    ],
)
def test_verify_finds_each_kind_of_damage(repository, staging, spoil, says):
    (image,) = publish(repository, stage(staging))
    assert repository.verify(NAME) == []
    flat = flat_of(repository, image)
    spoil(flat)
    where = f".flat/{image.config.prefix}/{image.config.hex}/"
    lines = repository.verify(NAME)
    assert [line for line in lines if line.startswith(where + says)], lines


def test_a_record_holds_only_while_the_image_is_visible(repository, staging):
    publish(repository, stage(staging))
    layout = OnDisk(repository.path)
    config = repository.record(NAME).config
    for path in (layout.link(NAME), layout.manifest(NAME), layout.record(NAME)):
        away = path.with_name("away")
        path.rename(away)
        assert repository.record(NAME) is None
        away.rename(path)
        assert repository.record(NAME) is not None
    flat = layout.flat(config)
    flat.rename(flat.with_name("away"))
    assert repository.record(NAME) is None
    flat.with_name("away").rename(flat)
    layout.record(NAME).write_text("{")
    assert repository.record(NAME) is None


def test_waiting_for_the_lock_ends_with_the_holders_number(tmp_path, repository):
    def lock():
        with open_repository(tmp_path).lock():
            pass

    with repository.lock(), pytest.raises(RepositoryLocked, match=f"process {os.getpid()} "):
        lock()
    lock()
