from __future__ import annotations

import contextlib
import hashlib
import json
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from duccmake.errors import DigestMismatch, DuccmakeError, ManifestError, UnsupportedImage
from duccmake.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    ImageConfig,
    Index,
    Manifest,
    parse_manifest,
)
from duccmake.oci.reference import Digest, Platform
from support.samples import AMD64

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
EMPTY = "application/vnd.oci.empty.v1+json"


def descriptor(media_type: str, **more: object) -> dict[str, object]:
    return {"mediaType": media_type, "digest": DIGEST, "size": 10, **more}


def image(**changes: object) -> bytes:
    members = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(OCI_CONFIG),
        "layers": [descriptor(LAYER)],
        **changes,
    }
    return json.dumps({key: value for key, value in members.items() if value is not ...}).encode()


def index(*entries: dict[str, object], **changes: object) -> bytes:
    members = {
        "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": list(entries), **changes
    }  # fmt: skip
    return json.dumps({key: value for key, value in members.items() if value is not ...}).encode()


def entry(platform: str = "", digest: str = DIGEST, media_type: str = OCI_MANIFEST, **more):
    members = {"mediaType": media_type, "digest": digest, "size": 10, **more}
    if platform:
        parts = platform.split("/")
        members["platform"] = dict(zip(("os", "architecture", "variant"), parts, strict=False))
    return members


def test_a_manifest_keeps_its_bytes_and_their_digest():
    raw = image()
    found = parse_manifest(raw)
    assert isinstance(found, Manifest)
    assert found.raw == raw
    assert found.digest.hex == hashlib.sha256(raw).hexdigest()
    assert [layer.media_type for layer in found.layers] == [LAYER]
    assert parse_manifest(raw, algorithm="sha512").digest.algorithm == "sha512"


@pytest.mark.parametrize(
    ("raw", "header", "kind"),
    [
        (image(mediaType=...), "", Manifest),
        (image(mediaType=...), f"{OCI_MANIFEST}; charset=utf-8", Manifest),
        (image(mediaType=...), "text/plain", Manifest),
        (image(), "application/octet-stream", Manifest),
        (image(mediaType=DOCKER_MANIFEST, config=descriptor(DOCKER_CONFIG)), "", Manifest),
        (index(mediaType=...), "", Index),
        (index(), OCI_INDEX, Index),
        (index(mediaType=DOCKER_LIST), DOCKER_LIST, Index),
    ],
)  # fmt: skip
def test_the_kind_is_known_with_and_without_a_media_type(raw, header, kind):
    assert isinstance(parse_manifest(raw, header), kind)


@pytest.mark.parametrize(
    ("raw", "header"),
    [
        (image(), OCI_INDEX),
        (image(mediaType=...), OCI_INDEX),
        (index(mediaType=...), OCI_MANIFEST),
        (image(mediaType=OCI_INDEX), ""),
        (index(mediaType=OCI_MANIFEST), ""),
        (image(manifests=[entry()]), ""),
        (index(layers=[]), ""),
        (index(config=descriptor(OCI_CONFIG)), ""),
    ],
)
def test_a_body_that_is_two_things_at_once_is_refused(raw, header):
    with pytest.raises(ManifestError):
        parse_manifest(raw, header)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>Sign in</html>",
        b"[]",
        b"null",
        b'"text"',
        b"\xff\xfe",
        b"{" * 100_000,
        b"[" * 100_000,
        image(layers="no list"),
        image(layers=[7]),
        image(layers=[descriptor(LAYER, size=-1)]),
        image(layers=[descriptor(LAYER, size="10")]),
        image(layers=[descriptor(LAYER, size=True)]),
        image(layers=[descriptor(LAYER, digest="sha256:../../x")]),
        image(layers=[descriptor(LAYER, digest="sha256:" + "A" * 64)]),
        image(layers=[descriptor(LAYER, urls=7)]),
        image(config=None),
        image(mediaType=7),
        index(entry(digest="sha256:short")),
    ],
)
def test_what_is_malformed_is_a_manifest_error(raw):
    with pytest.raises(ManifestError):
        parse_manifest(raw)


def test_a_body_that_is_no_json_says_how_it_begins():
    with pytest.raises(ManifestError, match="<html>"):
        parse_manifest(b"<html>Sign in</html>", "text/html")


@pytest.mark.parametrize(
    "raw",
    [
        json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(),
        json.dumps({"fsLayers": [], "signatures": []}).encode(),
    ],
)
def test_schema_1_is_refused_by_its_name(raw):
    with pytest.raises(UnsupportedImage, match="schema 1"):
        parse_manifest(raw)


NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)
@given(NUMBERS | st.text() | st.sampled_from(["2", 2.0, True, False, 0, 3, [2], {}, ""]))
@example(2)
def test_the_schema_version_is_the_number_2_and_nothing_that_is_like_it(version):
    for make in (image, index):
        raw = make(schemaVersion=version)
        if type(version) is int and version == 2:
            assert parse_manifest(raw)
            continue
        with pytest.raises(ManifestError, match="schema"):
            parse_manifest(raw)


@pytest.mark.parametrize("written", ["2.0", "2e0", "20e-1", "02", "2" + "0" * 400])
def test_a_number_that_is_written_in_another_way_is_no_schema_version(written):
    raw = image().replace(b'"schemaVersion": 2', b'"schemaVersion": %s' % written.encode())
    assert raw != image()
    with pytest.raises(ManifestError):
        parse_manifest(raw)


@pytest.mark.parametrize("version", [..., None])
def test_a_manifest_without_a_schema_version_is_read(version):
    assert isinstance(parse_manifest(image(schemaVersion=version)), Manifest)
    assert isinstance(parse_manifest(index(schemaVersion=version)), Index)


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        (image(config=descriptor("application/vnd.cncf.helm.config.v1+json")), "helm"),
        (image(config=descriptor(EMPTY)), "empty"),
        (image(config=descriptor(EMPTY), artifactType="application/spdx+json"), "spdx"),
        (image(layers=[descriptor("application/vnd.example.sbom")]), "sbom"),
        (image(mediaType="application/vnd.example.strange+json"), "strange"),
    ],
)
def test_what_is_no_container_image_is_refused_with_its_type(raw, named):
    with pytest.raises(UnsupportedImage, match=named):
        parse_manifest(raw)


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "application/json", "text/html"])
@pytest.mark.parametrize("media_type", [DOCKER_MANIFEST, OCI_MANIFEST])
def test_a_configuration_of_a_type_that_old_clients_wrote_is_one(kind, media_type):
    raw = image(mediaType=media_type, config=descriptor(kind))
    assert isinstance(parse_manifest(raw), Manifest)
    with pytest.raises(UnsupportedImage, match="spdx"):
        parse_manifest(image(config=descriptor(kind), artifactType="application/spdx+json"))


@pytest.mark.parametrize("kind", [".tar", ".tar.gzip", ".tar.zst", ".tar.zstd"])
def test_layers_are_of_the_types_that_podman_and_docker_write(kind):
    for where in ("rootfs.diff", "rootfs.foreign.diff"):
        if where == "rootfs.diff" or ".zst" not in kind:
            layer = descriptor(f"application/vnd.docker.image.{where}{kind}")
            assert isinstance(parse_manifest(image(layers=[layer])), Manifest)


def test_an_image_without_layers_is_an_image():
    found = parse_manifest(image(layers=[]))
    assert isinstance(found, Manifest) and found.layers == ()


def test_foreign_layers_keep_their_addresses():
    foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
    found = parse_manifest(image(layers=[descriptor(foreign, urls=["https://x.example.org/l"])]))
    assert isinstance(found, Manifest)
    assert found.layers[0].urls == ("https://x.example.org/l",)


def parsed(*entries: dict[str, object]) -> Index:
    found = parse_manifest(index(*entries))
    assert isinstance(found, Index)
    return found


def test_the_first_entry_that_matches_comes_first():
    found = parsed(entry("linux/arm64"), entry("linux/amd64"), entry("linux/amd64", OTHER))
    assert [str(item.digest) for item in found.candidates(AMD64)] == [DIGEST, OTHER]


def test_variants_choose_among_entries_of_one_architecture():
    found = parsed(entry("linux/arm/v6"), entry("linux/arm/v7", OTHER))
    assert [str(i.digest) for i in found.candidates(Platform("linux", "arm", "v7"))] == [OTHER]


def test_attestations_never_serve_and_are_no_platform():
    found = parsed(entry("unknown/unknown"), entry("linux/amd64", OTHER))
    assert [str(item.digest) for item in found.candidates(AMD64)] == [OTHER]
    assert found.platforms == (AMD64,)
    assert found.candidates(Platform("unknown", "unknown")) == ()


def with_features(platform: str, features: object, digest: str = DIGEST) -> dict[str, object]:
    found = entry(platform, digest)
    found["platform"]["os.features"] = features  # type: ignore[index]
    return found


def test_entries_that_need_features_of_the_system_are_passed_over():
    special = with_features("linux/amd64", ["nydus.remoteimage.v1", "x"])
    found = parsed(special, entry("linux/amd64", OTHER))
    assert [str(item.digest) for item in found.candidates(AMD64)] == [OTHER]
    assert found.platforms == (AMD64,)
    assert found.special == ("linux/amd64 with nydus.remoteimage.v1 and x",)
    nested = {**special, "mediaType": OCI_INDEX}
    unnamed = {**entry(), "platform": {"os.features": ["x"]}}
    assert parsed(special, nested, unnamed).candidates(AMD64) == ()


@pytest.mark.parametrize("features", [[], None])
def test_entries_that_need_no_feature_match(features):
    found = parsed(with_features("linux/amd64", features))
    assert [str(item.digest) for item in found.candidates(AMD64)] == [DIGEST]
    assert found.special == ()


def test_a_platform_that_climbs_out_of_its_directory_means_nothing():
    found = parsed(entry("linux/.."), entry("linux/amd64", OTHER))
    assert found.platforms == (AMD64,)
    assert [str(item.digest) for item in found.candidates(AMD64)] == [OTHER]


@pytest.mark.parametrize("name", ["x86_64", "AMD64", "x86-64"])
def test_other_names_of_an_architecture_are_understood(name):
    assert ImageConfig.parse(config(architecture=name)).platform == AMD64


def test_nested_indexes_come_after_matches_and_before_entries_without_platform():
    found = parsed(
        entry(),
        entry(media_type=OCI_INDEX, digest=OTHER),
        entry("linux/amd64"),
        entry(artifactType="application/spdx+json"),
    )
    kinds = [(item.media_type, item.platform) for item in found.candidates(AMD64)]
    assert kinds == [(OCI_MANIFEST, AMD64), (OCI_INDEX, None), (OCI_MANIFEST, None)]


def test_a_descriptor_verifies_size_and_digest():
    content = b"content"
    right = Descriptor("x", Digest("sha256", hashlib.sha256(content).hexdigest()), len(content))
    assert right.verify(content) is content
    for wrong in (b"content ", b"cOntent", b""):
        with pytest.raises(DigestMismatch):
            right.verify(wrong)
    for size in (6, 8):
        with pytest.raises(DigestMismatch, match=f"has 7 bytes where its descriptor has {size}"):
            Descriptor("x", right.digest, size).verify(content)


DESCRIPTOR = {"mediaType": OCI_CONFIG, "digest": DIGEST, "size": 2, "annotations": {"a": "b"}}


def config(**changes: object) -> bytes:
    members = {
        "os": "linux",
        "architecture": "amd64",
        "config": {"Env": ["A=b"], "Cmd": ["sh"]},
        "rootfs": {"type": "layers", "diff_ids": [DIGEST, OTHER]},
        **changes,
    }
    return json.dumps({key: value for key, value in members.items() if value is not ...}).encode()


def test_a_configuration_is_read():
    found = ImageConfig.parse(config(variant="v2"), layers=2)
    assert found.platform == Platform("linux", "amd64", "v2")
    assert [str(item) for item in found.diff_ids] == [DIGEST, OTHER]
    assert (found.env, found.cmd, found.entrypoint) == (("A=b",), ("sh",), ())


def test_texts_that_shells_would_read_are_kept_as_they_are():
    odd = ["A=$(reboot)", "B=`x`", "C='\"\n\\"]
    found = ImageConfig.parse(config(config={"Env": odd, "Entrypoint": odd, "User": "a'b"}))
    assert list(found.env) == list(found.entrypoint) == odd
    assert found.user == "a'b"


@pytest.mark.parametrize("runtime", [None, {}, {"Env": None, "Cmd": None, "Labels": None}])
def test_a_configuration_without_runtime_settings_is_fine(runtime):
    found = ImageConfig.parse(config(config=runtime))
    assert (found.env, found.cmd, found.labels) == ((), (), {})


@pytest.mark.parametrize(
    "odd",
    [
        {"created": "2022-02-21T14:44:59+00:00Z"}, {"created": ""}, {"created": "2022-02-21"},
        {"created": "2022-02-30T00:00:00Z"}, {"author": 5}, {"history": [{"created": "now"}]},
        {"history": [{"empty_layer": "true"}]}, {"history": {}}, {"os.version": 10},
        {"container_config": []}, {"docker_version": 20}, {"DOCKER_VERSION": 20},
        {"config": {"ExposedPorts": ["80/tcp"]}}, {"config": {"Volumes": {"/data": 1}}},
        {"config": {"Cmd": "/bin/true"}}, {"config": {"StopSignal": 9}},
        {"config": {"Healthcheck": {"Interval": "30s"}}}, {"config": {"Tty": "no"}},
        {"config": {"Healthcheck": {"Retries": 2**63}}}, {"config": {"OnBuild": "RUN x"}},
    ],
)  # fmt: skip
def test_a_configuration_that_no_reader_in_go_takes_is_refused(odd):
    with pytest.raises(ManifestError, match="is not"):
        ImageConfig.parse(config(**odd))


@pytest.mark.parametrize(
    "odd",
    [
        {"created": None}, {"created": "0001-01-01T00:00:00Z"}, {"history": None},
        {"created": "2022-02-21T14:44:59.123456789-11:30"}, {"history": [None, {}]},
        {"moby.buildkit.buildinfo.v1": 5}, {"throwaway": True}, {"container_config": None},
        {"config": {"Volumes": {"/data": None}, "ExposedPorts": None, "Memory": "1g"}},
        {"config": {"Healthcheck": {"Test": ["NONE"], "Retries": -1}}}, {"Size": 0},
    ],
)  # fmt: skip
def test_a_configuration_with_what_builders_leave_in_it_is_read(odd):
    ImageConfig.parse(config(**odd))


@pytest.mark.parametrize(
    "odd",
    [
        {"annotations": {"a": 5}}, {"annotations": []}, {"subject": "x"}, {"Annotations": 5},
        {"subject": {"size": "1"}},
    ],
)  # fmt: skip
def test_a_manifest_that_no_reader_in_go_takes_is_refused(odd):
    members = {"schemaVersion": 2, "config": DESCRIPTOR, "layers": []}
    assert parse_manifest(json.dumps(members).encode())
    for found in ({**members, **odd}, {**members, "config": {**DESCRIPTOR, "annotations": [1]}}):
        with pytest.raises(ManifestError, match="is not"):
            parse_manifest(json.dumps(found).encode())


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_diff_ids_fewer_or_more_than_the_layers_are_refused(layers):
    with pytest.raises(ManifestError, match="2 diff_ids"):
        ImageConfig.parse(config(), layers=layers)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        config(rootfs=...),
        config(rootfs={"diff_ids": "x"}),
        config(rootfs={"diff_ids": ["sha256:../../x"]}),
        config(os=7),
        config(architecture=["amd64"]),
        config(config={"Env": "A=b"}),
        config(config={"Env": [1]}),
        config(architecture="../../etc"),
        config(os="unknown", architecture="unknown"),
    ],
)
def test_a_malformed_configuration_is_refused(raw):
    with pytest.raises(ManifestError):
        ImageConfig.parse(raw)


def rootfs(kind: object) -> bytes:
    members = {"type": kind, "diff_ids": [DIGEST]}
    return config(rootfs={key: value for key, value in members.items() if value is not ...})


@settings(deadline=None)
@given(st.text() | st.sampled_from(["layers+base", "Layers", " layers", "", 7, True, [], {}, 0]))
@example("layers")
def test_a_rootfs_that_is_not_made_of_layers_is_refused_with_its_type(kind):
    if kind == "layers":
        assert ImageConfig.parse(rootfs(kind)).diff_ids
        return
    with pytest.raises(UnsupportedImage, match=re.escape(repr(kind))):
        ImageConfig.parse(rootfs(kind))


@pytest.mark.parametrize("kind", [None, ...])
def test_a_rootfs_without_a_type_is_made_of_layers(kind):
    assert ImageConfig.parse(rootfs(kind)).diff_ids


@pytest.mark.parametrize("os", ["linux", "", None, ...])
@pytest.mark.parametrize("architecture", ["amd64", "", None, ...])
def test_what_a_configuration_leaves_out_of_its_platform_serves_any_wish(os, architecture):
    found = ImageConfig.parse(config(os=os, architecture=architecture)).platform
    assert AMD64.matches(found)
    assert Platform("linux", "arm", "v7").matches(found) is (architecture != "amd64")
    assert Platform("windows", "amd64").matches(found) is (os != "linux")


def test_labels_that_are_null_are_empty():
    found = ImageConfig.parse(config(config={"Labels": {"a": None, "b": "x"}}))
    assert found.labels == {"a": "", "b": "x"}
    with pytest.raises(ManifestError, match="Labels"):
        ImageConfig.parse(config(config={"Labels": {"a": 7}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(
            ["schemaVersion", "mediaType", "config", "layers", "manifests", "digest", "size",
             "platform", "os", "architecture", "variant", "urls", "rootfs", "diff_ids", "Labels"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=20,
)  # fmt: skip


@settings(deadline=None)
@given(JSON)
def test_no_json_whatever_gets_past_the_error_tree(value):
    raw = json.dumps(value).encode()
    for parse in (parse_manifest, ImageConfig.parse):
        with contextlib.suppress(DuccmakeError):
            parse(raw)
