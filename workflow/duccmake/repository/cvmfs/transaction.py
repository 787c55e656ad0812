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

from ...errors import RepositoryError
from ...fs.files import write_atomically
from ...fs.locks import finishing, note_written
from .claim import Claim
from .feed import spoil_archive
from .mount import Mount
from .others import Patience
from .server import Mark, Server, ServerBusy, ServerFailed, processes
from .tar_writer import TarStream

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.2
_GRACE_SECONDS = 60.0
_HINT = "wait until it is done, then run again"

_ENDED = "is not in a transaction"


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
            self._patiently("publish", settings.name, token=transaction.token)

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

    def alone(self, work: Callable[[], None], *, collecting: bool = False) -> None:
        """Do ``work`` while nobody else publishes, or does anything with the repository.

        What it has published is mounted then; who is ``collecting`` garbage publishes
        nothing.  Raises what it raises, and `RepositoryLocked` where somebody else is at
        work for too long.
        """
        patience = self._patience()
        claim = Claim(self.server.settings)
        while True:
            while self._is_anybody_at_work(patience, collecting=collecting):
                pass
            try:
                with finishing():
                    self._claimed(claim, work, collecting=collecting)
                    note_written()
            except ServerBusy as error:
                patience.wait(error.found, _HINT)
            else:
                return

    def _claimed(self, claim: Claim, work: Callable[[], None], *, collecting: bool = False) -> None:
        """Do ``work`` in a transaction that is our claim, and end that."""
        try:
            if collecting:
                with claim.collecting():
                    work()
            else:
                with claim.held() as lock:
                    work()
                    if self._mounted_anew(claim, lock):
                        claim.end()
        except BaseException:
            self._give_up(claim)
            raise
        try:
            self._give_up(claim)
        except RepositoryError as error:
            # It is published; the next run mounts it.
            log.warning("what was published is not mounted here: %s", error)

    def _mounted_anew(self, claim: Claim, lock: int) -> bool:
        """Mount what is published, while nobody else does; whether that could be done."""
        self._clear_dead()
        with self.mount.changing():
            return self.server.mount_anew(claim.token, lock)

    def _clear_dead(self) -> None:
        if self.mount.is_dead:
            self.server.unmount(self.mount.count)

    def _give_up(self, claim: Claim) -> None:
        """End a transaction that is our claim, and mount what is published."""
        if claim.is_ours():
            self._abort(claim.token)
        claim.forget()

    def mount_again(self) -> None:
        """Mount the repository where it is not: whoever publishes does so at the end."""
        patience = self._patience()
        dead = self.mount.is_dead
        if dead:
            log.warning("%s, and is mounted again", self.mount.death)
        while dead or not self.mount.is_there:
            if self._is_anybody_at_work(patience):
                continue
            try:
                if dead:
                    with finishing():
                        self._claimed(Claim(self.server.settings), lambda: None)
                else:
                    self.server.run("mount", self.server.settings.name)
            except ServerBusy as error:
                patience.wait(error.found, _HINT)
            else:
                return

    def _attempt(self, work: Callable[[Transaction], None]) -> None:
        """Do ``work``, which opens a transaction; again while somebody else is faster.

        A transaction of ours that is left open is aborted.  Raises `RepositoryLocked`
        where somebody else's does not end in time.
        """
        patience = self._patience()
        while True:
            while self._is_anybody_at_work(patience):
                pass
            with finishing():
                busy = self._tried(work)
            if busy is None:
                return
            patience.wait(busy.found, _HINT)

    def _tried(self, work: Callable[[Transaction], None]) -> ServerBusy | None:
        """Do ``work`` unless somebody else is faster; what that one does."""
        transaction = Transaction(self.server, self._journal)
        try:
            work(transaction)
        except ServerBusy as error:
            if error.opened:
                transaction.look()
            if transaction.mark is not None:
                self._abort_if(transaction.mark)
            # What is open now is theirs; a gateway does not even show it here.
            self._journal.unlink(missing_ok=True)
            return error
        except Exception as error:
            committed = isinstance(error, ServerFailed) and error.is_committed
            # What was killed may have left processes that go on, and hold a lock.
            mark = self._end(transaction.token) or transaction.mark
            self._abort_if(mark)
            if not committed:
                raise
            # Somebody had looked into the mount at that moment.
            log.warning("what was asked for is done, although %s", error)
            try:
                self.mount_again()
            except RepositoryError as failure:
                log.warning("what is published is not mounted here: %s", failure)
        else:
            self._journal.unlink(missing_ok=True)
        note_written()
        return None

    def _patience(self, least: float = 0.0) -> Patience:
        return Patience(self.server.settings, max(self._seconds, least))

    def _is_anybody_at_work(self, patience: Patience, *, collecting: bool = False) -> bool:
        """Whether somebody else publishes, who was waited for for a moment then.

        Who is ``collecting`` garbage waits for who reads all that is stored as well.
        """
        at_work = self.server.others_work() or (collecting and self.server.others_collect())
        if at_work:
            name = self.server.settings.name
            patience.wait(
                at_work,
                f"if nobody works on it, abort it ('cvmfs_server abort {name}'), then run again"
                if self.server.transaction()
                else _HINT,
            )
        return bool(at_work)

    def _abort(self, token: str = "") -> None:
        """Abort a transaction of ours, which mounts what is published."""
        self._clear_dead()
        self._patiently("abort", "-f", self.server.settings.name, token=token)

    def _patiently(self, *arguments: str, token: str = "") -> None:
        """End a transaction of ours, once nobody else holds what that takes."""
        patience = self._patience(_GRACE_SECONDS)
        while True:
            try:
                with self.mount.changing():
                    self.server.run(*arguments, token=token)
            except ServerBusy as error:
                patience.wait(error.found, _HINT)
            else:
                return

    def recover(self) -> str:
        """Abort what a publisher that died left open; returns what was done, or nothing."""
        claim = Claim(self.server.settings)
        if claim.is_ours() and (token := claim.token):
            # It may be ending, and the next one be somebody else's.
            self._end(token)
        if claim.is_ours():
            log.warning("aborting the transaction of a publisher that died")
            self._give_up(claim)
            return "aborted"
        claim.forget()
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

    def _abort_if(self, mark: Mark | None) -> None:
        if mark is not None and self.server.transaction() == mark:
            try:
                self._abort()
            except ServerFailed as error:
                if _ENDED not in error.output:  # by itself, a moment before
                    raise
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
