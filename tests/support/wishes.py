"""Wish lists elsewhere: git repositories, and servers of ours for them."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from duccmake.recipe.document import read
from duccmake.recipe.model import Recipe
from duccmake.recipe.parser import parse
from support.servers import need


class GitProject:
    """A git repository with one branch, ``main``, to commit wish lists to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.git("init", "--quiet", "--initial-branch=main", str(path), at=path.parent)
        self.git("config", "uploadpack.allowFilter", "true")
        self.git("config", "http.receivepack", "false")

    def git(self, *arguments: str, at: Path | None = None) -> str:
        done = subprocess.run(
            [need("git"), *arguments],
            cwd=at or self.path,
            env={
                **os.environ,
                "GIT_CONFIG_GLOBAL": "/dev/null",
                **{
                    f"GIT_{who}_{what}": "tests@example.org"
                    for who in ("AUTHOR", "COMMITTER")
                    for what in ("NAME", "EMAIL")
                },
            },
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, file: str, content: str) -> str:
        """Commit a file; returns the commit."""
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", "change")
        return self.git("rev-parse", "HEAD")


def load(path: Path) -> Recipe:
    """One wish list's file, as it stands."""
    return parse(path, read(path))


def recipe(*images: str, repository: str = "unpacked.example.org", user: str = "tests") -> str:
    """The text of a recipe."""
    entries = "".join(f"  - '{image}'\n" for image in images)
    return f"version: 1\nuser: {user}\ncvmfs_repo: {repository}\ninput:\n{entries}"


class Server(ThreadingHTTPServer):
    """Serves ``pages`` by path, and git repositories below ``projects`` by ``git http-backend``.

    ``asked`` are method, path and the Authorization header of all requests; with
    ``authorization`` set, others are refused.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.pages: dict[str, tuple[int, bytes, dict[str, str]]] = {}
        self.projects = Path()
        self.authorization = ""
        self.asked: list[tuple[str, str, str]] = []
        self.url = f"http://localhost:{self.server_port}"

    def page(self, path: str, content: str | bytes, status: int = 200, **headers: str) -> None:
        """Serve content at a path."""
        raw = content.encode() if isinstance(content, str) else content
        self.pages[path] = status, raw, headers


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        given = self.headers.get("Authorization", "")
        self.server.asked.append((self.command, self.path, given))
        path, _, query = self.path.partition("?")
        if self.server.authorization and given != self.server.authorization:
            self._reply(401, b"", {"WWW-Authenticate": 'Basic realm="tests"'})
        elif path in self.server.pages:
            status, body, headers = self.server.pages[path]
            if status == 200 and self.headers.get("If-None-Match") == headers.get("ETag", "-"):
                status, body = 304, b""
            self._reply(status, body, headers)
        elif ".git/" in path:
            self._git(path, query)
        else:
            self._reply(404, b"nothing here", {})

    do_POST = do_GET

    def _git(self, path: str, query: str) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        done = subprocess.run(
            ["git", "-c", "safe.directory=*", "http-backend"],
            input=body,
            capture_output=True,
            env={
                **os.environ,
                "GIT_PROJECT_ROOT": str(self.server.projects),
                "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            },
        )
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
        self._reply(int(fields.pop("Status", "200").split()[0]), content, fields)

    def _reply(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[Server]:
    """A `Server` on localhost for as long as the block lasts."""
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
