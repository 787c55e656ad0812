"""A CernVM-FS repository, published on its stratum 0 or through a gateway.

A change set is one archive and one ``cvmfs_server ingest``: readers have the old
revision or the new one.  What is published is read through the mount.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath

from ...errors import RepositoryError
from ...fs.locks import held, is_held
from ...tree.verify import Digests, differences
from ..commit import Commit, Part
from ..edits import Edits
from ..failures import reported
from ..model import ChangeSet
from ..publisher import Publisher
from .archive import Archive
from .catalogs import MARKER
from .fidelity import Keeping
from .members import Members
from .mount import Mount
from .opaque import Packs
from .others import is_at_work
from .removal import remove
from .server import Server, ServerFailed
from .settings import MOUNTS, REPOSITORIES, SPOOL, ServerSettings
from .tar_writer import TarStream
from .transaction import Transactions

log = logging.getLogger(__name__)

_NOT_THERE = "cannot be found, aborting"
"""What cvmfs_server says of a link to nothing."""


class CvmfsRepository(Publisher[Transactions]):
    """The repository ``name``; keeps to `Repository`.

    Where this machine publishes it, ``server_config`` has a directory with its
    settings, and it is read from its spool area.  Elsewhere it can only be read,
    from a client's mount below ``mounts`` (``clients_root`` where clients mount it
    elsewhere).  ``state`` is a private directory for the lock and the journal (by
    default in the spool area), ``lock_seconds`` how long another publisher, and then
    somebody's open transaction, is waited for.  ``prefix`` is the directory of the
    repository that everything is put below; a gateway's lease is on it alone.
    """

    def __init__(
        self,
        name: str,
        *,
        mounts: Path = MOUNTS,
        server_config: Path = REPOSITORIES,
        state: Path | None = None,
        lock_seconds: float = 3600,
        clients_root: Path | None = None,
        prefix: str = "",
    ) -> None:
        super().__init__(mounts, name, clients_root=clients_root or mounts, variant_links=True)
        self._prefix = prefix.strip("/")
        self._clients = (clients_root or mounts) / name / self._prefix
        mounted = self._path
        self._server_config = server_config
        self._lock_seconds = lock_seconds
        spool = SPOOL / name
        with suppress(RepositoryError):
            settings = ServerSettings.read(name, server_config)
            mounted, spool = settings.published, settings.spool
        self._state = state or spool / "duccmake"
        self._read_from(mounted / self._prefix)
        self._mount = Mount(
            mounted,
            name,
            self._state / "mount.lock",
            is_busy=lambda: is_at_work(spool),
            seconds=lock_seconds,
        )

    # --- reading --------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read files of the repository inside: the mount stays as it is so long."""
        with self._mount.reading():
            yield

    def _compare(self, tree: Path, manifest: Path, digests: Digests) -> Iterator[str]:
        # Of attributes there are none but CernVM-FS' own.
        return differences(tree, manifest, digests, ignored=frozenset({MARKER}), xattrs=False)

    # --- publishing -----------------------------------------------------

    def is_locked(self) -> bool:
        """Whether somebody publishes at this moment, by this program."""
        return is_held(self._state / "lock")

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the repository for publishing; `RepositoryLocked` after the time limit.

        Entering aborts the transaction that a publisher of ours left open when it died.
        """
        settings = ServerSettings.read(self._name, self._server_config)
        if settings.gateway and not self._prefix:
            # Merging into the root catalog, a gateway passes over devices (seen with 2.12).
            raise RepositoryError(
                f"{self._name} is published through a gateway, which keeps no devices, and so no "
                "whiteouts, outside of a directory with a catalog of its own",
                step="lock the repository",
                hint="set repository.prefix, to 'containers' for example",
            )
        with reported("lock the repository"):
            # The repository's owner, whom cvmfs_server may run as, reads the archive in it.
            self._state.mkdir(mode=0o711, parents=True, exist_ok=True)
        with held(self._state / "lock", self._lock_seconds):
            server = Server(settings, self._state)
            transactions = Transactions(
                server, self._state, self._lock_seconds, self._mount, self._prefix
            )
            with reported("recover the repository"):
                self._recover(transactions)
            self._make_prefix(transactions)
            self._open = transactions
            try:
                yield
            finally:
                self._open = None

    def _recover(self, transactions: Transactions) -> None:
        outcome = transactions.recover()
        if outcome:
            log.warning(
                "%s: the transaction of an interrupted publisher was %s", self._name, outcome
            )
        if not self._mount.is_there:
            transactions.mount_again()

    def _make_prefix(self, transactions: Transactions) -> None:
        """Make the directory that everything is below, with a catalog of its own.

        An archive cannot be put where there is none.
        """
        if self._prefix and not self._view.exists(PurePosixPath(os.fsdecode(MARKER))):
            prefix = os.fsencode(self._prefix)
            mounted = transactions.server.settings.published

            def write(stream: TarStream) -> None:
                members = Members(stream, self._keeping(transactions), mounted)
                members.parents(prefix)
                members.directory(prefix)
                members.catalog(prefix)

            transactions.ingest(write, at_root=True)

    def _publish(
        self, opened: Transactions, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]]
    ) -> Part:
        settings = opened.server.settings
        packs = Packs()
        commit = Commit(self._view, packs, changes, self._configs)
        limit = settings.max_chunk if settings.chunking else 0
        archive = Archive(commit, packs, self._keeping(opened), self._path, limit=limit)
        if settings.chunking:
            archive.leave_out(archive.large_files().publish(opened, self._path))
        overlaid = archive.overlaid()
        overlaid.clear(opened)
        self._ingest(opened, archive, more)
        overlaid.settle(opened)
        remove(opened, archive.edits)
        return commit.whole

    @staticmethod
    def _ingest(
        transactions: Transactions, archive: Archive, more: Callable[[], Iterable[ChangeSet]]
    ) -> None:
        try:
            transactions.ingest(lambda stream: archive.write(stream, more))
        except ServerFailed as error:
            if not archive.has_links or _NOT_THERE not in error.output:
                raise
            # What a manifest says is published need not be there: somebody may have removed it.
            log.warning("%s; trying without links to other layers' files", error)
            transactions.ingest(lambda stream: archive.write(stream, more, linking=False))

    def reclaim(self) -> None:
        """Free the storage of what no revision has: ``cvmfs_server gc``; only under `lock`."""
        with reported("cvmfs_server gc"):
            self._opened("cvmfs_server gc").collect_garbage()

    def _edit(self, opened: Transactions, edits: Edits) -> None:
        """What is put and what is removed become visible one after the other, each as a whole."""
        if edits.puts or edits.catalogs:

            def write(stream: TarStream) -> None:
                Members(stream, self._keeping(opened), self._path).edits(edits)

            opened.ingest(write)
        remove(opened, edits)

    @staticmethod
    def _keeping(transactions: Transactions) -> Keeping:
        return Keeping(nanoseconds=transactions.server.settings.nanoseconds)
