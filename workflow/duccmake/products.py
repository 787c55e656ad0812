"""What is made of an image."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum


class Product(StrEnum):
    """All there are, in the order in which they are made; the others are made of the layers."""

    LAYERS = "layers"
    FLAT = "flat"
    THIN = "thin"
    PODMAN = "podman"


IN_REPOSITORY = (Product.LAYERS, Product.FLAT, Product.PODMAN)
"""What is published in the repository; thin images are in registries."""


def in_order(names: Collection[str]) -> tuple[Product, ...]:
    """Products as they are kept: each once."""
    return tuple(product for product in Product if product in names)
