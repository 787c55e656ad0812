"""Policies: read as podman reads them, and refused by the member that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from duccmake.config.configuration import Config
from duccmake.config.mistakes import InvalidConfig
from duccmake.errors import ConfigError
from duccmake.oci.reference import Reference
from duccmake.signatures.docker_name import DockerName, scopes
from duccmake.signatures.policy import AcceptAnything, Policy, Reject, SigstoreSigned
from support.signing import Authority, b64, public_key

PUBLIC = public_key()
KEY = b64(PUBLIC)
REJECT, ANYTHING = [{"type": "reject"}], [{"type": "insecureAcceptAnything"}]
SIGSTORE = {"type": "sigstoreSigned", "keyData": KEY}
GPG = {"type": "signedBy", "keyType": "GPGKeys", "keyData": KEY}
FULCIO = {
    "caData": b64(Authority().pem),
    "oidcIssuer": "i",
    "subjectEmail": "s",
}


def parsed(requirement: Any) -> Policy:
    return Policy.parse({"default": [requirement]}, Path())


WRONG: list[tuple[Any, str]] = [
    # a policy, and what has to be said of it
    ({}, "'default' is missing"),
    ([], "an object is needed"),
    ({"default": []}, "default: a list of at least one requirement"),
    ({"default": {}}, "default: a list of at least one requirement"),
    ({"default": REJECT, "defaults": REJECT}, "defaults: there is no member"),
    ({"default": REJECT, "transports": {"docker": []}}, "transports.docker: an object"),
    ({"default": REJECT, "transports": {"docker": {"a.org": []}}},
     'transports.docker."a.org": a list'),
    ({"default": [{"type": "rejct"}]}, "default[0].type: there is no type 'rejct'"),
    ({"default": [{"type": ["reject"]}]}, "default[0].type: there is no type"),
    ({"default": ["reject"]}, "default[0].type: there is no type None"),
    ({"default": [{"type": "signedBaseLayer", "baseLayerIdentity": {}}]},
     "no type 'signedBaseLayer'"),
    ({"default": [{"type": "reject", "why": 1}]}, "default[0].why: there is no member 'why'"),
    ({"default": [*REJECT, {**SIGSTORE, "keyPth": "x"}]}, "default[1].keyPth: there is no member"),
]  # fmt: skip

WRONG_REQUIREMENTS: list[tuple[Any, str]] = [
    ({"type": "sigstoreSigned"}, "default[0]: just one of keyPath"),
    ({**SIGSTORE, "keyPath": "key"}, "default[0]: just one of keyPath"),
    ({**SIGSTORE, "keyData": ""}, "default[0].keyData: a text is needed"),
    ({**SIGSTORE, "keyData": 1}, "default[0].keyData: a text is needed"),
    ({**SIGSTORE, "keyData": "?"}, "default[0].keyData: that is no base64"),
    ({**SIGSTORE, "keyData": "AAAA"}, "default[0]: a key cannot be used"),
    ({"type": "sigstoreSigned", "keyDatas": []}, "default[0].keyDatas: a list of texts"),
    ({"type": "sigstoreSigned", "keyPath": "none.pub"}, "none.pub cannot be read"),
    ({**SIGSTORE, "rekorPublicKeyData": KEY, "rekorPublicKeyPath": "x"}, "only one of rekor"),
    ({"type": "sigstoreSigned", "fulcio": FULCIO}, "'fulcio' needs one of rekor"),
    ({"type": "sigstoreSigned", "fulcio": {**FULCIO, "subject": "x"}, "rekorPublicKeyData": KEY},
     "default[0].fulcio.subject: there is no member"),
    ({"type": "sigstoreSigned", "fulcio": {**FULCIO, "oidcIssuer": ""}, "rekorPublicKeyData": KEY},
     "default[0].fulcio.oidcIssuer: a text is needed"),
    ({"type": "sigstoreSigned", "fulcio": {**FULCIO, "caData": KEY}, "rekorPublicKeyData": KEY},
     "default[0].fulcio: there is no certificate"),
    ({"type": "sigstoreSigned", "fulcio": {"oidcIssuer": "i", "subjectEmail": "s"},
      "rekorPublicKeyData": KEY}, "default[0].fulcio: one of caPath, caData is needed"),
    ({"type": "sigstoreSigned", "pki": {"caRootsData": FULCIO["caData"]}}, "subjectEmail or"),
    ({"type": "sigstoreSigned", "pki": {"caRootsData": FULCIO["caData"], "subjectEmail": "s"},
      "rekorPublicKeyData": KEY}, "'pki' goes with no key of a log"),
    ({**GPG, "keyType": "X509Certificates"}, "default[0].keyType: there is no type"),
    ({**GPG, "keyType": "gpgkeys"}, "default[0].keyType: there is no type"),
    ({"type": "signedBy", "keyType": "GPGKeys"}, "one of keyPath, keyPaths, keyData is needed"),
    ({**GPG, "keyDatas": [KEY]}, "default[0].keyDatas: there is no member"),
    ({**SIGSTORE, "signedIdentity": {"type": "matchAny"}}, "default[0].signedIdentity.type"),
    ({**SIGSTORE, "signedIdentity": {"type": "matchExact", "x": 1}},
     "signedIdentity.x: there is no"),
    ({**SIGSTORE, "signedIdentity": {"type": "exactReference"}}, "dockerReference: a text"),
    ({**SIGSTORE, "signedIdentity": {"type": "exactReference", "dockerReference": "a.org/b"}},
     "neither tag nor digest"),
    ({**SIGSTORE, "signedIdentity": {"type": "exactRepository", "dockerRepository": "A/B"}},
     "is no reference"),
    ({**SIGSTORE, "signedIdentity": {"type": "remapIdentity", "prefix": "a.org/",
      "signedPrefix": "b"}},
     "are no prefixes"),
]  # fmt: skip


@pytest.mark.parametrize(("policy", "said"), WRONG)
def test_what_podman_would_not_read_is_refused_by_its_place(policy, said):
    with pytest.raises(ConfigError) as error:
        Policy.parse(policy, Path())
    assert said in error.value.found and error.value.hint


@pytest.mark.parametrize(("requirement", "said"), WRONG_REQUIREMENTS)
def test_so_is_a_requirement(requirement, said):
    with pytest.raises(ConfigError) as error:
        parsed(requirement)
    assert said in error.value.found and error.value.hint


def test_a_policy_is_checked_before_anything_begins(tmp_path):
    """In its file, or as members of the configuration; twice the same member is one too many."""
    for policy in (
        {"default": [{**SIGSTORE, "keyPth": "x"}]},
        "policy.json",
    ):
        (tmp_path / "policy.json").write_text('{"default": [{"type": "reject", "keyPth": "x"}]}')
        with pytest.raises(
            InvalidConfig, match=r"signatures.policy: default\[0\].keyPth: there is"
        ):
            Config.parse({"signatures": {"policy": policy}}, workdir=tmp_path)
    for text, said in (
        ('{"default": [{"type": "reject"}], "default": [{"type": "reject"}]}', "several members"),
        ("default: []", "is not JSON"),
    ):
        (tmp_path / "policy.json").write_text(text)
        with pytest.raises(InvalidConfig, match=said):
            Config.parse({"signatures": {"policy": "policy.json"}}, workdir=tmp_path)
    with pytest.raises(InvalidConfig, match=r"none.json cannot be read"):
        Config.parse({"signatures": {"policy": "none.json"}}, workdir=tmp_path)


def test_files_of_a_policy_count_from_the_working_directory(tmp_path):
    (tmp_path / "key.pub").write_bytes(PUBLIC)
    (tmp_path / "policy.json").write_text(
        json.dumps({"default": [{"type": "sigstoreSigned", "keyPath": "key.pub"}]})
    )
    config = Config.parse({"signatures": {"policy": "policy.json"}}, workdir=tmp_path)
    assert config.signatures.policy == tmp_path / "policy.json"


SCOPES = [
    # most specific first, each with what it makes of a.b.example.org:5000/x/y:1
    "a.b.example.org:5000/x/y:1",
    "a.b.example.org:5000/x/y",
    "a.b.example.org:5000/x",
    "a.b.example.org:5000",
    "*.b.example.org",
    "*.example.org",
    "*.org",
    "",
]


def test_the_most_specific_scope_counts_alone():
    name = DockerName.parse(SCOPES[0])
    for number, scope in enumerate(SCOPES):
        wider = dict.fromkeys(SCOPES[number + 1 :], ANYTHING)
        policy = Policy.parse(
            {"default": ANYTHING, "transports": {"docker": {scope: REJECT, **wider}}}, Path()
        )
        assert policy.requirements("docker", scopes(name)).each == (Reject(),), scope
        others = policy.requirements("oci", scopes(name))
        assert others.each == (AcceptAnything(),) and others.place == "default"


@pytest.mark.parametrize(
    "scope",
    [
        *("a.b.example.org", "b.example.org:5000", "*.b.example.org:5000", "*"),
        *("*.a.b.example.org", "a.b.example.org:5000/x/y:2", "a.b.example.org:5000/x/"),
        *("a.b.example.org:5000/", "a.b.example.org:5000/x/yy", "A.b.example.org:5000/x/y"),
    ],
)
def test_other_scopes_mean_other_images(scope):
    policy = Policy.parse({"default": REJECT, "transports": {"docker": {scope: ANYTHING}}}, Path())
    found = policy.requirements("docker", scopes(DockerName.parse(SCOPES[0])))
    assert found.each == (Reject(),)


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("https://registry.hub.docker.com/library/debian:12", "docker.io/library/debian:12"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("ghcr.io/a/b:1", "ghcr.io/a/b:1"),
        ("https://ghcr.io:443/a/b:1@sha256:" + "a" * 64, "ghcr.io:443/a/b@sha256:" + "a" * 64),
    ],
)
def test_policies_know_images_by_the_names_that_podman_has_for_them(written, name):
    assert str(DockerName.of(Reference.parse(written))) == name
    assert DockerName.parse(name) == DockerName.of(Reference.parse(written))


def test_requirements_are_others_where_a_key_is_another(tmp_path):
    requirement = {"type": "sigstoreSigned", "keyPath": "key.pub"}
    keys = []
    for public in (PUBLIC, public_key(), PUBLIC):
        (tmp_path / "key.pub").write_bytes(public)
        found = Policy.parse({"default": [requirement]}, tmp_path).default
        assert isinstance(found.each[0], SigstoreSigned)
        keys.append(found.key)
    assert keys[0] == keys[2] != keys[1]
