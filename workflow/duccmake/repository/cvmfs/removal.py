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

from ...fs.files import remove_tree
from ..edits import Edits
from .transaction import Transactions

_PLAIN = re.compile(rb"[A-Za-z0-9_.][A-Za-z0-9_./-]*")
_CALL_BYTES = 64 * 1024


def remove(transactions: Transactions, edits: Edits) -> None:
    """Carry out the removals of ``edits``; what is not there is passed over."""
    there = [path for path in edits.removals if edits.view.exists(path)]
    awkward = [
        path for path in there if path.parent in edits.times or not is_plain(os.fsencode(path))
    ]
    if awkward:

        def change(union: Path) -> None:
            for path in awkward:
                remove_tree(union / path)
            for path, ns in edits.times.items():
                os.utime(union / path, ns=(ns, ns))

        # Names go before the trees that they lead to.
        transactions.write(change)
    delete(transactions, (os.fsencode(path) for path in there if path not in awkward))


def delete(transactions: Transactions, paths: Iterable[bytes]) -> None:
    """Delete paths that are plain, in as few calls as that can be done in."""
    for together in _calls(paths, one_by_one=transactions.server.settings.gateway):
        transactions.delete(together)


def is_plain(path: bytes) -> bool:
    """Whether ``cvmfs_server ingest -d`` takes a path as it is."""
    return _PLAIN.fullmatch(path) is not None


def _calls(paths: Iterable[bytes], *, one_by_one: bool) -> Iterator[list[bytes]]:
    together: list[bytes] = []
    for path in paths:
        if together and (one_by_one or sum(map(len, together)) + len(path) > _CALL_BYTES):
            yield together
            together = []
        together.append(path)
    if together:
        yield together
