"""A CernVM-FS repository, published on its stratum 0 or through a gateway."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, Protocol

from ...cvmfs.catalog import MARKER
from ...cvmfs.codec import Codec, Level
from ...cvmfs.storage import Storage
from ...cvmfs.storage.http import HttpStorage
from ...cvmfs.trust import Trust
from ...errors import RepositoryError
from ...fs.locks import held, is_held
from ...tree.directories import Directories
from ...tree.verify import Compared, Digests, Tree
from ..commit import Others, Part
from ..damage import Damage, Reading
from ..edits import Edits
from ..failures import reported
from ..layout import Layout
from ..model import ChangeSet
from ..publisher import Publisher
from .by_catalogs import ByCatalogs, clear
from .by_ingest import ByIngest
from .mount import Mount
from .options import obstacles, remarks, unknown_format
from .others import is_at_work
from .revision_tree import RevisionTree
from .revision_view import RevisionView
from .server import Server
from .settings import MOUNTS, REPOSITORIES, SPOOL, ServerSettings
from .staging import check_public, open_storage
from .structure import damage_above_trees, damage_of_tree
from .transaction import Transactions

log = logging.getLogger(__name__)


class Way(Protocol):
    """How a change set gets into the repository."""

    def publish(
        self, changes: ChangeSet, others: Others, more: Callable[[], Iterable[ChangeSet]]
    ) -> Part:
        """Publish a change set, and what gets ready meanwhile; returns all that was published."""
        ...

    def edit(self, edits: Edits) -> None:
        """Carry out edits alone."""
        ...

    def collect(self) -> None:
        """Free the storage of what no revision has."""
        ...


@dataclass(frozen=True, slots=True)
class Opened:
    """What a repository is published with while it is locked."""

    transactions: Transactions
    way: Way


class CvmfsRepository(Publisher[Opened]):
    """The repository ``name``; keeps to `Repository`.

    Where this machine publishes it, ``server_config`` has a directory with its settings, and
    it is read from its storage, one revision at a time.  Elsewhere it can only be read: so as
    well where ``url`` is that of its stratum 0 or of a replica, whose manifest is held to the
    master key in the file ``public_key`` if that is given, and without a URL from a client's
    mount below ``mounts`` (``clients_root`` where clients mount it elsewhere).

    ``state`` is a private directory for the lock and the journal (by default in the spool
    area), ``lock_seconds`` how long another publisher, and then somebody's open transaction,
    is waited for.  ``prefix`` is the directory of the repository that everything is put
    below; a gateway's lease is on it alone.

    ``publisher`` says whether catalogs are written here, as ``compression`` and
    ``hard_links`` have it, or by ``cvmfs_server ingest``.
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
        publisher: Literal["auto", "catalogs", "ingest"] = "auto",
        compression: str = Level.BALANCED,
        hard_links: bool = False,
        url: str = "",
        public_key: Path | None = None,
    ) -> None:
        super().__init__(mounts, name, clients_root=clients_root or mounts, variant_links=True)
        self._prefix = prefix.strip("/")
        self._clients = (clients_root or mounts) / name / self._prefix
        self._server_config = server_config
        self._lock_seconds = lock_seconds
        self._publisher = publisher
        self._codec = Codec(Level(compression))
        self._hard_links = hard_links
        self._revision: RevisionView | None = None
        settings = _settings(name, server_config)
        mounted = settings.published if settings else self._path
        spool = settings.spool if settings else SPOOL / name
        self._state = state or spool / "duccmake"
        self._mount = Mount(
            mounted,
            name,
            self._state / "mount.lock",
            is_busy=lambda: is_at_work(spool),
            seconds=lock_seconds,
        )
        self._read_from(mounted / self._prefix)
        storage: Storage | None = open_storage(settings) if settings else None
        trust = None
        if storage is None and url:
            storage = HttpStorage(url)
            trust = Trust(name, public_key) if public_key else None
        if storage is not None:
            layout = Layout(self._clients, variant_links=True)
            cache = self._state / "catalogs"
            self._revision = RevisionView(storage, layout, self._prefix, cache, trust)
            self._view = self._revision

    # --- reading --------------------------------------------------------

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read files of the repository inside: a mount stays as it is so long."""
        if self._revision is not None:
            yield
            return
        with self._mount.reading():
            yield

    @contextmanager
    def _shown_tree(self, path: PurePosixPath, directories: Directories) -> Iterator[Tree]:
        if self._revision is not None:
            yield RevisionTree(self._revision.revision, self._revision.at(path))
            return
        with self._mount.reading(), super()._shown_tree(path, directories) as tree:
            yield tree

    def _compared(self, path: PurePosixPath, reading: Reading) -> Compared:
        return Compared(content=reading.content, ignored=frozenset({MARKER}), read=reading.read)

    def compare(
        self,
        path: PurePosixPath,
        manifest: PurePosixPath,
        digests: Digests,
        reading: Reading,
        layers: Sequence[PurePosixPath] = (),
    ) -> Iterator[Damage]:
        """The differences between a tree and its manifest, and what is wrong with its catalogs."""
        yield from super().compare(path, manifest, digests, reading, layers)
        if self._revision is not None:
            yield from damage_of_tree(self._revision, path)

    def structure(self) -> Iterator[Damage]:
        """What is wrong with the catalogs above all trees."""
        if self._revision is not None:
            yield from damage_above_trees(self._revision)

    # --- publishing -----------------------------------------------------

    def is_locked(self) -> bool:
        """Whether somebody publishes at this moment, by this program."""
        return is_held(self._state / "lock")

    @property
    def own_directory(self) -> Path | None:
        """Where the lock and the journal are; None where this machine does not publish it."""
        return self._state if self._revision is not None else None

    def prepare(self) -> None:
        """Make the directory for the lock, the journal and catalogs."""
        with reported("lock the repository"):
            # The repository's owner, whom cvmfs_server may run as, reads the archive in it.
            self._state.mkdir(mode=0o711, parents=True, exist_ok=True)
            (self._state / "catalogs").mkdir(mode=0o755, exist_ok=True)

    @property
    def revision(self) -> int | None:
        """The number of the revision that is shown."""
        return self._revision.number if self._revision is not None else None

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
        self.prepare()
        with held(self._state / "lock", self._lock_seconds, writes=False):
            server = Server(settings, self._state)
            transactions = Transactions(
                server, self._state, self._lock_seconds, self._mount, self._prefix
            )
            with reported("recover the repository"):
                self._recover(transactions)
            assert self._revision is not None
            self._revision.renew()
            self._open = Opened(transactions, self._way(transactions, self._revision))
            try:
                yield
            finally:
                self._open = None

    def _way(self, transactions: Transactions, view: RevisionView) -> Way:
        settings = transactions.server.settings
        why = next(obstacles(settings), "") or unknown_format(view)
        if why and self._publisher == "catalogs":
            raise RepositoryError(
                f"catalogs of {self._name} cannot be written here: {why}",
                step="lock the repository",
                hint="set repository.publisher to 'auto'",
            )
        if self._publisher == "ingest" or why:
            why = why or "repository.publisher says so"
            log.info("%s is published by cvmfs_server ingest: %s", self._name, why)
            return ByIngest(transactions, view, self._path, self._prefix)
        if settings.upstream.startswith("S3,"):
            check_public(settings)
        log.info("%s is published by catalogs", self._name)
        return ByCatalogs(
            transactions,
            open_storage(settings),
            view,
            self._state,
            self._codec,
            hard_links=self._hard_links,
        )

    def remarks(self) -> Iterator[str]:
        """What an operator should know of how the repository is published, for people."""
        if self._revision is None:
            return
        settings = _settings(self._name, self._server_config)
        if settings is None or settings.gateway:
            return  # it is published as a gateway has it, and set up elsewhere
        why = next(obstacles(settings), "") or unknown_format(self._revision)
        if why and self._publisher == "auto":
            yield f"{self._name} is published by cvmfs_server ingest: {why}"
        yield from remarks(settings, self._revision)

    def _recover(self, transactions: Transactions) -> None:
        outcome = transactions.recover()
        if outcome:
            log.warning(
                "%s: the transaction of an interrupted publisher was %s", self._name, outcome
            )
        settings = transactions.server.settings
        clear(settings, self._state, open_storage(settings))
        transactions.mount_again()

    def _publish(
        self, opened: Opened, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]]
    ) -> Part:
        return opened.way.publish(changes, self._configs, more)

    def _edit(self, opened: Opened, edits: Edits) -> None:
        opened.way.edit(edits)

    def reclaim(self) -> None:
        """Free the storage of what no revision has, as ``cvmfs_server gc``; only under `lock`."""
        with reported("collect garbage"):
            self._opened("collect garbage").way.collect()


def _settings(name: str, directory: Path) -> ServerSettings | None:
    """What its server is told of a repository; None where this machine does not publish it."""
    try:
        return ServerSettings.read(name, directory)
    except RepositoryError:
        return None
