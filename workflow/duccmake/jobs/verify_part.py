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
from ..repository.verification import Verification


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
    found = [Found.of(thing, of, verification.find(thing)) for thing, of in part.things.items()]
    damaged = [one for one in found if one is not None]
    members = [one.to_json() for one in damaged]
    write_atomically(part.output, json.dumps(members, indent=1).encode() + b"\n")
    return damaged
