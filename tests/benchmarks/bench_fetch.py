"""A cold download of 1 GB in 12 layers, each verified, against ``skopeo copy`` to a directory."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import Program, alternate

from duccmake.oci.manifest import OCI_CONFIG, OCI_MANIFEST, Descriptor
from duccmake.oci.reference import Digest, Reference
from duccmake.registry.client import Client
from duccmake.registry.settings import RegistrySettings
from support.servers import DockerRegistry, docker_registry, need

LAYERS = 12
LAYER_BYTES = 1_000_000_000 // LAYERS
PARALLEL = 6
"""As many downloads at a time as skopeo makes."""

PACKAGE = Path(__file__).parents[2] / "workflow"
FETCH = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from duccmake.oci.reference import Platform, Reference
from duccmake.registry.client import Client
from duccmake.registry.settings import RegistrySettings
host, out = sys.argv[1], Path(sys.argv[2])
reference = Reference.parse(f"http://{{host}}/team/app:1")
with Client({{host: RegistrySettings(scheme="http")}}) as client:
    manifest = client.manifest(reference)
    client.blob_bytes(reference, manifest.config)
    with ThreadPoolExecutor({PARALLEL}) as pool:
        done = pool.map(
            lambda layer: client.fetch_blob(reference, layer, out / layer.digest.hex),
            manifest.layers,
        )
        assert sum(done) == {LAYERS * LAYER_BYTES}
"""


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DockerRegistry]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    root = tmp_path_factory.mktemp("fetch")
    with docker_registry(root / "registry") as registry:
        _push(registry, root / "layer")
        yield registry


def _push(registry: DockerRegistry, scratch: Path) -> None:
    """An image of layers that nothing can make smaller; what they hold is not looked at."""
    reference = Reference.parse(f"http://{registry.host}/team/app:1")
    config = json.dumps(
        {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
    ).encode()
    with Client({registry.host: RegistrySettings(scheme="http")}) as client:
        layers = []
        for _ in range(LAYERS):
            content = os.urandom(LAYER_BYTES)
            scratch.write_bytes(content)
            layers.append(_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", content))
            client.push_blob(reference, layers[-1], scratch)
        scratch.unlink()
        described = _descriptor(OCI_CONFIG, config)
        client.push_blob(reference, described, config)
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": _members(described),
            "layers": [_members(layer) for layer in layers],
        }
        client.push_manifest(reference, json.dumps(manifest).encode(), OCI_MANIFEST)


def _descriptor(media_type: str, content: bytes) -> Descriptor:
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    return Descriptor(media_type, digest, len(content))


def _members(item: Descriptor) -> dict[str, object]:
    return {"mediaType": item.media_type, "digest": str(item.digest), "size": item.size}


def test_download_against_skopeo(registry: DockerRegistry) -> None:
    ours = Program("duccmake", [sys.executable, "-c", FETCH, registry.host, "{out}"])
    image = f"docker://{registry.host}/team/app:1"
    copy = [need("skopeo"), "copy", "--quiet", "--src-tls-verify=false", image, "dir:{out}/copy"]
    alternate("1 GB in 12 layers", [ours, Program("skopeo copy dir:", copy)], rounds=3)
