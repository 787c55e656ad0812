"""The client with Debian's docker-registry, and skopeo as the judge."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from duccmake.demo.registry import Store
from duccmake.errors import DuccmakeError, NotFound, RegistryError, Unauthorized
from duccmake.jobs.fetch_blob import fetch_layer
from duccmake.oci.content_store import ContentStore
from duccmake.oci.manifest import Descriptor, Index, Manifest, parse_manifest
from duccmake.oci.reference import Reference
from duccmake.planning.model import Claim, PlannedImage, PlannedLayer, State
from duccmake.planning.poll_memory import PollMemory
from duccmake.planning.resolution import Resolved
from duccmake.planning.resolver import Resolver
from duccmake.recipe.model import Recipe, Wish
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support import servers
from support.faulty_registry import FaultyProxy, FaultyRegistry
from support.registry import FullRegistry
from support.samples import AMD64
from support.servers import add_image, add_index, docker_registry, layer_of, sha256, skopeo

USER = {"U": "me", "P": "hunter2"}
LAYERS = tuple(layer_of({f"f{n}": random.Random(n).randbytes(300_000)})[0] for n in range(3))


def push(client: Client, store: Store, repository: str, reference: Reference) -> Manifest:
    """Push a stored image by our own client, in small chunks."""
    digest, _, raw = store.manifest(repository, "1")
    manifest = parse_manifest(raw)
    assert isinstance(manifest, Manifest)
    for blob in (*manifest.layers, manifest.config):
        client.push_blob(reference, blob, store.blob_path(blob.digest))
    assert client.push_manifest(reference, raw, manifest.media_type) == digest
    return manifest


def check_pull(client: Client, reference: Reference, pushed: Manifest, tmp_path: Path) -> None:
    assert client.poll(reference) == pushed.digest
    digest, manifest, config = select_image(client, reference, AMD64)
    assert (digest, manifest.raw) == (pushed.digest, pushed.raw)
    assert len(config.diff_ids) == len(manifest.layers)
    for layer in manifest.layers:
        path = tmp_path / layer.digest.hex
        assert client.fetch_blob(reference, layer, path) == layer.size
        assert sha256(path.read_bytes()) == layer.digest
    assert reference.tag in client.tags(reference)


@pytest.fixture
def store(tmp_path):
    made = Store(tmp_path / "store")
    add_image(made, "team/app", "1", layers=LAYERS)
    return made


@pytest.mark.parametrize("docker", [False, True])
def test_what_we_push_skopeo_reads_and_what_skopeo_copies_we_read(tmp_path, docker):
    store = Store(tmp_path / "store")
    add_image(store, "team/app", "1", layers=LAYERS, docker=docker)
    with docker_registry(tmp_path / "registry") as registry:
        settings = {registry.host: RegistrySettings(scheme="http")}
        with Client(settings, chunk_bytes=100_000) as client:
            reference = servers.reference(registry)
            pushed = push(client, store, "team/app", reference)
            raw = skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{reference.name}")
            assert raw.encode() == pushed.raw
            copy = servers.reference(registry, "copied/by/skopeo:2")
            skopeo(
                "copy", "--src-tls-verify=false", "--dest-tls-verify=false",
                f"docker://{reference.name}", f"docker://{copy.name}",
            )  # fmt: skip
            check_pull(client, copy, pushed, tmp_path)


def test_blobs_are_mounted_from_another_repository_and_not_sent_twice(tmp_path, store):
    with docker_registry(tmp_path / "registry") as registry:
        settings = {registry.host: RegistrySettings(scheme="http")}
        with Client(settings) as client:
            first = servers.reference(registry)
            manifest = push(client, store, "team/app", first)
            layer = manifest.layers[0]
            second = servers.reference(registry, "team/other:1")
            # Nothing to read from: only a mount can succeed.
            nothing = tmp_path / "nothing"
            assert not client.push_blob(second, layer, nothing, mount_from="team/app")
            assert not client.push_blob(second, layer, nothing)
            assert client.fetch_blob(second, layer, tmp_path / "layer") == layer.size
            assert client.pushed(first)
            assert client.pushed(second) is None


def test_pushing_wrong_bytes_is_refused(tmp_path, store):
    with docker_registry(tmp_path / "registry") as registry:
        settings = {registry.host: RegistrySettings(scheme="http")}
        with Client(settings) as client:
            reference = servers.reference(registry)
            wrong = Descriptor("x", sha256(b"right"), 5)
            with pytest.raises(RegistryError):
                client.push_blob(reference, wrong, b"wrong")
            with pytest.raises(NotFound):
                client.fetch_blob(reference, wrong, tmp_path / "wrong")


def test_basic_authentication_behind_tls_with_a_private_authority(tmp_path, store):
    ca, certificate, key = servers.certificate(tmp_path)
    users = servers.htpasswd(tmp_path / "users", "me", "hunter2")
    auth = {"htpasswd": {"realm": "tests, of ours", "path": str(users)}}
    with docker_registry(tmp_path / "r", auth=auth, tls=(certificate, key)) as registry:
        reference = Reference.parse(f"{registry.host}/team/app:1")
        known = RegistrySettings(ca_file=ca, username_env="U", password_env="P")
        with Client({registry.host: known}, environment=USER) as client:
            pushed = push(client, store, "team/app", reference)
            check_pull(client, reference, pushed, tmp_path)
        skopeo(
            "inspect", "--cert-dir", str(_certs(tmp_path, ca)), "--creds", "me:hunter2",
            f"docker://{reference.name}",
        )  # fmt: skip
        known = RegistrySettings(ca_file=ca)
        with (
            Client({registry.host: known}, environment={}) as client,
            pytest.raises(Unauthorized),
        ):
            client.poll(reference)
        with Client({}, environment={}) as client, pytest.raises(RegistryError, match="ca_file"):
            client.poll(reference)


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
def test_a_registry_that_is_asked_in_the_wrong_way_is_told_how_to_write_it(tmp_path, secure):
    ca, certificate, key = servers.certificate(tmp_path)
    wrong, right = ("http", "https") if secure else ("https", "http")
    with (
        docker_registry(tmp_path / "r", tls=(certificate, key) if secure else None) as registry,
        Client({registry.host: RegistrySettings(ca_file=ca)}, tries=1) as client,
        pytest.raises(RegistryError, match=rf"registries\.{registry.host}\.scheme: {right}\b"),
    ):
        client.poll(Reference.parse(f"{wrong}://{registry.host}/team/app:1"))


def test_an_auth_file_as_skopeo_writes_it_serves(tmp_path, store):
    users = servers.htpasswd(tmp_path / "users", "me", "hunter2")
    auth = {"htpasswd": {"realm": "tests", "path": str(users)}}
    with docker_registry(tmp_path / "r", auth=auth) as registry:
        auth_file = tmp_path / "auth.json"
        skopeo(
            "login", "--tls-verify=false", "--authfile", str(auth_file),
            "-u", "me", "-p", "hunter2", registry.host,
        )  # fmt: skip
        assert base64.b64encode(b"me:hunter2").decode() in json.dumps(
            json.loads(auth_file.read_text())
        )
        settings = {registry.host: RegistrySettings(scheme="http", auth_file=auth_file)}
        reference = servers.reference(registry)
        with Client(settings, environment={}) as client:
            check_pull(client, reference, push(client, store, "team/app", reference), tmp_path)


def test_token_authentication_with_a_realm_of_its_own(tmp_path, store):
    tokens = servers.TokenServer(tmp_path, "me", "hunter2")
    with (
        tokens.running() as auth,
        docker_registry(tmp_path / "r", auth=auth) as registry,
    ):
        reference = servers.reference(registry)
        known = RegistrySettings(scheme="http", username_env="U", password_env="P")
        with Client({registry.host: known}, environment=USER) as client:
            pushed = push(client, store, "team/app", reference)
            other = servers.reference(registry, "team/other:1")
            client.push_blob(other, pushed.layers[0], b"", mount_from="team/app")
        tokens.requests.clear()
        public = RegistrySettings(scheme="http")
        with Client({registry.host: public}, environment={}) as client:
            check_pull(client, reference, pushed, tmp_path)
            with pytest.raises(Unauthorized):
                client.push_blob(reference, Descriptor("x", sha256(b"new"), 3), b"new")
        assert not any(carried for _, carried in tokens.requests)
        skopeo(
            "inspect", "--tls-verify=false", "--creds", "me:hunter2", f"docker://{reference.name}"
        )


def test_all_tags_of_docker_registry_are_listed(tmp_path, store):
    with docker_registry(tmp_path / "registry") as registry:
        settings = {registry.host: RegistrySettings(scheme="http")}
        with Client(settings) as client:
            manifest = push(client, store, "team/app", servers.reference(registry))
            names = [f"v{number}" for number in range(30)]
            for name in names:
                tagged = servers.reference(registry, f"team/app:{name}")
                client.push_manifest(tagged, manifest.raw, manifest.media_type)
            assert sorted(client.tags(tagged)) == sorted(["1", *names])


def test_skopeo_pulls_from_and_pushes_to_the_demo_registry(tmp_path):
    with FullRegistry(tmp_path / "demo") as registry:
        image = add_image(registry.store, "team/app", "1", layers=LAYERS)
        index = add_index(registry.store, "team/app", "all", [image.manifest])
        skopeo(
            "copy", "--src-tls-verify=false",
            f"docker://{registry.host}/team/app:1", f"dir:{tmp_path / 'copy'}",
        )  # fmt: skip
        for layer, content in zip(image.layers, LAYERS, strict=True):
            assert (tmp_path / "copy" / layer.digest.hex).read_bytes() == content
        with FullRegistry(tmp_path / "second") as second:
            skopeo(
                "copy", "--all", "--src-tls-verify=false", "--dest-tls-verify=false",
                f"docker://{registry.host}/team/app:all", f"docker://{second.host}/here/it:is",
            )  # fmt: skip
            settings = {second.host: RegistrySettings(scheme="http")}
            reference = servers.reference(second, "here/it:is")
            with Client(settings) as client:
                top = client.manifest(reference)
                assert isinstance(top, Index) and top.digest == index.digest
                assert select_image(client, reference, AMD64)[1].digest == image.manifest.digest
            listed = skopeo("list-tags", "--tls-verify=false", f"docker://{second.host}/here/it")
            assert json.loads(listed)["Tags"] == ["is"]
            skopeo("delete", "--tls-verify=false", f"docker://{second.host}/here/it:is")
            assert second.store.tags("here/it") == []


def test_skopeo_logs_in_to_the_demo_registry_with_tokens(tmp_path):
    with FullRegistry(tmp_path / "demo", users={"me": "hunter2"}, tokens=True) as registry:
        add_image(registry.store, "team/app", "1")
        skopeo(
            "copy", "--src-tls-verify=false", "--src-creds", "me:hunter2",
            f"docker://{registry.host}/team/app:1", f"dir:{tmp_path / 'copy'}",
        )  # fmt: skip


def test_an_upload_that_breaks_goes_on(tmp_path, store):
    with FaultyRegistry(tmp_path / "faulty") as registry:
        registry.break_next("^PATCH", faults.reset)
        registry.break_next("^PATCH", faults.status(500))
        registry.break_next("^PUT .*/uploads/", faults.status(503))
        settings = {registry.host: RegistrySettings(scheme="http")}
        with Client(settings, chunk_bytes=100_000, backoff_seconds=0.001) as client:
            reference = servers.reference(registry)
            pushed = push(client, store, "team/app", reference)
            check_pull(client, reference, pushed, tmp_path)


@pytest.mark.parametrize("seed", range(7, 7 + int(os.environ.get("DUCCMAKE_SOAK_ROUNDS", "1"))))
def test_soak_through_a_proxy_that_breaks_one_answer_in_five_ends_with_every_image_right(
    tmp_path, monkeypatch, seed
):
    """Wish lists are resolved and layers fetched, run after run, until all images are right.

    ``DUCCMAKE_SOAK_ROUNDS=100`` does it a hundred times, with other faults each time.
    """
    with (
        docker_registry(tmp_path / "registry") as registry,
        FaultyProxy(tmp_path / "proxy") as proxy,
    ):
        manifests = _push_many(registry, tmp_path / "store")
        host = registry.host.replace("localhost", "registry.example")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        for name in ("HTTP_PROXY", "http_proxy"):
            monkeypatch.setenv(name, proxy.url)
        proxy.names["registry.example"] = "localhost"
        proxy.break_at_random(0.2, seed=seed)
        texts = [f"http://{host}/{name}:1" for name in manifests]
        wishes = tuple(Wish(Reference.parse(text), 1) for text in (*texts, f"http://{host}/a/b:*"))
        recipe = Recipe(Path("recipe.yaml"), "images.example.org", wishes=wishes)
        settings = {host: RegistrySettings(scheme="http", timeout_seconds=0.5)}
        wanted = {f"{host}/{name}:1": manifest for name, manifest in manifests.items()}
        content, blobs = ContentStore(tmp_path / "content"), tmp_path / "blobs"
        for _ in range(40):
            with (
                Client(settings, backoff_seconds=0.001, deadline_seconds=20.0) as client,
                ThreadPoolExecutor(4) as threads,
            ):
                resolver = Resolver(client, PollMemory(tmp_path / "polls.json"), content)
                (resolution,) = resolver.resolve([recipe], [AMD64])
                for item in resolution.resolved:
                    # However broken: what is believed is right.
                    manifest, _ = item.read(content)
                    assert manifest.raw == wanted[item.reference.name].raw
                tasks = [(item, client, content, blobs) for item in resolution.resolved]
                list(threads.map(lambda task: _fetch(*task), tasks))
            fetched = {path.name for path in blobs.iterdir() if path.suffix != ".part"}
            if fetched == _digests(wanted.values()) and len(resolution.resolved) == len(wanted):
                break
        assert {item.reference.name for item in resolution.resolved} == set(wanted)
        assert fetched == _digests(wanted.values())
        for path in blobs.iterdir():
            if path.suffix != ".part":
                assert sha256(path.read_bytes()).hex == path.name
        assert proxy.faults_made > len(faults.RANDOM_FAULTS)


def _push_many(registry: servers.DockerRegistry, root: Path) -> dict[str, Manifest]:
    """Images with a layer of their own and one that all have; by their repositories."""
    store = Store(root)
    pushed = {}
    with Client({registry.host: RegistrySettings(scheme="http")}) as client:
        for number in range(60):
            name = "a/b" if not number else f"team/app{number}"
            own = layer_of({"f": random.Random(number).randbytes(200_000)})[0]
            add_image(store, name, "1", layers=(own, LAYERS[0]))
            reference = servers.reference(registry, f"{name}:1")
            pushed[name] = push(client, store, name, reference)
    return pushed


def _fetch(item: Resolved, client: Client, content: ContentStore, blobs: Path) -> None:
    manifest, config = item.read(content)
    layers = tuple(
        PlannedLayer(descriptor, diff_id)
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True)
    )
    image = PlannedImage(
        "images.example.org", item.reference, item.platform, item.manifest,
        item.config, layers, State.PENDING, "", False,
    )  # fmt: skip
    for layer in layers:
        with contextlib.suppress(DuccmakeError):
            fetch_layer([Claim(layer, image)], client, blobs / layer.digest.hex)


def _digests(manifests: Iterable[Manifest]) -> set[str]:
    return {layer.digest.hex for manifest in manifests for layer in manifest.layers}


def _certs(tmp_path: Path, ca: Path) -> Path:
    directory = tmp_path / "certs"
    directory.mkdir()
    (directory / "ca.crt").write_bytes(ca.read_bytes())
    return directory
