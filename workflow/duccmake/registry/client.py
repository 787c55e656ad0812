"""The registry client: polls, manifests, tags and blobs, each verified."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from ..errors import (
    DigestMismatch,
    DuccmakeError,
    ManifestError,
    NotFound,
    RateLimited,
    RegistryError,
    RegistryUnavailable,
    Unauthorized,
    UnsupportedImage,
)
from ..fs.closing import Closing
from ..oci.content_store import ContentStore
from ..oci.manifest import ACCEPT, OCI_INDEX, Descriptor, Index, Manifest
from ..oci.reference import DOCKER_HUB, Digest, Reference
from .attachments import Attachments
from .damaged import Damaged
from .download import Download
from .http.blobs import RemoteBlob
from .http.credentials import Credentials, CredentialStore, normal_host
from .http.endpoints import Endpoint, mirrors, origin
from .http.redirects import place_of
from .http.retry import Patience, RetryPolicy
from .http.transport import Call, Transport
from .images import Images
from .push import CHUNK_BYTES, Pusher
from .responses import Verified, named_digest, parse_manifest_of
from .settings import RegistrySettings
from .tag_pages import IncompleteList, Page, list_tags, parse_page

logger = logging.getLogger(__name__)

_TAGS_LIMIT = 64 * 1024**2
"""Google's registries list every manifest beside the tags."""

_NO_HEAD = frozenset(range(400, 600)) - {408, 429}
"""What a registry says to HEAD that may have another answer to GET."""

_MIRROR_PATIENCE = Patience(tries=2, seconds=30.0)
"""A mirror that makes one wait is no help: the registry itself is there."""

T = TypeVar("T")


class Client(Images, Closing):
    """One client for all registries; threads may share it.

    ``settings`` are by host as a reference has it.  ``deadline_seconds`` bounds
    one request with all its tries; a download may take longer as long as bytes
    come.  With a ``limits_directory`` the limits of each host hold for all
    processes that name the same one, and otherwise for this client alone.  So does
    what is noted of damaged content in a ``damaged_directory``, which is a run's own.
    Reading prefers the mirrors; what a mirror does not deliver, for whatever
    reason, the registry itself is asked for.

    Errors, besides those named with the methods: `NotFound`, `Unauthorized`,
    `RateLimited`, `RegistryUnavailable` (of which `RegistryLeftAlone` was
    reported before), `RegistryError` for other refusals, and `ConfigError`.
    """

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings],
        *,
        deadline_seconds: float = 300.0,
        max_manifest_bytes: int = 16 * 1024**2,
        tries: int = 6,
        backoff_seconds: float = 0.5,
        connect_seconds: float = 10.0,
        chunk_bytes: int = CHUNK_BYTES,
        environment: Mapping[str, str] | None = None,
        limits_directory: Path | None = None,
        damaged_directory: Path | None = None,
        credentials: Mapping[str, Credentials] | None = None,
    ) -> None:
        self._policy = RetryPolicy(
            Patience(tries, deadline_seconds), backoff_seconds, connect_seconds
        )
        self._max_manifest_bytes = max_manifest_bytes
        self._chunk_bytes = chunk_bytes
        store = CredentialStore(settings, environment, credentials)
        self._credentials = store
        self._ducc_mirrors = {entry.host: entry.proxy for entry in store.ducc if entry.proxy}
        self._transport = Transport(settings, store, self._policy, limits_directory)
        self._damaged = Damaged(damaged_directory)
        self._verified = Verified(self._transport)

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def poll(self, reference: Reference) -> Digest:
        """The digest that the reference stands for now, by HEAD: it costs no pull.

        Where HEAD fails or names no digest, the manifest is fetched: only its
        absence is one.
        """
        return self._read(
            reference, lambda endpoint, patience: self._poll(endpoint, reference, patience)
        )

    def manifest(self, reference: Reference, digest: Digest | None = None) -> Manifest | Index:
        """See `Manifests`."""
        wanted = str(digest) if digest else reference.api_reference
        return self._read(
            reference, lambda endpoint, patience: self._manifest(endpoint, wanted, patience)
        )

    def blob_bytes(self, reference: Reference, descriptor: Descriptor) -> bytes:
        """See `Manifests`; what is promised to be too large is not asked for."""
        if descriptor.size > self._max_manifest_bytes:
            raise ManifestError(
                f"{descriptor.digest} is to have {descriptor.size} bytes, "
                f"{self._max_manifest_bytes} are accepted"
            )

        def read(endpoint: Endpoint, patience: Patience | None) -> bytes:
            url = endpoint.url(f"blobs/{descriptor.digest}")
            call = Call("GET", url, endpoint.pull, is_verified=True)
            return self._verified.ask(
                call, lambda reply: descriptor.verify(reply.body), descriptor.size + 1024, patience
            )

        return self._read(reference, read)

    def _deliver(self, reference: Reference, download: Download) -> int:
        descriptor = download.descriptor

        def read(endpoint: Endpoint, patience: Patience | None) -> int:
            url = endpoint.url(f"blobs/{descriptor.digest}")
            return download.run(RemoteBlob(self._transport, url, endpoint, patience))

        try:
            return self._read(reference, read)
        except NotFound:
            if not (self._settings(reference).foreign_urls and descriptor.urls):
                raise
        return self._fetch_foreign(download)

    def tags(self, reference: Reference) -> list[str]:
        """All tags of the repository, from all pages, as the registry itself lists them.

        Mirrors are not asked: a pull-through cache lists only what it has.  Raises
        `IncompleteList` where it does not lead to all of them.
        """
        with _about(reference):
            return self._listed(origin(reference, self._settings(reference)), None)

    def mirrored_tags(self, reference: Reference) -> list[str]:
        """The tags that any of the mirrors lists; they need not be all there are."""
        tags: dict[str, None] = {}
        for endpoint in self._mirrors(reference):
            try:
                tags.update(dict.fromkeys(self._listed(endpoint, _MIRROR_PATIENCE)))
            except IncompleteList as error:
                tags.update(dict.fromkeys(error.tags))
            except RegistryError as error:
                logger.info("the mirror %s does not serve: %s", endpoint.host, error.found)
        return list(tags)

    def pushed(self, reference: Reference) -> Digest | None:
        """The digest that the registry itself has for the reference, or None; by HEAD."""
        with _about(reference):
            try:
                return self._poll(origin(reference, self._settings(reference)), reference, None)
            except NotFound:
                return None

    def has_referrers(self, reference: Reference, digest: Digest) -> bool:
        """Whether the registry has the referrers API (distribution-spec, "Listing Referrers")."""
        endpoint = origin(reference, self._settings(reference))
        call = Call(
            "GET", endpoint.url(f"referrers/{digest}"), endpoint.pull, {"Accept": OCI_INDEX}
        )
        try:
            return self._transport.exchange(call, limit=_TAGS_LIMIT).status == 200
        except RegistryUnavailable:
            raise
        except RegistryError:
            return False

    def beside(self, reference: Reference, store: ContentStore) -> Attachments:
        """What the registry has beside the images of the reference's repository."""
        return Attachments(self._transport, origin(reference, self._settings(reference)), store)

    def has_credentials(self, reference: Reference) -> bool:
        """Whether requests for the reference's repository are anybody's in particular."""
        return self._credentials.find(reference.host, reference.repository) is not None

    def reads_as_anybody(self, reference: Reference) -> bool:
        """Whether what is read is read from the registry itself, and without credentials."""
        return not self.has_credentials(reference) and not any(self._mirrors(reference))

    def is_open(self, reference: Reference) -> bool:
        """Whether the reference's registry answers without asking for credentials."""
        endpoint = origin(reference, self._settings(reference))
        url = f"{endpoint.scheme}://{endpoint.host}/v2/"
        with _about(reference):
            call = Call("GET", url, accept=frozenset({401, 403, 404}))
            return self._transport.exchange(call, limit=_TAGS_LIMIT).status == 200

    def push_blob(
        self,
        reference: Reference,
        descriptor: Descriptor,
        content: bytes | Path,
        *,
        mount_from: str = "",
    ) -> bool:
        """Push a blob to the reference's repository; whether bytes had to be sent.

        None are where the registry has it, or can mount it from its repository
        ``mount_from``.
        """
        with _about(reference):
            return self._pusher(reference).blob(descriptor, content, mount_from)

    def push_manifest(self, reference: Reference, content: bytes, media_type: str) -> Digest:
        """Push a manifest under the reference's tag, or its digest; blobs go before it."""
        digest = reference.digest or Digest("sha256", hashlib.sha256(content).hexdigest())
        with _about(reference):
            Descriptor(media_type, digest, len(content)).verify(content)
            wanted = reference.api_reference
            self._pusher(reference).manifest(wanted, content, media_type, digest)
        return digest

    def _pusher(self, reference: Reference) -> Pusher:
        endpoint = origin(reference, self._settings(reference))
        return Pusher(self._transport, endpoint, chunk_bytes=self._chunk_bytes)

    def rate_limit_remaining(self, reference: Reference) -> int | None:
        """How many pulls the registry said are left, if it told of a budget at all."""
        endpoint = origin(reference, self._settings(reference))
        return self._transport.host(endpoint.scheme, endpoint.host).pulls.remaining

    def _settings(self, reference: Reference) -> RegistrySettings:
        return self._transport.settings(reference.registry)

    def _read(self, reference: Reference, read: Callable[[Endpoint, Patience | None], T]) -> T:
        """Read from the first endpoint that delivers; the registry itself has the last word."""
        for endpoint in self._mirrors(reference):
            try:
                return read(endpoint, _MIRROR_PATIENCE)
            except (RegistryError, DigestMismatch, ManifestError) as error:
                if isinstance(error, UnsupportedImage):
                    raise
                logger.info("the mirror %s does not serve: %s", endpoint.host, error.found)
        with _about(reference):
            return read(origin(reference, self._settings(reference)), None)

    def _mirrors(self, reference: Reference) -> Iterator[Endpoint]:
        further = self._ducc_mirrors.get(normal_host(reference.host), "")
        return mirrors(reference, self._settings(reference), further)

    def _listed(self, endpoint: Endpoint, patience: Patience | None) -> list[str]:
        def ask(url: str) -> Page:
            call = Call("GET", url, endpoint.pull, {"Accept": "application/json"})
            return self._verified.ask(call, parse_page, _TAGS_LIMIT, patience)

        try:
            return list_tags(endpoint.url("tags/list"), ask)
        except ManifestError as error:
            raise RegistryError(error.found, hint=error.hint) from None

    def _poll(self, endpoint: Endpoint, reference: Reference, patience: Patience | None) -> Digest:
        """By HEAD; where that tells nothing, whatever comes of it, GET decides."""
        host = self._transport.host(endpoint.scheme, endpoint.host)
        refusal = ""
        if not host.refuses_head:
            found = self._head(endpoint, reference, patience)
            if isinstance(found, Digest):
                return found
            refusal = found
        digest = self._manifest(endpoint, reference.api_reference, patience).digest
        # Docker Hub knows HEAD, and counts each GET as a pull.
        if refusal and endpoint.host != DOCKER_HUB:
            logger.info("%s and serves GET", refusal)
            host.refuses_head = True
        return digest

    def _head(
        self, endpoint: Endpoint, reference: Reference, patience: Patience | None
    ) -> Digest | str:
        """The digest that HEAD names, or how it was refused: "" where it just names none."""
        url = endpoint.url(f"manifests/{reference.api_reference}")
        headers = {"Accept": ACCEPT}
        is_trial = endpoint.host != DOCKER_HUB
        call = Call("HEAD", url, endpoint.pull, headers, accept=_NO_HEAD, is_trial=is_trial)
        try:
            reply = self._transport.exchange(call, limit=0, patience=patience)
        except RateLimited:
            raise
        except Unauthorized:
            # Credentials that are refused are not offered over and over.
            if self._credentials.find(endpoint.host, endpoint.repository):
                raise
            return f"{endpoint.host} asks for credentials for HEAD"
        except RegistryError as error:
            if not is_trial:
                raise
            return error.found
        if reply.status in _NO_HEAD:
            return f"{endpoint.host} refuses HEAD ({reply.status})"
        return (named_digest(reply) if reply.status == 200 else None) or ""

    def _manifest(
        self, endpoint: Endpoint, wanted: str, patience: Patience | None
    ) -> Manifest | Index:
        call = Call("GET", endpoint.url(f"manifests/{wanted}"), endpoint.pull, {"Accept": ACCEPT})
        return self._verified.ask(
            call, lambda reply: parse_manifest_of(reply, wanted), self._max_manifest_bytes, patience
        )

    def _fetch_foreign(self, download: Download) -> int:
        """Try the addresses that a foreign layer names, never with credentials (CVE-2020-15157)."""
        descriptor = download.descriptor
        failure: DuccmakeError = NotFound(f"no address of {descriptor.digest} can be used")
        for url in descriptor.urls:
            place = place_of(url)
            if place is None or place.scheme != "https":
                continue
            try:
                return download.run(RemoteBlob(self._transport, url, None, None))
            except (RegistryError, DigestMismatch) as error:
                failure = error
        raise failure


@contextmanager
def _about(reference: Reference) -> Iterator[None]:
    """Name the image in whatever error comes."""
    try:
        yield
    except DuccmakeError as error:
        error.within(image=reference.name)
        raise
