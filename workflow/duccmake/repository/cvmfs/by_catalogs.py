"""Publishing by catalogs: the next revision is made, then it is signed."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ...cvmfs.changes import Root
from ...cvmfs.codec import Codec
from ...cvmfs.keeping import Keeping
from ...cvmfs.manifest import Manifest
from ...cvmfs.objects import Objects
from ...cvmfs.storage import PUBLISHED, Storage
from ...errors import DuccmakeError
from ...fs.files import remove_tree
from ..commit import Commit, Others, Part
from ..edits import Edits
from ..model import ChangeSet
from .auto_gc import timespan_if_due
from .garbage import Garbage, check_references
from .next_revision import CatalogForm, NextRevision
from .publication import TEMPORARY, Publication
from .revision_view import RevisionView
from .settings import ServerSettings
from .tools import Tools
from .transaction import Transactions
from .unsigned import Unsigned

log = logging.getLogger(__name__)

_OBJECTS = "objects-"


def clear(settings: ServerSettings, state: Path, storage: Storage) -> None:
    """Remove what a publisher that was killed has left, besides what it had stored."""
    made = (settings.spool / "tmp").glob(f"{TEMPORARY}*")
    for left in (*state.glob(f"{_OBJECTS}*"), *made):
        remove_tree(left)
    storage.clear()


class ByCatalogs:
    """Publishes into the repository of ``transactions`` what ``view`` shows then."""

    def __init__(
        self,
        transactions: Transactions,
        storage: Storage,
        view: RevisionView,
        state: Path,
        codec: Codec,
        *,
        hard_links: bool = False,
    ) -> None:
        settings = transactions.server.settings
        self._transactions = transactions
        self._storage = storage
        self._view = view
        self._state = state
        self._unsigned = Unsigned(state)
        self._garbage = Garbage(transactions, storage)
        self._codec = codec
        self._keeping = Keeping(settings.nanoseconds, hard_links)
        self._publication = Publication(settings, storage, Tools(settings, settings.spool / "tmp"))

    def publish(
        self,
        changes: ChangeSet,
        others: Others,
        more: Callable[[], Iterable[ChangeSet]],
    ) -> Part:
        """Publish a change set, and what has got ready by then; returns all that was published."""
        done = Part({}, (), {}, {})

        def fill(revision: NextRevision) -> None:
            nonlocal changes, more, done
            form = CatalogForm()
            commit = Commit(revision.view, form, changes, others)
            revision.commit(commit, form, more)
            done = commit.whole
            # If somebody else is faster, all of it is published with the next try.
            changes, more = ChangeSet(tuple(done.layers.values()), done.images), tuple

        self._carry_out(fill)
        return done

    def edit(self, edits: Edits) -> None:
        """Carry out edits, in one revision."""
        self._carry_out(lambda revision: revision.edit(edits, {}))

    def collect(self) -> None:
        """Free the storage of what no revision has."""
        self._garbage.collect()
        self._unsigned.free(self._storage, self._transactions)

    def _carry_out(self, fill: Callable[[NextRevision], None]) -> None:
        """Publish the revision that ``fill`` says; nothing where it changes nothing."""
        self._publication.check_whitelist()
        check_references(self._transactions.server.settings, self._storage)
        with tempfile.TemporaryDirectory(prefix=_OBJECTS, dir=self._state) as directory:

            def make() -> tuple[NextRevision, Root | None]:
                self._view.renew()
                objects = Objects(Path(tempfile.mkdtemp(dir=directory)), self._codec)
                revision = NextRevision(
                    self._view, self._storage, objects, self._keeping, self._unsigned
                )
                fill(revision)
                return revision, revision.finish()

            made, root = make()

            def work() -> None:
                nonlocal made, root
                base = self._storage.file(PUBLISHED)
                if Manifest.parse(base).root != made.base.root:
                    log.info("somebody else has published meanwhile: all is made for that")
                    made, root = make()
                else:
                    made.complete()
                if root is not None:
                    self._publication.publish(base, root)
                    made.signed()
                    self._publication.show(root)

            if root is not None:
                self._transactions.alone(work)
        self._view.renew()
        if root is not None:
            self._collect_if_due()

    def _collect_if_due(self) -> None:
        """Collect garbage where the server would do so now; what was published stays so."""
        try:
            if since := timespan_if_due(self._transactions.server.settings, self._storage):
                self._garbage.collect(since)
                self._unsigned.free(self._storage, self._transactions)
        except (DuccmakeError, OSError) as error:
            log.warning("what was published is there, but garbage was not collected: %s", error)
