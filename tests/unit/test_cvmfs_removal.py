"""Images that leave CernVM-FS, on the real thing and on its stand-in."""

from __future__ import annotations

import os

import pytest

from duccmake.errors import RepositoryError
from duccmake.jobs.collect_garbage import collect
from duccmake.jobs.prune_images import prune
from duccmake.jobs.rollback import roll_back
from duccmake.planning.model import Departure
from duccmake.repository.inventory import Use, survey
from duccmake.repository.model import Keep
from duccmake.repository.pins import pins_of
from duccmake.repository.removal_schedule import parse
from support.cvmfs_repositories import both, repository_for
from support.on_disk import OnDisk
from support.staged_trees import TOP, file, publish, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

STAYS, GOES, MOVES = (f"registry.example.org/{name}:1" for name in ("stays", "team/goes", "moves"))
NOW = 1_800_000_000.0


def other(text):
    return [*TOP, file("usr/share/version", text.encode())]


def test_an_image_leaves_its_content_follows_and_a_tag_is_pointed_back(cvmfs, tmp_path):
    repository = cvmfs.open()
    staging = tmp_path / "staging"
    publish(
        repository,
        stage(staging, STAYS, config="stays"),
        stage(staging, GOES, top=other("goes"), config="goes"),
        stage(staging, MOVES, top=other("good"), config="good"),
    )
    good = repository.record(MOVES).manifest
    publish(repository, stage(staging, MOVES, top=other("bad"), config="bad"))
    leaving = Departure(repository.name, GOES, str(repository.record(GOES).manifest), "dropped")
    prune(repository, [leaving], max_percent=50, force=False, clock=lambda: NOW)
    roll_back(repository, MOVES, str(good), Keep(), clock=lambda: NOW)

    layout = OnDisk(repository.path)
    with repository.reading():
        assert sorted(repository.names()) == sorted([STAYS, MOVES])
        assert not layout.link(GOES).parent.exists(), "nor is an empty directory left"
        assert (layout.link(MOVES) / "usr/share/version").read_text() == "good"
        assert {entry.image for entry in parse(layout.remove_schedule.read_bytes())} == {
            GOES,
            MOVES,
        }
    assert list(pins_of(repository)) == [MOVES]

    collected = collect(repository, spoken_for=Use(), grace=0, batch=2, clock=lambda: NOW + 1e9)
    assert (collected.flats, collected.layers) == (2, 2)
    with repository.reading():
        found = survey(repository.view)
    assert (found.present.flats, found.present.layers) == (found.used.flats, found.used.layers)
    assert (found.strange, found.unread) == ((), ())
    assert [line for name in repository.names() for line in repository.verify(name)] == []


def test_storage_that_cannot_be_reclaimed_is_said_to_be_so(cvmfs):
    repository = cvmfs.open()
    with repository.lock(), pytest.raises(RepositoryError, match=r"(?i)garbage collection"):
        repository.reclaim()


@pytest.fixture(params=both("CVMFS_GARBAGE_COLLECTION=true")[1:])
def collectable(request, tmp_path, monkeypatch):
    return repository_for(request.param, tmp_path, monkeypatch)


def test_storage_is_reclaimed_where_the_repository_allows_it(collectable, tmp_path):
    repository = collectable.open()
    publish(repository, stage(tmp_path / "staging", STAYS))
    with repository.lock():
        repository.reclaim()
    assert repository.verify(STAYS) == []
