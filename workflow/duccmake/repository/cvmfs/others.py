"""Others who are at work on the repository: how they are known, waited for, and told of."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ...errors import RepositoryLocked
from ...workspace.reports import WAITING
from .settings import ServerSettings

log = logging.getLogger(WAITING)

TRANSACTION_FLAG = "in_transaction.lock"
"""The file of the spool area that is there while a transaction is open."""

PUBLISHING_LOCK = "is_publishing.lock"
"""The file of the spool area that who publishes or mounts has locked (flock(2))."""

COLLECTING_LOCK = "is_collecting.lock"
"""The file of the spool area that who checks or collects garbage has locked (flock(2))."""

OTHERS_COLLECT = "somebody checks it, or collects garbage,"
"""What is said of who has it locked."""

_POLL_SECONDS = 0.05
_AGAIN_SECONDS = 60.0

_TRANSACTION = (
    "another transaction is already open",
    "lease path busy",
    "cannot establish writable mountpoint",
    "cannot retrieve root hash from read-only mount point",
    "cannot open tag database",  # whoever ends a transaction empties the directory it is in
)
_LOCK = (
    "currently publishing",
    "Another publish process is active",
    "Failed to acquire publishing lock",
    "Could not acquire lock",
)
_NOT_OPENED = "Impossible to start a transaction"


def busy_words(output: str) -> str:
    """What cvmfs_server said that means somebody else is at work; empty where it said no such.

    With it comes advice to remove a lock or to abort a transaction, which is never passed
    on: who holds a lock is at work, and no lock outlives its holder.
    """
    return next((words for words in _TRANSACTION + _LOCK if words in output), "")


def is_left_open(command: str, output: str) -> bool:
    """Whether a busy ``command`` had opened a transaction, and left it so."""
    held = busy_words(output) in _LOCK
    return held and command == "ingest" and _NOT_OPENED not in output


class Patience:
    """Waits for others for ``seconds`` in all, and says what for: at once and each minute."""

    def __init__(self, settings: ServerSettings, seconds: float) -> None:
        self._settings = settings
        self._deadline = time.monotonic() + seconds
        self._again = 0.0

    def wait(self, what: str, hint: str) -> None:
        """Wait for a moment; `RepositoryLocked` where that would be too long."""
        now = time.monotonic()
        if now >= self._deadline:
            raise RepositoryLocked(self._in_words(what), hint=hint)
        if now >= self._again:
            log.warning("waiting: %s", self._in_words(what))
            self._again = now + _AGAIN_SECONDS
        time.sleep(_POLL_SECONDS)

    def _in_words(self, what: str) -> str:
        who = " and ".join(holders(self._settings))
        return f"{what} on {self._settings.name}{who and f'; its mounts are in use by {who}'}"


def holders(settings: ServerSettings) -> list[str]:
    """The processes that keep the repository's mounts in use, for people.

    For those with something open there cvmfs_server waits a minute, and without end for
    those that have a copy of the mount in a mount namespace of their own; of these only
    the first of each namespace is named.
    """
    mounts = (os.fspath(settings.published), os.fspath(settings.union))
    namespaces = {_link(Path("/proc/self/ns/mnt")), ""}
    found = []
    for number in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        process = Path("/proc", str(number))
        with suppress(OSError):
            name = (process / "comm").read_text().strip()
            if number == os.getpid() or name.startswith("cvmfs2"):
                continue
            namespace = _link(process / "ns/mnt")
            if namespace not in namespaces and _has_mount(process, mounts):
                namespaces.add(namespace)
                found.append(f"process {number} ({name}), in a mount namespace of its own")
            elif any(_is_below(path, mounts) for path in _opened(process)):
                found.append(f"process {number} ({name})")
    return found


def is_at_work(spool: Path) -> bool:
    """Whether somebody has a transaction open, publishes, or mounts what was published."""
    return (spool / TRANSACTION_FLAG).exists() or is_flocked(spool / PUBLISHING_LOCK)


def is_flocked(path: Path) -> bool:
    """Whether some process has a lock on a file (flock(2)), looked up without trying it.

    Who tries such a lock has it for a moment, in which others fail.
    """
    try:
        status = path.stat()
        listed = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return False
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any("FLOCK" in line and device in line.split() for line in listed)


def _has_mount(process: Path, mounts: tuple[str, ...]) -> bool:
    with (process / "mountinfo").open(errors="surrogateescape") as lines:
        return any(mount in line for line in lines for mount in mounts)


def _opened(process: Path) -> Iterator[str]:
    yield _link(process / "cwd")
    yield _link(process / "root")
    with suppress(OSError):
        for descriptor in (process / "fd").iterdir():
            yield _link(descriptor)


def _is_below(path: str, mounts: tuple[str, ...]) -> bool:
    return any(path == mount or path.startswith(f"{mount}/") for mount in mounts)


def _link(path: Path) -> str:
    try:
        return os.fspath(path.readlink())
    except OSError:
        return ""
