"""Which images of DUCC's can be taken over as they stand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePosixPath

from ..fs.line_memory import LineMemory
from ..products import Product
from ..repository import adoption
from ..repository.protocol import Repository
from ..workspace.results import memory
from .model import PlannedImage, PlannedLayer


class StrayWhiteouts:
    """Whiteouts' markers in the trees of a repository, each looked through once.

    ``results/REPOSITORY/leftovers.jsonl`` has of each tree its time in nanoseconds and the
    path of a marker, or an empty one; a tree that has changed is looked through again.
    """

    def __init__(self, repository: Repository) -> None:
        self._view = repository.view
        self._memory = LineMemory(memory(repository.name, "leftovers"))

    def find(self, tree: PurePosixPath) -> str:
        """`adoption.stray_whiteout` of a tree."""
        key, changed = str(tree), self._view.mtime_ns(tree)
        match self._memory.get(key):
            case [int(then), str(path)] if then == changed:
                return path
        path = adoption.stray_whiteout(self._view, tree)
        self._memory.note(key, [changed, path])
        return path


def can_adopt(
    image: PlannedImage,
    layers: Sequence[PlannedLayer],
    repository: Repository,
    strays: StrayWhiteouts,
) -> bool:
    """Whether DUCC published an image as it is wished for, and nothing of that is damaged."""
    view, layout = repository.view, repository.view.layout
    if image.anew or not image.adopts or image.variants or view.exists(layout.record(image.name)):
        return False
    digests = [layer.digest for layer in layers]
    with repository.reading():
        return adoption.is_whole(view, image.name, image.config, digests, image.products) and not (
            Product.FLAT in image.products and strays.find(layout.flat(image.config))
        )
