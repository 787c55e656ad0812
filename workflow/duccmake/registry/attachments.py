"""What registries have beside images: artifacts by tag, referrers, and lookaside storage."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote, urlsplit

from ..errors import ManifestError, NotFound, RateLimited, RegistryError, RegistryUnavailable
from ..oci.artifact import Artifact, Attached
from ..oci.content_store import ContentStore
from ..oci.manifest import ACCEPT, OCI_INDEX, Descriptor
from ..oci.reference import DOCKER_HUB, Digest
from .http.endpoints import Endpoint
from .http.transport import Call, Reply, Transport
from .responses import Verified, check_digests, named_digest

_LARGEST = 4 * 1024**2
"""So many bytes may a signature or the manifest of an artifact have."""


class Attachments:
    """What the registry at ``endpoint`` has beside the images of one repository.

    Only the registry itself is asked: a mirror has what it was asked for before.  What comes
    is kept in ``store``, and not asked for again.
    """

    def __init__(self, transport: Transport, endpoint: Endpoint, store: ContentStore) -> None:
        self._transport = transport
        self._verified = Verified(transport)
        self._endpoint = endpoint
        self._store = store

    def artifact(self, wanted: str) -> Artifact | None:
        """What goes by a tag or a digest; None where nothing does.

        A tag is asked for by HEAD first, which costs no pull, in case that it is known.
        """
        url = self._endpoint.url(f"manifests/{wanted}")

        def parse(reply: Reply) -> Artifact:
            check_digests(reply, wanted)
            return Artifact.parse(reply.body)

        try:
            digest = Digest.parse(wanted) if ":" in wanted else self._named(url)
            content = self._store.get(digest) if digest else None
            if content is not None:
                return Artifact.parse(content)
            call = Call("GET", url, self._endpoint.pull, {"Accept": ACCEPT})
            found = self._verified.ask(call, parse, _LARGEST, None)
        except NotFound:
            return None
        self._store.put(found.digest, found.raw)
        return found

    def blob(self, descriptor: Descriptor, most: int) -> bytes:
        """A blob of at most so many bytes; `ManifestError` where its descriptor has more."""
        if descriptor.size > most:
            raise ManifestError(f"{descriptor.digest} has {descriptor.size} bytes, {most} are read")
        kept = self._store.get(descriptor.digest)
        if kept is not None:
            return descriptor.verify(kept)
        url = self._endpoint.url(f"blobs/{descriptor.digest}")
        call = Call("GET", url, self._endpoint.pull, is_verified=True)
        content = self._verified.ask(
            call, lambda reply: descriptor.verify(reply.body), descriptor.size + 1024, None
        )
        self._store.put(descriptor.digest, content)
        return content

    def referrers(self, digest: Digest) -> tuple[Attached, ...]:
        """What refers to a manifest, as the registry lists it or else the tag that stands in.

        Of what was pushed before a registry listed anything, some still have the tag alone.
        """
        headers = {"Accept": OCI_INDEX}
        url = self._endpoint.url(f"referrers/{digest}")
        try:
            reply = self._transport.exchange(
                Call("GET", url, self._endpoint.pull, headers), limit=_LARGEST
            )
            if listed := Artifact.parse(reply.body).manifests:
                return listed
        except (RegistryUnavailable, RateLimited):
            raise
        except (RegistryError, ManifestError):
            pass  # some answer with pages for people
        index = self.artifact(f"{digest.algorithm}-{digest.hex}")
        return index.manifests if index else ()

    def aside(self, url: str) -> bytes | None:
        """What is at an address of a lookaside storage, without credentials; None is nothing."""
        parts = urlsplit(url)
        if parts.scheme == "file":
            try:
                with Path(unquote(parts.path)).open("rb") as file:
                    return file.read(_LARGEST)
            except (FileNotFoundError, NotADirectoryError):
                return None
        try:
            return self._transport.exchange(Call("GET", url), limit=_LARGEST).body
        except NotFound:
            return None

    def _named(self, url: str) -> Digest | None:
        call = Call("HEAD", url, self._endpoint.pull, {"Accept": ACCEPT}, is_trial=True)
        try:
            return named_digest(self._transport.exchange(call, limit=0))
        except (RegistryUnavailable, RateLimited):
            raise
        except RegistryError as error:
            # Others may refuse HEAD so.  Docker Hub knows it, and counts each GET as a pull.
            if isinstance(error, NotFound) and self._endpoint.host == DOCKER_HUB:
                raise
            return None
