from __future__ import annotations

import errno
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from duccmake.jobs import open_gate
from duccmake.jobs.open_gate import staged_bytes, wait_for_space
from duccmake.workspace import run_lock
from support.planned import image, layer, plan


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_gate, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(open_gate, "_IDLE_SECONDS", 0.02)
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
    (results / "blobs").mkdir()
    (results / "blobs/three").write_bytes(bytes(8))
    assert staged_bytes() == 50


def test_more_is_fetched_at_once_where_there_is_room_or_nobody_who_makes_it(results, tmp_path):
    stage(results, "one", 30)
    wait_for_space(29)  # nobody works
    with run_lock.hold(tmp_path, run_lock.WORK_LOCK):
        wait_for_space(30)
        wait_for_space(0)


def test_it_waits_until_room_is_made_or_until_nobody_works_any_more(results, tmp_path, monkeypatch):
    asked = threading.Event()
    really = open_gate.somebody_works

    def watched(workdir):
        asked.set()
        return really(workdir)

    monkeypatch.setattr(open_gate, "somebody_works", watched)
    staged = stage(results, "one", 30)
    with ThreadPoolExecutor() as pool:
        for makes_room in (False, True):
            asked.clear()
            with run_lock.hold(tmp_path, run_lock.WORK_LOCK):
                waiting = pool.submit(wait_for_space, 29)
                assert asked.wait(10)
                assert not waiting.done()
                if makes_room:
                    staged.unlink()
                    waiting.result(timeout=10)
            waiting.result(timeout=10)


def test_without_locks_nobody_waits(results, monkeypatch):
    stage(results, "one", 30)

    def no_locks(*_, **__):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(run_lock, "acquire", no_locks)
    wait_for_space(29)


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
