"""Signatures, bundles and policies that nobody's tool writes."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import ANY_BYTES, Mutation, applied, changed, documents

from duccmake.errors import DuccmakeError
from duccmake.oci.artifact import Artifact
from duccmake.signatures.docker_name import DockerName
from duccmake.signatures.policy import InvalidPolicy, Policy
from duccmake.signatures.sigstore import of_annotations, of_bundle
from duccmake.signatures.verdict import Asked, Found, Signed, verify
from support.servers import sha256
from support.signing import (
    DIGEST,
    MANIFEST,
    NAME,
    OTHER,
    SIMPLE,
    Authority,
    Signers,
    annotations,
    b64,
    bundle,
    dsse_entry,
    envelope,
    hashedrekord,
    payload,
    signers,
    statement,
)


@dataclass(frozen=True)
class World:
    """What a policy trusts, and signatures that it must not be satisfied with."""

    requirements: tuple[dict[str, Any], ...]
    sound: tuple[Found, ...]
    signed: tuple[tuple[bytes, Mapping[str, str]], ...]
    bundles: tuple[bytes, ...]
    message: bytes
    messages: dict[str, Any]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with signers(tmp_path_factory.mktemp("signers")) as who:
        yield _world(who)


def _world(who: Signers) -> World:
    key, book, authority = who.key, who.log, who.authority
    signed, bundles = [], []
    for signer, digest in ((who.other, DIGEST), (key, OTHER)):
        # By a stranger, of this image; by who is trusted, of another one.
        issuer = authority if signer is key else Authority()
        certificate = issuer.certificate(signer)
        content = payload(digest, NAME)
        signature = signer.sign(content)
        for verifier in (signer.public, certificate):
            entry = book.entry(hashedrekord(signature, content, verifier))
            named = certificate if verifier is certificate else b""
            signed.append((content, annotations(signature, named, issuer.chain, entry)))
        stated = statement(digest)
        signature, found = envelope(signer, stated)
        entry = book.entry(dsse_entry(signature, stated, certificate))
        bundles.append(json.dumps(bundle(found, entry, certificate)).encode())
    content = payload(DIGEST, NAME, type="atomic container signature")
    message = who.gpg.signed(who.stranger, content)
    content = payload(DIGEST, NAME)
    certificate, signature = authority.certificate(key), key.sign(content)
    sound = tuple(
        Found("tag", partial(of_annotations, content, notes))
        for notes in (
            annotations(signature),
            annotations(signature, entry=book.entry(hashedrekord(signature, content, key.public))),
            annotations(
                signature,
                certificate,
                authority.chain,
                book.entry(hashedrekord(signature, content, certificate)),
            ),
        )
    )
    return World(
        (who.keyed, who.logged, who.keyless),
        sound,
        tuple(signed),
        tuple(bundles),
        message,
        who.messages,
    )


def _is_satisfied(requirement: Mapping[str, Any], found: Found) -> bool:
    policy = Policy.parse({"default": [requirement]}, Path())
    signed = Signed(DIGEST, MANIFEST, (found,))
    asked = Asked(DockerName.parse(f"{NAME}:1"), lambda is_message: [signed], unnamed=True)
    try:
        verify(policy.default, asked)
    except DuccmakeError as error:
        assert len(str(error).splitlines()) == 1
        return False
    return True


def test_what_is_sound_counts(world: World):
    assert all(map(_is_satisfied, world.requirements, world.sound))


_CHANGES = st.lists(ANY_BYTES, max_size=3)


@st.composite
def _spoilt(draw: st.DrawFn, text: str) -> str:
    """A text with a few bytes changed; what is base64 or JSON, also within."""
    raw = text.encode()
    if text.startswith("{") and draw(st.booleans()):
        return draw(documents([json.loads(text)])).decode("utf-8", "replace")
    if draw(st.booleans()):
        try:
            inner = base64.b64decode(text, validate=True)
        except ValueError:
            pass
        else:
            return b64(applied(inner, draw(_CHANGES)))
    return applied(raw, draw(_CHANGES)).decode("latin-1")


@examples(80)
@given(st.data())
def test_no_change_makes_a_signature_count_that_does_not(world: World, data: st.DataObject):
    content, notes = data.draw(st.sampled_from(world.signed))
    spoilt = {name: data.draw(_spoilt(text)) for name, text in notes.items()}
    if data.draw(st.booleans()):
        content = data.draw(documents([json.loads(content)]))
    found = Found("tag", partial(of_annotations, content, spoilt))
    with confined():
        assert not any(_is_satisfied(each, found) for each in world.requirements)


@examples(80)
@given(st.data())
def test_no_change_makes_a_bundle_count_that_does_not(world: World, data: st.DataObject):
    raw = data.draw(documents([json.loads(each) for each in world.bundles]))
    found = Found("referrer", partial(of_bundle, raw, MANIFEST))
    with confined():
        assert not any(_is_satisfied(each, found) for each in world.requirements)


@examples(6, slow=50)
@given(_CHANGES)
def test_no_change_makes_a_message_count_that_does_not(world: World, changes: list[Mutation]):
    assert not _is_satisfied(world.messages, Found("1", message=applied(world.message, changes)))


@examples(80)
@given(st.data())
def test_a_policy_is_read_or_refused_by_its_place(world: World, data: st.DataObject):
    by_name = {NAME: [world.requirements[0]], "": [world.messages]}
    sound = {
        "default": [{"type": "reject"}, {"type": "insecureAcceptAnything"}],
        "transports": {"docker": by_name, "docker-daemon": {"": [world.requirements[2]]}},
    }
    members = data.draw(changed([sound]))
    with confined():
        try:
            found = Policy.parse(members, Path("/etc/containers"))
        except InvalidPolicy as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
        else:
            event("read")
            assert found.requirements("docker", [NAME]).each


_ARTIFACT = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "artifactType": "application/vnd.dev.sigstore.bundle.v0.3+json",
    "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": str(OTHER), "size": 2},
    "layers": [{"mediaType": SIMPLE, "digest": str(OTHER), "size": 9, "annotations": {"a": "b"}}],
    "manifests": [{"mediaType": SIMPLE, "digest": str(OTHER), "size": 9, "artifactType": "x"}],
}


@examples(100)
@given(documents([_ARTIFACT]))
def test_an_artifact_is_what_its_bytes_are_or_refused(raw: bytes):
    with confined():
        try:
            found = Artifact.parse(raw)
        except DuccmakeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
        else:
            assert found.digest == sha256(raw)
