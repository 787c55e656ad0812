from __future__ import annotations

import datetime
import email.utils
import logging

import pytest

from duccmake.errors import ConfigError, RateLimited, RegistryError, RegistryUnavailable
from duccmake.oci.reference import Reference
from duccmake.registry.client import Client
from duccmake.registry.http.retry import (
    RegistryLeftAlone,
    RegistryUnreachable,
    backoff_seconds,
    retry_after_seconds,
)
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry
from support.servers import add_image, reference


@pytest.fixture
def registry(tmp_path):
    with FaultyRegistry(tmp_path / "registry") as running:
        add_image(running.store, "team/app", "1")
        yield running


def client(registry, **more) -> Client:
    settings = {registry.host: RegistrySettings(scheme="http", timeout_seconds=1.0)}
    return Client(settings, **{"backoff_seconds": 0.001, **more})


@pytest.mark.parametrize(
    "fault",
    [faults.status(code) for code in (408, 429, 500, 502, 503, 504)] + [faults.reset],
)
def test_what_may_pass_is_tried_again(registry, fault):
    plan = registry.break_next("", fault, times=2)
    with client(registry) as asking:
        asking.poll(reference(registry))
    assert plan.times == 0


@pytest.mark.parametrize("code", [400, 403, 404, 410])
def test_what_will_not_pass_is_not_tried_again(registry, code):
    registry.break_next("", faults.status(code), times=9)
    with client(registry) as asking, pytest.raises(RegistryError, match=str(code)):
        asking.manifest(reference(registry))
    assert [path for path in registry.requested() if path != "GET /v2/"] == [
        "GET /v2/team/app/manifests/1"
    ]


def test_tries_come_to_an_end(registry):
    registry.break_next("", faults.status(503), times=99)
    with client(registry, tries=4) as asking, pytest.raises(RegistryUnavailable, match="503"):
        asking.manifest(reference(registry))
    assert len(registry.requests) == 4


def test_a_wait_beyond_the_deadline_is_not_waited_for_and_keeps_others_from_asking(registry):
    registry.break_next("", faults.status(429, Retry_After="4000"))
    with client(registry) as asking:
        with pytest.raises(RateLimited):
            asking.poll(reference(registry))
        with pytest.raises(RateLimited):
            asking.poll(reference(registry))
    assert len(registry.requests) == 1


def test_a_limit_on_pulls_does_not_stop_polls(registry):
    registry.break_next("^GET", faults.status(429, Retry_After="4000"))
    with client(registry) as asking:
        with pytest.raises(RateLimited):
            asking.manifest(reference(registry))
        asking.poll(reference(registry))


def test_a_registry_that_keeps_failing_is_left_alone(registry, caplog):
    registry.break_next("", faults.status(500), times=9999)
    with client(registry, tries=2) as asking, caplog.at_level(logging.WARNING):
        for number in range(30):
            with pytest.raises(RegistryUnavailable) as caught:
                asking.poll(reference(registry, f"team/app:{number}"))
    assert isinstance(caught.value, RegistryLeftAlone)
    assert [request.method for request in registry.requests].count("GET") == 8
    assert "500" in str(caught.value)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_answers_between_failures_keep_a_registry_in_use(registry):
    registry.break_next("/bad/", faults.status(500), times=9999)
    with client(registry, tries=1) as asking:
        for _ in range(10):
            with pytest.raises(RegistryUnavailable):
                asking.poll(reference(registry, "bad/app:1"))
            asking.poll(reference(registry))


def test_one_registry_that_is_down_does_not_hold_up_another(registry):
    with client(registry, tries=1) as asking:
        for _ in range(10):
            with pytest.raises(RegistryUnavailable):
                asking.poll(Reference.parse("http://localhost:1/a/b:1"))
        asking.poll(reference(registry))


@pytest.mark.parametrize(
    ("host", "words"), [("localhost:1", "refused"), ("no-such-host.invalid", "unknown")]
)
def test_why_a_host_cannot_be_reached_is_said(host, words):
    with Client({}, tries=1) as asking, pytest.raises(RegistryUnavailable, match=words):
        asking.poll(Reference.parse(f"http://{host}/a/b:1"))


def test_a_registry_that_has_http_alone_is_told_how_to_write_it(registry):
    secure = Reference.parse(f"https://{registry.host}/team/app:1")
    with Client({}) as asking, pytest.raises(RegistryUnreachable) as caught:
        asking.poll(secure)
    said = str(caught.value)
    assert "it speaks plain http" in said
    assert f"write http:// or registries.{registry.host}.scheme: http" in said


def https_alone(handler, answer):
    """What Go's server says."""
    words = b"Client sent an HTTP request to an HTTPS server.\n"
    handler.send(faults.Answer(400, {"Content-Type": "text/plain"}, words))


@pytest.mark.parametrize("fault", [https_alone, faults.reset])
def test_a_registry_that_has_https_alone_is_told_how_to_write_it(registry, fault):
    registry.break_next("", fault, times=99)
    with client(registry, tries=1) as asking, pytest.raises(RegistryError) as caught:
        asking.poll(reference(registry))
    assert f"write https:// or registries.{registry.host}.scheme: https" in str(caught.value)


def test_silence_is_an_error_after_the_time_limit(registry):
    registry.break_next("", lambda handler, answer: handler.registry.closing.wait(30), times=9)
    with client(registry, tries=1) as asking, pytest.raises(RegistryUnavailable, match="in time"):
        asking.poll(reference(registry))


def test_retry_after_is_read_as_seconds_and_as_a_date():
    now = datetime.datetime.now(datetime.UTC)
    later = email.utils.format_datetime(now + datetime.timedelta(hours=1), usegmt=True)
    assert retry_after_seconds("17") == 17
    assert 3500 < (retry_after_seconds(later) or 0) <= 3600
    assert retry_after_seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    far = "Mon, 01 Jan 2024 00:00:00 +99999999999999"
    for nonsense in (None, "", "soon", "-5", "1e9", far):
        assert retry_after_seconds(nonsense) is None


def test_pauses_grow_and_stay_within_bounds():
    for tries in range(1, 2000):
        longest = min(30.0, 0.5 * 2.0 ** min(tries - 1, 50))
        assert longest / 2 <= backoff_seconds(tries, 0.5) <= longest


def test_a_proxy_of_the_environment_is_used_and_its_password_is_not_told(
    registry, monkeypatch, caplog
):
    monkeypatch.setenv("HTTP_PROXY", f"http://me:hunter2@{registry.host}")
    monkeypatch.setenv("NO_PROXY", "")
    caplog.set_level("DEBUG")
    with client(registry, tries=1) as asking:
        # The demo registry reads the path alone, and so can stand for a proxy.
        asking.poll(Reference.parse("http://registry.invalid/team/app:1"))
    assert registry.requests[0].path == "http://registry.invalid/v2/team/app/manifests/1"
    monkeypatch.setenv("HTTP_PROXY", "http://me:hunter2@localhost:1")
    with client(registry, tries=1) as asking, pytest.raises(RegistryUnavailable) as caught:
        asking.poll(Reference.parse("http://registry.invalid/team/app:1"))
    assert "proxy" in str(caught.value)
    assert "hunter2" not in str(caught.value) + caplog.text


def test_no_proxy_names_hosts_that_are_asked_directly(registry, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://localhost:1")
    monkeypatch.setenv("NO_PROXY", "localhost")
    with client(registry) as asking:
        asking.poll(reference(registry))


def test_certificate_authorities_that_cannot_be_read_are_a_configuration_error(tmp_path):
    (tmp_path / "ca.pem").write_text("no certificate")
    for name in ("ca.pem", "none.pem"):
        settings = {"localhost:1": RegistrySettings(ca_file=tmp_path / name)}
        with Client(settings) as asking, pytest.raises(ConfigError, match=name):
            asking.poll(Reference.parse("localhost:1/a/b:1"))
