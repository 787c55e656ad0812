"""The demo's registry with all else that registries do: OCI's distribution-spec 1.1, and tokens."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, quote, urlsplit

from duccmake.demo.registry import NAME, DemoRegistry, Handler, Query, Store
from duccmake.errors import InvalidReference
from duccmake.oci.manifest import OCI_INDEX
from duccmake.oci.reference import Digest

_RANGE = re.compile(r"bytes=(\d+)-(\d*)\Z")
_UPLOAD_RANGE = re.compile(r"(\d+)-(\d+)\Z")
_CHUNK = 256 * 1024


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """One request as it arrived; ``authorization`` is the header, "" without."""

    method: str
    path: str
    authorization: str = field(default="", repr=False)
    range: str = ""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


class FullRegistry(DemoRegistry):
    """A registry that notes what it is asked, and may ask who asks.

    ``users`` (name to password) asks for Basic authentication, or with
    ``tokens`` for Bearer tokens that ``/token`` gives to these users, and for
    pulls to anybody where ``anonymous_pull`` is set; ``readers`` may but pull.
    """

    store: FullStore

    def __init__(
        self,
        root: Path,
        port: int = 0,
        *,
        users: dict[str, str] | None = None,
        tokens: bool = False,
        anonymous_pull: bool = False,
        readers: Collection[str] = (),
        token_seconds: int = 300,
        page_size: int = 1000,
        delay_seconds: float = 0.0,
    ) -> None:
        super().__init__(root, port)
        self.store = FullStore(root)
        self.users = dict(users or {})
        self.tokens = tokens
        self.anonymous_pull = anonymous_pull
        self.readers = frozenset(readers)
        self.token_seconds = token_seconds
        self.page_size = page_size
        self.delay_seconds = delay_seconds
        self.requests: list[LoggedRequest] = []
        self._granted: dict[str, tuple[float, frozenset[tuple[str, str]]]] = {}

    def handler_class(self) -> type[Handler]:
        return FullHandler

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
                is_anybodys = user in self.readers or (not user and self.anonymous_pull)
                may = action == "pull" if is_anybodys else bool(user)
                if kind == "repository" and may:
                    granted.add((name, action))
        token = secrets.token_hex(16)
        self._granted[token] = (time.monotonic() + self.token_seconds, frozenset(granted))
        return token

    def revoke_tokens(self) -> None:
        """Make all tokens invalid, as if they had expired."""
        self._granted.clear()


class FullStore(Store):
    """A store that forgets as well, and takes blobs piece by piece."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._uploads = root / "uploads"
        self._uploads.mkdir(parents=True, exist_ok=True)

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


class FullHandler(Handler):
    """Answers one connection's requests; subclasses put their faults around `respond`."""

    registry: FullRegistry
    store: FullStore
    routes: ClassVar[Mapping[str, str]] = {
        rf"/v2/{NAME}/referrers/(?P<digest>[a-z0-9]+:[0-9a-f]+)": "answer_referrers",
        **Handler.routes,
    }

    def serve(self) -> None:
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
        parts = urlsplit(self.path)
        if parts.path == "/token":
            self._token(parse_qs(parts.query))
        else:
            super().respond()

    def may(self, name: str) -> bool:
        action = "pull" if self.command in ("GET", "HEAD") else "push"
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

    def body(self) -> bytes:
        return b"".join(self._body())

    def answer_manifest(self, name: str, reference: str, query: Query) -> None:
        if self.command != "DELETE":
            super().answer_manifest(name, reference, query)
        elif self.store.delete_manifest(name, reference):
            self.reply(202)
        else:
            self.refuse(404, "MANIFEST_UNKNOWN", "manifest unknown")

    def answer_referrers(self, name: str, digest: str, query: Query) -> None:
        listed = self.store.referrers(name, digest)
        index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        self.reply(200, json.dumps(index).encode(), {"Content-Type": OCI_INDEX})

    def answer_blob(self, name: str, digest: str, query: Query) -> None:
        if self.command != "DELETE":
            super().answer_blob(name, digest, query)
        elif self._exists(digest):
            self.store.blob_path(Digest.parse(digest)).unlink()
            self.reply(202)
        else:
            self.refuse(404, "BLOB_UNKNOWN", "blob unknown")

    def send_whole(self, path: Path, size: int, headers: dict[str, str]) -> None:
        headers["Accept-Ranges"] = "bytes"
        wanted = _RANGE.match(self.headers.get("Range", ""))
        if not wanted:
            super().send_whole(path, size, headers)
            return
        start = int(wanted[1])
        end = min(int(wanted[2]), size - 1) if wanted[2] else size - 1
        if start > end:
            self.reply(416, b"", {"Content-Range": f"bytes */{size}"})
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{size}"
        self.send_blob(path, 206, start, end - start + 1, headers)

    def send_tags(self, name: str, tags: list[str], **headers: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        last = query.get("last", [""])[0]
        tags = [tag for tag in tags if tag > last]
        asked = query.get("n", [""])[0]
        count = self.registry.page_size
        if asked.isdigit():
            count = min(int(asked), count)
        if len(tags) > count:
            tags = tags[:count]
            after = quote(tags[-1]) if tags else ""
            headers["Link"] = f'</v2/{name}/tags/list?n={count}&last={after}>; rel="next"'
        super().send_tags(name, tags, **headers)

    def answer_start_upload(self, name: str, query: Query) -> None:
        if self.command != "POST":
            self.refuse(405, "UNSUPPORTED", "uploads begin with POST")
            return
        mount = query.get("mount", [""])[0]
        if mount and self._exists(mount):
            self.created(name, mount)
            return
        upload = self.store.start_upload()
        if "digest" in query:
            self._receive(upload)
            self._finish(name, upload, query["digest"][0])
            return
        self._accepted(name, upload)

    def answer_upload(self, name: str, id: str, query: Query) -> None:
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
            self.created(name, digest)
        else:
            self.refuse(400, "DIGEST_INVALID", "the content has another digest")

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

    def _body(self) -> Iterator[bytes]:
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
