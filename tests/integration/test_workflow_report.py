"""``snakemake --report``: what it has after any run, without a registry and without a network."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.runs import Work, fresh_work

OFFLINE = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://localhost:1")
RULES = ("fetch_blob", "unpack_layer", "flatten_image", "publish_image")


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with fresh_work(tmp_path) as work:
        good, broken = (Image((LayerBuilder().file("name", it).layer(),)) for it in "ab")
        work.push("team/app:1", good)
        work.push("team/broken:1", broken)
        assert work.registry
        work.registry.store.blob_path(broken.layers[0].digest).unlink()
        work.wish("{host}/team/app:1", "{host}/team/broken:1")
        work.configure(retry={})
        yield work


def reported(work: Work) -> str:
    """The report, made while there is no registry."""
    with work.deserted():
        run = work.run("--report", "report.html", check=True)
    assert "Report created" in run.said, run.said
    return (work.path / "report.html").read_text()


def embedded(report: str, kind: str) -> str:
    """The first file of a kind that the report has in it."""
    found = re.search(rf"data:{re.escape(kind)};[^\"]*?base64,([^\"\\]+)", report)
    assert found, f"the report has no {kind}"
    return base64.b64decode(found[1]).decode()


def test_report_has_images_captions_pictures_and_runtimes_after_any_run(work):
    early = work.run("--report")
    assert early.status == 1 and "there is nothing to report: no run has ended" in early.said
    assert "Traceback" not in early.said

    assert work.run().status == 1
    first = reported(work)
    table = embedded(first, "text/tab-separated-values")
    assert [line.split("\t")[:2] for line in table.splitlines()[1:]] == [
        ["up to date", "ok"],
        ["held", "failing"],
    ]
    assert work.named("team/broken:1") in table
    assert "<main" in embedded(first, "text/html")
    assert "<svg" in embedded(first, "image/svg+xml")
    for caption in sorted((work.checkout / "workflow/report").glob("*.rst")):
        words = " ".join(caption.read_text().replace("*", "").split())[:40]
        if caption.stem != "growth":  # which takes two days
            assert words in " ".join(re.sub(r"<[^>]+>|\\n", " ", first).split()), caption
    for rule in RULES:
        assert re.search(rf'"rule": ?"{rule}", ?"runtime"', first), rule

    assert work.run(check=True).counts[:3] == (0, 1, 0), "the broken one is held"
    after = reported(work)
    assert work.named("team/app:1") in embedded(after, "text/tab-separated-values")
    assert re.search(r'"rule": ?"publish_image", ?"runtime"', after)
