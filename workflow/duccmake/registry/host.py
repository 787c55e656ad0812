"""One host: its session, its limits, and what became of the requests to it."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from typing import Any

import certifi
import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies

from .. import __version__
from ..errors import ConfigError, RateLimited, RegistryError, RegistryUnavailable
from .retry import Breaker, Deadline, TryAgain
from .settings import RegistrySettings

logger = logging.getLogger(__name__)

CONNECT_TIMEOUT_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 6 * 3600.0
"""How long a host's Retry-After is remembered at most."""

USER_AGENT = f"duccmake/{__version__}"

BODY_ERRORS = (urllib3.exceptions.HTTPError, requests.RequestException, OSError)
"""What reading a body may raise when the connection breaks or stalls."""


class Pace:
    """At most so many units a second, with a burst of one second's worth."""

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, units: float) -> float:
        """Book ``units``; returns the seconds to wait before using them."""
        if not self._per_second:
            return 0.0
        with self._lock:
            now = time.monotonic()
            start = max(self._free_at, now - 1.0)
            self._free_at = start + units / self._per_second
            return max(0.0, self._free_at - now)


class Host:
    """The requests to one host and port: one session, and the limits of its settings."""

    def __init__(
        self, scheme: str, name: str, settings: RegistrySettings, *, breaker: Breaker
    ) -> None:
        self.scheme = scheme
        self.name = name
        self.settings = settings
        self.breaker = breaker
        self.remaining: int | None = None
        self.bytes_pace = Pace(settings.bytes_per_second)
        self._requests_pace = Pace(settings.requests_per_second)
        self._paused_until: dict[str, float] = {}
        self._session = _session(settings)
        self._proxies: dict[str, str] = dict(get_environ_proxies(self.base_url, no_proxy=None))

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return f"{self.scheme}://{self.name}"

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def pause(self, method: str, seconds: float) -> None:
        """Hold requests of this method back, as a Retry-After asked for.

        By method, because registries that count pulls let HEAD through.
        """
        until = time.monotonic() + min(seconds, LONGEST_PAUSE_SECONDS)
        self._paused_until[method] = max(until, self._paused_until.get(method, 0.0))

    def send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        body: bytes | None = None,
    ) -> requests.Response:
        """Make one request, without following redirects; the body is left to be read.

        Raises `TryAgain` where there is no answer, and `RegistryError` where
        there never will be one (a certificate that does not verify).
        """
        self.breaker.check()
        self._wait_for_turn(method, deadline)
        request = requests.PreparedRequest()
        try:
            request.prepare(
                method=method,
                url=url,
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity", **headers},
                data=body,
            )
            response = self._session.send(
                request,
                stream=True,
                allow_redirects=False,
                verify=True,
                proxies=self._proxies,
                timeout=self._timeouts(deadline),
            )
        except (requests.RequestException, OSError, urllib3.exceptions.HTTPError) as error:
            raise self._failure(error) from None
        self._note_rate_limit(response)
        return response

    def _timeouts(self, deadline: Deadline) -> tuple[float, float]:
        read = max(0.001, min(self.settings.timeout_seconds, deadline.remaining))
        return min(CONNECT_TIMEOUT_SECONDS, read), read

    def _wait_for_turn(self, method: str, deadline: Deadline) -> None:
        wait = self._requests_pace.take(1)
        paused_until = self._paused_until.get(method)
        if paused_until is not None:
            wait = max(wait, paused_until - time.monotonic())
        if wait <= 0:
            return
        if not deadline.allows(wait):
            raise RateLimited(
                f"{self.name} asks to wait {wait:.0f} s",
                mend="run again later, log in for a larger budget, or configure a mirror",
            )
        time.sleep(wait)

    def _note_rate_limit(self, response: requests.Response) -> None:
        header = response.headers.get("RateLimit-Remaining") or response.headers.get(
            "X-RateLimit-Remaining"
        )
        if header:
            number = header.partition(";")[0].strip()
            if number.isascii() and number.isdigit():
                self.remaining = int(number[:12])

    def _failure(self, error: Exception) -> TryAgain | RegistryError:
        """Say what happened in words of our own: foreign texts may hold a proxy's password."""
        causes = _causes(error)
        for cause in causes:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return RegistryError(
                    f"the certificate of {self.name} does not verify: {cause.verify_message}",
                    mend="give the authority's certificate as ca_file in the registry's settings",
                )
            if isinstance(
                cause, requests.exceptions.InvalidURL | urllib3.exceptions.LocationValueError
            ):
                return RegistryError(f"{self.name} is not a host that can be asked")
        mend = "see whether the registry is up and reachable from here"
        return TryAgain(
            RegistryUnavailable(f"{self.name} cannot be reached: {_reason(causes)}", mend=mend)
        )


def break_reason(error: BaseException) -> str:
    """Why a connection broke, in a few words without foreign text."""
    return _reason(_causes(error))


def _reason(causes: list[BaseException]) -> str:
    named: list[tuple[type[BaseException] | tuple[type[BaseException], ...], str]] = [
        (requests.exceptions.ProxyError, "the proxy refuses or cannot be reached"),
        ((urllib3.exceptions.NameResolutionError, socket.gaierror), "its name is unknown"),
        (ConnectionRefusedError, "connection refused"),
        (urllib3.exceptions.ConnectTimeoutError, "no connection in time"),
        ((urllib3.exceptions.ReadTimeoutError, TimeoutError), "no answer in time"),
        (ConnectionResetError, "connection reset"),
        (urllib3.exceptions.IncompleteRead, "the answer broke off"),
        (ssl.SSLError, "the TLS connection failed"),
    ]
    for kind, words in named:
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


class _Adapter(HTTPAdapter):
    """An adapter with one TLS context for all its connections, direct and through proxies."""

    def __init__(self, context: ssl.SSLContext, connections: int) -> None:
        self._context = context
        super().__init__(pool_connections=4, pool_maxsize=connections, pool_block=True)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Hand the context to the pool."""
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        """Hand the context to the proxy's pool."""
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:
        """Leave the authorities to the context: loading them anew costs each connection 10 ms."""
        conn.cert_reqs = "CERT_REQUIRED"


def _session(settings: RegistrySettings) -> requests.Session:
    session = requests.Session()
    # Else a ~/.netrc would override the credentials chosen by host and path.
    session.trust_env = False
    adapter = _Adapter(_tls_context(settings), max(1, settings.connections))
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _tls_context(settings: RegistrySettings) -> ssl.SSLContext:
    """The system's authorities, certifi's, and the configured ones."""
    context = ssl.create_default_context(cafile=certifi.where())
    context.load_default_certs()
    bundle = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE")
    for path in (bundle, settings.ca_file):
        if not path:
            continue
        try:
            if os.path.isdir(path):  # noqa: PTH112
                context.load_verify_locations(capath=path)
            else:
                context.load_verify_locations(cafile=path)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(
                f"the certificate authorities in {path} cannot be read ({type(error).__name__})",
                mend="it has to be a file of certificates in PEM form",
            ) from None
    return context
