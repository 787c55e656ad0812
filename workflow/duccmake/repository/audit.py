"""Images of earlier versions: whether what is published of them is what they say.

Before layers were measured, a configuration was believed: an image could have another
one's flat tree, and podman's store another one's layer.  Such an image has a record that is
not `verified`; here it is held to what its layers were found to be.  Only reads.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from functools import cached_property

from ..errors import DigestMismatch, DuccmakeError
from ..layer.measured import Measured, check_diff_ids, check_sizes
from ..oci.manifest import ImageConfig, Manifest, parse_manifest
from ..oci.reference import Digest
from ..products import Product
from . import podman
from .flat_trees import flat_tree, measured_layer
from .foreign import foreign_links
from .model import UNMEASURED, ImageRecord
from .podman import StoreLayers
from .view import View

log = logging.getLogger(__name__)


class Fault(enum.Enum):
    """What is wrong with a published image."""

    CLAIMS = "claims"
    """Its configuration or manifest says of its layers what is not so: nothing mends that."""
    TREE = "tree"
    """Its flat tree was made of other layers."""
    STORE = "store"
    """podman's store has other layers in the places of its own."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A fault of a published image, and in words what was found."""

    fault: Fault
    why: str


class Audit:
    """Looks at one repository's images."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._measured: dict[Digest, Measured | None] = {}
        self._foreign: dict[Digest, bool] = {}

    def find(self, record: ImageRecord, configuration: bytes) -> Finding | None:
        """What is wrong with an image; None where nothing is, or nobody can tell.

        ``configuration`` is the image's, as far as it is at hand; podman's store may have
        it as well.  What DUCC made was never measured.
        """
        if record.verified or UNMEASURED in record.losses:
            return None
        measured = [self._measure(layer) for layer in record.layers]
        known = tuple(one for one in measured if one is not None)
        if len(known) < len(measured):
            return None
        try:
            self._check_claims(record, configuration)
        except DigestMismatch as error:
            return Finding(Fault.CLAIMS, error.found)
        except (OSError, DuccmakeError) as error:
            log.info("what %s says of its layers cannot be read: %s", record.name, error)
        if Product.FLAT in record.products and not self._has_own_tree(record, known):
            return Finding(Fault.TREE, "its flat tree was made of other layers than it has")
        foreign = [layer for layer in record.layers if self._has_foreign_files(layer)]
        if Product.PODMAN in record.products and foreign:
            return Finding(Fault.STORE, f"its layer {foreign[0]} has files of another image")
        if Product.PODMAN in record.products and self._store.is_mistaken(record, self._measure):
            return Finding(Fault.STORE, "podman's store has a layer of another image in its place")
        return None

    @property
    def altered_layers(self) -> frozenset[Digest]:
        """The layers, of images that were looked at, that have files of other layers."""
        return frozenset(layer for layer, found in self._foreign.items() if found)

    def _has_foreign_files(self, layer: Digest) -> bool:
        if layer not in self._foreign:
            self._foreign[layer] = bool(foreign_links(self._view, layer))
        return self._foreign[layer]

    def _check_claims(self, record: ImageRecord, configuration: bytes) -> None:
        manifest = parse_manifest(self._view.read(self._view.layout.manifest(record.name)))
        if isinstance(manifest, Manifest):
            check_sizes(manifest.layers, self._measure)
        configuration = configuration or podman.configuration(self._view, record.config)
        if configuration:
            config = ImageConfig.parse(configuration, layers=len(record.layers))
            check_diff_ids(record.layers, config.diff_ids, self._measure)

    def mistaken_layers(self) -> frozenset[str]:
        """The ids of layers of podman's store that are not what they stand for."""
        return self._store.mistaken(self._measure)

    def _has_own_tree(self, record: ImageRecord, measured: tuple[Measured, ...]) -> bool:
        return flat_tree(self._view, record.config, record.layers, measured) is not None

    def _measure(self, layer: Digest) -> Measured | None:
        if layer not in self._measured:
            self._measured[layer] = measured_layer(self._view, layer)
        return self._measured[layer]

    @cached_property
    def _store(self) -> StoreLayers:
        return StoreLayers(self._view)
