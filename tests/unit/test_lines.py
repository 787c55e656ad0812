from __future__ import annotations

import io
import os
from collections.abc import Iterator

import pytest

from duccmake.errors import DuccmakeError
from duccmake.run.lines import say


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)


def said(line: str, stream: io.StringIO) -> str:
    say(line, stream=stream)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("failed  a:1  why", "failed"),
        ("up to date  a:1", "up to date"),
        ("pending  a:1", "pending"),
    ],
)
def test_the_word_that_a_line_begins_with_has_a_colour_on_a_terminal(line: str, word: str) -> None:
    shown = said(line, Terminal())
    assert shown.startswith("\x1b[")
    assert f"m{word}\x1b[0m{line.removeprefix(word)}\n" in shown


@pytest.mark.parametrize("line", ["duccmake: 1 image", "failure", "unfailed  x"])
def test_other_lines_have_none(line: str) -> None:
    assert said(line, Terminal()) == f"{line}\n"


@pytest.mark.parametrize(
    ("name", "value", "is_coloured"),
    [
        ("NO_COLOR", "1", False),
        ("NO_COLOR", "false", False),
        ("NO_COLOR", "", True),
        ("TERM", "dumb", False),
        ("TERM", "", False),
    ],
)
def test_who_wants_no_colour_gets_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, is_coloured: bool
) -> None:
    monkeypatch.setenv(name, value)
    assert ("\x1b" in said("failed  a:1", Terminal())) == is_coloured


def test_a_file_gets_no_colour() -> None:
    assert said("failed  a:1", io.StringIO()) == "failed  a:1\n"


@pytest.mark.parametrize(
    ("sent", "shown"),
    [
        ("a \x1b[2J\x1b]0;title\x07 b", "a \\x1b[2J\\x1b]0;title\\x07 b"),
        ("a\rfailed", "a\\rfailed"),
        ("a\nconverted  b", "a\\nconverted  b"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("caf\u00e9 \u65e5\u672c", "caf\u00e9 \u65e5\u672c"),
        ("name\udcff", "name\\udcff"),
    ],
)
def test_what_others_say_steers_no_terminal(sent: str, shown: str) -> None:
    assert said(f"failed  {sent}", io.StringIO()) == f"failed  {shown}\n"


def test_what_the_encoding_lacks_is_escaped() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    say("failed  \u65e5", stream=stream)
    assert raw.getvalue() == b"failed  \\u65e5\n"


@pytest.fixture
def closed_pipe() -> Iterator[io.TextIOWrapper]:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as stream:
        yield stream


def test_who_has_heard_enough_is_no_failure(closed_pipe: io.TextIOWrapper) -> None:
    say("pending  a:1", stream=closed_pipe)
    say("pending  b:1", stream=closed_pipe)


def test_a_full_disk_behind_standard_output_is_one_line_and_the_buffer_goes() -> None:
    full = pytest.raises(DuccmakeError, match="No space left on device")
    with open("/dev/full", "w") as stream, full:
        say("pending  a:1", stream=stream)


def test_a_full_disk_behind_standard_error_is_told_to_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with open("/dev/full", "w") as stream:
        monkeypatch.setattr("sys.stderr", stream)
        say("pending  a:1", stream=stream)


def test_who_gave_no_stream_at_all_gets_nothing() -> None:
    say("pending  a:1", stream=None)
