from __future__ import annotations

import logging

import pytest

from duccmake.errors import DuccmakeError, RepositoryError, RepositoryLocked
from duccmake.jobs.publish_image import publish_ready
from duccmake.oci.content_store import ContentStore
from duccmake.repository.settings import BatchSettings
from support.on_disk import OnDisk
from support.planned import image, planned_as_staged
from support.staged_trees import directory, file, open_repository, stage


class Stage:
    """Images that are staged, and what `publish_ready` is told of them."""

    def __init__(self, base) -> None:
        self.base = base
        self.repository = open_repository(base)
        self.store = ContentStore(base / "manifests")
        self.layers: dict[str, object] = {}
        self.flats: dict[str, object] = {}
        self.planned: list[object] = []

    def add(self, tag: str):
        name = f"registry.example.org/team/app:{tag}"
        top = [directory("."), file(f"of-{tag}", tag.encode())]
        changes = stage(self.base / "staging", name, top)
        [staged] = changes.images
        self.layers |= {str(layer.digest): layer.path for layer in changes.layers}
        self.store.put(staged.manifest, staged.manifest_bytes)
        planned = image(
            name,
            manifest=staged.manifest,
            config=staged.config,
            layers=tuple(planned_as_staged(layer.path) for layer in changes.layers),
        )
        self.flats[str(planned.tree)] = staged.path
        self.planned.append(planned)
        return planned

    def publish(self, wanted, limits=None):
        return publish_ready(
            wanted,
            self.planned,
            self.repository,
            layers=self.layers,
            flats=self.flats,
            store=self.store,
            limits=limits,
        )

    def published(self) -> list[str]:
        return [name.rpartition(":")[2] for name in self.repository.names()]

    def block(self, planned) -> None:
        """Put a directory where the image's link has to be, so that it cannot be published."""
        OnDisk(self.repository.path).link(planned.name).mkdir(parents=True)


@pytest.fixture
def here(tmp_path):
    return Stage(tmp_path)


def commits(here, monkeypatch) -> list[list[str]]:
    """What each transaction of the repository was asked to publish, by tag."""
    found: list[list[str]] = []
    publish = here.repository.publish

    def counted(changes, more=tuple):
        found.append([staged.name.rpartition(":")[2] for staged in changes.images])
        publish(changes, more)

    monkeypatch.setattr(here.repository, "publish", counted)
    return found


def test_all_that_is_ready_is_published_in_one_commit(here, monkeypatch):
    one, _, _ = here.add("1"), here.add("2"), here.add("3")
    made = commits(here, monkeypatch)
    record = here.publish(one)
    assert record.manifest == one.manifest
    assert made == [["1", "2", "3"]]
    assert here.published() == ["1", "2", "3"]


def test_whoever_comes_later_finds_the_work_done(here, monkeypatch):
    one, two = here.add("1"), here.add("2")
    here.publish(one)
    here.layers.clear()
    here.flats.clear()
    made = commits(here, monkeypatch)
    assert here.publish(two).name == two.name
    assert made == []


def test_what_is_not_wholly_staged_is_left_for_later(here):
    one, two, three = here.add("1"), here.add("2"), here.add("3")
    del here.flats[str(two.tree)]
    del here.layers[str(three.layers[1].digest)]
    here.publish(one)
    assert here.published() == ["1"]


def test_an_image_that_cannot_be_published_hinders_no_other(here, caplog):
    one, two, three = here.add("1"), here.add("2"), here.add("3")
    here.block(two)
    with caplog.at_level(logging.WARNING):
        assert here.publish(one).name == one.name
    assert here.published() == ["1", "3"]
    assert any(two.name in record.getMessage() for record in caplog.records)
    assert here.publish(three).name == three.name


def test_the_image_s_own_failure_is_raised_after_the_others_are_published(here):
    one, two, _ = here.add("1"), here.add("2"), here.add("3")
    here.block(two)
    with pytest.raises(RepositoryError, match="in the way of its link") as raised:
        here.publish(two)
    assert raised.value.image == two.name
    assert here.published() == ["1", "3"]
    assert one.name in list(here.repository.names())


def test_an_image_whose_staging_is_gone_says_so(here):
    one = here.add("1")
    here.flats.clear()
    with pytest.raises(DuccmakeError, match="not there any more; run again"):
        here.publish(one)


def test_a_repository_that_somebody_else_holds_is_waited_for_and_then_told(here, tmp_path):
    one = here.add("1")
    with open_repository(tmp_path).lock(), pytest.raises(RepositoryLocked):
        here.publish(one)
    assert here.publish(one).name == one.name


def test_a_layer_that_is_published_need_not_be_staged(here):
    one = here.add("1")
    here.publish(one)
    here.layers.clear()
    two = here.add("2")
    del here.layers[str(two.layers[0].digest)]
    assert here.publish(two).name == two.name
    assert here.repository.verify(two.name) == []


@pytest.mark.parametrize(
    ("limits", "taken"),
    [
        (BatchSettings(images=2), ["a", "b"]),
        (BatchSettings(images=0, bytes=0, entries=0), ["a", "b", "c"]),
        # Each image has a layer of its own with 20 bytes, and all share another.
        (BatchSettings(bytes=60), ["a", "b"]),
        (BatchSettings(bytes=1), ["a"]),
        (BatchSettings(entries=1), ["a"]),
    ],
)
def test_a_commit_takes_along_no_more_than_its_limits(here, monkeypatch, limits, taken):
    wanted = here.add("a")
    here.add("b")
    here.add("c")
    asked = commits(here, monkeypatch)
    here.publish(wanted, limits)
    assert asked == [taken]
    assert here.published() == taken


def test_images_that_did_not_fit_are_published_by_their_own_jobs(here, monkeypatch):
    images = [here.add(tag) for tag in "abc"]
    asked = commits(here, monkeypatch)
    for planned in images:
        here.publish(planned, BatchSettings(images=1))
    assert asked == [["a"], ["b"], ["c"]]


def test_what_gets_ready_during_a_commit_is_offered_once_and_within_the_limits(here, monkeypatch):
    wanted = here.add("a")
    later = [here.add(tag) for tag in "bcd"]
    ready, here.flats = here.flats, {str(wanted.tree): here.flats[str(wanted.tree)]}
    publish, offered = here.repository.publish, []

    def slow(changes, more):
        for planned in later:
            here.flats[str(planned.tree)] = ready[str(planned.tree)]
            offered.append([staged.name[-1] for meanwhile in more() for staged in meanwhile.images])
        publish(changes)

    monkeypatch.setattr(here.repository, "publish", slow)
    here.publish(wanted, BatchSettings(images=3))
    assert offered == [["b"], ["c"], []]


def test_another_image_that_is_damaged_does_not_stop_the_one_that_is_wanted(here, caplog):
    wanted, other = here.add("1"), here.add("2")
    (here.flats[str(other.tree)] / "tree.mtree").unlink()
    here.publish(wanted)
    assert here.published() == ["1"]
    assert f"{other.name} is not taken along" in caplog.text
