from __future__ import annotations

import os
from pathlib import Path

import pytest

from duccmake.oci.reference import Digest
from duccmake.planning.model import Problem, State
from duccmake.planning.plan import Plan, keeping
from support.planned import NAME, REPOSITORY, image, layer, plan
from support.staged_trees import digest_of


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_a_plan_is_read_back_as_it_was_saved():
    problem = Problem(REPOSITORY, "x/y:1", "no such tag", True, 1)
    made = plan([image()], [problem], warnings=("twice",))
    assert Plan.load(made.save()) == made


def test_saving_a_plan_again_writes_nothing_and_makes_it_the_newest():
    path = plan([image()]).save()
    os.utime(path, (1, 1))
    before = path.stat()
    assert plan([image()]).save() == path
    after = path.stat()
    assert (before.st_ino, before.st_size) == (after.st_ino, after.st_size)
    assert after.st_mtime > 1


def test_another_plan_is_another_file():
    assert plan([image()]).save() != plan([image(manifest=digest_of("other"))]).save()


def test_published_images_cost_a_plan_no_layers():
    done = image("r.example.org/done:1", state=State.PUBLISHED, layers=(layer("done"),))
    path = plan([image(), done]).save()
    assert (
        digest_of("done").hex
        not in path.read_text()
        .partition('"members"')[0]
        .partition('"layers"')[2]
        .partition('"missing"')[0]
    )
    assert [found.layers for found in Plan.load(path).images] == [image().layers, ()]


def test_the_whole_scope_wants_published_images_too():
    done = image("r.example.org/done:1", state=State.PUBLISHED)
    assert plan([done]).wanted == ()
    assert plan([done], scope="all").wanted == (done,)


def test_keys_are_short_digests():
    made = plan([image()])
    assert made.key(image().config) == image().config.hex[:12]


def test_digests_that_begin_alike_are_told_apart_by_all_their_digits():
    one, other = (Digest("sha256", "ab" * 6 + digit * 52) for digit in "01")
    made = plan(
        [
            image(layers=(layer("one", one), layer("other", other), layer("third"))),
        ]
    )
    assert made.key(one) == one.hex and made.key(other) == other.hex
    assert made.key(digest_of("third")) == digest_of("third").short
    for digest in (one, other):
        assert made.layer_digest(made.key(digest)) == digest
        assert str(digest) in made.staged_paths(REPOSITORY)
    assert len(set(made.staged_paths(REPOSITORY).values())) == 3


def test_a_layer_that_an_image_has_twice_is_staged_once():
    twice = image(layers=(layer("a"), layer("b"), layer("a")))
    assert plan([twice]).staged_layers(twice) == [digest_of("a").short, digest_of("b").short]


def test_published_layers_are_not_staged():
    made = plan([image(layers=(layer("a"), layer("b")))])
    known = plan(made.images, missing={REPOSITORY: frozenset({digest_of("b")})})
    assert known.staged_layers(known.images[0]) == [digest_of("b").short]


def test_images_are_found_by_what_they_share():
    one, other = image(), image("r.example.org/other:1", config=image().config)
    made = plan([one, other])
    assert made.with_tree(REPOSITORY, made.flat_key(one)) == [one, other]
    assert made.sources(made.key(layer().digest)) == [one, other]
    assert made.image(REPOSITORY, NAME) == one


def test_a_wish_that_could_not_be_planned_stays_wished_for():
    name = f"registry.example.org/team/app@{digest_of('x')}"
    made = plan([image()], unplanned=((REPOSITORY, name), ("other.example.org", "a.b/c:1")))
    config = made.config_in(Path())
    assert keeping(made, config, REPOSITORY).wished == {NAME, name}
    assert Plan.load(made.save()) == made
