"""How an image's layers stand in an image store: their ids, links and lower layers."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ...oci.reference import Digest

_LINK_LETTERS = 16


@dataclass(frozen=True, slots=True)
class ChainLayer:
    """A layer on top of those below it.

    ``lowers`` are the links of the layers below, uppermost first, as an overlay
    mount has them.
    """

    id: str
    parent: str
    lowers: tuple[str, ...]

    @property
    def link(self) -> str:
        """The layer's short name in the directory ``l``."""
        return link_of(self.id)


def chain(
    diff_ids: Sequence[Digest], has_own_tree: Callable[[str], bool] = lambda identity: False
) -> list[ChainLayer]:
    """An image's layers, lowest first.

    A layer that occurs again further up is left out of the lower layers: all that
    it has shows there, and the kernel mounts no directory twice in one overlay.
    ``has_own_tree`` tells which ids stand for another directory than the others of
    their layer.
    """
    ids: list[str] = []
    trees: list[str] = []
    found = []
    for number, diff_id in enumerate(diff_ids):
        parent = ids[-1] if ids else ""
        ids.append(layer_id(parent, diff_id))
        trees.append(ids[-1] if has_own_tree(ids[-1]) else str(diff_id))
        above = {trees[-1]}
        lowers = []
        for below in reversed(range(number)):
            if trees[below] not in above:
                above.add(trees[below])
                lowers.append(f"l/{link_of(ids[below])}")
        found.append(ChainLayer(ids[-1], parent, tuple(lowers)))
    return found


def layer_id(parent: str, diff_id: Digest) -> str:
    """The chain id of a layer, as containers/image computes it.

    It is another hash than the image specification's.  As it is the one that podman
    and Buildah look for when they pull or build, they take the layers from the
    store instead of fetching or copying them.
    """
    if not parent:
        return diff_id.hex
    return hashlib.sha256(f"{parent}+{diff_id.hex}".encode()).hexdigest()


def link_of(identity: str) -> str:
    """A layer's short name: a mount has one for each lower layer, in a page of memory.

    It follows from the id, so that one layer has one link in all stores, and is
    shorter than those that podman makes in its own store.
    """
    hashed = hashlib.sha256(identity.encode()).digest()
    return base64.b32encode(hashed).decode()[:_LINK_LETTERS]
