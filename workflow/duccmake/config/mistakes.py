"""What is wrong in a configuration, and how it is said."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..errors import ConfigError

Key = tuple[str | int, ...]
"""Names of sections and places in lists, from the outside in."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong: the key with its sections, what was found, and a hint."""

    key: str
    found: str
    hint: str

    def __str__(self) -> str:
        return f"{self.key}: {self.found}; {self.hint}"


class InvalidConfig(ConfigError):
    """All ``mistakes`` of a configuration; each prints as one line, and so does the error."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        super().__init__(
            " | ".join(str(mistake) for mistake in self.mistakes), step="configuration"
        )


def dotted(key: Key) -> str:
    """``registries."ghcr.io".limits``, ``platforms[0]``; never what stands before an ``@``."""
    words = ""
    for part in key:
        if isinstance(part, int):
            words += f"[{part}]"
        else:
            name = part.rpartition("@")[2][:80]
            words += "." * bool(words) + (name if re.fullmatch(r"[\w-]+", name) else f'"{name}"')
    return words or "the configuration"
