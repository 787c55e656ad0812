"""Which transaction is ours: a journal outside of the repository, and what it is good for.

``cvmfs_server`` keeps one flag that says a transaction is open, but not whose it is.
The journal notes that we are about to open one, then, as soon as that is certain,
which one it is.  So after a crash exactly ours is aborted, and anybody else's is
waited for.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from ...errors import RepositoryError, RepositoryLocked
from ...fs.files import write_atomically
from .mount import Mount
from .server import Mark, Server, TransactionBusy, processes, spoil_archive
from .tar_writer import TarStream

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0


class Transactions:
    """Opens transactions of ``server`` one at a time, under the publisher's lock.

    ``seconds`` is how long somebody else's transaction is waited for, ``mount``
    where what is published can be seen, ``prefix`` the directory of the repository
    that everything is below, if not its root.
    """

    def __init__(
        self, server: Server, state: Path, seconds: float, mount: Mount, prefix: str = ""
    ) -> None:
        self.server = server
        self.mount = mount
        self._prefix = prefix
        self._journal = state / "transaction.json"
        self._seconds = seconds

    def ingest(self, write: Callable[[TarStream], None], *, at_root: bool = False) -> None:
        """Publish the archive that ``write`` writes, with paths from the prefix."""

        def work(transaction: Transaction) -> None:
            with ExitStack() as stack:
                self.server.ingest(
                    "/" if at_root else self._prefix or "/",
                    write,
                    token=transaction.token,
                    opened=transaction.look,
                    ending=lambda: stack.enter_context(self.mount.changing()),
                )

        self._attempt(work)

    def write(self, change: Callable[[Path], None]) -> None:
        """Publish what ``change`` does to the mounted repository, of which it gets the prefix."""
        settings = self.server.settings
        # The lease of a gateway is on what is changed, so that others can publish elsewhere.
        leased = f"{settings.name}/{self._prefix}" if settings.gateway else settings.name

        def work(transaction: Transaction) -> None:
            self.server.run("transaction", leased, token=transaction.token, opened=transaction.look)
            transaction.look()
            change(settings.union / self._prefix)
            with self.mount.changing():
                self.server.run("publish", settings.name, token=transaction.token)

        self._attempt(work)

    def delete(self, paths: Sequence[bytes]) -> None:
        """Delete files, symlinks and whole directories, by paths of plain characters."""
        below = [f"{self._prefix}/{os.fsdecode(path)}".lstrip("/") for path in paths]
        options = [option for path in below for option in ("-d", path)]

        def work(transaction: Transaction) -> None:
            with self.mount.changing():
                self.server.run(
                    "ingest",
                    *options,
                    self.server.settings.name,
                    token=transaction.token,
                    opened=transaction.look,
                )

        self._attempt(work)

    def _attempt(self, work: Callable[[Transaction], None]) -> None:
        """Do ``work``, which opens a transaction; again while somebody else is faster.

        A transaction of ours that is left open is aborted.  Raises `RepositoryLocked`
        where somebody else's does not end in time.
        """
        deadline = time.monotonic() + self._seconds
        while True:
            self._wait(deadline)
            transaction = Transaction(self.server, self._journal)
            try:
                work(transaction)
            except TransactionBusy as error:
                # What is open is theirs; a gateway does not even show it here.
                self._journal.unlink(missing_ok=True)
                if time.monotonic() >= deadline:
                    raise RepositoryLocked(
                        error.found, hint="wait until it is published, then run again"
                    ) from None
                time.sleep(_POLL_SECONDS)
            except Exception:
                # What was killed may have left processes that go on, and hold a lock.
                mark = self._end(transaction.token) or transaction.mark
                self._abort_if(mark)
                raise
            else:
                self._journal.unlink(missing_ok=True)
                return

    def recover(self) -> str:
        """Abort what a publisher that died left open; returns what was done, or nothing."""
        state = self._read()
        if state is None:
            return ""
        token = state["token"]
        mark = self._end(token) or state["mark"]
        if mark is not None and self.server.transaction() == mark:
            log.warning("aborting the transaction of a publisher that died")
            self._abort_if(mark)
            return "aborted"
        self._journal.unlink(missing_ok=True)
        return "found ended"

    def _wait(self, deadline: float) -> None:
        told = False
        while self.server.transaction() is not None:
            name = self.server.settings.name
            if time.monotonic() >= deadline:
                raise RepositoryLocked(
                    f"somebody has {self.server.describe_transaction()} on {name}",
                    hint=f"publish it or abort it ('cvmfs_server abort {name}'), then run again",
                )
            if not told:
                log.warning("waiting for %s on %s", self.server.describe_transaction(), name)
                told = True
            time.sleep(_POLL_SECONDS)

    def _abort_if(self, mark: Mark | None) -> None:
        if mark is not None and self.server.transaction() == mark:
            with self.mount.changing():
                self.server.run("abort", "-f", self.server.settings.name)
        self._journal.unlink(missing_ok=True)

    def _end(self, token: str) -> Mark | None:
        """Wait for processes of a transaction that was cut off, which may be committing.

        Returns which transaction is theirs, where they show it.
        """
        mark = None
        deadline = time.monotonic() + max(self._seconds, _GRACE_SECONDS)
        while left := processes(token):
            if spoil_archive(self.server.fifo):
                # They read an archive that nobody writes any more, in a transaction of theirs.
                mark = mark or self.server.transaction()
            if time.monotonic() >= deadline:
                log.warning("ending what is left of a transaction: %s", list(left))
                for process in left:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        return mark

    def _read(self) -> dict[str, Any] | None:
        try:
            content = self._journal.read_bytes()
        except FileNotFoundError:
            return None
        try:
            state = json.loads(content)
            mark = state["mark"]
            return {"token": str(state["token"]), "mark": Mark(*mark) if mark else None}
        except (ValueError, KeyError, TypeError):
            raise RepositoryError(
                f"the journal {self._journal} is damaged",
                hint="see whether a transaction is open that nobody works on, abort it, and "
                "remove the file",
            ) from None


class Transaction:
    """One transaction of ours, from before it is opened."""

    def __init__(self, server: Server, journal: Path) -> None:
        self.token = secrets.token_hex(16)
        self.mark: Mark | None = None
        self._server = server
        self._journal = journal
        self._note()

    def look(self) -> None:
        """Note which transaction it is, once it is open."""
        if self.mark is None and (mark := self._server.transaction()) is not None:
            self.mark = mark
            self._note()
            self._server.show_newest()

    def _note(self) -> None:
        mark = [self.mark.inode, self.mark.ctime_ns] if self.mark else None
        content = json.dumps({"token": self.token, "mark": mark}).encode()
        write_atomically(self._journal, content)
