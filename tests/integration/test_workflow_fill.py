"""A first fill of many images: published as it goes, with room on the disk for a few."""

from __future__ import annotations

import re

import pytest

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.runs import fresh_work
from support.samples import AMD64

BASE = LayerBuilder().dir("etc").file("etc/base", "base").layer()
COUNT = 4


@pytest.fixture
def work(tmp_path):
    with fresh_work(tmp_path) as work:
        for number in range(COUNT):
            own = LayerBuilder().dir("etc").file("etc/own", str(number)).layer()
            work.push(f"team/app:{number}", Image((BASE, own), {}, platform=AMD64))
        work.wish(*(f"{{host}}/team/app:{number}" for number in range(COUNT)))
        yield work


def test_an_image_is_published_before_the_next_batch_is_fetched(work):
    work.configure(platforms=["linux/amd64"], repository={"batch": {"images": 1}})
    run = work.run("--cores", "1")
    assert (run.status, run.counts) == (0, (COUNT, 0, 0, 0)), run.said
    steps = [re.match(r"(Publish|Fetch layer|Let layers)", job) for job in run.jobs]
    order = [step[1] for step in steps if step]
    # The first image has the layer that all share besides its own.
    first = ["Fetch layer", "Fetch layer", "Publish"]
    assert order == [*first, *["Let layers", "Fetch layer", "Publish"] * (COUNT - 1)]
    assert not any((work.path / "results/gates").rglob("[0-9]"))
    assert work.run("--cores", "1").counts == (0, COUNT, 0, 0)


def test_without_need_nothing_waits(work):
    work.configure(platforms=["linux/amd64"])
    run = work.run()
    assert (run.status, run.counts) == (0, (COUNT, 0, 0, 0)), run.said
    assert not any(job.startswith("Let layers") for job in run.jobs)
