"""The repository as this machine mounts it, which ends and begins again with each commit.

``cvmfs_server`` unmounts the old revision and mounts the new one.  A reader must
not take the moment in between for an empty repository, and its open files would
have the mount taken from under everybody.  So readers and the end of a commit
exclude one another.
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from ...errors import RepositoryError
from ...fs.locks import acquire, locked

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 20.0


class Mount:
    """The mount ``path`` of the repository ``name``.

    ``guard`` is the file that readers and commits lock.  ``is_busy`` tells whether somebody
    publishes: until what is published is mounted again it is waited for, ``seconds`` long.
    """

    def __init__(
        self,
        path: Path,
        name: str,
        guard: Path,
        *,
        is_busy: Callable[[], bool] = lambda: False,
        seconds: float = _PATIENCE_SECONDS,
    ) -> None:
        self._path = path
        self._name = name
        self._guard = guard
        self._is_busy = is_busy
        self._seconds = seconds
        self._held = threading.local()

    @property
    def is_there(self) -> bool:
        """Whether something is mounted; what has content without being a mount counts too."""
        return is_mounted(self._path)

    @property
    def is_dead(self) -> bool:
        """Whether a process has ended that had mounted it, be it mounted upon that again.

        ``cvmfs_server`` does so, and fails once it is to unmount and to mount (2.12).
        """
        try:
            os.scandir(self._path).close()
        except OSError as error:
            return error.errno == errno.ENOTCONN
        return self.count > 1

    @property
    def count(self) -> int:
        """How often something is mounted there."""
        lines = Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()
        return [line.split()[4] for line in lines].count(str(self._path))

    @property
    def death(self) -> str:
        """What is said where it `is_dead`, for people."""
        return f"a dead mount of {self._name} is on {self._path}: its cvmfs2 has ended"

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep commits from ending meanwhile; `RepositoryError` where nothing is mounted.

        Short reads only: a publisher waits for them.
        """
        if getattr(self._held, "here", False):
            yield
            return
        with _shared(self._guard):
            self._await()
            self._held.here = True
            try:
                yield
            finally:
                self._held.here = False

    def changing(self) -> AbstractContextManager[None]:
        """Keep readers away from the end of a commit."""
        return locked(self._guard)

    def _await(self) -> None:
        began = time.monotonic()
        told = False
        while not self.is_there:
            waited = time.monotonic() - began
            # Somebody else's publication may be about to mount it again.
            busy = self._is_busy() and waited < self._seconds
            dead = self.is_dead
            if not (dead or self._path.is_dir()) or (waited >= _PATIENCE_SECONDS and not busy):
                raise RepositoryError(
                    self.death if dead else f"the repository is not mounted on {self._path}",
                    hint=f"unless somebody publishes, mount it: cvmfs_server mount {self._name}",
                )
            if waited >= 1 and not told:
                log.warning("waiting until the repository is mounted again on %s", self._path)
                told = True
            time.sleep(_POLL_SECONDS)


def is_mounted(path: Path) -> bool:
    """Whether something is mounted; what has content without being a mount counts too."""
    try:
        # The directory of a mount can be looked up a while after its process has ended.
        with os.scandir(path) as entries:
            return os.path.ismount(path) or next(entries, None) is not None
    except OSError:
        return False


@contextmanager
def _shared(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # Nobody has published from here yet, or it is not for us to see.
        yield
        return
    try:
        if not acquire(descriptor, shared=True, wait=False):
            log.info("waiting until what is published is mounted")
            acquire(descriptor, shared=True)
        yield
    finally:
        os.close(descriptor)
