"""The product ``podman`` in runs of the workflow: left out, added later, and by default."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import host_platform
from support import podman_client
from support.podman_client import podman
from support.runs import Run, Work, sample_work

HELLO = ("demo/hello:1.0", "demo/hello:latest")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with sample_work(tmp_path_factory.mktemp("podman")) as work:
        work.wish("{host}/demo/hello:*")
        yield work


@pytest.fixture(scope="module")
def left_out(work: Work) -> Run:
    return _run(work, products=["layers", "flat"])


@pytest.fixture(scope="module")
def store_when_left_out(work: Work, left_out: Run) -> bool:
    return _store(work).exists()


@pytest.fixture(scope="module")
def added(work: Work, store_when_left_out: bool) -> Run:
    return _run(work, products=["layers", "flat", "podman"])


@pytest.fixture(scope="module")
def again(work: Work, added: Run) -> Run:
    return _run(work, products=["layers", "flat", "podman"])


def _run(work: Work, **settings: object) -> Run:
    work.configure(platforms=[str(host_platform())], **settings)
    return work.run(check=True)


def _store(work: Work) -> Path:
    return work.repository.path / "podmanStore"


def _names(work: Work) -> set[str]:
    entries = json.loads((_store(work) / "overlay-images/images.json").read_bytes())
    return {name for entry in entries for name in entry["names"]}


def test_a_product_that_is_left_out_is_not_made(store_when_left_out: bool):
    assert not store_when_left_out


def test_images_get_a_product_that_is_added_later_from_what_is_published(work: Work, added: Run):
    assert added.counts[0] == len(HELLO)
    assert added.blobs() == []
    assert {job.partition(" ")[0] for job in added.jobs} == {"Publish"}
    assert _names(work) == {work.named(name) for name in HELLO}
    for name in HELLO:
        record = work.repository.record(work.named(name))
        assert record
        assert record.products == ("layers", "flat", "podman")
        assert work.repository.verify(work.named(name)) == []


def test_what_was_lost_when_the_image_was_published_stays_on_record(work: Work, added: Run):
    flat_losses = []
    for path in (work.repository.path / ".metadata/.flat").glob("*/*/flat.json"):
        known = json.loads(path.read_bytes())
        flat_losses.append({**known["layer_losses"], **known["losses"]})
    for name in HELLO:
        record = work.repository.record(work.named(name))
        assert record
        assert record.losses in flat_losses


def test_a_run_that_finds_all_products_does_nothing(again: Run):
    assert again.counts == (0, len(HELLO), 0, 0)


def test_podman_runs_what_the_workflow_published(work: Work, added: Run):
    podman_client.need_podman()
    with podman(_store(work)) as client:
        assert {name for names in client.images().values() for name in names} == _names(work)


def test_a_store_that_is_lost_is_written_anew_and_no_layer_fetched(work: Work, again: Run):
    names = _names(work)
    for path in sorted(_store(work).rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    run = work.run(check=True)
    assert run.blobs() == []
    assert _names(work) == names


def test_podman_is_among_what_is_made_unless_told_otherwise(work: Work, tmp_path: Path):
    other = Work(tmp_path / "work", work.registry)
    other.wish("{host}/demo/hello:latest")
    _run(other)
    assert _names(other) == {other.named("demo/hello:latest")}
    layers = _store(other) / "overlay-layers"
    listed = json.loads((layers / "layers.json").read_bytes())
    assert {path.name for path in layers.glob("*.gz")} == {
        f"{layer['id']}.tar-split.gz" for layer in listed
    }
