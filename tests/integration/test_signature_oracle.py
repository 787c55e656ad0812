"""skopeo signs and judges: what it lets be copied under a policy may be published, and no more.

Debian's skopeo is built without sigstore's signatures; names of images, scopes and lists of
requirements are the same for both kinds.
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from duccmake.config.configuration import Config
from duccmake.config.mistakes import InvalidConfig
from duccmake.oci.manifest import Descriptor
from duccmake.oci.reference import Digest, Platform, Reference
from duccmake.planning.planner import make_plan
from duccmake.registry.client import Client
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import (
    Store,
    add_image,
    add_index,
    docker_registry,
    layer_of,
    need,
    skopeo,
    without_proxies,
)
from support.signing import (
    Gpg,
    Key,
    annotations,
    attach,
    b64,
    bundle,
    envelope,
    gpg_home,
    payload,
    public_key,
    refer,
    statement,
)

IMAGES = ("team/app:1", "team/app:2", "team/other:1", "else/app:1", "else/both:1")
"""Signed by the first, the second, the first for another name, nobody, and both."""


@dataclass(frozen=True)
class Signed:
    """A registry with images that skopeo has signed, and what it takes to judge them."""

    host: str
    base: Path
    gpg: Gpg
    signers: tuple[str, str]

    @property
    def registries(self) -> list[str]:
        return ["--registries.d", str(self.base / "registries.d")]

    def copied(self, name: str, policy: Path, *more: str) -> subprocess.CompletedProcess[str]:
        """Have skopeo copy an image under a policy."""
        options = ["--policy", str(policy), *self.registries, "copy", *more]
        source = ["--src-tls-verify=false", f"docker://{self.host}/{name}"]
        return subprocess.run(
            [need("skopeo"), *options, *source, f"dir:{self.base}/out"],
            capture_output=True,
            text=True,
            env=without_proxies(),
        )

    def accepts(self, name: str, policy: Path, *more: str) -> bool:
        """Whether skopeo copies an image under a policy."""
        done = self.copied(name, policy, *more)
        assert done.returncode == 0 or "Source image rejected" in done.stderr, done.stderr
        return done.returncode == 0


@pytest.fixture(scope="module")
def signed(tmp_path_factory) -> Iterator[Signed]:
    base = tmp_path_factory.mktemp("signed")
    (base / "registries.d").mkdir()
    lookaside = {"lookaside": f"file://{base}/lookaside", "sigstore": f"file://{base}/lookaside"}
    (base / "registries.d" / "default.yaml").write_text(
        yaml.safe_dump({"default-docker": lookaside})
    )
    with (
        docker_registry(base / "registry") as registry,
        FullRegistry(base / "source") as source,
        gpg_home(base / "gpg") as gpg,
    ):
        signers = (gpg.key("first"), gpg.key("second"))
        found = Signed(registry.host, base, gpg, signers)
        _fill(found, source)
        yield found


def _fill(signed: Signed, source: FullRegistry) -> None:
    for name in IMAGES:
        repository, _, tag = name.partition(":")
        add_image(source.store, repository, tag)
    _index(source.store)
    push(signed, source, "team/app:1", by=0)
    push(signed, source, "team/app:2", by=1)
    push(signed, source, "team/other:1", "--sign-identity", f"{signed.host}/team/app:1", by=0)
    push(signed, source, "else/app:1")
    push(signed, source, "else/both:1", by=0)
    push(signed, source, "else/both:1", by=1)
    push(signed, source, "team/list:1", "--all", by=0)
    push(signed, source, "team/list:2", "--all")


def _index(store: Store) -> None:
    for tag in ("1", "2"):
        entries = [
            add_image(
                store, "team/list", "", platform=platform, layers=(layer_of({tag: b"%d" % at})[0],)
            ).manifest
            for at, platform in enumerate((AMD64, Platform("linux", "arm64")))
        ]
        add_index(store, "team/list", tag, entries)


def push(
    signed: Signed, source: FullRegistry, name: str, *more: str, by: int | None = None
) -> None:
    """Have skopeo copy an image to the registry and sign it there."""
    sign = [*more, "--sign-by", signed.signers[by]] if by is not None else [*more]
    _with_home(
        signed,
        *("--insecure-policy", *signed.registries, "copy", *sign),
        *("--src-tls-verify=false", "--dest-tls-verify=false"),
        *(f"docker://{source.host}/{name}", f"docker://{signed.host}/{name}"),
    )


def _with_home(signed: Signed, *arguments: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GNUPGHOME", str(signed.gpg.home))
        skopeo(*arguments)


def published(
    signed: Signed, policy: Path, names: tuple[str, ...], work: Path, **signatures: object
) -> dict[str, str]:
    """The images that may be published, and why the others may not."""
    recipe = {
        "version": 1,
        "cvmfs_repo": "images.example.org",
        "input": [f"http://{signed.host}/{name}" for name in names],
    }
    (work / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    members = {
        "recipe": ["recipe.yaml"],
        "repository": {"root": "root"},
        "thin": {"push": "never"},
        "signatures": {
            "policy": str(policy),
            "lookaside": {"": f"file://{signed.base}/lookaside"},
            **signatures,
        },
    }
    plan = make_plan(Config.parse(members, workdir=work), members)
    found = {image.reference.name.partition("/")[2]: "" for image in plan.images}
    return found | {item.name.partition("/")[2]: item.reason for item in plan.problems}


class Policies:
    """Random policies about the images."""

    def __init__(self, seed: int, signed: Signed) -> None:
        self._random = random.Random(seed)
        self._signed = signed

    def make(self) -> dict[str, Any]:
        host = self._signed.host
        scopes = [
            *(f"{host}/team", f"{host}/else", f"{host}/team/app", f"{host}/team/app:1"),
            *(host, f"{host}/else/both:1", f"{host}/te", ""),
        ]
        chosen = self._random.sample(scopes, self._random.randrange(4))
        return {
            "default": self._requirements(),
            "transports": {"docker": {scope: self._requirements() for scope in chosen}},
        }

    def _requirements(self) -> list[dict[str, Any]]:
        return [self._requirement() for _ in range(self._random.choice([1, 1, 1, 2]))]

    def _requirement(self) -> dict[str, Any]:
        kind = self._random.choice(["insecureAcceptAnything", "reject", *["signedBy"] * 9])
        if kind in ("insecureAcceptAnything", "reject"):
            return {"type": kind}
        identity = self._identity()
        found = {"type": kind, **({"signedIdentity": identity} if identity else {})}
        keys = self._random.sample(self._signed.signers, self._random.choice([1, 1, 2]))
        public = b"".join(map(self._signed.gpg.public, keys))
        return {**found, "keyType": "GPGKeys", "keyData": b64(public)}

    def _identity(self) -> dict[str, str]:
        host = self._signed.host
        return self._random.choice(
            [
                {},
                {"type": "matchExact"},
                {"type": "matchRepoDigestOrExact"},
                *[{"type": "matchRepository"}] * 3,
                {"type": "exactReference", "dockerReference": f"{host}/team/app:1"},
                {"type": "exactRepository", "dockerRepository": f"{host}/team/app"},
                _remapped(f"{host}/team/other", f"{host}/team/app"),
                _remapped(f"{host}/te", f"{host}/team/app"),
            ]
        )


def _remapped(prefix: str, signed: str) -> dict[str, str]:
    return {"type": "remapIdentity", "prefix": prefix, "signedPrefix": signed}


@pytest.mark.parametrize("seed", range(10))
def test_skopeo_and_we_let_the_same_images_in(signed, tmp_path, monkeypatch, seed):
    monkeypatch.chdir(tmp_path)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(Policies(seed, signed).make(), indent=1))
    ours = published(signed, policy, IMAGES, tmp_path)
    theirs = {name: signed.accepts(name, policy) for name in IMAGES}
    assert {name: not why for name, why in ours.items()} == theirs, (ours, policy.read_text())


def signed_by(signed: Signed, *signers: int, **more: object) -> dict[str, Any]:
    public = b"".join(signed.gpg.public(signed.signers[number]) for number in signers)
    return {"type": "signedBy", "keyType": "GPGKeys", "keyData": b64(public), **more}


def test_the_images_are_signed_as_they_shall_be(signed, tmp_path, monkeypatch):
    """What is compared above is worth something: each signer lets others in."""
    monkeypatch.chdir(tmp_path)
    policy = tmp_path / "policy.json"
    for signers, expected in (
        ([0], {"team/app:1", "else/both:1"}),
        ([1], {"team/app:2", "else/both:1"}),
        ([0, 1], {"team/app:1", "team/app:2", "else/both:1"}),
    ):
        policy.write_text(json.dumps({"default": [signed_by(signed, *signers)]}))
        found = published(signed, policy, IMAGES, tmp_path)
        assert {name for name, why in found.items() if not why} == expected
    policy.write_text(json.dumps({"default": [signed_by(signed, 0), signed_by(signed, 1)]}))
    found = published(signed, policy, IMAGES, tmp_path)
    assert {name for name, why in found.items() if not why} == {"else/both:1"}


POLICIES: list[tuple[dict[str, object], bool]] = [
    ({}, True),
    ({"type": "sigstoreSigned"}, True),
    ({"keyPth": "x"}, False),
    ({"type": "signedBy", "keyType": "gpgKeys"}, False),
    ({"type": "sigstoreSigned", "keyPath": "key"}, False),
    ({"type": "sigstoreSigned", "keyType": "GPGKeys"}, False),
    ({"signedIdentity": {"type": "matchRepository"}}, True),
    ({"signedIdentity": {"type": "matchExact", "more": 1}}, False),
    ({"signedIdentity": {"type": "matchAny"}}, False),
    ({"signedIdentity": {"type": "exactReference", "dockerReference": "a.org/b"}}, False),
    ({"signedIdentity": {"type": "exactReference", "dockerReference": "a.org/b:1"}}, True),
    ({"signedIdentity": {"type": "exactRepository", "dockerRepository": "A.org/B"}}, False),
    ({"signedIdentity": {"type": "remapIdentity", "prefix": "a.org/", "signedPrefix": "b"}}, False),
    ({"signedIdentity": {"type": "remapIdentity", "prefix": "a", "signedPrefix": "b/c"}}, True),
    ({"type": "sigstore"}, False),
    ({"keyData": "?"}, False),
]


@pytest.mark.parametrize(("changes", "readable"), POLICIES)
def test_a_policy_that_skopeo_does_not_read_is_none_to_us(signed, tmp_path, changes, readable):
    gpg = {} if changes.get("type", "signedBy") != "signedBy" else {"keyType": "GPGKeys"}
    requirement = {"type": "signedBy", **gpg, "keyData": b64(public_key()), **changes}
    anything = [{"type": "insecureAcceptAnything"}]
    members = {"default": anything, "transports": {"docker": {"other.org": [requirement]}}}
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps(members))
    done = signed.copied("team/app:1", policy)
    assert (done.returncode == 0) is readable, done.stderr
    configuration = {"signatures": {"policy": str(policy)}}
    if readable:
        Config.parse(configuration, workdir=tmp_path)
        return
    with pytest.raises(InvalidConfig, match=r"signatures\.policy"):
        Config.parse(configuration, workdir=tmp_path)


def test_of_a_list_the_index_or_the_manifest_is_signed(signed, tmp_path, monkeypatch):
    """skopeo signs both, and looks at the manifest where it copies one, else at the index too."""
    monkeypatch.chdir(tmp_path)
    policy = tmp_path / "policy.json"
    policy.write_text(json.dumps({"default": [signed_by(signed, 0)]}))
    ours = published(signed, policy, ("team/list:1", "team/list:2"), tmp_path)
    assert not ours["team/list:1"] and ours["team/list:2"]
    for name, why in ours.items():
        assert signed.accepts(name, policy, "--all") is (not why)


@pytest.mark.parametrize("form", ["tag", "bundle"])
def test_what_is_attached_where_no_referrers_are_listed_is_found(
    signed, tmp_path, monkeypatch, form
):
    """Debian's docker-registry lists none, and takes but manifests whose blobs it has."""
    monkeypatch.chdir(tmp_path)
    key, store = Key(tmp_path), Store(tmp_path / "store")
    reference = Reference.parse(f"http://{signed.host}/else/app:1")
    with Client({}) as client:
        digest = client.poll(reference)
        if form == "tag":
            content = payload(digest, reference.name)
            attach(store, "else/app", digest, (content, annotations(key.sign(content))))
            _copy(client, store, reference, f"sha256-{digest.hex}.sig")
        else:
            _, found = envelope(key, statement(digest))
            content = json.dumps(bundle(found)).encode()
            referrer = refer(store, "else/app", digest, content, by_tag=True)
            _copy(client, store, reference, str(referrer))
            _copy(client, store, reference, f"sha256-{digest.hex}")
    policy = tmp_path / "policy.json"
    for trusted in (key.public, public_key()):
        wanted = {"type": "sigstoreSigned", "keyData": b64(trusted)}
        policy.write_text(json.dumps({"default": [wanted]}))
        (why,) = published(signed, policy, ("else/app:1",), tmp_path, unnamed="accept").values()
        assert not why if trusted == key.public else "not made with the key" in why


def _copy(client: Client, store: Store, image: Reference, wanted: str) -> None:
    """Push a stored manifest with its blobs."""
    _, kind, raw = store.manifest("else/app", wanted)
    members = json.loads(raw)
    described = [*members.get("layers", []), *filter(None, [members.get("config")])]
    for blob in map(Descriptor.parse, described):
        client.push_blob(image, blob, store.blob_path(blob.digest))
    by_digest = ":" in wanted
    target = replace(image, tag="", digest=Digest.parse(wanted)) if by_digest else None
    client.push_manifest(target or image.with_tag(wanted), raw, kind)
