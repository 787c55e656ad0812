"""Whether published images satisfy the signature policy that came after them.

All of it can be lost without harm: it costs a look at the registry.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..fs.files import write_atomically

_BELIEVED_SECONDS = 86400.0
"""So long an image counts as one that does not satisfy it: a signature may come later."""


class SignedMemory:
    """What was found, by image, manifest and requirements, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            found = {}
        self._known: dict[str, Any] = found if isinstance(found, dict) else {}
        self._now: dict[str, Any] = {}

    def reason(self, key: str, now: float) -> str | None:
        """Why it does not satisfy them, "" where it does; None where that is not known."""
        try:
            when, reason = self._known[key]
            is_believed = not reason or 0 <= now - when < _BELIEVED_SECONDS
        except (KeyError, TypeError, ValueError):
            return None
        if not is_believed:
            return None
        self._now[key] = [when, reason]
        return str(reason)

    def remember(self, key: str, reason: str, now: float) -> None:
        """Keep what was found."""
        self._now[key] = [round(now, 3), reason]

    def save(self) -> None:
        """Write the file, without what nobody asked for."""
        if self._now != self._known:
            write_atomically(self._path, json.dumps(self._now, indent=0, sort_keys=True).encode())
