"""Layers that no overlay shows as they are, in podman's store: trees of their chains."""

from __future__ import annotations

import itertools
import os
import shutil
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository import podman
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.edits import Edits
from duccmake.repository.inventory import survey
from duccmake.repository.model import ChangeSet
from duccmake.repository.podman import paths
from duccmake.repository.podman.layers import chain
from duccmake.repository.removal import FLAT, LAYER, Thing, remove, withdraw
from support import oracles, pipeline, trees
from support.crashes import each_crash, leftovers
from support.cvmfs_repositories import CHUNKS, both, repository_for
from support.images import Layer, LayerBuilder
from support.on_disk import OnDisk
from support.oracles import needs_overlay
from support.staged_trees import open_repository

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, mounts")

APP, OTHER = "registry.example.org/team/app:1", "registry.example.org/team/app:2"
PRODUCTS = ("layers", "flat", "podman")
LARGE = os.urandom(40_000)


def linked() -> LayerBuilder:
    """A root in which ``lib`` is a symlink."""
    base = LayerBuilder().dir("usr", mode=0o711).dir("usr/lib", mode=0o750, uid=5)
    return base.file("usr/lib/gone", "gone").file("usr/lib/kept", "kept").symlink("lib", "usr/lib")


def through() -> LayerBuilder:
    """A layer that goes through it: removes a file, and adds others."""
    layer = LayerBuilder().whiteout("lib/gone").file("lib/new", "new", uid=70_000)
    layer.hardlink("lib/same", "lib/new").hardlink("lib/lower", "usr/lib/kept")
    return layer.file("lib/sub/large", LARGE).file("etc/conf", "of the layer")


BASE, TOP = linked().layer(), through().layer()
DIRECTORY = LayerBuilder().file("lib/gone", "gone").file("usr/lib/kept", "kept").layer()
IMAGE = Image((BASE, TOP))
SMALL = Image((BASE, LayerBuilder().file("lib/x").layer()))


def stage(repository, base, *images):
    """A change set of images by their names, staged below ``base`` for a repository."""
    catalogs = not isinstance(repository, DirectoryRepository)
    staged = [
        pipeline.stage(name, image, base, PRODUCTS, catalogs=catalogs) for name, image in images
    ]
    return pipeline.change_set(staged, base)


def publish(repository, changes, *later):
    """Publish; ``later`` gets ready meanwhile."""
    turns = iter(later)
    with repository.lock():
        repository.publish(changes, lambda: itertools.islice(turns, 1))


def diff_of(repository, image, number=-1):
    """What a layer is in the store."""
    identity = chain([layer.diff_id for layer in image.layers])[number].id
    return repository.path / paths.diff(identity)


@contextmanager
def mounted(repository, image, base):
    """The image as podman mounts it from the store, by the kernel's overlay."""
    layers = pipeline.store_layers(repository, image.layers)
    upper = base / "mounted" / "upper"
    upper.mkdir(parents=True)
    with repository.reading(), oracles.overlay(layers, base / "mounted", upper=upper) as merged:
        yield merged
    shutil.rmtree(base / "mounted")


def shown(tree):
    """What there is in a tree, without CernVM-FS' own files."""
    return {
        path: (node.kind, node.size, node.sha256, node.target, node.uid)
        for path, node in trees.snapshot(tree).items()
        if not path.endswith(b".cvmfscatalog") and path != b"."
    }


def look_at(repository, image, base):
    """The image as podman has it is the flat tree."""
    with mounted(repository, image, base) as merged:
        flat = OnDisk(repository.path).flat(pipeline.digest_of(image.config_bytes))
        assert shown(merged) == shown(flat)


@pytest.fixture(params=["directory", *both(*CHUNKS)])
def repository(request, tmp_path, monkeypatch):
    if request.param == "directory":
        yield open_repository(tmp_path / "directory")
        return
    cvmfs = repository_for(request.param, tmp_path, monkeypatch)
    yield cvmfs.open()
    assert cvmfs.problems() == ""


@needs_overlay
def test_what_a_layer_does_through_a_symlink_is_where_that_leads(repository, tmp_path):
    publish(repository, stage(repository, tmp_path / "staging", (APP, IMAGE)))
    assert repository.verify(APP) == []
    assert repository.record(APP).losses["covered"] == 1
    tree = diff_of(repository, IMAGE)
    assert not os.path.lexists(tree / "lib")
    assert diff_of(repository, IMAGE, 0).is_symlink()
    assert (tree / "usr/lib").stat().st_mode & 0o777 == 0o750
    assert (tree / "usr/lib/sub/large").read_bytes() == LARGE
    look_at(repository, IMAGE, tmp_path)


@pytest.mark.parametrize("repository", both(*CHUNKS), indirect=True)
def test_images_that_get_ready_meanwhile_are_taken_along_with_their_trees(repository, tmp_path):
    later = [
        stage(repository, tmp_path / "staging1", (OTHER, SMALL)),
        stage(repository, tmp_path / "staging2", (APP, IMAGE)),
    ]
    first = "registry.example.org/team/base:1"
    publish(repository, stage(repository, tmp_path / "staging0", (first, Image((BASE,)))), *later)
    assert list(repository.names()) == [APP, OTHER, first]
    assert repository.verify(OTHER) == repository.verify(APP) == []
    assert (diff_of(repository, SMALL) / "usr/lib/x").is_file()


def test_the_same_is_in_both_backends_and_no_content_twice(tmp_path, monkeypatch):
    plain = open_repository(tmp_path / "directory")
    cvmfs = repository_for(both()[0].values[0], tmp_path, monkeypatch).open()
    publish(plain, stage(plain, tmp_path / "staging", (APP, IMAGE)))
    publish(cvmfs, stage(cvmfs, tmp_path / "staging2", (APP, IMAGE)))
    ours, theirs = (shown(diff_of(each, IMAGE)) for each in (plain, cvmfs))
    assert ours == theirs
    tree = diff_of(plain, IMAGE)
    layers = [OnDisk(plain.path).layerfs(layer.digest) for layer in IMAGE.layers]
    assert (tree / "usr/lib/new").samefile(layers[1] / "lib/new")
    assert (tree / "usr/lib/lower").samefile(layers[0] / "usr/lib/kept")


@needs_overlay
def test_another_image_with_the_layer_has_it_as_it_is(repository, tmp_path):
    """Below it, ``lib`` is a directory: what the first image needs would be wrong there."""
    top = LayerBuilder().whiteout("lib/gone").file("lib/new", "new").layer()
    image, other = Image((BASE, top)), Image((DIRECTORY, top))
    publish(repository, stage(repository, tmp_path / "staging", (APP, image), (OTHER, other)))
    assert not diff_of(repository, image).is_symlink()
    assert diff_of(repository, other).is_symlink()
    assert repository.verify(OTHER) == []
    for each in (image, other):
        look_at(repository, each, tmp_path)


@needs_overlay
def test_layers_above_and_the_same_layer_again_show_on_top(repository, tmp_path):
    more = LayerBuilder().whiteout("usr/lib/sub").file("usr/lib/new", "another").whiteout("etc")
    image = Image((BASE, TOP, more.layer(), TOP))
    publish(repository, stage(repository, tmp_path / "staging", (APP, IMAGE), (OTHER, image)))
    assert repository.verify(OTHER) == []
    look_at(repository, image, tmp_path)
    directory = Image((BASE, TOP, LayerBuilder().whiteout("lib").dir("lib").layer(), TOP))
    publish(repository, stage(repository, tmp_path / "staging2", (OTHER, directory)))
    assert repository.verify(OTHER) == []
    look_at(repository, directory, tmp_path)


@needs_overlay
def test_a_store_that_is_lost_gets_its_trees_from_what_is_published(repository, tmp_path):
    changes = stage(repository, tmp_path / "staging", (APP, IMAGE))
    publish(repository, changes)
    with repository.lock():
        edits = Edits(repository.view)
        edits.remove(paths.ROOT)
        repository.edit(edits)
    assert repository.record(APP) is None
    publish(repository, ChangeSet((), tuple(replace(image, path=None) for image in changes.images)))
    assert repository.verify(APP) == []
    look_at(repository, IMAGE, tmp_path)


@needs_overlay
def test_a_tree_stays_though_its_layer_is_one_of_another_compression_and_goes_with_its_last_image(
    repository, tmp_path
):
    publish(repository, stage(repository, tmp_path / "staging", (APP, IMAGE)))
    inode = diff_of(repository, IMAGE).stat().st_ino
    zstd = Image((BASE, Layer(TOP.tar, "zstd")))
    assert zstd.config_bytes == IMAGE.config_bytes
    publish(repository, stage(repository, tmp_path / "staging2", (OTHER, zstd)))
    leave(repository, APP)
    assert repository.verify(OTHER) == []
    assert not repository.has_layer(TOP.digest)
    assert not diff_of(repository, IMAGE).is_symlink()
    if isinstance(repository, DirectoryRepository):
        assert diff_of(repository, IMAGE).stat().st_ino == inode
    look_at(repository, zstd, tmp_path)
    leave(repository, OTHER)
    left = {path.name for path in (repository.path / paths.OVERLAY).rglob("*")}
    assert left <= {"l", ".cvmfscatalog"}


@pytest.mark.parametrize("which", ["directory", *both()])
def test_a_link_of_an_earlier_version_gives_way_to_a_tree_though_it_leads_nowhere_here(
    which, tmp_path, monkeypatch
):
    clients = {"clients_root": Path("/mounted/by/clients")}
    if which == "directory":
        cvmfs, repository = None, open_repository(tmp_path, **clients)
    else:
        cvmfs = repository_for(which, tmp_path, monkeypatch)
        repository = cvmfs.open(**clients)
    with monkeypatch.context() as patched:
        patched.setattr(podman, "own_trees", lambda *arguments: {})
        publish(repository, stage(repository, tmp_path / "staging", (APP, IMAGE)))
    assert diff_of(repository, IMAGE).is_symlink()
    content = (repository.path / paths.LAYERS_INDEX).read_text()
    content = content.replace('"duccmake-verified":true', '"duccmake-verified":false')
    with repository.lock():
        edits = Edits(repository.view)
        edits.file(paths.LAYERS_INDEX, content.encode())
        repository.edit(edits)
    image = Image((BASE, TOP, LayerBuilder().file("more").layer()))
    publish(repository, stage(repository, tmp_path / "staging2", (OTHER, image)))
    assert (diff_of(repository, IMAGE) / "usr/lib/new").read_text() == "new"
    assert repository.verify(APP) == repository.verify(OTHER) == []
    assert cvmfs is None or cvmfs.problems() == ""


def leave(repository, name):
    """Withdraw an image, and remove what nothing uses then."""
    with repository.lock():
        edits = Edits(repository.view)
        withdraw(edits, {name: "test"}, survey(repository.view), 1.0)
        repository.edit(edits)
        found = survey(repository.view)
        unused = [Thing(FLAT, key) for key in found.present.flats - found.used.flats]
        unused += [Thing(LAYER, key) for key in found.present.layers - found.used.layers]
        edits = Edits(repository.view)
        remove(edits, unused, found.used)
        repository.edit(edits)


def test_damage_to_a_tree_is_found(tmp_path):
    repository = open_repository(tmp_path)
    publish(repository, stage(repository, tmp_path / "staging", (APP, IMAGE)))
    tree = diff_of(repository, IMAGE)
    (tree / "usr/lib/gone").unlink()
    (tree / "etc/conf").unlink()
    found = repository.verify(APP)
    missing = [line for line in found if "cannot be read" in line]
    assert [line.partition("/diff/")[2].partition(":")[0] for line in missing] == [
        "etc/conf",
        "usr/lib/gone",
    ]
    (tree.parent / "tree.mtree").unlink()
    assert any("tree.mtree is missing" in line for line in repository.verify(APP))


def test_a_crash_at_any_step_leaves_no_tree_or_a_whole_one(memory, monkeypatch):
    template = memory / "template"
    staged = stage(open_repository(template), template / "staging", (APP, SMALL))
    outcomes = set()
    for case in each_crash(template, monkeypatch):
        changes = moved(staged, template, case.path)
        case.attempt(publish, open_repository(case.path), changes)
        repository = open_repository(case.path)
        with repository.lock():
            pass
        assert leftovers(repository.path) == []
        there = repository.record(APP) is not None
        outcomes.add(there)
        found = list((repository.path / paths.OVERLAY).glob("*/tree.mtree"))
        assert len(found) == there
        if there:
            assert repository.verify(APP) == []
    assert outcomes == {True, False}


def moved(changes, base, to):
    """The changes as they are staged in a copy of ``base``."""
    layers = (replace(each, path=to / each.path.relative_to(base)) for each in changes.layers)
    images = (replace(each, path=to / each.path.relative_to(base)) for each in changes.images)
    return ChangeSet(tuple(layers), tuple(images))
