"""Files that the repository has under another path, on the real CernVM-FS and its stand-in."""

from __future__ import annotations

import logging
import os
from dataclasses import replace

import pytest

from duccmake.repository.cvmfs import archive
from duccmake.repository.cvmfs.known_files import layers_before
from duccmake.repository.model import ChangeSet
from support import staged_trees as make
from support.cvmfs_repositories import CHUNKS, both
from support.on_disk import OnDisk
from support.staged_trees import (
    BASE,
    directory,
    file,
    hard_link,
    publish,
    stage_image,
    stage_layer,
    symlink,
)

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

FIRST = "registry.example.org/tools/app:1"
SECOND = "registry.example.org/tools/app:2"
WHOLE_SECONDS = 1_600_000_000_000_000_000


@pytest.fixture(autouse=True)
def small_layers_are_worth_a_look(monkeypatch, caplog):
    monkeypatch.setattr(archive, "_WORTH_A_LOOK", 1)
    caplog.set_level(logging.INFO)


def whole(spec):
    """With a time in whole seconds, as most archives have it: what CernVM-FS keeps."""
    entry, *content = spec if isinstance(spec, tuple) else (spec,)
    entry = replace(entry, mtime_ns=WHOLE_SECONDS)
    return (entry, *content) if content else entry


DATA_BYTES = b"data" * 2000
LIBRARY = whole(file("usr/lib/library", b"library" * 100, 0o755))
DATA = whole(file("usr/data", DATA_BYTES, 0o4711, uid=5, gid=6))
SPECS = [
    directory("."),
    directory("usr"),
    directory("usr/lib"),
    LIBRARY,
    hard_link("usr/lib/same", LIBRARY),
    whole(symlink("usr/lib/link", "library")),
    DATA,
    whole(file("usr/again", DATA_BYTES, 0o4711, uid=5, gid=6)),
    whole(file("usr/empty", b"")),
]


def built(staging, name, label, specs, **more):
    """An image of one layer of its own upon a base; ``label`` tells digests apart."""
    base, own = stage_layer(staging, "base", BASE), stage_layer(staging, label, specs)
    layers = [(base, BASE), (own, specs)]
    image = stage_image(staging / "images", name, layers, config=f"{name} {label}", **more)
    return ChangeSet((base, own), (image,))


def linked(caplog) -> list[int]:
    """How many files each commit had links for."""
    lines = [record.getMessage() for record in caplog.records]
    return [int(line.split()[0]) for line in lines if "are links to the same ones" in line]


def looks_the_same(cvmfs, repository, tmp_path, *commits):
    """Whether all is what the directory backend makes of it."""
    plain = make.open_repository(tmp_path / "plain")
    for commit in commits:
        (image,) = publish(plain, commit)
        assert repository.verify(image.name) == []
    wanted = make.listing(make.flat_of(plain, image))
    found = make.listing(make.flat_of(repository, image))
    assert {path: (*at[:4], at[5]) for path, at in found.items() if ".cvmfs" not in path} == {
        path: (*at[:4], at[5]) for path, at in wanted.items()
    }
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("labels", [("a", "b"), ("b", "a")])
@pytest.mark.parametrize("name", [FIRST, SECOND])
def test_an_image_that_is_built_anew_has_links_to_what_it_had(
    cvmfs, staging, tmp_path, caplog, labels, name
):
    """As a moved tag and as the next tag, and in either order of the layers' digests."""
    repository = cvmfs.open()
    before = cvmfs.revision()
    first = built(staging, FIRST, labels[0], SPECS)
    second = built(staging, name, labels[1], [*SPECS, whole(file("usr/new", b"new"))])
    publish(repository, first)
    assert linked(caplog) == [1]  # what the layer itself has twice
    publish(repository, second)
    assert linked(caplog) == [1, 3]
    assert cvmfs.revision() == before + 2
    looks_the_same(cvmfs, repository, tmp_path, first, second)


@pytest.mark.parametrize(
    "other",
    [
        file("usr/data", DATA_BYTES, 0o711, uid=5, gid=6),
        file("usr/data", DATA_BYTES, 0o4711, uid=7, gid=6),
        file("usr/data", DATA_BYTES.upper(), 0o4711, uid=5, gid=6),
    ],
)
def test_what_differs_in_anything_is_no_link(cvmfs, staging, tmp_path, caplog, other):
    repository = cvmfs.open()
    specs = [directory("."), directory("usr"), DATA]
    first = built(staging, FIRST, "a", specs)
    second = built(staging, FIRST, "b", [*specs[:2], whole(other)])
    publish(repository, first)
    publish(repository, second)
    assert linked(caplog) == []
    looks_the_same(cvmfs, repository, tmp_path, first, second)


@pytest.mark.parametrize("cvmfs", both(*CHUNKS), indirect=True)
def test_a_file_that_is_stored_in_chunks_is_no_target(cvmfs, staging, tmp_path, caplog):
    repository = cvmfs.open()
    big = whole(file("usr/big", os.urandom(100_000)))
    specs = [directory("."), directory("usr"), big]
    first = built(staging, FIRST, "a", specs)
    second = built(staging, FIRST, "b", [*specs, whole(file("usr/new", b"new"))])
    publish(repository, first)
    configuration = cvmfs.server_config / cvmfs.name / "server.conf"
    text = configuration.read_text()
    configuration.write_text(text + "CVMFS_MAX_CHUNK_SIZE=1000000\n")
    try:
        publish(repository, second)
    finally:
        configuration.write_text(text)
    assert linked(caplog) == []
    looks_the_same(cvmfs, repository, tmp_path, first, second)


def test_where_a_published_file_is_gone_the_image_is_published_without_links(
    cvmfs, staging, tmp_path, caplog
):
    repository = cvmfs.open()
    first = built(staging, FIRST, "a", SPECS)
    publish(repository, first)
    gone = OnDisk(repository.path).layerfs(first.layers[1].digest) / "usr/lib/library"
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / gone.relative_to(repository.path)).unlink()
    cvmfs.server("publish", cvmfs.name)
    second = built(staging, SECOND, "b", [*SPECS, whole(file("usr/new", b"new"))])
    publish(repository, second)
    assert "trying without links to other layers' files" in caplog.text
    assert repository.verify(SECOND) == []
    assert cvmfs.problems() == ""


def test_a_new_tag_is_compared_with_the_tag_that_was_published_last(tmp_path, staging):
    """Directories keep the time at which a tag appeared first."""
    repository = make.open_repository(tmp_path)
    tags = {tag: f"registry.example.org/tools/app:{tag}" for tag in ("latest", "1", "2")}
    images = {tag: built(staging, name, tag, SPECS).images[0] for tag, name in tags.items()}
    for when, tag in enumerate(("latest", "1"), 100):
        path = OnDisk(repository.path).manifest(tags[tag])
        path.parent.mkdir(parents=True)
        path.write_bytes(images[tag].manifest_bytes)
        os.utime(path, (300 - when, 300 - when))
        os.utime(path.parent, (when, when))
    assert layers_before(repository.view, images["2"]) == [images["latest"].layers[1]]


def test_small_layers_are_not_worth_a_look(cvmfs, staging, monkeypatch, caplog):
    monkeypatch.setattr(archive, "_WORTH_A_LOOK", 1_000_000)
    repository = cvmfs.open()
    specs = [directory("."), directory("usr"), DATA]
    publish(repository, built(staging, FIRST, "a", specs))
    publish(repository, built(staging, FIRST, "b", [*specs, whole(file("usr/new", b"new"))]))
    assert linked(caplog) == []
    assert repository.verify(FIRST) == []
