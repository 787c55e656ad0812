from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from duccmake.errors import InvalidReference
from duccmake.oci.reference import Digest
from duccmake.repository.layout import Layout, check_name, split_variant, temporary

SHA256 = Digest("sha256", "ab" + "0" * 62)
SHA512 = Digest("sha512", "ab" + "0" * 126)
ROOT = Path("/cvmfs/unpacked.example.org")
LAYOUT = Layout(ROOT)


def test_paths_are_those_that_ducc_uses():
    name = "registry.example.org:5000/library/debian:12"
    hexa = SHA256.hex
    below = {
        str(path)
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
    resolved = os.path.normpath(LAYOUT.link(name).parent / target)
    assert resolved == str(LAYOUT.flat(SHA256))


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
        ".multiarch/amd64",
        ".multiarch/amd64/a:1",
        ".multiarch/../host/a:1",
        ".multiarch/amd64/.flat/aa/x:1",
        ".multiarch/amd64/../../outside/a:1",
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
        ".multiarch/arm-v7/docker.io/library/debian:12",
    ],
)
def test_names_of_images_are_taken(name):
    assert check_name(name) == name


def test_temporary_name_is_hidden_and_beside_its_place():
    path = LAYOUT.link("host/a:1")
    assert temporary(path).parent == path.parent
    assert temporary(path).name.startswith(".")
    assert len(temporary(LAYOUT.link("host/" + "x" * 250)).name) <= 255


# --- several platforms --------------------------------------------------

NAME = "docker.io/library/debian:12"


def test_a_name_of_several_platforms_is_a_label_and_a_public_name():
    assert split_variant(f".multiarch/arm-v7/{NAME}") == ("arm-v7", NAME)
    assert split_variant(NAME) == ("", NAME)


def test_the_public_link_leads_to_the_first_platform_that_is_published():
    target = LAYOUT.variant_target(NAME, ("amd64", "arm64", "s390x"), {"s390x", "arm64"})
    assert target == f"../../.multiarch/arm64/{NAME}"


@pytest.mark.parametrize(
    ("variants", "default"),
    [(("arm64", "amd64"), "amd64"), (("arm64", "s390x"), "arm64")],
)
def test_on_cernvm_fs_the_public_link_leads_each_machine_to_its_own(variants, default):
    target = Layout(ROOT, variant_links=True).variant_target(NAME, variants, variants)
    assert target == f"../../.multiarch/$(CVMFS_ARCH:-{default})/{NAME}"


def test_what_cernvm_fs_calls_a_machine_leads_to_its_label():
    labels = ("amd64", "arm64", "s390x")
    assert dict(Layout(ROOT, variant_links=True).machine_links(labels)) == {
        PurePosixPath(".multiarch/x86_64"): "amd64",
        PurePosixPath(".multiarch/aarch64"): "arm64",
    }
    assert list(LAYOUT.machine_links(labels)) == []


@pytest.mark.parametrize(
    ("target", "label"),
    [
        ("../../.multiarch/arm64/docker.io/library/debian:12", "arm64"),
        ("../../.multiarch/$(CVMFS_ARCH:-arm64)/docker.io/library/debian:12", "arm64"),
        ("../../.multiarch/x86_64/docker.io/library/debian:12", "amd64"),
        ("../../.multiarch/arm64/docker.io/library/debian:13", ""),
        ("../../.flat/ab/abc", ""),
        ("/elsewhere/.multiarch/arm64/docker.io/library/debian:12", ""),
        ("", ""),
    ],
)
def test_where_a_public_link_leads_is_read_from_its_text(target, label):
    assert LAYOUT.variant(NAME, target) == label
