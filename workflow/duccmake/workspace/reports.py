"""What the jobs of a run report, as values: written by jobs, read when the run ends.

Each report is a file of its own in the run's directory, so that jobs on several
machines need no lock.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

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
    VERIFY_PART = "verify_part"
    VERIFY = "verify"


WRITERS = frozenset(
    {Rule.PUBLISH_IMAGE, Rule.PRUNE_IMAGES, Rule.REFUSE_IMAGES}
    | {Rule.COLLECT_GARBAGE, Rule.ROLLBACK, Rule.UNPIN}
)
"""Rules whose jobs write to a repository: what they have begun is finished.  Others can be cut
off at any point, and done again lose little."""


WAITING = "duccmake.waiting"
"""The logger of what people are told at once: that a job waits, and for whom."""


class JobName(NamedTuple):
    """A job: its rule, and what tells it from the rule's others (repository, image, key)."""

    rule: Rule
    wildcards: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "-".join((self.rule, *self.wildcards))


class Kind(StrEnum):
    """What a job has to report."""

    FAILED = "failed"
    FETCHED = "fetched"
    FLATTENED = "flattened"
    PUBLISHED = "published"
    PUSHED = "pushed"
    REMOVED = "removed"
    FREED = "freed"
    PINNED = "pinned"
    UNPINNED = "unpinned"
    VERIFIED = "verified"
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Report:
    """What a job has done, or that it failed.

    ``subject`` is the image, thin image or repository that it is about, ``words`` are for
    people, ``size`` is in bytes, and ``images`` are names, each with a reason.  ``log`` is
    where a failure is told at length, and ``fault`` whose failure it was
    (`duccmake.errors.Fault`).  ``files`` counts entries of a flat tree, and ``revision`` is one
    of the repository that has the image.
    """

    job: JobName
    kind: Kind
    subject: str = ""
    words: str = ""
    size: int = 0
    images: tuple[tuple[str, str], ...] = ()
    log: str = ""
    fault: str = ""
    files: int = 0
    revision: int = 0

    @property
    def title(self) -> str:
        """What it is about, for people: a job without a subject goes by what it is for."""
        return self.subject or "/".join(self.job.wildcards) or self.job.rule


def write_report(run: Path, report: Report) -> None:
    """Leave a report in the directory of a run; one that is the same is there once."""
    members = {**asdict(report), "job": report.job}
    content = json.dumps(members, sort_keys=True).encode()
    digest = hashlib.sha256(content).hexdigest()[:16]
    write_atomically(run / f"{report.kind}-{digest}.json", content)


def read_reports(run: Path) -> list[Report]:
    """All reports of a run, by kind and job."""
    found = [_parse(json.loads(path.read_bytes())) for path in run.glob("*.json")]
    return sorted(found, key=lambda report: (report.kind, report.job, report.subject))


class Arrivals:
    """The reports of a kind that jobs leave while they run: each is handed out once."""

    def __init__(self, run: Path, kind: Kind) -> None:
        self._run = run
        self._pattern = f"{kind}-*.json"
        self._seen: set[Path] = set()

    def new(self) -> list[Report]:
        """Those that have come since it was asked last."""
        found = sorted(set(self._run.glob(self._pattern)) - self._seen)
        self._seen.update(found)
        return [_parse(json.loads(path.read_bytes())) for path in found]


def _parse(members: dict[str, Any]) -> Report:
    rule, wildcards = members.pop("job")
    images = tuple((name, why) for name, why in members.pop("images"))
    kind = Kind(members.pop("kind"))
    return Report(JobName(Rule(rule), tuple(wildcards)), kind, images=images, **members)
