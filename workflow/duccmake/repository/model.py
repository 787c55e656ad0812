"""What is published, as values: staged images, change sets and records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..layer.measured import Measured
from ..oci.reference import Digest, Platform
from ..products import Product, in_order
from ..tree import mtree

RECORD_FORMAT = 1
"""Version of what a conversion makes; raising it has every image converted again."""

UNMEASURED = "unmeasured"
"""The member of a record's ``losses`` that counts trees of which nothing is known."""

WIDENED = mtree.WIDENED.decode()
"""The one that counts what more may read than the image says."""

OF_LAYERS = frozenset({"whiteouts", "directories", "links", "covered"})
"""Those that count what an overlay of the published layers does not show as the image has it."""

ANY_VARIANT = "*"
"""What a public link leads to that leads each machine to its own platform."""


@dataclass(frozen=True, slots=True)
class StagedLayer:
    """A layer that `duccmake.layer.unpack` made whole: ``path`` has its manifest in ``.metadata/``.

    The directory backend takes trees (``layerfs/``), that of CernVM-FS catalogs
    (`duccmake.layer.catalogs`).
    """

    digest: Digest
    path: Path

    @property
    def manifest(self) -> Path:
        """The ``tree.mtree`` of what is staged."""
        return self.path / ".metadata" / "tree.mtree"


@dataclass(frozen=True, slots=True)
class Keep:
    """How many manifests stay reachable by digest that a tag has left.

    ``wished`` are names that stay published for other reasons.
    """

    count: int = 0
    wished: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class StagedImage:
    """An image that is ready to be published.

    ``path`` is what `duccmake.layer.flatten` made: ``tree.mtree`` (the flat tree),
    ``generated/`` (the content of the entries flagged ``generated``, under their
    paths) and ``layers/<number>.mtree`` (what the overlay of its layers needs
    beyond each layer, lowest is 0, see `duccmake.layer.flatten`).  It is None where the
    repository has the flat tree and the layers as they are wished, and names or other
    products are added.

    ``config_bytes`` is the configuration as the registry sent it.  ``measured`` is what
    each layer was found to be when it was unpacked, which whoever made this has held the
    image to (`duccmake.layer.measured`); None where nobody has, as with DUCC's.

    ``variants`` are the labels of all platforms of the image in the wish's order,
    where they are several; ``name`` is then that of this one
    (`duccmake.oci.reference.Reference.name_on`).
    ``keep`` says what becomes of what the name stood for before.  ``fix_permissions``:
    everybody may read the flat tree (see `FlatTree`).  ``anew``: its layers, its trees and
    its record, which gets this stamp, replace what is there.  ``signatures`` is what the record
    says of who signed it, ``referrers`` what is kept beside it (`duccmake.repository.referrers`).
    """

    name: str
    platform: Platform
    manifest: Digest
    manifest_bytes: bytes
    config: Digest
    layers: tuple[Digest, ...]
    path: Path | None
    products: tuple[Product, ...] = (Product.LAYERS, Product.FLAT)
    variants: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    config_bytes: bytes = field(default=b"", repr=False)
    measured: tuple[Measured, ...] | None = None
    keep: Keep = field(default_factory=Keep)
    fix_permissions: bool = False
    anew: str = ""
    signatures: Mapping[str, Any] = field(default_factory=dict)
    referrers: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class ChangeSet:
    """What one transaction publishes: layers that are not there yet, and images."""

    layers: tuple[StagedLayer, ...]
    images: tuple[StagedImage, ...]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """What the repository says of a published image (its ``record.json``).

    ``losses`` counts what the repository could not keep, by kind (``xattrs``,
    ``owners``, ``modes``, ``mtimes``, ``devices`` of the flat tree; ``whiteouts``,
    ``directories``, ``links`` that its layers lack, and symlinks that they have
    ``covered``, as flattening notes it): the manifests have the details.
    ``unmeasured`` are trees that DUCC made, of which nobody knows what they lack.
    ``widened`` are files and directories of the flat tree that more may read than the
    image says, which ``fix_permissions`` has done.
    ``source`` names the wish list (``recipe``) and its ``commit``, where it has one,
    that were in force when the image was published; both may have moved on since.
    ``anew`` is the stamp of the last run that was asked to convert it again.
    ``verified``: all that the record names was measured and found to be what the image's
    manifest and configuration say; earlier versions believed some of it.
    ``signatures`` says which requirements of a signature policy it satisfied when it was
    published, and by which signatures of whom.
    """

    name: str
    platform: Platform
    manifest: Digest
    config: Digest
    layers: tuple[Digest, ...]
    products: tuple[Product, ...]
    losses: dict[str, int]
    format: int = RECORD_FORMAT
    source: Mapping[str, str] = field(default_factory=dict)
    verified: bool = False
    fix_permissions: bool = False
    anew: str = ""
    signatures: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON members."""
        return {
            "format": self.format,
            "name": self.name,
            "platform": str(self.platform),
            "manifest": str(self.manifest),
            "config": str(self.config),
            "layers": [str(layer) for layer in self.layers],
            "products": list(self.products),
            "losses": self.losses,
            **({"source": dict(self.source)} if self.source else {}),
            **({"verified": True} if self.verified else {}),
            **({"fix_permissions": True} if self.fix_permissions else {}),
            **({"anew": self.anew} if self.anew else {}),
            **({"signatures": dict(self.signatures)} if self.signatures else {}),
        }

    @classmethod
    def read(cls, content: bytes) -> ImageRecord | None:
        """The record in a file's content; None where it is damaged, or there is none."""
        try:
            return cls.from_json(json.loads(content))
        except ValueError:
            return None

    @classmethod
    def from_json(cls, members: Any) -> ImageRecord | None:
        """Read a record back; None where it is damaged."""
        try:
            return cls._from_json(members)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    @classmethod
    def _from_json(cls, members: dict[str, Any]) -> ImageRecord:
        return cls(
            name=members["name"],
            platform=Platform.parse(members["platform"]),
            manifest=Digest.parse(members["manifest"]),
            config=Digest.parse(members["config"]),
            layers=tuple(Digest.parse(layer) for layer in members["layers"]),
            products=in_order(members["products"]),
            losses=dict(members["losses"]),
            format=int(members["format"]),
            source=dict(members.get("source", {})),
            verified=members.get("verified") is True,
            fix_permissions=members.get("fix_permissions") is True,
            anew=str(members.get("anew", "")),
            signatures=dict(members.get("signatures", {})),
        )
