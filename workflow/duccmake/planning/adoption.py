"""What was found in trees of DUCC's, remembered: looking through one takes long."""

from __future__ import annotations

from pathlib import Path

from ..fs.files import LineMemory
from ..repository import adoption
from ..repository.model import Repository
from .plan import RESULTS


class Leftovers:
    """Whiteouts' markers in the trees of a repository, each looked through once.

    ``results/REPOSITORY/leftovers.jsonl`` has of each tree its time in nanoseconds and the
    path of a marker, or an empty one; a tree that has changed is looked through again.
    """

    def __init__(self, repository: Repository) -> None:
        self._root = repository.layout.root
        self._memory = LineMemory(RESULTS / repository.name / "leftovers.jsonl")

    def find(self, tree: Path) -> str:
        """`adoption.leftover` of a tree."""
        key, changed = str(tree.relative_to(self._root)), tree.stat().st_mtime_ns
        match self._memory.get(key):
            case [int(then), str(path)] if then == changed:
                return path
        path = adoption.leftover(tree)
        self._memory.note(key, [changed, path])
        return path
