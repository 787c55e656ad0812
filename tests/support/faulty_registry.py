"""A registry that misbehaves on demand: the demo registry with faults put into its answers."""

from __future__ import annotations

import base64
import gzip
import http.client
import json
import random
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from support.registry import FullHandler, FullRegistry

HTML = b"<!doctype html><title>Sign in</title><p>Please sign in to go on."


@dataclass
class Answer:
    """What the registry would have said, before a fault gets at it."""

    status: int
    headers: dict[str, str]
    body: bytes


Fault = Callable[["FaultyHandler", Answer], None]


@dataclass
class Plan:
    """A fault for the requests that match, ``times`` times."""

    pattern: re.Pattern[str]
    fault: Fault
    times: int
    seen: int = 0


class FaultyRegistry(FullRegistry):
    """Breaks the answers that `break_next` names, or one in so many.

    ``tls`` is a certificate and its key, as `servers.certificate` makes them.
    """

    def __init__(
        self, root: Path, *, tls: tuple[Path, Path] | None = None, **options: object
    ) -> None:
        self._plans: list[Plan] = []
        self._plans_lock = threading.Lock()
        self._random: random.Random | None = None
        self._rate = 0.0
        self._deck: list[Fault] = []
        self.faults_made = 0
        self.closing = threading.Event()
        self.connections_made = 0
        self.identity_tokens: set[str] = set()
        self.forms: list[dict[str, list[str]]] = []
        super().__init__(root, **options)  # type: ignore[arg-type]
        if tls:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*tls)
            # Each connection shakes hands in its own thread, on its first read.
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )

    def handler_class(self) -> type[FullHandler]:
        return FaultyHandler

    def close(self) -> None:
        self.closing.set()
        super().close()

    def break_next(self, pattern: str, fault: Fault, times: int = 1) -> Plan:
        """Break the next ``times`` answers to requests ("GET /v2/...") that match."""
        plan = Plan(re.compile(pattern), fault, times)
        self._plans.append(plan)
        return plan

    def forgive(self) -> None:
        """Break nothing any more."""
        self._plans, self._random = [], None

    def break_at_random(self, rate: float, seed: int) -> None:
        """Break answers to reading requests with this probability, in one way after the other."""
        self._random = random.Random(seed)
        self._rate = rate

    def fault_for(self, request: str) -> Fault | None:
        with self._plans_lock:
            for plan in self._plans:
                if plan.times and plan.pattern.search(request):
                    plan.times -= 1
                    plan.seen += 1
                    return plan.fault
            if self._random and self._random.random() < self._rate:
                if not self._deck:
                    self._deck = self._random.sample(RANDOM_FAULTS, len(RANDOM_FAULTS))
                self.faults_made += 1
                return self._deck.pop()
        return None


class FaultyHandler(FullHandler):
    """Hands each answer to the fault that is planned for it."""

    registry: FaultyRegistry
    fault: Fault | None = None
    blob: Path | None = None

    def setup(self) -> None:
        super().setup()
        self.server.registry.connections_made += 1  # type: ignore[attr-defined]

    def respond(self) -> None:
        self.blob = None
        self.fault = self.registry.fault_for(f"{self.command} {self.path}")
        if self.command == "POST" and self.path == "/token":
            self.exchange_identity_token()
        else:
            super().respond()

    def exchange_identity_token(self) -> None:
        """Give an access token for a refresh token (distribution, OAuth2 token authentication)."""
        form = parse_qs(b"".join(self._body()).decode())
        self.registry.forms.append(form)
        known = form.get("refresh_token", [""])[0] in self.registry.identity_tokens
        if form.get("grant_type") != ["refresh_token"] or not known:
            self.refuse(401, "UNAUTHORIZED", "unknown refresh token")
            return
        user, password = next(iter(self.registry.users.items()))
        basic = base64.b64encode(f"{user}:{password}".encode()).decode()
        token = self.registry.grant(f"Basic {basic}", form.get("scope", []))
        answer = {"access_token": token, "expires_in": self.registry.token_seconds}
        self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def whole(self) -> bytes:
        """All of the blob that a range was asked of."""
        assert self.blob
        return self.blob.read_bytes()

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        fault, self.fault = self.fault, None
        if fault:
            fault(self, Answer(status, dict(headers or {}), body))
        else:
            self.send(Answer(status, dict(headers or {}), body))

    def send(self, answer: Answer) -> None:
        super().reply(answer.status, answer.body, answer.headers)

    def send_blob(
        self, path: Path, status: int, start: int, length: int, headers: dict[str, str]
    ) -> None:
        self.blob = path
        if self.command == "HEAD":
            super().send_blob(path, status, start, length, headers)
            return
        with path.open("rb") as file:
            file.seek(start)
            self.reply(status, file.read(length), headers)

    def send_head(self, answer: Answer, length: int) -> None:
        """Headers that announce ``length`` bytes, and nothing yet of them."""
        super().reply(answer.status, b"", {**answer.headers, "Content-Length": str(length)})

    def send_half(self, answer: Answer) -> bytes:
        """Announce all of the body and send half of it; returns the rest."""
        half = len(answer.body) // 2
        self.send_head(answer, len(answer.body))
        self.wfile.write(answer.body[:half])
        return answer.body[half:]

    def break_connection(self) -> None:
        """Reset, as a firewall or a crashed server does."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


class FaultyProxy(FaultyRegistry):
    """A forward proxy, for plain HTTP, that breaks answers as the registry does.

    ``names`` are hosts that it alone knows, each with the one that is meant.
    """

    def __init__(self, root: Path) -> None:
        self.names: dict[str, str] = {}
        super().__init__(root)

    def handler_class(self) -> type[FullHandler]:
        return ProxyHandler


class ProxyHandler(FaultyHandler):
    """Forwards what is asked for, and hands the answer to the fault that is planned."""

    registry: FaultyProxy

    def respond(self) -> None:
        self.fault = self.registry.fault_for(f"{self.command} {self.path}")
        kept = ("Authorization", "Accept", "Range", "User-Agent")
        headers = {name: self.headers[name] for name in kept if name in self.headers}
        answer = self._ask(headers)
        self.reply(answer.status, answer.body, answer.headers)

    def whole(self) -> bytes:
        return self._ask({}).body

    def _ask(self, headers: dict[str, str]) -> Answer:
        parts = urlsplit(self.path)
        name = self.registry.names.get(parts.hostname or "", parts.hostname or "")
        connection = http.client.HTTPConnection(name, parts.port, timeout=30)
        try:
            target = f"{parts.path}?{parts.query}" if parts.query else parts.path
            connection.request(self.command, target, headers=headers)
            response = connection.getresponse()
            dropped = ("connection", "date", "docker-distribution-api-version")
            passed = {k: v for k, v in response.getheaders() if k.lower() not in dropped}
            return Answer(response.status, passed, response.read())
        finally:
            connection.close()


def status(code: int, **headers: str) -> Fault:
    """Another status: ``status(429, Retry_After="1")``."""

    def fault(handler: FaultyHandler, answer: Answer) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.send(Answer(code, named, b'{"errors":[{"code":"TOOMANYREQUESTS"}]}'))

    return fault


def reset(handler: FaultyHandler, answer: Answer) -> None:
    """The connection is reset before any answer."""
    handler.break_connection()


def reset_in_body(handler: FaultyHandler, answer: Answer) -> None:
    """The connection is reset after half of the body."""
    handler.send_half(answer)
    handler.break_connection()


def stall(handler: FaultyHandler, answer: Answer) -> None:
    """Half of the body comes, and then nothing any more."""
    handler.send_half(answer)
    handler.registry.closing.wait(30)
    handler.close_connection = True


def short(handler: FaultyHandler, answer: Answer) -> None:
    """The connection is closed after half of what was announced."""
    handler.send_half(answer)
    handler.close_connection = True


def short_and_sure(handler: FaultyHandler, answer: Answer) -> None:
    """Half of the body, announced as if it were all."""
    body = answer.body[: len(answer.body) // 2]
    handler.send(Answer(answer.status, answer.headers | _length(len(body)), body))


def long(handler: FaultyHandler, answer: Answer) -> None:
    """More than there is."""
    body = answer.body + b"and more"
    handler.send(Answer(answer.status, answer.headers | _length(len(body)), body))


def wrong_bytes(handler: FaultyHandler, answer: Answer) -> None:
    """The right length, other bytes."""
    body = bytes(byte ^ 1 for byte in answer.body[:64]) + answer.body[64:]
    handler.send(Answer(answer.status, answer.headers | _length(len(body)), body))


def range_ignored(handler: FaultyHandler, answer: Answer) -> None:
    """All of the blob where a range was asked for."""
    if answer.status != 206:
        handler.send(answer)
        return
    headers = {name: value for name, value in answer.headers.items() if name != "Content-Range"}
    body = handler.whole()
    handler.send(Answer(200, headers | _length(len(body)), body))


def other_range(handler: FaultyHandler, answer: Answer) -> None:
    """A range that begins elsewhere than was asked."""
    if answer.status != 206:
        handler.send(answer)
        return
    body = handler.whole()
    headers = answer.headers | {"Content-Range": f"bytes 0-{len(body) - 1}/{len(body)}"}
    handler.send(Answer(206, headers | _length(len(body)), body))


def html(handler: FaultyHandler, answer: Answer) -> None:
    """A login page, with status 200."""
    handler.send(Answer(200, {"Content-Type": "text/html"}, HTML))


def redirect(target: str) -> Fault:
    """A redirect; ``{path}`` stands for the request's path."""

    def fault(handler: FaultyHandler, answer: Answer) -> None:
        handler.send(Answer(307, {"Location": target.replace("{path}", handler.path)}, b""))

    return fault


def encoded(handler: FaultyHandler, answer: Answer) -> None:
    """The body compressed by a proxy that says so."""
    body = gzip.compress(answer.body)
    headers = answer.headers | {"Content-Encoding": "gzip"} | _length(len(body))
    handler.send(Answer(answer.status, headers, body))


def encoded_without_length(handler: FaultyHandler, answer: Answer) -> None:
    """The same, in chunks."""
    _send_chunked(handler, answer, gzip.compress(answer.body), {"Content-Encoding": "gzip"})


def mislabelled(handler: FaultyHandler, answer: Answer) -> None:
    """A compressed blob whose own compression is called its Content-Encoding."""
    headers = answer.headers | {"Content-Encoding": "gzip"}
    handler.send(Answer(answer.status, headers | _length(len(answer.body)), answer.body))


def mislabelled_without_length(handler: FaultyHandler, answer: Answer) -> None:
    """The same, in chunks."""
    _send_chunked(handler, answer, answer.body, {"Content-Encoding": "gzip"})


def lying_digest(handler: FaultyHandler, answer: Answer) -> None:
    """A Docker-Content-Digest that the body does not have."""
    lie = {"Docker-Content-Digest": "sha256:" + "0" * 64}
    handler.send(Answer(answer.status, answer.headers | lie, answer.body))


def malformed_digest(handler: FaultyHandler, answer: Answer) -> None:
    """A Docker-Content-Digest that climbs out of its directory."""
    lie = {"Docker-Content-Digest": "sha256:../../../etc/passwd"}
    handler.send(Answer(answer.status, answer.headers | lie, answer.body))


def quoted_digest(handler: FaultyHandler, answer: Answer) -> None:
    """A Docker-Content-Digest in quotes."""
    quoted = {"Docker-Content-Digest": f'"{answer.headers["Docker-Content-Digest"]}"'}
    handler.send(Answer(answer.status, answer.headers | quoted, answer.body))


def no_digest(handler: FaultyHandler, answer: Answer) -> None:
    """No Docker-Content-Digest at all."""
    answer.headers.pop("Docker-Content-Digest", None)
    handler.send(answer)


def new_pages_for_ever(handler: FaultyHandler, answer: Answer) -> None:
    """A list of tags that goes on with the same tag under new addresses."""
    count = handler.path.count("x")
    path = handler.path + "&x=" + "x" * (count + 1)
    headers = {"Content-Type": "application/json", "Link": f'<{path}>; rel="next"'}
    handler.send(Answer(200, headers, json.dumps({"tags": ["a"]}).encode()))


RANDOM_FAULTS: tuple[Fault, ...] = (
    status(429, Retry_After="0"),
    status(500),
    status(502),
    status(503, Retry_After="0"),
    reset,
    reset_in_body,
    short,
    long,
    wrong_bytes,
    short_and_sure,
    stall,
    html,
    no_digest,
    lying_digest,
    range_ignored,
    other_range,
    encoded,
    encoded_without_length,
)


def _length(length: int) -> dict[str, str]:
    return {"Content-Length": str(length)}


def _send_chunked(
    handler: FaultyHandler, answer: Answer, body: bytes, headers: dict[str, str]
) -> None:
    handler.send_response(answer.status)
    for name, value in {**answer.headers, **headers, "Transfer-Encoding": "chunked"}.items():
        if name != "Content-Length":
            handler.send_header(name, value)
    handler.end_headers()
    if handler.command != "HEAD":
        for start in range(0, len(body), 65536):
            piece = body[start : start + 65536]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n")


class Held:
    """Sends half of a body, and the rest only when it is let go."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.released = threading.Event()

    def again(self) -> None:
        """Hold the next one, too."""
        self.reached.clear()
        self.released.clear()

    def __call__(self, handler: FaultyHandler, answer: Answer) -> None:
        rest = handler.send_half(answer)
        handler.wfile.flush()
        self.reached.set()
        self.released.wait(120)
        handler.wfile.write(rest)


class PullLimit:
    """Docker Hub's kind of limit: so many GETs of manifests, told with every answer to a poll."""

    def __init__(self, pulls: int, window_seconds: int = 21600) -> None:
        self.left = pulls
        self.refused = 0
        self._window = window_seconds
        self._lock = threading.Lock()

    def __call__(self, handler: FaultyHandler, answer: Answer) -> None:
        with self._lock:
            if handler.command == "GET":
                self.refused += self.left == 0
                refuse, self.left = self.left == 0, max(0, self.left - 1)
            else:
                refuse = False
            answer.headers["RateLimit-Remaining"] = f"{self.left};w={self._window}"
        if refuse:
            answer = Answer(429, {"Retry-After": "4000"}, b"")
        handler.send(answer)
