"""What is planned, as values: images, layers, thin images, departures, problems."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ..errors import Fault
from ..oci.manifest import Descriptor
from ..oci.reference import Digest, Platform, Reference
from ..products import Product
from ..workspace.results import thin_manifest


class State(StrEnum):
    """Whether an image is to be published, or failed and waits, or is published."""

    PENDING = "pending"
    HELD = "held"
    PUBLISHED = "published"


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """A layer of a planned image, as that says: its blob and what that unpacks to."""

    descriptor: Descriptor
    diff_id: Digest

    @property
    def digest(self) -> Digest:
        """The blob's digest, under which the layer is published."""
        return self.descriptor.digest


@dataclass(frozen=True, slots=True)
class PlannedImage:
    """An image of the wish list: what it is, where it comes from, whether it is published.

    ``variants`` are the labels of all platforms that it is wished for on, in the
    wish's order, where they are several: each is an image of its own.  ``why`` says
    in words why it is pending, or what keeps it from being newer.  What nothing is
    to be done for has no ``layers``.  ``source`` is the wish list, as `ImageRecord`
    has it.  ``prepared``: the repository has the layers and the flat tree as they are
    wished, only names or further products are to be made of them.  ``adopted``: so it
    has, from DUCC.  ``adopts``: what DUCC made of it is good enough.  ``anew``: it is to be
    converted again, whatever the repository has, and its record has this stamp then.
    ``fault``: what is wrong with it as an earlier version published it.
    ``fix_permissions``: everybody shall be able to read its flat tree.
    ``until`` is when it is tried again, where it is held: then ``why`` is what it failed with.
    ``since`` is when a run saw its manifest first, 0 where none has.
    ``top`` is what its reference names, the manifest or an index.  ``signatures`` is what its
    record shall say of who signed it, ``referrers`` what is to be kept of what refers to it
    (`duccmake.repository.referrers`).
    """

    repository: str
    reference: Reference
    platform: Platform
    manifest: Digest
    config: Digest
    layers: tuple[PlannedLayer, ...]
    state: State
    why: str
    ignorable: bool
    products: tuple[Product, ...] = (Product.LAYERS, Product.FLAT)
    variants: tuple[str, ...] = ()
    source: Mapping[str, str] = field(default_factory=dict)
    prepared: bool = False
    adopted: bool = False
    adopts: bool = True
    anew: str = ""
    fault: str = ""
    fix_permissions: bool = False
    until: float = 0.0
    since: float = 0.0
    top: Digest | None = None
    signatures: Mapping[str, Any] = field(default_factory=dict)
    referrers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The image's path in the repository."""
        return self.reference.name_on(self.platform) if self.variants else self.reference.name

    @property
    def tree(self) -> Digest:
        """What its flat tree is made of, as one digest: the configuration over these layers."""
        parts = [str(self.config), *(str(layer.digest) for layer in self.layers)]
        parts += ["fix_permissions"] if self.fix_permissions else []
        return Digest("sha256", hashlib.sha256("\n".join(parts).encode()).hexdigest())

    @property
    def title(self) -> str:
        """The image for people: its name in the wish list, and the platform of several."""
        return _title(self.reference.name, str(self.platform) if self.variants else "")


@dataclass(frozen=True, slots=True)
class Claim:
    """What an image says of a layer; another image may say something else of the same blob."""

    layer: PlannedLayer
    image: PlannedImage


@dataclass(frozen=True, slots=True)
class Problem:
    """A wish that cannot be followed; those with one reason have one ``number``.

    ``platform`` is the one of several that cannot be had, ``fault`` what is at fault.
    ``until``: before that, it does not fail a run again.  ``path`` is where the image is in the
    repository, if it is there.
    """

    repository: str
    name: str
    reason: str
    ignorable: bool
    number: int
    platform: str = ""
    fault: Fault = Fault.OTHER
    until: float = 0.0
    path: str = ""

    @property
    def title(self) -> str:
        """The image for people."""
        return _title(self.name, self.platform)


def _title(name: str, platform: str) -> str:
    return f"{name} ({platform})" if platform else name


@dataclass(frozen=True, slots=True)
class Departure:
    """An image that leaves; only the ``manifest`` that was seen then is meant."""

    repository: str
    name: str
    manifest: str
    why: str


@dataclass(frozen=True, slots=True)
class PlannedThin:
    """A thin image to be pushed as ``target``, of the images with these paths.

    ``key`` stands for all that it is made of, ``user`` is the recipe's account where
    that is the one to push with.  ``why`` says in words why it is pushed.
    """

    repository: str
    name: str
    target: str
    key: str
    images: tuple[str, ...]
    user: str
    ignorable: bool
    why: str

    @property
    def output(self) -> Path:
        """The file with its manifest, which is there when it is pushed."""
        return thin_manifest(self.repository, self.name, self.key)

    @property
    def several(self) -> bool:
        """Whether it is a list of platforms."""
        return self.images[0] != self.name
