from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from duccmake.errors import (
    DigestMismatch,
    NotFound,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    Unauthorized,
    UnsupportedImage,
)
from duccmake.oci.globs import matching
from duccmake.oci.manifest import DOCKER_LIST, OCI_MANIFEST, Descriptor, Index
from duccmake.oci.reference import Digest, Platform, Reference
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support.faulty_registry import FaultyRegistry
from support.samples import AMD64
from support.servers import add_image, add_index, reference, sha256

ANNOUNCED = b"HTTP/1.1 103 Early Hints\r\n\r\n"
SECRETS = {"U": "me", "P": "hunter2"}


def settings(registry: FaultyRegistry, **more: object) -> dict[str, RegistrySettings]:
    more.setdefault("timeout_seconds", 5.0)
    return {registry.host: RegistrySettings(scheme="http", **more)}


def client(registry: FaultyRegistry, **more: object) -> Client:
    known = {"username_env": "U", "password_env": "P"} if registry.users else {}
    return Client(settings(registry, **known, **more), backoff_seconds=0.001, environment=SECRETS)


def manifest_requests(registry: FaultyRegistry) -> list[str]:
    """The methods by which manifests were asked for."""
    return [request.method for request in registry.requests if "/manifests/" in request.path]


@pytest.fixture
def registry(tmp_path):
    with FaultyRegistry(tmp_path / "registry") as running:
        yield running


def test_a_poll_is_one_head_and_costs_no_pull(registry):
    image = add_image(registry.store, "team/app", "1")
    with client(registry) as asking:
        assert asking.poll(reference(registry)) == image.manifest.digest
    assert registry.requested() == ["HEAD /v2/team/app/manifests/1"]


def test_polls_share_their_connections(registry):
    add_image(registry.store, "team/app", "1")
    with client(registry, connections=2) as asking, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: asking.poll(reference(registry)), range(40)))
    assert len(registry.requests) == 40
    assert registry.connections_made <= 2


def test_a_poll_falls_back_to_get_where_head_names_no_digest(registry):
    image = add_image(registry.store, "team/app", "1")
    registry.break_next("^HEAD", faults.no_digest)
    with client(registry) as asking:
        assert asking.poll(reference(registry)) == image.manifest.digest
    assert [request.method for request in registry.requests] == ["HEAD", "GET"]


@pytest.mark.parametrize("code", [400, 401, 403, 404, 405, 406, 410, 415, 500, 501, 502, 503, 504])
def test_get_decides_where_head_is_refused_and_head_is_not_tried_again(registry, code):
    images = {tag: add_image(registry.store, "team/app", tag) for tag in ("1", "2", "3")}
    registry.break_next("^HEAD", faults.status(code), times=99)
    with client(registry) as asking:
        for tag, image in images.items():
            assert asking.poll(reference(registry, f"team/app:{tag}")) == image.manifest.digest
    assert manifest_requests(registry) == ["HEAD", "GET", "GET", "GET"]


def test_docker_hub_is_asked_by_head_again_for_each_get_is_a_pull(tmp_path, monkeypatch):
    with FaultyRegistry(tmp_path) as registry:
        monkeypatch.setattr("duccmake.registry.client.DOCKER_HUB", registry.host)
        add_image(registry.store, "team/app", "1")
        registry.break_next("^HEAD", faults.status(403))
        with client(registry) as asking:
            asking.poll(reference(registry))
            asking.poll(reference(registry))
        assert manifest_requests(registry) == ["HEAD", "GET", "HEAD"]


def test_what_neither_head_nor_get_finds_says_nothing_about_head(registry):
    add_image(registry.store, "team/app", "1")
    with client(registry) as asking:
        with pytest.raises(NotFound):
            asking.poll(reference(registry, "team/app:none"))
        asking.poll(reference(registry))
    assert manifest_requests(registry) == ["HEAD", "GET", "HEAD"]


def silence(handler, answer):
    """Nothing at all, until the client gives up."""
    handler.registry.closing.wait(30)


def garbage(handler, answer):
    """What is no HTTP."""
    handler.wfile.write(b"\x15\x03\x01 garbage\r\n\r\n")
    handler.close_connection = True


def body_of_head(handler, answer):
    """A body behind the headers, which a HEAD never has: it is no part of the next answer."""
    handler.send(answer)
    handler.wfile.write(answer.body)


@pytest.mark.parametrize(
    "fault",
    [
        silence,
        garbage,
        faults.reset,
        faults.redirect("{path}"),
        faults.redirect("ftp://localhost/x"),
        faults.redirect("http://localhost:1/x"),
        faults.status(302),
        faults.status(304),
        faults.status(408),
        faults.status(401, WWW_Authenticate="Basic realm=x"),
        faults.malformed_digest,
        faults.quoted_digest,
        body_of_head,
    ],
)
def test_get_decides_where_head_fails_in_whatever_way(registry, fault):
    images = {tag: add_image(registry.store, "team/app", tag) for tag in ("1", "2")}
    registry.break_next("^HEAD", fault, times=99)
    with client(registry, timeout_seconds=0.5) as asking:
        for tag, image in images.items():
            named = reference(registry, f"team/app:{tag}")
            assert asking.poll(named) == asking.manifest(named).digest == image.manifest.digest


def test_a_registry_that_fails_at_head_alone_is_not_left_alone(registry):
    names = [f"team/app{number}:1" for number in range(24)]
    images = [add_image(registry.store, *name.split(":")) for name in names]
    together = threading.Barrier(8)

    def fault(handler, answer):
        together.wait(30)
        handler.break_connection()

    registry.break_next("^HEAD", fault, times=8)
    registry.break_next("^HEAD", faults.reset, times=99)
    with client(registry) as asking, ThreadPoolExecutor(8) as pool:
        polled = pool.map(lambda name: asking.poll(reference(registry, name)), names)
        assert list(polled) == [image.manifest.digest for image in images]


def test_a_registry_that_allows_no_more_polls_is_not_asked_by_get_instead(registry):
    registry.break_next("^HEAD", faults.status(429, Retry_After="3600"))
    with client(registry) as asking, pytest.raises(RateLimited):
        asking.poll(reference(registry))
    assert manifest_requests(registry) == ["HEAD"]


def test_what_is_no_digest_names_none(registry):
    image = add_image(registry.store, "team/app", "1")
    registry.break_next("", faults.malformed_digest, times=2)
    with client(registry) as asking:
        assert asking.poll(reference(registry)) == image.manifest.digest


def test_the_manifest_keeps_the_bytes_of_the_registry(registry):
    image = add_image(registry.store, "team/app", "1")
    with client(registry) as asking:
        manifest = asking.manifest(reference(registry))
    assert sha256(manifest.raw) == manifest.digest == image.manifest.digest
    assert manifest.layers == image.layers


@pytest.mark.parametrize("fault", [faults.lying_digest, faults.wrong_bytes, faults.long])
def test_a_manifest_that_has_not_its_digest_is_refused_and_fetched_twice_at_most(registry, fault):
    add_image(registry.store, "team/app", "1")
    registry.break_next("^GET", fault, times=100)
    with client(registry) as asking:
        for _ in range(3):
            with pytest.raises(DigestMismatch):
                asking.manifest(reference(registry))
    assert len(registry.requests) == 2


@pytest.mark.parametrize("fault", [faults.wrong_bytes, faults.html, faults.short, faults.reset])
def test_a_manifest_damaged_once_is_asked_for_again(registry, fault):
    image = add_image(registry.store, "team/app", "1")
    registry.break_next("^GET", fault)
    with client(registry) as asking:
        assert asking.manifest(reference(registry)).digest == image.manifest.digest


def test_a_login_page_with_status_200_is_no_manifest(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("", faults.html, times=100)
    with client(registry) as asking, pytest.raises(RegistryUnavailable, match="page"):
        asking.poll(reference(registry))


def labelled(encoding: str, content: Callable[[bytes], bytes]) -> faults.Fault:
    """A body made of the right one, and what it is called."""

    def fault(handler, answer):
        body = content(answer.body)
        said = {"Content-Encoding": encoding, "Content-Length": str(len(body))}
        handler.send(faults.Answer(answer.status, answer.headers | said, body))

    return fault


@pytest.mark.parametrize(
    "fault",
    [
        faults.encoded,
        faults.encoded_without_length,
        faults.mislabelled,
        faults.mislabelled_without_length,
        labelled("x-gzip", gzip.compress),
        labelled("deflate", zlib.compress),
        labelled("identity, gzip", gzip.compress),
        labelled("gzip, gzip", lambda body: gzip.compress(gzip.compress(body))),
        labelled("br", bytes),
        labelled("utf-8", bytes),
    ],
)
def test_a_content_encoding_of_a_manifest_or_configuration_does_not_change_it(registry, fault):
    """Whether the body has it, or is only called so."""
    image = add_image(registry.store, "team/app", "1")
    registry.break_next("^GET", fault, times=100)
    with client(registry) as asking:
        found = select_image(asking, reference(registry), AMD64)
        assert found[1].digest == image.manifest.digest


def test_what_a_content_encoding_holds_is_bounded(registry):
    add_image(registry.store, "team/app", "1")
    bomb = labelled("gzip", lambda body: gzip.compress(bytes(10_000_000)))
    registry.break_next("^GET", bomb, times=100)
    with (
        Client(settings(registry), max_manifest_bytes=100_000) as asking,
        pytest.raises(RegistryError, match="more than the 100000 bytes"),
    ):
        asking.manifest(reference(registry))


@pytest.mark.parametrize("code", [100, 102, 103])
def test_what_comes_ahead_of_an_answer_is_not_the_answer(registry, code, tmp_path):
    def fault(handler, answer):
        handler.wfile.write(b"HTTP/1.1 %d Wait\r\nLink: </x>\r\n\r\n" % code * 2)
        handler.send(answer)

    image = add_image(registry.store, "team/app", "1")
    registry.break_next("", fault, times=100)
    with client(registry) as asking:
        assert asking.poll(reference(registry)) == image.manifest.digest
        assert asking.manifest(reference(registry)).digest == image.manifest.digest
        asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")


def test_an_answer_that_is_announced_without_end_is_given_up(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("", lambda handler, _: handler.wfile.write(ANNOUNCED * 1000), times=100)
    with client(registry) as asking, pytest.raises(RegistryUnavailable):
        asking.manifest(reference(registry))


def test_a_manifest_over_the_limit_is_refused_and_one_over_4_mb_is_not(registry):
    add_image(registry.store, "team/app", "1")
    raw = json.loads(registry.store.manifest("team/app", "1")[2])
    raw["annotations"] = {"filler": "x" * 5_000_000}
    registry.store.put_manifest("team/app", OCI_MANIFEST, json.dumps(raw).encode(), "large")
    large = reference(registry, "team/app:large")
    with client(registry) as asking:
        assert len(asking.manifest(large).raw) > 5_000_000
    with (
        Client(settings(registry), max_manifest_bytes=4_000_000) as asking,
        pytest.raises(RegistryError, match="4000000"),
    ):
        asking.manifest(large)


def test_what_does_not_exist_is_not_found_at_once(registry):
    with client(registry) as asking, pytest.raises(NotFound) as caught:
        asking.poll(reference(registry, "team/none:1"))
    assert manifest_requests(registry) == ["HEAD", "GET"]
    assert len(registry.requests) == 3, "and /v2/, which asks for nothing"
    assert caught.value.code == "MANIFEST_UNKNOWN"
    assert f"{registry.host}/team/none:1" in str(caught.value)


def test_resolving_finds_manifest_and_configuration(registry):
    image = add_image(registry.store, "team/app", "1", docker=True)
    with client(registry) as asking:
        digest, manifest, config = select_image(asking, reference(registry), AMD64)
    assert (digest, manifest.config) == (image.manifest.digest, image.config)
    assert config.env == ("PATH=/bin",)


def test_resolving_goes_through_indexes_in_indexes(registry):
    store = registry.store
    arm = add_image(store, "team/app", platform=Platform("linux", "arm64", "v8"))
    amd = add_image(store, "team/app", platform=AMD64)
    inner = add_index(store, "team/app", "", [arm.manifest, amd.manifest], DOCKER_LIST)
    outer = add_index(store, "team/app", "1", [inner])
    with client(registry) as asking:
        digest, manifest, _ = select_image(asking, reference(registry), AMD64)
        assert isinstance(asking.manifest(reference(registry)), Index)
        wish = Platform.parse("linux/arm64")
        assert select_image(asking, reference(registry), wish)[1].digest == arm.manifest.digest
    assert (digest, manifest.digest) == (outer.digest, amd.manifest.digest)


@pytest.mark.parametrize("lie", [-1, 1])
@pytest.mark.parametrize("nested", [False, True])
def test_an_index_that_has_another_size_for_a_manifest_is_refused(registry, lie, nested):
    store = registry.store
    entry = add_image(store, "team/app").manifest
    if nested:
        entry = add_index(store, "team/app", "", [entry])
    wrong = replace(entry, size=entry.size + lie)
    add_index(store, "team/app", "1", [wrong])
    with Client({}) as client, pytest.raises(DigestMismatch) as caught:
        select_image(client, reference(registry, "team/app:1"), AMD64)
    assert f"{entry.size} bytes" in str(caught.value) and str(wrong.size) in str(caught.value)
    assert caught.value.image == reference(registry, "team/app:1").name
    add_index(store, "team/app", "1", [entry])
    with Client({}) as client:
        assert select_image(client, reference(registry, "team/app:1"), AMD64)


@pytest.mark.parametrize(
    "missing", [Platform("", ""), Platform("linux", ""), Platform("", "arm64")]
)
def test_what_a_configuration_leaves_open_an_index_or_else_the_wish_says(registry, missing):
    store, arm = registry.store, Platform("linux", "arm64", "v8")
    alone = add_image(store, "team/app", "alone", config_platform=missing)
    named = add_image(store, "team/app", platform=arm, config_platform=missing)
    unnamed = add_image(store, "team/app", platform=None, config_platform=missing)
    add_index(store, "team/app", "named", [named.manifest])
    add_index(store, "team/app", "unnamed", [unnamed.manifest])
    with Client({}) as client:
        for name, image in {"alone": alone, "named": named, "unnamed": unnamed}.items():
            found = select_image(client, reference(registry, f"team/app:{name}"), arm)[1]
            assert found.digest == image.manifest.digest
        with pytest.raises(UnsupportedImage, match="linux/arm64/v8"):
            select_image(client, reference(registry, "team/app:named"), AMD64)


def test_an_entry_that_needs_a_feature_is_passed_over_and_named_where_there_is_no_other(registry):
    store = registry.store
    special, plain = (
        add_image(store, "team/app", layers=(text,)).manifest for text in (b"1", b"2")
    )
    entries = [replace(special, os_features=("nydus.remoteimage.v1",)), plain]
    add_index(store, "team/app", "1", entries)
    add_index(store, "team/app", "2", entries[:1])
    with Client({}) as client:
        assert (
            select_image(client, reference(registry, "team/app:1"), AMD64)[1].digest == plain.digest
        )
        with pytest.raises(UnsupportedImage, match=r"only for: linux/amd64 with nydus\.remote"):
            select_image(client, reference(registry, "team/app:2"), AMD64)


def test_indexes_nested_without_end_are_given_up(registry):
    entry = add_image(registry.store, "team/app").manifest
    for _ in range(40):
        entry = add_index(
            registry.store,
            "team/app",
            "1",
            [Descriptor(entry.media_type, entry.digest, entry.size)],
        )
    with client(registry) as asking, pytest.raises(UnsupportedImage):
        select_image(asking, reference(registry), AMD64)
    assert len(registry.requests) < 12


def test_a_platform_that_is_not_there_is_refused_and_what_is_there_is_named(registry):
    store = registry.store
    arm = add_image(store, "team/app", platform=Platform("linux", "arm", "v7"))
    attestation = add_image(store, "team/app", platform=Platform("unknown", "unknown"))
    add_index(store, "team/app", "1", [arm.manifest, attestation.manifest])
    add_image(store, "team/app", "single", platform=Platform("linux", "s390x"))
    with client(registry) as asking:
        with pytest.raises(UnsupportedImage, match=r"only for: linux/arm/v7(;|$)"):
            select_image(asking, reference(registry), AMD64)
        with pytest.raises(UnsupportedImage, match="linux/s390x"):
            select_image(asking, reference(registry, "team/app:single"), AMD64)


def test_an_index_without_platforms_is_judged_by_the_configurations(registry):
    store = registry.store
    entries = [
        add_image(store, "team/app", platform=None, config_platform=Platform("linux", name))
        for name in ("arm64", "amd64")
    ]
    add_index(store, "team/app", "1", [entry.manifest for entry in entries])
    with client(registry) as asking:
        assert (
            select_image(asking, reference(registry), AMD64)[1].digest == entries[1].manifest.digest
        )


def test_an_artifact_is_refused_with_its_type(registry):
    chart = "application/vnd.cncf.helm.config.v1+json"
    add_image(registry.store, "team/app", "1", config_type=chart)
    with client(registry) as asking, pytest.raises(UnsupportedImage, match=r"vnd\.cncf\.helm"):
        select_image(asking, reference(registry), AMD64)


def test_a_configuration_with_wrong_bytes_is_refused(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("^GET .*/blobs/", faults.wrong_bytes, times=100)
    with client(registry) as asking, pytest.raises(DigestMismatch):
        select_image(asking, reference(registry), AMD64)


def test_all_pages_of_a_list_of_tags_are_read(registry):
    image = add_image(registry.store, "team/app")
    raw = registry.store.manifest("team/app", str(image.manifest.digest))[2]
    names = [f"v{number}" for number in range(25)]
    for name in names:
        registry.store.put_manifest("team/app", OCI_MANIFEST, raw, name)
    registry.page_size = 10
    with client(registry) as asking:
        assert asking.tags(reference(registry)) == sorted(names)
    assert len(registry.requests) == 3


def test_nearly_ten_thousand_tags_are_ten_pages(registry, monkeypatch):
    there = sorted(f"v{number}" for number in range(9_999))
    add_image(registry.store, "team/app", "v0")
    monkeypatch.setattr(registry.store, "tags", lambda name: there)
    with client(registry) as asking:
        assert asking.tags(reference(registry, "team/app:*")) == there
    assert len(registry.requested()) == 10


def test_a_list_of_tags_without_end_is_given_up(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("tags/list", faults.new_pages_for_ever, times=1000)
    with client(registry) as asking, pytest.raises(RegistryError, match="without end"):
        asking.tags(reference(registry))
    assert len(registry.requests) < 5


def test_a_list_of_tags_that_cannot_be_read_is_an_error_not_an_empty_list(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("tags/list", faults.html, times=100)
    with client(registry) as asking, pytest.raises(RegistryError, match="cannot be read"):
        asking.tags(reference(registry))


def test_only_star_and_question_mark_are_special_in_a_tag_glob():
    tags = ["1.2", "1x2", "1.20", "v1.2", "a+b"]
    assert matching("1.?", tags) == ["1.2"]
    assert matching("1.*", tags) == ["1.2", "1.20"]
    assert matching("*1.2", tags) == ["1.2", "v1.2"]
    assert matching("[0-9]*", tags) == []
    assert matching("a+b", tags) == ["a+b"]


def test_a_redirect_to_another_host_carries_no_credentials(tmp_path):
    with (
        FaultyRegistry(tmp_path / "a", users={"me": "hunter2"}) as registry,
        FaultyRegistry(tmp_path / "b") as store,
    ):
        image = add_image(registry.store, "team/app", "1")
        add_image(store.store, "team/app", "1")
        with client(registry) as asking:
            asking.poll(reference(registry))
            registry.break_next("/blobs/", faults.redirect(f"{store.url}{{path}}"), times=9)
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert any(request.authorization for request in registry.requests)
        assert [request.authorization for request in store.requests] == [""]


def test_a_redirect_on_the_same_host_keeps_them(tmp_path):
    with FaultyRegistry(tmp_path / "a", users={"me": "hunter2"}) as registry:
        image = add_image(registry.store, "team/app", "1")
        with client(registry) as asking:
            asking.poll(reference(registry))
            registry.break_next("/blobs/", faults.redirect("{path}"))
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert registry.requests[-1].authorization


SIGNED = (
    "/store/a%2fb%2Fc/./d/../e//f?sig=a%2fb%2B+/c==&X-Amz-Credential=k%2Fs3&e=%c3%a9&space=%20",
    "/store/x?list[]=1&odd=|^`{}\"<>'~!*()&again=?&empty=&=&&",
    "/store/x?",
    "/store/x;v=1?a;b=c",
    "/store/%7euser/%41?sig=%7E%7e",
)


@pytest.mark.parametrize("target", SIGNED)
@pytest.mark.parametrize("place", ["", "http://{host}", "HTTP://{host}", "  http://{host}"])
def test_a_redirect_is_followed_letter_by_letter(registry, target, place):
    """An address that is signed is good as it came alone."""
    image = add_image(registry.store, "team/app", "1")
    content = registry.store.blob_path(image.config.digest).read_bytes()
    registry.break_next("/store/", lambda handler, _: handler.send(faults.Answer(200, {}, content)))
    location = place.format(host=registry.host) + target + (" \t" if place[:1] == " " else "")
    moved = faults.Answer(307, {"Location": location}, b"")
    registry.break_next("/blobs/", lambda handler, _: handler.send(moved))
    with client(registry) as asking:
        asking.blob_bytes(reference(registry), image.config)
    assert registry.requests[-1].path == target


def test_a_redirect_within_a_proxy_is_followed_letter_by_letter(registry, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", registry.url)
    monkeypatch.setenv("NO_PROXY", "")
    image = add_image(registry.store, "team/app", "1")
    content = registry.store.blob_path(image.config.digest).read_bytes()
    registry.break_next("/store/", lambda handler, _: handler.send(faults.Answer(200, {}, content)))
    moved = faults.Answer(307, {"Location": f"http://s3.invalid{SIGNED[0]}"}, b"")
    registry.break_next("/blobs/", lambda handler, _: handler.send(moved))
    with client(registry) as asking:
        asking.blob_bytes(Reference.parse("http://registry.invalid/team/app:1"), image.config)
    assert registry.requests[-1].path == f"http://s3.invalid{SIGNED[0]}"


@pytest.mark.parametrize(
    ("location", "asked"),
    [("/store/a b", "/store/a%20b"), ("/store/é?é", "/store/%C3%A9?%C3%A9"), ("/x#part", "/x")],
)
def test_what_no_request_line_may_hold_is_quoted(registry, location, asked):
    image = add_image(registry.store, "team/app", "1")
    content = registry.store.blob_path(image.config.digest).read_bytes()
    registry.break_next(
        "/(store|x)", lambda handler, _: handler.send(faults.Answer(200, {}, content))
    )
    moved = faults.Answer(307, {"Location": location.encode().decode("latin-1")}, b"")
    registry.break_next("/blobs/", lambda handler, _: handler.send(moved))
    with client(registry) as asking:
        asking.blob_bytes(reference(registry), image.config)
    assert registry.requests[-1].path == asked


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410])
@pytest.mark.parametrize("place", ["", "http://127.0.0.1:{port}"])
def test_where_the_address_of_a_redirect_is_good_no_more_the_registry_gives_another(
    registry, code, place, tmp_path
):
    image = add_image(registry.store, "team/app", "1")
    gone = faults.Answer(code, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied")
    registry.break_next("sig=1", lambda handler, _: handler.send(gone))
    registry.break_next(
        "/blobs/[^?]*$", faults.redirect(place.format(port=registry.port) + "{path}?sig=1")
    )
    with client(registry) as asking:
        asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert (tmp_path / "blob").exists()


def test_what_is_missing_where_a_registry_leads_within_itself_is_not_found(registry):
    registry.break_next("app/manifests/", faults.redirect("/v2/team/other/manifests/1"), times=9)
    with client(registry) as asking, pytest.raises(NotFound):
        asking.poll(reference(registry))


def test_a_redirect_loop_ends(registry):
    add_image(registry.store, "team/app", "1")
    registry.break_next("", faults.redirect("{path}"), times=1000)
    with client(registry) as asking, pytest.raises(RegistryError, match="redirects more than"):
        asking.poll(reference(registry))
    assert len(registry.requests) < 30


@pytest.mark.parametrize(
    "target", ["", "file:///etc/passwd", "ftp://x/y", "//[::1", "http://x:99999/y", "http://:80/"]
)
def test_a_redirect_to_nowhere_is_refused(registry, target):
    add_image(registry.store, "team/app", "1")
    registry.break_next("", faults.redirect(target), times=1000)
    with client(registry) as asking, pytest.raises(RegistryError, match="redirects to nowhere"):
        asking.poll(reference(registry))
    assert manifest_requests(registry) == ["HEAD", "GET"]


def test_anonymous_tokens_suffice_for_what_is_public(tmp_path):
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        add_image(registry.store, "team/app", "1")
        with client(registry) as asking:
            select_image(asking, reference(registry), AMD64)
        assert [r for r in registry.requested() if "/token" in r] == [
            "GET /token?service=demo&scope=repository%3Ateam%2Fapp%3Apull"
        ]


def test_the_second_repository_costs_no_refused_request(tmp_path):
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        add_image(registry.store, "team/app", "1")
        add_image(registry.store, "team/other", "1")
        with client(registry) as asking:
            asking.poll(reference(registry))
            registry.requests.clear()
            asking.poll(reference(registry, "team/other:1"))
        assert [r.method for r in registry.requests] == ["GET", "HEAD"]


def test_a_token_that_ends_in_the_middle_of_a_run_is_replaced(tmp_path):
    with FaultyRegistry(tmp_path, users={"me": "hunter2"}, tokens=True) as registry:
        add_image(registry.store, "team/app", "1")
        with client(registry) as asking:
            asking.poll(reference(registry))
            registry.revoke_tokens()
            select_image(asking, reference(registry), AMD64)


@pytest.mark.parametrize("tokens", [False, True])
def test_wrong_credentials_are_told_without_naming_them(tmp_path, caplog, tokens):
    caplog.set_level("DEBUG")
    with FaultyRegistry(tmp_path, users={"me": "another"}, tokens=tokens) as registry:
        add_image(registry.store, "team/app", "1")
        with client(registry) as asking, pytest.raises(Unauthorized) as caught:
            asking.poll(reference(registry))
        assert "hunter2" not in str(caught.value) + caplog.text
        assert "aHVudGVyMg" not in str(caught.value) + caplog.text
        assert len(registry.requests) <= 3


def test_no_credentials_for_a_private_repository_say_what_to_do(tmp_path):
    with FaultyRegistry(tmp_path, users={"me": "another"}) as registry:
        add_image(registry.store, "team/app", "1")
        with (
            Client(settings(registry), environment={}) as asking,
            pytest.raises(Unauthorized, match="log in"),
        ):
            asking.poll(reference(registry))


def test_threads_that_need_the_same_token_fetch_it_once(tmp_path):
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        add_image(registry.store, "team/app", "1")
        start = threading.Barrier(8)

        def poll(_: int) -> Digest:
            start.wait()
            return asking.poll(reference(registry))

        with client(registry) as asking, ThreadPoolExecutor(8) as threads:
            assert len(set(threads.map(poll, range(8)))) == 1
        assert len([r for r in registry.requested() if "/token" in r]) == 1


def test_a_mirror_with_a_path_prefix_is_asked_before_the_registry(tmp_path):
    with FaultyRegistry(tmp_path / "a") as registry, FaultyRegistry(tmp_path / "b") as mirror:
        image = add_image(registry.store, "team/app", "1")
        add_image(mirror.store, "cache/team/app", "1")
        mirrors = (f"{mirror.url}/cache",)
        with client(registry, mirrors=mirrors) as asking:
            select_image(asking, reference(registry), AMD64)
            asking.tags(reference(registry))
        assert {request.partition("?")[0] for request in registry.requested()} == {
            "GET /v2/team/app/tags/list"
        }
        assert all("/v2/cache/team/app/" in request for request in mirror.requested())
        assert image.layers


@pytest.mark.parametrize("fault", [faults.status(404), faults.status(500), faults.status(403),
                                   faults.reset, faults.wrong_bytes, faults.html,
                                   faults.status(429, Retry_After="100")])  # fmt: skip
def test_what_a_mirror_does_not_deliver_comes_from_the_registry(tmp_path, fault):
    with FaultyRegistry(tmp_path / "a") as registry, FaultyRegistry(tmp_path / "b") as mirror:
        image = add_image(registry.store, "team/app", "1")
        add_image(mirror.store, "team/app", "1")
        mirror.break_next("", fault, times=1000)
        with client(registry, mirrors=(mirror.url,)) as asking:
            found = select_image(asking, reference(registry), AMD64)[0]
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert found == image.manifest.digest


def test_the_rate_limit_that_a_registry_tells_is_known(registry):
    add_image(registry.store, "team/app", "1")

    def limited(handler, answer):
        answer.headers["RateLimit-Remaining"] = "76;w=21600"
        handler.send(answer)

    registry.break_next("", limited)
    with client(registry) as asking:
        assert asking.rate_limit_remaining(reference(registry)) is None
        asking.poll(reference(registry))
        assert asking.rate_limit_remaining(reference(registry)) == 76


@pytest.mark.parametrize(
    "place", ["https://{host}", "http://localhost", "https://registry:5000", "//inner", ""]
)
def test_an_upload_goes_on_at_the_registry_by_whatever_name_it_knows_itself(registry, place):
    def inner(handler, answer):
        if "Location" in answer.headers:
            there = place.format(host=registry.host) + answer.headers["Location"]
            answer.headers["Location"] = f"{there}?_state=a%2fb%3D"
        handler.send(answer)

    registry.break_next("/uploads/", inner, times=99)
    content = b"new" * 100
    layer = Descriptor("x", sha256(content), len(content))
    with Client(settings(registry), chunk_bytes=100) as asking:
        assert asking.push_blob(reference(registry), layer, content)
    assert registry.store.blob_path(layer.digest).read_bytes() == content
    assert "?_state=a%2fb%3D&digest=" in registry.requests[-1].path


def test_an_upload_that_goes_elsewhere_is_refused(registry):
    def elsewhere(handler, answer):
        answer.headers["Location"] = "https://uploads.invalid/bucket"
        handler.send(answer)

    registry.break_next("/uploads/", elsewhere, times=99)
    with client(registry) as asking, pytest.raises(RegistryError, match=r"uploads\.invalid"):
        asking.push_blob(reference(registry), Descriptor("x", sha256(b"new"), 3), b"new")
