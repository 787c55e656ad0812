"""Damage in CernVM-FS: objects that are gone or altered, and entries that are wrong, mended."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from duccmake.cvmfs.changes import Changes
from duccmake.cvmfs.edited import Edited
from duccmake.cvmfs.names import storage_path
from duccmake.cvmfs.objects import Objects, names_of
from duccmake.demo.images import Image
from support.cvmfs_commits import commit, manifest_of, newest, settings_of
from support.cvmfs_repositories import Real, StandIn
from support.images import LayerBuilder
from support.mending import Site
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import free_port

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

BASE = LayerBuilder().dir("etc").file("etc/base", "of all").layer()


def app(tag: str) -> Image:
    own = LayerBuilder().dir("opt").file("opt/tool", f"tool {tag}", mode=0o4755)
    own.file("opt/data", f"data of {tag} " * 100).symlink("opt/link", "data")
    return Image((BASE, own.layer()), {"Env": [f"TAG={tag}"]}, platform=AMD64)


@pytest.fixture
def site(cvmfs: StandIn | Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.chdir(tmp_path)
    backend = {
        "backend": "cvmfs",
        "mounts": str(cvmfs.mounts),
        "server_config": str(cvmfs.server_config),
    }
    with FullRegistry(tmp_path / "registry", port=free_port()) as registry:
        yield Site(registry, cvmfs.name, repository=backend)


def objects_of(cvmfs: StandIn | Real, path: object) -> list[Path]:
    """Where the storage has what is in a file."""
    _, _, directory = settings_of(cvmfs).upstream.split(",", 2)
    at = f"/{path}".encode()
    with newest(cvmfs) as revision:
        row = revision.row(at)
        assert row is not None, path
        content = revision.catalog(at.rpartition(b"/")[0]).content(row)
    return [Path(directory) / storage_path(name) for name in names_of(content)]


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


SPOILERS: dict[str, Callable[[Path], object]] = {
    "gone": Path.unlink,
    "altered": alter,
    "cut": cut,
    "emptied": lambda path: path.write_bytes(b""),
}


def test_objects_that_are_damaged_are_found_and_stored_anew(site: Site, cvmfs: StandIn | Real):
    files = {
        "data": lambda layout, record: layout.layerfs(record.layers[1]) / "opt/data",
        "mtree": lambda layout, record: layout.layer_manifest(record.layers[1]),
        "flat-mtree": lambda layout, record: layout.flat_manifest(record.config),
        "generated": lambda layout, record: (
            layout.flat(record.config) / ".singularity.d/env/10-docker2singularity.sh"
        ),
        "record": lambda layout, record: layout.record(record.name),
        "manifest": lambda layout, record: layout.manifest(record.name),
        "measured": lambda layout, record: layout.layer_manifest(record.layers[1]).with_name(
            "layers.json"
        ),
    }
    ways = itertools.cycle(SPOILERS)
    tags = [f"{file}-{next(ways)}" for file in [*files, "data", "manifest"]]
    site.publish({tag: app(tag) for tag in (*tags, "other")})
    assert site.verify(content=True) == []
    repository = site.repository
    for tag in tags:
        file, _, how = tag.rpartition("-")
        record = repository.record(site.named(tag))
        path = files[file](repository.view.layout, record)
        for stored in objects_of(cvmfs, path):
            SPOILERS[how](stored)
    found = site.verify(content=True)
    damaged = {name for one in found for name in one.users}
    assert damaged == {site.named(tag) for tag in tags}
    assert site.repair() == []
    assert site.verify(content=True) == []
    assert cvmfs.problems() == ""


def wrong(changes: Changes, at: bytes) -> None:
    """Entries that are not as their manifest has them."""
    changes.remove(at + b"/opt/data")
    changes.put_file(at + b"/opt/more", b"more")
    changes.put_file(at + b"/opt/.wh.gone", b"")
    changes.remove(at + b"/opt/link")
    changes.put_link(at + b"/opt/link", b"/etc/shadow")
    changes.remove(at + b"/opt/tool")
    changes.put_file(at + b"/opt/tool", b"tool 1", 0o755, uid=12)


def test_entries_that_are_wrong_are_found_by_catalogs_and_mended(
    site: Site, cvmfs: StandIn | Real, tmp_path: Path
):
    site.publish({tag: app(tag) for tag in ("1", "link", "lost", "other")})
    repository = site.repository
    layout = repository.view.layout
    record, lost = (repository.record(site.named(tag)) for tag in ("1", "lost"))

    def change(changes: Changes) -> None:
        wrong(changes, f"/{layout.flat(record.config)}".encode())
        changes.put_link(f"/{layout.link(site.named('link'))}".encode(), b"../../.flat/00/00")
        changes.remove(f"/{layout.layer(lost.layers[1])}".encode())

    (tmp_path / "objects").mkdir()
    commit(cvmfs, Objects(tmp_path / "objects"), change)
    found = site.verify()
    told = sorted(str(damage) for one in found for damage in one.damage)
    flat = layout.flat(record.config)
    for words in (
        f"{flat}/opt/data: cannot be read",
        f"{flat}/opt/more: is not in the manifest",
        f"{flat}/opt/.wh.gone: is not in the manifest (a whiteout's marker",
        f"{flat}/opt/link: leads to /etc/shadow",
        f"{flat}/opt/tool: has the mode 0755, the manifest 4755",
        f"{flat}/opt/tool: belongs to (12, 0)",
        f"{site.named('link')}: the link leads to ../../.flat/00/00",
        f"{layout.layerfs(lost.layers[1])}: is missing",
    ):
        assert any(line.startswith(words) for line in told), (words, told)
    assert site.named("other") not in {name for one in found for name in one.users}
    assert site.repair() == []
    assert site.verify(content=True) == []
    assert cvmfs.problems() == ""


def test_catalogs_that_are_gone_are_found_and_made_anew(site: Site, cvmfs: StandIn | Real):
    site.publish({tag: app(tag) for tag in ("layer", "flat", "other")})
    repository = site.repository
    layout = repository.view.layout
    _, _, directory = settings_of(cvmfs).upstream.split(",", 2)
    for tag in ("layer", "flat"):
        record = repository.record(site.named(tag))
        tree = layout.layerfs(record.layers[1]) if tag == "layer" else layout.flat(record.config)
        with newest(cvmfs) as revision:
            name = revision.name_of_catalog(f"/{tree}".encode()).hash
        (Path(directory) / storage_path(f"{name}C")).unlink()
    found = site.verify()
    assert {name for one in found for name in one.users} == {
        site.named(tag) for tag in ("layer", "flat")
    }
    assert site.repair() == []
    assert site.verify(content=True) == []
    assert cvmfs.problems() == ""


def test_what_the_repository_itself_lacks_is_found_and_nothing_mends_it(
    site: Site, cvmfs: StandIn | Real
):
    site.publish({"1": app("1")})
    _, _, directory = settings_of(cvmfs).upstream.split(",", 2)
    manifest = manifest_of(cvmfs)
    letter = "X" if cvmfs.real else "H"
    (Path(directory) / storage_path(f"{manifest.get(letter)}{letter}")).unlink()
    [found] = site.verify()
    assert found.users == {}
    assert "names the object" in str(found.damage[0])
    assert any("nothing mends it by itself" in line for line in site.repair())


def test_counters_that_others_have_written_wrong_are_no_damage(
    site: Site, cvmfs: StandIn | Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    site.publish({"1": app("1")})
    (tmp_path / "objects").mkdir()
    content = Edited.content

    def miscounted(self, own, subtree, properties):
        return content(self, tuple(value + 2 for value in own), subtree, properties)

    with monkeypatch.context() as patch:
        patch.setattr(Edited, "content", miscounted)
        commit(
            cvmfs, Objects(tmp_path / "objects"), lambda changes: changes.put_file(b"/new", b"new")
        )
    assert site.verify() == []
