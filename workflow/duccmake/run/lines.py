"""Lines for people: in colour where the stream is a terminal, and printable whatever they say."""

from __future__ import annotations

import os
import re
import sys
from typing import TextIO

from ..errors import DuccmakeError

_RED, _GREEN, _YELLOW, _BLUE = 31, 32, 33, 34

_COLOURS = {
    "failed": _RED,
    "refused": _RED,
    "expelled": _RED,
    "damaged": _RED,
    "pending": _YELLOW,
    "held": _YELLOW,
    "leaving": _YELLOW,
    "skipped": _YELLOW,
    "converted": _GREEN,
    "pushed": _GREEN,
    "removed": _GREEN,
    "freed": _GREEN,
    "pinned": _GREEN,
    "unpinned": _GREEN,
    "mended": _GREEN,
    "up to date": _BLUE,
}
"""The words that lines begin with, as ANSI has their colours (ECMA-48, 8.3.117)."""

_FIRST = re.compile(rf"({'|'.join(_COLOURS)})(?= )")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a line can be written over on the stream."""
    return stream is not None and stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def has_colour(stream: TextIO | None) -> bool:
    """Whether the stream is a terminal with colour, and nobody said that there be none."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR")


def without_colour() -> None:
    """Have no colour on any stream, in jobs neither."""
    os.environ["NO_COLOR"] = "1"


def say(*lines: str, stream: TextIO | None) -> None:
    """Write lines.  Who has closed the stream, as ``head`` does, wants no more of them.

    Nor does who gave none, as with ``2>&-``.  Raises `DuccmakeError` where standard output
    cannot be written otherwise: of standard error nobody can be told.
    """
    if stream is None:
        return
    coloured = has_colour(stream)
    text = "".join(f"{_painted(line) if coloured else line}\n" for line in map(printable, lines))
    try:
        stream.write(_encodable(text, stream))
        stream.flush()
    except OSError as error:
        # What is left in the stream's buffer has to go somewhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        if not isinstance(error, BrokenPipeError) and stream is not sys.stderr:
            raise DuccmakeError(f"the output cannot be written: {error.strerror}") from None


def briefly(title: str, words: str) -> str:
    """What is said of something after its name."""
    return words.removeprefix(f"{title}: ")


def several(number: int) -> str:
    """What stands before a line that is said for several images at once."""
    return f"{number} images: " if number > 1 else ""


def printable(line: str) -> str:
    """The line with what would steer a terminal, which others may have put there, escaped."""
    if line.isprintable():
        return line
    return "".join(
        char if char.isprintable() or char == "\t" else char.encode("unicode_escape").decode()
        for char in line
    )


def _painted(line: str) -> str:
    word = _FIRST.match(line)
    return f"\x1b[{_COLOURS[word[0]]}m{word[0]}\x1b[0m{line[word.end() :]}" if word else line


def _encodable(text: str, stream: TextIO) -> str:
    encoding = stream.encoding or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
