"""Runs under a signature policy: who is let in, what is kept, and what a new policy changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.kept_state import document_of
from support.on_disk import OnDisk
from support.runs import Work, fresh_work
from support.servers import sha256
from support.signing import Key, annotations, attach, b64, payload, refer

APP = "team/app"


def image(text: str) -> Image:
    return Image((LayerBuilder().file("content", text).layer(),), {"Cmd": ["/content"]})


@pytest.fixture
def work(tmp_path) -> Iterator[Work]:
    with fresh_work(tmp_path) as work:
        work.wish("{host}/team/app:1", "{host}/team/open:1")
        work.push("team/app:1", image("first"))
        work.push("team/open:1", image("open"))
        yield work


def policy(work: Work, key: Key, **more: object) -> dict[str, Any]:
    """What is in team/app has to be signed with the key."""
    requirement = {
        "type": "sigstoreSigned",
        "keyData": b64(key.public),
        "signedIdentity": {"type": "matchRepository"},
    }
    anything = [{"type": "insecureAcceptAnything"}]
    scopes = {f"{work.registry.host}/{APP}": [requirement]}
    return {"policy": {"default": anything, "transports": {"docker": scopes}}, **more}


def sign(work: Work, wanted: Image, key: Key) -> bytes:
    content = payload(wanted.digest, f"{work.registry.host}/{APP}")
    signature = key.sign(content)
    attach(work.registry.store, APP, wanted.digest, (content, annotations(signature)))
    return signature


def on_disk(work: Work) -> OnDisk:
    return OnDisk(work.repository.path)


def record(work: Work, name: str = "team/app:1") -> dict[str, Any]:
    return json.loads(on_disk(work).record(work.named(name)).read_bytes())


def test_only_what_is_signed_is_published_and_its_record_says_by_whom(work, tmp_path):
    key = Key(tmp_path)
    work.configure(signatures=policy(work, key, keep_referrers=["*spdx*", "*simplesigning*"]))
    signature = sign(work, image("first"), key)
    refer(work.registry.store, APP, image("first").digest, b"contents", "application/spdx+json")
    work.run(check=True)
    (verified,) = record(work)["signatures"]["verified"]
    assert verified["signature"] == str(sha256(signature))
    assert verified["by"].startswith("sha256:") and verified["type"] == "sigstoreSigned"
    (anything,) = record(work, "team/open:1")["signatures"]["verified"]
    assert anything == {"type": "insecureAcceptAnything"}
    assert kept(work) == {
        str(image("first").digest): image("first").manifest_bytes,
        **{str(sha256(content)): content for content in beside(work, image("first"))},
    }

    # The tag moves to what nobody has signed: what is in force stays, with all that is kept.
    before = (record(work), kept(work))
    work.push("team/app:1", image("second"))
    moved = work.run()
    outcome, said = moved.outcomes[work.named("team/app:1")]
    assert outcome == "failed" and "it has no signature as transports.docker" in said
    assert moved.status == 1 and (record(work), kept(work)) == before
    (row,) = (one for one in document_of(work)["images"] if one["title"].endswith("app:1"))
    assert row["failure"]["kind"] == "signature" and row["current"]

    sign(work, image("second"), key)
    work.run(check=True)
    assert record(work)["manifest"] == str(image("second").digest)
    assert str(image("first").digest) not in kept(work)
    assert str(sha256(b"contents")) not in blobs(work)


def beside(work: Work, wanted: Image) -> list[bytes]:
    """The manifests of what is attached to an image in the registry."""
    store = work.registry.store
    tag = f"sha256-{wanted.digest.hex}.sig"
    found = [entry["digest"] for entry in store.referrers(APP, str(wanted.digest))]
    return [store.manifest(APP, reference)[2] for reference in (tag, *found)]


def blobs(work: Work) -> dict[str, bytes]:
    """All content that is kept beside the image, by digest; each blob has its own."""
    base = on_disk(work).referrers(work.named("team/app:1")) / "blobs" / "sha256"
    found = {f"sha256:{path.name}": path.read_bytes() for path in base.iterdir()}
    assert all(str(sha256(content)) == digest for digest, content in found.items())
    return found


def kept(work: Work) -> dict[str, bytes]:
    """The manifests that the layout beside the image lists, each with all its blobs."""
    index = on_disk(work).referrers(work.named("team/app:1")) / "index.json"
    listed = [entry["digest"] for entry in json.loads(index.read_bytes())["manifests"]]
    there = blobs(work)
    for digest in listed:
        blobs_of = json.loads(there[digest])["layers"]
        is_image = there[digest] in (image("first").manifest_bytes, image("second").manifest_bytes)
        assert is_image or all(blob["digest"] in there for blob in blobs_of)
    return {digest: there[digest] for digest in listed}
