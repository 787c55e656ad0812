"""http where https is spoken, https where http is, and certificates that do not verify."""

from __future__ import annotations

import random

import pytest

from duccmake.errors import RegistryError
from duccmake.oci.reference import Reference
from duccmake.registry.client import Client
from duccmake.registry.http.retry import RegistryUnreachable
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support.faulty_registry import FaultyProxy, FaultyRegistry
from support.servers import ConnectProxy, add_image, certificate, layer_of, reference

CONTENT = layer_of({"noise": random.Random(4).randbytes(100_000)})[0]
USER = {"me": "hunter2"}


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    """A private authority, and a certificate of its own with the key."""
    ca, signed, key = certificate(tmp_path_factory.mktemp("tls"))
    return ca, (signed, key)


@pytest.fixture
def plain(tmp_path):
    with FaultyRegistry(tmp_path / "plain") as running:
        add_image(running.store, "team/app", "1", layers=(CONTENT,))
        yield running


@pytest.fixture
def secure(tmp_path, tls):
    with FaultyRegistry(tmp_path / "secure", tls=tls[1]) as running:
        add_image(running.store, "team/app", "1", layers=(CONTENT,))
        yield running


@pytest.fixture
def tunnel(monkeypatch):
    """All https goes through it, and all names are this machine."""
    with ConnectProxy() as proxy:
        monkeypatch.setenv("https_proxy", f"http://{proxy.host}")
        monkeypatch.setenv("no_proxy", "")
        yield proxy


def client(settings: dict[str, RegistrySettings] | None = None) -> Client:
    secrets = {"U": "me", "P": "hunter2"}
    return Client(settings or {}, backoff_seconds=0.001, tries=2, environment=secrets)


@pytest.mark.parametrize("place", ["http://localhost", "http://localhost:80", "http://{host}"])
def test_what_an_https_registry_writes_of_itself_with_http_is_asked_by_https(
    secure, tls, place, tmp_path
):
    """So writes one that knows nothing of the proxy for https that it is behind."""

    def moved(handler, answer):
        if "moved" in handler.path:
            handler.send(answer)
        else:
            place_here = place.format(host=secure.host)
            location = f"{place_here}{handler.path}?moved=%2F"
            handler.send(faults.Answer(301, {"Location": location}, b""))

    secure.break_next("", moved, times=99)
    named = Reference.parse(f"https://{secure.host}/team/app:1")
    with client({secure.host: RegistrySettings(ca_file=tls[0])}) as asking:
        asking.poll(named)
        layer = asking.manifest(named).layers[0]
        asking.fetch_blob(named, layer, tmp_path / "blob")
    assert (tmp_path / "blob").read_bytes() == CONTENT
    assert secure.requests[-1].path.endswith("?moved=%2F")


def test_another_port_of_the_same_name_is_not_asked_by_http(secure, plain, tls):
    secure.break_next("/manifests/", faults.redirect(f"{plain.url}{{path}}"), times=9)
    named = Reference.parse(f"https://{secure.host}/team/app:1")
    with (
        client({secure.host: RegistrySettings(ca_file=tls[0])}) as asking,
        pytest.raises(RegistryError, match="without encryption"),
    ):
        asking.manifest(named)
    assert not plain.requests


def test_credentials_follow_a_registry_from_http_to_its_https(
    tmp_path, tls, plain, tunnel, monkeypatch
):
    with (
        FaultyRegistry(tmp_path / "moved", tls=tls[1], users=USER) as registry,
        FaultyProxy(tmp_path / "proxy") as proxy,
    ):
        image = add_image(registry.store, "team/app", "1")
        proxy.names["localhost"] = plain.host
        tunnel.ports[443] = registry.port
        monkeypatch.setenv("http_proxy", f"http://{proxy.host}")
        plain.break_next("", faults.redirect("https://localhost{path}"), times=99)
        known = RegistrySettings(ca_file=tls[0], username_env="U", password_env="P")
        with client({"localhost": known}) as asking:
            found = asking.manifest(Reference.parse("http://localhost/team/app:1"))
        assert found.digest == image.manifest.digest


@pytest.mark.parametrize(
    ("here", "there"), [("localhost", "localhost:443"), ("localhost:443", "localhost")]
)
def test_a_host_with_its_usual_port_is_the_same_host(tmp_path, tls, tunnel, here, there):
    def moved(handler, answer):
        if "?" in handler.path:
            handler.send(answer)
        else:
            faults.redirect(f"https://{there}{{path}}?moved")(handler, answer)

    with FaultyRegistry(tmp_path / "r", tls=tls[1], users=USER) as registry:
        image = add_image(registry.store, "team/app", "1")
        tunnel.ports[443] = registry.port
        registry.break_next("/manifests/", moved, times=9)
        known = RegistrySettings(ca_file=tls[0], username_env="U", password_env="P")
        with client({here: known, there: RegistrySettings(ca_file=tls[0])}) as asking:
            found = asking.manifest(Reference.parse(f"https://{here}/team/app:1"))
        assert found.digest == image.manifest.digest


def test_credentials_follow_nobody_to_another_port(tmp_path, tls, plain):
    with FaultyRegistry(tmp_path / "other", tls=tls[1], users=USER) as other:
        add_image(other.store, "team/app", "1")
        plain.break_next("", faults.redirect(f"https://{other.host}{{path}}"), times=99)
        known = RegistrySettings(username_env="U", password_env="P")
        settings = {plain.host: known, other.host: RegistrySettings(ca_file=tls[0])}
        with client(settings) as asking, pytest.raises(RegistryError, match="redirects there"):
            asking.manifest(reference(plain))
        assert {request.authorization for request in other.requests} == {""}


@pytest.mark.parametrize("place", ["https://{host}", "http://localhost:1"])
def test_who_redirects_to_a_storage_that_cannot_be_reached_is_said(plain, place):
    plain.break_next("/blobs/", faults.redirect(place.format(host=plain.host) + "{path}"), times=9)
    with client() as asking:
        layer = asking.manifest(reference(plain)).layers[0]
        with pytest.raises(RegistryUnreachable) as caught:
            asking.fetch_blob(reference(plain), layer, plain.store.root / "blob")
    assert f"{plain.host} redirects there" in str(caught.value)
    assert "scheme:" not in str(caught.value)


def test_who_has_tokens_given_where_nobody_is_reached_is_said(plain):
    realm = f'Bearer realm="https://{plain.host}/token"'
    plain.break_next("/v2/", faults.status(401, WWW_Authenticate=realm), times=9)
    with client() as asking, pytest.raises(RegistryUnreachable) as caught:
        asking.manifest(reference(plain))
    assert f"{plain.host} has its tokens given there" in str(caught.value)


def test_a_certificate_of_an_unknown_authority_names_the_setting_that_mends_it(plain, secure, tls):
    plain.break_next("/blobs/", faults.redirect(f"https://{secure.host}{{path}}"), times=9)
    with client() as asking:
        described = asking.manifest(reference(plain)).config
        with pytest.raises(RegistryError) as caught:
            asking.blob_bytes(reference(plain), described)
    assert f"registries.{secure.host}.ca_file" in str(caught.value)
    with client({secure.host: RegistrySettings(ca_file=tls[0])}) as asking:
        asking.blob_bytes(reference(plain), described)


def test_a_certificate_with_another_name_is_not_to_be_mended_by_an_authority(secure, tls, tunnel):
    named = Reference.parse(f"https://registry.invalid:{secure.port}/team/app:1")
    known = {named.registry: RegistrySettings(ca_file=tls[0])}
    with client(known) as asking, pytest.raises(RegistryError, match="as its certificate does"):
        asking.poll(named)
    assert tunnel.asked and not secure.requests
