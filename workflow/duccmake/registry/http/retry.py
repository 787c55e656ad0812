"""When to ask again: deadlines, waits between tries, and registries to leave alone."""

from __future__ import annotations

import datetime
import email.utils
import logging
import random
import threading
import time
from dataclasses import dataclass

from ...errors import Fault, RegistryError, RegistryUnavailable

logger = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 30.0
"""The longest pause that duccmake chooses by itself; a Retry-After may ask for more."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How often a request is tried, and within how many seconds, its waits included."""

    tries: int
    seconds: float


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How failures are met.

    ``patience`` is for requests that are given none of their own; the first pause is
    about ``backoff_seconds`` and doubles.  A connection has to be there within
    ``connect_seconds``.  After ``breaker_limit`` tries in a row that failed, and no
    less than one request makes, a host is left alone for ``breaker_seconds``.
    """

    patience: Patience = Patience(6, 300.0)
    backoff_seconds: float = 0.5
    connect_seconds: float = 10.0
    breaker_limit: int = 8
    breaker_seconds: float = 300.0


class TryAgain(Exception):
    """One try failed with ``error``, in a way that another try may mend.

    ``wait_seconds`` is what the registry asked for (Retry-After), or None.
    """

    def __init__(self, error: RegistryError, wait_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_seconds = wait_seconds


class RegistryUnreachable(RegistryUnavailable):
    """No answer at all came from the host."""

    kind = Fault.UNREACHED


class RegistryLeftAlone(RegistryUnavailable):
    """No request was made, because the registry failed too often before."""

    kind = Fault.UNREACHED


class Deadline:
    """The moment by which a request, with all its tries, has to be over."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def remaining(self) -> float:
        """Seconds that are left; never negative."""
        return max(0.0, self._end - time.monotonic())

    def allows(self, wait_seconds: float) -> bool:
        """Whether there is time left after waiting that long."""
        return wait_seconds < self.remaining


def backoff_seconds(tries: int, base_seconds: float) -> float:
    """How long to wait after ``tries`` failures: doubling, with jitter of half of it."""
    longest = min(LONGEST_WAIT_SECONDS, base_seconds * 2.0 ** min(tries - 1, 60))
    return longest * random.uniform(0.5, 1.0)


def retry_after_seconds(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3): a number or a date."""
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # a time zone can be further off than any number says
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


class Breaker:
    """Leaves a host alone after ``limit`` tries in a row that failed, whatever they were for.

    After ``seconds`` one request may try again.
    """

    def __init__(self, host: str, *, limit: int, seconds: float) -> None:
        self._host = host
        self._limit = limit
        self._seconds = seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0
        self._reason = ""

    def check(self) -> None:
        """Raise `RegistryLeftAlone`, with the reason, while the host is left alone."""
        if self._failures < self._limit:
            return
        with self._lock:
            now = time.monotonic()
            if self._failures >= self._limit and now < self._open_until:
                raise RegistryLeftAlone(
                    f"{self._host} is left alone after {self._failures} failures in a row, "
                    f"the last: {self._reason}",
                    hint="see whether it is up and reachable from here",
                )
            self._open_until = now + self._seconds

    def succeeded(self) -> None:
        """Count an answer, whatever it says."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Count a try that failed."""
        with self._lock:
            self._failures += 1
            if self._failures == self._limit:
                self._reason = reason
                self._open_until = time.monotonic() + self._seconds
                logger.info("%s; %s is left alone for a while", reason, self._host)
