"""The rules of a commit, with a writer that only notes what it is told to write."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace

import pytest

from duccmake.errors import RepositoryError
from duccmake.repository.commit import Commit
from duccmake.repository.edits import Edits, Symlink
from duccmake.repository.model import ChangeSet
from duccmake.repository.view import DirectoryView
from support.staged_trees import NAME, directory, file, stage, whiteout

OTHER = "registry.example.org/tools/other:1"
LOST = Counter(whiteouts=2)


class Form:
    """Any directory is a staged layer; ``lost`` is what no overlay hides."""

    def __init__(self, lost=None):
        self.lost = lost or Counter()

    def is_staged(self, layer):
        return layer.path.is_dir()

    def hide(self, commit, image, notes):
        return Counter(self.lost)


class Writer:
    """Notes what it is told; ``fails`` is the digest of a layer that it cannot write."""

    def __init__(self, *, takes=True, fails=None):
        self.told = []
        self.parts = []
        self._takes = takes
        self._fails = fails

    def layer(self, layer):
        if layer.digest == self._fails:
            raise RepositoryError("it cannot be written")
        self.told.append(("layer", layer.digest))

    def take_along(self, part):
        self.parts.append(part)
        return self._takes

    def flat_tree(self, image, staged):
        self.told.append(("flat tree", image.config))
        return {"owners": 3}

    def settle(self):
        self.told.append(("settle", None))


@pytest.fixture
def view(tmp_path):
    root = tmp_path / "root"
    root.mkdir()
    return DirectoryView(root)


def commit_of(view, *changes, lost=None):
    layers = tuple(layer for change in changes for layer in change.layers)
    images = tuple(image for change in changes for image in change.images)
    return Commit(view, Form(lost), ChangeSet(layers, images), lambda images: {})


def carried_out(view, commit, *, more=tuple, **settings):
    """What a writer was told, and the edits."""
    writer, edits = Writer(**settings), Edits(view)
    commit.carry_out(writer, edits, more)
    return writer.told, edits


def losses(edits, image):
    return json.loads(edits.content(edits.layout.record(image.name)))["losses"]


def top(name):
    return [directory("."), file(name, name.encode())]


def test_layers_come_first_then_flat_trees_and_the_public_links_are_last_of_all(view, staging):
    changes = stage(staging), stage(staging, OTHER, top("b"))
    told, edits = carried_out(view, commit_of(view, *changes))
    kinds = [kind for kind, _ in told]
    assert kinds == ["layer"] * 3 + ["flat tree"] * 2 + ["settle"]
    ends = list(edits.puts.items())[-2:]
    assert [path for path, _ in ends] == [edits.layout.link(NAME), edits.layout.link(OTHER)]
    assert all(isinstance(put, Symlink) for _, put in ends)


def test_a_flat_tree_that_images_share_is_made_once_and_its_losses_are_those_of_all(view, staging):
    changes = stage(staging, config="one"), stage(staging, OTHER, config="one")
    told, edits = carried_out(view, commit_of(view, *changes, lost=LOST))
    assert [kind for kind, _ in told].count("flat tree") == 1
    for change in changes:
        assert losses(edits, change.images[0]) == {"whiteouts": 2, "owners": 3}


def test_a_flat_tree_that_is_there_is_not_made_again(view, staging):
    (image,) = stage(staging).images
    _, edits = carried_out(view, commit_of(view, stage(staging)))
    layout = view.layout
    view.path(layout.flat(image.config)).mkdir(parents=True)
    for path in (layout.flat_manifest(image.config), layout.flat_record(image.config)):
        view.path(path).parent.mkdir(parents=True, exist_ok=True)
        view.path(path).write_bytes(edits.content(path))
    told, again = carried_out(view, commit_of(view, stage(staging)))
    assert "flat tree" not in [kind for kind, _ in told]
    assert losses(again, image) == {"owners": 3}


def test_an_image_without_a_flat_tree_has_the_losses_of_its_layers_alone(view, staging):
    change = stage(staging, products=("layers",))
    told, edits = carried_out(view, commit_of(view, change, lost=LOST))
    assert "flat tree" not in [kind for kind, _ in told]
    assert losses(edits, change.images[0]) == {"whiteouts": 2}


def test_a_flat_tree_is_verified_only_where_the_image_was_measured(view, staging):
    (image,) = stage(staging).images
    for measured in (None, ()):
        change = replace(stage(staging), images=(replace(image, measured=measured),))
        _, edits = carried_out(view, commit_of(view, change))
        noted = json.loads(edits.content(edits.layout.flat_record(image.config)))
        assert noted.get("verified", False) is (measured is not None)


def test_a_layer_that_cannot_be_written_is_told_with_an_image_that_has_it(view, staging):
    good, bad = stage(staging), stage(staging, OTHER, top("b"))
    with pytest.raises(RepositoryError) as caught:
        carried_out(view, commit_of(view, good, bad), fails=bad.layers[-1].digest)
    assert caught.value.image == OTHER
    assert bad.layers[-1].digest.short in caught.value.step


def no_layer(view, change):
    return replace(change, layers=change.layers[:1])


def no_manifest(view, change):
    change.layers[-1].manifest.unlink()
    return change


def no_way_for_its_link(view, change):
    view.path(view.layout.link(OTHER)).mkdir(parents=True)
    return change


BROKEN = pytest.mark.parametrize("broken", [no_layer, no_manifest, no_way_for_its_link])


@BROKEN
def test_what_an_image_lacks_is_said_before_anything_is_written(view, staging, broken):
    bad = broken(view, stage(staging, OTHER, top("b")))
    with pytest.raises(RepositoryError) as caught:
        commit_of(view, stage(staging), bad)
    assert caught.value.image == OTHER


def meanwhile(*changes):
    """Tells of one change set each time that it is asked."""
    turns = iter(changes)
    return lambda: [change] if (change := next(turns, None)) is not None else []


def test_what_gets_ready_meanwhile_is_of_the_commit_also_when_it_is_carried_out_again(
    view, staging
):
    commit = commit_of(view, stage(staging))
    later = stage(staging, OTHER, top("b"))
    told, edits = carried_out(view, commit, more=meanwhile(later))
    # What both have is put once.
    assert [kind for kind, _ in told].count("layer") == 3
    assert edits.is_link(edits.layout.link(OTHER))
    assert carried_out(view, commit)[0] == told


def test_what_is_taken_along_has_no_layer_that_the_commit_has(view, staging):
    writer, later = Writer(), stage(staging, OTHER, top("b"))
    commit_of(view, stage(staging)).carry_out(writer, Edits(view), meanwhile(later))
    assert [list(part.layers) for part in writer.parts] == [[later.layers[-1].digest]]


@BROKEN
def test_what_is_broken_and_gets_ready_meanwhile_stands_in_nobodys_way(view, staging, broken):
    commit = commit_of(view, stage(staging))
    later = broken(view, stage(staging, OTHER, top("b")))
    _, edits = carried_out(view, commit, more=meanwhile(later))
    assert edits.is_link(edits.layout.link(NAME))
    assert not edits.is_link(edits.layout.link(OTHER))


def test_what_the_writer_cannot_take_along_is_none_of_the_commit(view, staging):
    commit = commit_of(view, stage(staging))
    later = stage(staging, OTHER, [directory("."), whiteout("etc")])
    told, edits = carried_out(view, commit, more=meanwhile(later), takes=False)
    assert [image.name for image in commit.whole.images] == [NAME]
    assert [kind for kind, _ in told].count("layer") == 2
    assert not edits.is_link(edits.layout.link(OTHER))
