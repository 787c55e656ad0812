"""What was found in trees of DUCC's, remembered: looking through one takes long."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path

from .plan import RESULTS
from .repository import Repository, adoption
from .store import append_line


class Leftovers:
    """Whiteouts' markers in the trees of a repository, each looked through once.

    ``results/REPOSITORY/leftovers.jsonl`` has a line for each look, ``[tree, its time in
    nanoseconds, path of a marker or empty]``; a tree that has changed is looked through
    again, and its last line counts.
    """

    def __init__(self, repository: Repository) -> None:
        self._root = repository.layout.root
        self._memory = RESULTS / repository.name / "leftovers.jsonl"

    def find(self, tree: Path) -> str:
        """`adoption.leftover` of a tree."""
        key, changed = str(tree.relative_to(self._root)), tree.stat().st_mtime_ns
        known = self._known.get(key)
        if known is None or known[0] != changed:
            self._known[key] = known = (changed, adoption.leftover(tree))
            self._note(key, *known)
        return known[1]

    @cached_property
    def _known(self) -> dict[str, tuple[int, str]]:
        known = {}
        try:
            lines = self._memory.read_text().splitlines()
        except (OSError, UnicodeDecodeError):
            return {}
        for line in lines:
            try:
                key, changed, path = json.loads(line)
                known[str(key)] = (int(changed), str(path))
            except (ValueError, TypeError):
                # Of a run that was killed: that tree is looked through again.
                continue
        return known

    def _note(self, key: str, changed: int, path: str) -> None:
        self._memory.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._memory, json.dumps([key, changed, path]).encode() + b"\n")
