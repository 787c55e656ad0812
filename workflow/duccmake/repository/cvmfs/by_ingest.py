"""Publishing by ``cvmfs_server ingest``: a change set is one archive, which it takes apart."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ..commit import Commit, Others, Part
from ..edits import Edits
from ..model import ChangeSet
from .archive import Archive
from .catalogs import MARKER
from .fidelity import Keeping
from .members import Members
from .opaque import Packs
from .removal import remove
from .revision_view import RevisionView
from .server import ServerFailed
from .tar_writer import TarStream
from .transaction import Transactions

log = logging.getLogger(__name__)

_NOT_THERE = "cannot be found, aborting"
"""What cvmfs_server says of a link to nothing."""


class ByIngest:
    """Publishes into the repository of ``transactions``, which shows ``view``.

    ``path`` is where it is mounted, below ``prefix`` if not at its root.
    """

    def __init__(
        self, transactions: Transactions, view: RevisionView, path: Path, prefix: str
    ) -> None:
        self._transactions = transactions
        self._view = view
        self._path = path
        self._prefix = prefix
        self._keeping = Keeping(nanoseconds=transactions.server.settings.nanoseconds)

    def publish(
        self,
        changes: ChangeSet,
        others: Others,
        more: Callable[[], Iterable[ChangeSet]],
    ) -> Part:
        """Publish a change set, and what gets ready meanwhile; returns all that was published."""
        self._make_prefix()
        opened = self._transactions
        settings = opened.server.settings
        packs = Packs()
        commit = Commit(self._view, packs, changes, others)
        limit = settings.max_chunk if settings.chunking else 0
        archive = Archive(commit, packs, self._keeping, self._path, limit=limit)
        if settings.chunking:
            archive.leave_out(archive.large_files().publish(opened, self._path))
        overlaid = archive.overlaid()
        overlaid.clear(opened)
        self._ingest(archive, more)
        overlaid.settle(opened)
        remove(opened, archive.edits)
        self._view.renew()
        return commit.whole

    def edit(self, edits: Edits) -> None:
        """What is put and what is removed become visible one after the other, each as a whole."""
        self._make_prefix()
        if edits.puts or edits.catalogs:

            def write(stream: TarStream) -> None:
                Members(stream, self._keeping, self._path).edits(edits)

            self._transactions.ingest(write)
        remove(self._transactions, edits)
        self._view.renew()

    def _make_prefix(self) -> None:
        """Make the directory that everything is below, with a catalog of its own.

        An archive cannot be put where there is none.
        """
        if self._prefix and not self._view.exists(PurePosixPath(os.fsdecode(MARKER))):
            prefix = os.fsencode(self._prefix)
            mounted = self._transactions.server.settings.published

            def write(stream: TarStream) -> None:
                members = Members(stream, self._keeping, mounted)
                members.parents(prefix)
                members.directory(prefix)
                members.catalog(prefix)

            self._transactions.ingest(write, at_root=True)
            self._view.renew()

    def _ingest(self, archive: Archive, more: Callable[[], Iterable[ChangeSet]]) -> None:
        try:
            self._transactions.ingest(lambda stream: archive.write(stream, more))
        except ServerFailed as error:
            if not archive.has_links or _NOT_THERE not in error.output:
                raise
            # What a manifest says is published need not be there: somebody may have removed it.
            log.warning("%s; trying without links to other layers' files", error)
            self._transactions.ingest(lambda stream: archive.write(stream, more, linking=False))
