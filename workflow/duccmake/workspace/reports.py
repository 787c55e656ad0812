"""What the jobs of a run report, as values: written by jobs, read when the run ends.

Each report is a file of its own in the run's directory, so that jobs on several
machines need no lock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..fs.files import write_atomically


class Rule(StrEnum):
    """The rules of the workflow whose jobs report."""

    OPEN_GATE = "open_gate"
    FETCH_BLOB = "fetch_blob"
    UNPACK_LAYER = "unpack_layer"
    FLATTEN_IMAGE = "flatten_image"
    PUBLISH_IMAGE = "publish_image"
    PUSH_THIN_IMAGE = "push_thin_image"
    REPORT_PROBLEM = "report_problem"
    PRUNE_IMAGES = "prune_images"
    REFUSE_IMAGES = "refuse_images"
    COLLECT_GARBAGE = "collect_garbage"
    ROLLBACK = "rollback"
    UNPIN = "unpin"


@dataclass(frozen=True, slots=True, order=True)
class JobName:
    """A job: its rule, and what tells it from the rule's others (repository, image, key)."""

    rule: Rule
    wildcards: tuple[str, ...] = ()

    @classmethod
    def of(cls, rule: Rule, *wildcards: str) -> JobName:
        """The job of ``rule`` for these wildcards."""
        return cls(rule, wildcards)

    def __str__(self) -> str:
        return "-".join((self.rule, *self.wildcards))


@dataclass(frozen=True, slots=True)
class Report:
    """What a job has done."""

    job: JobName


@dataclass(frozen=True, slots=True)
class Failed(Report):
    """It has not done it: ``error`` in words, and the ``image`` that they are about."""

    error: str
    image: str

    @property
    def reason(self) -> str:
        """The error without the image: others may fail of the same."""
        return self.error.removeprefix(f"{self.image}: ")


@dataclass(frozen=True, slots=True)
class Fetched(Report):
    """A blob was fetched, of which ``size`` bytes came in this run."""

    size: int


@dataclass(frozen=True, slots=True)
class Pushed(Report):
    """A thin image was pushed as ``target``."""

    target: str


@dataclass(frozen=True, slots=True)
class Removed(Report):
    """Images were taken away from ``repository``: their names, each with the reason."""

    repository: str
    images: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Freed(Report):
    """What no image uses any more was removed from ``repository``."""

    repository: str
    words: str


@dataclass(frozen=True, slots=True)
class Pinned(Report):
    """An image is held where it was pointed back to."""

    image: str
    words: str


@dataclass(frozen=True, slots=True)
class Unpinned(Report):
    """An image follows its registry again."""

    image: str
    words: str


_KINDS: Mapping[str, type[Report]] = {
    kind.__name__.lower(): kind
    for kind in (Failed, Fetched, Pushed, Removed, Freed, Pinned, Unpinned)
}


def write_report(run: Path, report: Report) -> None:
    """Leave a report in the directory of a run; one that is the same is there once."""
    kind = type(report).__name__.lower()
    content = json.dumps({"kind": kind, **asdict(report)}, sort_keys=True).encode()
    write_atomically(run / f"{kind}-{hashlib.sha256(content).hexdigest()[:16]}.json", content)


def read_reports(run: Path) -> list[Report]:
    """All reports of a run, by kind and job."""
    found = [_parse(json.loads(path.read_bytes())) for path in run.glob("*.json")]
    return sorted(found, key=lambda report: (type(report).__name__, report.job))


def _parse(members: Mapping[str, Any]) -> Report:
    values = dict(members)
    kind, job = _KINDS[values.pop("kind")], values.pop("job")
    if "images" in values:
        values["images"] = tuple((name, why) for name, why in values["images"])
    return kind(JobName.of(Rule(job["rule"]), *job["wildcards"]), **values)
