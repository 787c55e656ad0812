"""What is made of an image."""

from __future__ import annotations

from collections.abc import Collection

PRODUCTS = ("layers", "flat", "thin", "podman")
"""All there are, in the order in which they are made; the others are made of the layers."""

PODMAN = "podman"

IN_REPOSITORY = ("layers", "flat", PODMAN)
"""What is published in the repository; thin images are in registries."""


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Products as they are kept: each once."""
    return tuple(name for name in PRODUCTS if name in names)
