"""Where things lie in a repository on disk: tests look at them from outside."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from duccmake.repository.layout import Layout


class OnDisk:
    """The paths of `Layout`, by the same names, below the directory ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = Layout(root)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._layout, name)
        if not callable(found):
            return self._below(found)
        return lambda *arguments: self._below(found(*arguments))

    def _below(self, found: Any) -> Any:
        return self.root / found if type(found) is PurePosixPath else found
