"""Flattening: the layers' manifests, lowest first, become the image's manifest.

A pure function over text (image-spec, layer.md, "Applying Changesets"): no
content is read or copied, each entry names the layer that provides it.  Paths
stay as the manifests encode them and lines are not taken apart, which is what
keeps an image with hundreds of thousands of entries within seconds.

Besides the flat tree comes what an overlay of the layers, as they are unpacked, does
not show as the image has it: a layer is unpacked without knowing those below it, so
hard links to lower layers, attributes of directories that it does not mention, what an
opaque directory hides, and where a symlink in its way leads are only known here.  All
of this is another thing in another chain, so it is noted and goes into no layer.
`chain_changes` gives what such a layer changes in this one chain.
"""

from .chain import chain_changes, noted_layers
from .image import FlatTree, LayerTree, flatten, flatten_image

__all__ = [
    "FlatTree",
    "LayerTree",
    "chain_changes",
    "flatten",
    "flatten_image",
    "noted_layers",
]
