"""Images for tests of whole runs: what is in them can be told from outside."""

from __future__ import annotations

import random

from duccmake.demo.images import Image
from duccmake.oci.reference import Platform
from support.images import Layer, LayerBuilder

AMD64 = Platform("linux", "amd64")


def text_image(text: str, *below: Layer) -> Image:
    """An image with a text in its file ``content``, on top of other layers."""
    return Image((*below, LayerBuilder().file("content", text).layer()), {}, platform=AMD64)


def slow_layer(seed: str, files: int = 1500) -> Layer:
    """A layer that takes a moment to fetch, to unpack and to publish."""
    source = random.Random(seed)
    builder = LayerBuilder().dir("opt")
    for number in range(files):
        builder.file(f"opt/{seed}-{number}", source.randbytes(4096))
    return builder.layer()
