"""The members of a plan as its file has them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..oci.manifest import Descriptor
from ..oci.reference import Digest, Platform, Reference
from ..products import in_order
from .model import PlannedImage, PlannedLayer, State
from .outlook import Outlook


def digests_to_json(digests: Mapping[str, Iterable[Digest]]) -> dict[str, list[str]]:
    """Sets of digests, by repository."""
    return {name: sorted(map(str, found)) for name, found in digests.items()}


def digests_from_json(members: Mapping[str, Iterable[str]]) -> dict[str, frozenset[Digest]]:
    """What `digests_to_json` wrote."""
    return {
        repository: frozenset(map(Digest.parse, found)) for repository, found in members.items()
    }


def outlook_from_json(members: Mapping[str, Any]) -> Outlook:
    """An outlook, of what `dataclasses.asdict` makes of it."""
    pulls = {name: (left, waiting) for name, (left, waiting) in members["pulls"].items()}
    return Outlook(**{**members, "pulls": pulls})


def layer_to_json(layer: PlannedLayer) -> list[Any]:
    """A layer, in little room: a plan has thousands."""
    descriptor = layer.descriptor
    return [
        descriptor.media_type,
        str(descriptor.digest),
        descriptor.size,
        list(descriptor.urls),
        str(layer.diff_id),
    ]


def layer_from_json(entry: Sequence[Any]) -> PlannedLayer:
    """What `layer_to_json` wrote."""
    media_type, digest, size, urls, diff_id = entry
    descriptor = Descriptor(media_type, Digest.parse(digest), size, tuple(urls))
    return PlannedLayer(descriptor, Digest.parse(diff_id))


def image_to_json(image: PlannedImage, numbers: Mapping[PlannedLayer, int]) -> dict[str, Any]:
    """An image; ``numbers`` says which layers are written, and as which."""
    return {
        "repository": image.repository,
        "reference": str(image.reference),
        "platform": str(image.platform),
        "manifest": str(image.manifest),
        "config": str(image.config),
        "layers": [numbers[layer] for layer in image.layers if layer in numbers],
        "state": image.state,
        "why": image.why,
        "ignorable": image.ignorable,
        "products": list(image.products),
        "variants": list(image.variants),
        "source": dict(image.source),
        "prepared": image.prepared,
        "adopted": image.adopted,
        "adopts": image.adopts,
        "anew": image.anew,
        "fix_permissions": image.fix_permissions,
        "fault": image.fault,
        "until": image.until,
        "since": image.since,
        "top": str(image.top or ""),
        "signatures": dict(image.signatures),
        "referrers": dict(image.referrers),
    }


def image_from_json(entry: Mapping[str, Any], layers: Sequence[PlannedLayer]) -> PlannedImage:
    """What `image_to_json` wrote, with the layers that are written, by number."""
    return PlannedImage(
        repository=entry["repository"],
        reference=Reference.parse(entry["reference"]),
        platform=Platform.parse(entry["platform"]),
        manifest=Digest.parse(entry["manifest"]),
        config=Digest.parse(entry["config"]),
        layers=tuple(layers[number] for number in entry["layers"]),
        state=State(entry["state"]),
        why=entry["why"],
        ignorable=entry["ignorable"],
        products=in_order(entry["products"]),
        variants=tuple(entry["variants"]),
        source=entry["source"],
        prepared=entry["prepared"],
        adopted=entry["adopted"],
        adopts=entry["adopts"],
        anew=entry["anew"],
        fix_permissions=entry["fix_permissions"],
        fault=entry["fault"],
        until=entry["until"],
        since=entry["since"],
        top=Digest.parse(entry["top"]) if entry["top"] else None,
        signatures=entry["signatures"],
        referrers=entry["referrers"],
    )
