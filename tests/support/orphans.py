"""What a repository holds that no record leads to, looked up without the project's own survey."""

from __future__ import annotations

import json
from pathlib import Path

_BOOKS = ("remove-schedule.json", "history.json", "pins.json")


def unreachable(root: Path) -> list[str]:
    """Files, symlinks and empty directories that no record leads to."""
    reachable = {root / ".metadata" / name for name in _BOOKS}
    directories = [root / ".duccmake", root / "podmanStore"]
    for path in (root / ".metadata").rglob("record.json"):
        record = json.loads(path.read_bytes())
        config = record["config"].partition(":")[2]
        directories += [path.parent, root / ".flat" / config[:2] / config]
        directories.append(root / ".metadata" / ".flat" / config[:2] / config)
        reachable.add(root / record["name"])
        for layer in record["layers"]:
            digits = layer.partition(":")[2]
            directories.append(root / ".layers" / digits[:2] / digits)
    known = {str(directory) for directory in directories}
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path not in reachable
        and not known.intersection(map(str, (path, *path.parents)))
        and (path.is_symlink() or not path.is_dir() or not any(path.iterdir()))
    )
