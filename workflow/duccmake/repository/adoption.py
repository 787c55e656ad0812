"""Images that DUCC published: which are whole, so that they need not be converted again.

DUCC leaves a manifest, a public link, layers and a flat tree, as duccmake does, but no
record, and no ``tree.mtree`` of what it made.  Only reads.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import PurePosixPath

from ..oci.reference import Digest
from ..products import Product
from . import ducc
from .inventory import links
from .view import View

_WHITEOUT = ".wh."
_HOPS = 40  # path_resolution(7)
_VARIABLE = re.compile(r"\$\([^():]*:-([^()]*)\)")
"""What each client of CernVM-FS fills in, and what it is where it knows nothing of it."""


def is_whole(
    view: View, name: str, config: Digest, layers: Sequence[Digest], products: Collection[str]
) -> bool:
    """Whether DUCC published this image under this name, and all of it is there."""
    return manifest(view, name) == (config, tuple(layers)) and not any(
        lacking(view, name, products)
    )


def manifest(view: View, name: str) -> tuple[Digest, tuple[Digest, ...]] | None:
    """The configuration and the layers in an image's published manifest; None if damaged."""
    try:
        members = ducc.folded(json.loads(view.read(view.layout.manifest(name))))
        layers = tuple(Digest.parse(layer["digest"]) for layer in members["layers"])
        return Digest.parse(members["config"]["digest"]), layers
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lacking(view: View, name: str, products: Collection[str]) -> Iterator[str]:
    """What an image of DUCC's lacks, in words; a few looks, however large it is."""
    known = manifest(view, name)
    if known is None:
        yield "its manifest is damaged"
        return
    layout = view.layout
    config, layers = known
    for digest in dict.fromkeys(layers):
        if not view.is_dir(layout.layerfs(digest)):
            yield f"its layer {digest.short} is missing"
    if Product.FLAT not in products:
        return
    flat, link = layout.flat(config), layout.link(name)
    if not view.is_dir(flat):
        yield f"its flat tree {config.short} is missing"
    elif not view.is_dir(flat / ".singularity.d"):
        yield f"its flat tree {config.short} has no .singularity.d"
    target = view.target(link).rstrip("/")
    if not target:
        yield "its link is missing"
        return
    if not target.endswith(f".flat/{config.prefix}/{config.hex}"):
        yield "its link leads to something else"
    elif not target.startswith("/") and os.path.normpath(link.parent / target) != str(flat):
        yield "its link leads nowhere"


def stray_whiteout(view: View, tree: PurePosixPath) -> str:
    """The path of a whiteout's marker (``.wh.…``) in a tree, where it is a mistake; else empty."""
    for directory, found in view.walk(tree):
        for name in found:
            if name.startswith(_WHITEOUT):
                return str((directory / name).relative_to(tree))
    return ""


def dirty_chains(view: View) -> list[str]:
    """Chains that DUCC began to make and did not finish, or did not clean up."""
    base = view.layout.dirty_chains
    return sorted(f"{base}/{name}" for name in view.entries(base) if name[0] != ".")


def dangling_links(view: View) -> list[str]:
    """Public links that lead nowhere, below the repository's root."""
    return sorted(str(path) for path in links(view) if _leads_nowhere(view, path))


def _leads_nowhere(view: View, path: PurePosixPath) -> bool:
    """Whether following the symlinks of a path ends where nothing is.

    Of what is outside of the repository nobody knows: that counts as something.
    """
    names, here, hops = [*reversed(path.parts)], PurePosixPath(), 0
    while names:
        name = names.pop()
        if name == "..":
            if not here.parts:
                return False
            here = here.parent
        elif not (target := _VARIABLE.sub(r"\1", view.target(here / name))):
            here /= name
        elif (hops := hops + 1) > _HOPS:
            return True
        elif target.startswith("/"):
            inside = view.layout.unseen(target)
            if inside is None:
                return False
            here, names = PurePosixPath(), [*names, *reversed(inside.parts)]
        else:
            names += reversed(PurePosixPath(target).parts)
    return not view.exists(here)
