"""What is wrong in a wish list, or looks so: where it stands, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ..errors import RecipeError, one_line


class FaultKind(StrEnum):
    """What may be wrong in a wish list."""

    SYNTAX = "syntax"
    SCHEMA = "schema"
    ENTRY = "entry"
    UNKNOWN_KEY = "unknown-key"
    UNKNOWN_VARIABLE = "unknown-variable"
    DUPLICATE = "duplicate"
    OTHER_SPELLING = "other-spelling"


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: what was found at a line, and a hint.

    ``subject`` tells it from others of its kind, wherever in the list it stands.
    """

    kind: FaultKind
    path: Path
    line: int
    subject: str
    found: str
    hint: str = ""
    column: int = 0

    def __str__(self) -> str:
        column = f":{self.column}" if self.column else ""
        line = f"{self.path}:{self.line}{column}: {self.found}"
        return one_line(f"{line}; {self.hint}" if self.hint else line)


class InvalidRecipe(RecipeError):
    """All ``faults`` that make a wish list unusable as a whole; it prints as one line."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(" | ".join(map(str, faults)))
        self.faults: Sequence[Fault] = faults
