from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.errors import InvalidReference
from duccmake.oci.reference import DOCKER_HUB, Digest, Platform, Reference

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256",
        "sha256:",
        f"sha256:{HEX[:-1]}",
        f"sha256:{HEX}0",
        f"sha256:{HEX.upper()}",
        f"sha256:{HEX[:-1]}\n",
        f"sha256:{HEX}\n",
        f" sha256:{HEX}",
        "sha256:../../../../../../../../../../../../../../../../../etc/passwd",
        f"SHA256:{HEX}",
        f"md5:{HEX[:32]}",
        f"sha512:{HEX}",
        f"sha256:sha256:{HEX}",
        None,
        256,
        b"sha256:" + HEX.encode(),
    ],
)
def test_what_is_no_digest_never_becomes_one(text):
    with pytest.raises(InvalidReference):
        Digest.parse(text)


def test_digests_of_both_algorithms_read_back():
    for text in (f"sha256:{HEX}", f"sha512:{HEX}{HEX}"):
        assert str(Digest.parse(text)) == text
    assert Digest.parse(f"sha256:{HEX}").prefix == "01"
    assert Digest.parse(f"sha256:{HEX}").short == "0123456789ab"


@given(st.text())
def test_a_digest_that_parses_is_a_safe_path_component(text):
    try:
        digest = Digest.parse(text)
    except InvalidReference:
        return
    assert set(digest.hex) <= set("0123456789abcdef")
    assert str(digest) == text


@pytest.mark.parametrize(
    ("wish", "offer", "served"),
    [
        ("linux/amd64", "linux/amd64", True),
        ("linux/amd64", "linux/amd64/v3", True),
        ("linux/amd64", "linux/arm64", False),
        ("linux/amd64", "windows/amd64", False),
        ("linux/arm64", "linux/arm64/v8", True),
        ("linux/arm64/v8", "linux/arm64", True),
        ("linux/arm64/v9", "linux/arm64", False),
        ("linux/arm/v7", "linux/arm/v7", True),
        ("linux/arm/v7", "linux/arm/v6", False),
        ("linux/arm/v6", "linux/arm/v7", False),
        ("linux/amd64", "unknown/unknown", False),
    ],
)
def test_a_platform_serves_a_wish_by_os_architecture_and_variant(wish, offer, served):
    assert Platform.parse(wish).matches(Platform.parse(offer)) is served


@pytest.mark.parametrize("text", ["", "linux", "linux/", "a/b/c/d", "linux/../x", "Linux/amd64", 7])
def test_what_is_no_platform_is_refused(text):
    with pytest.raises(InvalidReference):
        Platform.parse(text)


def test_a_platform_is_one_path_component():
    assert Platform.parse("linux/arm/v7").label == "arm-v7"
    assert str(Platform.parse("linux/arm/v7")) == "linux/arm/v7"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("docker.io/debian", ("https", "docker.io", "library/debian", "latest")),
        ("docker.io/library/debian:12", ("https", "docker.io", "library/debian", "12")),
        ("registry.hub.docker.com/a/b:c", ("https", "registry.hub.docker.com", "a/b", "c")),
        ("https://gitlab-registry.cern.ch/a/b/c:v1", (
            "https", "gitlab-registry.cern.ch", "a/b/c", "v1")),
        ("http://localhost:5000/x:y", ("http", "localhost:5000", "x", "y")),
        ("localhost/x", ("https", "localhost", "x", "latest")),
        ("[::1]:5000/x:y", ("https", "[::1]:5000", "x", "y")),
        ("QUAY.io/a/b", ("https", "quay.io", "a/b", "latest")),
        ("r.example.org/a__b/c--d.e_f:T", ("https", "r.example.org", "a__b/c--d.e_f", "T")),
    ],
)  # fmt: skip
def test_references_are_read_as_docker_reads_them(text, parts):
    found = Reference.parse(text)
    assert (found.scheme, found.registry, found.repository, found.tag) == parts


def test_docker_hub_answers_at_a_host_of_another_name():
    assert Reference.parse("docker.io/debian").host == DOCKER_HUB
    assert Reference.parse("quay.io/a/b").host == "quay.io"


def test_a_name_without_registry_takes_the_default_one():
    found = Reference.parse("cmssw/el9:x86", default_registry="r.example.org")
    assert found.name == "r.example.org/cmssw/el9:x86"
    with pytest.raises(InvalidReference, match="names no registry"):
        Reference.parse("cmssw/el9:x86")


def test_a_digest_stands_in_the_name_and_is_what_the_api_is_asked_for():
    both = Reference.parse(f"quay.io/a/b:v1@sha256:{HEX}")
    assert both.name == f"quay.io/a/b:v1@sha256:{HEX}"
    assert both.api_reference == f"sha256:{HEX}"
    alone = Reference.parse(f"quay.io/a/b@sha256:{HEX}")
    assert (alone.tag, alone.name) == ("", f"quay.io/a/b@sha256:{HEX}")
    assert Reference.parse("quay.io/a/b:v1").api_reference == "v1"


def test_tags_may_be_globs_and_become_concrete_tags():
    glob = Reference.parse("quay.io/a/b:1.*")
    assert glob.is_glob
    assert not glob.with_tag("1.2").is_glob
    with pytest.raises(InvalidReference):
        glob.with_tag("../../etc")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        None,
        "quay.io",
        "quay.io/",
        "quay.io//a",
        "quay.io/a//b",
        "quay.io/../a",
        "quay.io/a/../b",
        "quay.io/./a",
        "quay.io/A/b",
        "quay.io/a/b:",
        "quay.io/a/b:c:d",
        "quay.io/a/b:../c",
        "quay.io/a/b:-c",
        "quay.io/a/b:.c",
        "quay.io/a/b:" + "x" * 129,
        "quay.io/" + "x" * 256,
        "quay.io/a b",
        "quay.io/a\nb",
        "quay.io/a:b\n/c",
        "quay.io/a@",
        "quay.io/a@sha256:abc",
        f"quay.io/a:*@sha256:{HEX}",
        "ftp://quay.io/a",
        "https://me:secret@quay.io/a",
        "quay.io:port/a",
        "-quay.io/a",
        "quay.io/a?b=c",
        "quay.io/a#b",
        "quay.io/é",
    ],
)
def test_what_is_no_reference_is_refused(text):
    with pytest.raises(InvalidReference):
        Reference.parse(text)


@given(st.text(alphabet="abAB01.:/@*?-_ \n\\%é[]", max_size=40))
def test_no_reference_climbs_out_of_its_directory(text):
    try:
        found = Reference.parse(text, default_registry="r.example.org")
    except InvalidReference:
        return
    parts = found.name.split("/")
    assert all(part not in ("", ".", "..") for part in parts)
    assert "\n" not in found.name and " " not in found.name and "\\" not in found.name


@given(st.text(alphabet="ab01.:/@-_", max_size=30))
def test_a_reference_reads_back_as_itself(text):
    try:
        found = Reference.parse(text, default_registry="r.example.org")
    except InvalidReference:
        return
    assert Reference.parse(str(found)) == found
