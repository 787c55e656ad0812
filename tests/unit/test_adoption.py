"""Which of DUCC's images are whole, and what of a damaged one is named."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.errors import RepositoryError
from duccmake.planning.adoption import StrayWhiteouts
from duccmake.planning.model import Problem
from duccmake.repository.adoption import (
    dangling_links,
    dirty_chains,
    is_whole,
    lacking,
    stray_whiteout,
)
from duccmake.repository.layout import Layout
from duccmake.repository.model import UNMEASURED, ChangeSet
from duccmake.repository.view import DirectoryView
from duccmake.run.adoption import adoption_in_words
from support import planned
from support.ducc_repository import leave_as_ducc
from support.on_disk import OnDisk
from support.planned import REPOSITORY
from support.staged_trees import NAME, publish, stage

PRODUCTS = ("layers", "flat")


@pytest.fixture
def image(repository, tmp_path):
    """An image that DUCC published, staged with nothing but its metadata."""
    (image,) = publish(repository, stage(tmp_path / "staging"))
    leave_as_ducc(repository.path)
    (OnDisk(repository.path).flat(image.config) / ".singularity.d").mkdir()
    return image


def said(repository, products=PRODUCTS):
    return "; ".join(lacking(repository.view, NAME, products))


def whole(repository, image, **other):
    wished = {"config": image.config, "layers": image.layers, **other}
    return is_whole(repository.view, NAME, wished["config"], wished["layers"], PRODUCTS)


def test_whole_image_lacks_nothing(repository, image):
    assert said(repository) == ""
    assert whole(repository, image)


def test_image_that_moved_on_is_not_what_ducc_has(repository, image):
    assert not whole(repository, image, layers=image.layers[:1])
    assert not whole(repository, image, config=image.layers[0])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda layout, image: shutil.rmtree(layout.layerfs(image.layers[1])), "is missing"),
        (lambda layout, image: shutil.rmtree(layout.flat(image.config)), "flat tree"),
        (
            lambda layout, image: (layout.flat(image.config) / ".singularity.d").rmdir(),
            "no .singularity.d",
        ),
        (lambda layout, image: layout.link(NAME).unlink(), "its link is missing"),
        (lambda layout, image: layout.manifest(NAME).write_text("{}"), "manifest is damaged"),
    ],
    ids=["layer", "flat", "singularity", "link", "manifest"],
)
def test_what_is_missing_is_named_and_the_image_not_adopted(repository, image, damage, words):
    damage(OnDisk(repository.path), image)
    assert words in said(repository)
    assert not whole(repository, image)


def test_link_to_another_tree_is_not_the_image_s(repository, image):
    link = OnDisk(repository.path).link(NAME)
    link.unlink()
    link.symlink_to("../../.flat/ab/ab00")
    assert said(repository) == "its link leads to something else"


def test_flat_tree_counts_only_where_it_is_wished_for(repository, image):
    shutil.rmtree(OnDisk(repository.path).flat(image.config))
    assert said(repository, ("layers",)) == ""


def test_leftover_dirty_chain_and_dangling_link_are_found(repository, image):
    view, root, flat = repository.view, repository.path, repository.view.layout.flat(image.config)
    assert (stray_whiteout(view, flat), dirty_chains(repository.view)) == ("", [])
    assert dangling_links(repository.view) == []
    (root / flat / "etc" / ".wh..wh..opq").touch()
    (root / ".dirty-chains" / "0a").mkdir(parents=True)
    (root / ".dirty-chains" / ".cvmfscatalog").touch()
    (root / "gone.example.org").symlink_to(".flat/ab/ab00")
    assert stray_whiteout(view, flat) == "etc/.wh..wh..opq"
    assert dirty_chains(repository.view) == [".dirty-chains/0a"]
    assert dangling_links(repository.view) == ["gone.example.org"]


@pytest.mark.parametrize(
    ("target", "is_lost"),
    [
        ("f", False),
        ("l", False),
        ("x", True),
        ("b/x", True),
        ("b/../f", False),
        ("way/f", False),
        ("way/x", True),
        ("../.loop", True),
        ("SEEN/a/f", False),
        ("SEEN/a/x", True),
        ("/elsewhere/x", False),
        ("../../x", False),
    ],
)
def test_a_link_dangles_where_the_repository_knows_of_nothing(tmp_path, target, is_lost):
    root, view = tmp_path, DirectoryView(tmp_path, Layout(Path("/cvmfs/seen.example.org")))
    (root / "a/b").mkdir(parents=True)
    (root / "a/f").touch()
    (root / "a/l").symlink_to("f")
    (root / "a/way").symlink_to("../a")
    (root / ".loop").symlink_to(".loop")
    (root / "a/link").symlink_to(target.replace("SEEN", "/cvmfs/seen.example.org"))
    assert dangling_links(view) == (["a/link"] if is_lost else [])


def test_a_tree_is_looked_through_once_and_again_when_it_has_changed(
    repository, image, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flat, tree = (
        OnDisk(repository.path).flat(image.config),
        repository.view.layout.flat(image.config),
    )
    assert StrayWhiteouts(repository).find(tree) == ""
    (flat / "etc" / ".wh.below").touch()  # which the time of the tree's root does not tell
    assert StrayWhiteouts(repository).find(tree) == ""
    (flat / "new").touch()
    leftovers = StrayWhiteouts(repository)
    assert leftovers.find(tree) == leftovers.find(tree) == "etc/.wh.below"
    (flat / "etc" / ".wh.below").unlink()
    assert StrayWhiteouts(repository).find(tree) == "etc/.wh.below"


def test_memory_of_a_run_that_was_killed_is_worth_what_is_whole_of_it(
    repository, image, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flat, tree = (
        OnDisk(repository.path).flat(image.config),
        repository.view.layout.flat(image.config),
    )
    (flat / ".wh.there").touch()
    assert StrayWhiteouts(repository).find(tree) == ".wh.there"
    (memory,) = tmp_path.glob("results/*/leftovers.jsonl")
    whole = memory.read_text()
    memory.write_text(whole + whole[: len(whole) // 2])
    (flat / ".wh.there").unlink()
    os.utime(flat, ns=(0, json.loads(whole)[1][0]))
    assert StrayWhiteouts(repository).find(tree) == ".wh.there"
    os.utime(flat, ns=(0, 0))
    assert [StrayWhiteouts(repository).find(tree) for _ in range(3)] == [""] * 3


def adopted(repository, image):
    """Publish the image with its metadata alone."""
    with repository.lock():
        repository.publish(ChangeSet((), (image,)))


def test_adoption_writes_the_registry_s_manifest_and_says_that_nothing_was_measured(
    repository, image
):
    adopted(repository, replace(image, path=None))
    record = repository.record(NAME)
    assert record is not None
    assert record.losses == {UNMEASURED: 3}
    assert OnDisk(repository.path).manifest(NAME).read_bytes() == image.manifest_bytes


def test_image_that_was_damaged_meanwhile_is_not_adopted(repository, image):
    (OnDisk(repository.path).flat(image.config) / ".singularity.d").rmdir()
    with pytest.raises(RepositoryError, match="run again"):
        adopted(repository, replace(image, path=None))
    assert repository.record(NAME) is None


def test_what_a_registry_did_not_tell_of_waits_and_is_not_said_to_be_unwished(
    repository, image, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    problems = [Problem(REPOSITORY, NAME, "registry not reached", False, 1)]
    for told, line in ((problems, "wait     {}  registry not reached"), ([], "leave    {}  not")):
        plan = planned.plan(problems=told)
        lines = adoption_in_words(plan, plan.config_in(tmp_path), REPOSITORY)
        assert lines[0].startswith(line.format(NAME))
        assert "1 image of DUCC's: 0 to adopt" in lines[-1]
