"""An image's flat tree, made of the manifests of its layers."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import LayerError
from ...fs.attributes import is_safe_time
from ...fs.files import move_whole
from ...oci.manifest import ImageConfig
from ...oci.reference import Digest
from ...tree import mtree
from ...tree.mtree import decode, encode
from ..singularity import Generated, generated
from .additions import add_generated
from .merge import Merge
from .nodes import Dir, lines, root_directory
from .permissions import widen

if TYPE_CHECKING:
    from ...cvmfs.rows import Content
    from ..catalogs import CatalogForm, TreeContents


@dataclass(frozen=True, slots=True)
class LayerTree:
    """A layer and the text of its ``tree.mtree``."""

    digest: Digest
    manifest: bytes


@dataclass(frozen=True, slots=True)
class FlatTree:
    """The result: the root of the tree, and for each layer what an overlay does not show as it is.

    ``notes`` are lines by path: what is flagged ``lost:``, and whiteouts that spell out
    what opaque directories hide, for readers that do not see these marked.
    """

    layers: tuple[Digest, ...]
    root: Dir
    notes: tuple[dict[bytes, bytes], ...]
    generated: dict[bytes, bytes]

    def lines(self) -> Iterator[bytes]:
        """The image's manifest, parents first, without comments."""
        return lines(self.root)

    def write(self, destination: Path) -> int:
        """Write ``tree.mtree``, ``generated/`` and ``layers/``; return the entries' number."""
        (destination / "layers").mkdir(parents=True)
        count = 0
        with (destination / "tree.mtree").open("wb", buffering=1024 * 1024) as out:
            out.write(mtree.FORMAT)
            out.writelines(
                b"# layer %d %b\n" % (n, str(d).encode()) for n, d in enumerate(self.layers)
            )
            for line in self.lines():
                out.write(line)
                count += 1
        for path, content in self.generated.items():
            file = destination / "generated" / Path(decode(path).decode())
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        for number, notes in enumerate(self.notes):
            if not notes:
                continue
            with (destination / "layers" / f"{number}.mtree").open("wb") as out:
                out.write(mtree.FORMAT)
                out.writelines(mtree.LINE % (path, notes[path]) for path in sorted(notes))
        return count


def flatten_image(
    layers: Sequence[LayerTree],
    config: ImageConfig,
    destination: Path,
    *,
    name: str,
    mount_points: Sequence[str],
    fix_permissions: bool = False,
    catalogs: tuple[CatalogForm, Sequence[TreeContents]] | None = None,
) -> int:
    """Flatten an image into ``destination/image``, which appears whole or not at all.

    Returns the number of entries.  What is generated bears the image's time of
    creation, so that one image always gives the same tree.  With ``fix_permissions``
    everybody may read and run it, and what was widened for that is flagged.
    ``catalogs`` are written as well where their form is given, and the content of the
    layers' files (`duccmake.layer.catalogs`).
    """
    extra = generated(config, name=name, mount_points=mount_points)
    tree = flatten(layers, extra, mtime_ns=_created_ns(config))
    if fix_permissions:
        widen(tree.root)
    partial = destination / f"image.{secrets.token_hex(4)}"
    count = tree.write(partial)
    if catalogs is not None:
        _write_catalogs(tree, partial, *catalogs)
    move_whole(partial, destination / "image")
    return count


def _write_catalogs(
    tree: FlatTree, directory: Path, form: CatalogForm, layers: Sequence[TreeContents]
) -> None:
    from ...cvmfs.objects import Objects
    from ..catalogs import OBJECTS, write_catalogs

    (directory / OBJECTS).mkdir()
    objects = Objects(directory / OBJECTS, form.codec)

    def content(layer: int | None, path: bytes) -> Content:
        if layer is not None:
            return layers[layer].of(path)
        generated = tree.generated[encode(path)]
        return objects.file([generated], len(generated))

    write_catalogs(directory, directory / "tree.mtree", content, objects, form)


def _created_ns(config: ImageConfig) -> int:
    """When the image was made; 0 for what is no time, such as the year 1 that Go writes then,
    and for what not every file system keeps.
    """
    try:
        moment = datetime.fromisoformat(config.created)
    except ValueError:
        return 0
    mtime_ns = int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * 1_000_000_000
    return mtime_ns if mtime_ns > 0 and is_safe_time(mtime_ns) else 0


def flatten(
    layers: Sequence[LayerTree], extra: Iterable[Generated] = (), *, mtime_ns: int = 0
) -> FlatTree:
    """Merge layers, lowest first, and add what is generated (stamped with ``mtime_ns``).

    Raises `LayerError` where a layer's hard link names what no lower layer has,
    or its path leads through more symlinks than a system follows.
    """
    root = root_directory()
    notes = []
    for number, layer in enumerate(layers):
        try:
            merge = Merge(root, number, layer.manifest.splitlines())
            merge.apply()
        except LayerError as error:
            raise error.within(step=f"flattening layer {layer.digest}") from None
        notes.append(merge.notes)
    contents = add_generated(root, extra, mtime_ns)
    return FlatTree(tuple(layer.digest for layer in layers), root, tuple(notes), contents)
