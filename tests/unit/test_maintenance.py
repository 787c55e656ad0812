"""What is said of removals before they are done, and which images a command is about."""

from __future__ import annotations

from dataclasses import replace

import pytest

from duccmake.config.configuration import Config
from duccmake.errors import DuccmakeError
from duccmake.jobs.prune_images import prune
from duccmake.jobs.rollback import repositories_with
from duccmake.planning.model import Departure
from duccmake.planning.removal import spoken_for
from duccmake.run.maintenance import (
    collection_in_words,
    collections,
    pruning_in_words,
    prunings,
    targets,
)
from support.planned import NAME, REPOSITORY, image, plan
from support.staged_trees import TOP, file, open_repository, publish, stage

OTHER = "registry.example.org/team/other:1"


@pytest.fixture
def repository(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    repository = open_repository(tmp_path)
    publish(repository, stage(tmp_path / "staging", NAME, config="one"))
    top = [*TOP, file("usr/share/big", b"x" * 5000)]
    publish(repository, stage(tmp_path / "staging", OTHER, top=top, config="two"))
    return repository


@pytest.fixture
def config(tmp_path):
    def made(**removal):
        members = {"repository": {"root": "root"}, "removal": removal}
        return Config.parse(members, workdir=tmp_path)

    return made


def leaving(repository, name=OTHER):
    manifest = str(repository.record(name).manifest)
    return plan(
        [],
        departures=(Departure(REPOSITORY, name, manifest, "dropped"),),
        missing={REPOSITORY: frozenset()},
    )


def test_pruning_in_words_counts_images_and_what_only_they_use(repository, config):
    words = pruning_in_words(leaving(repository), config(max_percent=50), REPOSITORY)
    first, second = words.splitlines()
    assert first.startswith("1 of 2 images leave; 1 flat tree and 1 layer, ")
    assert second == f"  {OTHER}: dropped"


def test_pruning_in_words_says_that_it_will_be_refused(repository, config):
    made = leaving(repository)
    both = (*made.departures, replace(made.departures[0], name=NAME))
    words = pruning_in_words(replace(made, departures=both), config(max_percent=10), REPOSITORY)
    assert "2 of 2 images (100 %) would leave" in words
    assert f"among them {OTHER}, {NAME}: nothing is removed" in words
    assert words.index("a wish list is cut short") < words.index("force_removal")


def test_collecting_in_words_names_the_images_that_had_what_goes(repository, config):
    [departure] = leaving(repository).departures
    prune(repository, [departure], max_percent=100, force=False)
    empty = plan([], missing={REPOSITORY: frozenset()})
    words = collection_in_words(empty, config(grace_days=0), REPOSITORY)
    _, flat, layer = words.splitlines()
    assert flat.endswith(f"  was of {OTHER}")
    assert layer.endswith(f"  was of {OTHER}")


def test_previews_write_nothing_into_the_repository(repository, config):
    before = sorted(map(str, repository.path.rglob("*")))
    pruning_in_words(leaving(repository), config(max_percent=50), REPOSITORY)
    collection_in_words(leaving(repository), config(), REPOSITORY)
    assert sorted(map(str, repository.path.rglob("*"))) == before


def test_a_receipt_of_the_same_work_done_before_is_out_of_date(repository, tmp_path):
    (path,) = prunings(leaving(repository))
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("done")
    assert prunings(leaving(repository)) == [path]
    assert not (tmp_path / path).exists()


def test_there_is_nothing_to_collect_where_everything_is_used(repository, config):
    assert collections(leaving(repository), config(grace_days=0)) == []


def test_images_to_come_speak_for_their_layers(repository):
    wanted = image()
    use = spoken_for(plan([wanted]), REPOSITORY)
    assert use.flats == {wanted.config.hex}
    assert use.layers == {layer.digest.hex for layer in wanted.layers}


def test_an_image_that_a_command_names_wrongly_is_said_to_be_nowhere(repository, config):
    made = leaving(repository)
    assert [found.name for found in repositories_with(made, config(), NAME)] == [REPOSITORY]
    with pytest.raises(DuccmakeError, match="no repository has the image 'x/y:1'"):
        repositories_with(made, config(), "x/y:1")
    with pytest.raises(DuccmakeError, match="no image is named"):
        repositories_with(made, config(), "")


def test_targets_that_convert_nothing_are_known_by_their_names():
    assert targets(["--cores", "2", "gc"]) == {"gc"}
    assert targets(["--cores", "2"]) == frozenset()
