"""Notices wait in the spool: none is lost, none counts twice."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from duccmake.service import notices
from duccmake.service.notices import Notice, NoticeQueue, QueueFull

ONE, TWO = Notice("r.example.org/a:1", "push", "harbor"), Notice("r.example.org/b:1", "delete")


@pytest.fixture
def box(tmp_path: Path) -> NoticeQueue:
    found = NoticeQueue(tmp_path / "notices")
    found.prepare()
    return found


def test_the_same_notice_waits_once(box: NoticeQueue):
    assert box.put(ONE)
    assert not box.put(Notice(ONE.image, ONE.action, "another sender"))
    assert box.put(TWO)
    assert box.waiting() == 2
    assert box.take() == [ONE, TWO]


def test_what_comes_while_a_poll_is_under_way_is_new_again(box: NoticeQueue):
    box.put(ONE)
    taken = box.take()
    assert box.waiting() == 0
    assert box.put(ONE)
    box.drop(taken)
    assert box.take() == [ONE]


def test_a_watcher_that_died_leaves_its_notices_to_the_next(box: NoticeQueue, tmp_path: Path):
    box.put(ONE)
    box.take()
    assert NoticeQueue(tmp_path / "notices").take() == [ONE]
    box.drop([ONE])
    assert box.take() == []


def test_many_writers_and_a_taker_lose_nothing(box: NoticeQueue):
    images = [Notice(f"r.example.org/app:{number}") for number in range(20)]
    done = threading.Event()
    seen: set[Notice] = set()

    def write() -> None:
        for _ in range(10):
            for notice in images:
                box.put(notice)

    def take() -> None:
        while not done.is_set():
            taken = box.take()
            seen.update(taken)
            box.drop(taken)

    writers = [threading.Thread(target=write) for _ in range(4)]
    taker = threading.Thread(target=take)
    for thread in (*writers, taker):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    taker.join()
    seen.update(box.take())
    assert seen == set(images)


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"image": 5}', b"\xff", b'{"image":"x","action":"push","sender":""}']
)
def test_a_file_that_is_no_notice_is_cleared_away(box: NoticeQueue, content: bytes):
    path = box.new / "0123.json"
    path.write_bytes(content)
    box.put(ONE)
    assert box.take() == [ONE]
    assert not path.exists()
    box.drop([ONE])
    assert box.take() == []


def test_there_is_a_limit_to_what_waits(box: NoticeQueue, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(notices, "MAX_NOTICES", 1)
    box.put(ONE)
    assert not box.put(ONE)
    with pytest.raises(QueueFull, match="watcher"):
        box.put(TWO)
