"""Images that leave: previewed, refused, taken out by name, brought back, collected, pointed back.

Later days are simulated, for all processes of a run; the stages build on one another.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from duccmake.repository import removal_schedule
from duccmake.repository.inventory import survey
from duccmake.repository.view import DirectoryView
from support import images, runs
from support.on_disk import OnDisk
from support.runs import REPOSITORY, Work, days_later, sample_work
from support.trees import Node, snapshot

TOOLS = "demo/tools:2024"
FORCE = ("--config", "force_removal=true")


@dataclass(frozen=True)
class Stage(runs.Stage):
    """A run, and what readers saw before it."""

    before: dict[bytes, Node]

    @property
    def unchanged(self) -> bool:
        return self.before == published(self.repository)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with sample_work(tmp_path_factory.mktemp("removal"), products=["layers", "flat"]) as work:
        work.run(check=True)
        yield work


def published(repository: Path) -> dict[bytes, Node]:
    """All that readers see: without the publisher's lock."""
    tree = snapshot(repository)
    return {path: node for path, node in tree.items() if not path.startswith(b".duccmake")}


def stage(work: Work, name: str, *options: str) -> Stage:
    before = published(work.repository.path)
    after = runs.stage(work, name, *options)
    return Stage(after.run, after.repository, before)


@pytest.fixture(scope="module")
def dropped(work: Work) -> Stage:
    """A plain run after an image was taken from the wish list."""
    work.wish("{host}/demo/hello:*")
    return stage(work, "dropped")


def test_by_default_what_is_not_wished_for_any_more_stays_and_is_told(dropped: Stage):
    assert dropped.run.status == 0
    assert dropped.unchanged
    assert "1 image is not wished for any more and kept" in dropped.run.stderr


@pytest.fixture(scope="module")
def refused(work: Work, dropped: Stage) -> Stage:
    return stage(work, "refused", "--config", "removal={policy: schedule, max_percent: 0}")


def test_a_run_that_would_remove_too_much_says_what_to_do_and_is_no_failure(refused: Stage):
    assert refused.run.status == 0
    assert refused.run.jobs == []
    assert refused.unchanged
    said = [line for line in refused.run.stderr.splitlines() if "1 of 3 images (33 %)" in line]
    assert len(said) == 2 and "force_removal=true" in said[1]


def test_who_asks_to_prune_too_much_hears_so_as_a_failure(refused: Stage, work: Work):
    asked = stage(work, "asked", "prune", "--config", "removal={policy: schedule, max_percent: 0}")
    assert asked.run.status != 0
    assert asked.unchanged
    assert asked.run.outcomes[REPOSITORY][0] == "failed"
    assert "force_removal=true" in asked.run.outcomes[REPOSITORY][1]


@pytest.fixture(scope="module")
def preview(work: Work, refused: Stage) -> Stage:
    return stage(work, "preview", "prune", "-n", *FORCE)


def test_a_preview_of_pruning_names_images_and_what_would_be_freed(preview: Stage, work: Work):
    assert preview.run.status == 0
    assert preview.unchanged
    said = preview.run.stdout
    assert "1 of 3 images leave; 1 flat tree and 2 layers, " in said
    assert "by 'snakemake gc' after 30 days" in said
    assert f"{work.named(TOOLS)}: not in the wish list any more" in said


@pytest.fixture(scope="module")
def pruned(work: Work, preview: Stage) -> Stage:
    return stage(work, "pruned", "prune", *FORCE)


def test_pruning_takes_the_name_away_and_leaves_the_content(pruned: Stage, work: Work):
    assert pruned.run.status == 0, pruned.run.said
    name = work.named(TOOLS)
    assert pruned.run.outcomes == {name: ("removed", "not in the wish list any more")}
    assert not pruned.layout.link(name).is_symlink()
    assert not pruned.layout.manifest(name).exists()
    (entry,) = removal_schedule.parse(pruned.layout.remove_schedule.read_bytes())
    assert (entry.image, bool(entry.since)) == (name, True)
    flat = entry.config.partition(":")[2]
    assert (pruned.layout.flats / flat[:2] / flat).is_dir()
    assert set(survey(DirectoryView(pruned.repository)).uses) == {
        work.named("demo/hello:1.0"),
        work.named("demo/hello:latest"),
    }


@pytest.fixture(scope="module")
def waiting(work: Work, pruned: Stage) -> Stage:
    return stage(work, "waiting", "gc")


def test_nothing_is_collected_in_the_time_of_grace(waiting: Stage):
    assert waiting.run.status == 0
    assert waiting.unchanged
    assert "nothing to free yet: 1 flat tree and 2 layers, " in waiting.run.stderr


@pytest.fixture(scope="module")
def returned(work: Work, waiting: Stage) -> Stage:
    work.wish("{host}/demo/hello:*", "{host}/" + TOOLS)
    return stage(work, "returned")


def test_an_image_that_comes_back_is_linked_again_and_nothing_is_fetched(
    returned: Stage, work: Work
):
    assert returned.run.status == 0, returned.run.said
    assert returned.run.blobs() == []
    assert [job for job in returned.run.jobs if job.startswith(("Fetch", "Unpack"))] == []
    assert work.repository.verify(work.named(TOOLS)) == []
    assert removal_schedule.parse(returned.layout.remove_schedule.read_bytes()) == []


@pytest.fixture(scope="module")
def later(work: Work, returned: Stage) -> Work:
    """The same, a month and a day after it was pruned again."""
    work.wish("{host}/demo/hello:*")
    work.run("prune", *FORCE, check=True)
    return days_later(work, 31)


@pytest.fixture(scope="module")
def gc_preview(later: Work) -> Stage:
    return stage(later, "gc-preview", "gc", "-n")


def test_a_preview_of_gc_says_what_it_would_free_and_changes_nothing(gc_preview: Stage):
    assert gc_preview.run.status == 0, gc_preview.run.said
    assert gc_preview.unchanged
    assert "1 flat tree and 2 layers, " in gc_preview.run.stdout
    assert "\n  flat tree " in gc_preview.run.stdout


@pytest.fixture(scope="module")
def collected(later: Work, gc_preview: Stage) -> Stage:
    return stage(later, "collected", "gc")


def test_gc_frees_what_it_said_and_leaves_no_orphan(
    collected: Stage, gc_preview: Stage, work: Work
):
    assert collected.run.status == 0, collected.run.said
    ((outcome, words),) = collected.run.outcomes.values()
    assert outcome == "freed"
    assert words in gc_preview.run.stdout
    found = survey(DirectoryView(collected.repository))
    assert (found.present.flats, found.present.layers) == (found.used.flats, found.used.layers)
    assert found.strange == ()
    for name in work.repository.names():
        assert work.repository.verify(name) == []


def test_gc_is_done_once(collected: Stage, later: Work):
    run = later.run("gc", check=True)
    assert run.jobs == [] and run.outcomes == {}


# --- what a registry says -----------------------------------------------


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Work]:
    """Two images that are published, and the policy to remove what leaves."""
    removal = {"policy": "prune", "max_percent": 100, "grace_days": 1}
    with sample_work(tmp_path, products=["layers", "flat"], removal=removal) as work:
        work.wish("{host}/demo/hello:1.0", "{host}/demo/hello:lat*")
        work.run(check=True)
        yield work


def test_a_tag_that_is_gone_twice_leaves_and_its_content_follows(alone: Work):
    assert alone.registry
    (tag,) = alone.registry.store.root.rglob("tags/latest")
    tag.unlink()
    name = alone.named("demo/hello:latest")
    first = alone.run()
    assert f"{name}: its registry lacks the tag since" in first.stderr
    assert alone.repository.record(name)
    second = days_later(alone, 2).run()
    assert second.outcomes[name] == ("removed", "its tag is gone from the registry")
    assert alone.repository.record(name) is None
    third = days_later(alone, 4).run()
    assert third.status == 0, third.said
    assert survey(alone.repository.view).used == survey(alone.repository.view).present


class _NotFound(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_error(404)

    do_HEAD = do_GET

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_a_registry_that_answers_404_to_everything_makes_nothing_leave(alone: Work):
    assert alone.registry
    port = alone.registry.port
    before = published(alone.repository.path)
    with alone.deserted(), HTTPServer(("127.0.0.1", port), _NotFound) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            for days in (0, 3):
                run = days_later(alone, days).run()
                assert "removed" not in {outcome for outcome, _ in run.outcomes.values()}
        finally:
            server.shutdown()
            thread.join()
    assert published(alone.repository.path) == before


# --- tags that moved ----------------------------------------------------


def test_a_tag_is_pointed_back_while_its_registry_is_down_and_held_until_the_pin_is_lifted(
    alone: Work,
):
    name = alone.named("demo/hello:latest")
    good = alone.repository.record(name).manifest
    images.move_tag(alone.host)
    alone.run(check=True)
    assert alone.repository.record(name).manifest != good
    with alone.deserted():
        asked = alone.run("rollback", "--config", f"image={name}", check=True)
        assert [line.split("  ")[0] for line in asked.stdout.splitlines()] == [str(good)]
        wrong = alone.run("rollback", "--config", f"image={name}", "digest=sha256:0123456789")
        assert wrong.status != 0
        assert f"still in the repository are: {good} (" in wrong.stderr
        alone.run("rollback", "--config", f"image={name}", f"digest={good}", check=True)
        assert alone.repository.record(name).manifest == good
    held = alone.run()
    assert held.outcomes[name][0] == "up to date"
    assert f"pinned to {good.short} since" in held.outcomes[name][1]
    alone.run("unpin", "--config", f"image={name}", check=True)
    assert alone.run().outcomes[name][0] == "converted"
    assert json.loads(OnDisk(alone.repository.path).pins.read_bytes()) == {}
    assert os.path.lexists(OnDisk(alone.repository.path).link(name))
