"""A repository in a plain directory: for evaluation, and for sites without CernVM-FS.

Layers are renamed into their place, flat trees are hard links into them, and the
public symlinks are swapped last, each in one step.  Everything of a change set is
made under temporary names first; the journal then renames it into its place.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from ...fs import syscalls
from ...fs.locks import held, is_held
from ...tree.build import FlatMode
from ..commit import Commit, Part
from ..edits import Edits
from ..failures import reported
from ..model import ChangeSet
from ..publisher import Publisher
from ..view import DirectoryView
from .journal import Journal, Move
from .prepare import EditsAsRenames, Preparation

log = logging.getLogger(__name__)


class DirectoryRepository(Publisher[Journal]):
    """The repository ``name`` in the directory ``root / name``; keeps to `Repository`.

    ``flat`` says how flat trees get their files: ``hardlink`` (shared with the
    layers), ``reflink`` (their own inodes, shared data) or ``copy``.
    ``lock_seconds`` is how long `lock` waits for another publisher.  ``durable``
    has what is published reach the disk before it becomes visible; without it a
    crash of the machine, though not of the program, may lose content.
    ``clients_root`` is what stands for ``root`` on the machines that use the repository.
    Nothing is written before `lock` is entered.
    """

    def __init__(
        self,
        root: Path,
        name: str,
        *,
        flat: FlatMode = "hardlink",
        lock_seconds: float = 3600,
        durable: bool = True,
        clients_root: Path | None = None,
    ) -> None:
        super().__init__(root, name, clients_root=clients_root)
        self._flat: FlatMode = flat
        self._lock_seconds = lock_seconds
        self._durable = durable
        self._private = self._path / ".duccmake"
        self._journal = Journal(self._private / "journal.json", self._path, self._sync)

    def is_locked(self) -> bool:
        """Whether somebody publishes at this moment."""
        return is_held(self._private / "lock")

    @property
    def own_directory(self) -> Path:
        """Where the lock and the journal are."""
        return self._private

    def prepare(self) -> None:
        """Make the repository's directory and the one of its own."""
        with reported("lock the repository"):
            if not self._path.is_dir():
                self._path.mkdir(parents=True, exist_ok=True)
                self._path.chmod(0o755)
            self._private.mkdir(mode=0o700, exist_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the repository for publishing; `RepositoryLocked` after the time limit.

        Entering finishes or undoes what a publisher that died left behind.
        """
        self.prepare()
        with held(self._private / "lock", self._lock_seconds):
            with reported("recover the repository"):
                outcome = self._journal.recover()
            if outcome:
                log.warning("%s: what an interrupted publisher left was %s", self._path, outcome)
            self._open = self._journal
            try:
                yield
            finally:
                self._open = None

    @property
    def _tree(self) -> DirectoryView:
        return DirectoryView(self._path, self._layout)

    def _publish(
        self, opened: Journal, changes: ChangeSet, more: Callable[[], Iterable[ChangeSet]]
    ) -> Part:
        # That is too quick to ask for more.
        preparation = Preparation(self._tree, flat=self._flat)
        commit = Commit(self._view, preparation, changes, self._configs)
        edits = Edits(self._view)
        temporaries = preparation.temporaries(commit.whole)
        with self._transaction(opened, temporaries, edits) as moves:
            commit.carry_out(preparation, edits)
            moves += preparation.moves
        return commit.whole

    def _edit(self, opened: Journal, edits: Edits) -> None:
        """All of the edits are carried out or, when this raises, none."""
        with self._transaction(opened, [], edits):
            pass

    @contextmanager
    def _transaction(
        self, journal: Journal, temporaries: Iterable[PurePosixPath], edits: Edits
    ) -> Iterator[list[Move]]:
        """Carry out the renames that the body adds and the edits that it makes, or nothing."""
        moves: list[Move] = []
        try:
            journal.begin(temporaries)
            yield moves
            renames = EditsAsRenames(self._tree, edits)
            journal.extend(renames.temporaries())
            moves += renames.prepare()
            journal.commit(moves, edits.removals, edits.times)
        except Exception:
            journal.recover()
            raise
        journal.recover()

    def _sync(self) -> None:
        if self._durable:
            syscalls.sync_filesystem(self._path)
