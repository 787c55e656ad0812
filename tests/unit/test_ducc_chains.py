"""The chains that DUCC leaves: found when nothing of DUCC's needs them, and freed in time."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.jobs.collect_garbage import collect, collected_in_words
from duccmake.repository import removal_schedule
from duccmake.repository.inventory import Use
from duccmake.repository.removal import CHAIN, find
from support.cvmfs_repositories import both, repository_for
from support.on_disk import OnDisk
from support.staged_trees import NAME, open_repository, publish, stage

DAY = 86400.0
NOW = 1_800_000_000.0
OTHER = "registry.example.org/tools/app:2"


@pytest.fixture(params=["directory", *both()])
def repositories(request, tmp_path, monkeypatch) -> Iterator[tuple]:
    """A repository, and how to change it as another program does."""
    if request.param == "directory":
        yield open_repository(tmp_path), lambda change: change(open_repository(tmp_path).path)
        return
    if os.geteuid() != 0:
        pytest.skip("cvmfs_server needs root")
    cvmfs = repository_for(request.param, tmp_path, monkeypatch)

    repository = cvmfs.open()

    def changing(change):
        cvmfs.server("transaction", cvmfs.name)
        change(cvmfs.mounts / cvmfs.name)
        cvmfs.server("publish", cvmfs.name)
        repository.view.renew()

    yield repository, changing


def chains_of(image) -> list[str]:
    """As DUCC counts them: each by the one below and the digest of the blob."""
    found: list[str] = []
    for layer in image.layers:
        below = f"sha256:{found[-1]} " if found else ""
        found.append(hashlib.sha256(f"{below}{layer}".encode()).hexdigest())
    return found


def leave_chains(path: Path, *keys: str) -> None:
    for key in keys:
        tree = path / ".chains" / key[:2] / key
        (tree / "etc").mkdir(parents=True)
        (tree / "etc/hostname").write_bytes(b"")
        for directory in (tree, tree.parent, tree.parent.parent):
            (directory / ".cvmfscatalog").touch()


def garbage(repository, now):
    return find(repository.view, Use(), now=now, grace=7 * DAY)


def gc(repository, now, batch=50):
    return collect(repository, spoken_for=Use(), grace=7 * DAY, batch=batch, clock=lambda: now)


def keys_of(things) -> set[str]:
    return {thing.key for thing in things if thing.kind == CHAIN}


def test_what_ducc_left_of_images_that_are_taken_over_goes_after_the_time_of_grace(
    repositories, tmp_path
):
    repository, changing = repositories
    (image,) = publish(repository, stage(tmp_path / "staging"))
    chains = chains_of(image)
    changing(lambda path: leave_chains(path, *chains))

    assert keys_of(garbage(repository, NOW).unlisted) == set(chains)
    assert gc(repository, NOW).chains == 0
    listed = removal_schedule.parse(repository.view.read(repository.view.layout.remove_schedule))
    assert {digest for entry in listed for digest in entry.chains} == {
        f"sha256:{key}" for key in chains
    }
    assert gc(repository, NOW + 6 * DAY).waiting == len(chains)
    assert repository.view.is_dir(repository.view.layout.chains)

    collected = gc(repository, NOW + 7 * DAY)
    assert (collected.flats, collected.layers, collected.chains) == (0, 0, len(chains))
    assert f"and {len(chains)} chains of DUCC's" in collected_in_words(collected)
    assert not repository.view.exists(repository.view.layout.chains)
    assert json.loads(repository.view.read(repository.view.layout.remove_schedule)) == []
    assert repository.verify(NAME) == []


def test_chains_of_an_image_that_ducc_alone_looks_after_stay(repositories, tmp_path):
    repository, changing = repositories
    (ours,) = publish(repository, stage(tmp_path / "a"))
    (theirs,) = publish(repository, stage(tmp_path / "b", OTHER, top=[], config="two"))
    shared = chains_of(theirs)[0]
    assert shared == chains_of(ours)[0]
    assert chains_of(theirs)[1] != chains_of(ours)[1]

    def change(path: Path) -> None:
        leave_chains(path, *{*chains_of(ours), *chains_of(theirs)})
        record = path / repository.view.layout.record(NAME)
        kept = record.read_bytes()
        leave_as_ducc_without_trees(path)
        record.write_bytes(kept)

    changing(change)
    gc(repository, NOW)
    assert gc(repository, NOW + 7 * DAY).chains == 1
    left = OnDisk(repository.path).chains.glob("*/*")
    assert {path.name for path in left if path.is_dir()} == set(chains_of(theirs))


def leave_as_ducc_without_trees(path: Path) -> None:
    for record in (path / ".metadata").rglob("record.json"):
        record.unlink()


def test_chain_that_was_not_finished_goes_with_its_mark(repositories, tmp_path):
    repository, changing = repositories
    publish(repository, stage(tmp_path / "staging"))
    half, marked = hashlib.sha256(b"half").hexdigest(), hashlib.sha256(b"mark").hexdigest()

    def change(path: Path) -> None:
        leave_chains(path, half)
        for key in (half, marked):
            (path / ".dirty-chains" / key).mkdir(parents=True)

    changing(change)
    gc(repository, NOW)
    assert gc(repository, NOW + 7 * DAY).chains == 2
    assert not repository.view.exists(repository.view.layout.chains)
    assert not repository.view.exists(repository.view.layout.dirty_chains)


def test_what_is_no_chain_stays_with_the_directory_it_is_in(repositories, tmp_path):
    repository, changing = repositories
    (image,) = publish(repository, stage(tmp_path / "staging"))
    (first, second) = chains_of(image)

    def change(path: Path) -> None:
        leave_chains(path, first, second)
        (path / ".chains" / first[:2] / "notes").write_text("of somebody")

    changing(change)
    gc(repository, NOW)
    gc(repository, NOW + 7 * DAY, batch=1)
    chains = OnDisk(repository.path).chains
    assert (chains / first[:2] / "notes").read_text() == "of somebody"
    assert not os.path.lexists(chains / first[:2] / first)
    assert not os.path.lexists(chains / second[:2])


def test_time_of_grace_begins_again_where_an_image_has_needed_a_chain_since(repositories, tmp_path):
    repository, changing = repositories
    (image,) = publish(repository, stage(tmp_path / "staging"))
    (first, _) = chains_of(image)
    changing(lambda path: leave_chains(path, first))
    gc(repository, NOW)
    where = repository.view.layout.record(NAME)
    kept = repository.view.read(where)
    changing(lambda path: (path / where).unlink())
    assert gc(repository, NOW + 8 * DAY).chains == 0
    changing(lambda path: (path / where).write_bytes(kept))
    assert gc(repository, NOW + 9 * DAY).chains == 0
    assert keys_of(garbage(repository, NOW + 9 * DAY).waiting) == {first}
