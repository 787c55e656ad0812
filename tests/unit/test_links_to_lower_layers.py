"""A layer with a hard link to a lower layer, in two chains that have different files there."""

from __future__ import annotations

import itertools
import os

import pytest

from duccmake.demo.images import Image, LayerBuilder
from duccmake.repository.directory import DirectoryRepository
from duccmake.repository.podman.layers import chain
from duccmake.repository.podman.paths import Paths
from support import pipeline
from support.cvmfs_repositories import both, repository_for
from support.staged_trees import open_repository

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, cvmfs_server")

ONE, TWO, SAME = (f"registry.example.org/team/{name}:1" for name in ("one", "two", "same"))
TOP = LayerBuilder().hardlink("link", "file").layer()
IMAGES = {
    ONE: Image((LayerBuilder().file("file", "one").layer(), TOP)),
    TWO: Image((LayerBuilder().file("file", "two", mode=0o600).layer(), TOP)),
    SAME: Image((LayerBuilder().dir("d").file("file", "one").layer(), TOP)),
}


@pytest.fixture(params=["directory", *both()])
def repository(request, tmp_path, monkeypatch):
    if request.param == "directory":
        return open_repository(tmp_path / "directory")
    return repository_for(request.param, tmp_path, monkeypatch).open()


def stage(repository, base, *names):
    packed = not isinstance(repository, DirectoryRepository)
    products = ("layers", "flat", "podman")
    staged = [pipeline.stage(name, IMAGES[name], base, products, packed=packed) for name in names]
    return pipeline.change_set(staged, base)


def in_store(repository, name):
    """The file as podman has it."""
    identity = chain([layer.diff_id for layer in IMAGES[name].layers])[-1].id
    diff = Paths(repository.layout).diff(identity)
    if diff.is_symlink():
        diff = repository.layout.layerfs(TOP.digest)
    return (diff / "link").read_text()


@pytest.mark.parametrize("when", ["at a time", "one after the other", "meanwhile"])
def test_the_second_chain_notes_what_it_lacks_and_has_it_in_podmans_store(
    repository, tmp_path, caplog, when
):
    if when == "at a time":
        sets = [stage(repository, tmp_path / "staging", ONE, TWO, SAME)]
    else:
        sets = [
            stage(repository, tmp_path / name.rpartition("/")[2], name) for name in (ONE, TWO, SAME)
        ]
    with repository.lock():
        if when == "meanwhile":
            turns = iter(sets[1:])
            repository.publish(sets[0], lambda: itertools.islice(turns, 1))
        for changes in sets:
            repository.publish(changes)
    for name, links, content in ((ONE, 0, "one"), (TWO, 1, "two"), (SAME, 0, "one")):
        assert repository.record(name).losses.get("links", 0) == links, name
        assert repository.verify(name) == []
        assert in_store(repository, name) == content
        flat = repository.layout.flat(pipeline.digest_of(IMAGES[name].config_bytes))
        assert (flat / "link").read_text() == content
    assert (repository.layout.layerfs(TOP.digest) / "link").read_text() == "one"
    assert "1 links" in caplog.text
