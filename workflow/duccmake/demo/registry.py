"""A registry in one process: pull and push (OCI distribution-spec 1.1), for demo and tests.

It listens on the loopback address only.  Content lives under a directory:
``blobs/<algorithm>/<hex>``, and for each repository ``tags/<tag>`` and
``manifests/<digest>`` (its media type).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

from ..errors import InvalidReference
from ..fs.closing import Closing
from ..oci.manifest import OCI_INDEX
from ..oci.reference import Digest

_NAME = r"(?P<name>[a-z0-9]+(?:[._/-]+[a-z0-9]+)*)"
_MANIFEST = re.compile(
    rf"/v2/{_NAME}/manifests/(?P<reference>[A-Za-z0-9_][A-Za-z0-9._:-]{{0,200}})\Z"
)
_BLOB = re.compile(rf"/v2/{_NAME}/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)\Z")
_UPLOADS = re.compile(rf"/v2/{_NAME}/blobs/uploads/?\Z")
_UPLOAD = re.compile(rf"/v2/{_NAME}/blobs/uploads/(?P<id>[0-9a-f]{{32}})\Z")
_TAGS = re.compile(rf"/v2/{_NAME}/tags/list\Z")
_REFERRERS = re.compile(rf"/v2/{_NAME}/referrers/(?P<digest>[a-z0-9]+:[0-9a-f]+)\Z")
_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_UPLOAD_RANGE = re.compile(r"(\d+)-(\d+)\Z")
_CHUNK = 256 * 1024
_MAX_MANIFEST = 64 * 1024**2


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as it arrived; ``authorization`` is the header, "" without."""

    method: str
    path: str
    authorization: str = field(default="", repr=False)
    range: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class DemoRegistry(Closing):
    """A registry on ``http://localhost:<port>`` for as long as the context lasts.

    ``users`` (name to password) asks for Basic authentication, or with
    ``tokens`` for Bearer tokens that ``/token`` gives to these users, and for
    pulls to anybody where ``anonymous_pull`` is set.
    """

    def __init__(
        self,
        root: Path,
        port: int = 0,
        *,
        users: dict[str, str] | None = None,
        tokens: bool = False,
        anonymous_pull: bool = False,
        token_seconds: int = 300,
        page_size: int = 1000,
        delay_seconds: float = 0.0,
    ) -> None:
        self.store = Store(root)
        self.users = dict(users or {})
        self.tokens = tokens
        self.anonymous_pull = anonymous_pull
        self.token_seconds = token_seconds
        self.page_size = page_size
        self.delay_seconds = delay_seconds
        self.requests: list[LoggedRequest] = []
        self._granted: dict[str, tuple[float, frozenset[tuple[str, str]]]] = {}
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

    @property
    def url(self) -> str:
        """The base URL."""
        return f"http://{self.host}"

    def requested(self) -> list[str]:
        """The requests so far, each as method and path."""
        return [str(request) for request in self.requests]

    def challenge(self, scope: str) -> str:
        """The WWW-Authenticate header for a scope."""
        if not self.tokens:
            return 'Basic realm="duccmake demo"'
        return f'Bearer realm="{self.url}/token",service="demo",scope="{scope}"'

    def allows(self, authorization: str, name: str, action: str) -> bool:
        """Whether a request with this header may do ``action`` on ``name``."""
        if not self.users and not self.tokens:
            return True
        if not self.tokens:
            return self.user_of(authorization) is not None
        kind, _, token = authorization.partition(" ")
        expires, granted = self._granted.get(token, (0.0, frozenset()))
        alive = kind == "Bearer" and expires > time.monotonic()
        return alive and (not name or (name, action) in granted)

    def user_of(self, authorization: str) -> str | None:
        """The user whom a Basic header names with the right password."""
        kind, _, encoded = authorization.partition(" ")
        if kind != "Basic":
            return None
        try:
            user, _, password = base64.b64decode(encoded).decode().partition(":")
        except ValueError:
            return None
        right = user in self.users and secrets.compare_digest(self.users[user], password)
        return user if right else None

    def grant(self, authorization: str, scopes: list[str]) -> str | None:
        """A new token, or None where the credentials are wrong."""
        user = self.user_of(authorization) if authorization else None
        if authorization and user is None:
            return None
        granted = set()
        for scope in " ".join(scopes).split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            for action in actions.split(","):
                if kind == "repository" and (user or (self.anonymous_pull and action == "pull")):
                    granted.add((name, action))
        token = secrets.token_hex(16)
        self._granted[token] = (time.monotonic() + self.token_seconds, frozenset(granted))
        return token

    def revoke_tokens(self) -> None:
        """Make all tokens invalid, as if they had expired."""
        self._granted.clear()


class Store:
    """Blobs, manifests and tags in a directory; writes are atomic."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._uploads = root / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)

    def blob_path(self, digest: Digest) -> Path:
        """Where a blob is, or would be."""
        return self.root / "blobs" / digest.algorithm / digest.hex

    def put_blob(self, content: bytes) -> Digest:
        """Add a blob."""
        digest = Digest("sha256", hashlib.sha256(content).hexdigest())
        self._write(self.blob_path(digest), content)
        return digest

    def put_manifest(self, name: str, media_type: str, content: bytes, tag: str = "") -> Digest:
        """Add a manifest to a repository, and point a tag to it."""
        digest = self.put_blob(content)
        self._write(self._manifests(name) / str(digest), media_type.encode())
        if tag:
            self._write(self._tags(name) / tag, str(digest).encode())
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

    def delete_manifest(self, name: str, reference: str) -> bool:
        """Remove a tag, or a manifest with all tags that point to it."""
        if ":" not in reference:
            path = self._tags(name) / reference
            path.unlink(missing_ok=True)
            return True
        path = self._manifests(name) / reference
        if not path.exists():
            return False
        path.unlink()
        for tag in self.tags(name):
            if (self._tags(name) / tag).read_text() == reference:
                (self._tags(name) / tag).unlink()
        return True

    def tags(self, name: str) -> list[str]:
        """All tags of a repository, sorted."""
        try:
            return sorted(path.name for path in self._tags(name).iterdir())
        except FileNotFoundError:
            return []

    def referrers(self, name: str, subject: str) -> list[dict[str, Any]]:
        """Descriptors of the manifests of a repository that refer to a subject."""
        directory = self._manifests(name)
        found = []
        for path in sorted(directory.iterdir()) if directory.is_dir() else []:
            content = self.blob_path(Digest.parse(path.name)).read_bytes()
            members = json.loads(content)
            if members.get("subject", {}).get("digest") == subject:
                config = members.get("config", {})
                described = {
                    "mediaType": path.read_text(),
                    "digest": path.name,
                    "size": len(content),
                    "artifactType": members.get("artifactType") or config.get("mediaType"),
                    "annotations": members.get("annotations"),
                }
                found.append({key: value for key, value in described.items() if value})
        return found

    def has_repository(self, name: str) -> bool:
        """Whether anything was ever pushed to the repository."""
        return self._manifests(name).is_dir()

    def start_upload(self) -> str:
        """Begin an upload; its id."""
        upload = secrets.token_hex(16)
        (self._uploads / upload).touch()
        return upload

    def upload_path(self, upload: str) -> Path:
        """Where the bytes of an upload gather."""
        return self._uploads / upload

    def finish_upload(self, upload: str, digest: Digest) -> bool:
        """Make the upload a blob if it has the digest; it is gone in any case."""
        path = self.upload_path(upload)
        with path.open("rb") as file:
            right = hashlib.file_digest(file, digest.algorithm).hexdigest() == digest.hex
        if not right:
            path.unlink()
            return False
        target = self.blob_path(digest)
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
        return True

    def _tags(self, name: str) -> Path:
        return self.root / "repositories" / name.replace("/", "%") / "tags"

    def _manifests(self, name: str) -> Path:
        return self.root / "repositories" / name.replace("/", "%") / "manifests"

    def _write(self, path: Path, content: bytes) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._uploads / secrets.token_hex(16)
        temporary.write_bytes(content)
        temporary.rename(path)


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

    @property
    def registry(self) -> DemoRegistry:
        """The registry that is asked."""
        return self.server.registry

    @property
    def store(self) -> Store:
        """Its content."""
        return self.registry.store

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent: tests read the registry's log."""

    def do_GET(self) -> None:
        """Answer GET."""
        self._serve()

    do_HEAD = do_POST = do_PATCH = do_PUT = do_DELETE = do_GET

    def _serve(self) -> None:
        authorization = self.headers.get("Authorization", "")
        self.registry.requests.append(
            LoggedRequest(self.command, self.path, authorization, self.headers.get("Range", ""))
        )
        if self.registry.delay_seconds:
            time.sleep(self.registry.delay_seconds)
        self._body_left = int(self.headers.get("Content-Length") or 0)
        self._chunks_left = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        self.respond()
        self._drain()

    def respond(self) -> None:
        """Answer the request; subclasses put their faults around this."""
        parts = urlsplit(self.path)
        path, query = unquote(parts.path), parse_qs(parts.query)
        if path == "/token":
            self._token(query)
            return
        if path in ("/v2", "/v2/"):
            if self._may("", "pull"):
                self.reply(200, b"{}", {"Content-Type": "application/json"})
            return
        for pattern, answer in (
            (_MANIFEST, self._manifest),
            (_UPLOADS, self._start_upload),
            (_UPLOAD, self._upload),
            (_BLOB, self._blob),
            (_TAGS, self._tags),
            (_REFERRERS, self._referrers),
        ):
            found = pattern.match(path)
            if found:
                write = self.command not in ("GET", "HEAD")
                if self._may(found["name"], "push" if write else "pull"):
                    answer(query=query, **found.groupdict())
                return
        self.refuse(404, "UNSUPPORTED", "no such address")

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

    def _may(self, name: str, action: str) -> bool:
        if self.registry.allows(self.headers.get("Authorization", ""), name, action):
            return True
        actions = "pull" if action == "pull" else "pull,push"
        challenge = self.registry.challenge(f"repository:{name}:{actions}" if name else "")
        self.refuse(401, "UNAUTHORIZED", "authentication required", {"WWW-Authenticate": challenge})
        return False

    def _token(self, query: dict[str, list[str]]) -> None:
        token = self.registry.grant(self.headers.get("Authorization", ""), query.get("scope", []))
        if token is None:
            self.refuse(401, "UNAUTHORIZED", "incorrect username or password")
            return
        answer = {"token": token, "expires_in": self.registry.token_seconds}
        self.reply(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def _manifest(self, name: str, reference: str, query: dict[str, list[str]]) -> None:
        if self.command == "PUT":
            self._put_manifest(name, reference)
            return
        if self.command == "DELETE":
            found = self.store.delete_manifest(name, reference)
            if found:
                self.reply(202)
            else:
                self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")
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
        content = b"".join(self._body(_MAX_MANIFEST))
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

    def _referrers(self, name: str, digest: str, query: dict[str, list[str]]) -> None:
        listed = self.store.referrers(name, digest)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        self.reply(200, json.dumps(index).encode(), {"Content-Type": OCI_INDEX})

    def _blob(self, name: str, digest: str, query: dict[str, list[str]]) -> None:
        try:
            path = self.store.blob_path(Digest.parse(digest))
            size = path.stat().st_size
        except (InvalidReference, FileNotFoundError):
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown")
            return
        if self.command == "DELETE":
            path.unlink()
            self.reply(202)
            return
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
        }
        status, start, end = 200, 0, size - 1
        wanted = _RANGE.match(self.headers.get("Range", ""))
        if wanted:
            start = int(wanted[1])
            end = min(int(wanted[2]), size - 1) if wanted[2] else size - 1
            if start > end:
                self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
                return
            status = 206
            headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self.send_blob(path, status, start, end - start + 1, headers)

    def send_blob(
        self, path: Path, status: int, start: int, length: int, headers: dict[str, str]
    ) -> None:
        """Send a part of a file; subclasses put their faults here."""
        self.reply(status, b"", {**headers, "Content-Length": str(length)})
        if self.command == "HEAD":
            return
        with path.open("rb") as file:
            if length:
                self.connection.sendfile(file, start, length)

    def _tags(self, name: str, query: dict[str, list[str]]) -> None:
        if not self.store.has_repository(name):
            self.refuse(404, "NAME_UNKNOWN", "repository name not known to registry")
            return
        last = query.get("last", [""])[0]
        tags = [tag for tag in self.store.tags(name) if tag > last]
        asked = query.get("n", [""])[0]
        count = self.registry.page_size
        if asked.isdigit():
            count = min(int(asked), count)
        headers = {"Content-Type": "application/json"}
        if len(tags) > count:
            tags = tags[:count]
            after = quote(tags[-1]) if tags else ""
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={after}>; rel="next"'
        self.reply(200, json.dumps({"name": name, "tags": tags}).encode(), headers)

    def _start_upload(self, name: str, query: dict[str, list[str]]) -> None:
        if self.command != "POST":
            self.refuse(405, "UNSUPPORTED", "uploads begin with POST")
            return
        mount = query.get("mount", [""])[0]
        if mount and self._exists(mount):
            self._created(name, mount)
            return
        upload = self.store.start_upload()
        if "digest" in query:
            self._receive(upload)
            self._finish(name, upload, query["digest"][0])
            return
        self._accepted(name, upload)

    def _upload(self, name: str, id: str, query: dict[str, list[str]]) -> None:
        path = self.store.upload_path(id)
        if not path.exists():
            self.refuse(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
        elif self.command == "GET":
            self._accepted(name, id, status=204)
        elif self.command == "DELETE":
            path.unlink()
            self.reply(204)
        elif not self._is_next_chunk(path.stat().st_size):
            self.refuse(416, "BLOB_UPLOAD_INVALID", "the chunk is out of order")
        elif self.command == "PATCH":
            self._receive(id)
            self._accepted(name, id)
        elif self.command == "PUT":
            self._receive(id)
            self._finish(name, id, query.get("digest", [""])[0])
        else:
            self.refuse(405, "UNSUPPORTED", self.command)

    def _is_next_chunk(self, size: int) -> bool:
        found = _UPLOAD_RANGE.match(self.headers.get("Content-Range", ""))
        return not found or int(found[1]) == size

    def _receive(self, upload: str) -> None:
        with self.store.upload_path(upload).open("ab") as file:
            for piece in self._body():
                file.write(piece)

    def _finish(self, name: str, upload: str, digest: str) -> None:
        try:
            right = self.store.finish_upload(upload, Digest.parse(digest))
        except InvalidReference:
            right = False
        if right:
            self._created(name, digest)
        else:
            self.refuse(400, "DIGEST_INVALID", "the content has another digest")

    def _created(self, name: str, digest: str) -> None:
        location = f"/v2/{name}/blobs/{digest}"
        self.reply(201, b"", {"Location": location, "Docker-Content-Digest": digest})

    def _accepted(self, name: str, upload: str, status: int = 202) -> None:
        size = self.store.upload_path(upload).stat().st_size
        headers = {
            "Location": f"/v2/{name}/blobs/uploads/{upload}",
            "Docker-Upload-UUID": upload,
            "Range": f"0-{max(0, size - 1)}",
        }
        self.reply(status, b"", headers)

    def _exists(self, digest: str) -> bool:
        try:
            return self.store.blob_path(Digest.parse(digest)).exists()
        except InvalidReference:
            return False

    def _body(self, limit: int | None = None) -> Iterator[bytes]:
        """The request's body, by length or in chunks (RFC 9112, 7.1)."""
        if self._chunks_left:
            yield from self._chunks()
            return
        while self._body_left > 0:
            piece = self.rfile.read(min(_CHUNK, self._body_left))
            if not piece:
                raise ConnectionError("the request's body broke off")
            self._body_left -= len(piece)
            yield piece

    def _chunks(self) -> Iterator[bytes]:
        while length := int(self.rfile.readline(100).partition(b";")[0], 16):
            while length:
                piece = self.rfile.read(min(_CHUNK, length))
                if not piece:
                    raise ConnectionError("the request's body broke off")
                length -= len(piece)
                yield piece
            self.rfile.readline(3)
        while self.rfile.readline(8192).strip():
            pass
        self._chunks_left = False

    def _drain(self) -> None:
        """Read what was not wanted, so that the next request begins where it should."""
        if self._chunks_left or self._body_left > 64 * 1024:
            self.close_connection = True
            return
        for _ in self._body():
            pass
