"""What is kept of images from run to run, and images that failed and are held for a while."""

from __future__ import annotations

import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jsonschema
import pytest
from prometheus_client.parser import text_string_to_metric_families

from duccmake.demo.images import Image
from duccmake.run.document import schema
from support.images import LayerBuilder
from support.kept_state import document_of, file_of, let_pauses_end, state_of
from support.runs import Run, Work, fresh_work

HELD = "tried again from "


def image(text: str) -> Image:
    return Image((LayerBuilder().file("content", text).layer(),), {"Cmd": ["/content"]})


def damage(work: Work, broken: Image) -> bytes:
    """Have the registry send something else for the image's layer; returns what it had."""
    path = work.registry.store.blob_path(broken.layers[0].digest)
    before = path.read_bytes()
    path.write_bytes(b"x" * len(before))
    return before


@pytest.fixture
def work(tmp_path) -> Iterator[Work]:
    """A good image and one whose layer is damaged; pauses are as they are by default."""
    with fresh_work(tmp_path) as work:
        work.configure(retry={})
        work.wish("{host}/team/good:1", "{host}/team/broken:1")
        work.push("team/good:1", image("good"))
        work.push("team/broken:1", image("broken"))
        yield work


def outcome(run: Run, work: Work, name: str = "team/broken:1") -> str:
    return run.outcomes[work.named(name)][0]


def row(work: Work, name: str = "team/broken:1") -> dict:
    return next(one for one in document_of(work)["images"] if one["title"] == work.named(name))


def snapshot(base: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in base.rglob("*") if path.is_file()}


def test_what_failed_is_held_then_tried_again_and_costs_no_run_meanwhile(work):
    whole = damage(work, image("broken"))
    first = work.run()
    assert first.status == 1 and outcome(first, work) == "failed"
    held = work.run()
    assert held.status == 0 and held.blobs() == [] and held.counts[:3] == (0, 1, 0)
    assert outcome(held, work) == "held" and HELD in held.outcomes[work.named("team/broken:1")][1]
    assert "(at once: --config retry_failed=true)" in held.said
    dry = work.run("-n")
    assert f"held  {work.named('team/broken:1')}  fetch layer" in dry.stdout
    found = row(work)
    assert (found["sync"], found["health"]) == ("held", "failing")
    assert found["failure"]["count"] == 1 and found["failure"]["kind"] == "digest"
    assert 890 < found["next_try"] - found["failure"]["last"] <= 900
    let_pauses_end(work)
    again = work.run()
    assert again.status == 1 and outcome(again, work) == "failed"
    assert row(work)["failure"]["count"] == 2
    let_pauses_end(work)
    work.registry.store.blob_path(image("broken").layers[0].digest).write_bytes(whole)
    mended = work.run(check=True)
    assert outcome(mended, work) == "converted"
    found = row(work)
    assert (found["sync"], found["failure"]) == ("up to date", None)
    assert found["failures"][0]["count"] == 2 and found["failures"][0]["ended"]


def test_a_digest_that_moves_is_tried_at_once_and_the_published_version_stays(work):
    before = work.push("team/broken:1", image("old"))
    work.run(check=True)
    broken = image("broken")
    work.push("team/broken:1", broken)
    damage(work, broken)
    assert work.run().status == 1
    assert work.run().status == 0
    found = row(work)
    assert found["current"] == str(before) != found["wanted"] == str(broken.digest)
    assert "is in force" in found["verdict"] and work.content("team/broken:1") == "old"
    assert [move["digest"] for move in found["history"]] == [found["wanted"], found["current"]]
    moved = work.push("team/broken:1", image("new"))
    assert outcome(work.run(check=True), work) == "converted"
    assert row(work)["current"] == str(moved)


def _asks_by_option(work: Work) -> Run:
    return work.run("--config", "retry_failed=true")


def _changes_the_wish(work: Work) -> Run:
    broken = {"image": f"http://{work.host}/team/broken:1", "products": ["layers"]}
    work.wish("{host}/team/good:1", version=2)
    recipe = work.path / "config/recipe.yaml"
    recipe.write_text(recipe.read_text().replace("input:", f"input:\n- {json.dumps(broken)}"))
    return work.run()


def _changes_the_configuration(work: Work) -> Run:
    work.configure(retry={}, limits={"ratio": 5000})
    return work.run()


@pytest.mark.parametrize("change", [_asks_by_option, _changes_the_wish, _changes_the_configuration])
def test_what_is_held_is_tried_at_once_when(work, change: Callable[[Work], Run]):
    damage(work, image("broken"))
    work.run()
    assert outcome(work.run(), work) == "held"
    run = change(work)
    assert run.status == 1 and outcome(run, work) == "failed", run.said


def test_an_image_that_is_not_there_fails_one_run_and_is_converted_once_it_is(work):
    work.wish("{host}/team/good:1", "{host}/team/later:1")
    assert work.run().status == 1
    held = work.run()
    assert held.status == 0 and outcome(held, work, "team/later:1") == "held"
    assert held.asked("/team/later/")
    assert row(work, "team/later:1")["failure"]["kind"] == "missing"
    work.push("team/later:1", image("later"))
    assert outcome(work.run(check=True), work, "team/later:1") == "converted"


def test_a_registry_that_is_not_reached_holds_nothing(work):
    with work.deserted():
        for _ in range(2):
            run = work.run()
            assert run.status == 1 and run.counts[2] == 2
    assert work.run(check=True).counts[:3] == (2, 0, 0)


def test_a_lost_results_loses_nothing_of_what_is_kept(work):
    damage(work, image("broken"))
    work.run()
    before = state_of(work)
    shutil.rmtree(work.path / "results")
    assert work.run().status == 0
    after = state_of(work)
    assert {title: life.first_seen for title, life in after.lives.items()} == {
        title: life.first_seen for title, life in before.lives.items()
    }
    assert after.lives[work.named("team/broken:1")].failure.count == 1


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 999])
def test_a_run_goes_on_whatever_has_become_of_the_state(work, content: bytes | None):
    work.run(check=True)
    published = row(work, "team/good:1")
    if content is None:
        file_of(work).unlink()
    else:
        file_of(work).write_bytes(content)
    run = work.run(check=True)
    assert (" begun anew" in run.stderr) == (content not in (None, b"")), run.stderr
    found = row(work, "team/good:1")
    for known in ("current", "published", "layers", "losses", "paths"):
        assert found[known] == published[known]


def test_a_dry_run_writes_nothing_of_it(work):
    work.run("-n", check=True)
    assert not work.repository.path.exists() and not (work.path / "results/status").exists()
    damage(work, image("broken"))
    work.run()
    kept = work.repository.own_directory
    before = snapshot(kept), snapshot(work.path / "results/status")
    let_pauses_end(work)
    between = snapshot(kept)
    work.push("team/good:1", image("moved"))
    work.run("-n", check=True)
    assert snapshot(kept) == between
    assert snapshot(work.path / "results/status") == before[1]


def test_a_run_that_was_killed_is_made_up_for_by_the_next_one(work):
    work.run(check=True)
    file_of(work).unlink()
    shutil.rmtree(work.path / "results")
    began = time.time()
    work.run(check=True)
    life = state_of(work).lives[work.named("team/good:1")]
    assert life.published == str(image("good").digest)
    assert life.published_at < began


def test_an_image_that_leaves_is_told_of_and_remembered_when_it_comes_back(work):
    work.run(check=True)
    first_seen = row(work)["first_seen"]
    work.wish("{host}/team/good:1")
    work.run(check=True)
    leaving = row(work)
    assert leaving["sync"] == "leaving" and leaving["verdict"].startswith("leaving: ")
    assert leaving["current"] == str(image("broken").digest) and leaving["layers"]
    work.configure(retry={}, removal={"policy": "prune", "max_percent": 100})
    work.run(check=True)
    document = document_of(work)
    assert [one["title"] for one in document["images"]] == [work.named("team/good:1")]
    assert (document["days"][-1]["removed"], document["days"][-1]["images"]) == (1, 1)
    assert state_of(work).lives[work.named("team/broken:1")].gone
    work.wish("{host}/team/good:1", "{host}/team/broken:1")
    work.run(check=True)
    found = row(work)
    assert (found["first_seen"], found["sync"]) == (first_seen, "up to date")


def test_what_cannot_be_asked_for_stays_known_though_results_is_lost(work):
    work.run(check=True)
    before = row(work, "team/good:1")
    shutil.rmtree(work.path / "results")
    with work.deserted():
        work.run()
    found = row(work, "team/good:1")
    assert (found["sync"], found["health"]) == ("up to date", "stale")
    for known in ("current", "published", "first_seen", "history", "layers"):
        assert found[known] == before[known], known
    work.run(check=True)
    found = row(work, "team/good:1")
    assert (found["health"], found["first_seen"]) == (before["health"], before["first_seen"])
    assert len(document_of(work)["push_to_visible"]) == 2


def test_runs_for_some_images_leave_what_is_known_of_others(work):
    damage(work, image("broken"))
    work.run()
    work.push("team/good:1", image("moved"))
    only = f"resolve={{only: ['http://{work.named('team/good:1')}']}}"
    assert work.run("--config", only, check=True).counts[0] == 1
    assert row(work, "team/good:1")["current"] == str(image("moved").digest)
    assert (row(work)["sync"], row(work)["failure"]["count"]) == ("held", 1)


def test_what_is_covered_by_ignore_errors_is_held_too(work):
    damage(work, image("broken"))
    broken = "{host}/team/broken:1"
    work.wish("{host}/team/good:1", broken, ignoreErrors=[work.named("team/broken:1")])
    assert outcome(work.run(check=True), work) == "skipped"
    run = work.run(check=True)
    assert outcome(run, work) == "held" and run.blobs() == []


def test_what_is_held_stands_in_the_event_log(work):
    damage(work, image("broken"))
    work.run()
    work.run()
    events = map(json.loads, (work.path / "logs/events.jsonl").read_text().splitlines())
    [held] = [event for event in events if event["action"] == "hold_image"]
    assert held["image"] == work.named("team/broken:1")
    assert "damaged content" in held["error"]
    assert held["failures"] == "1" and held["next_try"] > held["timestamp"]


def test_what_a_run_leaves_to_be_read_keeps_to_its_formats(work):
    work.push("team/twin:1", Image((*image("good").layers, *image("twin").layers)))
    work.wish("{host}/team/good:1", "{host}/team/broken:1", "{host}/team/twin:1")
    damage(work, image("broken"))
    work.run()
    document = document_of(work)
    jsonschema.validate(document, schema())
    assert document["run"]["counts"] == {"converted": 2, "failed": 1}
    assert document["totals"]["sync"] == {"held": 1, "up to date": 2}
    assert len(document["push_to_visible"]) == 2
    assert [day["converted"] for day in document["days"]] == [2]
    twin, good = row(work, "team/twin:1"), row(work, "team/good:1")
    shared = document["layers"][good["layers"][0]]
    assert shared["images"] == 2 and shared["digest"] == str(image("good").layers[0].digest)
    assert good["layers"][0] == twin["layers"][0]
    assert good["sizes"]["own"] == 0 < twin["sizes"]["own"] < twin["sizes"]["compressed"]
    assert good["sizes"]["files"] > 1 and good["sizes"]["unpacked"] > 0
    assert Path(good["paths"]["path"], "content").read_text() == "good"
    assert good["wish"]["recipe"].endswith("recipe.yaml")
    with (work.path / "results/status/images.tsv").open() as file:
        rows = {found["image"]: found for found in csv.DictReader(file, delimiter="\t")}
    assert rows[work.named("team/good:1")]["current"] == good["current"]
    assert rows[work.named("team/broken:1")]["sync"] == "held"
    metrics = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(
            (work.path / "results/status/metrics.prom").read_text()
        )
        for sample in family.samples
    }
    assert metrics["duccmake_images", "held"] == metrics["duccmake_images_failing", "digest"] == 1
    assert metrics["duccmake_conversions_total",] == 2
    assert metrics["duccmake_failures_total", "digest"] == 1
    assert metrics["duccmake_push_to_visible_seconds_count",] == 2
    assert metrics["duccmake_push_to_visible_seconds_bucket", "+Inf"] == 2
    assert metrics["duccmake_last_success_timestamp_seconds",] == 0
    work.run(check=True)
    text = (work.path / "results/status/metrics.prom").read_text()
    assert "duccmake_last_success_timestamp_seconds 0.0" not in text
