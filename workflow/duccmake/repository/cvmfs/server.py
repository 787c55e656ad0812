"""Running ``cvmfs_server``, and what it keeps of a repository's state."""

from __future__ import annotations

import logging
import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ...errors import RepositoryError
from ...fs.locks import finishing
from .feed import Feed
from .mount import is_mounted
from .opening import begun
from .others import (
    COLLECTING_LOCK,
    OTHERS_COLLECT,
    PUBLISHING_LOCK,
    TRANSACTION_FLAG,
    busy_words,
    holders,
    is_flocked,
    is_left_open,
)
from .settings import ServerSettings
from .tar_writer import TarStream

log = logging.getLogger(__name__)

TOKEN_VARIABLE = "DUCCMAKE_TRANSACTION"
"""Marks every process that a transaction of ours has started, in its environment."""

_PLAIN_PATH = re.compile(r"[A-Za-z0-9_./@%+:,=-]+")
_WATCH_SECONDS = 0.02
_WORKER = "cvmfs_swissknif"  # as the kernel has its name
_PIN = b"CVMFS_ROOT_HASH="
_AHEAD_BYTES = 64 * 1024 * 1024

_LAST_LINES = 12
_TELL_SECONDS = 5.0

_STEPS = """\
for step do
    for try in 1 2 3 4 5 6 7 8 9 10; do
        cvmfs_suid_helper "$step" "$0" </dev/null && continue 2
        # Somebody may just look into the mount.
        case "$step" in *_umount) sleep 0.1 ;; *) exit 1 ;; esac
    done
    exit 1
done
"""

_MOUNTING = ("Remounting newly created", "Forcing remount", "forcefully remounted")


class ServerFailed(RepositoryError):
    """``cvmfs_server`` ended with an error; ``output`` is all that it said."""

    def __init__(self, found: str, *, output: str = "", hint: str = "") -> None:
        super().__init__(found, hint=hint)
        self.output = output

    @property
    def is_committed(self) -> bool:
        """Whether it had done all that was asked for, and could only not mount that."""
        return any(words in self.output for words in _MOUNTING)


class ServerBusy(ServerFailed):
    """Somebody else is at work: publishes, or mounts what was published.

    ``opened`` says whether the command had opened a transaction of its own.
    """

    def __init__(self, found: str, *, output: str = "", opened: bool = False) -> None:
        super().__init__(found, output=output)
        self.opened = opened


@dataclass(frozen=True, slots=True)
class Mark:
    """The identity of the flag file of one transaction: no other has ever the same."""

    inode: int
    ctime_ns: int


class Server:
    """``cvmfs_server`` for one repository; ``state`` is a private directory for its output."""

    def __init__(self, settings: ServerSettings, state: Path) -> None:
        self.settings = settings
        self._state = state
        self._flag = settings.spool / TRANSACTION_FLAG
        self._publishing = settings.spool / PUBLISHING_LOCK
        self._output = state / "cvmfs_server.log"
        self.fifo = state / "tar"

    # --- what the spool area tells --------------------------------------

    def transaction(self) -> Mark | None:
        """The transaction that is open, whosever it is."""
        try:
            found = self._flag.stat()
        except OSError:
            return None
        return Mark(found.st_ino, found.st_ctime_ns)

    def describe_transaction(self) -> str:
        """Since when, and by whom, a transaction is open; for people."""
        try:
            found = self._flag.stat()
        except OSError:
            return "a transaction that has just ended"
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(found.st_ctime))
        return f"a transaction open since {since}"

    def others_work(self) -> str:
        """What somebody does that is to be waited for, for people; empty where there is nothing."""
        return self._transaction_or_publication() or (
            f"somebody has begun 'cvmfs_server {command}'"
            if (command := begun(self.settings.name))
            # One that has just ended has left its transaction open.
            else self._transaction_or_publication()
        )

    def others_collect(self) -> str:
        """The same of who checks what is stored, or deletes of it."""
        is_locked = is_flocked(self.settings.spool / COLLECTING_LOCK)
        return OTHERS_COLLECT if is_locked else ""

    def _transaction_or_publication(self) -> str:
        if self.transaction() is not None:
            return f"somebody has {self.describe_transaction()}"
        if is_flocked(self._publishing):
            return "somebody publishes, or mounts what was published,"
        return ""

    def show_newest(self) -> None:
        """Have the mount show what is newest once the transaction that is open ends.

        Opening one where another publisher has published meanwhile pins the mount to
        the revision of that moment.  What is published through a gateway, unlike on a
        stratum 0, leaves it pinned: it would not even show what we publish.
        """
        if not self.settings.gateway:
            return
        path = self.settings.spool / "client.local"
        try:
            lines = path.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if not line.startswith(_PIN)]
            if kept != lines:
                # In place, since cvmfs_server's user has to be its owner still.
                path.write_bytes(b"".join(kept))
        except OSError as error:
            log.warning("the mount may show an old revision: %s", error)

    def unmount(self, times: int) -> None:
        """Take away the mounts, of which there may be several upon one another."""
        for mount in ("rw_lazy_umount", *["rdonly_lazy_umount"] * times):
            with suppress(OSError):
                subprocess.run(
                    ["cvmfs_suid_helper", mount, self.settings.name],
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    check=False,
                )

    def mount_anew(self, token: str, lock: int) -> bool:
        """Mount what is published, while the lock of who publishes is held; whether it worked.

        Should we die, who does so has the lock until it is done; what is mounted has it not.
        """
        settings = self.settings
        mounts = {"rw_umount": settings.union, "rdonly_umount": settings.published}
        steps = [step for step, path in mounts.items() if is_mounted(path)]
        with open(self._output, "wb", opener=_private) as output, finishing():
            process = subprocess.Popen(
                ["/bin/sh", "-c", _STEPS, settings.name, *steps, "rdonly_mount", "rw_mount"],
                stdin=lock,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={**os.environ, TOKEN_VARIABLE: token},
                start_new_session=True,
            )
            status = self._end_of(process, "cvmfs_suid_helper")
        if status:
            log.info("mounting failed: %s", self._output.read_text(errors="backslashreplace"))
        return status == 0

    # --- calls ----------------------------------------------------------

    def run(
        self, *arguments: str, token: str = "", opened: Callable[[], None] | None = None
    ) -> str:
        """Run a command to its end and return its output; `ServerFailed` where it fails.

        ``opened`` is called once it is certain that the transaction that is open is
        the command's own.
        """
        with self._started(arguments, token) as process:
            while opened is not None and process.poll() is None:
                if any(name.startswith(_WORKER) for name in processes(token).values()):
                    # It is started with the transaction open, and not if it is another's.
                    opened()
                    break
                time.sleep(_WATCH_SECONDS)
            status = self._end_of(process, f"cvmfs_server {arguments[0]}")
        return self._outcome(arguments, status)

    def ingest(
        self,
        base: str,
        write: Callable[[TarStream], None],
        *,
        token: str,
        opened: Callable[[], None],
        ending: Callable[[], None],
    ) -> str:
        """Ingest what ``write`` writes, below ``base``; returns the output.

        It may be written, up to a point, before cvmfs_server has opened its transaction.
        ``opened`` is called once it is certain that the transaction that is open is
        its own, ``ending`` before the last piece is handed over, which starts the commit.
        What ``write`` raises makes the ingest fail, and is raised then.
        """
        fifo = self.fifo
        self._make_fifo(fifo)
        arguments = ["ingest", "-k", "-b", base, "-t", str(fifo), self.settings.name]
        failure: BaseException | None = None
        # Through a gateway, opening a transaction mostly changes what the mount shows.
        ahead = 0 if self.settings.gateway else _AHEAD_BYTES
        try:
            with (
                self._started(arguments, token) as process,
                closing(Feed(fifo, process, opened, ahead=ahead)) as feed,
            ):
                try:
                    stream = TarStream(feed.write, feed.connect)
                    write(stream)
                    feed.connect()
                    ending()
                    stream.close()
                except BrokenPipeError:
                    pass
                except BaseException as error:
                    failure = error
                    feed.spoil()
                feed.close()
                status = self._end_of(process, f"cvmfs_server {arguments[0]}")
        finally:
            fifo.unlink(missing_ok=True)
        if failure is not None:
            if status == 0:
                log.error("cvmfs_server took a part of an archive for a whole: %s", failure)
            raise failure
        return self._outcome(arguments, status)

    def _make_fifo(self, fifo: Path) -> None:
        if _PLAIN_PATH.fullmatch(str(fifo)) is None:
            raise RepositoryError(
                f"{fifo} has characters in it that cvmfs_server would have a shell read",
                hint="set repository.state to a directory with a plain name",
            )
        fifo.unlink(missing_ok=True)
        os.mkfifo(fifo, 0o600)
        if os.geteuid() == 0 and self.settings.owner != "root":
            # cvmfs_server reads it as the repository's owner.
            shutil.chown(fifo, user=self.settings.owner)

    @contextmanager
    def _started(self, arguments: Sequence[str], token: str) -> Iterator[subprocess.Popen[bytes]]:
        program = shutil.which("cvmfs_server")
        if program is None:
            raise RepositoryError(
                "cvmfs_server is not on the PATH",
                hint="install cvmfs-server on this machine, or run duccmake on the stratum 0",
            )
        log.info("cvmfs_server %s", " ".join(arguments))
        answers, ours = os.pipe()
        with open(self._output, "wb", opener=_private) as output:
            try:
                # It may ask, more than once, whether to go on although files are open.
                os.write(ours, b"y\n" * 16)
                process = subprocess.Popen(
                    [program, *arguments],
                    stdin=answers,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd="/",
                    env={**os.environ, TOKEN_VARIABLE: token} if token else None,
                    # An interrupt at the terminal is for us: the transaction is ended in order.
                    start_new_session=True,
                )
            finally:
                os.close(answers)
                os.close(ours)
        with finishing():
            try:
                yield process
            finally:
                process.wait()

    def _end_of(self, process: subprocess.Popen[bytes], command: str) -> int:
        """Wait for a command's end, and say who keeps it from mounting what it published."""
        ended = threading.Event()
        telling = threading.Thread(target=self._tell, args=(command, ended), daemon=True)
        telling.start()
        try:
            return process.wait()
        finally:
            ended.set()
            telling.join()

    def _tell(self, command: str, ended: threading.Event) -> None:
        told: list[str] = []
        while not ended.wait(_TELL_SECONDS):
            if command.endswith(("ingest", "publish")) and not self._is_mounting():
                continue
            found = holders(self.settings)
            if found != told:
                told = found
                log.warning(
                    "'%s' waits for the mounts of %s, in use by %s",
                    command,
                    self.settings.name,
                    " and ".join(found) or "nobody any more",
                )

    def _is_mounting(self) -> bool:
        output = self._output.read_text(errors="replace")
        return any(words in output for words in _MOUNTING)

    def _outcome(self, arguments: Sequence[str], status: int) -> str:
        output = self._output.read_text(errors="backslashreplace")
        if status == 0:
            log.debug("%s", output)
            return output
        if busy := busy_words(output):
            log.debug("%s", output)
            raise ServerBusy(
                f"'cvmfs_server {arguments[0]}' says: {busy}",
                output=output,
                opened=is_left_open(arguments[0], output),
            )
        lines = [line for line in output.splitlines() if line.strip()]
        for line in lines:
            log.info("cvmfs_server: %s", line)
        ended = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        last = " | ".join(line.strip() for line in lines[-_LAST_LINES:])[-1500:]
        found = f"'cvmfs_server {arguments[0]}' {ended}: {last or 'without a word'}"
        raise ServerFailed(found, output=output, hint=_hint(output))


def _hint(output: str) -> str:
    if "No space left" in output:
        return "free some space on the stratum 0"
    if "whitelist" in output and "expired" in output:
        return "sign the whitelist again: cvmfs_server resign"
    if "Current working directory is in" in output or "writable file descriptors" in output:
        return "leave the repository's directory on this machine"
    return ""


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def processes(token: str) -> dict[int, str]:
    """The processes that bear the token, and their names; not mounts, which outlive everything."""
    wanted = f"{TOKEN_VARIABLE}={token}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError):
            if wanted in (entry / "environ").read_bytes().split(b"\0"):
                name = (entry / "comm").read_text().strip()
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if not name.startswith("cvmfs2") and state != "Z":
                    found[int(entry.name)] = name
    return found
