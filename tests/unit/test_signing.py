"""Images that a signature policy lets be published, and what becomes of the others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from duccmake.config.configuration import Config
from duccmake.errors import Fault
from duccmake.oci.reference import Digest, Platform
from duccmake.planning.model import PlannedImage, State
from duccmake.planning.plan import Plan
from duccmake.planning.planner import make_plan
from duccmake.repository.model import ImageRecord
from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry
from support.images import write_oci_layout
from support.registry import FullRegistry
from support.samples import AMD64, text_image
from support.servers import add_image, add_index, sha256
from support.signing import (
    BUNDLE,
    Aside,
    Key,
    annotations,
    attach,
    b64,
    bundle,
    envelope,
    gpg_home,
    payload,
    refer,
    statement,
)

REPOSITORY = "images.example.org"
APP = "team/app"
ARM64 = Platform("linux", "arm64")


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def key(tmp_path_factory):
    return Key(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def registry(tmp_path):
    with FullRegistry(tmp_path / "registry") as running:
        yield running


def requirement(key: Key | bytes) -> dict[str, Any]:
    """What has to be signed with a key of openssl's, or GnuPG's in its own form."""
    kind = {"type": "signedBy", "keyType": "GPGKeys"}
    if isinstance(key, Key):
        kind, key = {"type": "sigstoreSigned"}, key.public
    return {**kind, "keyData": b64(key), "signedIdentity": {"type": "matchRepository"}}


def planned(
    registry: FullRegistry,
    policy: object,
    *names: str,
    members: Mapping[str, Any] | None = None,
    **signatures: object,
) -> Plan:
    """A plan for images of the registry, or of files, under a policy."""
    wishes = [name if ":" in name.partition("/")[0] else f"http://{registry.host}/{name}"
              for name in names or (f"{APP}:1",)]  # fmt: skip
    recipe = {"version": 1, "cvmfs_repo": REPOSITORY, "input": wishes}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    wished = {
        "recipe": ["recipe.yaml"],
        "repository": {"root": "root"},
        "products": ["layers"],
        "signatures": {"policy": policy, **signatures},
        **(members or {}),
    }
    return make_plan(Config.parse(wished, workdir=Path.cwd()), wished)


def only(plan: Plan) -> PlannedImage:
    """The one image of a plan in which nothing is refused."""
    assert not plan.problems, plan.problems
    (image,) = plan.images
    return image


def reason(plan: Plan) -> str:
    """Why the only image of a plan is refused."""
    assert not plan.images
    (problem,) = plan.problems
    assert problem.fault is Fault.SIGNATURE
    return problem.reason


def sign(registry: FullRegistry, digest: Digest, key: Key, name: str = APP) -> bytes:
    """Sign as cosign does, and attach it."""
    content = payload(digest, f"{registry.host}/{name}")
    signature = key.sign(content)
    attach(registry.store, APP, digest, (content, annotations(signature)))
    return signature


def test_an_image_waits_for_its_signature_and_is_taken_when_it_comes(registry, key):
    image = add_image(registry.store, APP, "1")
    policy = {"default": [requirement(key)]}
    assert "it has no signature as default[0] (sigstoreSigned)" in reason(planned(registry, policy))
    signature = sign(registry, image.manifest.digest, key)
    found = only(planned(registry, policy))
    (verified,) = found.signatures["verified"]
    assert verified["type"] == "sigstoreSigned"
    assert verified["signature"] == str(sha256(signature))
    assert verified["signed"] == str(image.manifest.digest)


def test_what_is_refused_costs_a_registry_no_more_pulls(registry, key, tmp_path):
    """A signature that does not count is not fetched over and over, which would cost pulls."""
    image = add_image(registry.store, APP, "1")
    sign(registry, image.manifest.digest, Key(tmp_path, "other"))
    policy = {"default": [requirement(key)]}
    assert "not made with the key" in reason(planned(registry, policy))
    registry.requests.clear()
    assert "not made with the key" in reason(planned(registry, policy))
    asked = registry.requested()
    assert any(line.startswith("HEAD") and line.endswith(".sig") for line in asked)
    assert not any(
        line.startswith("GET") and (".sig" in line or "/blobs/" in line) for line in asked
    )


def test_the_plan_carries_what_was_verified(registry, key):
    image = add_image(registry.store, APP, "1")
    sign(registry, image.manifest.digest, key)
    plan = planned(registry, {"default": [requirement(key)]}, keep_referrers=["*"])
    assert only(plan).referrers
    assert only(Plan.load(plan.save())) == only(plan)


def test_all_requirements_have_to_be_satisfied(registry, key, tmp_path):
    image = add_image(registry.store, APP, "1")
    other = Key(tmp_path, "other")
    both = {"default": [requirement(key), requirement(other)]}
    sign(registry, image.manifest.digest, key)
    assert "default[1]" in reason(planned(registry, both))
    content = payload(image.manifest.digest, f"{registry.host}/{APP}")
    signed = [(content, annotations(each.sign(content))) for each in (key, other)]
    attach(registry.store, APP, image.manifest.digest, *signed)
    assert len(only(planned(registry, both)).signatures["verified"]) == 2


def test_an_index_may_be_signed_or_the_manifest_that_it_leads_to(registry, key):
    image = add_image(registry.store, APP, "", platform=AMD64)
    other = add_image(registry.store, APP, "", platform=ARM64, layers=(b"arm",))
    index = add_index(registry.store, APP, "1", [image.manifest, other.manifest])
    nested = add_index(registry.store, APP, "2", [index])
    policy = {"default": [requirement(key)]}
    assert "no signature" in reason(planned(registry, policy))
    sign(registry, other.manifest.digest, key)
    assert "no signature" in reason(planned(registry, policy))
    sign(registry, nested.digest, key)
    signed = only(planned(registry, policy, f"{APP}:2")).signatures["verified"][0]["signed"]
    assert signed == str(nested.digest)
    sign(registry, image.manifest.digest, key)
    signed = only(planned(registry, policy)).signatures["verified"][0]["signed"]
    assert signed == str(image.manifest.digest)


def test_an_index_that_does_not_lead_to_the_manifest_signs_nothing(registry, key):
    """What is remembered of a poll does not decide: the index's own bytes do."""
    image = add_image(registry.store, APP, "", platform=AMD64)
    index = add_index(registry.store, APP, "1", [image.manifest])
    elsewhere = add_image(registry.store, APP, "", layers=(b"other",))
    signed = add_index(registry.store, APP, "2", [elsewhere.manifest])
    sign(registry, signed.digest, key)
    policy = {"default": [requirement(key)]}
    reason(planned(registry, policy))
    polls = Path("results/polls.json")
    polls.write_text(polls.read_text().replace(index.digest.hex, signed.digest.hex))
    members = {"resolve": {"max_age": 9999}}
    assert "no signature" in reason(planned(registry, policy, members=members))


@pytest.mark.parametrize("by_tag", [False, True])
def test_a_bundle_is_found_as_a_referrer_or_by_the_tag_that_stands_in(tmp_path, key, by_tag):
    kind = NoReferrers if by_tag else FullRegistry
    with kind(tmp_path / "registry") as registry:
        image = add_image(registry.store, APP, "1")
        digest = image.manifest.digest
        _, found = envelope(key, statement(digest))
        content = json.dumps(bundle(found)).encode()
        refer(registry.store, APP, digest, content, by_tag=by_tag)
        policy = {"default": [requirement(key)]}
        assert "'signatures.unnamed: accept'" in reason(planned(registry, policy))
        assert only(planned(registry, policy, unnamed="accept")).signatures["verified"]


@pytest.mark.parametrize("listed", ["", "application/vnd.oci.empty.v1+json"])
def test_a_bundle_counts_whatever_type_it_is_listed_with(tmp_path, key, listed):
    """cosign 3 lists its bundles by tag with the type of an empty configuration."""
    with NoReferrers(tmp_path / "registry") as registry:
        image = add_image(registry.store, APP, "1")
        digest = image.manifest.digest
        _, found = envelope(key, statement(digest))
        content = json.dumps(bundle(found)).encode()
        refer(registry.store, APP, digest, content, by_tag=True, listed=listed)
        policy = {"default": [requirement(key)]}
        plan = planned(registry, policy, unnamed="accept", keep_referrers=["*sigstore.bundle*"])
        assert only(plan).signatures["verified"]
        (kept, _) = only(plan).referrers["manifests"]
        assert kept["artifactType"] == BUNDLE


def test_what_was_pushed_before_the_registry_listed_anything_is_found_by_its_tag(tmp_path, key):
    with FullRegistry(tmp_path / "registry") as registry:
        image = add_image(registry.store, APP, "1")
        digest = image.manifest.digest
        _, found = envelope(key, statement(digest))
        content = json.dumps(bundle(found)).encode()
        refer(registry.store, APP, digest, content, by_tag=True, is_old=True)
        policy = {"default": [requirement(key)]}
        assert only(planned(registry, policy, unnamed="accept")).signatures["verified"]


@pytest.mark.parametrize("fault", [faults.html, faults.status(400), faults.status(405)])
def test_a_registry_that_knows_no_referrers_may_say_so_as_it_likes(tmp_path, key, fault):
    with FaultyRegistry(tmp_path / "registry") as registry:
        digest = add_image(registry.store, APP, "1").manifest.digest
        _, found = envelope(key, statement(digest))
        content = json.dumps(bundle(found)).encode()
        refer(registry.store, APP, digest, content, by_tag=True)
        registry.break_next(r"/referrers/", fault, times=100)
        policy = {"default": [requirement(key)]}
        assert only(planned(registry, policy, unnamed="accept")).signatures["verified"]


class NoReferrers(FullRegistry):
    """A registry without the referrers API."""

    def handler_class(self) -> type:
        class Handler(super().handler_class()):  # type: ignore[misc]
            def answer_referrers(self, name: str, digest: str, query: object) -> None:
                self.refuse(404, "NOT_FOUND", "page not found")

        return Handler


def test_damaged_signatures_do_not_stand_in_the_way_of_a_good_one(registry, key):
    image = add_image(registry.store, APP, "1")
    digest = image.manifest.digest
    refer(registry.store, APP, digest, b"hello")
    lost = refer(registry.store, APP, digest, b"lost")
    registry.store.blob_path(sha256(b"lost")).unlink()
    damaged = refer(registry.store, APP, digest, b"damaged")
    registry.store.blob_path(damaged).write_bytes(b"{}")
    policy = {"default": [requirement(key)]}
    said = reason(planned(registry, policy))
    assert "is not JSON" in said and lost.short in said
    sign(registry, digest, key)
    assert only(planned(registry, policy)).signatures


def test_signatures_beyond_number_are_not_all_fetched(registry, key):
    image = add_image(registry.store, APP, "1")
    digest = image.manifest.digest
    content = payload(digest, f"{registry.host}/{APP}")
    many = [(content + b" " * n, annotations(b"no")) for n in range(100)]
    attach(registry.store, APP, digest, *many)
    assert "not made with the key" in reason(planned(registry, {"default": [requirement(key)]}))
    blobs = {line for line in registry.requested() if "/blobs/" in line}
    assert len(blobs) < 70


def test_referrers_beyond_number_are_not_all_fetched(registry, key, monkeypatch):
    from duccmake.planning import evidence

    monkeypatch.setattr(evidence, "_MOST_LISTED", 5)
    image = add_image(registry.store, APP, "1")
    for number in range(9):
        refer(registry.store, APP, image.manifest.digest, b"%d" % number, "")
    assert "no signature" in reason(planned(registry, {"default": [requirement(key)]}))
    fetched = [
        line for line in registry.requested() if "GET /v2/team/app/manifests/sha256:" in line
    ]
    assert len(set(fetched)) <= 5 + 1


def test_an_image_waits_while_its_registry_does_not_tell_of_signatures(tmp_path, key):
    with FaultyRegistry(tmp_path / "registry") as registry:
        image = add_image(registry.store, APP, "1")
        sign(registry, image.manifest.digest, key)
        registry.break_next(r"\.sig", faults.status(503), times=100)
        plan = planned(registry, {"default": [requirement(key)]})
        (problem,) = plan.problems
        assert not plan.images and problem.fault is Fault.REGISTRY


def test_images_are_refused_by_scope_and_others_are_not(registry, key):
    for name in ("open/app:1", "open/closed:1"):
        repository, _, tag = name.partition(":")
        add_image(registry.store, repository, tag)
    scopes = {
        f"{registry.host}/open": [{"type": "insecureAcceptAnything"}],
        f"{registry.host}/open/closed": [{"type": "reject"}],
    }
    policy = {"default": [requirement(key)], "transports": {"docker": scopes}}
    plan = planned(registry, policy, "open/app:1", "open/closed:1")
    assert [image.reference.repository for image in plan.images] == ["open/app"]
    assert 'the policy refuses it (transports.docker."' in plan.problems[0].reason
    assert plan.images[0].signatures["verified"] == [{"type": "insecureAcceptAnything"}]


def test_images_in_files_go_by_their_transport_and_path(registry, key, tmp_path):
    write_oci_layout(text_image("one"), tmp_path / "layout", "1")
    for scopes, said in (
        ({str(tmp_path): [{"type": "insecureAcceptAnything"}]}, ""),
        ({f"{tmp_path}/layout:1": [{"type": "insecureAcceptAnything"}]}, ""),
        ({f"{tmp_path}/layout:2": [{"type": "insecureAcceptAnything"}]}, "refuses it (default"),
        ({"": [requirement(key)]}, 'transports.oci.""[0]'),
    ):
        policy = {"default": [{"type": "reject"}], "transports": {"oci": scopes}}
        plan = planned(registry, policy, "oci:layout:1")
        assert (said in reason(plan)) if said else only(plan), scopes


def test_without_a_policy_nobody_is_asked_about_signatures(registry):
    add_image(registry.store, APP, "1")
    assert not only(planned(registry, None)).signatures
    assert not any(".sig" in line or "referrers" in line for line in registry.requested())


def test_what_refers_to_an_image_is_kept_by_its_type(registry, key):
    image = add_image(registry.store, APP, "1")
    digest = image.manifest.digest
    signature = refer(registry.store, APP, digest, b"signature", BUNDLE)
    contents = refer(registry.store, APP, digest, b"contents", "application/spdx+json")
    refer(registry.store, APP, digest, b"something", "text/plain")
    sign(registry, digest, key)
    kept = only(planned(registry, None, keep_referrers=["*bundle*", "*/spdx*"])).referrers
    named = {entry["digest"]: entry.get("artifactType") for entry in kept["manifests"]}
    assert named == {
        str(signature): BUNDLE,
        str(contents): "application/spdx+json",
        str(digest): None,
    }
    assert str(sha256(b"contents")) in kept["blobs"]
    assert str(sha256(b"something")) not in kept["blobs"]
    assert not only(planned(registry, None, keep_referrers=["none"])).referrers


def test_what_is_kept_is_bounded_and_what_is_not_is_told(registry, monkeypatch):
    from duccmake.planning import kept_referrers

    monkeypatch.setattr(kept_referrers, "_MOST", 2)
    image = add_image(registry.store, APP, "1")
    for number in range(3):
        refer(registry.store, APP, image.manifest.digest, b"%d" % number, "text/plain")
    lost = refer(registry.store, APP, image.manifest.digest, b"lost", "text/plain")
    registry.store.blob_path(sha256(b"lost")).unlink()
    plan = planned(registry, None, keep_referrers=["text/*"])
    assert len(only(plan).referrers["manifests"]) == 3
    assert any("is not kept: there are 2 others" in line for line in plan.warnings)
    monkeypatch.setattr(kept_referrers, "_MOST_BYTES", 1000)
    plan = planned(registry, None, keep_referrers=["text/*"])
    assert any("more than 1000 bytes" in line for line in plan.warnings)
    monkeypatch.setattr(kept_referrers, "_MOST_BYTES", 2**20)
    monkeypatch.setattr(kept_referrers, "_MOST", 9)
    plan = planned(registry, None, keep_referrers=["text/*"])
    assert any(f"{lost} is not kept" in line for line in plan.warnings)
    assert len(only(plan).referrers["manifests"]) == 4


def publish(image: PlannedImage, **members: Any) -> None:
    """Have the repository say that an image is published, as far as a plan asks."""
    record = ImageRecord(
        name=image.name,
        platform=image.platform,
        manifest=image.manifest,
        config=image.config,
        layers=(),
        products=image.products,
        losses={},
        **members,
    )
    path = Path("root") / REPOSITORY / ".metadata" / image.name / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(record.to_json()))
    path.with_name("manifest.json").write_bytes(b"{}")


def test_a_policy_that_comes_later_takes_nothing_away_and_says_what_it_would_refuse(registry, key):
    add_image(registry.store, APP, "1")
    publish(only(planned(registry, None)))
    policy = {"default": [requirement(key)]}
    for is_asked in (True, False):
        registry.requests.clear()
        plan = planned(registry, policy)
        assert only(plan).state == State.PUBLISHED
        (said,) = (line for line in plan.warnings if "not signed as the policy" in line)
        assert f"{APP}:1 (it has no signature" in said and "they stay published" in said
        # It is not asked about in each run.
        assert any(".sig" in line for line in registry.requested()) is is_asked


def test_what_satisfies_a_later_policy_is_told_of_no_more(registry, key):
    image = add_image(registry.store, APP, "1")
    sign(registry, image.manifest.digest, key)
    publish(only(planned(registry, None)))
    for is_asked in (True, False):
        registry.requests.clear()
        plan = planned(registry, {"default": [requirement(key)]})
        assert only(plan).state == State.PUBLISHED and not plan.warnings
        assert any(".sig" in line for line in registry.requested()) is is_asked


def test_what_was_published_under_the_policy_is_not_asked_about(registry, key):
    image = add_image(registry.store, APP, "1")
    sign(registry, image.manifest.digest, key)
    policy = {"default": [requirement(key)]}
    found = only(planned(registry, policy))
    publish(found, signatures=found.signatures)
    for unnamed in ("refuse", "accept"):  # which is another policy
        registry.requests.clear()
        assert only(planned(registry, policy, unnamed=unnamed)).state == State.PUBLISHED
        is_asked = any(".sig" in line for line in registry.requested())
        assert is_asked is (unnamed == "accept")


def test_a_lookaside_storage_gets_no_credentials(registry, tmp_path, monkeypatch):
    """Not even those for its host: what is there is anybody's, and whoever named it may err."""
    monkeypatch.setenv("R_USER", "me")
    monkeypatch.setenv("R_PASSWORD", "hunter2")
    digest = add_image(registry.store, APP, "1").manifest.digest
    with gpg_home(tmp_path / "gpg") as gpg, Aside(tmp_path / "aside") as aside:
        signer = gpg.key("signer")
        content = payload(digest, f"{registry.host}/{APP}", type="atomic container signature")
        place = tmp_path / "aside" / f"{APP}@sha256={digest.hex}"
        place.mkdir(parents=True)
        message = gpg.signed(signer, content.replace(b"null", b"{}"))
        (place / "signature-1").write_bytes(message)
        policy = {"default": [requirement(gpg.public(signer))]}
        credentials = {"username_env": "R_USER", "password_env": "R_PASSWORD"}
        members = {"registries": {aside.host: credentials}}
        lookaside = {registry.host: f"http://{aside.host}/"}
        plan = planned(registry, policy, members=members, lookaside=lookaside)
        assert only(plan).signatures["verified"][0]["by"] == signer
        assert aside.seen and not any(aside.seen)
        elsewhere = {"a.org": f"http://{aside.host}"}
        assert "no signature" in reason(planned(registry, policy, lookaside=elsewhere))
        folder = {"": f"file://{tmp_path}/aside"}
        assert only(planned(registry, policy, lookaside=folder)).signatures
