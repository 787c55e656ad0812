"""What tags meant when registries were last asked.

All of it can be lost without harm: it costs a poll, never a conversion.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidReference
from ..fs.files import write_atomically
from ..oci.reference import Digest


@dataclass(frozen=True, slots=True)
class Poll:
    """What a reference meant for a platform: index or manifest, manifest, configuration.

    ``checked`` is when the registry said so, in seconds since the epoch.
    """

    top: Digest
    manifest: Digest
    config: Digest
    checked: float


class PollMemory:
    """The last poll of each reference and the last tags of each glob, in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        members = self._read()
        self._polls = _mapping(members.get("polls"))
        self._tags = _mapping(members.get("tags"))
        self._absent = _mapping(members.get("absent"))
        self._before = self._text()

    def poll(self, key: str) -> Poll | None:
        """The last poll of ``key``, if there was one."""
        try:
            top, manifest, config, checked = self._polls[key]
            return Poll(
                Digest.parse(top), Digest.parse(manifest), Digest.parse(config), float(checked)
            )
        except (KeyError, TypeError, ValueError, InvalidReference):
            return None

    def manifests_of(self, top: str) -> set[str]:
        """The manifests that were found behind an index, or a manifest, for any platform."""
        found = (poll for poll in self._polls.values() if isinstance(poll, list) and poll)
        return {str(poll[1]) for poll in found if poll[0] == top and poll[1:]}

    def remember(self, key: str, poll: Poll) -> None:
        """Keep a poll."""
        self._polls[key] = [
            str(poll.top),
            str(poll.manifest),
            str(poll.config),
            round(poll.checked, 3),
        ]

    def tags(self, key: str) -> tuple[tuple[str, ...], float] | None:
        """The last tags of a glob's repository, and when they were listed."""
        try:
            tags, checked = self._tags[key]
            return tuple(str(tag) for tag in tags), float(checked)
        except (KeyError, TypeError, ValueError):
            return None

    def remember_tags(self, key: str, tags: tuple[str, ...], checked: float) -> None:
        """Keep a listing."""
        self._tags[key] = [list(tags), round(checked, 3)]

    def absent_since(self, name: str) -> float | None:
        """Since when, if so, polls have found that the registry lacks an image's tag.

        In seconds since the epoch.  Polls that failed do not count, either way.
        """
        since = self._absent.get(name)
        return float(since) if isinstance(since, (int, float)) else None

    def note_absence(self, name: str, now: float) -> None:
        """Keep that the registry lacks an image's tag; a first time stands."""
        if self.absent_since(name) is None:
            self._absent[name] = round(now, 3)

    def note_presence(self, name: str) -> None:
        """Keep that the registry has an image's tag."""
        self._absent.pop(name, None)

    def save(self) -> None:
        """Write the file, if anything changed."""
        text = self._text()
        if text != self._before:
            write_atomically(self._path, text.encode())
            self._before = text

    def _text(self) -> str:
        members = {"polls": self._polls, "tags": self._tags, "absent": self._absent}
        return json.dumps(members, indent=0, sort_keys=True)

    def _read(self) -> dict[str, Any]:
        try:
            return _mapping(json.loads(self._path.read_bytes()))
        except (OSError, ValueError):
            return {}


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
