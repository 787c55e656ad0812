"""Where a repository can be read: the mirrors in their order, then the registry itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from ...errors import ConfigError
from ...oci.reference import Reference
from ..settings import RegistrySettings
from .auth import Scope


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A repository at one host, under the name it has there."""

    scheme: str
    host: str
    repository: str

    def url(self, path: str) -> str:
        """The address of ``path`` (``manifests/…``, ``blobs/…``) of the repository."""
        return f"{self.scheme}://{self.host}/v2/{self.repository}/{path}"

    @property
    def pull(self) -> Scope:
        """The scope of reading."""
        return Scope(self.repository)

    @property
    def push(self) -> Scope:
        """The scope of writing."""
        return Scope(self.repository, "pull,push")


def origin(reference: Reference, settings: RegistrySettings) -> Endpoint:
    """The registry itself."""
    return Endpoint(settings.scheme or reference.scheme, reference.host, reference.repository)


def mirrors(
    reference: Reference, settings: RegistrySettings, further: str = ""
) -> Iterator[Endpoint]:
    """The places to read from before the registry itself, best first; ``further`` is the last."""
    for mirror in filter(None, (*settings.mirrors, further)):
        yield _mirror(mirror, reference.repository)


def _mirror(base_url: str, repository: str) -> Endpoint:
    """A pull-through cache: its path, with or without ``/v2``, comes before the repository."""
    parts = urlsplit(base_url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ConfigError(
            f"the mirror of {repository} is not a base URL",
            hint="write it as https://host[:port][/prefix], its credentials apart",
        )
    prefix = parts.path.strip("/")
    prefix = prefix.removeprefix("v2").strip("/") if prefix.split("/")[0] == "v2" else prefix
    name = f"{prefix}/{repository}" if prefix else repository
    return Endpoint(parts.scheme, parts.netloc.lower(), name)
