"""A published layer is what unpacking its blob gives, whichever images share it, in any order.

What depends on the layers below is in the flat tree and in podman's store, of each
image by itself.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

from duccmake.demo.images import Image
from duccmake.errors import LayerError
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.protocol import Repository
from duccmake.tree import mtree
from support import oracles, pipeline, trees
from support.cvmfs_repositories import both, repository_for
from support.images import Layer, LayerBuilder
from support.on_disk import OnDisk
from support.oracles import needs_overlay
from support.staged_trees import open_repository
from support.trees import Node

pytestmark = [pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts"), needs_overlay]

PRODUCTS = ("layers", "flat", "podman")
Images = dict[str, Image]

# --- what is published --------------------------------------------------------


def base(which: int, *, root: bool, mode: int, time: int) -> LayerBuilder:
    """One of the lowest layers: the same names in all, other content and attributes."""
    builder = LayerBuilder()
    if root:
        builder.dir(".", mode=mode, mtime=time)
    builder.dir("d", mode=mode, uid=which, mtime=time).file(
        "d/file", f"{which}", mode=0o600 + which
    )
    builder.dir("d/sub", mode=0o700, mtime=time).file(f"d/sub/only{which}").file("d/sub/x", "x")
    builder.dir("e", mtime=time, xattrs={"user.base": b"%d" % which}).file("file", f"base {which}")
    if which % 2:
        return builder.symlink("lib", "d").file("e/only")
    return builder.dir("lib", mode=0o711).file("lib/file", "of lib")


UPPER = (
    lambda builder: builder.hardlink("link", "file"),
    lambda builder: builder.hardlink("d/sub/link", "d/file"),
    lambda builder: builder.file("d/new", "new").hardlink("again", "d/new"),
    lambda builder: builder.file("d/sub/y", "y"),
    lambda builder: builder.file("d/file", "of the upper layer"),
    lambda builder: builder.opaque("d"),
    lambda builder: builder.dir("d", mode=0o750).opaque("d/sub"),
    lambda builder: builder.dir("d/sub"),
    lambda builder: builder.file("e/z", "z"),
    lambda builder: builder.whiteout("d/sub/x"),
    lambda builder: builder.whiteout("lib/file"),
    lambda builder: builder.file("lib/w", "w"),
    lambda builder: builder.file("n/o/p", "implied everywhere"),
)
"""What an upper layer does; none of it is the same over another base."""


@st.composite
def shared(draw: st.DrawFn) -> list[Images]:
    """Two or three images, which share their upper layers over bases of their own, in turns."""
    changes = st.lists(st.sampled_from(UPPER), min_size=1, max_size=5, unique=True)
    uppers = []
    for number in range(draw(st.integers(1, 2))):
        builder = LayerBuilder().file(f"layer{number}")
        for change in draw(changes):
            change(builder)
        uppers.append(builder.layer())
    images = {}
    for which in range(draw(st.integers(2, 3))):
        lowest = base(
            which,
            root=draw(st.booleans()),
            mode=draw(st.sampled_from([0o755, 0o711, 0o1777])),
            time=draw(st.integers(1_000_000_000, 1_000_000_001)),
        )
        images[f"registry.example.org/team/app:{which}"] = Image((lowest.layer(), *uppers))
    names = draw(st.permutations(list(images)))
    turns = draw(st.sampled_from([1, 2, len(names)]))
    together = [names[at : at + turns] for at in range(0, len(names), turns)]
    return [{name: images[name] for name in turn} for turn in together]


def stage(repository: Repository, base: Path, images: Images):
    catalogs = not isinstance(repository, DirectoryRepository)
    staged = [
        pipeline.stage(name, image, base, PRODUCTS, catalogs=catalogs)
        for name, image in images.items()
    ]
    return pipeline.change_set(staged, base)


def publish(repository: Repository, base: Path, turns: Sequence[Images], *, meanwhile: bool):
    """Publish one turn after the other, or have the later ones get ready meanwhile."""
    try:
        sets = [stage(repository, base / str(number), turn) for number, turn in enumerate(turns)]
    except LayerError:
        assume(False)  # a hard link to what the layer below hides
    later = iter(sets[1:] if meanwhile else ())
    with repository.lock():
        for changes in sets:
            repository.publish(changes, lambda: itertools.islice(later, 1))


# --- what is there ------------------------------------------------------------


def unpacked(layer: Layer, base: Path) -> tuple[dict[bytes, Node], bytes]:
    """What unpacking a blob gives: its tree, and its manifest."""
    pipeline.unpack(layer, base)
    manifest = base / "layer" / ".metadata" / "tree.mtree"
    return trees.snapshot(base / "layer" / "layerfs", acting=True), manifest.read_bytes()


def kept(tree: dict[bytes, Node]) -> dict[bytes, Node]:
    """What CernVM-FS keeps of a tree, and nothing of its own."""
    return {
        path: replace(node, xattrs=(), group=())
        for path, node in tree.items()
        if not path.endswith(b".cvmfscatalog")
    }


def look_at_layer(repository: Repository, layer: Layer, base: Path) -> None:
    """It is byte for byte and attribute for attribute what unpacking the blob alone gives."""
    wanted, manifest = unpacked(layer, base / layer.digest.hex)
    found = trees.snapshot(OnDisk(repository.path).layerfs(layer.digest), acting=True)
    published = OnDisk(repository.path).layer_manifest(layer.digest)
    if isinstance(repository, DirectoryRepository):
        assert manifest == published.read_bytes()
        # Files of flat trees and of the store are links to them.
        assert trees.differences(wanted, found, ignore=("group",)) == []
        return
    opaque = tuple(entry.path + b"/" for entry in mtree.read(published) if b"opaque" in entry.flags)
    spelled = {
        path
        for path, node in found.items()
        if (node.kind, node.device) == ("char", (0, 0)) and path.startswith(opaque)
    }
    more = {path: node for path, node in found.items() if path not in spelled - wanted.keys()}
    assert trees.differences(kept(wanted), kept(more)) == []


@contextmanager
def in_store(repository: Repository, image: Image, base: Path) -> Iterator[Path]:
    """The image as podman mounts it from the store, by the kernel's overlay."""
    layers = pipeline.store_layers(repository, image.layers)
    with oracles.overlay(layers, base) as merged:
        yield merged


def look_at_image(repository: Repository, name: str, image: Image, base: Path) -> None:
    assert repository.verify(name) == []
    flat = trees.snapshot(OnDisk(repository.path).flat(pipeline.digest_of(image.config_bytes)))
    with in_store(repository, image, base) as merged:
        found = trees.snapshot(merged)
    if not isinstance(repository, DirectoryRepository):
        flat, found = kept(flat), kept(found)
    assert trees.differences(flat, found, ignore=("group",)) == []


def look(repository: Repository, turns: Sequence[Images], base: Path) -> None:
    images = {name: image for turn in turns for name, image in turn.items()}
    layers = {layer.digest: layer for image in images.values() for layer in image.layers}
    with repository.reading():
        for layer in layers.values():
            look_at_layer(repository, layer, base / "unpacked")
        for name, image in images.items():
            look_at_image(repository, name, image, base)


_SETTINGS = settings(
    max_examples=int(os.environ.get("DUCCMAKE_EXAMPLES", "30")),
    deadline=None,
    derandomize="DUCCMAKE_EXAMPLES" not in os.environ,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@_SETTINGS
@given(shared())
def test_layers_are_what_unpacking_gives_and_images_themselves_in_a_directory(turns):
    with tempfile.TemporaryDirectory(prefix="shared") as directory:
        path = Path(directory)
        repository = open_repository(path)
        publish(repository, path / "staging", turns, meanwhile=False)
        look(repository, turns, path)


@pytest.mark.parametrize("which", both())
@settings(_SETTINGS, max_examples=_SETTINGS.max_examples // 2)
@given(turns=shared(), meanwhile=st.booleans())
def test_layers_are_what_unpacking_gives_and_images_themselves_in_cvmfs(turns, meanwhile, which):
    with (
        tempfile.TemporaryDirectory(prefix="shared") as directory,
        pytest.MonkeyPatch.context() as patched,
    ):
        path = Path(directory)
        cvmfs = repository_for(which, path, patched)
        repository = cvmfs.open()
        publish(repository, path / "staging", turns, meanwhile=meanwhile)
        look(repository, turns, path)
        assert cvmfs.problems() == ""
