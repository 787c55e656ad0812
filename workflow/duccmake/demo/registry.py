"""A registry in one process: what a pull and a push need of OCI's distribution-spec.

It listens on the loopback address only.  Content lives under a directory:
``blobs/<algorithm>/<hex>``, and for each repository ``tags/<tag>`` and
``manifests/<digest>`` (its media type).
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar, Self
from urllib.parse import parse_qs, unquote, urlsplit

from ..errors import InvalidReference
from ..fs.closing import Closing
from ..fs.files import write_atomically
from ..oci.reference import Digest

NAME = r"(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
_REFERENCE = r"(?P<reference>[A-Za-z0-9_][A-Za-z0-9._:-]{0,200})"

Query = Mapping[str, list[str]]


class DemoRegistry(Closing):
    """A registry on ``http://localhost:<port>`` for as long as the context lasts."""

    def __init__(self, root: Path, port: int = 0) -> None:
        self.store = Store(root)
        self._server = _Server(("127.0.0.1", port), self.handler_class())
        self._server.registry = self
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )

    def handler_class(self) -> type[Handler]:
        """The class that answers requests; subclasses return theirs."""
        return Handler

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Stop listening and close all connections."""
        self._server.shutdown()
        self._server.server_close()
        self._server.close_connections()
        self._thread.join()

    @property
    def port(self) -> int:
        """The port that was chosen."""
        return int(self._server.server_address[1])

    @property
    def host(self) -> str:
        """Host and port, as they stand in a reference."""
        return f"localhost:{self.port}"


class Store:
    """Blobs, manifests and tags in a directory; writes are atomic."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def put_blob(self, content: bytes) -> Digest:
        """Add a blob."""
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        write_atomically(self.blob_path(digest), content)
        return digest

    def put_manifest(self, name: str, media_type: str, content: bytes, tag: str = "") -> Digest:
        """Add a manifest to a repository, and point a tag to it."""
        digest = self.put_blob(content)
        write_atomically(self._manifests(name) / str(digest), media_type.encode())
        if tag:
            write_atomically(self._tags(name) / tag, str(digest).encode())
        return digest

    def manifest(self, name: str, reference: str) -> tuple[Digest, str, bytes] | None:
        """Digest, media type and bytes of a manifest, by tag or digest."""
        try:
            if ":" not in reference:
                reference = (self._tags(name) / reference).read_text()
            digest = Digest.parse(reference)
            media_type = (self._manifests(name) / str(digest)).read_text()
            return digest, media_type, self.blob_path(digest).read_bytes()
        except (FileNotFoundError, InvalidReference):
            return None

    def tags(self, name: str) -> list[str]:
        """All tags of a repository, sorted."""
        try:
            return sorted(path.name for path in self._tags(name).iterdir())
        except FileNotFoundError:
            return []

    def has_repository(self, name: str) -> bool:
        """Whether anything was ever pushed to the repository."""
        return self._manifests(name).is_dir()

    def _tags(self, name: str) -> Path:
        return self._repository(name) / "tags"

    def _manifests(self, name: str) -> Path:
        return self._repository(name) / "manifests"

    def _repository(self, name: str) -> Path:
        return self.root / "repositories" / name.replace("/", "%")


class _Server(ThreadingHTTPServer):
    """A threading server that knows its connections, to close them at the end."""

    daemon_threads = True
    request_queue_size = 128
    registry: DemoRegistry

    def __init__(self, *args: Any) -> None:
        self._connections: set[Any] = set()
        super().__init__(*args)

    def get_request(self) -> Any:
        """Accept a connection and remember it."""
        connection, address = super().get_request()
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is done."""
        self._connections.discard(request)
        super().shutdown_request(request)

    def close_connections(self) -> None:
        """Close what clients keep open."""
        for connection in list(self._connections):
            super().shutdown_request(connection)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class Handler(BaseHTTPRequestHandler):
    """Answers one connection's requests."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    routes: ClassVar[Mapping[str, str]] = {
        rf"/v2/{NAME}/manifests/{_REFERENCE}": "answer_manifest",
        rf"/v2/{NAME}/blobs/uploads/?": "answer_start_upload",
        rf"/v2/{NAME}/blobs/uploads/(?P<id>[0-9a-f]{{32}})": "answer_upload",
        rf"/v2/{NAME}/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)": "answer_blob",
        rf"/v2/{NAME}/tags/list": "answer_tags",
    }
    """The methods that answer, by the path of the request; the first that matches counts."""

    @property
    def registry(self) -> DemoRegistry:
        """The registry that is asked."""
        return self.server.registry

    @property
    def store(self) -> Store:
        """Its content."""
        return self.registry.store

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer GET."""
        self.serve()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def serve(self) -> None:
        """Take the request's body, and answer."""
        self.content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.respond()

    def respond(self) -> None:
        """Answer the request."""
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path in ("/v2", "/v2/"):
            if self.may(""):
                self.reply(200, b"{}", {"Content-Type": "application/json"})
            return
        for pattern, answer in self.routes.items():
            found = re.fullmatch(pattern, path)
            if found:
                if self.may(found["name"]):
                    getattr(self, answer)(query=query, **found.groupdict())
                return
        self.refuse(404, "UNSUPPORTED", "no such address")

    def may(self, name: str) -> bool:
        """Whether the request is allowed in a repository; anybody may do all here."""
        return True

    def reply(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
        """Send an answer; HEAD gets the headers alone."""
        self.send_response(status)
        headers = {"Content-Length": str(len(body)), **(headers or {})}
        if status == 204:
            del headers["Content-Length"]
        headers["Docker-Distribution-Api-Version"] = "registry/2.0"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.command != "HEAD":
            self.wfile.write(body)

    def refuse(
        self, status: int, code: str, message: str, headers: dict[str, str] | None = None
    ) -> None:
        """Send an error (distribution-spec, "Error Codes")."""
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.reply(status, body, {"Content-Type": "application/json", **(headers or {})})

    def body(self) -> bytes:
        """The request's body."""
        return self.content

    def answer_manifest(self, name: str, reference: str, query: Query) -> None:
        """A manifest, by tag or digest."""
        if self.command == "PUT":
            self._put_manifest(name, reference)
            return
        manifest = self.store.manifest(name, reference)
        if manifest is None:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
            return
        digest, media_type, content = manifest
        headers = {
            "Content-Type": media_type,
            "Docker-Content-Digest": str(digest),
            "ETag": f'"{digest}"',
        }
        self.reply(200, content, headers)

    def _put_manifest(self, name: str, reference: str) -> None:
        content = self.body()
        try:
            members = json.loads(content)
            blobs = [members["config"], *members["layers"]] if "layers" in members else []
            missing = [
                blob["digest"]
                for blob in blobs
                if not blob.get("urls")
                and not self.store.blob_path(Digest.parse(blob["digest"])).exists()
            ]
        except (ValueError, LookupError, TypeError):
            self.refuse(400, "MANIFEST_INVALID", "the manifest cannot be read")
            return
        if missing:
            self.refuse(400, "MANIFEST_BLOB_UNKNOWN", f"unknown: {', '.join(missing)}")
            return
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        if ":" in reference and reference != str(digest):
            self.refuse(400, "DIGEST_INVALID", "the manifest has another digest")
            return
        media_type = self.headers.get("Content-Type") or members.get("mediaType") or ""
        tag = "" if ":" in reference else reference
        self.store.put_manifest(name, media_type, content, tag)
        headers = {
            "Location": f"/v2/{name}/manifests/{digest}",
            "Docker-Content-Digest": str(digest),
        }
        if "subject" in members:
            headers["OCI-Subject"] = str(members["subject"]["digest"])
        self.reply(201, b"", headers)

    def answer_blob(self, name: str, digest: str, query: Query) -> None:
        """A blob, all of it."""
        try:
            path = self.store.blob_path(Digest.parse(digest))
            size = path.stat().st_size
        except (InvalidReference, FileNotFoundError):
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown")
            return
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        self.send_whole(path, size, headers)

    def send_whole(self, path: Path, size: int, headers: dict[str, str]) -> None:
        """Send a file, or the part of it that was asked for."""
        self.send_blob(path, 200, 0, size, headers)

    def send_blob(
        self, path: Path, status: int, start: int, length: int, headers: dict[str, str]
    ) -> None:
        """Send a part of a file."""
        self.reply(status, b"", {**headers, "Content-Length": str(length)})
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            if length:
                self.connection.sendfile(file, start, length)

    def answer_tags(self, name: str, query: Query) -> None:
        """All tags of a repository."""
        if not self.store.has_repository(name):
            self.refuse(404, "NAME_UNKNOWN", "repository name not known to registry")
            return
        self.send_tags(name, self.store.tags(name))

    def send_tags(self, name: str, tags: list[str], **headers: str) -> None:
        """Send a list of tags."""
        headers["Content-Type"] = "application/json"
        self.reply(200, json.dumps({"name": name, "tags": tags}).encode(), headers)

    def answer_start_upload(self, name: str, query: Query) -> None:
        """Say where a blob can be put to."""
        self.reply(202, b"", {"Location": f"/v2/{name}/blobs/uploads/{secrets.token_hex(16)}"})

    def answer_upload(self, name: str, id: str, query: Query) -> None:
        """Take a blob, in one piece."""
        digest = query.get("digest", [""])[0]
        if self.command == "PUT" and digest == str(self.store.put_blob(self.body())):
            self.created(name, digest)
        else:
            self.refuse(400, "DIGEST_INVALID", "the content has another digest")

    def created(self, name: str, digest: str) -> None:
        """Say that a blob is there."""
        location = f"/v2/{name}/blobs/{digest}"
        self.reply(201, b"", {"Location": location, "Docker-Content-Digest": digest})
