"""What keeps images, and whole registries, from being resolved, in words for people."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from ..errors import DuccmakeError, RateLimited, RegistryUnavailable
from ..oci.reference import Reference
from ..registry.http.retry import RegistryLeftAlone, RegistryUnreachable

PASSING = (RegistryUnavailable, RateLimited)
"""Failures that say nothing about the image: what is known of it stays in force."""


class Troubles:
    """What keeps whole registries from answering: told once, and briefly for each image."""

    def __init__(self) -> None:
        self._unreached: dict[str, DuccmakeError] = {}
        self._spent: dict[str, DuccmakeError] = {}
        self._lock = threading.Lock()

    def note(self, reference: Reference, error: DuccmakeError) -> bool:
        """Keep a failure if it is one of the registry and not of the image."""
        with self._lock:
            if isinstance(error, RegistryUnreachable | RegistryLeftAlone):
                self._unreached.setdefault(reference.registry, error)
            elif isinstance(error, RateLimited):
                self._spent.setdefault(reference.registry, error)
            else:
                return False
            return True

    def brief(self, reference: Reference, error: DuccmakeError) -> str:
        """Why an image was missed: in few words where the registry is to blame."""
        registry = reference.registry
        if isinstance(error, RateLimited):
            return f"waits until registry {registry} allows more requests"
        if registry in self._unreached and isinstance(error, RegistryUnavailable):
            return f"registry {registry} not reached"
        return reason_of(error)

    def lines(self) -> Iterator[str]:
        """One line for each registry."""
        for registry, error in sorted(self._unreached.items()):
            yield f"registry {registry} not reached: {error.found}; {error.hint}"
        for registry, error in sorted(self._spent.items()):
            yield f"registry {registry} is short of requests: {error.found}; {error.hint}"


def reason_of(error: DuccmakeError) -> str:
    """Why an image is not resolved."""
    return str(error.within(step="resolve"))
