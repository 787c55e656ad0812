"""Removing what edits remove.

``cvmfs_server ingest -d`` removes whole trees from the catalogs at once, but takes a
colon for the end of a path and hands names to a shell: anything but the plainest
names is removed in the mounted repository, within a transaction.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..edits import Edits
from ..journal import remove_tree
from .contents import relative
from .transaction import Transactions

_PLAIN = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_./-]*")
_CALL_BYTES = 64 * 1024


def remove(transactions: Transactions, edits: Edits) -> None:
    """Carry out the removals of ``edits``; what is not there is passed over."""
    there = [path for path in edits.removals if os.path.lexists(path)]
    awkward = [path for path in there if not _is_plain(edits.root, path)]
    if awkward:

        def change(union: Path) -> None:
            for path in awkward:
                remove_tree(union / path.relative_to(edits.root))

        # Names go before the trees that they lead to.
        transactions.write(change)
    trees = [relative(edits.root, path) for path in there if _is_plain(edits.root, path)]
    for together in _calls(trees, one_by_one=transactions.server.settings.gateway):
        transactions.delete(together)


def _is_plain(root: Path, path: Path) -> bool:
    return _PLAIN.fullmatch(relative(root, path)) is not None


def _calls(paths: Iterable[bytes], *, one_by_one: bool) -> Iterator[list[bytes]]:
    together: list[bytes] = []
    for path in paths:
        if together and (one_by_one or sum(map(len, together)) + len(path) > _CALL_BYTES):
            yield together
            together = []
        together.append(path)
    if together:
        yield together
