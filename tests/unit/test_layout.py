from __future__ import annotations

from pathlib import Path

import pytest

from duccmake.errors import InvalidReference
from duccmake.reference import Digest
from duccmake.repository.layout import Layout, check_name, temporary

SHA256 = Digest("sha256", "ab" + "0" * 62)
SHA512 = Digest("sha512", "ab" + "0" * 126)
ROOT = Path("/cvmfs/unpacked.example.org")
LAYOUT = Layout(ROOT)


def test_paths_are_those_that_ducc_uses():
    name = "registry.example.org:5000/library/debian:12"
    hexa = SHA256.hex
    below = {
        str(path.relative_to(ROOT))
        for path in (
            LAYOUT.layerfs(SHA256),
            LAYOUT.layer_manifest(SHA256),
            LAYOUT.origin(SHA256),
            LAYOUT.flat(SHA256),
            LAYOUT.manifest(name),
            LAYOUT.remove_schedule,
            LAYOUT.link(name),
        )
    }
    assert below == {
        f".layers/ab/{hexa}/layerfs",
        f".layers/ab/{hexa}/.metadata/tree.mtree",
        f".layers/ab/{hexa}/.metadata/origin.json",
        f".flat/ab/{hexa}",
        f".metadata/{name}/manifest.json",
        ".metadata/remove-schedule.json",
        name,
    }


def test_digests_of_two_algorithms_have_two_directories():
    assert LAYOUT.layer(SHA256) != LAYOUT.layer(SHA512)


def test_metadata_of_a_flat_tree_stands_outside_of_it():
    flat = LAYOUT.flat(SHA256)
    assert flat not in LAYOUT.flat_manifest(SHA256).parents
    assert flat not in LAYOUT.flat_record(SHA256).parents


@pytest.mark.parametrize("name", ["host/a:1", "host/a/b:1", "host/a/b/c/d/e:1"])
def test_link_leads_to_the_flat_tree_from_any_depth(name):
    target = LAYOUT.link_target(name, SHA256)
    assert not target.startswith("/")
    resolved = (LAYOUT.link(name).parent / target).resolve()
    assert resolved == LAYOUT.flat(SHA256)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "debian:12",
        "../outside:1",
        "host/../../outside:1",
        "host/./a:1",
        "host//a:1",
        "host/a:1/",
        ".metadata/a:1",
        ".flat/aa/x:1",
        "host/.hidden:1",
        "podmanStore/overlay:1",
        "host/a\n:1",
        "host/a\0:1",
        "host/" + "x" * 251,
    ],
)
def test_names_that_lead_elsewhere_are_refused(name):
    for use in (check_name, LAYOUT.link, LAYOUT.manifest, LAYOUT.record):
        with pytest.raises(InvalidReference):
            use(name)


@pytest.mark.parametrize(
    "name",
    [
        "docker.io/library/debian:12",
        "localhost:5000/a/b:1.2-3_4",
        f"host.example/a:1@{SHA256}",
        "host.example/" + "x" * 250,
    ],
)
def test_names_of_images_are_taken(name):
    assert check_name(name) == name


def test_temporary_name_is_hidden_and_beside_its_place():
    path = LAYOUT.link("host/a:1")
    assert temporary(path).parent == path.parent
    assert temporary(path).name.startswith(".")
    assert len(temporary(LAYOUT.link("host/" + "x" * 250)).name) <= 255
