"""Images whose own job failed, and which another image's job published all the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.runs import Work, checkout_copy, fresh_work
from support.samples import AMD64

NAMES = ("team/app:1", "team/app:2")

# The first job of all is told that somebody else holds the repository.
REFUSED = """
from duccmake.errors import RepositoryLocked
try:
    Path("refused").touch(exist_ok=False)
except FileExistsError:
    pass
else:
    with running(Rule.PUBLISH_IMAGE, repository, name, log=log, output=output) as job:
        raise RepositoryLocked("somebody publishes", image=name)
"""
BEGINNING = "log, output, repository, name, *inputs = sys.argv[1:]\n"


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    checkout = checkout_copy(tmp_path / "checkout")
    script = checkout / "scripts/publish_image.py"
    text = script.read_text()
    assert BEGINNING in text
    script.write_text(text.replace(BEGINNING, BEGINNING + REFUSED))
    with fresh_work(tmp_path / "work") as work:
        work = replace(work, checkout=checkout)
        for name in NAMES:
            layer = LayerBuilder().dir("etc").file("etc/name", name).layer()
            work.push(name, Image((layer,), {"Cmd": ["/bin/true"]}, platform=AMD64))
        yield work


def test_run_is_good_in_which_another_job_took_an_image_along(work: Work):
    work.wish(*(f"{{host}}/{name}" for name in NAMES))
    run = work.run()
    assert (work.path / "refused").exists()
    assert "somebody publishes" in "".join(
        path.read_text() for path in (work.path / "logs/publish_image").rglob("*.log")
    )
    assert run.counts == (2, 0, 0, 0), run.said
    assert run.status == 0
    for name in NAMES:
        assert work.repository.verify(work.named(name)) == []
    assert work.run(check=True).counts == (0, 2, 0, 0)


def test_run_fails_where_nobody_took_the_image_along(work: Work):
    work.wish(f"{{host}}/{NAMES[0]}")
    run = work.run()
    assert run.counts == (0, 0, 1, 0)
    assert run.status == 1


def test_thin_image_that_was_not_pushed_for_that_is_told_of_and_fails_the_run(work: Work):
    work.configure(thin={"push": "always"})
    work.wish(
        *(f"{{host}}/{name}" for name in NAMES),
        output_format="http://" + work.host + "/thin/$(repository):$(tag)",
    )
    run = work.run()
    pushed = {name: outcome for name, (outcome, _) in run.outcomes.items() if "thin/" in name}
    assert sorted(pushed.values()) == ["failed", "pushed"], run.said
    assert run.status == 1
    again = work.run(check=True)
    assert [outcome for outcome, _ in again.outcomes.values()].count("pushed") == 1
