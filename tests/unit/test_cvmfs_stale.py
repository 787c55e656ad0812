"""A mount of CernVM-FS that shows an old revision."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from duccmake.demo.images import Image
from support import pipeline
from support.cvmfs_repositories import both
from support.images import LayerBuilder
from support.on_disk import OnDisk

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

ONE, TWO, THREE = (f"registry.example.org/team/{name}:1" for name in ("one", "two", "three"))


@pytest.mark.parametrize("cvmfs", both()[1:], indirect=True)
@pytest.mark.parametrize("publisher", ["catalogs", "ingest"])
def test_books_are_made_of_the_newest_revision(cvmfs, staging, publisher):
    """A machine died after it had signed a manifest and before it had noted which."""
    repository = cvmfs.open(publisher=publisher)

    def publish(name: str) -> None:
        image = Image((LayerBuilder().file("name", name).layer(),))
        products = ("layers", "flat", "podman")
        staged = pipeline.stage(name, image, staging / name[-5:], products, catalogs=True)
        with repository.lock():
            repository.publish(pipeline.change_set([staged], staging / name[-5:]))

    publish(ONE)
    note = cvmfs.spool / "client.local"
    old = note.read_text()
    publish(TWO)
    for mounted in (f"/cvmfs/{cvmfs.name}", str(cvmfs.spool / "rdonly")):
        subprocess.run(["umount", mounted], check=True)
    note.write_text(old)
    cvmfs.server("mount", cvmfs.name)
    assert not os.path.lexists(OnDisk(repository.path).link(TWO))
    publish(THREE)
    index = OnDisk(repository.path).root / "podmanStore/overlay-images/images.json"
    names = [name for image in json.loads(index.read_bytes()) for name in image["names"]]
    assert sorted(names) == sorted([ONE, TWO, THREE])
