"""Requests to the webhook that no registry sends."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import changed, documents

from duccmake.config.configuration import Config
from duccmake.service.notices import NoticeQueue
from duccmake.service.webhook.callers import Secret
from duccmake.service.webhook.formats import READERS
from duccmake.service.webhook.serve import assembled
from support.wishes import recipe

WISHED = "r.example.org/team/app:1"
SECRET = "a secret"
TOKEN = "a-secret-of-thirty-two-characters"
MAX_BYTES = 20_000

_DIGEST = f"sha256:{'ab' * 32}"
_EVENT = {
    "action": "push",
    "target": {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "repository": "team/app",
        "tag": "1",
        "digest": _DIGEST,
        "url": "https://r.example.org/v2/team/app/manifests/1",
    },
    "request": {"host": "r.example.org"},
}
_VERSION = {
    "version": _DIGEST,
    "package_url": "r.example.org/team/app:1",
    "container_metadata": {"tag": {"name": "1", "digest": _DIGEST}},
}
BODIES: list[object] = [
    {"type": "PUSH_ARTIFACT", "event_data": {"resources": [{"resource_url": WISHED}]}},
    {
        "type": "REPLICATION",
        "event_data": {
            "replication": {
                "dest_resource": {"endpoint": "https://r.example.org", "namespace": "team"},
                "successful_artifact": [{"name_tag": "app [1 item(s) in total]"}],
            }
        },
    },
    {"events": [_EVENT]},
    _EVENT,
    {
        "object_kind": "pipeline",
        "object_attributes": {"status": "success"},
        "project": {"path_with_namespace": "team/app"},
    },
    {"image": WISHED},
    {"image": "docker.io/team/app:1", "digest": _DIGEST},
    {"object_kind": "push", "project": {"git_http_url": "https://g.example.org/team/app.git"}},
    {"repository": {"repo_name": "team/app"}, "push_data": {"tag": "1"}},
    {"docker_url": "r.example.org/team/app", "updated_tags": ["1"]},
    {
        "action": "published",
        "package": {
            "package_type": "CONTAINER",
            "name": "app",
            "namespace": "team",
            "package_version": _VERSION,
        },
    },
]
_TEXTS = st.one_of(
    st.sampled_from(
        [
            SECRET,
            f"Bearer {TOKEN}",
            f"Bearer {SECRET}",
            "Basic eDp5",
            "",
            "v1,",
            "sha256=",
            "nan",
            "1e999",
        ]
    ),
    st.text(st.characters(max_codepoint=255), max_size=30),
)
_HEADERS = st.dictionaries(
    st.sampled_from(
        [
            "authorization",
            "x-gitlab-token",
            "webhook-signature",
            "webhook-id",
            "webhook-timestamp",
            "x-hub-signature-256",
            "content-type",
            "content-length",
            "host",
            "accept",
            "range",
        ]
    ),
    st.one_of(_TEXTS, st.sampled_from(["application/x-www-form-urlencoded", "text/event-stream"])),
    max_size=4,
)
_PATHS = st.one_of(
    st.sampled_from(["/convert", "/convert", "/convert/", f"/convert/{'a' * 32}", "/convert/../x"]),
    st.sampled_from([f"/{name}" for name in READERS]),
    st.sampled_from(
        [
            "/status/",
            "/status/status.json",
            "/healthz",
            "/status/../../x",
            "/x",
            "/health",
            "/metrics",
        ]
    ),
    st.builds("/{}/{}".format, st.sampled_from(list(READERS)), _TEXTS),
    st.text(max_size=30).map("/{}".format),
)


class Service:
    """The application, called as uvicorn calls it."""

    def __init__(self, directory: Path) -> None:
        (directory / "recipe.yaml").write_text(
            recipe(f"https://{WISHED}", "https://docker.io/team/app:*")
        )
        issuer = {"issuer": "https://g.example.org", "audience": "x", "claims": {"project_id": "1"}}
        convert = {
            "tokens": [{"token_env": "TOKEN", "images": ["r.example.org/team/*"]}],
            "issuers": [issuer],
            "requests_a_minute": 100_000,
        }
        webhook = {"max_bytes": MAX_BYTES, "convert": convert}
        config = Config.parse({"recipe": "recipe.yaml", "webhook": webhook}, workdir=directory)
        self.queue = NoticeQueue(directory / "notices")
        self.queue.prepare()
        tokens = [Secret(TOKEN, "TOKEN", ("r.example.org/team/*",))]
        secrets = dict.fromkeys(READERS, SECRET)
        self.application = assembled(config, self.queue, secrets, tokens, lambda: True)

    def call(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, bytes]:
        """The status and the body of the answer."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode("utf-8", "surrogatepass"),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), text.encode("latin-1")) for name, text in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8484),
        }
        pieces = [body[at : at + 5000] for at in range(0, len(body), 5000)] or [b""]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if not pieces:
                return {"type": "http.disconnect"}
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(self.application(scope, receive, send))
        return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    found = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        os.chdir(directory)
        yield Service(Path(directory))
        os.chdir(found)


def _left(service: Service) -> set[str]:
    notices = service.queue.take()
    service.queue.drop(notices)
    return {notice.image for notice in notices}


@examples(150)
@given(
    st.sampled_from(["POST", "POST", "GET", "HEAD", "PUT", "OPTIONS", "X"]),
    _PATHS,
    _HEADERS,
    documents(BODIES) | st.binary(max_size=50) | st.just(b"x" * (3 * MAX_BYTES)),
)
def test_a_request_is_answered_and_leaves_no_notice_of_what_nobody_wishes_for(
    service: Service, method: str, path: str, headers: dict[str, str], body: bytes
):
    with confined(Path.cwd()):
        status, answer = service.call(method, path, headers, body)
        event(str(status))
        assert status in {200, 202, 400, 401, 403, 404, 405, 413, 503}
        # How it does is told to anybody, with metrics that need more room.
        assert len(answer) < 2000 or path == "/metrics"
        assert SECRET.encode() not in answer and TOKEN.encode() not in answer
        if status == 202:
            assert headers["authorization"].lower() == f"bearer {TOKEN}"
        if status == 503:
            assert path == "/health"
        others = _left(service) - {WISHED, ""}
        assert all(image.startswith("docker.io/team/app:") for image in others)


@examples(150)
@given(st.sampled_from(sorted(READERS)), changed(BODIES))
def test_a_reader_never_fails(sender: str, body: object):
    with confined():
        for notification in READERS[sender](body):
            event(notification.action)


@examples(50)
@given(
    st.sampled_from(sorted(READERS)),
    _HEADERS,
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.sampled_from(BODIES).map(lambda body: json.dumps(body).encode()),
)
def test_who_does_not_know_the_secret_leaves_nothing(
    service: Service, sender: str, headers: dict[str, str], secret: str, body: bytes
):
    if any(SECRET in text for text in (*headers.values(), secret)):
        return
    with confined(Path.cwd()):
        status, _ = service.call("POST", f"/{sender}/{secret}", headers, body)
        assert status in {401, 404}
        assert _left(service) == set()
