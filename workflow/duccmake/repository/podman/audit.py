"""Whether the layers of an image store are what their ids stand for."""

from __future__ import annotations

from pathlib import PurePosixPath

from ...errors import InvalidReference, RepositoryError
from ...layer.measured import Measure
from ...oci.reference import Digest
from ..model import ImageRecord
from ..view import View
from . import paths
from .index import Entry
from .standing import entries, has_own_tree, is_verified


class StoreLayers:
    """The layers of the store, as its index files have them now."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._images = _read(view, paths.IMAGES_INDEX)
        self._layers = _read(view, paths.LAYERS_INDEX)

    def is_mistaken(self, record: ImageRecord, measure: Measure) -> bool:
        """Whether one of an image's layers there is not what it stands for.

        A tree of a chain's own may be anything, unless it was made of what was measured.
        """
        identity = self._images.get(record.config.hex, {}).get("layer", "")
        for _ in record.layers:
            layer = self._layers.get(identity, {})
            if self._is_mistaken(layer, measure):
                return True
            if layer and not is_verified(layer) and has_own_tree(self._view, layer["id"]):
                return True
            identity = layer.get("parent", "")
        return False

    def mistaken(self, measure: Measure) -> frozenset[str]:
        """The ids of the layers that are not what they stand for, as far as can be told."""
        return frozenset(
            identity
            for identity, layer in self._layers.items()
            if self._is_mistaken(layer, measure)
        )

    @staticmethod
    def _is_mistaken(layer: Entry, measure: Measure) -> bool:
        """Whether a layer leads to what unpacks to something else; of DUCC's nobody knows."""
        if is_verified(layer):
            return False
        try:
            found = measure(Digest.parse(layer.get("compressed-diff-digest")))
            return found is not None and not found.unpacks_to(Digest.parse(layer["diff-digest"]))
        except (InvalidReference, KeyError):
            return False  # somebody else's


def _read(view: View, path: PurePosixPath) -> dict[str, Entry]:
    try:
        return entries(view, path)
    except RepositoryError:
        return {}
