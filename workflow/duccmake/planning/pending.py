"""Whether an image has to be published, why, and what of it the repository has already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..oci.reference import Digest
from ..products import IN_REPOSITORY, Product
from ..repository.model import ANY_VARIANT, RECORD_FORMAT, UNMEASURED, ImageRecord
from ..repository.protocol import Repository
from .model import PlannedImage, State


def why_pending(image: PlannedImage, repository: Repository, record: ImageRecord | None) -> str:
    """Why an image has to be published; empty where the repository has it as wished.

    ``record`` is what the repository says of it.
    """
    if record is None:
        known = repository.description(image.name)
        return "new" if known is None else "damaged: a part of what is published is missing"
    if image.fault and not record.verified:
        return f"published wrong by an earlier version: {image.fault}"
    if record.manifest != image.manifest:
        return f"moved: {record.manifest.short} is published, {image.manifest.short} is wished for"
    if record.platform != image.platform:
        return f"another platform: {record.platform} is published, {image.platform} is wished for"
    # DUCC's layers were not measured, and podman's store goes by what was.
    without = Product.PODMAN if UNMEASURED in record.losses else ""
    wished = [one for one in image.products if one in IN_REPOSITORY and one != without]
    if lacking := [product for product in wished if product not in record.products]:
        return f"published without {', '.join(lacking)}"
    if record.format < RECORD_FORMAT:
        return f"published in the old format {record.format}"
    if image.anew and record.anew != image.anew:
        return "to be converted anew, as was asked"
    if not image.adopts and UNMEASURED in record.losses:
        return "adopted from DUCC, and to be converted now"
    if (
        Product.FLAT in image.products
        and UNMEASURED not in record.losses
        and image.fix_permissions != record.fix_permissions
    ):
        had = "with" if record.fix_permissions else "without"
        return f"its flat tree was made {had} flat.fix_permissions"
    return _why_hidden(image, repository)


def _why_hidden(image: PlannedImage, repository: Repository) -> str:
    """Why the public name of an image of several platforms does not lead where it should."""
    if not image.variants or Product.FLAT not in image.products:
        return ""
    leads_to, own = repository.variant(image.reference.name), image.platform.label
    if leads_to in (ANY_VARIANT, *image.variants[: image.variants.index(own) + 1]):
        return ""
    return f"its public name leads to {leads_to or 'one platform alone'} instead"


def is_prepared(image: PlannedImage, repository: Repository) -> bool:
    """Whether the repository has all but names, or products that are made of the others."""
    layers = [layer.digest for layer in image.layers]
    made = tuple(product for product in image.products if product in (Product.LAYERS, Product.FLAT))
    record = repository.record(image.name)
    if not why_pending(replace(image, products=made), repository, record):
        if record is not None and UNMEASURED in record.losses:
            return True
        return all(map(repository.has_layer, layers))
    return repository.has_flat(image.config, layers, image.fix_permissions) and all(
        measured is not None and measured.unpacks_to(layer.diff_id)
        for layer in image.layers
        for measured in [repository.measured(layer.digest)]
    )


def missing_layers(images: Sequence[PlannedImage], repository: Repository) -> frozenset[Digest]:
    """The layers of pending images that have to be fetched."""
    fetching = (image for image in images if image.state == State.PENDING and not image.prepared)
    wanted = {
        (layer.digest, layer.diff_id.algorithm) for image in fetching for layer in image.layers
    }
    again = {layer.digest for image in images if image.anew for layer in image.layers}
    return frozenset(
        digest
        for digest, algorithm in wanted
        if digest in again or not repository.has_layer(digest, algorithm)
    )
