"""When an image that failed is tried again: after growing pauses, at once when it changes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ..errors import Fault
from .model import Failure, Life

OWN = frozenset(
    {Fault.REGISTRY, Fault.DENIED, Fault.MISSING, Fault.MANIFEST, Fault.DIGEST}
    | {Fault.LAYER, Fault.LIMIT, Fault.PRIVATE, Fault.SIGNATURE}
)
"""Faults of an image, or of what its registry answers for it.  Others, such as a full disk or a
registry that cannot be reached at all, say nothing of it: it is tried again in the next run."""

_DOUBLINGS = 30


@dataclass(frozen=True, slots=True)
class Pauses:
    """How long an image that failed is left alone: so many seconds, doubled up to so many."""

    first_seconds: float = 900.0
    longest_seconds: float = 86400.0

    def after(self, count: int) -> float:
        """The seconds after so many failures of the same."""
        doubled: float = self.first_seconds * 2.0 ** min(count - 1, _DOUBLINGS)
        return min(self.longest_seconds, doubled)

    def next_try(self, failure: Failure | None) -> float | None:
        """When what failed is tried again; None where the next run does so."""
        if failure is None or failure.next is None:
            return None
        # Shorter pauses in the configuration hold for what has failed already.
        return min(failure.next, failure.last + self.after(failure.count))

    def noted(self, life: Life, fault: str, key: str, reason: str, now: float) -> Life:
        """An image's life with a further failure, and when it is tried again."""
        failed = life.failed(Failure(fault, key, reason, now, now, 1))
        if fault not in OWN:
            return failed
        newest = failed.failures[0]
        waiting = replace(newest, next=now + self.after(newest.count))
        return replace(failed, failures=(waiting, *failed.failures[1:]))


def key_of(parts: Sequence[object]) -> str:
    """What is tried, as a short text: another digest, wish or configuration is another key."""
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]
