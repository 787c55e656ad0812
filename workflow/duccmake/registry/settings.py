"""What the configuration says of one registry."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Settings of one registry host; empty and zero mean "as usual" and "no limit".

    ``scheme`` overrides the reference's.  ``username_env`` and ``password_env``
    name environment variables, so that no secret stands in a configuration.
    ``mirrors`` are base URLs, tried in order before the registry itself.
    ``foreign_urls`` allows layers that the registry lacks to be fetched from the
    addresses that a manifest gives, without credentials.  ``plain_blobs`` allows blobs
    of an https registry to come by http from where it redirects to.
    """

    scheme: str = ""
    username_env: str = ""
    password_env: str = ""
    auth_file: Path | None = None
    mirrors: tuple[str, ...] = ()
    ca_file: Path | None = None
    foreign_urls: bool = False
    plain_blobs: bool = False
    connections: int = 8
    requests_per_second: float = 0.0
    bytes_per_second: int = 0
    timeout_seconds: float = 30.0
