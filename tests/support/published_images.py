"""What a repository shows of images, read as its readers do; nothing here is duccmake's."""

from __future__ import annotations

import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from support.shared_images import Blob, Spec, Tree, digest, own_files

_GENERATED = re.compile(
    r"(\.singularity\.d(/.*)?|singularity|environment|\.(exec|run|shell|test)|dev|proc|sys|root|home"
    r"|tmp|var(/tmp)?|etc(/hosts|/resolv\.conf|/passwd|/group)?|cvmfs|srv)\Z"
)
"""What flat trees have beyond the image."""

_COMPRESSION = {b"\x1f\x8b": 2, b"\x28\xb5": 4}
"""As containers/storage numbers them, by how blobs begin; 0 is none."""

_WHITEOUT, _OPAQUE = "whiteout", ".wh..wh..opq"


class Reader:
    """The repository in the directory ``root``; each method tells what is wrong, in lines."""

    def __init__(self, root: Path, host: str) -> None:
        self._root = root
        self._host = host
        self._store = root / "podmanStore"
        self._images = _entries(self._store / "overlay-images/images.json")
        self._layers = {
            layer["id"]: layer for layer in _entries(self._store / "overlay-layers/layers.json")
        }

    def names(self) -> set[str]:
        """Repositories and tags that have a link."""
        base = self._root / self._host
        found = (path for path in base.rglob("*") if path.is_symlink())
        return {str(path.relative_to(base)) for path in found}

    def problems(
        self, prefix: str, specs: Sequence[Spec], visible: Mapping[str, Spec]
    ) -> Iterator[str]:
        """Of the images whose names begin with ``prefix``, where ``visible`` alone shall be there.

        ``specs`` are all that there are, those that were refused too.
        """
        yield from self._extra(prefix, visible)
        yield from self._flats(specs, visible)
        yield from self._blobs({blob.digest: blob for spec in specs for blob in spec.blobs})
        for name, spec in visible.items():
            yield from self._image(name, spec)
            yield from self._podman_image(name, spec)
        yield from self._podman_extra(specs, visible)

    def _extra(self, prefix: str, visible: Mapping[str, Spec]) -> Iterator[str]:
        metadata = self._root / ".metadata" / self._host / prefix
        recorded = {f"{prefix}{path.parent.name}" for path in metadata.glob("*/*.json")}
        linked = {name for name in self.names() if name.startswith(prefix)}
        for name in sorted((recorded | linked) - visible.keys()):
            yield f"{name} is visible"

    # --- flat trees and layers --------------------------------------------

    def _flats(self, specs: Sequence[Spec], visible: Mapping[str, Spec]) -> Iterator[str]:
        wanted = {digest(spec.config) for spec in visible.values()}
        for config in {digest(spec.config) for spec in specs} - wanted:
            for base in (self._root / ".flat", self._root / ".metadata/.flat"):
                if os.path.lexists(_below(base, config)):
                    yield f"there is a flat tree of {config[:19]}, which no image has by rights"

    def _image(self, name: str, spec: Spec) -> Iterator[str]:
        link = self._root / self._host / name
        if not link.is_dir():
            yield f"{name} ({spec.kind}) is not there"
            return
        config = digest(spec.config).partition(":")[2]
        if link.resolve().name != config:
            yield f"{name} ({spec.kind}) leads to {link.resolve().name}, not to {config}"
        found = {path: what for path, what in read(link).items() if not _GENERATED.match(path)}
        yield from compared(f"{name} ({spec.kind})", spec.tree, found)
        record = json.loads(
            (self._root / ".metadata" / self._host / name / "record.json").read_bytes()
        )
        if record["layers"] != [blob.digest for blob in spec.blobs]:
            yield f"{name} ({spec.kind}) has the record of other layers"

    def _blobs(self, blobs: Mapping[str, Blob]) -> Iterator[str]:
        """Each layer that is published has its blob's files and no others."""
        for found, blob in blobs.items():
            tree = _below(self._root / ".layers", found) / "layerfs"
            if tree.is_dir():
                files = {path: what for path, what in read(tree).items() if what != _WHITEOUT}
                files = {path: what for path, what in files.items() if not path.endswith(_OPAQUE)}
                yield from compared(f"the layer {found[:19]}", own_files(blob.tar), files)

    # --- podman's store ------------------------------------------------------

    def _podman_image(self, name: str, spec: Spec) -> Iterator[str]:
        entries = [entry for entry in self._images if f"{self._host}/{name}" in entry["names"]]
        if [entry["id"] for entry in entries] != [digest(spec.config).partition(":")[2]]:
            yield f"podman knows {len(entries)} images as {name} ({spec.kind}), or another one"
            return
        chain = self._chain(entries[0].get("layer", ""))
        if [layer.get("diff-digest") for layer in chain] != list(spec.claims):
            yield f"podman's {name} ({spec.kind}) has other layers than its configuration"
            return
        overlay = self._store / "overlay"
        diffs = [self._here(overlay / layer["id"] / "diff") for layer in chain]
        yield from compared(f"podman's {name} ({spec.kind})", spec.tree, overlaid(diffs))
        mounted = [*self._lower(chain[-1]["id"])[::-1], diffs[-1]]
        yield from compared(f"podman's mount of {name}", spec.tree, overlaid(mounted))
        if f"manifest-{digest(spec.manifest)}" not in entries[0]["big-data-names"]:
            yield f"podman has not the manifest of {name} ({spec.kind})"

    def _chain(self, identity: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while identity:
            found.append(self._layers[identity])
            identity = self._layers[identity].get("parent", "")
        return found[::-1]

    def _lower(self, identity: str) -> list[Path]:
        """What the driver mounts below a layer, uppermost first."""
        overlay = self._store / "overlay"
        lower = overlay / identity / "lower"
        links = lower.read_text().split(":") if lower.exists() else []
        return [self._here(overlay / "l" / (overlay / link).readlink()) for link in links]

    def _here(self, diff: Path) -> Path:
        """A layer of the store, where this repository is read: clients may see it elsewhere."""
        if not diff.is_symlink():
            return diff
        return self._root / ".layers" / str(diff.readlink()).partition("/.layers/")[2]

    def _podman_extra(self, specs: Sequence[Spec], visible: Mapping[str, Spec]) -> Iterator[str]:
        """Nothing of what was refused, and of no layer what is not measured."""
        configs = {digest(spec.config).partition(":")[2] for spec in specs}
        wanted = {f"{self._host}/{name}" for name in visible}
        manifests = {f"manifest-{digest(spec.manifest)}" for spec in visible.values()}
        for entry in self._images:
            if entry["id"] in configs:
                for name in set(entry["names"]) - wanted:
                    yield f"podman knows {name}"
                for key in entry["big-data-names"]:
                    if key.startswith("manifest-") and key not in manifests:
                        yield f"podman has the manifest {key[9:28]}, which is refused"
        blobs = {blob.digest: blob for spec in visible.values() for blob in spec.blobs}
        tars = {claim: blob.tar for blob in blobs.values() for claim in _diff_ids(blob)}
        all_blobs = {blob.digest for spec in specs for blob in spec.blobs}
        all_claims = {claim for spec in specs for claim in spec.claims}
        for layer in self._layers.values():
            compressed, claim = layer["compressed-diff-digest"], layer["diff-digest"]
            if compressed in all_blobs or claim in all_claims:
                yield from self._podman_layer(layer, blobs.get(compressed), tars.get(claim))

    def _podman_layer(
        self, layer: Mapping[str, Any], blob: Blob | None, tar: bytes | None
    ) -> Iterator[str]:
        title = f"podman's layer of {layer['diff-digest'][:19]}"
        if blob is None or tar is None:
            yield f"{title} is of no image that is there"
            return
        if blob.tar != tar:
            yield f"{title} is a blob that unpacks to {blob.diff_id[:19]}"
        stated = {
            "diff-size": layer.get("diff-size"),
            "compressed-size": layer.get("compressed-size"),
            "compression": layer.get("compression", 0),
        }
        measured = {
            "diff-size": len(tar),
            "compressed-size": len(blob.content),
            "compression": _COMPRESSION.get(blob.content[:2], 0),
        }
        if stated != measured:
            yield f"{title} has {stated}, measured {measured}"


def _entries(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_bytes()) if path.exists() else []
    return found


def _diff_ids(blob: Blob) -> tuple[str, ...]:
    return blob.diff_id, digest(blob.tar, "sha512")


def _below(base: Path, key: str) -> Path:
    hexadecimal = key.partition(":")[2]
    return base / hexadecimal[:2] / hexadecimal


# --- trees ----------------------------------------------------------------------


def read(root: Path) -> Tree:
    """What a reader finds below a directory; whiteouts and opaque marks of an overlay too."""
    tree: Tree = {}
    for directory, below, files in os.walk(root):
        for name in (*below, *files):
            path = Path(directory, name)
            if name != ".cvmfscatalog":
                tree[str(path.relative_to(root))] = _found(path)
        if _is_opaque(directory):
            tree[os.path.relpath(f"{directory}/{_OPAQUE}", root)] = _WHITEOUT
    return tree


def _found(path: Path) -> str:
    status = path.lstat()
    if stat.S_ISLNK(status.st_mode):
        return f"link {path.readlink()}"
    if stat.S_ISDIR(status.st_mode):
        return "dir"
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return _WHITEOUT
    return f"file {path.read_text()}"


def _is_opaque(directory: str) -> bool:
    for name in ("trusted.overlay.opaque", "user.overlay.opaque"):
        try:
            return os.getxattr(directory, name) in (b"y", b"x")
        except OSError:
            continue
    return False


def overlaid(lower: Sequence[Path]) -> Tree:
    """What an overlay of directories shows, lowest first (the kernel's overlayfs.rst)."""
    tree: Tree = {}
    for directory in lower:
        layer = read(directory)
        for path, what in layer.items():
            covered = path.removesuffix(_OPAQUE).rstrip("/")
            if what != "dir":
                for below in [other for other in tree if other.startswith(f"{covered}/")]:
                    del tree[below]
            if what == _WHITEOUT and covered == path:
                tree.pop(path, None)
        tree |= {path: what for path, what in layer.items() if what != _WHITEOUT}
    return tree


def compared(title: str, wanted: Tree, found: Tree) -> Iterator[str]:
    """One line for each path at which a tree is not what is wanted."""
    for path in sorted(wanted.keys() | found.keys()):
        if wanted.get(path) != found.get(path):
            yield f"{title} has {found.get(path)} as {path}, wanted {wanted.get(path)}"
