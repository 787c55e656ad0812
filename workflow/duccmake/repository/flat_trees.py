"""Flat trees that are there: what each was made of, and which images it serves.

A flat tree goes by the digest of its configuration.  That names the layers' diff_ids, so
it stands for one content, provided that the layers were held to it: what was made of
other layers under the same configuration serves nobody else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from ..layer.measured import Measured, published
from ..oci.reference import Digest
from ..tree.mtree import FORMAT
from .model import RECORD_FORMAT, StagedImage
from .view import View

_LAYER = b"# layer "


@dataclass(frozen=True, slots=True)
class FlatTree:
    """A flat tree that is there as this version makes it: its layers, and what it lacks.

    ``losses`` are those of the tree, ``layer_losses`` those of an overlay of its layers,
    by kind; ``verified``: the layers unpack to what the configuration says.  With
    ``fix_permissions`` everybody may read it, and that is another tree than without.
    """

    layers: tuple[Digest, ...]
    losses: Mapping[str, int]
    layer_losses: Mapping[str, int] = field(default_factory=dict)
    verified: bool = False
    fix_permissions: bool = False

    def to_json(self, config: Digest) -> dict[str, object]:
        """The members of ``flat.json``."""
        return {
            "format": RECORD_FORMAT,
            "config": str(config),
            "layers": [str(digest) for digest in self.layers],
            "losses": dict(self.losses),
            "layer_losses": dict(self.layer_losses),
            **({"verified": True} if self.verified else {}),
            **({"fix_permissions": True} if self.fix_permissions else {}),
        }


def measured_layer(view: View, digest: Digest) -> Measured | None:
    """What a published layer was found to be; None where nobody has measured it.

    DUCC writes ``layers.json`` as well, of what configurations claim: only beside a
    ``tree.mtree``, which DUCC has none of, it was measured.
    """
    manifest = view.layout.layer_manifest(digest)
    metadata = manifest.parent
    found = published(lambda name: view.read(metadata / name))
    is_ours = found is not None and found.digest == digest and view.is_file(manifest)
    return found if is_ours else None


def read_flat_tree(view: View, config: Digest) -> FlatTree | None:
    """The flat tree of a configuration, whole and as this version makes it; else None."""
    layout = view.layout
    try:
        known = json.loads(view.read(layout.flat_record(config)))
        found = FlatTree(
            layers=tuple(map(Digest.parse, known["layers"])),
            losses={str(kind): int(count) for kind, count in known["losses"].items()},
            layer_losses=dict(known.get("layer_losses", {})),
            verified=known.get("verified") is True,
            fix_permissions=known.get("fix_permissions") is True,
        )
        current = known["format"] == RECORD_FORMAT
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    whole = view.is_dir(layout.flat(config)) and view.is_file(layout.flat_manifest(config))
    return found if current and whole else None


def flat_tree(
    view: View,
    config: Digest,
    layers: Sequence[Digest],
    measured: Sequence[Measured] | None,
) -> FlatTree | None:
    """The flat tree that serves an image of this configuration, or None.

    ``measured`` is what the image's ``layers`` were found to be, and they have been held
    to the configuration; None where they never were measured.  Before that was noted, a
    tree may have been made of others: it serves whose layers unpack to the same.
    """
    found = read_flat_tree(view, config)
    if found is None or (found.verified and measured is not None):
        return found
    manifest = view.layout.flat_manifest(config)
    if found.layers == tuple(layers):
        return found if _is_made_of(view, manifest, found.layers) else None
    if measured is None or len(measured) != len(found.layers):
        return None
    others = [measured_layer(view, digest) for digest in found.layers]
    same = all(
        other is not None and not set(other.diff_ids).isdisjoint(one.diff_ids)
        for other, one in zip(others, measured, strict=True)
    )
    return found if same and _is_made_of(view, manifest, found.layers) else None


def flat_tree_of(view: View, image: StagedImage) -> FlatTree | None:
    """The flat tree that serves an image to be published, or None."""
    found = flat_tree(view, image.config, image.layers, image.measured)
    return found if found and found.fix_permissions == image.fix_permissions else None


def _is_made_of(view: View, manifest: PurePosixPath, layers: Sequence[Digest]) -> bool:
    """Whether a flat tree's manifest says nothing else of its layers (`duccmake.layer.flatten`)."""
    listed = []
    for line in view.lines(manifest):
        if line.startswith(_LAYER):
            listed.append(line.split()[-1].decode(errors="replace"))
        elif line != FORMAT:
            break
    return not listed or listed == [str(digest) for digest in layers]
