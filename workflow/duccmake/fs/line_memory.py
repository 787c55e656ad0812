"""Values that outlast a run, in a file with a line of JSON each."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

from .files import append_line


class LineMemory:
    """Values by key that outlast a run, in a file with a line of JSON each, ``[key, value]``.

    The last line of a key counts; what cannot be read is as if it never was noted.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def get(self, key: str) -> Any:
        """What was noted last of ``key``, or None."""
        return self._known.get(key)

    def note(self, key: str, value: Any) -> None:
        """Keep a value (of JSON's kinds)."""
        self._known[key] = value
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._path, json.dumps([key, value]).encode() + b"\n")

    @cached_property
    def _known(self) -> dict[str, Any]:
        known: dict[str, Any] = {}
        try:
            lines = self._path.read_bytes().splitlines()
        except OSError:
            return {}
        for line in lines:
            try:
                key, value = json.loads(line)
                known[str(key)] = value
            except (ValueError, TypeError):
                continue  # of a run that was killed
        return known
