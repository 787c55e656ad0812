"""The webhook from outside: real notifications, attacks, restarts."""

from __future__ import annotations

import hmac
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import closing, suppress
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import pytest

from support.images import push
from support.runs import Work
from support.samples import text_image
from support.servers import docker_registry, need
from support.statuses import document, image, page
from support.watching import Program, Webhook, events, eventually, listening

SECRETS = {
    "harbor": "HARBOR",
    "distribution": "REGISTRY",
    "dockerhub": "HUB",
    "gitlab": "GITLAB",
    "quay": "QUAY",
    "azure": "AZURE",
    "ghcr": "GHCR",
}


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
    empty_queue(work)


def empty_queue(work: Work) -> None:
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
        ("/quay", {}),
        ("/quay/hub-s3cret", {}),
        ("/azure", {"Authorization": "registry-s3cret"}),
        ("/ghcr", {}),
        ("/ghcr", {"X-Hub-Signature-256": f"sha256={'0' * 64}", "Authorization": "ghcr-s3cret"}),
    ],
)
def test_without_the_secret_nothing_happens(webhook: Webhook, path: str, headers: dict[str, str]):
    answer = webhook.post(path, harbor(WISHED), **headers)
    assert answer.status_code == 401
    assert webhook.waiting() == []
    assert "s3cret" not in webhook.said()


def test_each_sender_is_heard_in_its_own_way(webhook: Webhook, work: Work):
    digest = f"sha256:{'ab' * 32}"
    quay = {"docker_url": WISHED.rpartition(":")[0], "updated_tags": ["0", "1"]}
    answer = webhook.post("/quay/quay-s3cret", quay)
    assert (answer.status_code, answer.json()) == (200, {"images": 1})
    target = {
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "digest": digest,
        "repository": "team/other",
        "tag": "3",
    }
    azure = {"action": "push", "target": target, "request": {"host": "r.example.org:443"}}
    answer = webhook.post("/azure", azure, Authorization="Bearer azure-s3cret")
    assert (answer.status_code, answer.json()) == (200, {"images": 1})
    assert webhook.waiting() == [WISHED, "r.example.org/team/other:3"]
    empty_queue(work)
    version = {"package_url": "r.example.org/team/app:1", "version": digest}
    members = {"package_type": "CONTAINER", "package_version": version}
    for kind in ("package", "registry_package"):
        plain = json.dumps({"action": "published", kind: members}).encode()
        form = urlencode({"payload": plain}).encode()
        for body, content in ((plain, "json"), (form, "x-www-form-urlencoded")):
            mac = hmac.new(b"ghcr-s3cret", body, "sha256").hexdigest()
            headers = {
                "X-Hub-Signature-256": f"sha256={mac}",
                "X-GitHub-Event": kind,
                "Content-Type": f"application/{content}",
            }
            answer = webhook.post("/ghcr", body, **headers)
            assert (answer.status_code, answer.json()) == (200, {"images": 1})
            assert webhook.waiting() == [WISHED]
            empty_queue(work)
            headers["X-Hub-Signature-256"] = f"sha256={mac[:-1]}{'1' if mac[-1] == '0' else '0'}"
            assert webhook.post("/ghcr", body, **headers).status_code == 401
            assert webhook.waiting() == []


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"", 400), (b"x=1", 400), (b"payload=", 400), (b"payload=%7B", 400), (b"payload={}", 200),
     (b"&".join([b"a=1"] * 20), 400), (b"%ff=%ff&payload=%ff", 400), (b'{"a": "&"}', 200)],
)  # fmt: skip
def test_odd_forms_are_answered(webhook: Webhook, body: bytes, status: int):
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": "ghcr-s3cret"}
    assert webhook.post("/ghcr", body, **headers).status_code == status


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


def test_who_sends_too_much_slowly_is_told_so(webhook: Webhook):
    body = b" " * (1024**2 + 1)
    place = urlsplit(webhook.url)
    sender = HTTPConnection(str(place.hostname), place.port, timeout=60)
    with closing(sender):
        sender.putrequest("POST", "/harbor")
        sender.putheader("Content-Length", str(len(body)))
        sender.endheaders(body[:-1000])
        # By the time that this is answered, what was sent so far has been looked at.
        assert webhook.session.get(f"{webhook.url}/healthz").status_code == 200
        sender.send(body[-1000:-1])
        assert webhook.session.get(f"{webhook.url}/healthz").status_code == 200
        sender.send(body[-1:])
        assert sender.getresponse().status == 413


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
    assert webhook.post("/harbor/a/b", {}).status_code == 401


def test_a_slash_too_many_is_not_redirected(webhook: Webhook):
    answer = webhook.post("/harbor/", harbor(WISHED), Authorization="harbor-s3cret")
    assert (answer.status_code, answer.history) == (200, [])
    assert webhook.waiting() == [WISHED]


def test_a_secret_in_an_address_may_have_slashes(work: Work):
    env = {f"{name}_SECRET": "a/b+c==" for name in SECRETS.values()}
    body = {"docker_url": WISHED.rpartition(":")[0], "updated_tags": ["1"]}
    with listening(work, env=env) as webhook:
        for path in ("/quay/a/b+c==", "/quay/a%2Fb%2Bc%3D%3D"):
            assert webhook.post(path, body).status_code == 200
        assert webhook.post("/quay/a/b", body).status_code == 401
        assert webhook.waiting() == [WISHED]


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


# --- where it listens -----------------------------------------------------


def start(work: Work, listen: str) -> Program:
    env = {f"{name}_SECRET": "x" for name in SECRETS.values()}
    return Program(
        work, "webhook.py", "--config", f"webhook={{listen: {json.dumps(listen)}}}", env=env
    )


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(60)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        return b" 200 " in client.recv(4096)


def hosts() -> Iterator[str]:
    """The loopback addresses of this machine, which need not have IPv6."""
    yield "127.0.0.1"
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        yield "[::1]"


@pytest.mark.parametrize("host", list(hosts()))
def test_that_a_port_is_taken_is_said_and_nothing_else(work: Work, host: str):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host.strip("[]"), 0), family=family) as taken:
        webhook = start(work, f"{host}:{taken.getsockname()[1]}")
        assert webhook.ends() == 1
    assert "webhook.listen: cannot listen at" in webhook.said()
    assert "in use" in webhook.said()
    assert "listening" not in webhook.said()
    assert "Traceback" not in webhook.said()


@pytest.mark.parametrize(
    "listen",
    [
        "127.0.0.1:99999",
        "192.0.2.1:8484",
        "nowhere.invalid:8484",
        "unix:list.yaml",
        "unix:no/where",
    ],
)
def test_an_address_that_cannot_be_is_said(work: Work, listen: str):
    (work.path / "list.yaml").write_text("kept\n")
    webhook = start(work, listen)
    assert webhook.ends() == 1
    assert f"webhook.listen: cannot listen at {listen}" in webhook.said()
    assert "listening" not in webhook.said()
    assert "Traceback" not in webhook.said()
    assert (work.path / "list.yaml").read_text() == "kept\n"


def test_a_unix_socket_is_taken_over_from_the_dead_alone(work: Work):
    path = work.path / "webhook.sock"
    first = start(work, "unix:webhook.sock")
    try:
        first.says("listening at unix:webhook.sock")
        assert answers(path)
        assert path.stat().st_mode & 0o777 == 0o666
        path.chmod(0o660)
        second = start(work, "unix:webhook.sock")
        assert second.ends() == 1
        assert "another program listens there" in second.said()
        assert answers(path)
    finally:
        first.kill()
    third = start(work, "unix:webhook.sock")
    try:
        third.says("listening at")
        assert answers(path)
        assert path.stat().st_mode & 0o777 == 0o660
        assert third.stop(signal.SIGTERM) == 0
    finally:
        third.kill()


def test_whoever_is_told_that_it_listens_is_answered(work: Work):
    for host in ("127.0.0.1", "localhost"):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        webhook = start(work, f"{host}:{port}")
        try:
            webhook.says("listening at")
            with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
                client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
                assert b" 200 " in client.recv(4096)
        finally:
            webhook.kill()


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


def test_page_and_document_of_the_last_run_are_served_alone(work: Work, webhook: Webhook):
    get = webhook.session.get
    assert get(f"{webhook.url}/status/").status_code == 404
    made = page(document(image(WISHED)), _status_of(work))

    answer = get(f"{webhook.url}/status/")
    assert answer.content == made.read_bytes()
    assert answer.headers["Content-Type"].startswith("text/html")
    assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert get(f"{webhook.url}/status/status.json").json()["images"][0]["title"] == WISHED
    assert get(f"{webhook.url}/status/index.html").content == made.read_bytes()
    for path in ("metrics", "%2e%2e/polls.json", "..%2f..%2fconfig/config.yaml", "images.tsv"):
        assert get(f"{webhook.url}/status/{path}").status_code in (404, 405)
    for method in ("POST", "PUT", "DELETE"):
        answer = webhook.session.request(method, f"{webhook.url}/status/status.json", data=b"x")
        assert answer.status_code in (404, 405)
    assert made.read_bytes().startswith(b"<!DOCTYPE html>")


def _status_of(work: Work) -> Path:
    directory = work.path / "results" / "status"
    directory.mkdir(parents=True)
    return directory
