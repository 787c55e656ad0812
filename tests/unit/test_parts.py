from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from duccmake.config.configuration import Config
from duccmake.oci.reference import Digest
from duccmake.planning.model import PlannedThin, Problem, State
from duccmake.planning.parts import part, slices
from duccmake.planning.plan import Plan, keeping
from support.planned import REPOSITORY, image, layer, plan


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def name(text: str) -> str:
    return f"r.example.org/{text}:1"


def alike(number: int) -> Digest:
    """Digests that begin alike."""
    return Digest("sha256", "0" * 24 + hashlib.sha256(bytes([number])).hexdigest()[24:])


def parts_of(made: Plan, limit: int) -> list[Plan]:
    file, config = made.save(), made.config_in(Path.cwd())
    each = range(len(slices(made, limit)))
    found = [part(made, file, number, limit, config) for number in each]
    return [Plan.load(one.save()) for one in found]


def test_those_that_wait_longest_are_in_the_first_part_and_the_rest_as_they_are_listed():
    since = {"new": 0.0, "newer": 0.0, "old": 20.0, "oldest": 10.0}
    made = plan([image(name(text), since=moment) for text, moment in since.items()])
    found = [[one.name for one in images] for images in slices(made, 3)]
    assert found == [[name("oldest"), name("old"), name("new")], [name("newer")]]
    assert [len(images) for images in slices(made, 0)] == [4]
    assert slices(plan(), 3) == [()]


def test_each_part_calls_everything_as_the_whole_does():
    one = image(name("one"), layers=(layer("a", alike(1)),))
    other = image(name("other"), layers=(layer("b", alike(2)),))
    twin = image(name("twin"), config=one.config, layers=(layer("c"),))
    made = plan([one, other, twin])
    found = parts_of(made, 1)
    for single, alone in zip((one, other, twin), found, strict=True):
        assert [each.name for each in alone.wanted] == [single.name]
        assert alone.staged_layers(single) == made.staged_layers(single)
        assert alone.flat_key(single) == made.flat_key(single)
    assert found[0].flat_key(one) != found[2].flat_key(twin)


def test_a_part_knows_the_names_of_all_others_and_leads_to_the_whole():
    published = image(name("published"), state=State.PUBLISHED, layers=())
    made = plan([image(name("a")), image(name("b")), published], unplanned=((REPOSITORY, "c"),))
    for one in parts_of(made, 1):
        assert keeping(one, Config(), REPOSITORY) == keeping(made, Config(), REPOSITORY)
        assert one.in_full() == made
        assert len(one.images) == 1


def test_problems_are_in_the_first_part_and_a_thin_image_where_its_last_image_is():
    problem = Problem(REPOSITORY, "x", "no such tag", False, 1)
    names = tuple(map(name, ("a", "b", "there")))
    there = image(names[2], state=State.PUBLISHED, layers=())
    thin = PlannedThin(REPOSITORY, "list", "r.example.org/t:1", "0" * 16, names, "", False, "new")
    made = plan([image(names[0]), image(names[1]), there], [problem], thins=(thin,))
    first, second = parts_of(made, 1)
    assert (first.problems, second.problems) == ((problem,), ())
    assert (first.thins, second.thins) == ((), (thin,))
    assert second.image(REPOSITORY, names[2]) == there and not second.wants(there)
