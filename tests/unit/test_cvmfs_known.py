"""Content that a repository has is not stored again, on the real CernVM-FS and the stand-in."""

from __future__ import annotations

import io
import os
import random
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import pytest

from duccmake.cvmfs.known import KnownContent
from duccmake.cvmfs.rows import Content
from duccmake.demo.images import Image
from duccmake.jobs import publish_image
from duccmake.jobs.publish_image import learn
from duccmake.layer.catalogs import OBJECTS, StagedCatalogs
from duccmake.repository.cvmfs import known_layers
from duccmake.repository.cvmfs.staging import Staging
from duccmake.repository.edits import Edits
from duccmake.repository.model import StagedImage
from duccmake.repository.settings import RepositorySettings
from support.cvmfs_commits import newest
from support.cvmfs_repositories import both, repository_for
from support.images import Layer, LayerBuilder
from support.pipeline import change_set, digest_of, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

NAME = "registry.example.org/tools/app:{}"
COLLECTABLE = both("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")


@pytest.fixture(params=COLLECTABLE)
def cvmfs(request, tmp_path, monkeypatch):
    return repository_for(request.param, tmp_path, monkeypatch)


class Works:
    """Stages and publishes images as runs do, with an index."""

    def __init__(self, cvmfs, place: Path) -> None:
        self.cvmfs = cvmfs
        self.staging = place / "staging"
        self.index = place / "known.sqlite"
        self.settings = RepositorySettings("cvmfs", server_config=cvmfs.server_config)
        self._numbers = iter(range(1000))

    def stage(self, *layers: Layer) -> StagedImage:
        form = Staging(self.settings, self.cvmfs.name).layer(layers[0].digest, self.index)
        assert form.known is not None
        name = NAME.format(next(self._numbers))
        image = Image(layers)
        return stage(name, image, self.staging, catalogs=True, known=form.known)

    def publish(self, *images: StagedImage, publisher: str = "catalogs") -> None:
        repository = self.cvmfs.open(publisher=publisher)
        with repository.lock():
            repository.publish(change_set(images, self.staging))
        assert self.cvmfs.problems() == ""

    def learn(self) -> None:
        learn(self.settings, self.cvmfs.name, self.index)

    def contents(self, layer: Layer) -> dict[bytes, Content]:
        """What a staged layer's files are, by path."""
        staged = StagedCatalogs.read(self.staging / layer.digest.hex / "layer").contents()
        names = [member.encode() for member in members(layer)]
        return {name: staged.of(name) for name in names}

    def objects(self, layer: Layer) -> list[Path]:
        """The objects that are staged of a layer."""
        return list((self.staging / layer.digest.hex / "layer" / OBJECTS).iterdir())

    def knows(self, layers: Sequence[Layer]) -> int:
        """Of how many layers file ``a`` is known."""
        with KnownContent(self.index) as index, newest(self.cvmfs) as revision:
            paths = [self.path(layer, b"a") for layer in layers]
            return sum(bool(index.objects(digest_of(revision.read(path)).hex)) for path in paths)

    def stored_contents(self) -> int:
        """How many objects the files of all layers are."""
        with newest(self.cvmfs) as revision:
            rows = [row for _, row in revision.walk(b"/.layers") if row.is_file and row.size]
        return len({row.hash for row in rows if not row.name.endswith((b".mtree", b".json"))})

    @staticmethod
    def path(layer: Layer, name: bytes) -> bytes:
        digest = layer.digest
        return f"/.layers/{digest.prefix}/{digest.hex}/layerfs/".encode() + name

    def published(self, layer: Layer, name: bytes) -> bytes:
        with newest(self.cvmfs) as revision:
            return revision.read(self.path(layer, name))

    def collect(self) -> None:
        """Remove all layers and what was stored for them."""
        repository = self.cvmfs.open()
        for paths in ([".layers", ".flat", ".metadata"], []):
            with repository.lock():
                edits = Edits(repository.view)
                for path in paths:
                    edits.remove(PurePosixPath(path))
                edits.file(PurePosixPath("note"), os.urandom(9))
                repository.edit(edits)
        with repository.lock():
            repository.reclaim()


@pytest.fixture
def works(cvmfs, tmp_path: Path) -> Works:
    return Works(cvmfs, tmp_path)


def members(layer: Layer) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(layer.tar)) as archive:
        return [member.name for member in archive if member.isfile()]


def layer_of(files: Mapping[str, bytes]) -> Layer:
    builder = LayerBuilder().dir("d")
    for name, content in files.items():
        builder.file(name, content)
    return builder.layer()


FILES = {f"d/{n}": b"content %d" % n * n for n in range(1, 40)} | {
    "large": os.urandom(1000) * 17_000,
    "empty": b"",
}


@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_a_layer_that_is_built_anew_is_what_the_repository_has_of_its_files(works, publisher):
    first, second = layer_of(FILES), layer_of(FILES | {"new": b"file"})
    works.publish(works.stage(first), publisher=publisher)
    works.learn()
    image = works.stage(second)
    with newest(works.cvmfs) as revision:
        for name, content in works.contents(second).items():
            if name not in (b"new", b"empty"):
                path = works.path(first, name)
                row = revision.row(path)
                there = revision.catalog(path.rpartition(b"/")[0]).content(row)
                assert content == there, name
    works.publish(image)
    assert works.published(second, b"large") == FILES["large"]
    assert works.published(second, b"new") == b"file"


def test_what_was_collected_meanwhile_is_published_all_the_same(works):
    first, second, third = (layer_of(FILES | {"new": b"%d" % n}) for n in range(3))
    works.publish(works.stage(first))
    works.learn()
    staged = works.stage(second)  # with objects that garbage collection takes away then
    works.collect()
    outdated = works.stage(third)  # by an index that knows them still
    works.publish(staged)
    works.publish(outdated)
    for layer in (second, third):
        for name, content in FILES.items():
            assert works.published(layer, name.encode()) == content


def test_a_layer_that_comes_back_after_it_was_collected_is_known_again(works):
    first, second = layer_of(FILES), layer_of(FILES | {"new": b"file"})
    works.publish(works.stage(first))
    works.learn()
    works.collect()
    shutil.rmtree(works.staging)
    works.publish(works.stage(first))
    works.learn()
    works.stage(second)
    taken = [path for path in works.objects(second) if path.stat().st_nlink > 1]
    assert len(taken) >= len(FILES)


def test_a_lost_index_is_made_again_of_all_layers_a_part_at_a_time(works, monkeypatch):
    layers = [layer_of({"a": b"%d" % n}) for n in range(5)]
    works.publish(*(works.stage(layer) for layer in layers))
    monkeypatch.setattr(publish_image, "_LEARNING_SECONDS", 0.0)
    works.learn()
    assert works.knows(layers) == 0
    monkeypatch.undo()
    works.learn()
    assert works.knows(layers) == 5
    works.index.unlink()
    works.learn()
    assert works.knows(layers) == 5


def test_a_layer_is_entered_once(works, monkeypatch):
    works.publish(works.stage(layer_of(FILES)))
    works.learn()

    def fail(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(known_layers, "published_contents", fail)
        works.learn()
    works.publish(works.stage(layer_of({"a": b"other"})))
    entered = []
    contents = known_layers.published_contents
    monkeypatch.setattr(
        known_layers,
        "published_contents",
        lambda revision, at: entered.append(at) or contents(revision, at),
    )
    works.learn()
    assert len(entered) == 1


def test_an_index_that_cannot_be_written_fails_no_image(works, caplog):
    works.publish(works.stage(layer_of(FILES)))
    works.index.mkdir()
    works.learn()
    assert "compressed again" in caplog.text
    works.publish(works.stage(layer_of(FILES | {"new": b"file"})))


def test_images_that_share_files_are_published_as_without_an_index(works):
    rng = random.Random(17)
    pool = {f"{n}": rng.randbytes(rng.choice([1, 100, 5000, 400_000])) for n in range(60)}
    layers = []
    for _ in range(4):
        names = rng.sample(sorted(pool), 20)
        layer = layer_of({f"d/{rng.randrange(1000)}-{name}": pool[name] for name in names})
        layers.append(layer)
        works.publish(works.stage(layer))
        works.learn()
    for layer in layers:
        for name in members(layer):
            assert works.published(layer, name.encode()) == pool[name.rpartition("-")[2]]
    assert works.stored_contents() <= len(pool)
