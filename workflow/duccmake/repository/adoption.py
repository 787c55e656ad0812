"""Images that DUCC published: which are whole, so that they need not be converted again.

DUCC leaves a manifest, a public link, layers and a flat tree, as duccmake does, but no
record, and no ``tree.mtree`` of what it made.  Only reads.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from ..oci.reference import Digest
from ..products import Product
from . import ducc
from .inventory import links
from .layout import Layout

_WHITEOUT = ".wh."


def is_whole(
    layout: Layout, name: str, config: Digest, layers: Sequence[Digest], products: Collection[str]
) -> bool:
    """Whether DUCC published this image under this name, and all of it is there."""
    return manifest(layout, name) == (config, tuple(layers)) and not any(
        lacking(layout, name, products)
    )


def manifest(layout: Layout, name: str) -> tuple[Digest, tuple[Digest, ...]] | None:
    """The configuration and the layers in an image's published manifest; None if damaged."""
    try:
        members = ducc.folded(json.loads(layout.manifest(name).read_bytes()))
        layers = tuple(Digest.parse(layer["digest"]) for layer in members["layers"])
        return Digest.parse(members["config"]["digest"]), layers
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def lacking(layout: Layout, name: str, products: Collection[str]) -> Iterator[str]:
    """What an image of DUCC's lacks, in words; a few looks, however large it is."""
    known = manifest(layout, name)
    if known is None:
        yield "its manifest is damaged"
        return
    config, layers = known
    for digest in dict.fromkeys(layers):
        if not layout.layerfs(digest).is_dir():
            yield f"its layer {digest.short} is missing"
    if Product.FLAT not in products:
        return
    flat, link = layout.flat(config), layout.link(name)
    if not flat.is_dir():
        yield f"its flat tree {config.short} is missing"
    elif not (flat / ".singularity.d").is_dir():
        yield f"its flat tree {config.short} has no .singularity.d"
    if not link.is_symlink():
        yield "its link is missing"
        return
    target = str(link.readlink()).rstrip("/")
    if not target.endswith(f".flat/{config.prefix}/{config.hex}"):
        yield "its link leads to something else"
    elif not target.startswith("/") and not link.exists():
        yield "its link leads nowhere"


def stray_whiteout(tree: Path) -> str:
    """The path of a whiteout's marker (``.wh.…``) in a tree, where it is a mistake; else empty."""
    pending = [os.fspath(tree)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                if entry.name.startswith(_WHITEOUT):
                    return os.path.relpath(entry.path, tree)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
    return ""


def dirty_chains(layout: Layout) -> list[str]:
    """Chains that DUCC began to make and did not finish, or did not clean up."""
    base = layout.dirty_chains
    try:
        return sorted(f"{base.name}/{path.name}" for path in base.iterdir() if path.name[0] != ".")
    except (FileNotFoundError, NotADirectoryError):
        return []


def dangling_links(layout: Layout) -> list[str]:
    """Public links that lead nowhere, below the repository's root."""
    return sorted(
        str(path.relative_to(layout.root)) for path in links(layout.root) if not path.exists()
    )
