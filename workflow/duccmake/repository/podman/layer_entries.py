"""The layers of a store: their entries in ``layers.json``, and their directories of links."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from ...errors import InvalidReference
from ...layer.measured import Measured
from ...oci.reference import Digest
from ..edits import Edits, Tree
from ..layout import Layout
from .index import Entry, Index, save
from .layers import ChainLayer, chain
from .paths import Paths
from .standing import VERIFIED, has_own_tree, is_verified


class LayerEntries:
    """The layers of the store as they are after the edits so far, and the further edits.

    ``trees`` are those that layers get of their own, by path (`own_trees`), ``splits`` what
    their archives are made again by, by the digests of their blobs (`duccmake.layer.tar_split`).
    """

    def __init__(
        self,
        edits: Edits,
        layout: Layout,
        trees: Mapping[Path, Tree],
        splits: Mapping[Digest, bytes],
    ) -> None:
        self._edits = edits
        self._layout = layout
        self._trees = trees
        self._splits = splits
        self._paths = Paths(layout)
        self._index = Index(edits.content(self._paths.layers), self._paths.layers)

    def add(self, diff_ids: Sequence[Digest], measured: Sequence[Measured], created: str) -> str:
        """Put an image's layers in, lowest first; returns the id of the uppermost, if any."""
        layers = chain(diff_ids, self._has_own_tree)
        for layer, diff_id, found in zip(layers, diff_ids, measured, strict=True):
            self._add(layer, diff_id, found, created)
        return layers[-1].id if layers else ""

    def chain_of(self, image: Entry) -> list[str]:
        """The ids of an image's layers, lowest first."""
        found: list[str] = []
        identity = image.get("layer", "")
        while identity and identity not in found:
            found.append(identity)
            identity = self._index.entries.get(identity, {}).get("parent", "")
        return found[::-1]

    def leading_to(self, blobs: Collection[str]) -> list[Entry]:
        """The layers that lead to published ones, by the digits of these."""
        return [
            layer
            for layer in self._index.entries.values()
            if layer.get("compressed-diff-digest", "").rpartition(":")[2] in blobs
        ]

    def lead_to(self, layer: Entry, found: Measured) -> None:
        """Have a layer lead to another published one, which unpacks to the same."""
        layer["compressed-diff-digest"] = str(found.digest)
        layer["compressed-size"] = found.blob_bytes
        layer["compression"] = found.compression
        self._point(layer["id"], found.digest)

    def keep(self, used: Collection[str]) -> None:
        """Take out all layers but these."""
        for identity in self._index.entries.keys() - used:
            del self._index.entries[identity]
            self._edits.remove(self._paths.layer(identity))
            self._edits.remove(self._paths.link(identity))
            self._edits.remove(self._paths.tar_split(identity))

    def save(self) -> None:
        """Write the index file."""
        save(self._edits, self._index, self._paths.layers)

    def _add(self, layer: ChainLayer, diff_id: Digest, measured: Measured, created: str) -> None:
        known = self._index.entries.get(layer.id, {})
        if not is_verified(known) or not self._leads_somewhere(known):
            known = {
                "id": layer.id,
                "parent": layer.parent,
                "created": created,
                "compressed-diff-digest": str(measured.digest),
                "compressed-size": measured.blob_bytes,
                "diff-digest": str(diff_id),
                "diff-size": measured.diff_bytes,
                "compression": measured.compression,
                VERIFIED: True,
            }
            self._index.entries[layer.id] = {key: value for key, value in known.items() if value}
        directory = self._paths.layer(layer.id)
        tree = self._trees.get(self._paths.diff(layer.id))
        if tree is not None:
            self._edits.tree(self._paths.diff(layer.id), tree)
        self._split(layer.id, diff_id, self._splits.get(measured.digest, b""))
        self._point(layer.id, Digest.parse(known["compressed-diff-digest"]))
        self._edits.file(directory / "link", layer.link.encode())
        if layer.lowers:
            self._edits.file(directory / "lower", ":".join(layer.lowers).encode())
        else:
            self._edits.remove(directory / "lower")
            # What a mount of this layer alone has below it.
            self._edits.directory(directory / "empty")
        # podman before version 4.4 mounts there, and can make no directory on CernVM-FS.
        self._edits.directory(directory / "merged")
        self._edits.symlink(self._paths.link(layer.id), f"../{layer.id}/diff")

    def _split(self, identity: str, diff_id: Digest, staged: bytes) -> None:
        """Put beside a layer what its archive is made again by, where any with that archive has it.

        As it is compressed it differs from one time to another: what is there stays.
        """
        path = self._paths.tar_split(identity)
        if path in self._edits.puts or path.is_file():
            return
        if not staged:
            alike = (
                self._edits.content(self._paths.tar_split(other))
                for other, layer in self._index.entries.items()
                if layer.get("diff-digest") == str(diff_id)
            )
            staged = next(filter(None, alike), b"")
        if staged:
            self._edits.file(path, staged)

    def _leads_somewhere(self, layer: Entry) -> bool:
        try:
            digest = Digest.parse(layer.get("compressed-diff-digest"))
        except InvalidReference:
            return False
        return self._layout.layerfs(digest).is_dir()

    def _point(self, identity: str, digest: Digest) -> None:
        """Have a layer of the store lead to a published one, unless it has a tree of its own.

        The link is absolute: containers/storage refuses others when it compares a
        container with the image that it was made of.
        """
        if not self._has_own_tree(identity):
            target = self._layout.seen(self._layout.layerfs(digest))
            self._edits.symlink(self._paths.diff(identity), str(target))

    def _has_own_tree(self, identity: str) -> bool:
        return self._paths.diff(identity) in self._trees or has_own_tree(self._paths, identity)
