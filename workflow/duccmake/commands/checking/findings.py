"""What may be wrong with a wish list: the rules, and findings that keep their names."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import Enum, StrEnum
from pathlib import Path

from ...errors import one_line
from ...recipe.faults import Fault


class Level(StrEnum):
    """How much a finding matters: errors stand in the way of a merge."""

    ERROR = "error"
    WARNING = "warning"


class Rule(Enum):
    """What is looked for; a value is how much it matters, and what it is in words.

    The names of the first are those of `FaultKind`.
    """

    SYNTAX = (Level.ERROR, "The list is not to be read as YAML or as text")
    SCHEMA = (Level.ERROR, "The list is no recipe")
    ENTRY = (Level.ERROR, "An entry is no image")
    UNKNOWN_KEY = (Level.WARNING, "A key means nothing")
    UNKNOWN_VARIABLE = (Level.WARNING, "A variable of output_format stands for nothing")
    DUPLICATE = (Level.ERROR, "An image stands in the list already")
    OTHER_SPELLING = (Level.WARNING, "An image stands in the list by another name")
    OVERLAP = (Level.WARNING, "Two entries bring the same images")
    NOTHING_MATCHES = (Level.WARNING, "A glob matches none of the registry's tags")
    MISSING = (Level.ERROR, "The registry does not have the image")
    PRIVATE = (Level.ERROR, "The image is not for everybody to read")
    PLATFORM = (Level.ERROR, "The image is not there for the platform")
    UNUSABLE = (Level.ERROR, "What is there is no container image, or a damaged one")
    UNANSWERED = (Level.ERROR, "The registry does not tell")
    OTHER_REPOSITORY = (Level.WARNING, "The list is for another repository than before")

    def __init__(self, level: Level, summary: str) -> None:
        self.level = level
        self.summary = summary

    @property
    def id(self) -> str:
        """How reports call it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that a rule finds at a line: what, of what ``subject``, and what to do.

    ``known``: it was so before the change that is looked at.  The ``fingerprint`` is that of
    the same finding in an earlier version of the list.
    """

    rule: Rule
    path: Path
    line: int
    subject: str
    found: str
    hint: str = ""
    level: Level = Level.ERROR
    known: bool = False
    fingerprint: str = ""

    @property
    def place(self) -> str:
        """``FILE:LINE``."""
        return f"{self.path.as_posix()}:{self.line}"

    @property
    def message(self) -> str:
        """What was found and what to do, on one line."""
        return one_line("; ".join(filter(None, (self.found, self.hint))))


def of_fault(fault: Fault) -> Finding:
    """A fault of the list itself as a finding."""
    rule = Rule[fault.kind.name]
    return Finding(rule, fault.path, fault.line, fault.subject, fault.found, fault.hint, rule.level)


def fingerprinted(findings: Iterable[Finding]) -> list[Finding]:
    """The findings, each with a fingerprint of its own, by line.

    It is made of the file, the rule and the subject, and where these are the same of how many
    there were before: neither of lines nor of words, nor of what else stands in the list.
    """
    before: Counter[tuple[str, ...]] = Counter()
    found = []
    for finding in sorted(findings, key=lambda item: (item.line, item.rule.id, item.subject)):
        key = (finding.path.as_posix(), finding.rule.id, finding.subject)
        text = "\0".join((*key, str(before[key])))
        before[key] += 1
        found.append(replace(finding, fingerprint=hashlib.sha256(text.encode()).hexdigest()))
    return found
