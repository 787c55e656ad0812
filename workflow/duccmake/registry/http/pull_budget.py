"""The pulls that a registry still allows, as its answers tell."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping

SHORT_WINDOW_SECONDS = 300.0
"""A limit that is renewed within this is no budget: 429 and Retry-After pace the requests."""

_REMAINING = ("RateLimit-Remaining", "X-RateLimit-Remaining")
_RESET = ("RateLimit-Reset", "X-RateLimit-Reset")
_NUMBER = re.compile(r"\s*(\d{1,12})")
_WINDOW = re.compile(r";\s*w=(\d{1,12})")
_COMBINED_REMAINING = re.compile(r"(?:;\s*r|remaining)=(\d{1,12})")
_COMBINED_RESET = re.compile(r"(?:;\s*t|reset)=(\d{1,12})")
_EPOCH = 1_000_000_000


class PullBudget:
    """Counts pulls against the last answer that told how many are left.

    A pull is a GET of a manifest; HEAD costs none (Docker Hub, "Usage and limits").
    Registries tell it as ``RateLimit-Remaining: 76;w=21600`` and in kindred headers.
    Pulls under way count as spent: their answers have not been told yet.
    """

    def __init__(self) -> None:
        self.remaining: int | None = None
        self._under_way = 0
        self._crowded = False
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Begin a pull, if one is left; each that began ends with `settle`."""
        with self._lock:
            if self.remaining is not None and self.remaining <= self._under_way:
                return False
            self._under_way += 1
            self._crowded |= self._under_way > 1
            return True

    def settle(self, headers: Mapping[str, str] | None) -> None:
        """End a pull: with the headers of its answer, or None where there was none."""
        found = _remaining(headers) if headers is not None else None
        with self._lock:
            if found is not None:
                self._tell(found)
            elif headers is not None and self.remaining:
                self.remaining -= 1
            self._under_way -= 1
            self._crowded &= self._under_way > 0

    def note(self, headers: Mapping[str, str]) -> bool:
        """Read what an answer tells; whether it tells anything."""
        found = _remaining(headers)
        if found is None:
            return False
        with self._lock:
            self._tell(found)
        return True

    def _tell(self, found: int) -> None:
        # Answers to pulls that were under way together overtake one another.
        known = self.remaining
        self.remaining = min(known, found) if self._crowded and known is not None else found


def _remaining(headers: Mapping[str, str]) -> int | None:
    """How many requests are left of a long window, or None where nothing is told of one."""
    for name in _REMAINING:
        header = headers.get(name)
        number = _NUMBER.match(header) if header else None
        if header and number:
            window = _WINDOW.search(header)
            seconds = float(window[1]) if window else _seconds(headers)
            return None if _is_short(seconds) else int(number[1])
    combined = headers.get("RateLimit")
    number = _COMBINED_REMAINING.search(combined) if combined else None
    if combined and number:
        reset = _COMBINED_RESET.search(combined)
        return None if _is_short(float(reset[1]) if reset else None) else int(number[1])
    return None


def _seconds(headers: Mapping[str, str]) -> float | None:
    """Until when the budget is renewed: some registries tell seconds, others a moment."""
    for name in _RESET:
        number = _NUMBER.match(headers.get(name, ""))
        if number:
            seconds = float(number[1])
            return seconds - time.time() if seconds >= _EPOCH else seconds
    return None


def _is_short(seconds: float | None) -> bool:
    return seconds is not None and seconds <= SHORT_WINDOW_SECONDS
