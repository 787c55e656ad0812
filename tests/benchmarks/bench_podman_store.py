"""One more image for a podman store of 1,000, against writing the two index files anew.

What is timed are the edits and their transaction in the directory backend; the
layers themselves are published in any case.  The peer is a transaction as well, and
does what nobody gets around: it parses both files and writes them with a change.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from compare import beside

from duccmake.demo.images import Image
from duccmake.repository import podman
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.edits import Edits
from duccmake.repository.model import StagedImage
from support.images import Layer
from support.on_disk import OnDisk
from support.pipeline import staged

SIZES = (1, 100, 1000)
BASES, SHARED, OWN = 20, 5, 5
ROUNDS = 15


class Growing:
    """A repository whose store takes one image after the other, of ten layers each."""

    def __init__(self, base: Path) -> None:
        self.repository = DirectoryRepository(base, "bench.example.org", durable=False)
        self.store = self.repository.path / "podmanStore"
        self.count = 0

    def next(self) -> StagedImage:
        """An image on one of twenty bases; its layers are published, as empty directories."""
        number = self.count
        self.count += 1
        texts = [f"base {number % BASES} {layer}" for layer in range(SHARED)]
        texts += [f"image {number} {layer}" for layer in range(OWN)]
        image = Image(tuple(Layer(text.encode(), "none") for text in texts))
        for layer in image.layers:
            OnDisk(self.repository.path).layerfs(layer.digest).mkdir(parents=True, exist_ok=True)
        name = f"registry.example.org/team/app:{number}"
        return staged(name, image, None, ("layers", "podman"))

    def add(self, *images: StagedImage) -> Edits:
        edits = Edits(self.repository.view)
        with self.repository.lock():
            podman.publish(edits, images)
            self.repository.edit(edits)
        return edits

    def grow(self, size: int) -> None:
        self.add(*(self.next() for _ in range(size - self.count)))

    def indexes(self) -> list[Path]:
        return [self.store / f"overlay-{kind}/{kind}.json" for kind in ("images", "layers")]

    def rewrite(self) -> None:
        """Read both index files and write them again, the other way round."""
        edits = Edits(self.repository.view)
        with self.repository.lock():
            for path in self.indexes():
                entries = json.loads(edits.content(path))[::-1]
                edits.file(path, json.dumps(entries, separators=(",", ":")).encode())
            self.repository.edit(edits)


def test_one_more_image_costs_what_the_two_index_files_cost(tmp_path: Path) -> None:
    growing = Growing(tmp_path)
    print(f"\none more image of {SHARED + OWN} layers (medians of {ROUNDS} in turn)")
    print(
        f"  {'images':>8}{'layers':>8}{'index MB':>10}{'add ms':>9}{'rewrite ms':>12}{'ratio':>8}"
    )
    for size in SIZES:
        growing.grow(size)
        added, rewritten = [], []
        for _ in range(ROUNDS):
            image = growing.next()
            added.append(_seconds(lambda image=image: growing.add(image)))
            rewritten.append(_seconds(growing.rewrite))
        layers = len(json.loads(growing.indexes()[1].read_bytes()))
        megabytes = sum(path.stat().st_size for path in growing.indexes()) / 1e6
        ratio = statistics.median(a / b for a, b in zip(added, rewritten, strict=True))
        beside(f"one more among {growing.count} images", added, "its indexes anew", rewritten)
        print(
            f"  {growing.count:8}{layers:8}{megabytes:10.2f}{statistics.median(added) * 1e3:9.1f}"
            f"{statistics.median(rewritten) * 1e3:12.1f}{ratio:8.2f}"
        )
    edits = growing.add(growing.next())
    files = [path.name for path in edits.puts if path.suffix in (".json", ".lock")]
    print(f"  written: {', '.join(files)}, and {len(edits.puts) - len(files)} more of the image")


def _seconds(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin
