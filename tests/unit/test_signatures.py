"""Signatures held to a policy's requirements: what counts, and each way to cheat."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import DuccmakeError, Fault
from duccmake.oci.reference import Digest
from duccmake.signatures.docker_name import DockerName
from duccmake.signatures.policy import Policy
from duccmake.signatures.sigstore import of_annotations, of_bundle
from duccmake.signatures.verdict import Asked, Found, Signed, verify
from support import signing
from support.servers import sha256
from support.signing import (
    DIGEST,
    EMAIL,
    ISSUER,
    MANIFEST,
    NAME,
    OTHER,
    REPOSITORY,
    Authority,
    Key,
    Log,
    Signers,
    annotations,
    b64,
    bundle,
    dsse_entry,
    envelope,
    fulcio_issuer,
    gpg_home,
    hashedrekord,
    payload,
    pem,
    signers,
    statement,
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with signers(tmp_path_factory.mktemp("signers")) as world:
        yield world


def said(
    requirement: Mapping[str, Any],
    *found: Found,
    name: str = f"{NAME}:1",
    unnamed: bool = False,
    raw: bytes = MANIFEST,
) -> str:
    """By whom an image is signed, or why it is refused."""
    policy = Policy.parse({"default": [requirement]}, Path())
    signed = Signed(sha256(raw), raw, found)
    asked = Asked(DockerName.parse(name), lambda is_message: [signed], unnamed)
    try:
        (verified,) = verify(policy.default, asked)
    except DuccmakeError as error:
        assert error.fault is Fault.SIGNATURE and error.hint
        return f"refused: {error.found}"
    assert verified.signed == str(sha256(raw))
    return verified.by


def attached(content: bytes, notes: Mapping[str, str]) -> Found:
    return Found("tag", partial(of_annotations, content, notes))


def bundled(members: object, raw: bytes = MANIFEST) -> Found:
    return Found("referrer", partial(of_bundle, json.dumps(members).encode(), raw))


def keyed(key: Key, content: bytes, digest: str = "sha256") -> Found:
    return attached(content, annotations(key.sign(content, digest)))


def logged(world: Signers, content: bytes, **changes: object) -> Found:
    signature = world.key.sign(content)
    entry = world.log.entry(hashedrekord(signature, content, world.key.public), **changes)
    return attached(content, annotations(signature, entry=entry))


def keyless(
    world: Signers,
    content: bytes | None = None,
    *,
    log: Log | None = None,
    chain: bytes | None = None,
    **wishes: Any,
) -> Found:
    """Signed with a certificate of the authority, entered in the log."""
    content = content or payload(DIGEST, NAME)
    certificate = world.authority.certificate(world.key, **wishes)
    signature = world.key.sign(content)
    entry = (log or world.log).entry(hashedrekord(signature, content, certificate))
    chain = world.authority.chain if chain is None else chain
    return attached(content, annotations(signature, certificate, chain, entry))


def enveloped(world: Signers, content: bytes | None = None) -> dict[str, Any]:
    """A bundle as cosign 3 makes it, signed with a certificate."""
    content = content or statement(DIGEST)
    signature, found = envelope(world.key, content)
    certificate = world.authority.certificate(world.key)
    entry = world.log.entry(dsse_entry(signature, content, certificate))
    return bundle(found, entry, certificate)


def direct(world: Signers) -> dict[str, Any]:
    """The policy for bundles, which have no chain: it trusts the authority below the root."""
    found = copy.deepcopy(world.keyless)
    found["fulcio"]["caData"] = b64(pem(world.authority.between))
    return found


# --- keys -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("algorithm", "digest"),
    [
        ("EC:P-256", "sha256"),
        ("EC:P-384", "sha256"),
        ("EC:P-384", "sha384"),
        ("EC:P-521", "sha512"),
        ("RSA:2048", "sha256"),
        ("ED25519", ""),
    ],
)
def test_what_openssl_signs_counts_and_what_another_key_signs_does_not(tmp_path, algorithm, digest):
    mine, other = (Key(tmp_path, name, algorithm) for name in ("mine", "other"))
    requirement = {"type": "sigstoreSigned", "keyData": b64(mine.public), **REPOSITORY}
    content = payload(DIGEST, NAME)
    assert said(requirement, keyed(mine, content, digest)).startswith("sha256:")
    assert "not made with the key" in said(requirement, keyed(other, content, digest))


def test_the_key_is_called_by_the_digest_that_openssl_has_for_it(world):
    der = signing._openssl("pkey", "-pubin", "-outform", "DER", given=world.key.public)
    assert said(world.keyed, keyed(world.key, payload(DIGEST, NAME))) == str(sha256(der))


@pytest.mark.parametrize("algorithm", ["RSA:1024", "EC:secp256k1", "X25519"])
def test_a_key_that_is_weak_or_signs_nothing_is_refused_with_the_policy(tmp_path, algorithm):
    key = Key(tmp_path, algorithm=algorithm) if algorithm != "X25519" else None
    public = (
        key.public
        if key
        else signing._openssl(
            "pkey", "-pubout", given=signing._openssl("genpkey", "-algorithm", "X25519")
        )
    )
    with pytest.raises(DuccmakeError, match="a key cannot be used"):
        said({"type": "sigstoreSigned", "keyData": b64(public)})


def test_one_of_several_keys_and_one_good_signature_of_several_suffice(world):
    content = payload(DIGEST, NAME)
    keys = [b64(world.other.public), b64(world.key.public)]
    requirement = {"type": "sigstoreSigned", "keyDatas": keys, **REPOSITORY}
    damaged = attached(b"\xff", {})
    assert said(requirement, damaged, keyed(world.key, content)).startswith("sha256:")


def test_without_a_signature_it_is_said_which_requirement_wants_one(world):
    assert said(world.keyed) == (
        "refused: it has no signature as default[0] (sigstoreSigned) wants one"
    )


# --- what is signed -------------------------------------------------------

CHEATS = {
    "another digest": (payload(OTHER, NAME), "and this is sha256:"),
    "another repository": (payload(DIGEST, f"{NAME}le"), "does not accept"),
    "another host": (payload(DIGEST, "evil.example.org/team/app"), "does not accept"),
    "no name": (payload(DIGEST, ""), "does not accept"),
    "no digest": (payload("sha256:1234", NAME), "is not a digest"),
    "another type": (payload(DIGEST, NAME, type="atomic container signature"), "its type is"),
    "a further member": (payload(DIGEST, NAME, more=1), "unknown member 'more'"),
    "two digests": (
        payload(OTHER, NAME).replace(b'"image": {', b'"image": {"docker-manifest-digest": "%s", '
                                     % str(DIGEST).encode()),
        "several members 'docker-manifest-digest'",
    ),
    "a digest in other letters": (
        payload(OTHER, NAME).replace(b'"image": {', b'"image": {"Docker-Manifest-Digest": "%s", '
                                     % str(DIGEST).encode()),
        "only some readers take",
    ),
    "a name that is a number": (payload(DIGEST, NAME).replace(b'"%s"' % NAME.encode(), b"1"),
                                "is not a string"),
    "more after it": (payload(DIGEST, NAME) + b"{}", "is not JSON"),
    "no JSON": (b"hello", "is not JSON"),
    "nothing": (b"", "is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("cheat", CHEATS)
def test_what_the_right_key_signs_has_to_be_about_this_image(world, cheat):
    content, reason = CHEATS[cheat]
    assert reason in said(world.keyed, keyed(world.key, content))


def test_the_payload_that_comes_is_the_one_that_was_signed(world):
    notes = annotations(world.key.sign(payload(DIGEST, NAME)))
    assert "not made with the key" in said(
        world.keyed, attached(payload(DIGEST, NAME) + b" ", notes)
    )
    notes = {"dev.cosignproject.cosign/signature": "!"}
    assert "no base64" in said(world.keyed, attached(payload(DIGEST, NAME), notes))
    assert "no annotation" in said(world.keyed, attached(payload(DIGEST, NAME), {}))


IDENTITIES = [
    # the way, the image, the name in the signature, whether it counts
    ({}, f"{NAME}:1", f"{NAME}:1", True),
    ({}, f"{NAME}:1", f"{NAME}:2", False),
    ({}, f"{NAME}:1", NAME, False),
    ({}, f"{NAME}@{DIGEST}", f"{NAME}:2", True),
    ({}, f"{NAME}@{DIGEST}", NAME, False),
    ({}, f"{NAME}@{DIGEST}", f"{NAME}x:2", False),
    ({"type": "matchExact"}, f"{NAME}:1", f"{NAME}:1", True),
    ({"type": "matchExact"}, f"{NAME}@{DIGEST}", f"{NAME}:1", False),
    ({"type": "matchExact"}, f"{NAME}@{DIGEST}", f"{NAME}@{DIGEST}", True),
    ({"type": "matchRepository"}, f"{NAME}:1", f"{NAME}:2", True),
    ({"type": "matchRepository"}, f"{NAME}:1", NAME, True),
    ({"type": "matchRepository"}, f"{NAME}:1", f"{NAME}/more:1", False),
    ({"type": "matchRepository"}, "docker.io/library/busybox:1", "busybox", True),
    ({"type": "matchRepository"}, "docker.io/library/busybox:1", "index.docker.io/library/busybox",
     True),
    ({"type": "matchRepository"}, "docker.io/library/busybox:1", "evil/busybox", False),
    ({"type": "exactReference", "dockerReference": f"{NAME}:2"}, f"{NAME}:1", f"{NAME}:2", True),
    ({"type": "exactReference", "dockerReference": f"{NAME}:2"}, f"{NAME}:1", f"{NAME}:1", False),
    ({"type": "exactRepository", "dockerRepository": "other.org/a"}, f"{NAME}:1",
     "other.org/a", True),
    ({"type": "exactRepository", "dockerRepository": "other.org/a"}, f"{NAME}:1", NAME, False),
    ({"type": "remapIdentity", "prefix": "registry.example.org", "signedPrefix": "vendor.org/x"},
     f"{NAME}:1", "vendor.org/x/team/app:1", True),
    ({"type": "remapIdentity", "prefix": "registry.example.org/te", "signedPrefix": "vendor.org"},
     f"{NAME}:1", "vendor.orgam/app:1", False),
    ({"type": "remapIdentity", "prefix": "registry.example.org/te", "signedPrefix": "vendor.org"},
     f"{NAME}:1", f"{NAME}:1", True),
    ({"type": "remapIdentity", "prefix": NAME, "signedPrefix": "vendor.org/y"},
     f"{NAME}:1", "vendor.org/y", False),
]  # fmt: skip


@pytest.mark.parametrize(("way", "image", "named", "counts"), IDENTITIES)
def test_the_name_in_a_signature_is_compared_as_the_policy_says(world, way, image, named, counts):
    requirement = {"type": "sigstoreSigned", "keyData": b64(world.key.public)}
    requirement |= {"signedIdentity": way} if way else {}
    answer = said(requirement, keyed(world.key, payload(DIGEST, named)), name=image)
    assert answer.startswith("sha256:") is counts, answer


# --- the transparency log -------------------------------------------------


def test_an_entry_in_the_log_counts_with_a_key(world):
    content = payload(DIGEST, NAME)
    assert said(world.logged, logged(world, content)).startswith("sha256:")
    assert "no entry that a transparency log" in said(world.logged, keyed(world.key, content))


def test_an_entry_has_to_be_as_the_log_signed_it(world):
    content = payload(DIGEST, NAME)
    other = world.log.entry(hashedrekord(b"1", b"2", world.key.public))["Payload"]["body"]
    for changes in ({"integratedTime": 1}, {"logIndex": 8}, {"logID": "00"}, {"body": other}):
        found = said(world.logged, logged(world, content, **changes))
        assert "no trusted transparency log has signed" in found
    assert "unknown member" in said(world.logged, logged(world, content, more=1))
    assert "odd index, time or log" in said(world.logged, logged(world, content, logID="Ä"))


def test_an_entry_about_something_else_does_not_count(world):
    """A bundle whose entry is of another signature was accepted by cosign (CVE-2022-36056,
    CVE-2026-22703)."""
    content, elsewhere = payload(DIGEST, NAME), payload(OTHER, NAME)
    mine, theirs = world.key.sign(content), world.key.sign(elsewhere)
    public = world.key.public
    for body, reason in (
        (hashedrekord(theirs, content, public), "another signature"),
        (hashedrekord(mine, elsewhere, public), "other content"),
        (hashedrekord(mine, content, world.other.public), "another key"),
        (hashedrekord(mine, content, b"hello"), "damaged"),
        (dsse_entry(mine, content, public), "of the kind"),
        ({**hashedrekord(mine, content, public), "apiVersion": "0.0.2"}, "of the kind"),
        ({}, "of the kind"),
    ):
        notes = annotations(mine, entry=world.log.entry(body))
        assert reason in said(world.logged, attached(content, notes))


# --- certificates ---------------------------------------------------------


def test_who_was_vouched_for_may_sign_without_a_key(world):
    assert said(world.keyless, keyless(world)) == f"{EMAIL} ({ISSUER})"
    for issuers in (fulcio_issuer(new=""), fulcio_issuer(old="")):
        assert said(world.keyless, keyless(world, issuers=issuers)) == f"{EMAIL} ({ISSUER})"


def test_a_workflow_is_known_by_its_address(world):
    address = "https://git.example.org/team/app/.ci/release.yml@refs/heads/main"
    requirement = copy.deepcopy(world.keyless)
    requirement["fulcio"]["subjectEmail"] = address
    names = [x509.UniformResourceIdentifier(address)]
    assert said(requirement, keyless(world, names=names)) == f"{address} ({ISSUER})"
    names = [x509.UniformResourceIdentifier(f"{address}-2")]
    assert "its signer is" in said(requirement, keyless(world, names=names))


def test_another_identity_does_not_count(world):
    """Neither one that only begins like it, or is in another kind of name."""
    for name in (
        x509.RFC822Name(f"x{EMAIL}"),
        x509.RFC822Name(f"{EMAIL}.evil.org"),
        x509.RFC822Name(EMAIL.upper()),
        x509.DNSName(EMAIL.partition("@")[2]),
    ):
        assert "its signer is" in said(world.keyless, keyless(world, names=[name]))
    for issuers in (
        fulcio_issuer(old="https://evil.org", new="https://evil.org"),
        fulcio_issuer(old=f"{ISSUER}.evil.org", new=""),
    ):
        assert "was vouched for by" in said(world.keyless, keyless(world, issuers=issuers))
    contradicting = fulcio_issuer(new="https://evil.org")
    assert "two different issuers" in said(world.keyless, keyless(world, issuers=contradicting))
    assert "does not say who" in said(world.keyless, keyless(world, issuers={}))
    longer = {"1.3.6.1.4.1.57264.1.8": b"\x0c\x81" + bytes([len(ISSUER)]) + ISSUER.encode()}
    assert said(world.keyless, keyless(world, issuers=longer)) == f"{EMAIL} ({ISSUER})"
    for wrong in (b"", b"\x0c", b"\x16\x01a", b"\x0c\x05a", b"\x0c\x01ab", b"\x0c\x84a"):
        odd = {"1.3.6.1.4.1.57264.1.8": wrong}
        assert "refused" in said(world.keyless, keyless(world, issuers=odd))


def test_a_certificate_counts_only_for_the_time_in_the_log(world):
    now = datetime.now(UTC)
    late = keyless(world, start=now - timedelta(days=1))
    assert "and the signature is of" in said(world.keyless, late)
    assert "and the signature is of" in said(
        world.keyless, keyless(world, start=now + timedelta(1))
    )
    old = Log(world.log.key, now - timedelta(days=1))
    then = keyless(world, log=old, start=old.time - timedelta(minutes=1))
    assert said(world.keyless, then) == f"{EMAIL} ({ISSUER})"


def test_all_of_a_chain_has_to_be_valid_then(world):
    """cosign looked at the leaf alone (CVE-2026-24122)."""
    for between, reason in (
        (world.authority.expired_between(), "not valid at"),
        (world.authority.unfit_between(), "may not sign certificates"),
    ):
        chain = pem(between) + world.authority.pem
        assert reason in said(world.keyless, keyless(world, chain=chain))
    assert "does not lead" in said(world.keyless, keyless(world, chain=b""))
    stranger = Authority()
    assert "does not lead" in said(world.keyless, keyless(world, chain=stranger.chain))
    server = keyless(world, usage=ExtendedKeyUsageOID.SERVER_AUTH)
    assert "not made for signing code" in said(world.keyless, server)


def test_what_is_signed_with_a_certificate_has_to_be_in_the_log(world):
    content = payload(DIGEST, NAME)
    certificate = world.authority.certificate(world.key)
    signature, chain = world.key.sign(content), world.authority.chain
    bare = attached(content, annotations(signature, certificate, chain))
    assert "no entry that a transparency log" in said(world.keyless, bare)
    entry = world.log.entry(hashedrekord(signature, content, certificate))
    stranger = Log(world.other).entry(hashedrekord(signature, content, certificate))
    for log, reason in ((stranger, "no trusted transparency log"), (entry, "@")):
        found = attached(content, annotations(signature, certificate, chain, log))
        assert reason in said(world.keyless, found)
    # A log does not tell whether a certificate's key has made the signature.
    wrong = world.other.sign(content)
    entry = world.log.entry(hashedrekord(wrong, content, certificate))
    found = attached(content, annotations(wrong, certificate, chain, entry))
    assert "not made with the key" in said(world.keyless, found)


def test_a_bare_key_is_no_certificate(world):
    """cosign took it for one (GHSA-fx35-mq7g-6g98)."""
    content = payload(DIGEST, NAME)
    signature, public = world.key.sign(content), world.key.public
    entry = world.log.entry(hashedrekord(signature, content, public))
    notes = annotations(signature, public, b"", entry)
    assert "certificate" in said(world.keyless, attached(content, notes))
    two = world.authority.certificate(world.key) * 2
    notes = annotations(signature, two, b"", entry)
    assert "2 certificates" in said(world.keyless, attached(content, notes))


def test_an_authority_of_ones_own_vouches_for_now(world):
    content = payload(DIGEST, NAME)
    signature, chain = world.key.sign(content), world.authority.chain
    names = [x509.RFC822Name(EMAIL), x509.DNSName("*.build.example.org")]
    now = datetime.now(UTC)
    for start, reason in (
        (now - timedelta(minutes=1), EMAIL),
        (now - timedelta(1), "signature is"),
    ):
        certificate = world.authority.certificate(world.key, names=names, start=start)
        found = attached(content, annotations(signature, certificate, chain))
        assert reason in said(world.pki, found)
    certificate = world.authority.certificate(world.key, names=names)
    found = attached(content, annotations(signature, certificate, chain))
    for host, counts in (
        ("a.build.example.org", True),
        ("A.Build.example.org", True),
        ("build.example.org", False),
        ("a.b.build.example.org", False),
        ("a.build.example.org.evil.org", False),
    ):
        requirement = copy.deepcopy(world.pki)
        requirement["pki"]["subjectHostname"] = host
        assert ("refused" not in said(requirement, found)) is counts, host


# --- bundles --------------------------------------------------------------


def test_a_bundle_counts_where_signatures_without_a_name_do(world):
    found = bundled(enveloped(world))
    assert said(direct(world), found, unnamed=True) == f"{EMAIL} ({ISSUER})"
    assert "names no image" in said(direct(world), found)
    named = statement(DIGEST, subject=[{"name": NAME, "digest": {"sha256": DIGEST.hex}}])
    assert said(direct(world), bundled(enveloped(world, named))) == f"{EMAIL} ({ISSUER})"
    strange = statement(DIGEST, subject=[{"name": "evil.org/a", "digest": {"sha256": DIGEST.hex}}])
    found = bundled(enveloped(world, strange))
    assert "does not accept" in said(direct(world), found, unnamed=True)


def test_a_bundle_with_a_key_needs_no_certificate(world):
    content = statement(DIGEST)
    signature, found = envelope(world.key, content)
    assert said(world.keyed, bundled(bundle(found)), unnamed=True).startswith("sha256:")
    entry = world.log.entry(dsse_entry(signature, content, world.key.public))
    assert said(world.logged, bundled(bundle(found, entry)), unnamed=True).startswith("sha256:")
    about = hashedrekord(signature, content, world.key.public)
    assert "of the kind" in said(world.logged, bundled(bundle(found, world.log.entry(about))))


def test_a_bundle_may_sign_the_manifest_itself(world):
    digest = {"algorithm": "SHA2_256", "digest": b64(bytes.fromhex(DIGEST.hex))}
    signature = b64(world.key.sign(MANIFEST))
    message = {"messageDigest": digest, "signature": signature}
    found = bundled(bundle({"messageSignature": message}))
    assert said(world.keyed, found, unnamed=True).startswith("sha256:")
    # A digest that is said and not looked at stands in reports of sigstore-python.
    message = {**message, "messageDigest": {**digest, "digest": b64(bytes(32))}}
    found = bundled(bundle({"messageSignature": message}))
    assert "about something else" in said(world.keyed, found, unnamed=True)


BUNDLE_CHEATS: dict[str, Callable[[Signers], object]] = {
    "another digest": lambda world: enveloped(world, statement(OTHER)),
    "two subjects": lambda world: enveloped(
        world, statement(DIGEST, subject=[{"digest": {"sha256": n.hex}} for n in (OTHER, DIGEST)])
    ),
    "two names": lambda world: enveloped(
        world,
        statement(
            DIGEST,
            subject=[{"name": n, "digest": {"sha256": DIGEST.hex}} for n in (NAME, "evil.org/a")],
        ),
    ),
    "two digests": lambda world: enveloped(
        world, statement(DIGEST, subject=[{"digest": {"sha256": DIGEST.hex, "sha512": "0" * 128}}])
    ),
    "no subject": lambda world: enveloped(world, statement(DIGEST, subject=[])),
    "no digest": lambda world: enveloped(world, statement(DIGEST, subject=[{"digest": {}}])),
    "an attestation": lambda world: enveloped(
        world, statement(DIGEST, predicateType="https://slsa.dev/provenance/v1")
    ),
    "another statement": lambda world: enveloped(world, statement(DIGEST, _type="https://x.org")),
    "another version": lambda world: {**enveloped(world), "mediaType": "application/json"},
    "nothing": lambda world: {},
    "a list": lambda world: [],
    "an envelope and a signature": lambda world: {**enveloped(world), "messageSignature": {}},
    "two signatures": lambda world: _with(
        enveloped(world), lambda found: found["dsseEnvelope"]["signatures"].append({"sig": ""})
    ),
    "another payload": lambda world: _with(
        enveloped(world),
        lambda found: found["dsseEnvelope"].update(payload=b64(statement(DIGEST, more=1))),
    ),
    "another type of payload": lambda world: _with(
        enveloped(world), lambda found: found["dsseEnvelope"].update(payloadType="text/plain")
    ),
    "no entry": lambda world: _with(
        enveloped(world), lambda found: found["verificationMaterial"].pop("tlogEntries")
    ),
    "no promise": lambda world: _with(
        enveloped(world),
        lambda found: found["verificationMaterial"]["tlogEntries"][0].pop("inclusionPromise"),
    ),
    "another time": lambda world: _with(
        enveloped(world),
        lambda found: found["verificationMaterial"]["tlogEntries"][0].update(integratedTime="1"),
    ),
    "no time": lambda world: _with(
        enveloped(world),
        lambda found: found["verificationMaterial"]["tlogEntries"][0].update(integratedTime=""),
    ),
    "no certificate": lambda world: _with(
        enveloped(world), lambda found: found["verificationMaterial"].pop("certificate")
    ),
}  # fmt: skip


def _with(members: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    change(members)
    return members


@pytest.mark.parametrize("cheat", BUNDLE_CHEATS)
def test_a_bundle_that_was_tampered_with_does_not_count(world, cheat):
    found = bundled(BUNDLE_CHEATS[cheat](world))
    assert said(direct(world), found, unnamed=True).startswith("refused: ")


# --- GnuPG ----------------------------------------------------------------

GPG_PAYLOAD = payload(DIGEST, NAME, type="atomic container signature").replace(b"null", b"{}")


def message(world: Signers, content: bytes = GPG_PAYLOAD, by: str = "", *more: str) -> Found:
    return Found("lookaside", message=world.gpg.signed(by or world.signer, content, *more))


def test_a_message_that_gpg_signs_counts_and_one_of_another_key_does_not(world):
    assert said(world.messages, message(world)) == world.signer
    assert said(world.messages, message(world, GPG_PAYLOAD, "", "--armor")) == world.signer
    armored = b64(world.gpg.public(world.signer, armor=True))
    assert said({**world.messages, "keyData": armored}, message(world)) == world.signer
    assert "gpg says" in said(world.messages, message(world, by=world.stranger))


def test_a_message_has_one_good_signature_about_this_image(world):
    both = world.gpg.signed(world.stranger, GPG_PAYLOAD, "--local-user", world.signer)
    packed = ("--compress-algo", "none")  # else what follows is part of a packet without an end
    plain = world.gpg.run(*packed, "--store", given=GPG_PAYLOAD)
    detached = world.gpg.run("--local-user", world.signer, "--detach-sign", given=GPG_PAYLOAD)
    hidden = world.gpg.run("--passphrase", "x", "--pinentry-mode", "loopback", "--local-user",
                           world.signer, "--sign", "--symmetric", given=GPG_PAYLOAD)  # fmt: skip
    one = world.gpg.signed(world.signer, GPG_PAYLOAD, *packed)
    for odd in (both, plain, detached, hidden, one + one, plain + one, b"", b"hello", GPG_PAYLOAD):
        found = said(world.messages, Found("lookaside", message=odd))
        assert found.startswith("refused: "), odd
    known = b"".join(map(world.gpg.public, (world.signer, world.stranger)))
    several = {**world.messages, "keyData": b64(known)}
    assert said(several, Found("lookaside", message=one)) == world.signer
    assert "one good signature" in said(several, Found("lookaside", message=both))
    for content, reason in (
        (payload(DIGEST, NAME).replace(b"null", b"{}"), "its type is"),
        (payload(DIGEST, NAME, type="atomic container signature"), "'optional'"),
        (GPG_PAYLOAD.replace(DIGEST.hex.encode(), OTHER.hex.encode()), "and this is"),
        (GPG_PAYLOAD.replace(NAME.encode(), b"evil.org/a"), "does not accept"),
    ):
        assert reason in said(world.messages, message(world, content))


def test_a_key_that_has_expired_signs_nothing_any_more(tmp_path, world):
    then, later = "20240101T000000", "20240101T120000"
    with gpg_home(tmp_path / "gpg") as gpg:
        old = gpg.key("old", "2d", then)
        signed = gpg.signed(old, GPG_PAYLOAD, "--faked-system-time", later)
        requirement = {**world.messages, "keyData": b64(gpg.public(old))}
        assert "EXPKEYSIG" in said(requirement, Found("lookaside", message=signed))


def test_a_key_that_was_revoked_signs_nothing_any_more(tmp_path, world):
    with gpg_home(tmp_path / "gpg") as gpg:
        key = gpg.key("lost")
        signed = Found("lookaside", message=gpg.signed(key, GPG_PAYLOAD))
        requirement = {**world.messages, "keyData": b64(gpg.public(key))}
        assert said(requirement, signed) == key
        revocation = (gpg.home / "openpgp-revocs.d" / f"{key}.rev").read_bytes()
        gpg.run("--import", given=revocation.replace(b":-----BEGIN", b"-----BEGIN"))
        requirement = {**world.messages, "keyData": b64(gpg.public(key))}
        assert "REVKEYSIG" in said(requirement, signed)


def test_a_message_that_unpacks_to_too_much_is_refused(world):
    found = said(world.messages, message(world, bytes(8 * 1024**2)))
    assert found.startswith("refused: ")


def test_nothing_of_the_users_gpg_is_read_or_written(tmp_path, world, monkeypatch):
    monkeypatch.setenv("GNUPGHOME", str(world.gpg.home))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "gpg says" in said(world.messages, message(world, by=world.stranger))
    assert not list(tmp_path.iterdir())


# --- mutations ------------------------------------------------------------


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_change_of_a_signature_makes_it_one_for_another_image(world, data):
    """Whatever becomes of the bytes: what is refused stays so, and nothing fails otherwise."""
    refused = data.draw(st.sampled_from(["other key", "other digest", "late"]))
    if refused == "other key":
        content = payload(DIGEST, NAME)
        notes = annotations(world.other.sign(content))
        requirement = world.keyed
    else:
        content = payload(OTHER if refused == "other digest" else DIGEST, NAME)
        _, notes, requirement = _spoilt(world, content, late=refused == "late")
    name = data.draw(st.sampled_from([*notes, "payload"]))
    changed = _changed(data, content if name == "payload" else notes[name].encode())
    if name == "payload":
        found = attached(changed, notes)
    else:
        found = attached(content, {**notes, name: changed.decode("latin-1")})
    assert said(requirement, found).startswith("refused: ")


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_change_of_a_bundle_or_a_message_makes_it_count(world, data, spoilt_bundle):
    changed = _changed(data, spoilt_bundle)
    found = Found("referrer", partial(of_bundle, changed, MANIFEST))
    assert said(direct(world), found, unnamed=True).startswith("refused: ")


@pytest.fixture(scope="module")
def spoilt_bundle(world):
    return json.dumps(enveloped(world, statement(OTHER))).encode()


def _spoilt(world: Signers, content: bytes, *, late: bool) -> tuple[bytes, dict[str, str], Any]:
    start = datetime.now(UTC) - (timedelta(days=2) if late else timedelta(minutes=1))
    key = (content, late)
    if key not in _made:
        certificate = world.authority.certificate(world.key, start=start)
        signature = world.key.sign(content)
        entry = world.log.entry(hashedrekord(signature, content, certificate))
        _made[key] = annotations(signature, certificate, world.authority.chain, entry)
    return content, dict(_made[key]), world.keyless


_made: dict[tuple[bytes, bool], dict[str, str]] = {}


def _changed(data: st.DataObject, content: bytes) -> bytes:
    """With a few bytes changed, taken out, put in or doubled."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, max(0, len(changed) - 1)))
        new = data.draw(st.binary(max_size=4) | st.sampled_from([b'"', b"{", b"}", b",", b"null"]))
        length = data.draw(st.integers(0, 8))
        changed[at : at + length] = new
    return bytes(changed)


def test_what_is_signed_by_sha512_is_the_same_manifest(world):
    digest = Digest("sha512", hashlib.sha512(MANIFEST).hexdigest())
    assert said(world.keyed, keyed(world.key, payload(digest, NAME))).startswith("sha256:")
