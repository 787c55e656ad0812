"""Content that came damaged: from each place it is fetched whole at most twice in a run."""

from __future__ import annotations

import logging
from collections import Counter
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
        self._here: Counter[tuple[str, str]] = Counter()

    def check(self, descriptor: Descriptor, place: str) -> None:
        """Raise `DigestMismatch` where the place has sent it damaged often enough."""
        if self.count(descriptor, place) >= MOST:
            raise DigestMismatch(
                f"{place} has sent {descriptor.digest} damaged {MOST} times in this run, "
                "and is not asked again",
                hint="the registry or a proxy serves damaged content: ask its operator",
            )

    def count(self, descriptor: Descriptor, place: str) -> int:
        """How often it came damaged from there."""
        name, line = _named(descriptor, place)
        if self._directory is None:
            return self._here[name, line]
        try:
            return (self._directory / name).read_text().splitlines().count(line)
        except OSError:
            return self._here[name, line]

    def note(self, descriptor: Descriptor, place: str) -> None:
        """Keep that it came damaged from there once more."""
        name, line = _named(descriptor, place)
        self._here[name, line] += 1
        if self._directory is None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            append_line(self._directory / name, f"{line}\n".encode())
        except OSError as error:
            logger.info("damaged content cannot be noted: %s", error.strerror)


def _named(descriptor: Descriptor, place: str) -> tuple[str, str]:
    """The file and the line; what has another size is other content that was promised."""
    return descriptor.digest.hex, f"{descriptor.size} {place}"
