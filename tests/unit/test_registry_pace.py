from __future__ import annotations

import logging
import multiprocessing
import threading
import time

import pytest

from duccmake.registry.http.limits import Connections, Pace


@pytest.fixture
def still_clock(monkeypatch):
    """A moment that lasts."""
    now = float(2**30)
    monkeypatch.setattr(time, "time", lambda: now)
    monkeypatch.setattr(time, "monotonic", lambda: now)


def test_a_pace_books_time_for_each_unit(still_clock):
    pace = Pace(8)
    waits = [pace.take(1) for _ in range(24)]
    assert waits[:8] == [0.0] * 8
    assert waits[8:] == [number / 8 for number in range(1, 17)]
    assert Pace(0).take(1e9) == 0


def test_all_that_name_one_file_share_a_pace(tmp_path, still_clock):
    paces = [Pace(8, tmp_path / "host" / "bytes") for _ in range(3)]
    waits = [pace.take(1) for _ in range(8) for pace in paces]
    assert waits[:8] == [0.0] * 8
    assert waits[8:] == [number / 8 for number in range(1, 17)]


_AHEAD = pytest.param(repr(time.time() + 1e8), id="in three years")


@pytest.mark.parametrize("content", ["", "no number", _AHEAD, "inf", "nan"])
def test_what_cannot_have_been_booked_holds_nobody_up(tmp_path, content):
    file = tmp_path / "bytes"
    file.write_text(content)
    pace = Pace(10, file)
    assert pace.take(1) == 0
    assert abs(float(file.read_text()) - time.time()) < 60


def test_all_that_name_one_directory_share_connections(tmp_path, monkeypatch, caplog):
    waits, got = threading.Event(), threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == "waiting for one of 1 connections to host":
                waits.set()

    log = logging.getLogger("duccmake.registry.http.limits")
    caplog.set_level(logging.INFO, logger=log.name)
    monkeypatch.setattr(log, "handlers", [Listener()])
    release = Connections(1, tmp_path / "host").acquire()

    def another():
        give_back = Connections(1, tmp_path / "host").acquire()
        got.set()
        give_back()

    thread = threading.Thread(target=another, daemon=True)
    thread.start()
    assert waits.wait(30)
    assert not got.is_set()
    release()
    assert got.wait(30)
    thread.join()


def test_another_host_has_connections_of_its_own(tmp_path):
    releases = [Connections(2, tmp_path / host).acquire() for host in ("a", "a", "b", "b")]
    for release in releases:
        release()


def test_a_process_that_dies_gives_its_connection_back(tmp_path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path, theirs))
    process.start()
    assert ours.poll(60) and ours.recv() == "held"
    process.kill()
    process.join()
    Connections(1, tmp_path).acquire()()


def _hold(directory, pipe):
    Connections(1, directory).acquire()
    pipe.send("held")
    pipe.recv()
