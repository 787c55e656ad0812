"""What a session prints, as text that is kept: what differs from run to run has a name there.

``UPDATE_EXPECTED=1 pytest ...`` writes the files anew, to be read before they are committed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

EXPECTED = Path(__file__).resolve().parents[1] / "expected"

_CHANGING = (
    (re.compile(r"localhost:\d+"), "REGISTRY"),
    (re.compile(r"unpacked-\d+\.example\.org"), "unpacked.example.org"),
    (re.compile(r"\.flat/[0-9a-f]{2}/"), ".flat/XX/"),
    (re.compile(r"\b[0-9a-f]{12,64}\b"), "DIGEST"),
    (re.compile(r"\b\d+(?:\.\d+)? (?:B|kB|MB|GB|bytes)\b"), "SIZE"),
    (re.compile(r"\bin \d+\.\d s$", re.MULTILINE), "in TIME"),
    (re.compile(r"\babout \d+ files\b"), "about NUMBER files"),
    (re.compile(r"tried again from (?:\d{4}-\d\d-\d\d )?\d\d:\d\d"), "tried again from TIME"),
    (
        re.compile(r"\babout \d+ (?:s|min|h)(?: to \d+ (?:s|min|h))?(?= by earlier runs)"),
        "about TIME",
    ),
    (re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[\d.:+Z]*"), "DATE"),
)


def normalised(text: str, places: Mapping[Path, str]) -> str:
    """The text without what depends on the machine, the moment or the samples' programs.

    ``places`` are directories, each with what stands for it.
    """
    for path, name in sorted(places.items(), key=lambda item: -len(str(item[0]))):
        text = text.replace(str(path), name)
    for pattern, name in _CHANGING:
        text = pattern.sub(name, text)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def check(name: str, text: str) -> None:
    """Compare a normalised text with the one that is kept."""
    path = EXPECTED / f"{name}.txt"
    if os.environ.get("UPDATE_EXPECTED"):
        path.write_text(text)
    assert text.splitlines() == path.read_text().splitlines()
