"""Publishing by ``cvmfs_server ingest``: a change set is one archive, which it takes apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from ...cvmfs.catalog import MARKER
from ...cvmfs.keeping import Keeping
from ...errors import RepositoryError
from ..commit import Commit, Others, Part
from ..edits import Edits, Tree
from ..model import ChangeSet
from .archive import Archive
from .contents import Contents
from .garbage import Garbage
from .members import Members
from .opaque import SpelledForm
from .removal import remove
from .revision_view import RevisionView
from .staging import open_storage
from .tar_writer import TarStream
from .transaction import Transactions


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
        self._keeping = Keeping.ingested(transactions.server.settings.nanoseconds)

    def publish(
        self,
        changes: ChangeSet,
        others: Others,
        more: Callable[[], Iterable[ChangeSet]],
    ) -> Part:
        """Publish a change set, and what gets ready meanwhile; returns all that was published."""
        self._make_prefix()
        opened = self._transactions
        form = SpelledForm()
        commit = Commit(self._view, form, changes, others)
        limit = opened.server.settings.max_chunk
        archive = Archive(commit, form, self._keeping, self._view, self._path, limit)
        overlaid = archive.overlaid()
        overlaid.clear(opened)
        opened.ingest(lambda stream: archive.write(stream, more))
        overlaid.settle(opened)
        remove(opened, archive.edits)
        self._view.renew()
        return commit.whole

    def edit(self, edits: Edits) -> None:
        """What is put and what is removed become visible one after the other, each as a whole."""
        self._make_prefix()
        if edits.puts or edits.catalogs:

            def write(stream: TarStream) -> None:
                Members(stream, self._keeping, self._path).edits(edits, _no_trees)

            self._transactions.ingest(write)
        remove(self._transactions, edits)
        self._view.renew()

    def collect(self) -> None:
        """Free the storage of what no revision has."""
        storage = open_storage(self._transactions.server.settings)
        Garbage(self._transactions, storage).collect()

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


def _no_trees(tree: Tree) -> Contents:
    raise RepositoryError(f"{tree.manifest} comes with no commit of images")
