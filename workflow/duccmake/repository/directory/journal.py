"""A transaction of renames that a crash at any point leaves undone or finishes.

Everything that is published is first made under a temporary name beside its
place.  The journal says which names those are, then (the commit point) which
renames publish them.  Until the commit point recovery removes the temporaries;
after it, recovery carries out the renames that are still to be done.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import RepositoryError
from ...fs import syscalls
from ...fs.files import remove_tree
from ..layout import temporary

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Move:
    """One rename; paths are relative to the repository.

    ``inode`` is the number of a directory's inode, by which a swap that is
    already done is known; 0 for files and symlinks, which a rename replaces.
    """

    temporary: str
    final: str
    inode: int = 0


class Journal:
    """The journal of the repository in ``root``, kept in the file ``path``.

    ``sync`` makes what was written so far durable.
    """

    def __init__(self, path: Path, root: Path, sync: Callable[[], None]) -> None:
        self._path = path
        self._draft = path.with_suffix(".new")
        self._root = root
        self._sync = sync

    def begin(self, temporaries: Iterable[PurePosixPath]) -> None:
        """Note the names that the transaction may make."""
        self._write({"phase": "preparing", "temporaries": list(map(str, temporaries))})

    def extend(self, temporaries: Iterable[PurePosixPath]) -> None:
        """Note more names, before they are made."""
        state = self._read()
        state["temporaries"] += map(str, temporaries)
        self._write(state)

    def commit(
        self,
        moves: Iterable[Move],
        removals: Collection[PurePosixPath],
        times: Mapping[PurePosixPath, int] | None = None,
    ) -> None:
        """The commit point: from here on the transaction will be carried out.

        ``removals`` cease to be, directories with all that is in them; directories
        have the ``times`` (in nanoseconds) afterwards.
        """
        state = self._read()
        state["phase"] = "committing"
        state["moves"] = [asdict(move) for move in moves]
        state["removals"] = list(map(str, removals))
        state["times"] = {str(path): ns for path, ns in (times or {}).items()}
        state["temporaries"] += map(str, map(temporary, removals))
        self._sync()
        self._write(state)

    def recover(self) -> str:
        """Finish or undo the transaction that the file tells of.

        Returns ``finished``, ``undone`` or, where there was none, nothing.
        """
        self._draft.unlink(missing_ok=True)
        if not self._path.exists():
            return ""
        state = self._read()
        committed = state["phase"] == "committing"
        if committed:
            for move in state["moves"]:
                self._carry_out(Move(**move))
            for name in state["removals"]:
                _take_away(self._root / name)
        times = {self._root / name: ns for name, ns in state.get("times", {}).items()}
        for name in state["temporaries"]:
            self._discard(self._root / name, times)
        for path, ns in times.items():
            with suppress(FileNotFoundError):
                os.utime(path, ns=(ns, ns))
        # The renames must be on the disk before what would repeat them is gone.
        self._sync()
        self._path.unlink()
        return "finished" if committed else "undone"

    def _carry_out(self, move: Move) -> None:
        new, final = self._root / move.temporary, self._root / move.final
        if move.inode:
            if not final.exists() or final.stat().st_ino != move.inode:
                put_directory(new, final)
            return
        try:
            new.rename(final)
        except FileNotFoundError:
            if not os.path.lexists(final):
                raise

    def _discard(self, path: Path, staying: Collection[Path]) -> None:
        remove_tree(path)
        remove_tree(_aside(path))
        for parent in path.parents:
            if parent == self._root or parent in staying:
                return
            try:
                parent.rmdir()
            except OSError:
                return

    def _read(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads(self._path.read_bytes())
            if state["format"] == _FORMAT:
                return state
        except (ValueError, KeyError, TypeError):
            pass
        raise RepositoryError(
            f"the journal {self._path} is damaged or of another version",
            hint="finish with the version that wrote it, or see config/README.md",
        )

    def _write(self, state: dict[str, Any]) -> None:
        state["format"] = _FORMAT
        with self._draft.open("w") as out:
            json.dump(state, out)
            out.flush()
            os.fsync(out.fileno())
        self._draft.rename(self._path)
        descriptor = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _take_away(path: Path) -> None:
    """Hide a path in one step, under its temporary name, which is discarded afterwards."""
    if os.path.lexists(path):
        remove_tree(temporary(path))
        path.rename(temporary(path))


def put_directory(new: Path, final: Path) -> None:
    """Rename a directory into its place; what was there ends under the name ``new``."""
    if not os.path.lexists(final):
        new.rename(final)
    elif not syscalls.exchange(new, final):
        # No swap in one step here: for a moment there is nothing in the place.
        old = _aside(new)
        remove_tree(old)
        final.rename(old)
        new.rename(final)
        old.rename(new)


def _aside(new: Path) -> Path:
    return new.with_suffix(".old")
