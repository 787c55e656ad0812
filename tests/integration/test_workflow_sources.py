"""Runs whose wish list is in a git repository."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.on_disk import OnDisk
from support.runs import REPOSITORY, Work, fresh_work
from support.samples import AMD64, text_image
from support.wishes import GitProject, recipe


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Work]:
    with fresh_work(tmp_path) as work:
        yield work


def _record(work: Work, name: str) -> dict[str, object]:
    path = OnDisk(work.repository.path).record(work.named(name))
    found: dict[str, object] = json.loads(path.read_bytes())
    return found


def test_a_list_in_git_is_followed_and_a_bad_commit_of_it_is_not(work: Work, tmp_path: Path):
    host = f"http://{work.host}"
    project = GitProject(tmp_path / "wishes.git")
    place = f"git+file://{project.path}//recipe.yaml@main"
    work.configure(platforms=[str(AMD64)], recipe=place)
    work.push("team/app:1", text_image("one"))
    work.push("team/other:1", text_image("one"))

    first = project.commit("recipe.yaml", recipe(f"{host}/team/app:1", repository=REPOSITORY))
    preview = work.run("--dry-run", check=True)
    assert f"commit {first[:12]}" in preview.stderr
    run = work.run(check=True)
    assert f"duccmake: wish list {place}: commit {first[:12]}" in run.stderr
    assert _record(work, "team/app:1")["source"] == {"recipe": place, "commit": first}

    second = project.commit(
        "recipe.yaml", recipe(f"{host}/team/app:1", f"{host}/team/other:*", repository=REPOSITORY)
    )
    run = work.run(check=True)
    assert run.outcomes == {
        work.named("team/app:1"): ("up to date", ""),
        work.named("team/other:1"): ("converted", ""),
    }
    assert _record(work, "team/app:1")["source"] == {"recipe": place, "commit": first}
    assert _record(work, "team/other:1")["source"] == {"recipe": place, "commit": second}

    bad = project.commit("recipe.yaml", "version: 1\ninput: none at all\n")
    work.push("team/app:1", text_image("two"))
    run = work.run()
    assert run.status != 0
    outcome, reason = run.outcomes[place]
    assert outcome == "failed"
    assert f"commit {bad[:12]}" in reason and f"commit {second[:12]} stays in force" in reason
    assert run.outcomes[work.named("team/app:1")] == ("converted", "")
    assert _record(work, "team/app:1")["source"] == {"recipe": place, "commit": second}

    project.path.rename(tmp_path / "away")
    run = work.run(check=True)
    assert "stays in force" in run.stderr
    assert run.counts == (0, 2, 0, 0)


def test_a_run_for_some_images_asks_for_no_other_and_finds_what_a_glob_has_now(work: Work):
    work.wish("{host}/team/app:*", "{host}/team/other:1")
    work.configure(platforms=[str(AMD64)])
    work.push("team/app:1", text_image("one"))
    work.push("team/other:1", text_image("one"))
    work.run(check=True)
    work.push("team/app:2", text_image("two"))
    work.push("team/other:1", text_image("moved"))
    only = f"resolve={{only: ['{work.named('team/app:2')}']}}"
    run = work.run("--config", only, check=True)
    assert run.outcomes == {
        work.named("team/app:1"): ("up to date", ""),
        work.named("team/app:2"): ("converted", ""),
        work.named("team/other:1"): ("up to date", ""),
    }
    assert not run.asked("other") and not run.asked("app/manifests/1")
    run = work.run()
    assert run.outcomes[work.named("team/other:1")][0] == "converted"
