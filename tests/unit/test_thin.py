"""What thin images are made of, and where they are pushed to."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.errors import InvalidReference
from duccmake.oci.manifest import DOCKER_LIST, OCI_INDEX, ImageConfig, Manifest, parse_manifest
from duccmake.oci.reference import Platform, Reference
from duccmake.planning.thin_form import (
    Base,
    docker_form,
    gzip_stored,
    layer_archive,
    oci_form,
    target_of,
)
from duccmake.recipe.model import DEFAULT_OUTPUT_FORMAT
from support.servers import sha256

DIGEST = "sha256:" + "ab" * 32
REPOSITORY = "unpacked.example.org"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
RUNTIME = {
    "Env": ["PATH=/bin", "CVMFS_IMAGE=no", "É=\ud800"],
    "Entrypoint": ["/entry"],
    "Cmd": ["a", "b c"],
    "WorkingDir": "/work",
    "User": "1000:1000",
    "Labels": {"a": "b"},
    "ExposedPorts": {"80/tcp": {}},
    "Volumes": {"/data": {}},
    "StopSignal": "SIGINT",
}


def source(name: str = "docker.io/library/debian:12", platform: str = "linux/amd64", **more):
    wished = Platform.parse(platform)
    config = {
        "architecture": wished.architecture,
        "os": wished.os,
        "created": "2024-05-06T07:08:09Z",
        "config": RUNTIME,
        "rootfs": {"type": "layers", "diff_ids": [DIGEST, DIGEST]},
        **more,
    }
    content = json.dumps(config).encode()
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": str(sha256(content)),
                "size": len(content),
            },
            "layers": [
                {"mediaType": LAYER, "digest": str(sha256(text)), "size": 1}
                for text in (b"low", b"high")
            ],
        }
    ).encode()
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    return Base(Reference.parse(name), wished, manifest, content)


def made(form):
    """The configuration and the thin.json of the only image of a form."""
    manifest = parse_manifest(form.top.content)
    assert isinstance(manifest, Manifest)
    blobs = {blob.descriptor.digest: blob.content for blob in form.blobs}
    config = json.loads(blobs[manifest.config.digest])
    [layer] = manifest.layers
    archive = gzip.decompress(blobs[layer.digest])
    assert config["rootfs"] == {"type": "layers", "diff_ids": [str(sha256(archive))]}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        [member] = tar.getmembers()
        return config, json.load(tar.extractfile(member))


def test_thin_json_says_where_cernvm_fs_has_the_layers_lowest_first():
    _, thin = made(docker_form([source()], REPOSITORY, "12", several=False))
    low, high = (sha256(text).hex for text in (b"low", b"high"))
    assert thin == {
        "version": "1.0",
        "min_version": "1.0",
        "origin": f"https://docker.io/library/debian:12@{source().manifest.digest}",
        "layers": [
            {"digest": low, "url": f"cvmfs://{REPOSITORY}/.layers/{low[:2]}/{low}/layerfs"},
            {"digest": high, "url": f"cvmfs://{REPOSITORY}/.layers/{high[:2]}/{high}/layerfs"},
        ],
        "comment": "made by duccmake",
    }


@pytest.mark.parametrize("make", [docker_form, lambda *a, **k: oci_form(*a, **k, subject=False)])
def test_what_the_image_runs_is_kept_and_says_that_it_is_thin(make):
    config, _ = made(make([source()], REPOSITORY, "12", several=False))
    assert config["config"] == {**RUNTIME, "Env": ["PATH=/bin", "É=\ud800", "CVMFS_IMAGE=true"]}
    assert config["created"] == "2024-05-06T07:08:09Z"
    assert ImageConfig.parse(json.dumps(config).encode(), layers=1).working_dir == "/work"


def test_a_thin_image_names_the_platform_that_its_source_s_configuration_leaves_out():
    config, _ = made(
        docker_form([source(architecture="", os=None)], REPOSITORY, "12", several=False)
    )
    assert (config["architecture"], config["os"]) == ("amd64", "linux")


@pytest.mark.parametrize("runtime", [None, {}, {"Env": None}])
def test_an_image_that_says_nothing_of_how_it_runs_has_a_thin_one(runtime):
    config, _ = made(docker_form([source(config=runtime)], REPOSITORY, "12", several=False))
    assert config["config"]["Env"] == ["CVMFS_IMAGE=true"]


def test_the_same_image_always_makes_the_same_bytes():
    for subject in (False, True):
        forms = [
            oci_form([source()], REPOSITORY, "12", several=False, subject=subject) for _ in "ab"
        ]
        assert forms[0] == forms[1]
    form = docker_form([source()], REPOSITORY, "12", several=False)
    assert str(form.top.descriptor.digest) == (
        "sha256:b8de78770cbb485ebd046d429bffa70542183a2475998c5e809eac6476162eff"
    )


def test_another_image_repository_or_name_makes_others():
    forms = {
        docker_form([made_of], repository, "12", several=False).top.descriptor.digest
        for made_of, repository in [
            (source(), REPOSITORY),
            (source(), "other.example.org"),
            (source("docker.io/library/debian:13"), REPOSITORY),
            (source(config={}), REPOSITORY),
        ]
    }
    assert len(forms) == 4


def test_the_oci_form_names_its_source_and_refers_to_it_where_that_is_known():
    of = source()
    form = oci_form([of], REPOSITORY, "12", several=False, subject=True)
    members = json.loads(form.top.content)
    assert form.tag == "12-oci"
    assert members["annotations"] == {
        "org.opencontainers.image.base.digest": str(of.manifest.digest),
        "org.opencontainers.image.base.name": "docker.io/library/debian:12",
    }
    assert members["subject"] == {
        "mediaType": of.manifest.media_type,
        "digest": str(of.manifest.digest),
        "size": len(of.manifest.raw),
    }


def test_both_forms_share_their_blobs():
    docker = docker_form([source()], REPOSITORY, "12", several=False)
    oci = oci_form([source()], REPOSITORY, "12", several=False, subject=True)
    assert [blob.content for blob in docker.blobs] == [blob.content for blob in oci.blobs]


@pytest.mark.parametrize(
    ("make", "media_type"),
    [(docker_form, DOCKER_LIST), (lambda *a, **k: oci_form(*a, **k, subject=True), OCI_INDEX)],
)
def test_several_platforms_are_a_list_that_names_each_with_its_variant(make, media_type):
    sources = [
        source(platform="linux/amd64"),
        source(platform="linux/arm64", variant="v8"),
        source(platform="linux/arm/v7"),
    ]
    form = make(sources, REPOSITORY, "12", several=True)
    members = json.loads(form.top.content)
    assert members["mediaType"] == form.top.descriptor.media_type == media_type
    assert [entry["platform"] for entry in members["manifests"]] == [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]
    digests = [str(content.descriptor.digest) for content in form.manifests]
    assert [entry["digest"] for entry in members["manifests"]] == digests


@given(st.binary(max_size=200_000))
def test_what_is_stored_is_what_gzip_reads(content):
    assert gzip.decompress(gzip_stored(content)) == content


def test_an_archive_is_the_same_at_all_times():
    assert (
        sha256(layer_archive(b"{}")).hex
        == "5df8f7b0da5512efde435364759e859e57b5102a5b0515bf64afa08d85d85a9f"
    )


@pytest.mark.parametrize(
    ("output_format", "image", "target"),
    [
        (DEFAULT_OUTPUT_FORMAT, "https://r.example.org/a/b:1", "https://r.example.org/a/b_thin:1"),
        ("https://t.example.org/thin/$(image)", "https://r.example.org/a/b:1",
         "https://t.example.org/thin/a/b:1"),
        ("https://t.example.org/thin/$(image)", f"https://r.example.org/a/b:1@{DIGEST}",
         "https://t.example.org/thin/a/b:1"),
        (DEFAULT_OUTPUT_FORMAT, f"https://r.example.org/a/b@{DIGEST}",
         f"https://r.example.org/a/b_thin:{DIGEST.replace(':', '-')}"),
        ("t.example.org/thin/$(repository):$(tag)", "oci:/srv/ci/app",
         "https://t.example.org/thin/srv/ci/app:latest"),
    ],
)  # fmt: skip
def test_a_thin_image_has_the_name_that_the_format_makes(output_format, image, target):
    assert str(target_of(output_format, Reference.parse(image))) == target


@pytest.mark.parametrize(
    ("output_format", "image"),
    [
        (DEFAULT_OUTPUT_FORMAT, "oci:/srv/ci/app:1"),
        ("thin:$(tag)", "https://r.example.org/a/b:1"),
        ("https://t.example.org/$(registry)/x:$(tag)", "https://r.example.org:5000/a/b:1"),
        ("oci:/srv/thin:$(tag)", "https://r.example.org/a/b:1"),
        ("https://t.example.org/x:$(tga)", "https://r.example.org/a/b:1"),
    ],
)
def test_a_format_that_makes_no_name_in_a_registry_is_refused(output_format, image):
    with pytest.raises(InvalidReference, match=r"output_format makes .*; .*\$\(tag\)"):
        target_of(output_format, Reference.parse(image))


def test_a_source_s_manifest_is_named_by_its_own_digest():
    of = source()
    other = replace(of, reference=Reference.parse(f"https://docker.io/library/debian@{DIGEST}"))
    _, thin = made(docker_form([other], REPOSITORY, "x", several=False))
    assert thin["origin"] == f"https://docker.io/library/debian@{DIGEST}"
