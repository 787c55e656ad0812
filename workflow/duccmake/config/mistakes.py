"""What is wrong in a configuration, and how it is said."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

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

    def told_of(self, given: Mapping[str, Any]) -> InvalidConfig:
        """The same, that says which of the mistakes are in what ``--config`` has ``given``."""
        return InvalidConfig(
            replace(mistake, key=f"{mistake.key}, from --config")
            if _is_in(given, mistake.key)
            else mistake
            for mistake in self.mistakes
        )


def _is_in(members: Any, key: str) -> bool:
    """Whether there is such a key; of quoted names and places in lists that is not asked."""
    for name in key.partition("[")[0].split("."):
        if not isinstance(members, Mapping) or name not in members:
            return False
        members = members[name]
    return True


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
