from __future__ import annotations

import io
import threading
from pathlib import Path

import pytest

from duccmake.run.progress import Gauge, ProgressLine, Standing
from duccmake.workspace.reports import JobName, Kind, Report, Rule, write_report
from duccmake.workspace.results import blob, published, staged_layer
from support.planned import LAYER_BYTES, REPOSITORY, image, layer, plan

RUN = Path("run")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def two_images() -> Gauge:
    shared, own = layer("shared"), layer("own")
    return Gauge(
        plan([image("r.io/a:1", layers=(shared,)), image("r.io/b:1", layers=(shared, own))]), RUN
    )


def grow(text: str, size: int, *, whole: bool = False) -> Path:
    path = blob(layer(text).digest.short)[whole]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(size))
    return path


def test_a_layer_that_images_share_counts_once() -> None:
    assert two_images().read() == Standing(0, 2, 0, 2 * LAYER_BYTES)


def test_what_is_on_its_way_counts_and_stays_when_the_blob_is_used_up() -> None:
    gauge = two_images()
    part = grow("own", 300)
    assert gauge.read().fetched == 300
    part.unlink()
    grow("own", LAYER_BYTES, whole=True)
    assert gauge.read().fetched == LAYER_BYTES
    blob(layer("own").digest.short)[1].unlink()
    assert gauge.read().fetched == LAYER_BYTES


def test_a_blob_that_came_and_went_unseen_is_known_by_its_report() -> None:
    gauge = two_images()
    name = JobName(Rule.FETCH_BLOB, (layer("own").digest.short,))
    write_report(RUN, Report(name, Kind.FETCHED, size=5))
    assert gauge.read().fetched == LAYER_BYTES


def test_a_blob_that_is_larger_than_it_should_be_counts_as_its_size() -> None:
    gauge = two_images()
    grow("own", 5 * LAYER_BYTES)
    assert gauge.read().fetched == LAYER_BYTES


def test_layers_that_an_earlier_run_staged_are_not_waited_for() -> None:
    staged_layer(REPOSITORY, layer("own").digest.short).mkdir(parents=True)
    assert two_images().read().to_fetch == LAYER_BYTES


def test_images_count_when_their_receipt_is_there() -> None:
    gauge = two_images()
    made = plan([image("r.io/a:1")])
    receipt = published(REPOSITORY, "r.io/a:1", made.key(made.images[0].manifest))
    receipt.parent.mkdir(parents=True)
    receipt.touch()
    assert gauge.read().images == 1
    receipt.unlink()
    assert gauge.read().images == 1


# --- the line -----------------------------------------------------------


class Stream(io.StringIO):
    """A stream that says when it is written to."""

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.written = threading.Event()
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> int:
        count = super().write(text)
        if "images" in text:
            self.written.set()
        return count


def shown(stream: Stream, monkeypatch: pytest.MonkeyPatch, gauge: Gauge) -> str:
    monkeypatch.setenv("TERM", "xterm")
    line = ProgressLine(gauge, stream)
    line.start()
    assert stream.written.wait(60)
    with line.aside():
        stream.write("failed  x\n")
    line.stop()
    return stream.getvalue()


@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_a_terminal_gets_one_line_no_longer_than_it_is_wide_which_is_gone_in_the_end(
    monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setattr("tqdm.std._screen_shape_wrapper", lambda: lambda _: (columns, 24))
    grow("own", 300)
    text = shown(Stream(terminal=True), monkeypatch, two_images())
    lines = [line for line in text.replace("\n", "\r").split("\r") if line.strip()]
    assert max(map(len, lines)) <= columns
    assert lines[0].startswith("0 of 2 images")
    if columns >= 80:
        assert "300B of 2.00kB" in lines[0]
    assert "failed  x" in text.split("\n")[0].split("\r")
    assert text.endswith("\r")


def test_with_nothing_to_fetch_it_shows_images_and_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gauge = Gauge(plan([image(layers=())]), RUN)
    assert "1 images" in shown(Stream(terminal=True), monkeypatch, gauge)


def test_a_file_gets_a_whole_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("duccmake.run.progress._QUIET_SECONDS", 0.001)
    lines = set(shown(Stream(terminal=False), monkeypatch, two_images()).splitlines())
    assert lines == {"duccmake: 0 of 2 images published, 0 B of 2.0 kB fetched", "failed  x"}
