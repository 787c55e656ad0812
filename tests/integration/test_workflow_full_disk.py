"""A disk that fills up while a layer is unpacked: that image fails, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import oracles
from duccmake.demo.images import Image, Layer, LayerBuilder, push
from duccmake.demo.registry import DemoRegistry
from oracles import needs_overlay
from runs import Work
from trees import differences, snapshot

LARGE = 40 * 1024 * 1024


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    """All that is staged lies on a file system of 16 MB; the repository does not."""
    with (
        oracles.tmpfs(tmp_path / "results", "16m"),
        DemoRegistry(tmp_path / "registry") as registry,
    ):
        work = Work(tmp_path, registry)
        work.configure()
        yield work


def _layer(text: str, size: int = 0) -> Layer:
    return LayerBuilder().dir("etc").file("etc/name", text).file("large", bytes(size)).layer()


def _push(work: Work, name: str, layer: Layer) -> None:
    assert work.registry
    push(Image((layer,), {"Cmd": ["/bin/true"]}), work.registry.host, name, "1")


@needs_overlay
def test_the_image_fails_with_no_space_and_the_others_and_what_is_published_stay(work: Work):
    _push(work, "good/old", _layer("old"))
    work.wish("{host}/good/old:1")
    assert work.run().status == 0
    repository = work.repository
    published = repository.path / work.named("good/old:1")
    before = snapshot(published.resolve())

    # A few hundred kilobytes to fetch, and more than there is room for.
    _push(work, "large/image", _layer("large", LARGE))
    _push(work, "good/new", _layer("new"))
    work.wish("{host}/good/old:1", "{host}/large/image:1", "{host}/good/new:1")
    # One job after the other: what has room alone has it then.
    run = work.run("--cores", "1")

    assert run.status != 0
    assert "no space left while unpacking" in run.said
    assert run.outcomes[work.named("large/image:1")][0] == "failed"
    assert not list((work.path / "results").rglob("layer*partial"))
    assert not list((work.path / "results").rglob("layerfs"))
    assert repository.record(work.named("large/image:1")) is None
    assert differences(before, snapshot(published.resolve())) == []
    for name in ("good/old:1", "good/new:1"):
        assert repository.verify(work.named(name)) == []
