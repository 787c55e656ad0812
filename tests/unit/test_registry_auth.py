"""Who the client is, and to whom: identity tokens, tokens that end, prefixes, proxies."""

from __future__ import annotations

import base64
import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.errors import DigestMismatch, DuccmakeError, NotFound, RegistryError, Unauthorized
from duccmake.oci.manifest import Descriptor
from duccmake.oci.reference import Reference
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support import servers
from support.faulty_registry import FaultyRegistry
from support.samples import AMD64
from support.servers import ConnectProxy, add_image, layer_of, reference

CONTENT = layer_of({"noise": random.Random(3).randbytes(1_500_000)})[0]


def client(registry: FaultyRegistry, environment: dict[str, str], **more: object) -> Client:
    settings = RegistrySettings(scheme="http", timeout_seconds=5.0, **more)
    return Client({registry.host: settings}, backoff_seconds=0.001, environment=environment)


def auth_file(path: Path, auths: dict[str, dict[str, str]]) -> dict[str, str]:
    """The environment that names an auth file with these entries."""
    path.write_text(json.dumps({"auths": auths}))
    return {"REGISTRY_AUTH_FILE": str(path)}


def basic(user: str, password: str) -> str:
    return base64.b64encode(f"{user}:{password}".encode()).decode()


# --- identity tokens ----------------------------------------------------


def test_an_identity_token_is_exchanged_for_access_tokens(tmp_path):
    with FaultyRegistry(tmp_path / "r", users={"me": "unknown"}, tokens=True) as registry:
        registry.identity_tokens.add("refresh-me")
        image = add_image(registry.store, "team/app", "1")
        environment = auth_file(
            tmp_path / "auth.json", {registry.host: {"identitytoken": "refresh-me"}}
        )
        with client(registry, environment) as asking:
            assert select_image(asking, reference(registry), AMD64)[0] == image.manifest.digest
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        (form,) = registry.forms
        assert form["grant_type"] == ["refresh_token"]
        assert form["service"] == ["demo"] and form["client_id"] == ["duccmake"]
        assert form["scope"] == ["repository:team/app:pull"]
        assert not any("refresh-me" in r.path + r.authorization for r in registry.requests)


def test_an_identity_token_that_is_refused_is_told_without_naming_it(tmp_path, caplog):
    caplog.set_level("DEBUG")
    with FaultyRegistry(tmp_path / "r", users={"me": "unknown"}, tokens=True) as registry:
        add_image(registry.store, "team/app", "1")
        environment = auth_file(
            tmp_path / "auth.json", {registry.host: {"identitytoken": "hunter2"}}
        )
        with client(registry, environment) as asking, pytest.raises(Unauthorized) as caught:
            asking.poll(reference(registry))
        assert len(registry.forms) == 1
        assert "hunter2" not in str(caught.value) + caplog.text


# --- tokens that end ----------------------------------------------------


def test_tokens_that_end_after_every_third_request_stop_nothing(tmp_path):
    with FaultyRegistry(tmp_path / "r", users={"me": "hunter2"}, tokens=True) as registry:
        names = [f"team/app{number}" for number in range(6)]
        images = {name: add_image(registry.store, name, "1", layers=(CONTENT,)) for name in names}
        environment = auth_file(tmp_path / "a", {registry.host: {"auth": basic("me", "hunter2")}})

        def ends(handler, answer):
            if len(registry.requests) % 3 == 0:
                registry.revoke_tokens()
            handler.send(answer)

        registry.break_next("/v2/", ends, times=9999)
        with client(registry, environment) as asking:
            for name, image in images.items():
                named = reference(registry, f"{name}:1")
                assert asking.poll(named) == image.manifest.digest
                _, manifest, _ = select_image(asking, named, AMD64)
                assert asking.tags(named) == ["1"]
                path = tmp_path / "blobs" / name.replace("/", "-")
                asking.fetch_blob(named, manifest.layers[0], path)
                assert path.read_bytes() == CONTENT
                pushed = reference(registry, "pushed/it:1")
                asking.push_blob(pushed, Descriptor("x", servers.sha256(b"new"), 3), b"new")
                asking.push_manifest(pushed, manifest.raw, manifest.media_type)
        assert len([r for r in registry.requested() if "/token" in r]) > 8


def test_a_token_that_ends_while_a_download_is_broken_off_is_replaced_and_it_goes_on(tmp_path):
    with FaultyRegistry(tmp_path / "r", users={"me": "hunter2"}, tokens=True) as registry:
        image = add_image(registry.store, "team/app", "1", layers=(CONTENT,))
        environment = auth_file(tmp_path / "a", {registry.host: {"auth": basic("me", "hunter2")}})

        def breaks(handler, answer):
            registry.revoke_tokens()
            faults.short(handler, answer)

        with client(registry, environment) as asking:
            asking.poll(reference(registry))
            registry.break_next("/blobs/", breaks)
            received = asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert received == len(CONTENT)
        assert (tmp_path / "blob").read_bytes() == CONTENT
        ranges = [request.range for request in registry.requests if "/blobs/" in request.path]
        assert ranges[-1] == f"bytes={len(CONTENT) // 2}-{len(CONTENT) - 1}"


# --- prefixes -----------------------------------------------------------


def test_credentials_go_by_the_longest_prefix_of_the_path(tmp_path):
    users = {"all": "1", "team": "2", "app": "3"}
    with FaultyRegistry(tmp_path / "r", users=users) as registry:
        names = {"other/app": "all", "team/x": "team", "team/app": "app", "teams/app": "all"}
        for name in names:
            add_image(registry.store, name, "1")
        environment = auth_file(
            tmp_path / "auth.json",
            {
                registry.host: {"auth": basic("all", "1")},
                f"{registry.host}/team": {"auth": basic("team", "2")},
                f"{registry.host}/team/app": {"auth": basic("app", "3")},
            },
        )
        with client(registry, environment) as asking:
            for name in names:
                select_image(asking, reference(registry, f"{name}:1"), AMD64)
        sent = {
            (request.path.split("/manifests/")[0][4:], request.authorization)
            for request in registry.requests
            if request.authorization and "/manifests/" in request.path
        }
        assert sent == {(name, f"Basic {basic(user, users[user])}") for name, user in names.items()}


def test_credentials_of_the_registry_are_not_sent_to_its_mirrors(tmp_path):
    with (
        FaultyRegistry(tmp_path / "a", users={"me": "hunter2"}) as registry,
        FaultyRegistry(tmp_path / "b", users={"other": "x"}) as mirror,
    ):
        image = add_image(registry.store, "team/app", "1")
        environment = auth_file(tmp_path / "f", {registry.host: {"auth": basic("me", "hunter2")}})
        with client(registry, environment, mirrors=(mirror.url,)) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest
        assert mirror.requests
        assert not any(request.authorization for request in mirror.requests)


# --- proxies ------------------------------------------------------------


@pytest.fixture
def tls(tmp_path):
    """A private authority, and a certificate of its own with the key."""
    ca, certificate, key = servers.certificate(tmp_path)
    return ca, (certificate, key)


@pytest.fixture
def proxied(monkeypatch):
    """A CONNECT proxy that the environment names, with a password."""
    with ConnectProxy() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:hunter2@{proxy.host}")
        monkeypatch.setenv("https_proxy", f"http://me:hunter2@{proxy.host}")
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.setenv(name, "")
        yield proxy


def secure(registry: FaultyRegistry, ca: Path) -> dict[str, RegistrySettings]:
    return {registry.host: RegistrySettings(ca_file=ca, timeout_seconds=5.0)}


def test_https_goes_through_a_tunnel_of_the_proxy(tmp_path, tls, proxied, caplog):
    caplog.set_level("DEBUG")
    ca, pair = tls
    with FaultyRegistry(tmp_path / "r", tls=pair, users={"u": "p"}) as registry:
        image = add_image(registry.store, "team/app", "1")
        environment = auth_file(tmp_path / "f", {registry.host: {"auth": basic("u", "p")}})
        named = Reference.parse(f"{registry.host}/team/app:1")
        with Client(secure(registry, ca), environment=environment) as asking:
            select_image(asking, named, AMD64)
            asking.fetch_blob(named, image.layers[0], tmp_path / "blob")
        assert {target for target, _ in proxied.asked} == {registry.host}
        assert {sent for _, sent in proxied.asked} == {f"Basic {basic('me', 'hunter2')}"}
        # The registry's credentials go through the tunnel, the proxy's end at the proxy.
        assert {r.authorization for r in registry.requests} == {"", f"Basic {basic('u', 'p')}"}
        assert "hunter2" not in caplog.text


def test_hosts_that_no_proxy_names_are_asked_directly(tmp_path, tls, proxied, monkeypatch):
    ca, pair = tls
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "example.org,localhost")
    with FaultyRegistry(tmp_path / "r", tls=pair) as registry:
        add_image(registry.store, "team/app", "1")
        with Client(secure(registry, ca)) as asking:
            asking.poll(Reference.parse(f"{registry.host}/team/app:1"))
        assert registry.requests and not proxied.asked


def test_a_proxy_cannot_stand_in_for_a_registry_without_its_certificate(tmp_path, tls, proxied):
    with FaultyRegistry(tmp_path / "r", tls=tls[1]) as registry:
        with (
            Client({registry.host: RegistrySettings()}, tries=1) as asking,
            pytest.raises(DuccmakeError, match="certificate"),
        ):
            asking.poll(Reference.parse(f"{registry.host}/team/app:1"))
        assert proxied.asked and not registry.requests


# --- foreign layers -----------------------------------------------------


def test_a_foreign_layer_comes_from_its_address_only_where_allowed_and_anonymously(tmp_path, tls):
    """CVE-2020-15157: the address is the manifest's, and so may be an attacker's."""
    ca, pair = tls
    with (
        FaultyRegistry(tmp_path / "a", users={"me": "hunter2"}) as registry,
        FaultyRegistry(tmp_path / "b", tls=pair) as elsewhere,
    ):
        add_image(elsewhere.store, "foreign/layers", "1", layers=(CONTENT,))
        digest = servers.sha256(CONTENT)
        address = f"https://{elsewhere.host}/v2/foreign/layers/blobs/{digest}"
        image = add_image(registry.store, "team/app", "1", layers=(CONTENT,), urls=(address,))
        registry.store.blob_path(digest).unlink()
        login = {"auth": basic("me", "hunter2")}
        environment = auth_file(
            tmp_path / "auth.json", {registry.host: login, elsewhere.host: login}
        )
        settings = {
            registry.host: RegistrySettings(scheme="http"),
            elsewhere.host: RegistrySettings(ca_file=ca),
        }
        named = reference(registry)
        with Client(settings, environment=environment) as asking, pytest.raises(NotFound):
            asking.fetch_blob(named, image.layers[0], tmp_path / "blob")
        assert elsewhere.requests == []
        settings[registry.host] = replace(settings[registry.host], foreign_urls=True)
        with Client(settings, environment=environment) as asking:
            asking.fetch_blob(named, image.layers[0], tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == CONTENT
        assert [request.authorization for request in elsewhere.requests] == [""]
        elsewhere.requests.clear()
        elsewhere.users["me"] = "hunter2"
        with Client(settings, environment=environment) as asking, pytest.raises(DuccmakeError):
            asking.fetch_blob(named, image.layers[0], tmp_path / "other")
        assert [request.authorization for request in elsewhere.requests] == [""]


def test_a_foreign_layer_that_the_registry_has_comes_from_the_registry(tmp_path):
    with FaultyRegistry(tmp_path / "a") as registry:
        image = add_image(
            registry.store, "team/app", "1", layers=(CONTENT,), urls=("https://localhost:1/x",)
        )
        with client(registry, {}, foreign_urls=True) as asking:
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert (tmp_path / "blob").read_bytes() == CONTENT


# --- blobs by http ------------------------------------------------------


@pytest.mark.parametrize("allowed", [False, True])
def test_blobs_of_an_https_registry_come_by_http_only_where_allowed_and_anonymously(
    tmp_path, tls, allowed
):
    ca, pair = tls
    with (
        FaultyRegistry(tmp_path / "a", tls=pair, users={"me": "hunter2"}) as registry,
        FaultyRegistry(tmp_path / "b") as storage,
    ):
        image = add_image(registry.store, "team/app", "1", layers=(CONTENT,))
        add_image(storage.store, "team/app", "1", layers=(CONTENT,))
        environment = auth_file(tmp_path / "f", {registry.host: {"auth": basic("me", "hunter2")}})
        settings = RegistrySettings(ca_file=ca, plain_blobs=allowed)
        named = Reference.parse(f"https://{registry.host}/team/app:1")
        registry.break_next("/blobs/", faults.redirect(f"{storage.url}{{path}}"), times=99)
        with Client({registry.host: settings}, environment=environment, tries=2) as asking:
            manifest = asking.manifest(named)
            if not allowed:
                with pytest.raises(RegistryError, match="plain_blobs: true"):
                    asking.fetch_blob(named, image.layers[0], tmp_path / "blob")
                assert storage.requests == []
                return
            asking.fetch_blob(named, image.layers[0], tmp_path / "blob")
            asking.blob_bytes(named, manifest.config)
            assert (tmp_path / "blob").read_bytes() == CONTENT
            assert {request.authorization for request in storage.requests} == {""}
            storage.break_next("/blobs/", faults.wrong_bytes, times=99)
            with pytest.raises(DigestMismatch):
                asking.fetch_blob(named, image.layers[0], tmp_path / "other")
            storage.requests.clear()
            registry.break_next("/manifests/", faults.redirect(f"{storage.url}{{path}}"), times=9)
            with pytest.raises(RegistryError, match="without encryption"):
                asking.manifest(named)
            assert storage.requests == []
