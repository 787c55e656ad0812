"""Conversions that somebody asked for: a file for each, which outlives the service."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ...fs.files import write_atomically
from ...run.whereabouts import Asked, Progress, State

KEPT = 10_000
"""So many are kept, the newest."""

KEPT_SECONDS = 7 * 86400.0
"""So long one is kept."""

_IDENTITY = re.compile(r"[A-Za-z0-9_-]{32}")


@dataclass(frozen=True, slots=True)
class Conversion:
    """An image that was asked for, and how it became visible, once it has."""

    asked: Asked
    visible: Progress | None = None


class Conversions:
    """The folder ``path``; a conversion goes by a text that nobody can guess.

    The files are named by its hash: who can list the folder does not learn it.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def prepare(self) -> None:
        """Make the folder."""
        self._path.mkdir(parents=True, exist_ok=True)

    def put(self, name: str, digest: str) -> str:
        """Keep that an image is asked for now; returns what that goes by.  Raises `OSError`."""
        self._forget()
        identity = secrets.token_urlsafe(24)
        self._write(identity, Conversion(Asked(name, digest, time.time())))
        return identity

    def get(self, identity: str) -> Conversion | None:
        """What was asked for; None where nothing was, or that is too long ago."""
        if _IDENTITY.fullmatch(identity) is None:
            return None
        try:
            members = json.loads(self._file(identity).read_bytes())
            conversion = Conversion(Asked(**members["asked"]), _progress(members["visible"]))
        except (OSError, ValueError, TypeError, KeyError):
            return None
        is_old = time.time() - conversion.asked.since > KEPT_SECONDS
        return None if is_old else conversion

    def note(self, identity: str, conversion: Conversion, visible: Progress) -> None:
        """Keep how it became visible: what its name leads to later is another matter."""
        with suppress(OSError):  # then it is looked for again
            self._write(identity, replace(conversion, visible=visible))

    def drop(self, identity: str) -> None:
        """Forget it."""
        self._file(identity).unlink(missing_ok=True)

    def _write(self, identity: str, conversion: Conversion) -> None:
        write_atomically(self._file(identity), json.dumps(asdict(conversion)).encode())

    def _file(self, identity: str) -> Path:
        return self._path / f"{hashlib.sha256(identity.encode()).hexdigest()[:40]}.json"

    def _forget(self) -> None:
        """Remove what is too old, or one too many."""
        kept = []
        for path in self._path.glob("[!.]*.json"):
            with suppress(FileNotFoundError):
                kept.append((path.stat().st_mtime, path))
        kept.sort(reverse=True)
        oldest = time.time() - KEPT_SECONDS
        for place, (written, path) in enumerate(kept):
            if place >= KEPT - 1 or written < oldest:
                path.unlink(missing_ok=True)


def _progress(members: Mapping[str, Any] | None) -> Progress | None:
    if members is None:
        return None
    state, manifests = State(members["state"]), tuple(members["manifests"])
    return Progress(**{**members, "state": state, "manifests": manifests})
