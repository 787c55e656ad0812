"""Manifests, indexes and images' configurations that no tool writes."""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import documents

from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError
from duccmake.layer.flatten import LayerTree, flatten_image
from duccmake.oci.manifest import ImageConfig, Index, Manifest, parse_manifest
from duccmake.tree import mtree
from support.images import LayerBuilder
from support.pipeline import digest_of
from support.samples import AMD64

_LAYER = LayerBuilder().file("a", "a").symlink("etc", "/canary").layer()
_RUNS = {
    "Env": ["PATH=/bin", "A=b c"],
    "Entrypoint": ["/bin/sh", "-c"],
    "Cmd": ["echo '$A'"],
    "WorkingDir": "/work",
    "User": "1000:1000",
    "Labels": {"org.example": "x"},
    "ExposedPorts": {"80/tcp": {}},
    "Healthcheck": {"Test": ["CMD", "true"], "Interval": 1},
}
_IMAGES = [Image((_LAYER, _LAYER), _RUNS, media, AMD64) for media in ("oci", "docker")]
_MANIFESTS = [json.loads(image.manifest_bytes) for image in _IMAGES]
_CONFIGS = [json.loads(image.config_bytes) for image in _IMAGES[:1]]
_ENTRY = {
    "mediaType": "application/vnd.oci.image.manifest.v1+json",
    "digest": str(_IMAGES[0].digest),
    "size": len(_IMAGES[0].manifest_bytes),
    "platform": {"os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"]},
    "annotations": {"a": "b"},
}
_INDEX = {
    "schemaVersion": 2,
    "mediaType": "application/vnd.oci.image.index.v1+json",
    "manifests": [_ENTRY, {**_ENTRY, "platform": {"os": "linux", "architecture": "amd64"}}],
}
_TYPES = st.sampled_from(["", "text/html", "application/json;", _INDEX["mediaType"]])
_TREE = LayerTree(
    digest_of(b"layer"),
    mtree.FORMAT
    + b"".join(
        entry.line()
        for entry in (
            mtree.Entry(b".", mtree.DIR, 0o755),
            mtree.Entry(b"etc", mtree.LINK, 0o777, target=b"/canary"),
            mtree.Entry(b".singularity.d", mtree.LINK, 0o777, target=b"../../x"),
        )
    ),
)


@examples(150)
@given(documents([*_MANIFESTS, _INDEX]), _TYPES)
def test_a_manifest_is_what_its_bytes_are_or_refused(raw: bytes, content_type: str):
    with confined():
        try:
            found = parse_manifest(raw, content_type)
        except DuccmakeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
            return
        event("read")
        assert found.digest.hex == hashlib.sha256(raw).hexdigest()
        if isinstance(found, Index):
            assert set(found.candidates(AMD64)) <= set(found.manifests)
        else:
            assert isinstance(found, Manifest)
            assert all(0 <= layer.size < 2**63 for layer in (found.config, *found.layers))


@examples(60)
@given(documents(_CONFIGS))
def test_an_image_with_any_configuration_is_flattened_inside_or_refused(raw: bytes):
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory, confined(directory):
        try:
            config = ImageConfig.parse(raw, layers=2)
            flatten_image(
                [_TREE],
                config,
                Path(directory, "ours"),
                name="r.example.org/a:1",
                mount_points=["/cvmfs"],
                fix_permissions=False,
            )
        except DuccmakeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
        else:
            event("flattened")
            found = mtree.read(Path(directory, "ours/image/tree.mtree"))
            assert not any(b".." in entry.path.split(b"/") for entry in found)
