"""Content that came damaged: from each place it is fetched whole at most twice in a run."""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path

from ..errors import DigestMismatch
from ..fs.files import append_line
from ..oci.manifest import Descriptor

logger = logging.getLogger(__name__)

MOST = 2
"""What a proxy damages once comes right when it is asked for again, or never."""


class Damaged:
    """What came damaged in a run, and from where.

    With a ``directory``, all processes that name the same one count together.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory
        self._here: dict[str, list[str]] = {}

    def check(self, descriptor: Descriptor, place: str) -> None:
        """Raise `DigestMismatch`, with what came, where that has been often enough."""
        found = self._found(descriptor, place)
        if len(found) >= MOST:
            raise DigestMismatch(
                f"{found[-1]}; {place} has sent it damaged {len(found)} times in this run, "
                "and is not asked again",
                hint="the registry or a proxy serves damaged content: ask its operator",
            )

    def count(self, descriptor: Descriptor, place: str) -> int:
        """How often it came damaged from there."""
        return len(self._found(descriptor, place))

    def note(self, descriptor: Descriptor, place: str, found: str) -> None:
        """Keep that it came damaged from there once more, and in words what came."""
        name, line = _named(descriptor, place)
        line += f" {found}"
        self._here.setdefault(name, []).append(line)
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            append_line(self._directory / name, f"{line}\n".encode())
        except OSError as error:
            logger.info("damaged content cannot be noted: %s", error.strerror)

    def _found(self, descriptor: Descriptor, place: str) -> list[str]:
        name, line = _named(descriptor, place)
        lines = self._here.get(name, [])
        if self._directory is not None:
            with contextlib.suppress(OSError):
                lines = (self._directory / name).read_text().splitlines()
        start = f"{line} "
        return [each.removeprefix(start) for each in lines if each.startswith(start)]


def _named(descriptor: Descriptor, place: str) -> tuple[str, str]:
    """The file and the line; what has another size is other content that was promised."""
    return descriptor.digest.hex, f"{descriptor.size} {place}"
