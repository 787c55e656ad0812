"""An additional image store for podman, CRI-O and Buildah, in ``podmanStore/``.

The store is one of containers/storage's, for its overlay driver: index files of
images and layers, each image's manifest and configuration, and for each layer a
directory of links.  It holds no content: the layers are the published ones, or trees
of links to their files where a chain needs that (`own_trees`).  All of it is `Edits`,
made in the transaction that publishes or removes an image, from the two index files
alone, whatever else the store holds.

`publish` puts images in and takes from others the names that have moved, `without`
takes names and images out, `expel` layers that are not what they stand for (`StoreLayers`
and `links_to` find them), `holds` says whether an image is there, `differences`
whether it is whole and `index_damage` whether all have their layers, `IMAGES` where they
all are, `published` which of them are ours, and `configuration` gives an image's own.
"""

from .audit import StoreLayers
from .check import differences, index_damage, read_indexes
from .paths import IMAGES
from .standing import configuration, holds, links_to, published
from .store import expel, publish, without
from .trees import own_trees

__all__ = [
    "IMAGES",
    "StoreLayers",
    "configuration",
    "differences",
    "expel",
    "holds",
    "index_damage",
    "links_to",
    "own_trees",
    "publish",
    "published",
    "read_indexes",
    "without",
]
