"""The webhook from outside: real notifications, attacks, restarts."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import push
from support.runs import Work
from support.samples import text_image
from support.servers import docker_registry, need
from support.watching import Webhook, events, eventually, listening

SECRETS = {"harbor": "HARBOR", "distribution": "REGISTRY", "dockerhub": "HUB", "gitlab": "GITLAB"}


def harbor(*urls: str) -> dict[str, object]:
    resources = [{"resource_url": url} for url in urls]
    return {"type": "PUSH_ARTIFACT", "event_data": {"resources": resources}}


WISHED = "r.example.org/team/app:1"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    work = Work(tmp_path_factory.mktemp("webhook") / "work")
    work.wish(f"https://{WISHED}", "https://r.example.org/team/other:*")
    work.configure(
        webhook={"secrets": {sender: f"{name}_SECRET" for sender, name in SECRETS.items()}}
    )
    return work


@pytest.fixture(scope="module")
def webhook(work: Work) -> Iterator[Webhook]:
    env = {f"{name}_SECRET": f"{name.lower()}-s3cret" for name in SECRETS.values()}
    with listening(work, env=env) as webhook:
        yield webhook


@pytest.fixture(autouse=True)
def empty(work: Work) -> None:
    for path in (work.path / "results/notices").rglob("*.json"):
        path.unlink()


def test_a_wished_image_leaves_a_notice_and_any_other_an_answer_alone(webhook: Webhook, work: Work):
    body = harbor(WISHED, "r.example.org/team/other:2", "r.example.org/unknown:1", "../../x")
    answer = webhook.post("/harbor", body, Authorization="harbor-s3cret")
    assert (answer.status_code, answer.json()) == (200, {"images": 2})
    assert webhook.waiting() == [WISHED, "r.example.org/team/other:2"]
    for _ in range(3):
        assert webhook.post("/harbor", body, Authorization="harbor-s3cret").status_code == 200
    assert len(webhook.waiting()) == 2
    told = [event["image"] for event in events(work, "receive_notice")]
    assert sorted(told) == webhook.waiting()
    assert webhook.session.get(f"{webhook.url}/healthz").json() == {"waiting": 2}


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/harbor", {}),
        ("/harbor", {"Authorization": "harbor-s3cre"}),
        ("/harbor", {"Authorization": "registry-s3cret"}),
        ("/harbor/harbor", {"Authorization": "Basic harbor-s3cret"}),
        ("/dockerhub", {}),
        ("/dockerhub/wrong", {}),
        ("/gitlab", {"X-Gitlab-Token": "wrong"}),
        ("/gitlab", {"Webhook-Signature": "v1,AAAA", "X-Gitlab-Token": "gitlab-s3cret"}),
    ],
)
def test_without_the_secret_nothing_happens(webhook: Webhook, path: str, headers: dict[str, str]):
    answer = webhook.post(path, harbor(WISHED), **headers)
    assert answer.status_code == 401
    assert webhook.waiting() == []
    assert "s3cret" not in webhook.said()


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"no json", 400),
        (b"[" * 100_000, 400),
        (b'{"type": "PUSH_ARTIFACT", "event_data": {"resources": null}}', 200),
        (b"\xff\xfe", 400),
        (b"5", 200),
        (b'{"events": [' + b"1," * 100_000 + b"1]}", 200),
        (b" " * (1024**2 + 1), 413),
    ],
)
def test_odd_bodies_are_answered(webhook: Webhook, body: bytes, status: int):
    answer = webhook.post("/harbor", body, Authorization="harbor-s3cret")
    assert answer.status_code == status
    assert webhook.waiting() == []


def test_a_body_without_end_is_cut_off(webhook: Webhook):
    sent = 0

    def pieces() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(1600):
            sent += 65536
            yield b"x" * 65536

    try:
        answer = webhook.session.post(f"{webhook.url}/harbor", pieces(), timeout=60)
        assert answer.status_code == 413
    except OSError:  # it hung up while we were sending
        pass
    assert sent < 100 * 1024**2
    assert webhook.post("/harbor", {}, Authorization="harbor-s3cret").status_code == 200


def test_other_paths_and_methods_are_refused(webhook: Webhook):
    assert webhook.post("/nobody", {}).status_code == 404
    assert webhook.post("/", {}).status_code == 404
    assert webhook.session.get(f"{webhook.url}/harbor").status_code == 405
    assert webhook.post("/harbor/a/b", {}).status_code == 404


def test_a_restart_loses_no_notice(work: Work):
    env = {f"{name}_SECRET": "x" for name in SECRETS.values()}
    with listening(work, env=env) as first:
        assert first.post("/harbor", harbor(WISHED), Authorization="x").status_code == 200
        first.kill()
    with listening(work, env=env) as second:
        assert second.waiting() == [WISHED]
        assert second.stop(signal.SIGTERM) == 0
    assert second.waiting() == [WISHED]


def test_a_secret_that_is_not_there_is_told_and_nothing_starts(work: Work):
    with pytest.raises(AssertionError, match="HARBOR_SECRET is not set"), listening(work):
        pass


def test_debians_registry_sends_and_is_heard(tmp_path: Path):
    need("docker-registry")
    work = Work(tmp_path / "work")
    work.path.mkdir()
    env = {"REGISTRY_SECRET": "registry-s3cret"}
    work.configure(webhook={"secrets": {"distribution": "REGISTRY_SECRET"}})
    work.wish(f"https://{WISHED}")
    with listening(work, env=env) as webhook:
        notify = {f"{webhook.url}/distribution": "Bearer registry-s3cret"}
        with docker_registry(tmp_path / "registry", notify=notify) as registry:
            host = registry.host
            work.wish(f"http://{host}/team/app:1", f"http://{host}/team/glob:v*")
            push(text_image("other"), host, "team/unwished", "1")
            push(text_image("one"), host, "team/app", "1")
            push(text_image("two"), host, "team/app", "2")
            push(text_image("glob"), host, "team/glob", "v7")
            wanted = [f"{host}/team/app:1", f"{host}/team/glob:v7"]
            eventually(lambda: webhook.waiting() == wanted or None, "hears both", webhook)
