"""One image that podman cannot read would hide all others of its store: none gets in."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from duccmake.demo.images import Image
from duccmake.errors import DuccmakeError
from duccmake.oci.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    ImageConfig,
    Manifest,
    parse_manifest,
)
from duccmake.repository.directory.backend import DirectoryRepository
from duccmake.repository.model import ChangeSet, StagedImage
from support import pipeline
from support.images import LayerBuilder
from support.podman_client import need_podman, podman
from support.samples import AMD64

TIME = "2006-01-02T15:04:05.123456789+01:00"
RUNTIME: dict[str, Any] = {
    "Hostname": "x", "Domainname": "x", "User": "1", "AttachStdin": False, "AttachStdout": True,
    "AttachStderr": True, "Tty": False, "OpenStdin": False, "StdinOnce": False, "Image": "x",
    "Env": ["A=b"], "Cmd": ["/bin/true"], "Entrypoint": ["x"], "OnBuild": ["RUN x"],
    "Shell": ["sh"], "WorkingDir": "/", "NetworkDisabled": True, "MacAddress": "x",
    "Labels": {"a": "b"}, "StopSignal": "SIGTERM", "StopTimeout": 5, "ArgsEscaped": True,
    "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/data": {}}, "Healthcheck": {
        "Test": ["CMD", "x"], "Interval": 1, "Timeout": 1, "StartPeriod": 1, "StartInterval": 1,
        "Retries": 1,
    },
}  # fmt: skip
MORE: dict[str, Any] = {
    "id": "x", "parent": "", "comment": "x", "container": "x", "docker_version": "20",
    "author": "x", "created": TIME, "os.version": "1", "os.features": ["x"], "variant": "v1",
    "Size": 5, "config": RUNTIME, "container_config": RUNTIME,
    "history": [
        {"created": TIME, "created_by": "x", "author": "x", "comment": "x", "empty_layer": True}
    ],
}  # fmt: skip
DESCRIPTOR: dict[str, Any] = {
    "annotations": {"a": "b"}, "data": "eA==", "artifactType": "", "urls": [],
    "platform": {
        "os": "linux", "architecture": "amd64", "variant": "", "os.version": "", "os.features": []
    },
}  # fmt: skip
OTHERS: list[Any] = [
    None, True, 1, -1, 2**63, 1.5, "", "x", "eA", "2006-01-02T15:04:05Z", "2006-01-02T15:04:05",
    "2006-01-02T15:04:05+00:00Z", "2006-01-02", "2006-01-02T24:00:00Z", "2006-02-30T15:04:05Z",
    "2006-01-02t15:04:05z", "2006-01-02T15:04:05,5Z", [], ["x"], [1], [None], {}, {"x": 1},
    {"x": "y"}, {"x": {}}, {"x": None},
]  # fmt: skip


Place = tuple[str | int, ...]
Pair = tuple[bytes, bytes]
"""A configuration and the manifest that names it."""


def places(value: Any, *, leaves: bool, path: Place = ()) -> Iterator[Place]:
    """Where members are at any depth, innermost first: those that have none, or those that do."""
    found = value.items() if isinstance(value, dict) else ()
    inner = list(enumerate(value) if isinstance(value, list) else found)
    for key, each in inner:
        yield from places(each, leaves=leaves, path=(*path, key))
    if path and leaves != bool(inner):
        yield path


def with_member(members: dict[str, Any], path: Place, value: Any, name: str | int) -> Any:
    found = json.loads(json.dumps(members))
    at: Any = found
    for key in path[:-1]:
        at = at[key]
    if name != path[-1]:
        del at[path[-1]]
    at[name] = value
    return found


def changed(
    members: dict[str, Any], is_accepted: Callable[[dict[str, Any]], bool]
) -> Iterator[dict[str, Any]]:
    """As many members as are accepted so with another value, for each value; once in capitals."""
    for value, leaves, capitals in product(OTHERS, (True, False), (False, True)):
        found = members
        for path in places(members, leaves=leaves):
            last = path[-1]
            name = last.upper() if capitals and isinstance(last, str) else last
            other = with_member(found, path, value, name)
            found = other if is_accepted(other) else found
        yield found


class Images:
    """Images of one layer whose configuration or manifest is changed."""

    def __init__(self, staging: Path) -> None:
        layer = LayerBuilder().file("content", "x").layer()
        self._image = Image((layer,), platform=AMD64)
        self.first = pipeline.stage("r.example.org/x:0", self._image, staging, ("layers", "podman"))
        self.config = {**json.loads(self._image.config_bytes), **MORE}
        self.manifest: dict[str, Any] = json.loads(self._image.manifest_bytes)
        self.manifest |= {"annotations": {"a": "b"}, "artifactType": ""}
        self.manifest["config"] |= DESCRIPTOR
        self.manifest["layers"][0] |= DESCRIPTOR
        self.manifest["subject"] = {**self.manifest["config"], "mediaType": "x"}

    def staged(self, number: int, config: bytes, manifest: bytes) -> StagedImage:
        return replace(
            self.first,
            name=f"r.example.org/x:{number}",
            manifest=pipeline.digest_of(manifest),
            manifest_bytes=manifest,
            config=pipeline.digest_of(config),
            config_bytes=config,
        )

    def of_config(self, members: dict[str, Any], *, docker: bool) -> Pair:
        config = json.dumps(members).encode()
        manifest = json.loads(self._image.manifest_bytes)
        manifest["config"] |= {"digest": str(pipeline.digest_of(config)), "size": len(config)}
        if docker:
            manifest["mediaType"], manifest["config"]["mediaType"] = DOCKER_MANIFEST, DOCKER_CONFIG
            layer = manifest["layers"][0]
            layer["mediaType"] = "application/vnd.docker.image.rootfs.diff.tar.gzip"
        return config, json.dumps(manifest).encode()


def accepted(pair: Pair) -> bool:
    config, manifest = pair
    try:
        found = parse_manifest(manifest)
        ImageConfig.parse(config, layers=1)
    except DuccmakeError:
        return False
    return isinstance(found, Manifest)


@pytest.fixture
def base() -> Iterator[Path]:
    need_podman()
    directory = Path(tempfile.mkdtemp(prefix="members"))
    directory.chmod(0o755)
    yield directory
    shutil.rmtree(directory)


def configurations(images: Images) -> Iterator[Pair]:
    for docker in (False, True):

        def pair(members: dict[str, Any], docker: bool = docker) -> Pair:
            return images.of_config(members, docker=docker)

        assert accepted(pair(images.config))
        yield from map(pair, changed(images.config, lambda members: accepted(pair(members))))


def manifests(images: Images) -> Iterator[Pair]:
    def pair(members: dict[str, Any]) -> Pair:
        # podman knows an image by its configuration, so each has one of its own.
        named = json.dumps(members)
        config = json.dumps({**images.config, "comment": named}).encode()
        described = {"digest": str(pipeline.digest_of(config)), "size": len(config)}
        members = {**members, "config": {**members["config"], **described}}
        return config, json.dumps(members).encode()

    assert accepted(pair(images.manifest))
    kept = {"config", "mediaType", "schemaVersion"}
    wanted = {name: value for name, value in images.manifest.items() if name not in kept}
    whole = {name: images.manifest[name] for name in kept}
    yield from (
        pair({**whole, **members})
        for members in changed(wanted, lambda members: accepted(pair({**whole, **members})))
    )


@pytest.mark.parametrize("kind", [configurations, manifests])
def test_podman_lists_all_images_that_are_accepted(
    kind: Callable[[Images], Iterator[Pair]], base: Path
):
    images = Images(base / "staging")
    found = dict.fromkeys(kind(images))
    wanted = [images.staged(number, *pair) for number, pair in enumerate(found)]
    layers = pipeline.change_set([images.first], base / "staging").layers
    repository = DirectoryRepository(base / "cvmfs", "x.example.org", durable=False)
    with repository.lock():
        repository.publish(ChangeSet(layers, tuple(wanted)))
    with podman(repository.path / "podmanStore") as client:
        listed = client.images()
    assert {name for names in listed.values() for name in names} == {each.name for each in wanted}
