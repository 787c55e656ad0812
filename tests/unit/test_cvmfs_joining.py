"""What gets ready while a revision is made, on the real CernVM-FS and on its stand-in."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest

from duccmake.repository.model import ChangeSet
from support.cvmfs_repositories import GATEWAY, both
from support.on_disk import OnDisk
from support.staged_trees import (
    BASE,
    directory,
    file,
    publish,
    stage,
    stage_image,
    stage_layer,
    whiteout,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

FIRST = "registry.example.org/tools/app:1"
SECOND = "registry.example.org/tools/app:2"
THIRD = "registry.example.org/tools/other:1"
PREFIX = "containers"


def published_with(repository, first, *later):
    """Publish; each time that is asked what has got ready, it is the next of ``later``."""
    turns = iter(later)

    def more() -> Iterator[ChangeSet]:
        if (changes := next(turns, None)) is not None:
            yield changes

    with repository.lock():
        repository.publish(first, more)


@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_what_gets_ready_meanwhile_is_taken_along_in_the_same_revision(cvmfs, staging, publisher):
    repository = cvmfs.open(publisher=publisher)
    before = cvmfs.revision()
    second = stage(staging, SECOND, [directory("."), file("etc2", b"second")])
    third = stage(staging, THIRD, [directory("."), file("etc3", b"third")])
    published_with(repository, stage(staging, FIRST), second, third)

    assert cvmfs.revision() == before + 1
    assert list(repository.names()) == [FIRST, SECOND, THIRD]
    assert [repository.verify(name) for name in repository.names()] == [[], [], []]
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", both(GATEWAY)[:1], indirect=True)
def test_through_a_gateway_what_gets_ready_meanwhile_is_taken_along_too(cvmfs, staging):
    repository = cvmfs.open(prefix=PREFIX)
    before = cvmfs.revision()
    second = stage(staging, SECOND, [directory("."), file("etc2", b"second")], prefix=PREFIX)
    published_with(repository, stage(staging, FIRST, prefix=PREFIX), second)
    assert cvmfs.revision() == before + 2  # the directory is made first
    assert repository.verify(FIRST) == repository.verify(SECOND) == []


def test_another_tag_of_the_same_image_needs_nothing_but_its_name(cvmfs, staging):
    repository = cvmfs.open()
    before = cvmfs.revision()
    first = stage(staging, FIRST, config="the same")
    published_with(repository, first, stage(staging, SECOND, config="the same"))
    assert cvmfs.revision() == before + 1
    assert repository.verify(FIRST) == repository.verify(SECOND) == []


def hidden_in_the_base(staging, name):
    """An image in whose lowest layer an opaque directory hides something."""
    base = stage_layer(staging, "base", BASE)
    specs = [directory("."), file("name", name.encode())]
    own = stage_layer(staging, name, specs)
    noted = {base.digest: [whiteout("usr/lib/hidden")]}
    layers = [(base, BASE), (own, specs)]
    image = stage_image(staging / "images", name, layers, notes=noted)
    return ChangeSet((base, own), (image,))


def test_a_whiteout_in_a_layer_that_an_archive_has_waits_for_its_own_commit(cvmfs, staging, caplog):
    caplog.set_level(logging.INFO)
    repository = cvmfs.open(publisher="ingest")
    first, second = stage(staging, FIRST), hidden_in_the_base(staging, SECOND)
    published_with(repository, first, second)
    assert list(repository.names()) == [FIRST]
    assert repository.verify(FIRST) == []
    assert f"{SECOND} got ready meanwhile, and goes into a commit of its own" in caplog.text

    publish(repository, second)
    assert repository.verify(FIRST) == repository.verify(SECOND) == []
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_the_same_whiteout_as_the_first_image_has_is_none(cvmfs, staging, publisher):
    repository = cvmfs.open(publisher=publisher)
    before = cvmfs.revision()
    published_with(repository, *(hidden_in_the_base(staging, name) for name in (FIRST, SECOND)))
    assert cvmfs.revision() == before + 1
    assert repository.verify(FIRST) == repository.verify(SECOND) == []


@pytest.mark.parametrize(
    ("publisher", "together"), [("catalogs", [FIRST, SECOND]), ("ingest", [FIRST])]
)
def test_what_is_in_the_place_of_a_layer_already_needs_a_commit_of_its_own_for_ingest(
    cvmfs, staging, publisher, together
):
    repository = cvmfs.open(publisher=publisher)
    first = stage(staging, FIRST)
    second = stage(staging, SECOND, [directory("."), file("own", b"own")])
    place = OnDisk(repository.path).layerfs(second.layers[1].digest).relative_to(repository.path)
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / place / "surplus").mkdir(parents=True)
    cvmfs.server("publish", cvmfs.name)
    published_with(repository, first, second)
    assert list(repository.names()) == together
    publish(repository, second)
    assert repository.verify(SECOND) == []


@pytest.mark.parametrize("lost", ["catalog.json", ".metadata/tree.mtree"])
def test_a_damaged_image_that_gets_ready_stands_in_no_others_way(cvmfs, staging, caplog, lost):
    caplog.set_level(logging.INFO)
    repository = cvmfs.open()
    second = stage(staging, SECOND, [directory("."), file("own", b"own")])
    (second.layers[1].path / lost).unlink()
    published_with(repository, stage(staging, FIRST), second)
    assert list(repository.names()) == [FIRST]
    assert repository.verify(FIRST) == []
    assert f"{SECOND} got ready meanwhile, and is not taken along" in caplog.text
