"""A repository that DUCC filled: what is whole is taken over, what is damaged converted again."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.repository.model import UNMEASURED
from support.ducc_repository import leave_as_ducc
from support.images import LayerBuilder
from support.on_disk import OnDisk
from support.pipeline import digest_of
from support.runs import Run, Work, fresh_work
from support.trees import Node, snapshot

WHOLE, MARKED, BARE, OTHER = "team/whole:1", "team/marked:1", "team/bare:1", "team/other:1"


@dataclass(frozen=True)
class Stage:
    work: Work
    preview: Run
    adoption: Run
    run: Run
    again: Run
    before: dict[bytes, Node]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with fresh_work(tmp_path_factory.mktemp("adoption")) as work:
        yield work


@pytest.fixture(scope="module")
def stage(work: Work) -> Stage:
    """DUCC's repository with three images, two of them damaged; looked at, then run."""
    common = LayerBuilder().file("etc/common", "common").file("etc/gone", "gone").layer()
    for name in (WHOLE, MARKED, BARE, OTHER):
        own = LayerBuilder().file("etc/name", name).whiteout("etc/gone").layer()
        work.push(name, Image((common, own)))
    work.wish(*("{host}/" + name for name in (WHOLE, MARKED, BARE, OTHER)))
    work.configure(products=["layers", "flat"])
    work.run(check=True)
    shutil.rmtree(work.path / "results")
    work.wish(*("{host}/" + name for name in (WHOLE, MARKED, BARE)))
    repository = work.repository.path
    leave_as_ducc(repository)
    (flat(work, MARKED) / "etc" / ".wh.gone").touch()
    shutil.rmtree(flat(work, BARE) / ".singularity.d")
    (repository / ".dirty-chains" / "abc").mkdir(parents=True)
    (repository / "gone.example.org").mkdir()
    (repository / "gone.example.org" / "app:1").symlink_to("../.flat/ab/ab00")
    before = snapshot(flat(work, WHOLE))
    preview = work.run("adopt", "-n")
    return Stage(work, preview, work.run("adopt"), work.run(), work.run(), before)


def flat(work: Work, name: str) -> Path:
    """Where the public link of an image leads."""
    return OnDisk(work.repository.path).link(work.named(name)).resolve()


def test_preview_tells_what_becomes_of_each_image_and_what_is_damaged(stage: Stage) -> None:
    assert stage.preview.status == 0, stage.preview.said
    named = stage.work.named
    lines = stage.preview.stdout.splitlines()
    assert f"adopt    {named(WHOLE)}" in lines
    assert any(
        line.startswith(f"convert  {named(MARKED)}  ") and "has etc/.wh.gone" in line
        for line in lines
    )
    assert any(
        line.startswith(f"convert  {named(BARE)}  ") and "no .singularity.d" in line
        for line in lines
    )
    assert f"leave    {named(OTHER)}  not wished for" in lines
    assert "damaged  .dirty-chains/abc  a chain that DUCC did not finish" in lines
    assert "damaged  gone.example.org/app:1  the link leads nowhere" in lines
    assert any("4 images of DUCC's: 1 to adopt, 2 to convert again" in line for line in lines)


def test_whole_image_is_adopted_with_nothing_fetched_or_made_again(stage: Stage) -> None:
    assert stage.adoption.status == 0, stage.adoption.said
    assert stage.adoption.blobs() == []
    assert stage.adoption.outcomes == {
        stage.work.named(WHOLE): (
            "converted",
            "adopted from DUCC as it stands: nothing was fetched",
        )
    }
    assert snapshot(flat(stage.work, WHOLE)) == stage.before
    record = stage.work.repository.record(stage.work.named(WHOLE))
    assert record is not None
    assert record.losses == {UNMEASURED: 3}


def test_manifest_of_an_adopted_image_is_the_registry_s_again(stage: Stage) -> None:
    name = stage.work.named(WHOLE)
    content = OnDisk(stage.work.repository.path).manifest(name).read_bytes()
    record = stage.work.repository.record(name)
    assert record is not None
    assert record.manifest == digest_of(content)


def test_damaged_images_are_converted_again_and_adopted_ones_are_up_to_date(stage: Stage) -> None:
    assert stage.run.status == 0, stage.run.said
    named = stage.work.named
    assert {name: found[0] for name, found in stage.run.outcomes.items()} == {
        named(WHOLE): "up to date",
        named(MARKED): "converted",
        named(BARE): "converted",
    }
    assert not (flat(stage.work, MARKED) / "etc" / ".wh.gone").exists()
    assert (flat(stage.work, BARE) / ".singularity.d").is_dir()
    assert stage.work.repository.verify(named(MARKED)) == []
    assert snapshot(flat(stage.work, WHOLE)) == stage.before


def test_after_that_nothing_is_left_to_do(stage: Stage) -> None:
    assert stage.again.counts == (0, 3, 0, 0)
    assert stage.again.blobs() == []


def test_adopted_image_is_converted_where_that_is_not_good_enough(stage: Stage) -> None:
    name = stage.work.named(WHOLE)
    run = stage.work.run("--config", "adopt=false", check=True)
    assert run.outcomes[name] == ("converted", "")
    assert stage.work.repository.verify(name) == []
    again = stage.work.run("--config", "adopt=false")
    assert again.counts == (0, 3, 0, 0)
