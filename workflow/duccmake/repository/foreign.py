"""What earlier versions put into published layers of what one image had below them.

Where a layer has a hard link to a lower layer, they put the file that the first image with
the layer had there, for all images.  These files go again.  Directories that a layer only
implies got attributes in the same way, and keep them: no flat tree and no chain of
podman's store takes these for the layer's own any more (`duccmake.layer.flatten`).
"""

from __future__ import annotations

import os
from collections.abc import Collection

from ..oci.reference import Digest
from ..tree import mtree
from ..tree.mtree import Entry
from . import podman
from .edits import Edits
from .protocol import Repository
from .view import View


def foreign_links(view: View, layer: Digest) -> list[bytes]:
    """The paths at which a published layer has a file of some image's lower layer."""
    content = view.read(view.layout.layer_manifest(layer))
    if b"lower" not in content:
        return []
    links = map(_foreign_link, content.splitlines(keepends=True))
    return [entry.path for entry in links if entry is not None]


def take_out(repository: Repository, digests: Collection[Digest]) -> None:
    """Take the files that `foreign_links` finds out of these layers; only under the lock.

    podman's store loses the links to the layers, and with these what has them: the next run puts
    the images there again, with trees that are theirs.  Flat trees have their files
    under names of their own.  It can be repeated where it was interrupted.
    """
    view, layout = repository.view, repository.view.layout
    edits, manifests = Edits(view), Edits(view)
    podman.expel(edits, podman.links_to(view, digests))
    for digest in digests:
        for path in foreign_links(view, digest):
            edits.strip(layout.layerfs(digest) / os.fsdecode(path))
        manifest = layout.layer_manifest(digest)
        manifests.file(manifest, b"".join(map(_as_unpacked, view.lines(manifest))))
    repository.edit(edits)
    # Last: until then the manifest tells what is to be taken out.
    repository.edit(manifests)


def _foreign_link(line: bytes) -> Entry | None:
    if not mtree.has_tag(line, b"lower"):
        return None
    entry = Entry.parse(line)
    return entry if entry.kind != mtree.FILE or entry.sha256 else None


def _as_unpacked(line: bytes) -> bytes:
    entry = _foreign_link(line)
    return line if entry is None else mtree.lower_link(entry.path, entry.hardlink).line()
