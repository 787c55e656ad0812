"""Images as old clients, builders and other people's tools made them: one run has them all."""

from __future__ import annotations

import json
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from duccmake.demo.images import Image
from duccmake.layer.zstd import zstd
from duccmake.oci.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from support.images import Layer, LayerBuilder
from support.on_disk import OnDisk
from support.registry import FullRegistry
from support.runs import Run, Work, fresh_work
from support.samples import AMD64

TEXT = LayerBuilder().file("content", "as in the field").layer()
Change = Callable[[dict[str, Any]], object]


def push(
    registry: FullRegistry,
    name: str,
    *layers: Layer,
    config: Change = lambda members: None,
    manifest: Change = lambda members: None,
    media_type: str = OCI_MANIFEST,
) -> dict[str, Any]:
    """Push an image whose configuration and manifest are changed; its descriptor."""
    image = Image(layers or (TEXT,), {"Cmd": ["/bin/true"]}, platform=AMD64)
    store = registry.store
    for blob in image.blobs().values():
        store.put_blob(blob)
    configured = json.loads(image.config_bytes)
    config(configured)
    raw = json.dumps(configured).encode()
    members = json.loads(image.manifest_bytes) | {"mediaType": media_type}
    members["config"] |= {"digest": str(store.put_blob(raw)), "size": len(raw)}
    manifest(members)
    raw = json.dumps(members).encode()
    repository, _, tag = name.partition(":")
    digest = store.put_manifest(repository, media_type, raw, tag)
    return {"mediaType": media_type, "digest": str(digest), "size": len(raw)}


def config_type(kind: str) -> Callable[[FullRegistry, str], object]:
    def of_that_type(registry: FullRegistry, name: str) -> None:
        push(
            registry,
            name,
            manifest=lambda members: members["config"].update(mediaType=kind),
            media_type=DOCKER_MANIFEST,
        )

    return of_that_type


def configured(**members: object) -> Callable[[FullRegistry, str], object]:
    return lambda registry, name: push(registry, name, config=lambda found: found.update(members))


def without_platform(registry: FullRegistry, name: str) -> None:
    push(
        registry, name, config=lambda members: [members.pop(key) for key in ("os", "architecture")]
    )


def feature_first(registry: FullRegistry, name: str) -> None:
    platform = {"os": "linux", "architecture": "amd64"}
    odd = {"mediaType": "application/vnd.oci.image.layer.nydus.blob.v1"}
    special = push(registry, name, manifest=lambda members: members["layers"][0].update(odd)) | {
        "platform": {**platform, "os.features": ["nydus.remoteimage.v1"]}
    }
    plain = push(registry, name) | {"platform": platform}
    raw = json.dumps({"schemaVersion": 2, "manifests": [special, plain]}).encode()
    repository, _, tag = name.partition(":")
    registry.store.put_manifest(repository, OCI_INDEX, raw, tag)


def long_window(registry: FullRegistry, name: str) -> None:
    """As ``zstd --long=28`` makes it (RFC 8878, 3.1.1.1.2)."""
    options = {zstd.CompressionParameter.content_size_flag: 0}
    blob = bytearray(zstd.compress(TEXT.tar, options=options))
    blob[5] = (28 - 10) << 3
    digest = registry.store.put_blob(bytes(blob))
    layer = {
        "mediaType": "application/vnd.oci.image.layer.v1.tar+zstd",
        "digest": str(digest),
        "size": len(blob),
    }
    push(registry, name, manifest=lambda members: members.update(layers=[layer]))


def below_a_link_to_a_file(registry: FullRegistry, name: str) -> None:
    lower = LayerBuilder().file("content", "as in the field").symlink("link", "content")
    push(registry, name, lower.layer(), LayerBuilder().file("link/x", "below").layer())


def private(registry: FullRegistry, name: str) -> None:
    layer = LayerBuilder().dir("d", mode=0o700).file("d/secret", "secret", mode=0o600)
    push(registry, name, layer.file("content", "as in the field").layer())


def unfilled(registry: FullRegistry, name: str) -> None:
    """The block of the last file is not filled up, and nothing comes after it."""
    tar = TEXT.tar.rstrip(b"\0")
    assert tar.endswith(b"as in the field")
    push(registry, name, Layer(tar))


IMAGES: dict[str, Callable[[FullRegistry, str], object]] = {
    "octets": config_type("application/octet-stream"),
    "json": config_type("application/json"),
    "html": config_type("text/html"),
    "untyped": config_type(""),
    "no-platform": without_platform,
    "empty-platform": configured(os="", architecture=""),
    "features": feature_first,
    "zstd-long": long_window,
    "year-1": configured(created="0001-01-01T00:00:00Z"),
    "null-labels": configured(config={"Labels": {"maintainer": None}}),
    "no-labels": configured(config={"Labels": None, "Env": None}),
    "quotes": configured(config={"Env": ["QUOTE=it's"]}),
    "unfilled": unfilled,
    "link-to-a-file": below_a_link_to_a_file,
    "private": private,
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    with fresh_work(tmp_path_factory.mktemp("field")) as work:
        assert work.registry
        for kind, make in IMAGES.items():
            make(work.registry, f"field/{kind}:1")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat", "podman"])
        work.wish(*(f"{{host}}/field/{kind}:1" for kind in IMAGES))
        yield work


@pytest.fixture(scope="module")
def run(work: Work) -> Run:
    return work.run()


def flat(work: Work, kind: str) -> Path:
    return work.repository.path / work.named(f"field/{kind}:1")


@pytest.mark.parametrize("kind", IMAGES)
def test_it_is_converted_whole(run: Run, work: Work, kind: str):
    name = work.named(f"field/{kind}:1")
    outcome, remark = run.outcomes[name]
    assert outcome == "converted", remark
    assert "mtimes" not in remark
    assert work.repository.verify(name) == []
    assert (flat(work, kind) / "content").read_text() == "as in the field"


def test_generated_files_of_an_image_of_no_time_are_of_no_time(run: Run, work: Work):
    assert (flat(work, "year-1") / ".singularity.d/runscript").stat().st_mtime == 0


def test_labels_that_are_null_are_empty(run: Run, work: Work):
    labels = json.loads((flat(work, "null-labels") / ".singularity.d/labels.json").read_bytes())
    assert labels["maintainer"] == ""


def test_an_entry_below_a_link_to_a_file_leaves_the_file(run: Run, work: Work):
    assert (flat(work, "link-to-a-file") / "link/x").read_text() == "below"


def test_flat_trees_are_made_again_when_everybody_shall_read_them(run: Run, work: Work):
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    record = work.repository.record(work.named("field/private:1"))
    assert record
    layerfs = OnDisk(work.repository.path).layerfs(record.layers[0])
    tree = flat(work, "private")
    work.wish("{host}/field/private:1")
    for fixed in (False, True, False):
        work.configure(platforms=[str(AMD64)], flat={"fix_permissions": fixed})
        again = work.run(check=True)
        assert again.blobs() == []
        assert (mode(tree / "d"), mode(tree / "d/secret")) == (
            (0o755, 0o644) if fixed else (0o700, 0o600)
        )
        assert (mode(layerfs / "d"), mode(layerfs / "d/secret")) == (0o700, 0o600)
        record = work.repository.record(work.named("field/private:1"))
        assert record and record.losses.get("widened", 0) == 2 * fixed
        remark = again.outcomes[work.named("field/private:1")][1]
        assert ("readable for all" in remark) == fixed
        assert "not kept" not in remark
        assert work.repository.verify(work.named("field/private:1")) == []
