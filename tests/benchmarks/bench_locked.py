"""How long a commit keeps others out of a CernVM-FS repository, whatever is published.

The peer is the shortest that ``cvmfs_server`` itself can do: a transaction in which one small
file is published.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from compare import beside

from duccmake.cvmfs.codec import Codec
from duccmake.cvmfs.objects import Objects
from duccmake.layer.catalogs import OBJECTS, CatalogForm, StagedCatalogs, write_catalogs
from duccmake.oci.reference import Platform
from duccmake.repository.cvmfs.claim import Claim
from duccmake.repository.cvmfs.transaction import Transactions
from duccmake.repository.model import ChangeSet, StagedImage, StagedLayer
from duccmake.tree import mtree
from duccmake.tree.mtree import Entry
from support.cvmfs_repositories import Real, real_repositories, why_not_real
from support.staged_trees import KEEPING, digest_of, directory, write_staged_catalogs

pytestmark = pytest.mark.cvmfs

IMAGES = int(os.environ.get("DUCCMAKE_BENCHMARK_IMAGES", "2000"))
"""How many images there are already, in one of the benchmarks."""
GIGABYTES = float(os.environ.get("DUCCMAKE_BENCHMARK_GB", "20"))
"""How much content is new, in another."""

MB = 1_000_000


@pytest.fixture(scope="module")
def cvmfs() -> Real:
    if reason := why_not_real():
        pytest.skip(reason)
    return real_repositories().get("")


@pytest.fixture
def locked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For how many seconds each commit has kept others out."""
    taken: list[float] = []
    begun = 0.0
    held, give_up = Claim.held, Transactions._give_up

    def begin(claim: Claim) -> object:
        nonlocal begun
        begun = time.perf_counter()
        return held(claim)

    def end(transactions: Transactions, claim: Claim) -> None:
        give_up(transactions, claim)
        taken.append(time.perf_counter() - begun)

    monkeypatch.setattr(Claim, "held", begin)
    monkeypatch.setattr(Transactions, "_give_up", end)
    return taken


def _commit(cvmfs: Real, changes: ChangeSet) -> None:
    repository = cvmfs.open(publisher="catalogs")
    with repository.lock():
        repository.publish(changes)


def _peer(cvmfs: Real, number: int) -> float:
    """One small file, published by ``cvmfs_server`` alone."""
    begin = time.perf_counter()
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / f"of-the-peer-{number}").touch()
    cvmfs.server("publish", cvmfs.name)
    return time.perf_counter() - begin


def _told(
    title: str,
    cvmfs: Real,
    locked: list[float],
    change: Callable[[int], ChangeSet],
    rounds: int = 3,
) -> None:
    """Publish what ``change`` makes, in turn with the peer."""
    peers, ours = [], []
    for number in range(rounds):
        peers.append(_peer(cvmfs, number))
        changes = change(number)
        locked.clear()
        _commit(cvmfs, changes)
        ours.append(sum(locked))
    ratio = statistics.median(mine / other for mine, other in zip(ours, peers, strict=True))
    beside(f"{title}: locked", ours, "cvmfs_server", peers)
    print(f"\n{title}: locked (medians of {rounds} commits in turn)")
    print(f"  {'duccmake':32}{statistics.median(ours):8.2f} s, at most {max(ours):.2f} s")
    print(f"  {'cvmfs_server, one small file':32}{statistics.median(peers):8.2f} s")
    print(f"  {'duccmake / cvmfs_server':32}{ratio:8.2f}")


def _image(
    staging: Path, name: str, entries: Sequence[Entry], content: Callable[[bytes], bytes]
) -> ChangeSet:
    """An image of one layer, as objects and catalogs alone; each file's content is made once."""
    digest, config = digest_of(f"layer of {name}"), digest_of(f"config of {name}")
    layer, flat = staging / digest.hex, staging / config.hex
    (layer / ".metadata").mkdir(parents=True)
    flat.mkdir()
    mtree.write(layer / ".metadata/tree.mtree", entries)
    mtree.write(flat / "tree.mtree", [replace(entry, layer=0) for entry in entries])
    at = f"/.layers/{digest.prefix}/{digest.hex}/layerfs".encode()
    manifest = layer / ".metadata/tree.mtree"
    write_staged_catalogs(layer, manifest, at, lambda _, path: content(path), KEEPING)
    measured = {"digest": str(digest), "diff_ids": [str(digest)], "blob_bytes": 1, "diff_bytes": 1}
    (layer / ".metadata/layer.json").write_text(json.dumps(measured))
    found = StagedCatalogs.read(layer).contents()
    form = CatalogForm(f"/.flat/{config.prefix}/{config.hex}".encode(), KEEPING, Codec())
    (flat / OBJECTS).mkdir()
    objects = Objects(flat / OBJECTS)
    write_catalogs(flat, flat / "tree.mtree", lambda _, path: found.of(path), objects, form)
    raw = json.dumps({"config": {"digest": str(config)}, "layers": [{"digest": str(digest)}]})
    image = StagedImage(
        name=name,
        platform=Platform("linux", "amd64"),
        manifest=digest_of(raw),
        manifest_bytes=raw.encode(),
        config=config,
        layers=(digest,),
        path=flat,
        products=("layers", "flat"),
    )
    return ChangeSet((StagedLayer(digest, layer),), (image,))


def _small(staging: Path, name: str) -> ChangeSet:
    entries = [directory("."), directory("etc"), Entry(b"etc/name", mtree.FILE, size=len(name))]
    return _image(staging, name, entries, lambda _: name.encode())


def test_one_more_image_beside_many(cvmfs: Real, locked: list[float], tmp_path: Path) -> None:
    many = [_small(tmp_path, f"registry.example.org/many/app-{n}:1") for n in range(IMAGES)]
    layers = tuple(layer for changes in many for layer in changes.layers)
    _commit(cvmfs, ChangeSet(layers, tuple(image for changes in many for image in changes.images)))
    _told(
        f"One more image beside {IMAGES}",
        cvmfs,
        locked,
        lambda number: _small(tmp_path, f"registry.example.org/one/more:{number}"),
    )


def test_a_large_tree(cvmfs: Real, locked: list[float], tmp_path: Path) -> None:
    entries = [directory(".")]
    for top in range(200):
        entries.append(directory(f"d{top:03}"))
        for each in range(1000):
            entries.append(Entry(b"d%03d/f%03d" % (top, each), mtree.FILE, size=4))

    def change(number: int) -> ChangeSet:
        name = f"registry.example.org/large/tree:{number}"
        return _image(tmp_path, name, entries, lambda path: path[-4:])

    _told("A tree of 200,000 entries", cvmfs, locked, change)


def test_much_content(cvmfs: Real, locked: list[float], tmp_path: Path) -> None:
    """Files of 1 MB that no compression makes smaller."""
    count = int(GIGABYTES * 1e9 / MB)
    files = (Entry(b"file-%06d" % each, mtree.FILE, size=MB) for each in range(count))
    entries = [directory("."), *files]
    name = "registry.example.org/much/content:1"
    _told(
        f"{GIGABYTES:g} GB of new layers",
        cvmfs,
        locked,
        lambda number: _image(tmp_path, name, entries, lambda _: os.urandom(MB)),
        rounds=1,
    )
