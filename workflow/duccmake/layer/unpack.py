"""Unpacking a layer: one pass from the blob to a staged tree and its manifest.

Rules: image-spec, layer.md ("Applying Changesets", "Whiteouts").  A layer is
unpacked without knowing what lies below it: whiteouts become overlayfs', hard
links to lower layers and parents that it does not mention are noted in the
manifest, and `duccmake.layer.flatten` puts layers together.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LayerError, NoSpace, UnsafeLayer
from ..fs.files import move_whole
from ..oci.reference import Digest
from .archive import Unpacker
from .builder import Staging
from .layer_manifest import write_manifest
from .limits import UnpackLimits
from .measured import STAGED, TAR_SPLIT
from .place import Place
from .stream import LayerStream, StreamResult
from .tar import TarReader

if TYPE_CHECKING:
    from .catalogs import CatalogForm
    from .tar_split import TarSplit
    from .writers import Writers

logger = logging.getLogger(__name__)

LAYER_FORMAT = 3
"""Version of what a staged layer looks like."""


@dataclass(frozen=True, slots=True)
class UnpackedLayer:
    """A staged layer: where it is, what its stream was, what could not be kept (counts)."""

    path: Path
    stream: StreamResult
    entries: int
    lost: dict[str, int]


def unpack_layer(
    blob: Path,
    destination: Path,
    *,
    digest: Digest,
    partial: Path | None = None,
    diff_algorithms: Collection[str] = ("sha256",),
    catalogs: CatalogForm | None = None,
    split: bool = False,
    limits: UnpackLimits | None = None,
) -> UnpackedLayer:
    """Unpack ``blob`` into ``destination/layer``: its manifest, and a tree or what is made of it.

    The manifest and a summary are in ``.metadata/``, the tree is ``layerfs/``; with
    ``catalogs`` it becomes objects instead (`duccmake.layer.catalogs`).
    With ``split``, what podman needs to save or push it is taken down (`duccmake.layer.tar_split`).
    The blob has to have the ``digest``; what it unpacks to is measured, by each of
    ``diff_algorithms``, and noted in the summary (`duccmake.layer.measured`).  The directory
    appears only when everything was right, and nothing remains when it was not.
    It is made as ``partial``, where that is given: a path on the same file system.
    Raises `LayerError` and its kin, `DigestMismatch` and `NoSpace`.
    """
    partial = partial or destination / "layer.partial"
    try:
        _remove_tree(partial)
        # Private: what a layer says of setuid files and devices counts once it is published.
        for directory in (destination, partial.parent):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.chmod(0o700)
        for directory in (partial, partial / ".metadata"):
            directory.mkdir(mode=0o755)
        with _place(partial, catalogs) as made:
            stream = LayerStream(
                blob, algorithm=digest.algorithm, diff_algorithms=diff_algorithms, limits=limits
            )
            unpacked = _unpack(stream, partial, destination, made, digest, split=split)
        move_whole(partial, destination / "layer")
    except OSError as error:
        _discard(partial)
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(
                f"no space left while unpacking {digest}",
                hint=f"make room on the file system of {destination} and run again",
            ) from error
        raise _described(error) from error
    except BaseException:
        _discard(partial)
        raise
    return unpacked


def _place(partial: Path, catalogs: CatalogForm | None) -> AbstractContextManager[Place]:
    if catalogs is not None:
        return _objects(partial, catalogs)
    return _tree(partial / "layerfs")


@contextmanager
def _objects(directory: Path, form: CatalogForm) -> Iterator[Place]:
    from ..cvmfs.objects import Objects
    from .catalogs import OBJECTS, write_catalogs
    from .compressors import Compressors
    from .object_place import ObjectPlace

    (directory / OBJECTS).mkdir(mode=0o755)
    with Compressors(directory / OBJECTS, form.codec, form.known) as compressors:
        place = ObjectPlace(compressors)
        yield place
        place.finish()
    objects = Objects(directory / OBJECTS, form.codec)
    manifest = directory / ".metadata" / "tree.mtree"
    needed = write_catalogs(directory, manifest, place.content, objects, form)
    for name in place.unused - needed:
        objects.remove(name)


@contextmanager
def _tree(directory: Path) -> Iterator[Writers]:
    from .writers import Writers  # slow to import

    directory.mkdir(mode=0o755)
    root_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    mask = os.umask(0)  # modes are as the layer gives them
    try:
        with Writers(root_fd) as writers:
            yield writers
    finally:
        os.umask(mask)
        os.close(root_fd)


def _unpack(
    layer: LayerStream,
    partial: Path,
    destination: Path,
    place: Place,
    digest: Digest,
    *,
    split: bool,
) -> UnpackedLayer:
    taken = _tar_split() if split else None
    with layer as stream:
        account = stream.account
        staging = Staging(place, account)
        reader = TarReader(iter(stream), account=account, split=taken)
        Unpacker(staging, account).apply(reader)
    result = stream.result
    result.verify(digest)
    staging.finish()
    if taken is not None:
        taken.write(partial / TAR_SPLIT)
    manifest = partial / ".metadata" / "tree.mtree"
    entries = write_manifest(manifest, staging.root, digest, account)
    lost = staging.losses()
    staging.forget()
    summary = {
        "format": LAYER_FORMAT,
        "digest": str(digest),
        "diff_ids": list(map(str, result.diff_ids)),
        "blob_bytes": result.blob_bytes,
        "diff_bytes": result.diff_bytes,
        "compression": result.compression,
        "entries": entries,
        "lost": lost,
    }
    (partial / ".metadata" / STAGED).write_text(json.dumps(summary, indent=1) + "\n")
    if lost:
        logger.warning("this file system cannot keep all of layer %s: %s", digest, _count(lost))
    return UnpackedLayer(destination / "layer", result, entries, lost)


def _tar_split() -> TarSplit:
    from .tar_split import TarSplit  # what it needs is seldom needed

    return TarSplit()


def _described(error: OSError) -> LayerError:
    """An operating system's refusal, as what it means for the layer."""
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeLayer(f"a name is longer than the file system allows: {error.filename!r}")
    return LayerError(f"{error.strerror}: {error.filename!r}")


def _count(lost: dict[str, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(lost.items()))


def _remove_tree(path: Path) -> None:
    if path.is_symlink():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def _discard(path: Path) -> None:
    """Remove what a failure leaves; the failure is what is to be told, not what comes of this."""
    shutil.rmtree(path, ignore_errors=True)
    if os.path.lexists(path):
        logger.warning("%s could not be removed", path)
