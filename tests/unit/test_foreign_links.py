"""Layers of earlier versions, with files of one image in place of hard links to lower layers."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository import podman
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.foreign import foreign_links, take_out
from duccmake.repository.model import ChangeSet
from duccmake.tree import mtree
from support import oracles, pipeline, trees
from support.crashes import each_crash, leftovers
from support.cvmfs_repositories import both, repository_for
from support.images import LayerBuilder
from support.on_disk import OnDisk
from support.oracles import needs_overlay
from support.staged_trees import open_repository

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, mounts")

ONE, TWO = (f"registry.example.org/team/{name}:1" for name in ("one", "two"))
PRODUCTS = ("layers", "flat", "podman")
BASE = LayerBuilder().file("file", "one", mode=0o600, uid=5).dir("d e").symlink("s", "file").layer()
TOP = LayerBuilder().hardlink("link", "file").hardlink("d e/link", "file").hardlink("s2", "s")
TOP = TOP.file("own", "own").hardlink("own2", "own").layer()
IMAGES = {
    ONE: Image((BASE, TOP)),
    TWO: Image((LayerBuilder().file("file", "two").symlink("s", "another").layer(), TOP)),
}
CLIENTS = Path("/cvmfs")
PLACES = [b"link", b"s2", b"d e/link"]


@pytest.fixture(params=["directory", *both()])
def cvmfs(request, tmp_path, monkeypatch):
    """None for a plain directory."""
    if request.param == "directory":
        return None
    return repository_for(request.param, tmp_path, monkeypatch)


def stage(repository, base, name):
    catalogs = not isinstance(repository, DirectoryRepository)
    base = base / IMAGES[name].digest.hex
    staged = pipeline.stage(name, IMAGES[name], base, PRODUCTS, catalogs=catalogs)
    return pipeline.change_set([staged], base)


def fill(layer):
    """Put into a layer (its directory) what earlier versions put there for the image ONE."""
    lower = layer.parents[1] / BASE.digest.hex[:2] / BASE.digest.hex
    have = {entry.path: entry for entry in mtree.read(lower / ".metadata/tree.mtree")}
    entries = []
    for entry in mtree.read(layer / ".metadata/tree.mtree"):
        if b"lower" in entry.flags:
            source, path = entry.hardlink, layer / "layerfs" / os.fsdecode(entry.path)
            os.link(lower / "layerfs" / os.fsdecode(source), path, follow_symlinks=False)
            other = have[source]
            entry = replace(other, path=entry.path, flags=entry.flags, hardlink=source)
        entries.append(entry)
    mtree.write(layer / ".metadata/tree.mtree", entries)
    for directory in ("layerfs", "layerfs/d e"):
        os.utime(layer / directory, ns=(0, 0))


def published_by_an_earlier_version(repository, cvmfs, base, monkeypatch):
    """Both images, ONE first."""
    with repository.lock(), monkeypatch.context() as patched:
        # Its layers in podman's store were links.
        patched.setattr(podman, "own_trees", lambda *arguments: {})
        changes = stage(repository, base, ONE)
        repository.publish(changes)
    layer = OnDisk(repository.path).layer(TOP.digest)
    if cvmfs is None:
        fill(layer)
    else:
        cvmfs.server("transaction", cvmfs.name)
        fill(cvmfs.mounts / cvmfs.name / layer.relative_to(repository.path))
        cvmfs.server("publish", cvmfs.name)
    with repository.lock():
        repository.publish(stage(repository, base, TWO))
    return changes


def lines(manifest):
    return [line for line in manifest.splitlines() if not line.startswith(b"#")]


def top(repository):
    manifest = OnDisk(repository.path).layer_manifest(TOP.digest)
    with repository.reading():
        tree = trees.snapshot(OnDisk(repository.path).layerfs(TOP.digest))
        return tree, foreign_links(repository.view, TOP.digest), manifest.read_bytes()


def in_store(repository, name, base):
    layers = pipeline.store_layers(repository, IMAGES[name].layers)
    with repository.reading(), oracles.overlay(layers, base) as merged:
        return (merged / "link").read_text(), (merged / "d e/link").read_text()


@needs_overlay
def test_they_are_found_and_taken_out_and_no_image_lacks_anything(cvmfs, tmp_path, monkeypatch):
    repository = open_repository(tmp_path) if cvmfs is None else cvmfs.open()
    changes = published_by_an_earlier_version(repository, cvmfs, tmp_path / "s", monkeypatch)
    tree, found, _ = top(repository)
    assert found == PLACES
    assert foreign_links(repository.view, TOP.digest)
    assert tree.keys() >= set(PLACES)
    assert repository.verify(ONE) == repository.verify(TWO) == []

    with repository.lock():
        take_out(repository, [TOP.digest])
    pipeline.unpack(TOP, tmp_path / "unpacked")
    alone = tmp_path / "unpacked/layer"
    tree, found, manifest = top(repository)
    assert found == []
    assert not foreign_links(repository.view, TOP.digest)
    wanted = trees.snapshot(alone / "layerfs")
    mine = {path: node for path, node in tree.items() if not path.endswith(b".cvmfscatalog")}
    assert trees.differences(wanted, mine, ignore=("group",)) == []
    if cvmfs is None:
        assert lines(manifest) == lines((alone / ".metadata/tree.mtree").read_bytes())
    assert repository.verify(TWO) == []
    for name, content in ((ONE, "one"), (TWO, "two")):
        flat = OnDisk(repository.path).flat(pipeline.digest_of(IMAGES[name].config_bytes))
        assert ((flat / "link").read_text(), (flat / "s2").is_symlink()) == (content, True)

    # What podman's store has lost comes with the next run.
    assert repository.record(ONE) is None
    with repository.lock():
        again = replace(changes.images[0], path=None)
        repository.publish(ChangeSet((), (again,)))
    assert repository.verify(ONE) == repository.verify(TWO) == []
    for name, content in ((ONE, "one"), (TWO, "two")):
        assert in_store(repository, name, tmp_path) == (content, content)
    if cvmfs is not None:
        assert cvmfs.problems() == ""


def test_a_crash_at_any_step_is_mended_by_doing_it_again(memory, monkeypatch):
    template = memory / "template"
    repository = open_repository(template, clients_root=CLIENTS)
    published_by_an_earlier_version(repository, None, memory / "s", monkeypatch)
    shutil.rmtree(memory / "s")
    for case in each_crash(template, monkeypatch):
        repository = open_repository(case.path, clients_root=CLIENTS)

        def attempt(repository=repository):
            with repository.lock():
                take_out(repository, [TOP.digest])

        case.attempt(attempt)
        repository = open_repository(case.path, clients_root=CLIENTS)
        with repository.lock():
            if foreign_links(repository.view, TOP.digest):
                take_out(repository, [TOP.digest])
        assert leftovers(repository.path) == []
        assert repository.verify(TWO) == []
        tree, found, _ = top(repository)
        assert found == []
        assert tree.keys().isdisjoint(PLACES)


def test_a_layer_without_them_has_none(tmp_path):
    repository = open_repository(tmp_path)
    with repository.lock():
        repository.publish(stage(repository, tmp_path / "s", ONE))
    for layer in (BASE, TOP):
        assert foreign_links(repository.view, layer.digest) == []
