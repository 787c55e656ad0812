"""Where an image can become visible, each asked in its own way."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from ..errors import DuccmakeError, RepositoryError, one_line
from ..oci.manifest import Index
from ..oci.reference import MULTIARCH, Digest, Reference
from ..planning.holds import local_time
from ..run.whereabouts import Asked, Progress, State, Waiting, Whereabouts, is_there
from ..words import in_bytes

_SECONDS = 20.0
_MAX_BYTES = 1024**2


class Is(StrEnum):
    """Whether what is waited for is there, or will not be by itself, or is not yet."""

    THERE = "visible"
    FAILED = "failed"
    NOT_YET = "waiting"


@dataclass(frozen=True, slots=True)
class Found:
    """What a place answers, in words, and the manifests that are published there."""

    state: Is
    words: str
    manifests: tuple[str, ...] = ()


class Place(Protocol):
    """A place at which an image is looked for; ``name`` is for people."""

    name: str

    def look(self) -> Found:
        """How it is there now; `DuccmakeError` where that will never be known."""
        ...


class Here:
    """The working directory that this process is in, as the last run left it."""

    name = "here"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._whereabouts = Whereabouts()

    def look(self) -> Found:
        """What the document of the last run says."""
        if not self._whereabouts.last_run():
            return Found(Is.NOT_YET, "no run has ended here yet")
        return _in_words(self._whereabouts.look(self._asked, Waiting.DONE))


class Service:
    """What ``POST /convert`` answered with: the ``address`` of an image's progress."""

    name = "the service"

    def __init__(self, address: str, asked: Asked) -> None:
        self._address = address
        self._asked = asked

    def look(self) -> Found:
        """What the service says; one that does not answer may do so later."""
        import requests  # slow to import

        try:
            answer = requests.get(
                self._address, headers={"Accept": "application/json"}, timeout=_SECONDS, stream=True
            )
            with answer:
                content = answer.raw.read(_MAX_BYTES, decode_content=True)
        except (requests.RequestException, OSError) as error:
            return Found(Is.NOT_YET, one_line(f"the service cannot be reached: {error}"))
        if answer.status_code in (429, *range(500, 600)):
            return Found(Is.NOT_YET, f"the service answers {answer.status_code}")
        if answer.status_code != 200:
            raise DuccmakeError(
                f"the service answers {answer.status_code}",
                hint="see that the address is what POST /convert answered with, of this week",
            )
        return _in_words(self._read(content))

    def _read(self, content: bytes) -> Progress:
        import json

        try:
            members: dict[str, Any] = json.loads(content)
            state, manifests = State(members["state"]), tuple(members["manifests"])
            known = {name: members[name] for name in Progress.__slots__}
            progress = Progress(**{**known, "state": state, "manifests": manifests})
        except (ValueError, TypeError, KeyError):
            raise DuccmakeError(
                "what stands at the address is no progress of an image",
                hint="give the address that POST /convert answered with",
            ) from None
        asked = self._asked
        if progress.image != asked.name or (asked.digest and progress.digest != asked.digest):
            told = f"{progress.image}@{progress.digest}".rstrip("@")
            raise DuccmakeError(
                f"the address is about {told}", hint="give the address of this image's request"
            )
        return progress


class At:
    """A web server that serves the repository; ``meant`` says which manifests are waited for."""

    def __init__(
        self,
        url: str,
        name: str,
        digest: str,
        meant: Callable[[], Collection[str]],
        key: Path | None = None,
        prefix: str = "",
    ) -> None:
        from ..repository.cvmfs.replica import Replica  # slow to import

        self.name = url
        self._replica = Replica(url, key, prefix)
        self._image = name
        self._digest = digest
        self._meant = meant

    def look(self) -> Found:
        """What its newest revision has; where it cannot be read, it may be later."""
        self._replica.renew()
        try:
            manifests = self._manifests()
            revision = self._replica.revision
        except (RepositoryError, OSError) as error:
            return Found(Is.NOT_YET, one_line(str(error)))
        if not manifests:
            return Found(Is.NOT_YET, f"revision {revision} has no such image")
        found = tuple(sorted(manifests))
        if not self._digest or is_there(found, self._digest, self._meant()):
            return Found(Is.THERE, f"in revision {revision}", found)
        return Found(Is.NOT_YET, f"in revision {revision} it is {', '.join(found)}")

    def _manifests(self) -> set[str]:
        """The manifests that are published under the name, whole: one a platform."""
        view = self._replica.view
        labels = view.entries(view.layout.metadata / MULTIARCH)
        names = [self._image, *(f"{MULTIARCH}/{label}/{self._image}" for label in labels)]
        records = (self._replica.record(name) for name in names)
        return {str(record.manifest) for record in records if record is not None}


def behind(reference: Reference, digest: str) -> set[str]:
    """A digest and, where its registry says that it is that of an index, what is in there."""
    from ..registry.client import Client  # slow to import

    try:
        with Client({}, tries=2) as client:
            found = client.manifest(reference, Digest.parse(digest))
    except DuccmakeError:
        return {digest}
    within = found.manifests if isinstance(found, Index) else ()
    return {digest, *(str(descriptor.digest) for descriptor in within)}


def _in_words(progress: Progress) -> Found:
    if progress.state is State.VISIBLE:
        words = f"in revision {progress.revision}" if progress.revision else "in the repository"
        return Found(Is.THERE, words, progress.manifests)
    reason = one_line(progress.reason)
    if progress.state is State.FAILED:
        again = f"; tried again from {local_time(progress.next_try)}" if progress.next_try else ""
        return Found(Is.FAILED, f"{reason}{again}")
    words = str(progress.state)
    if progress.state is State.FETCHING:
        words += f" {in_bytes(progress.fetched or 0)} of {in_bytes(progress.bytes or 0)}"
    return Found(Is.NOT_YET, f"{words}: {reason}" if reason else words)
