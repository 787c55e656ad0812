"""Who duccmake is to a registry: credentials from the environment and from auth files.

Looked for in this order: the variables that the configuration names, DUCC's
variables, the configured auth file, and the files that podman and docker log
in to (containers-auth.json(5), docker's ``config.json``).
"""

from __future__ import annotations

import base64
import binascii
import json
import logging
import os
import re
import subprocess
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import ConfigError
from ...oci.reference import DOCKER_HUB
from ..settings import RegistrySettings

logger = logging.getLogger(__name__)

OUTPUT_VARIABLE = "DUCC_OUTPUT_REGISTRY_PASS"
"""DUCC's variable with the password of the account that pushes thin images."""

HELPER_TIMEOUT_SECONDS = 30.0

_HUB_KEYS = frozenset({"docker.io", "index.docker.io", "registry.hub.docker.com", DOCKER_HUB})
_URL_SAFE = str.maketrans("-_", "+/")
_HELPER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user name with a password, or an identity token (an OAuth2 refresh token)."""

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)

    @property
    def basic(self) -> str:
        """The value of an Authorization header (RFC 7617)."""
        pair = f"{self.username}:{self.password}".encode()
        return "Basic " + base64.b64encode(pair).decode("ascii")


@dataclass(frozen=True, slots=True)
class DuccRegistry:
    """One of the registries that DUCC's environment variables describe.

    ``proxy`` is the base URL of a pull-through cache that stands for the registry.
    """

    host: str
    credentials: Credentials | None
    proxy: str


def output_credentials(
    user: str, environment: Mapping[str, str] | None = None
) -> Credentials | None:
    """The account that pushes thin images: the recipe's user with DUCC's variable, if it is set."""
    password = (os.environ if environment is None else environment).get(OUTPUT_VARIABLE, "")
    return Credentials(user, password) if user and password else None


class CredentialStore:
    """Finds the credentials for a repository, by exact host and longest path prefix.

    Those ``given`` for a host count before all others.
    Raises `ConfigError` where a named variable or file is missing or damaged.
    """

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings],
        environment: Mapping[str, str] | None = None,
        given: Mapping[str, Credentials] | None = None,
    ) -> None:
        self._given = {normal_host(host): value for host, value in (given or {}).items()}
        self._settings = {normal_host(host): value for host, value in settings.items()}
        self._environment = os.environ if environment is None else environment
        self.ducc = ducc_registries(self._environment)
        self._ducc = {entry.host: entry for entry in self.ducc}
        self._files: dict[Path, Mapping[str, Any]] = {}
        self._found: dict[tuple[str, str], Credentials | None] = {}
        self._helped: dict[tuple[str, str], Credentials | None] = {}
        self._lock = threading.Lock()

    def find(self, host: str, repository: str) -> Credentials | None:
        """The credentials for ``repository`` at ``host`` (with its port), or None."""
        key = (normal_host(host), repository)
        with self._lock:
            if key not in self._found:
                self._found[key] = self._look(*key)
            return self._found[key]

    def _look(self, host: str, repository: str) -> Credentials | None:
        if host in self._given:
            return self._given[host]
        settings = self._settings.get(host, RegistrySettings())
        if settings.username_env or settings.password_env:
            return self._from_variables(host, settings)
        if host in self._ducc and self._ducc[host].credentials:
            return self._ducc[host].credentials
        if settings.auth_file is not None:
            members = self._read(settings.auth_file, required=True)
            return self._from_file(members, settings.auth_file, host, repository)
        for path in self._usual_files():
            found = self._from_file(self._read(path), path, host, repository)
            if found:
                return found
        return None

    def _from_variables(self, host: str, settings: RegistrySettings) -> Credentials:
        values = []
        for name in (settings.username_env, settings.password_env):
            value = self._environment.get(name, "") if name else ""
            if not value:
                raise ConfigError(
                    f"the environment variable {name!r} with the credentials for {host} is not set",
                    hint="export it, or take username_env and password_env out of the settings",
                )
            values.append(value)
        return Credentials(username=values[0], password=values[1])

    def _usual_files(self) -> Iterator[Path]:
        environment = self._environment
        if environment.get("REGISTRY_AUTH_FILE"):
            yield Path(environment["REGISTRY_AUTH_FILE"])
        if environment.get("XDG_RUNTIME_DIR"):
            yield Path(environment["XDG_RUNTIME_DIR"]) / "containers" / "auth.json"
        home = Path(environment.get("HOME") or "/nonexistent")
        config = Path(environment.get("XDG_CONFIG_HOME") or home / ".config")
        yield config / "containers" / "auth.json"
        yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"

    def _read(self, path: Path, *, required: bool = False) -> Mapping[str, Any]:
        if path in self._files:
            return self._files[path]
        try:
            members = json.loads(path.read_bytes())
            if not isinstance(members, dict):
                raise ValueError("not an object")
        except FileNotFoundError:
            if required:
                raise ConfigError(
                    f"the auth file {path} does not exist", hint="log in, or mend auth_file"
                ) from None
            members = {}
        except (OSError, ValueError) as error:
            # The file's text stays out of the message: it holds secrets.
            if required:
                raise ConfigError(
                    f"the auth file {path} cannot be read ({type(error).__name__})",
                    hint="it has to be JSON as docker login and podman login write it",
                ) from None
            logger.warning("%s cannot be read and is passed over", path)
            members = {}
        self._files[path] = members
        return members

    def _from_file(
        self, members: Mapping[str, Any], path: Path, host: str, repository: str
    ) -> Credentials | None:
        helpers = members.get("credHelpers")
        auths = members.get("auths")
        helpers = helpers if isinstance(helpers, dict) else {}
        auths = auths if isinstance(auths, dict) else {}
        for scope in _scopes(host, repository):
            for key, helper in helpers.items():
                if normal_key(key) == scope and isinstance(helper, str):
                    return self._help(helper, key)
            for key, entry in auths.items():
                if normal_key(key) == scope and isinstance(entry, dict):
                    found = _from_entry(entry, path)
                    if found:
                        return found
                    if isinstance(members.get("credsStore"), str):
                        return self._help(members["credsStore"], key)
        store = members.get("credsStore")
        if isinstance(store, str) and store:
            return self._help(store, _server_name(host))
        return None

    def _help(self, helper: str, server: str) -> Credentials | None:
        """What a credential helper says, which is asked once for all repositories."""
        key = (helper, server)
        if key not in self._helped:
            self._helped[key] = _ask_helper(*key)
        return self._helped[key]


def ducc_registries(environment: Mapping[str, str]) -> tuple[DuccRegistry, ...]:
    """Read ``DUCC_AUTH_REGISTRIES`` and ``DUCC_<name>_IDENT/_USER/_PASS/_PROXY``."""
    found = []
    for name in environment.get("DUCC_AUTH_REGISTRIES", "").split(","):
        name = name.strip()
        if not name:
            continue
        ident, user, password, proxy = (
            environment.get(f"DUCC_{name}_{part}", "")
            for part in ("IDENT", "USER", "PASS", "PROXY")
        )
        if not ident or not ((user and password) or proxy):
            raise ConfigError(
                f"DUCC_AUTH_REGISTRIES names {name!r} without all it needs",
                hint=f"set DUCC_{name}_IDENT and DUCC_{name}_USER with DUCC_{name}_PASS, "
                f"or DUCC_{name}_PROXY",
            )
        credentials = Credentials(user, password) if user and password else None
        if proxy and "://" not in proxy:
            proxy = f"https://{proxy}"
        found.append(DuccRegistry(normal_key(ident).partition("/")[0], credentials, proxy))
    return tuple(found)


def normal_host(host: str) -> str:
    """One name for a host: lower case, and Docker Hub's many names as one."""
    host = host.strip().lower()
    return DOCKER_HUB if host in _HUB_KEYS else host


def normal_key(key: str) -> str:
    """An auth file's key as ``host[/path]``: docker writes ``https://index.docker.io/v1/``."""
    scheme, separator, rest = key.partition("://")
    host, _, path = (rest if separator else scheme).partition("/")
    path = path.strip("/")
    if separator and path in ("v1", "v2"):
        path = ""
    host = normal_host(host)
    return f"{host}/{path}" if path else host


def _scopes(host: str, repository: str) -> Iterator[str]:
    """``host/a/b``, ``host/a``, ``host``: whole components only, the longest first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        yield "/".join([host, *parts[:count]])
    yield host


def _server_name(host: str) -> str:
    return "https://index.docker.io/v1/" if host == DOCKER_HUB else host


def _from_entry(entry: Mapping[str, Any], path: Path) -> Credentials | None:
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return Credentials(identity_token=token)
    encoded = entry.get("auth")
    if isinstance(encoded, str) and encoded:
        try:
            # Files are put together by hand, too: wrapped, without padding, for addresses.
            plain = "".join(encoded.split()).translate(_URL_SAFE).rstrip("=")
            pair = base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            raise ConfigError(
                f"an 'auth' of {path} is not base64", hint="log in to the registry again"
            ) from None
        username, colon, password = pair.partition(":")
        if colon:
            return Credentials(username, password.rstrip("\0"))
    user, secret = entry.get("username"), entry.get("password")
    if isinstance(user, str) and isinstance(secret, str) and user:
        return Credentials(user, secret)
    return None


def _ask_helper(name: str, server: str) -> Credentials | None:
    """Ask ``docker-credential-<name>``; None where it knows nothing of the server."""
    if not _HELPER_NAME.match(name):
        raise ConfigError(f"{name!r} is not the name of a credential helper")
    try:
        process = subprocess.run(
            [f"docker-credential-{name}", "get"],
            input=server.encode(),
            capture_output=True,
            timeout=HELPER_TIMEOUT_SECONDS,
            check=False,
        )
        answer = json.loads(process.stdout) if process.returncode == 0 else {}
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        # Neither the helper's output nor a chained exception: both may hold the secret.
        reason = "was not found" if isinstance(error, FileNotFoundError) else "does not answer"
        logger.warning("docker-credential-%s %s: going on without it", name, reason)
        return None
    username, secret = (
        (answer.get("Username"), answer.get("Secret")) if isinstance(answer, dict) else (None, None)
    )
    if not isinstance(username, str) or not isinstance(secret, str) or not secret:
        return None
    if username == "<token>":
        return Credentials(identity_token=secret)
    return Credentials(username, secret)
