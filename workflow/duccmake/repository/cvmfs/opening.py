"""Opening a transaction at a moment at which nobody else opens one.

``cvmfs_server`` looks whether a transaction is open, and sets the flag for its own a moment
later.  Two that look at the same time both go on, and each takes the mounts from under the
other, which then waits for ever.  Its commands respect locks, though, before they look:
what publishes and tags that of publications, what collects garbage a lock of its own.
"""

from __future__ import annotations

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from .others import PUBLISHING_LOCK, TRANSACTION_FLAG

_COLLECTING_LOCK = "is_collecting.lock"
_POLL_SECONDS = 0.005

_SLOW = frozenset(
    {
        *("catalog-chown", "checkout", "eliminate-bulk-hashes", "eliminate-hardlinks", "gc"),
        *("migrate", "mount", "rollback", "tag", "update-repoinfo"),
    }
)
"""The commands that look and set the flag, or mount, in a shell; the others do so at once."""


@contextmanager
def opening(spool: Path, name: str, *, collecting: bool = False) -> Iterator[bool]:
    """Keep others from opening a transaction until there is one, and from collecting garbage.

    False where somebody is at it already.  Who is ``collecting`` garbage takes the lock for
    that itself.
    """
    with ExitStack() as stack:
        publishing = _Lock(spool / PUBLISHING_LOCK)
        garbage = _Lock(spool / _COLLECTING_LOCK)
        stack.callback(garbage.release)
        stack.callback(publishing.release)
        if not collecting:
            garbage.take()  # who has it only checks, or is found among the commands
        if not publishing.take():
            yield False
            return
        # From now on: whoever opens a transaction meanwhile needs the lock soon.
        ended = threading.Event()
        releasing = threading.Thread(target=_release, args=(publishing, spool, ended))
        releasing.start()
        stack.callback(releasing.join)
        stack.callback(ended.set)
        yield _is_left_alone(spool, name)


def _release(lock: _Lock, spool: Path, ended: threading.Event) -> None:
    """Release a lock as soon as a transaction is open: publishing takes it then."""
    while not ended.wait(_POLL_SECONDS):
        if (spool / TRANSACTION_FLAG).exists():
            break
    lock.release()


def _is_left_alone(spool: Path, name: str) -> bool:
    """Wait until commands have ended that began before the lock was ours; False if one opens."""
    while _is_begun(name):
        if (spool / TRANSACTION_FLAG).exists():
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _is_begun(name: str) -> bool:
    """Whether a command has begun that may be about to open a transaction."""
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with suppress(OSError):
                words = (process / "cmdline").read_bytes().split(b"\0")
                if _opens(list(map(os.fsdecode, words)), name):
                    return True
    return False


def _opens(words: list[str], name: str) -> bool:
    server = (at for at, word in enumerate(words[:3]) if word.rpartition("/")[2] == "cvmfs_server")
    program = next(server, None)
    if program is None:
        return False
    arguments = words[program + 1 :]
    is_named = any(word.partition("/")[0] == name or word == "-a" for word in arguments)
    return is_named and not _SLOW.isdisjoint(arguments[:1])


class _Lock:
    """A lock file as cvmfs_server has it: locked (flock(2)) while held, removed afterwards."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def take(self) -> bool:
        """Take the lock unless somebody has it; whether it is taken."""
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who had it may have removed the file meanwhile.
            if os.path.samestat(os.fstat(descriptor), self._path.stat()):
                self._descriptor = descriptor
                return True
        except OSError:
            pass
        os.close(descriptor)
        return False

    def release(self) -> None:
        """Let it go, and remove the file as others do."""
        if self._descriptor >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            self._descriptor = -1
