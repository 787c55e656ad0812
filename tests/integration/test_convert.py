"""A pipeline asks for what it has pushed, follows it, and waits until it is visible."""

from __future__ import annotations

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from prometheus_client.parser import text_string_to_metric_families

from duccmake.demo.images import Image
from support.faulty_registry import FaultyRegistry, Held
from support.images import Layer, push, write_oci_layout
from support.issuer import AUDIENCE, Issuer, claims, issuing, token
from support.runs import CHECKOUT, Work, fresh_work
from support.samples import AMD64, slow_layer, text_image
from support.servers import docker_registry, skopeo
from support.watching import Webhook, eventually, listening, watching

SECRET = "a-secret-of-thirty-two-characters"


def settings(issuer: Issuer, **more: Any) -> dict[str, Any]:
    rule = {
        "issuer": issuer.url,
        "audience": AUDIENCE,
        "claims": {"project_path": "team/*"},
        "images": ["*/team/*"],
    }
    tokens = [{"token_env": "CI_TOKEN"}]
    return {"convert": {"issuers": [rule], "tokens": tokens, **more}}


@pytest.fixture(scope="module")
def issuer() -> Iterator[Issuer]:
    with issuing("/git") as issuer:
        yield issuer


def serving(work: Work) -> Any:
    return listening(work, env={"CI_TOKEN": SECRET})


def ask(webhook: Webhook, bearer: str, image: str, **members: Any) -> requests.Response:
    body = {"image": image, **members}
    return webhook.post("/convert", body, Authorization=f"Bearer {bearer}")


def events_of(webhook: Webhook, address: str, last: str = "") -> list[dict[str, Any]]:
    """All events up to the end of the stream."""
    headers = {"Accept": "text/event-stream", **({"Last-Event-ID": last} if last else {})}
    found = []
    with webhook.session.get(
        f"{webhook.url}{address}", headers=headers, stream=True, timeout=240
    ) as answer:
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert "no-store" in answer.headers["Cache-Control"]
        identity = ""
        for line in answer.iter_lines():
            if line.startswith(b"id: "):
                identity = line[4:].decode()
            if line.startswith(b"data: "):
                found.append({**json.loads(line[6:]), "id": identity})
    return found


def states(events: list[dict[str, Any]]) -> list[str]:
    """The states in their order, each once."""
    return list(dict.fromkeys(event["state"] for event in events))


def wait(work: Work, *options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "scripts/duccmake"), "wait", *options],
        cwd=work.path,
        env=work.env(),
        capture_output=True,
        text=True,
    )


ORDER = ["queued", "resolving", "fetching", "unpacking", "publishing", "visible"]


def test_a_pipeline_pushes_asks_follows_and_waits(tmp_path: Path, issuer: Issuer):
    work = Work(tmp_path / "work")
    work.path.mkdir()
    image = text_image("one", slow_layer("base", 300))
    write_oci_layout(image, tmp_path / "layout", "1")
    with docker_registry(tmp_path / "registry") as registry:
        host = registry.host
        name = f"{host}/team/app:1"
        work.wish(f"http://{host}/team/app:*", f"http://{host}/team/broken:1")
        work.configure(
            platforms=[str(AMD64)],
            webhook=settings(issuer),
            # No poll by itself comes to the rescue.
            watch={"interval": 3600, "retry": 3600},
            retry={},
        )
        with serving(work) as webhook, watching(work) as watch:
            eventually(lambda: health(webhook).status_code == 200 or None, "lives", watch)
            ended = work.path / "results/status/status.json"
            eventually(ended.exists, "the first run", watch)
            digest_file = tmp_path / "digest"
            skopeo(
                "copy", "--quiet", "--dest-tls-verify=false", "--digestfile", str(digest_file),
                f"oci:{tmp_path}/layout:1", f"docker://{name}",
            )  # fmt: skip
            digest = digest_file.read_text().strip()

            answer = ask(webhook, token(claims(issuer.url)), name, digest=digest)
            assert answer.status_code == 202, answer.text
            address = answer.json()["progress"]
            assert answer.headers["Location"] == address
            found = events_of(webhook, address)
            told = states(found)
            assert told == sorted(told, key=ORDER.index)
            assert told[-1] == "visible", found
            assert {"fetching", "unpacking", "publishing"} & set(told)
            last = found[-1]
            assert (last["image"], last["digest"], last["manifests"]) == (name, digest, [digest])
            fetched = [event["fetched"] for event in found if event["bytes"]]
            assert fetched == sorted(fetched)
            link = work.repository.path / name
            assert (link / "content").read_text() == "one"

            # Who has heard the end is told to come no more.
            headers = {"Accept": "text/event-stream", "Last-Event-ID": last["id"]}
            again = webhook.session.get(f"{webhook.url}{address}", headers=headers)
            assert again.status_code == 204

            done = wait(work, f"{name}@{digest}", "--service", f"{webhook.url}{address}")
            assert (done.returncode, done.stdout.split()[0]) == (0, "visible"), done.stderr
            done = wait(work, f"{name}@{digest}", "--timeout", "60")
            assert (done.returncode, done.stdout.split()[0]) == (0, "visible"), done.stderr
            other = f"sha256:{'0' * 64}"
            done = wait(work, f"{name}@{other}", "--service", f"{webhook.url}{address}")
            assert done.returncode == 2 and "is about" in done.stderr

            # One that fails says why, and when it is tried again.
            broken = Image((Layer(b"no archive" * 100),), {}, platform=AMD64)
            pushed = push(broken, host, "team/broken", "1")
            answer = ask(webhook, SECRET, f"{host}/team/broken:1", digest=str(pushed))
            address = answer.json()["progress"]
            found = events_of(webhook, address)
            assert states(found)[-1] == "failed", found
            assert "is no tar header" in found[-1]["reason"]
            assert found[-1]["next_try"] > time.time()
            done = wait(work, f"{host}/team/broken:1", "--service", f"{webhook.url}{address}")
            assert done.returncode == 1
            assert "failed" in done.stderr and "tried again from" in done.stderr
            done = wait(work, f"{host}/team/broken:1@{pushed}")
            assert done.returncode == 1 and "tried again from" in done.stderr
            assert watch.stop() == 0
            assert health(webhook).status_code == 503
            assert health(webhook).json()["problems"] == ["the watcher does not run"]


def health(webhook: Webhook) -> requests.Response:
    return webhook.session.get(f"{webhook.url}/health")


def test_progress_is_measured_and_outlives_the_service(tmp_path: Path, issuer: Issuer):
    with fresh_work(tmp_path, FaultyRegistry) as work:
        assert isinstance(work.registry, FaultyRegistry)
        below = slow_layer("base", 100)
        digest = str(work.push("team/app:1", text_image("one", below)))
        name = work.named("team/app:1")
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)], webhook=settings(issuer))
        held = Held()
        held.again()
        work.registry.break_next(f"blobs/.*{below.digest.hex}", held)
        with serving(work) as webhook:
            # Without a watcher it waits, and says no more than that.
            address = ask(webhook, SECRET, name, digest=digest).json()["progress"]
            told = progress(webhook, address)
            assert (told["state"], "does not run" in told["reason"]) == ("queued", True)
            with watching(work) as watch:
                eventually(held.reached.is_set, "fetches", watch)
                told = eventually(
                    lambda: (found := progress(webhook, address))["state"] == "fetching" and found,
                    "the progress", watch, webhook,
                )  # fmt: skip
                assert 0 <= told["fetched"] < told["bytes"]
                job = f"fetch_blob {below.digest.short}"
                eventually(lambda: job in running_jobs(webhook), "the job", watch)
                webhook.kill()
                with serving(work) as second:
                    again = progress(second, address)
                    assert (again["state"], again["image"]) == ("fetching", name)
                    held.released.set()
                    assert events_of(second, address)[-1]["state"] == "visible"
                    assert watch.stop() == 0
                    # What its tag leads to later is another matter.
                    work.push("team/app:1", text_image("two", below))
                    work.run(check=True)
                    assert progress(second, address)["state"] == "visible"
                    address = ask(second, SECRET, name, digest=digest).json()["progress"]
                    assert progress(second, address)["state"] != "visible"


def running_jobs(webhook: Webhook) -> list[str]:
    current = health(webhook).json()["current_run"]
    return current["jobs"] if current else []


def progress(webhook: Webhook, address: str) -> dict[str, Any]:
    answer = webhook.session.get(f"{webhook.url}{address}")
    assert answer.status_code == 200
    found: dict[str, Any] = answer.json()
    return found


# --- without a watcher ----------------------------------------------------

WISHED = "r.example.org/team/app:1"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory, issuer: Issuer) -> Work:
    work = Work(tmp_path_factory.mktemp("convert") / "work")
    work.wish(f"https://{WISHED}", "https://r.example.org/other/app:*")
    work.configure(webhook=settings(issuer, requests_a_minute=1000))
    return work


@pytest.fixture(scope="module")
def webhook(work: Work) -> Iterator[Webhook]:
    with serving(work) as webhook:
        yield webhook


def test_only_what_the_wish_list_covers_and_the_token_may_is_converted(
    webhook: Webhook, work: Work, issuer: Issuer
):
    job = token(claims(issuer.url))
    answers = [
        ask(webhook, job, "r.example.org/team/unknown:1"),
        ask(webhook, job, "r.example.org/other/app:1"),
        ask(webhook, job, "r.example.org/nobody/app:1"),
    ]
    assert {answer.status_code for answer in answers} == {403}
    words = [answer.json()["error"].replace("unknown", "app") for answer in answers]
    assert len({text.partition(" has ")[0] for text in words}) == 1
    assert webhook.waiting() == []
    assert ask(webhook, job, WISHED).status_code == 202
    assert ask(webhook, job, "r.example.org:443/team/app:1").status_code == 202
    assert ask(webhook, job, f"{WISHED}@sha256:{'1' * 64}").json()["digest"].startswith("sha256:1")
    assert ask(webhook, SECRET, "r.example.org/other/app:7").status_code == 202
    assert webhook.waiting() == ["r.example.org/other/app:7", WISHED]


@pytest.mark.parametrize(
    ("members", "status"),
    [
        ({"aud": "https://elsewhere.example.org"}, 401),
        ({"exp": 1}, 401),
        ({"nbf": 2**33}, 401),
        ({"iss": "http://127.0.0.1:1/git"}, 401),
        ({"project_path": "other/app"}, 403),
    ],
)
def test_tokens_for_something_else_are_refused(
    webhook: Webhook, issuer: Issuer, members: dict[str, Any], status: int
):
    answer = ask(webhook, token(claims(issuer.url, **members)), WISHED)
    assert answer.status_code == status
    assert "progress" not in answer.json()
    if status == 401:
        assert answer.headers["WWW-Authenticate"].startswith("Bearer ")
    assert answer.request.headers["Authorization"].split()[1] not in webhook.said()


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"5", b'"x"', b"{}", b"[" * 5000, b'{"image": 5}', b'{"image": ""}',
        b'{"image": "../../x"}', b'{"image": "r.example.org/team/app:*"}',
        b'{"image": "oci:/etc"}', b'{"image": "r.example.org/team/app:1", "digest": "sha256:1"}',
        b'{"image": "r.example.org/team/app:1", "digest": ["x"]}', b"\xff\xfe",
        b'{"image": "r.example.org/team/app:1\\u0000"}',
    ],
)  # fmt: skip
def test_odd_requests_are_answered(webhook: Webhook, body: bytes):
    answer = webhook.post("/convert", body, Authorization=f"Bearer {SECRET}")
    assert answer.status_code == 400, answer.text
    assert webhook.post("/convert", body).status_code == 401


def test_bodies_are_bounded_and_methods_are_those_that_there_are(webhook: Webhook):
    answer = webhook.post("/convert", b" " * 20_000, Authorization=f"Bearer {SECRET}")
    assert answer.status_code == 413
    assert webhook.session.get(f"{webhook.url}/convert").status_code == 405
    for path in ("/convert/x", f"/convert/{'x' * 32}", "/convert/..%2f..%2fconfig", "/convert/%00"):
        assert webhook.session.get(f"{webhook.url}{path}").status_code in (404, 405)
        assert webhook.session.post(f"{webhook.url}{path}").status_code in (404, 405)


def test_a_slash_too_many_is_no_redirect_and_head_opens_no_stream(webhook: Webhook):
    bearer = {"Authorization": f"Bearer {SECRET}"}
    answer = webhook.post("/convert/", {"image": WISHED}, **bearer)
    assert (answer.status_code, answer.history) == (202, [])
    address = f"{webhook.url}{answer.json()['progress']}"
    assert webhook.session.get(f"{address}/").json()["state"] == "queued"
    events = {"Accept": "text/event-stream"}
    for _ in range(20):
        head = webhook.session.head(address, headers=events, timeout=10)
        assert head.status_code == 200
        assert head.headers["Content-Type"].startswith("text/event-stream")
    assert metrics(webhook)["duccmake_webhook_streams"] == 0
    assert webhook.session.head(address).headers["Content-Type"] == "application/json"


def test_streams_are_bounded_and_one_that_ends_makes_room(webhook: Webhook):
    address = ask(webhook, SECRET, WISHED).json()["progress"]
    headers = {"Accept": "text/event-stream"}

    def opened() -> requests.Response:
        return requests.get(f"{webhook.url}{address}", headers=headers, stream=True, timeout=60)

    streams = [opened() for _ in range(8)]
    assert {stream.status_code for stream in streams} == {200}
    lines = streams[0].iter_lines()
    assert next(lines) == b"retry: 3000"
    refused = opened()
    assert (refused.status_code, "Retry-After" in refused.headers) == (503, True)
    for stream in streams:
        stream.close()
    eventually(lambda: metrics(webhook)["duccmake_webhook_streams"] == 0, "room", webhook)
    with opened() as stream:
        assert stream.status_code == 200


def test_who_hangs_up_before_anything_was_sent_leaves_room(webhook: Webhook):
    address = ask(webhook, SECRET, WISHED).json()["progress"]
    place = urlsplit(webhook.url)
    request = f"GET {address} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    for _ in range(30):
        with socket.create_connection((str(place.hostname), place.port or 80)) as client:
            # What is closed so is reset, not ended.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(request.encode())
    eventually(lambda: metrics(webhook)["duccmake_webhook_streams"] == 0, "room", webhook)


def test_a_token_has_so_many_requests_a_minute(tmp_path: Path, issuer: Issuer):
    work = Work(tmp_path / "work")
    work.wish(f"https://{WISHED}")
    work.configure(webhook=settings(issuer, requests_a_minute=2, url="https://p.example.org/x/"))
    with serving(work) as webhook:
        first = ask(webhook, SECRET, WISHED)
        assert first.headers["Location"].startswith("https://p.example.org/x/convert/")
        assert [ask(webhook, SECRET, WISHED).status_code for _ in range(2)] == [202, 429]
        assert ask(webhook, token(claims(issuer.url)), WISHED).status_code == 202
        # A stream that is open does not keep the service from ending.
        address = first.json()["progress"].rpartition("/x")[2]
        headers = {"Accept": "text/event-stream"}
        with webhook.session.get(f"{webhook.url}{address}", headers=headers, stream=True) as stream:
            assert webhook.stop() == 0
            assert b"retry: 3000" in stream.content


def test_nobody_may_ask_where_nobody_is_named(tmp_path: Path):
    work = Work(tmp_path / "work")
    work.wish(f"https://{WISHED}")
    with listening(work) as webhook:
        assert ask(webhook, SECRET, WISHED).status_code == 404


def test_a_token_that_is_short_is_told_and_nothing_starts(work: Work):
    short = listening(work, env={"CI_TOKEN": "short"})
    with pytest.raises(AssertionError, match="CI_TOKEN has fewer than 20 characters"), short:
        pass


def test_health_and_metrics_tell_what_is_known(webhook: Webhook, work: Work):
    answer = health(webhook)
    assert answer.status_code == 503
    assert answer.json()["status"] == "unavailable"
    assert webhook.session.get(f"{webhook.url}/health/").status_code == 503
    (work.path / "results/status").mkdir(exist_ok=True)
    (work.path / "results/status/metrics.prom").write_text(
        "# HELP duccmake_layers Layers.\n# TYPE duccmake_layers gauge\nduccmake_layers 7.0\n"
    )
    found = metrics(webhook)
    assert found["duccmake_layers"] == 7
    assert found["duccmake_watcher_heartbeat_timestamp_seconds"] == 0
    assert any(name.startswith("duccmake_webhook_requests_total") for name in found)


def metrics(webhook: Webhook) -> dict[str, float]:
    """All samples, the name of a metric before its labels."""
    answer = webhook.session.get(f"{webhook.url}/metrics")
    assert answer.headers["Content-Type"].startswith("text/plain; version=")
    return {
        sample.name + (str(sample.labels) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }
