from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from duccmake.jobs import open_gate
from duccmake.jobs.open_gate import staged_bytes, wait_for_space
from duccmake.repository.directory.backend import DirectoryRepository
from support.planned import image, layer, plan


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_gate, "_POLL_SECONDS", 0.01)
    return tmp_path / "results"


def stage(results, name, size):
    path = results / "images.example.org/layers" / name / "layer/.metadata/layer.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"diff_bytes": size}))
    return path


def test_what_is_staged_is_counted_as_the_unpacker_noted_it(results):
    stage(results, "one", 30)
    stage(results, "two", 12)
    stage(results, "damaged", 1).write_text("{")
    assert staged_bytes() == 42


def test_more_is_fetched_at_once_where_there_is_room_or_nobody_who_makes_it(results, tmp_path):
    repository = DirectoryRepository(tmp_path, "images.example.org")
    stage(results, "one", 30)
    wait_for_space([repository], 29)  # nobody publishes
    with repository.lock():
        wait_for_space([repository], 30)
        wait_for_space([repository], 0)


def test_it_waits_until_the_publisher_has_made_room(results, tmp_path):
    repository = DirectoryRepository(tmp_path, "images.example.org")
    staged = stage(results, "one", 30)
    asked = threading.Event()

    class Watched(DirectoryRepository):
        def is_locked(self):
            asked.set()
            return super().is_locked()

    with ThreadPoolExecutor() as pool, repository.lock():
        waiting = pool.submit(wait_for_space, [Watched(tmp_path, "images.example.org")], 29)
        assert asked.wait(10)
        assert not waiting.done()
        staged.unlink()
        waiting.result(timeout=10)


def test_layers_wait_behind_gates_as_many_images_as_one_commit_takes():
    shared = layer("shared")
    own = [layer(f"own {number}") for number in range(5)]
    images = [
        image(f"registry.example.org/team/app:{number}", layers=(shared, own[number]))
        for number in range(5)
    ]
    gated = plan(images, members={"repository": {"batch": {"images": 2}}})
    assert [gated.gate(gated.key(each.digest)) for each in own] == [0, 0, 1, 1, 2]
    assert gated.gate(gated.key(shared.digest)) == 0
    open_wide = plan(images)
    assert {open_wide.gate(open_wide.key(each.digest)) for each in own} == {0}
