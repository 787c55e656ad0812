"""Looking at a part of what is published, no faster than is wished for."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from ..fs.files import write_atomically
from ..oci.content_store import ContentStore
from ..planning.verdict import Found, Part
from ..repository.damage import Reading
from ..repository.protocol import Repository
from ..repository.verification import Verification, is_used


class Pace:
    """Waits so that no more than so many bytes a second are read; 0 is no bound."""

    def __init__(
        self,
        bytes_per_second: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._rate = bytes_per_second
        self._clock = clock
        self._sleep = sleep
        self._due = clock()

    def __call__(self, size: int) -> None:
        """So many bytes were read."""
        if self._rate:
            # What was not read while there was nothing to read is not made up for.
            self._due = max(self._due, self._clock() - 1) + size / self._rate
            if (ahead := self._due - self._clock()) > 0:
                self._sleep(ahead)


def verify_part(part: Part, repository: Repository, store: ContentStore, pace: Pace) -> list[Found]:
    """What is damaged in a part, which is written for who asked for all of it."""
    reading = Reading(part.content, pace, apart=True)
    verification = Verification(repository, reading, store.get)
    damaged = []
    for thing, users in part.things.items():
        found = Found.of(thing, users, verification.find(thing))
        # Somebody may have published, or removed, just that: then a second look tells.
        if found and is_used(repository, thing, users):
            again = Found.of(thing, users, Verification(repository, reading, store.get).find(thing))
            damaged += [again] if again else []
    members = [one.to_json() for one in damaged]
    write_atomically(part.output, json.dumps(members, indent=1).encode() + b"\n")
    return damaged
