"""When to ask again: deadlines, waits between tries, and registries to leave alone."""

from __future__ import annotations

import datetime
import email.utils
import logging
import random
import threading
import time
from dataclasses import dataclass

from ..errors import RegistryError, RegistryUnavailable

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
    about ``backoff_seconds`` and doubles.  After ``breaker_limit`` requests in a row that failed
    with all their tries, a host is left alone for ``breaker_seconds``.
    """

    patience: Patience = Patience(6, 300.0)
    backoff_seconds: float = 0.5
    breaker_limit: int = 5
    breaker_seconds: float = 300.0


class TryAgain(Exception):
    """One try failed with ``error``, in a way that another try may mend.

    ``wait_seconds`` is what the registry asked for (Retry-After), or None.
    """

    def __init__(self, error: RegistryError, wait_seconds: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.wait_seconds = wait_seconds


class RegistryLeftAlone(RegistryUnavailable):
    """No request was made, because the registry failed too often; it was reported then."""


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
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return max(0.0, (moment - datetime.datetime.now(datetime.UTC)).total_seconds())


class Breaker:
    """Leaves a host alone after ``limit`` requests in a row failed with all their tries.

    The opening is logged, once; after ``seconds`` one request may try again.
    """

    def __init__(self, host: str, *, limit: int, seconds: float) -> None:
        self._host = host
        self._limit = limit
        self._seconds = seconds
        self._lock = threading.Lock()
        self._failures = 0
        self._open_until = 0.0

    def check(self) -> None:
        """Raise `RegistryLeftAlone` while the host is left alone."""
        if self._failures < self._limit:
            return
        with self._lock:
            now = time.monotonic()
            if self._failures >= self._limit and now < self._open_until:
                raise RegistryLeftAlone(
                    f"{self._host} is left alone after {self._failures} failed requests in a row",
                    mend="what is known of its images stays in force; see whether it is up",
                )
            self._open_until = now + self._seconds

    def succeeded(self) -> None:
        """Count an answer, whatever it says."""
        self._failures = 0

    def failed(self, reason: str) -> None:
        """Count a request that failed with all its tries."""
        with self._lock:
            self._failures += 1
            if self._failures == self._limit:
                self._open_until = time.monotonic() + self._seconds
                logger.warning(
                    "%s failed %d times in a row (%s): it is left alone for %.0f s",
                    self._host,
                    self._failures,
                    reason,
                    self._seconds,
                )
