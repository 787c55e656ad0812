"""Pushing: blobs in chunks, or mounted from another repository, and manifests."""

from __future__ import annotations

import io
import logging
import re
import time
from pathlib import Path
from typing import IO
from urllib.parse import urlencode, urlsplit

from ..errors import DigestMismatch, NotFound, RegistryError, RegistryUnavailable, Unauthorized
from ..oci.manifest import Descriptor
from ..oci.reference import Digest
from .http.endpoints import Endpoint
from .http.redirects import joined, place_of
from .http.retry import Patience, backoff_seconds
from .http.transport import Call, Reply, Transport
from .http.verbatim import target_of

logger = logging.getLogger(__name__)

CHUNK_BYTES = 16 * 1024**2
_ANSWER_LIMIT = 1024**2
_RECEIVED = re.compile(r"(?:bytes=)?0-(\d+)\Z")


class Pusher:
    """Writes to one repository (distribution-spec, "Push")."""

    def __init__(
        self, transport: Transport, endpoint: Endpoint, *, chunk_bytes: int = CHUNK_BYTES
    ) -> None:
        self._transport = transport
        self._endpoint = endpoint
        self._chunk_bytes = chunk_bytes

    def has(self, path: str, accept: str = "*/*") -> bool:
        """Whether ``blobs/<digest>`` or ``manifests/<reference>`` is there."""
        call = Call("HEAD", self._endpoint.url(path), self._endpoint.push, {"Accept": accept})
        try:
            return self._exchange(call).status == 200
        except NotFound:
            return False

    def blob(self, descriptor: Descriptor, content: bytes | Path, mount_from: str = "") -> bool:
        """Push a blob unless it is there; whether any bytes had to be sent.

        ``mount_from`` is a repository of the same registry that may have it.
        """
        if self.has(f"blobs/{descriptor.digest}"):
            return False
        location = self._begin(descriptor, mount_from)
        if not location:
            return False
        with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as source:
            self._upload(location, descriptor, source)
        return True

    def manifest(self, reference: str, content: bytes, media_type: str, digest: Digest) -> None:
        """Push a manifest under a tag or its digest."""
        url = self._endpoint.url(f"manifests/{reference}")
        headers = {"Content-Type": media_type}
        reply = self._exchange(Call("PUT", url, self._endpoint.push, headers, content))
        theirs = reply.headers.get("Docker-Content-Digest")
        if theirs and theirs.startswith(digest.algorithm) and theirs != str(digest):
            raise DigestMismatch(f"{self._endpoint.host} took {digest} for {theirs[:200]!r}")

    def _begin(self, descriptor: Descriptor, mount_from: str) -> str:
        """Where to upload to, or "" where the blob was mounted."""
        url = self._endpoint.url("blobs/uploads/")
        if mount_from:
            query = urlencode({"mount": str(descriptor.digest), "from": mount_from})
            try:
                reply = self._exchange(Call("POST", f"{url}?{query}", self._endpoint.push))
            except Unauthorized:
                # Who may write here may still not read there.
                reply = self._exchange(Call("POST", url, self._endpoint.push))
        else:
            reply = self._exchange(Call("POST", url, self._endpoint.push))
        return "" if reply.status == 201 else self._location(reply)

    def _upload(self, location: str, descriptor: Descriptor, source: IO[bytes]) -> None:
        """Send all of it; a chunk that fails is sent again from where the registry has it."""
        offset = failures = 0
        policy = self._transport.policy
        while True:
            source.seek(offset)
            chunk = source.read(self._chunk_bytes)
            last = offset + len(chunk) >= descriptor.size or not chunk
            call = self._chunk(location, descriptor, offset, chunk, last)
            try:
                reply = self._exchange(call, Patience(1, policy.patience.seconds))
            except RegistryUnavailable as error:
                failures += 1
                if failures >= policy.patience.tries:
                    raise
                logger.info("%s; sending the chunk again", error.found)
                time.sleep(backoff_seconds(failures, policy.backoff_seconds))
                if self.has(f"blobs/{descriptor.digest}"):
                    return
                location, offset = self._received(location, descriptor)
                continue
            if last:
                return
            failures = 0
            location, offset = self._location(reply), offset + len(chunk)

    def _chunk(
        self, location: str, descriptor: Descriptor, offset: int, chunk: bytes, last: bool
    ) -> Call:
        headers = {"Content-Type": "application/octet-stream"}
        if not last or offset:
            headers["Content-Range"] = f"{offset}-{max(offset, offset + len(chunk) - 1)}"
        if not last:
            return Call("PATCH", location, self._endpoint.push, headers, chunk)
        separator = "&" if urlsplit(location).query else "?"
        url = f"{location}{separator}{urlencode({'digest': str(descriptor.digest)})}"
        return Call("PUT", url, self._endpoint.push, headers, chunk)

    def _received(self, location: str, descriptor: Descriptor) -> tuple[str, int]:
        """Where to go on, and from which byte; from the beginning where the upload is lost."""
        try:
            reply = self._exchange(Call("GET", location, self._endpoint.push))
        except RegistryUnavailable:
            raise
        except RegistryError:
            return self._begin(descriptor, ""), 0
        found = _RECEIVED.match(reply.headers.get("Range", ""))
        # "0-0" is how a registry says that it has nothing, or one byte: one byte is never sent.
        received = int(found.group(1)) + 1 if found and found.group(1) != "0" else 0
        return self._location(reply) or location, received

    def _location(self, reply: Reply) -> str:
        """Where to go on: at this registry, by whatever name or scheme it knows itself."""
        location = joined(reply.url, reply.headers.get("Location", "").strip())
        parts = place_of(location)
        if parts is None:
            raise RegistryError(
                f"{self._endpoint.host} wants the upload to go to nowhere", hint="ask its operator"
            )
        if parts[:2] == urlsplit(reply.url)[:2]:
            return location
        if not parts.path.startswith("/v2/"):
            raise RegistryError(
                f"{self._endpoint.host} wants the upload to go to {parts.netloc}",
                hint="credentials are not taken there: push to that registry itself",
            )
        return joined(reply.url, target_of(location, whole=False))

    def _exchange(self, call: Call, patience: Patience | None = None) -> Reply:
        return self._transport.exchange(call, limit=_ANSWER_LIMIT, patience=patience)
