"""Damage to what is published: each kind is found where it is, and mended without any other."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from duccmake.oci.reference import Digest
from support.images import LayerBuilder
from support.mending import Site
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import free_port
from support.staged_trees import listing

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

BASE = LayerBuilder().dir("etc").file("etc/base", "of all").layer()


def app(tag: str) -> Image:
    """An image with a layer of its own above one of all."""
    own = LayerBuilder().dir("opt").file("opt/tool", f"tool {tag}", mode=0o4755)
    own.file("opt/data", f"data of {tag}").symlink("opt/link", "data").dir("opt/empty")
    return Image((BASE, own.layer()), {}, platform=AMD64)


@dataclass
class Place:
    """Where an image lies in a plain directory."""

    root: Path
    name: str

    @property
    def record(self) -> Path:
        return self.root / ".metadata" / self.name / "record.json"

    @property
    def manifest(self) -> Path:
        return self.record.with_name("manifest.json")

    @property
    def members(self) -> dict[str, object]:
        return json.loads(self.record.read_text())

    @property
    def link(self) -> Path:
        return self.root / self.name

    @property
    def flat(self) -> Path:
        return self._at(".flat", str(self.members["config"]))

    @property
    def flat_metadata(self) -> Path:
        return self._at(".metadata/.flat", str(self.members["config"]))

    @property
    def layer(self) -> Path:
        return self._at(".layers", str(self.members["layers"][-1]))

    @property
    def store(self) -> Path:
        return self.root / "podmanStore"

    @property
    def top(self) -> str:
        """The id of its uppermost layer in podman's store."""
        images = json.loads((self.store / "overlay-images/images.json").read_text())
        [entry] = [one for one in images if self.name in one["published"]]
        return entry["layer"]

    def _at(self, base: str, digest: str) -> Path:
        digits = Digest.parse(digest).hex
        return self.root / base / digits[:2] / digits

    def edit(self, path: Path, change: Callable[[object], object]) -> None:
        members = json.loads(path.read_text())
        path.write_text(json.dumps(change(members)))


Damage = Callable[[Place], object]


def alter(at: Place) -> None:
    path = at.flat / "opt/data"
    times = path.stat()
    path.write_text("x" * times.st_size)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def lead(path: Path, target: str) -> None:
    path.unlink()
    path.symlink_to(target)


def without_top(at: Place) -> None:
    index, top = at.store / "overlay-layers/layers.json", at.top
    at.edit(index, lambda layers: [one for one in layers if one["id"] != top])


def exchange(at: Place) -> None:
    """Have the flat tree be another image's, with all that is said of it."""
    other = Place(at.root, at.name.replace(":exchanged", ":other"))
    for mine, theirs in ((at.flat, other.flat), (at.flat_metadata, other.flat_metadata)):
        shutil.rmtree(mine)
        shutil.copytree(theirs, mine, symlinks=True, copy_function=os.link)


DAMAGES: dict[str, tuple[Damage, str]] = {
    "missing": (lambda at: (at.flat / "opt/data").unlink(), "opt/data: cannot be read"),
    "truncated": (lambda at: os.truncate(at.flat / "opt/data", 3), "opt/data: has 3 bytes"),
    "altered": (alter, "opt/data: has the sha256"),
    "extra": (lambda at: (at.flat / "opt/more").touch(), "opt/more: is not in the manifest"),
    "leftover": (lambda at: (at.flat / "opt/.wh.old").touch(), "a whiteout's marker"),
    "mode": (lambda at: (at.layer / "layerfs/opt").chmod(0o700), "opt: has the mode 0700"),
    "setuid": (lambda at: (at.flat / "opt/tool").chmod(0o755), "has the mode 0755, the manifest 4755"),
    "relinked": (lambda at: lead(at.flat / "opt/link", "/etc/shadow"), "opt/link: leads to"),
    "dangling": (lambda at: lead(at.link, "../../.flat/no/where"), "app:dangling: leads to"),
    "unlinked": (lambda at: at.link.unlink(), "app:unlinked: is missing"),
    "lost-layer": (lambda at: shutil.rmtree(at.layer), "layerfs: is missing"),
    "lost-flat": (lambda at: shutil.rmtree(at.flat), "is missing"),
    "measured": (
        lambda at: (at.layer / ".metadata/layers.json").write_text("[]"),
        "layers.json: is missing, damaged",
    ),
    "mtree": (
        lambda at: (at.layer / ".metadata/tree.mtree").write_text("#mtree\n./etc type=d\n"),
        "its manifest is damaged",
    ),
    "lost-mtree": (lambda at: (at.flat_metadata / "tree.mtree").unlink(), "has no manifest"),
    "lost-note": (lambda at: (at.flat_metadata / "flat.json").unlink(), "flat.json: is missing"),
    "exchanged": (exchange, "was made of other layers"),
    "store-index": (without_top, "has no"),
    "store-link": (
        lambda at: lead(at.store / "overlay" / at.top / "diff", "/etc"),
        "leads to /etc",
    ),
    "store-config": (
        lambda at: next((at.store / "overlay-images" / at.flat.name).glob("=*")).write_text("{}"),
        "of the image is damaged",
    ),
    "record": (
        lambda at: at.edit(at.record, lambda record: {**record, "layers": record["layers"][:1]}),
        "are not those of the manifest",
    ),
    "no-record": (lambda at: at.record.write_text("{"), "record.json: is damaged"),
    "manifest": (lambda at: at.manifest.write_text("{}"), "manifest.json: has the sha256"),
    "no-manifest": (lambda at: at.manifest.unlink(), "manifest.json: is missing"),
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    with FullRegistry(tmp_path / "registry", port=free_port()) as registry:
        yield Site(registry)


def root_of(site: Site) -> Path:
    return Path("root") / site.name


def test_each_kind_of_damage_is_found_where_it_is_and_mended(site: Site):
    site.publish({tag: app(tag) for tag in (*DAMAGES, "other")})
    root = root_of(site)
    assert site.verify(content=True) == []
    for tag, (damage, _) in DAMAGES.items():
        damage(Place(root, site.named(tag)))
    found = site.verify(content=True)
    told = {
        tag: [
            str(one)
            for thing in found
            for one in thing.damage
            if site.named(tag) in thing.users
        ]
        for tag in (*DAMAGES, "other")
    }
    for tag, (_, words) in DAMAGES.items():
        assert any(words in line for line in told[tag]), (tag, words, told[tag])
    assert told["other"] == []
    assert site.repair() == []
    assert site.verify(content=True) == []
