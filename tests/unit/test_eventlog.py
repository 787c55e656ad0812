"""The event log: whole lines from many writers, over rotations, as DUCC's readers expect."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from duccmake.errors import DuccmakeError
from duccmake.workspace.event_log import EventLog, EventSettings

WORKFLOW = Path(__file__).parents[2] / "workflow"

WRITER = """
import sys
from pathlib import Path
from duccmake.workspace.event_log import EventLog, EventSettings
log = EventLog(EventSettings(Path(sys.argv[1]), max_bytes=20_000, keep=100))
for number in range(200):
    log.emit("test", writer=sys.argv[2], number=number, text="x" * (number % 150))
"""


def log_in(tmp_path: Path, **settings: int) -> EventLog:
    return EventLog(EventSettings(tmp_path / "events.jsonl", **settings), run="r1")


def events(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_member_is_a_text_as_in_duccs_file(tmp_path: Path):
    log_in(tmp_path).emit("end_layer_conversion", image="a:1", size_bytes=17, error=None)
    [event] = events(tmp_path / "events.jsonl")
    assert all(isinstance(value, str) for value in event.values())
    assert event["action"] == "end_layer_conversion"
    assert event["size_bytes"] == "17" and event["run"] == "r1" and "error" not in event
    # "_2 Jan 2006 - 15:04:05.000", as Go writes it.
    assert re.fullmatch(r"[ \d]\d [A-Z][a-z]{2} \d{4} - \d\d:\d\d:\d\d\.\d{3}", event["time"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", event["timestamp"])


def test_an_id_pairs_start_and_end(tmp_path: Path):
    log = log_in(tmp_path)
    with log.span("layer_conversion", layer="abc") as span:
        span.size(5)
    with pytest.raises(DuccmakeError), log.span("layer_conversion", layer="def"):
        raise DuccmakeError("torn", image="a:1")
    first, good, second, bad = events(tmp_path / "events.jsonl")
    assert first["action"] == "start_layer_conversion" and good["action"] == "end_layer_conversion"
    assert first["id"] == good["id"] != second["id"] == bad["id"]
    assert (good["status"], good["size_bytes"], good["layer"]) == ("ok", "5", "abc")
    assert (bad["status"], bad["error"]) == ("error", "a:1: torn")
    assert float(good["time_elapsed_s"]) >= 0


def test_processes_write_at_a_time_and_no_line_is_lost_or_torn_by_rotation(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)],
            env={"PYTHONPATH": str(WORKFLOW)},
        )
        for number in range(4)
    ]
    assert [writer.wait() for writer in writers] == [0] * 4
    files = [path, *tmp_path.glob("events.jsonl.*")]
    assert len(files) > 3
    assert all(file.stat().st_size <= 20_000 for file in files)
    found = sorted(
        (int(event["writer"]), int(event["number"])) for file in files for event in events(file)
    )
    assert found == [(writer, number) for writer in range(4) for number in range(200)]


def test_the_oldest_files_go(tmp_path: Path):
    log = log_in(tmp_path, max_bytes=1000, keep=2)
    for number in range(40):
        log.emit("test", number=number)
    names = sorted(path.name for path in tmp_path.glob("events*"))
    assert names == ["events.jsonl", "events.jsonl.1", "events.jsonl.2"]
    found = [int(event["number"]) for name in reversed(names) for event in events(tmp_path / name)]
    assert found == list(range(found[0], 40))


def test_a_line_that_a_crash_cut_short_spoils_no_other(tmp_path: Path):
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"action": "sta')
    log_in(tmp_path).emit("test")
    torn, whole = path.read_text().splitlines()
    assert torn == '{"action": "sta' and json.loads(whole)["action"] == "test"


def test_a_log_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    log = EventLog(EventSettings(tmp_path / "file" / "events.jsonl"))
    log.emit("one")
    log.emit("two")
    assert len(caplog.records) == 1
    EventLog(EventSettings(None)).emit("nothing")
