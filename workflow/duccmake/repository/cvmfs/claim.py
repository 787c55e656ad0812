"""Having a repository for oneself without ``cvmfs_server``, in a way that all of it respects.

Two things in the spool area keep others out: the flag of a transaction, which is a file
that is there, and the lock of who publishes.  With the one alone, an operator's
``cvmfs_server publish`` would end our transaction; with both, its commands all fail or wait.

What is started meanwhile holds the lock as well (`Tools`): should we die, nobody else begins
before it has ended, for a signature of ours would take back what they publish.

What others saw while it was held they may act on once it is not: mount what was not mounted for
a moment, beside who mounts it.  So both are held until nobody is left who has begun by then.

The flag is a link to a file of ours, made before.  So whose transaction is open can be told
at any time, also after a crash: no file is ours before it is the flag, and none that is the
flag is another's.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ...errors import RepositoryLocked
from ...fs.locks import acquire, open_file
from .opening import begun
from .others import (
    COLLECTING_LOCK,
    OTHERS_COLLECT,
    PUBLISHING_LOCK,
    TRANSACTION_FLAG,
    Patience,
)
from .server import ServerBusy
from .settings import ServerSettings

_CLAIM = "duccmake-transaction.lock"
_SETTLING_SECONDS = 60.0


class Claim:
    """What this program holds of a repository; only under the publisher's own lock."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._claim = settings.spool / _CLAIM
        self._flag = settings.spool / TRANSACTION_FLAG
        self._lock = settings.spool / PUBLISHING_LOCK
        self._collecting = settings.spool / COLLECTING_LOCK

    @contextmanager
    def held(self) -> Iterator[int]:
        """Open a transaction, and hold the lock of who publishes; `ServerBusy` where others do.

        Gives the descriptor of the lock.  Unless it is ended (`end`) the transaction stays open.
        """
        self.forget()
        self._claim.touch(mode=0o600, exist_ok=False)
        self._claim.write_text(secrets.token_hex(16))
        self._give_away(self._claim)
        try:
            self._flag.hardlink_to(self._claim)
        except FileExistsError:
            self.forget()
            raise _busy("somebody has a transaction open") from None
        try:
            descriptor = self._publishing()
        except BaseException:
            # Nothing has happened in it that would have to be aborted.
            self._flag.unlink()
            self.forget()
            raise
        with _ending(self._lock, descriptor):
            yield descriptor

    @contextmanager
    def collecting(self) -> Iterator[None]:
        """The same for who deletes garbage, while nobody else does so or checks what is stored.

        Nothing that is mounted changes, so that the transaction ends with it.
        """
        with self.held():
            try:
                descriptor = self._locked(self._collecting, OTHERS_COLLECT)
                with _ending(self._collecting, descriptor):
                    yield
            finally:
                self.end()

    def end(self) -> None:
        """End the transaction that is held, once nobody is left who may act on what was so in it.

        Who has begun since is refused, as the lock is held.
        """
        self._settle()
        if self.is_ours():
            self._flag.unlink()
        self._settle()

    def is_ours(self) -> bool:
        """Whether the transaction that is open is one that was opened here."""
        try:
            return self._flag.samefile(self._claim)
        except FileNotFoundError:
            return False

    @property
    def token(self) -> str:
        """What marks the processes that end the transaction, also those of who died since."""
        try:
            return self._claim.read_text()
        except FileNotFoundError:
            return ""

    def forget(self) -> None:
        """Give up a claim that is no transaction, or no longer one."""
        self._claim.unlink(missing_ok=True)

    def _settle(self) -> None:
        patience = Patience(self._settings, _SETTLING_SECONDS)
        with suppress(RepositoryLocked):
            while command := begun(self._settings.name):
                patience.wait(f"somebody has begun 'cvmfs_server {command}'", "")

    def _publishing(self) -> int:
        return self._locked(self._lock, "somebody publishes, or mounts what was published,")

    def _locked(self, path: Path, others: str) -> int:
        """Lock a file that its holders remove."""
        while True:
            descriptor = open_file(path, 0o600)
            if not acquire(descriptor, wait=False):
                os.close(descriptor)
                raise _busy(others)
            if _is_at(path, descriptor):
                self._give_away(path)
                os.set_inheritable(descriptor, True)
                return descriptor
            os.close(descriptor)

    def _give_away(self, path: Path) -> None:
        """Let the repository's owner, whom cvmfs_server may run as, have what we left."""
        if os.geteuid() == 0 and self._settings.owner != "root":
            shutil.chown(path, user=self._settings.owner)


@contextmanager
def _ending(path: Path, descriptor: int) -> Iterator[None]:
    """Give a lock back at the end."""
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _busy(found: str) -> ServerBusy:
    return ServerBusy(found, output="", opened=False)
