"""One host: its connections, its limits, and what became of the requests to it."""

from __future__ import annotations

import errno
import functools
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies

import certifi
import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    DecodeError,
    HTTPError,
    IncompleteRead,
    LocationValueError,
    NameResolutionError,
    ProxyError,
    ReadTimeoutError,
)

from ... import __version__
from ...errors import ConfigError, RateLimited, RegistryError, RegistryUnavailable
from ..settings import RegistrySettings
from .limits import Connections, Pace
from .pull_budget import PullBudget
from .retry import Breaker, Deadline, RegistryUnreachable, TryAgain
from .verbatim import TARGET, target_of, verbatim

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 6 * 3600.0
"""How long a host's Retry-After is remembered at most."""

_ALWAYS = {"User-Agent": f"duccmake/{__version__}", "Accept-Encoding": "identity"}
_DRAIN_BYTES = 64 * 1024
_LATER = "run again later, log in for a larger budget, or configure a mirror"
_PULL = "GET manifests"
_NO_RETRIES = urllib3.Retry(False)

# At DEBUG it writes whole addresses, and those of redirects are signed.
logging.getLogger("urllib3.connectionpool").setLevel(logging.INFO)


class Response:
    """An answer whose body is still to be read, and its connection to be given back.

    ``release`` is called once, when that has happened.
    """

    def __init__(
        self, url: str, raw: urllib3.BaseHTTPResponse, release: Callable[[], None]
    ) -> None:
        self.url = url
        self.status = raw.status
        self.headers = raw.headers
        self._raw = raw
        self._release: Callable[[], None] | None = release

    def pieces(self, size: int, *, decode: bool) -> Iterator[bytes]:
        """The body, in pieces of at most ``size`` bytes; ``decode`` undoes a Content-Encoding.

        Raises `TryAgain` where it breaks off, stalls, or is shorter than announced.
        """
        try:
            yield from self._raw.stream(size, decode_content=decode)
        except (HTTPError, OSError) as error:
            what = f"the answer of {urlsplit(self.url).netloc} broke off: {_reason(_causes(error))}"
            raise TryAgain(RegistryUnavailable(what)) from None

    def close(self) -> None:
        """Give the connection back, for further use only if the body was read to its end."""
        if not self._raw.closed:
            self._raw.close()
        self._raw.release_conn()
        release, self._release = self._release, None
        if release:
            release()

    def discard(self) -> None:
        """Close, but read a short body first, so that the connection can be used again."""
        length = self.headers.get("Content-Length", "")
        if length.isdigit() and int(length[:9]) <= _DRAIN_BYTES:
            self._raw.drain_conn()
        self.close()


class Host:
    """The requests to one host and port, within the limits of its settings.

    ``shared`` is a directory: the limits then hold for all processes that name it.
    ``refuses_head`` is noted by whoever finds that GET gets what HEAD does not.
    """

    def __init__(
        self,
        scheme: str,
        name: str,
        settings: RegistrySettings,
        *,
        breaker: Breaker,
        connect_seconds: float = 10.0,
        shared: Path | None = None,
    ) -> None:
        self.scheme = scheme
        self.name = name
        self.settings = settings
        self.breaker = breaker
        self.pulls = PullBudget()
        self.refuses_head = False
        self.bytes_pace = Pace(settings.bytes_per_second, shared and shared / "bytes")
        self._requests_pace = Pace(settings.requests_per_second, shared and shared / "requests")
        self._connect_seconds = connect_seconds
        self._connections = Connections(settings.connections, shared)
        self._paused_until: dict[str, float] = {}
        self._pools = _pools(scheme, self.base_url, settings)
        # The one pool, asked by paths, spares each request the search for it.
        forwarded = scheme == "http" and isinstance(self._pools, urllib3.ProxyManager)
        self._pool = None if forwarded else self._pools.connection_from_url(self.base_url)

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{self.scheme}://{self.name}"

    def close(self) -> None:
        """Close the connections."""
        self._pools.clear()

    def pause(self, method: str, url: str, seconds: float) -> None:
        """Hold requests of this kind back, as a Retry-After asked for.

        By kind, because registries that count pulls let polls through.
        """
        kind = _kind(method, url)
        until = time.monotonic() + min(seconds, LONGEST_PAUSE_SECONDS)
        self._paused_until[kind] = max(until, self._paused_until.get(kind, 0.0))

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        body: bytes | None = None,
    ) -> Response:
        """Make one request, without following redirects.

        Raises `TryAgain` where there is no answer, `RateLimited` where none may be
        asked for now, and `RegistryError` where there never will be one (a
        certificate that does not verify).
        """
        self.breaker.check()
        kind = _kind(method, url)
        self._wait_for_turn(kind, deadline)
        release = self._connections.acquire()
        try:
            # Whoever waited for a connection may wait for a dead host.
            self.breaker.check()
            raw = self._count(kind, lambda: self._request(method, url, headers, deadline, body))
        except BaseException:
            release()
            raise
        return Response(url, raw, release)

    def _count(
        self, kind: str, request: Callable[[], urllib3.BaseHTTPResponse]
    ) -> urllib3.BaseHTTPResponse:
        """Make the request if, being a pull, it is within the registry's budget."""
        if kind != _PULL:
            response = request()
            self.pulls.note(response.headers)
            return response
        if not self.pulls.take():
            raise RateLimited(f"{self.name} allows no more pulls for now", hint=_LATER)
        told: Mapping[str, str] | None = None
        try:
            response = request()
            told = response.headers
            return response
        finally:
            self.pulls.settle(told)

    def _request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        body: bytes | None,
    ) -> urllib3.BaseHTTPResponse:
        read_timeout = max(0.001, min(self.settings.timeout_seconds, deadline.remaining))
        connect_timeout = min(self._connect_seconds, read_timeout)
        try:
            return (self._pool or self._pools).urlopen(
                method,
                "/" if self._pool else f"{self.base_url}/",
                headers={**_ALWAYS, **headers, TARGET: target_of(url, whole=self._pool is None)},
                body=body,
                redirect=False,
                retries=_NO_RETRIES,
                preload_content=False,
                timeout=urllib3.Timeout(connect=connect_timeout, read=read_timeout),
            )
        except (HTTPError, OSError, ValueError) as error:
            raise self._failure(error) from None

    def _wait_for_turn(self, kind: str, deadline: Deadline) -> None:
        wait = self._requests_pace.take(1)
        paused_until = self._paused_until.get(kind)
        if paused_until is not None:
            wait = max(wait, paused_until - time.monotonic())
        if wait <= 0:
            return
        if not deadline.allows(wait):
            raise RateLimited(f"{self.name} asks to wait {wait:.0f} s", hint=_LATER)
        time.sleep(wait)

    def _failure(self, error: Exception) -> TryAgain | RegistryError:
        """Say what happened in words of our own: foreign texts may hold a proxy's password."""
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return RegistryError(
                    f"the certificate of {self.name} does not verify: {cause.verify_message}",
                    hint=_CERTIFICATE_HINTS.get(
                        cause.verify_code,
                        f"give the authority's certificate as registries.{self.name}.ca_file",
                    ),
                )
            if isinstance(cause, LocationValueError):
                return RegistryError(f"{self.name} is not a host that can be asked")
        hint = f"see whether the registry is up and reachable from here{self.other_scheme}"
        reason = _reason(causes)
        unreachable = RegistryUnreachable(f"{self.name} cannot be reached: {reason}", hint=hint)
        return unreachable if reason == _PLAIN else TryAgain(unreachable)

    @property
    def other_scheme(self) -> str:
        """What to do where a host is asked in the wrong way, for the end of a sentence."""
        other = "http" if self.scheme == "https" else "https"
        return (
            f"; if it has {other} alone, write {other}:// or registries.{self.name}.scheme: {other}"
        )


def _kind(method: str, url: str) -> str:
    """What registries may count together: ``GET manifests``, ``HEAD manifests``, ``GET blobs``…"""
    for family in ("manifests", "blobs"):
        if f"/{family}/" in url:
            return f"{method} {family}"
    return method


_REASONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
    (ProxyError, "the proxy refuses or cannot be reached"),
    ((NameResolutionError, socket.gaierror), "its name is unknown"),
    (ConnectionRefusedError, "connection refused"),
    (ConnectTimeoutError, "no connection in time"),
    ((ReadTimeoutError, TimeoutError), "no answer in time"),
    (ConnectionResetError, "connection reset"),
    (IncompleteRead, "it is shorter than announced"),
    (DecodeError, "its Content-Encoding is not what its body has"),
    (ssl.SSLError, "the TLS connection failed"),
)


_CERTIFICATE_HINTS = {
    9: "see whether this machine's clock is right",
    10: "ask its operator for one that is valid, and see whether this machine's clock is right",
    62: "name the host as its certificate does, or ask its operator for one with this name",
    64: "name the host as its certificate does, or ask its operator for one with this address",
}
"""What to do about certificates that no ca_file mends (X509_STORE_CTX_get_error(3ssl))."""

_PLAIN = "it speaks plain http"
_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG"})
"""How OpenSSL calls an answer that is no TLS."""


def _reason(causes: list[BaseException]) -> str:
    if any(isinstance(cause, ssl.SSLError) and cause.reason in _NO_TLS for cause in causes):
        return _PLAIN
    for kind, words in _REASONS:
        if any(isinstance(cause, kind) for cause in causes):
            return words
    return f"the connection broke ({type(causes[-1]).__name__})"


def _causes(error: BaseException) -> list[BaseException]:
    """The exception and all that it wraps, outermost first."""
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting and len(found) < 20:
        item = waiting.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            waiting += [getattr(item, "reason", None), *item.args]
            waiting += [item.__cause__, item.__context__]
    return found


def _pools(scheme: str, base_url: str, settings: RegistrySettings) -> urllib3.PoolManager:
    """The connections to a host, through the proxy that the environment names for it."""
    options: dict[str, Any] = {
        "num_pools": 2,
        "maxsize": max(1, settings.connections),
    }
    if scheme == "https":
        options["ssl_context"] = _tls_context(settings.ca_file)
    proxy = _proxy(base_url)
    if not proxy:
        return verbatim(urllib3.PoolManager(**options))
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=pair)
    host = parts.netloc.rpartition("@")[2]
    try:
        url = f"{parts.scheme}://{host}"
        return verbatim(urllib3.ProxyManager(url, proxy_headers=headers, **options))
    except (HTTPError, ValueError):
        raise ConfigError(
            f"the proxy {host} of the environment cannot be used",
            hint="set HTTPS_PROXY to http://host:port, or NO_PROXY for this registry",
        ) from None


def _proxy(base_url: str) -> str | None:
    """The proxy that the environment names for an address."""
    if not getproxies():
        return None
    from requests.utils import get_environ_proxies, select_proxy  # slow to import

    return select_proxy(base_url, get_environ_proxies(base_url))


@functools.lru_cache(maxsize=32)
def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """The system's authorities (certifi's where it has none), and the configured ones."""
    context = ssl.create_default_context()
    usual = ssl.get_default_verify_paths()
    if not usual.cafile and not usual.capath:
        context.load_verify_locations(cafile=certifi.where())
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    for path in (bundle and Path(bundle), ca_file):
        if not path:
            continue
        try:
            if path.is_dir():
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except OSError as error:
            reason = "it does not exist" if error.errno == errno.ENOENT else "no PEM certificates"
            raise ConfigError(
                f"the certificate authorities in {path} cannot be read: {reason}",
                hint="ca_file has to be a file of certificates in PEM form",
            ) from None
    return context
