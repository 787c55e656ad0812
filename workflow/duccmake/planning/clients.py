"""Registry clients that poll: as who duccmake is, and as anybody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..config.configuration import Config
from ..registry.client import Client
from ..registry.http.credentials import Credentials
from ..registry.settings import RegistrySettings

POLL_TRIES = 3
POLL_SECONDS = 30.0
POLL_CONNECT_SECONDS = 4.0
"""Polls are less patient than downloads: somebody waits for them, and what is
known of an image stays in force when its registry does not answer."""


def polling_client(config: Config, credentials: Mapping[str, Credentials]) -> Client:
    """A client that polls; ``credentials`` count before those that it finds."""
    return _client(config.registries, None, credentials)


def anonymous_client(config: Config) -> Client:
    """The same without any credentials, and without mirrors, which may have some of their own."""
    open_to_all = {
        host: replace(settings, username_env="", password_env="", auth_file=None, mirrors=())
        for host, settings in config.registries.items()
    }
    return _client(open_to_all, {}, {})


def _client(
    registries: Mapping[str, RegistrySettings],
    environment: Mapping[str, str] | None,
    credentials: Mapping[str, Credentials],
) -> Client:
    return Client(
        registries,
        tries=POLL_TRIES,
        deadline_seconds=POLL_SECONDS,
        connect_seconds=POLL_CONNECT_SECONDS,
        environment=environment,
        credentials=credentials,
    )
