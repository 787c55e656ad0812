"""Plans made by hand, for tests of what reads them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from duccmake.layer import measured
from duccmake.oci.manifest import Descriptor
from duccmake.oci.reference import Digest, Platform, Reference
from duccmake.planning.model import PlannedImage, PlannedLayer, Problem, State
from duccmake.planning.plan import Plan
from support.staged_trees import digest_of

REPOSITORY = "unpacked.example.org"
NAME = "registry.example.org/team/app:1"
LAYER_BYTES = 1000


def layer(
    text: str = "layer", digest: Digest | None = None, *, size: int = LAYER_BYTES
) -> PlannedLayer:
    found = digest or digest_of(text)
    descriptor = Descriptor("application/vnd.oci.image.layer.v1.tar", found, size)
    return PlannedLayer(descriptor, digest_of(f"diff {text}"))


def planned_as_staged(path: Path) -> PlannedLayer:
    """The layer of an image that says of it what was measured where it is staged."""
    found = measured.staged(path / ".metadata")
    assert found is not None
    descriptor = Descriptor(
        "application/vnd.oci.image.layer.v1.tar", found.digest, found.blob_bytes
    )
    return PlannedLayer(descriptor, found.diff_ids[0])


def image(name: str = NAME, **members: Any) -> PlannedImage:
    wished: dict[str, Any] = {
        "repository": REPOSITORY,
        "reference": Reference.parse(f"https://{name}"),
        "platform": Platform("linux", "amd64"),
        "manifest": digest_of(f"manifest of {name}"),
        "config": digest_of(f"config of {name}"),
        "layers": (layer(),),
        "state": State.PENDING,
        "why": "new",
        "ignorable": False,
        **members,
    }
    return PlannedImage(**wished)


def plan(
    images: Iterable[PlannedImage] = (), problems: Iterable[Problem] = (), **members: Any
) -> Plan:
    found = tuple(images)
    missing = {REPOSITORY: frozenset(layer.digest for image in found for layer in image.layers)}
    wished: dict[str, Any] = {"missing": missing, "warnings": (), "scope": "pending"}
    settings = {"repository": {"root": "root"}, "products": ["layers", "flat"]}
    wished |= {"members": settings, **members}
    return Plan(images=found, problems=tuple(problems), **wished)
