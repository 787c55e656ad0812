"""What the configuration says of removal, as values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Policy = Literal["keep", "schedule", "prune"]


@dataclass(frozen=True, slots=True)
class Rule:
    """Retention of the images whose names a glob matches: the newest tags, the last days.

    ``keep_last`` counts for each repository.  An image stays for either reason; 0
    gives none.
    """

    images: str
    keep_last: int = 0
    keep_days: float = 0.0


@dataclass(frozen=True, slots=True)
class RemovalSettings:
    """When images leave; ``confirm`` is in seconds, ``batch`` counts flat trees and layers."""

    policy: Policy = "keep"
    confirm: float = 86400.0
    grace_days: float = 30.0
    max_percent: float = 10.0
    batch: int = 50
    retention: tuple[Rule, ...] = ()
    pinned: tuple[str, ...] = ()
    cvmfs_gc: bool = False

    @property
    def grace(self) -> float:
        """The time of grace in seconds."""
        return self.grace_days * 86400.0


@dataclass(frozen=True, slots=True)
class HistorySettings:
    """How many manifests stay reachable by digest that a tag has left."""

    keep: int = 0
