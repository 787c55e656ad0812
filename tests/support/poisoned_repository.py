"""A repository as versions left one that believed what configurations say of layers.

An image that named another's configuration over a layer of its own made that image's flat
tree, and that layer podman's for the other's diff_id.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.shared_images import Spec, digest

_RECORD = {
    *("format", "name", "platform", "manifest", "config", "layers", "products", "losses"),
    "source",
}
_FLAT = {"format", "config", "layers", "losses", "layer_losses"}
_LAYER = {"format", "digest", "blob_bytes", "diff_bytes", "compression", "entries", "lost"}
_DUCC = {
    *("id", "parent", "created", "compressed-diff-digest", "compressed-size", "diff-digest"),
    "diff-size",
}
_STORED = {*_DUCC, "compression"}


def poison(repository: Path, victim: tuple[str, Spec], liar: tuple[str, Spec]) -> None:
    """Have a published image, by its path and what it is, be what the liar made of it.

    Each has one layer; that of the liar is published by another name too.
    """
    name, honest = victim
    path, lie = liar
    (good,), (evil,) = honest.blobs, lie.blobs
    config = digest(honest.config)
    metadata = repository / ".metadata"
    flat, flat_metadata = _of(repository / ".flat", config), _of(metadata / ".flat", config)

    # The flat tree is one of the liar's layer.
    evil_files = _of(repository / ".layers", evil.digest) / "layerfs"
    (flat / "content").unlink()
    os.link(evil_files / "content", flat / "content")
    evil_tree = (evil_files.parent / ".metadata/tree.mtree").read_text()
    (line,) = [line for line in evil_tree.splitlines() if line.startswith("./content ")]
    listing = (flat_metadata / "tree.mtree").read_text().replace(good.digest, evil.digest)
    lines = [
        f"{line} tags=layer:0" if known.startswith("./content ") else known
        for known in listing.splitlines()
    ]
    (flat_metadata / "tree.mtree").write_text("\n".join(lines) + "\n")
    _edit(flat_metadata / "flat.json", lambda members: members | {"layers": [evil.digest]})
    _edit(
        evil_files.parent / ".metadata/origin.json",
        lambda members: {"origin": sorted({*members["origin"], config})},
    )

    # The liar is published.
    (metadata / path).mkdir(parents=True)
    (metadata / path / "manifest.json").write_bytes(lie.manifest)
    record = json.loads((metadata / name / "record.json").read_bytes())
    record |= {"name": path, "manifest": digest(lie.manifest), "layers": [evil.digest]}
    (metadata / path / "record.json").write_text(json.dumps(record, indent=1) + "\n")
    link = repository / path
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(os.path.relpath(flat, link.parent))
    _poison_podman(repository, honest, path, lie)
    _as_it_was(repository)


def _poison_podman(repository: Path, honest: Spec, path: str, lie: Spec) -> None:
    store = repository / "podmanStore"
    (good,), (evil,) = honest.blobs, lie.blobs
    identity = good.diff_id.partition(":")[2]
    diff = store / "overlay" / identity / "diff"
    target = str(diff.readlink()).replace(_key(good.digest), _key(evil.digest))
    diff.unlink()
    diff.symlink_to(target)
    layers = json.loads((store / "overlay-layers/layers.json").read_bytes())
    (layer,) = [layer for layer in layers if layer["id"] == identity]
    layer |= {"compressed-diff-digest": evil.digest, "compressed-size": len(evil.content)}
    _write(store / "overlay-layers/layers.json", [_reduced(_STORED, each) for each in layers])

    config, manifest = digest(honest.config), digest(lie.manifest)
    images = json.loads((store / "overlay-images/images.json").read_bytes())
    (image,) = [image for image in images if image["id"] == config.partition(":")[2]]
    image["published"][path] = manifest
    image["names"].append(path)
    key = f"manifest-{manifest}"
    image["big-data-names"].append(key)
    image["big-data-sizes"][key] = len(lie.manifest)
    image["big-data-digests"][key] = manifest
    file = f"={base64.b64encode(key.encode()).decode()}"
    (store / "overlay-images" / image["id"] / file).write_bytes(lie.manifest)
    _write(store / "overlay-images/images.json", images)


def _as_it_was(repository: Path) -> None:
    """In the formats of then, with nothing that has come since."""
    for path in repository.glob(".metadata/**/record.json"):
        _edit(path, lambda members: _reduced(_RECORD, members) | {"format": 1})
    for path in repository.glob(".metadata/.flat/*/*/flat.json"):
        _edit(path, lambda members: _reduced(_FLAT, members) | {"format": 1})
    for path in repository.glob(".layers/*/*/.metadata/layers.json"):
        (layer,) = json.loads(path.read_bytes())
        path.write_text(json.dumps([_reduced(_DUCC, layer)], indent=1) + "\n")
        diff_id = {"diff_id": layer["diff-digest"], "format": 2}
        _edit(path.with_name("layer.json"), lambda m, more=diff_id: _reduced(_LAYER, m) | more)


def _reduced(known: set[str], members: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in members.items() if key in known}


def _edit(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    changed = change(json.loads(path.read_bytes()))
    path.write_text(json.dumps(changed, indent=1) + "\n")


def _write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")))


def _of(base: Path, key: str) -> Path:
    return base / _key(key)


def _key(key: str) -> str:
    hexadecimal = key.partition(":")[2]
    return f"{hexadecimal[:2]}/{hexadecimal}"
