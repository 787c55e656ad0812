"""A repository as DUCC leaves one: no records, no manifests of trees, Go's names in JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any


def leave_as_ducc(repository: Path) -> None:
    """Take away from a published repository what DUCC does not write."""
    metadata = repository / ".metadata"
    for path in metadata.rglob("record.json"):
        path.unlink()
    for path in metadata.rglob("manifest.json"):
        path.write_text(json.dumps(ducc_manifest(json.loads(path.read_bytes()))))
    for path in repository.glob(".layers/*/*/.metadata"):
        for name in ("tree.mtree", "layer.json"):
            (path / name).unlink(missing_ok=True)
    shutil.rmtree(metadata / ".flat", ignore_errors=True)
    shutil.rmtree(repository / ".duccmake", ignore_errors=True)


def ducc_manifest(members: dict[str, Any]) -> dict[str, Any]:
    """A manifest as DUCC writes it anew: what its structures have, under their names."""

    def descriptor(one: dict[str, Any]) -> dict[str, Any]:
        media = one.get("mediaType", "")
        return {"MediaType": media, "Size": one["size"], "Digest": one["digest"]}

    return {
        "SchemaVersion": members["schemaVersion"],
        "MediaType": members.get("mediaType", ""),
        "Config": descriptor(members["config"]),
        "Layers": [descriptor(layer) for layer in members["layers"]],
    }
