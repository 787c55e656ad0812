"""From one call to one good answer: credentials, redirects, tries and deadlines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, urlsplit

from ...errors import NotFound, RateLimited, RegistryError, RegistryUnavailable, Unauthorized
from ..settings import RegistrySettings
from .auth import Authorizer, Scope, TokenRequest
from .bodies import read_body, registry_words
from .challenge import Challenge, parse_challenges
from .credentials import CredentialStore, normal_host
from .host import Host, Response
from .redirects import MAX_REDIRECTS, REDIRECTS, is_same_host, redirected
from .retry import (
    Breaker,
    Deadline,
    Patience,
    RegistryUnreachable,
    RetryPolicy,
    TryAgain,
    backoff_seconds,
    retry_after_seconds,
)

logger = logging.getLogger(__name__)

_GUARDED = frozenset({401, 403, 404})
"""What is said to those who offer no credentials, or none that are good."""
_MAX_OFFERS = 2
_NO_PING = frozenset(range(400, 500)) - {408, 429}
_TOKEN_LIMIT = 1024**2
_PAUSE_SECONDS = 60.0
"""How long a host is spared that kept answering 429 without saying for how long."""

T = TypeVar("T", "Reply", Response)


@dataclass(frozen=True, slots=True)
class Call:
    """One request as its caller means it.

    ``accept`` are the statuses of 400 and above that are an answer, not an error.
    ``is_verified``: the caller knows the digest of what has to come.
    ``is_trial``: there is another way, which is taken at the first failure; that
    counts against nobody.
    """

    method: str
    url: str
    scope: Scope | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = field(default=None, repr=False)
    accept: frozenset[int] = frozenset()
    is_verified: bool = False
    is_trial: bool = False

    @property
    def is_secret(self) -> bool:
        """Whether it carries credentials of itself."""
        return self.body is not None or "Authorization" in self.headers


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer whose body is read: ``headers`` are looked up without regard to case."""

    status: int
    url: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Transport:
    """Makes calls: chooses the session, authorizes, follows redirects, tries again.

    ``shared`` is the directory by which processes share the limits of hosts.
    """

    def __init__(
        self,
        settings: Mapping[str, RegistrySettings],
        store: CredentialStore,
        policy: RetryPolicy,
        shared: Path | None = None,
    ) -> None:
        self._shared = shared
        self._settings = {normal_host(name): value for name, value in settings.items()}
        self._store = store
        self.policy = policy
        self._hosts: dict[tuple[str, str], Host] = {}
        self._authorizers: dict[tuple[str, str, bool], Authorizer] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close all sessions."""
        with self._lock:
            for host in self._hosts.values():
                host.close()
            self._hosts.clear()

    def settings(self, name: str) -> RegistrySettings:
        """The settings of a host, or the usual ones."""
        return self._settings.get(normal_host(name), RegistrySettings())

    def host(self, scheme: str, name: str) -> Host:
        """The one session for a scheme and a host with its port."""
        key = (scheme, name.lower())
        found = self._hosts.get(key)
        if found:
            return found
        with self._lock:
            if key not in self._hosts:
                policy = self.policy
                self._hosts[key] = Host(
                    scheme,
                    key[1],
                    self.settings(name),
                    breaker=Breaker(
                        name,
                        limit=max(policy.breaker_limit, policy.patience.tries),
                        seconds=policy.breaker_seconds,
                    ),
                    connect_seconds=policy.connect_seconds,
                    shared=self._shared and self._shared / quote(key[1], safe=":[]"),
                )
            return self._hosts[key]

    def exchange(self, call: Call, *, limit: int, patience: Patience | None = None) -> Reply:
        """Make a call and read the answer of at most ``limit`` bytes.

        Raises `NotFound`, `Unauthorized`, `RateLimited`, `RegistryUnavailable`,
        or `RegistryError` for any other refusal.
        """

        def attempt(deadline: Deadline) -> Reply:
            response = self._answered(call, deadline)
            try:
                body = read_body(response, limit, deadline)
            finally:
                response.close()
            return Reply(response.status, response.url, response.headers, body)

        return self._trying(call, attempt, patience)

    def open(self, call: Call, *, patience: Patience | None = None) -> Response:
        """Make a call and return the answer with its body unread; the caller closes it."""
        return self._trying(call, lambda deadline: self._answered(call, deadline), patience)

    def _trying(self, call: Call, attempt: Callable[[Deadline], T], patience: Patience | None) -> T:
        patience = patience or self.policy.patience
        deadline = Deadline(patience.seconds)
        host = self._host_of(call.url)
        for count in range(1, patience.tries + 1):
            try:
                result = attempt(deadline)
            except TryAgain as failure:
                if isinstance(failure.error, RegistryUnavailable):
                    if call.is_trial:
                        raise failure.error from None
                    host.breaker.failed(failure.error.found)
                pause = backoff_seconds(count, self.policy.backoff_seconds)
                wait = max(pause, failure.wait_seconds or 0.0)
                if count == patience.tries or not deadline.allows(wait):
                    if isinstance(failure.error, RateLimited):
                        host.pause(call.method, call.url, max(wait, _PAUSE_SECONDS))
                    raise failure.error from None
                logger.info("%s; trying again in %.1f s", failure.error.found, wait)
                time.sleep(wait)
            except (NotFound, Unauthorized):
                host.breaker.succeeded()
                raise
            else:
                if result.status < 500:
                    host.breaker.succeeded()
                elif not call.is_trial:
                    host.breaker.failed(f"{host.name} answers {result.status}")
                return result
        raise AssertionError("the last try returns or raises")

    def _host_of(self, url: str) -> Host:
        parts = urlsplit(url)
        return self.host(parts.scheme, parts.netloc)

    def _answered(self, call: Call, deadline: Deadline) -> Response:
        """One try: redirects followed, credentials offered where asked, bad statuses raised."""
        url = call.url
        origin = host = self._host_of(url)
        authorizer = self._authorizer(origin)
        header = authorizer.header(call.scope) if call.scope else ""
        offers = redirects = 0
        while True:
            headers = {**call.headers, "Authorization": header} if header else call.headers
            response = self._sent(call, url, headers, deadline, origin)
            status = response.status
            if call.scope and status in _GUARDED and offers < _MAX_OFFERS:
                refusal = self._refusal(call, response, host, redirected=_is_led(call, url))
                offers += 1
                better = _better(authorizer, response, call.scope, header, again=offers > 1)
                if not better and status in call.accept:
                    return response
                if not better:
                    raise refusal
                header = better
            elif status in REDIRECTS and call.method in ("GET", "HEAD"):
                redirects += 1
                plain = call.is_verified and origin.settings.plain_blobs
                url = redirected(response, url, redirects, plain=plain)
                response.discard()
                host = self._host_of(url)
                is_same = is_same_host(call.url, url)
                authorizer = self._authorizer(origin if is_same else host, visited=not is_same)
                header = authorizer.header(call.scope) if call.scope else ""
            elif status < 400 or status in call.accept:
                return response
            else:
                raise self._refusal(call, response, host, redirected=_is_led(call, url))

    def _sent(
        self, call: Call, url: str, headers: Mapping[str, str], deadline: Deadline, origin: Host
    ) -> Response:
        """Make a request; of a host that cannot be reached it is said who redirects there."""
        host = self._host_of(url)
        try:
            return host.send(call.method, url, headers, deadline, call.body)
        except (TryAgain, RegistryUnreachable) as failure:
            error = failure.error if isinstance(failure, TryAgain) else failure
            if host is not origin and isinstance(error, RegistryUnreachable):
                error.hint = (
                    f"{origin.name} redirects there: see whether it can be reached from here"
                )
            raise

    def _authorizer(self, host: Host, *, visited: bool = False) -> Authorizer:
        """The authorizer of a host; one that was only redirected to gets no credentials."""
        key = (host.scheme, host.name, visited)
        found = self._authorizers.get(key)
        if found:
            return found
        store = None if visited else self._store
        made = Authorizer(
            host.name, host.scheme == "https", store, self._fetch_token, lambda: self._ping(host)
        )
        with self._lock:
            return self._authorizers.setdefault(key, made)

    def _ping(self, host: Host) -> tuple[Challenge, ...]:
        """What the host's ``/v2/`` asks for, if no other host answers in its place."""
        reply = self._exchange_in_place(Call("GET", f"{host.base_url}/v2/", accept=_NO_PING))
        if not is_same_host(host.base_url, reply.url):
            return ()
        return parse_challenges(reply.headers.get("WWW-Authenticate", ""))

    def _fetch_token(self, request: TokenRequest) -> tuple[int, bytes]:
        headers = {"Accept": "application/json"}
        if request.authorization:
            headers["Authorization"] = request.authorization
        if request.form is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        call = Call(
            "GET" if request.form is None else "POST",
            request.url,
            headers=headers,
            body=request.form,
            accept=frozenset({400, 401, 403, 404, 405}),
        )
        reply = self._exchange_in_place(call)
        return reply.status, reply.body

    def _exchange_in_place(self, call: Call) -> Reply:
        """An exchange that no redirect leads elsewhere with what it carries."""

        def attempt(deadline: Deadline) -> Reply:
            url = call.url
            for redirects in range(1, MAX_REDIRECTS + 2):
                host = self._host_of(url)
                response = host.send(call.method, url, call.headers, deadline, call.body)
                try:
                    if response.status not in REDIRECTS:
                        if response.status >= 400 and response.status not in call.accept:
                            raise self._refusal(call, response, host, redirected=False)
                        body = read_body(response, _TOKEN_LIMIT, deadline)
                        return Reply(response.status, url, response.headers, body)
                    target = redirected(response, url, redirects)
                finally:
                    response.close()
                if call.is_secret and not is_same_host(url, target):
                    raise RegistryError(
                        f"{host.name} redirects a request for a token to {urlsplit(target).netloc}",
                        hint="credentials are not taken there: ask the registry's operator",
                    )
                url = target
            raise AssertionError("too many redirects are an error")

        return self._trying(call, attempt, None)

    def _refusal(
        self, call: Call, response: Response, host: Host, *, redirected: bool
    ) -> Exception:
        """The error for a status of 400 or above; closes the response."""
        status = response.status
        code, said = registry_words(response)
        response.close()
        what = f"{host.name} answers {status}{said} to {call.method} {_safe_path(call.url)}"
        wait = retry_after_seconds(response.headers.get("Retry-After"))
        if status == 429:
            if wait is not None:
                host.pause(call.method, call.url, wait)
            hint = "run again later, log in for a larger budget, or configure a mirror"
            return TryAgain(RateLimited(what, hint=hint), wait)
        if status >= 500 or status == 408:
            hint = "the registry is in trouble: what is known stays in force"
            return TryAgain(RegistryUnavailable(what, hint=hint), wait)
        if redirected:
            # Signed addresses run out: the registry gives a new one.
            hint = "the registry redirects there, and it refuses: ask the registry's operator"
            return TryAgain(RegistryUnavailable(f"{what} after a redirect", hint=hint))
        if status in (401, 403):
            verb = "read" if call.method in ("GET", "HEAD") else "push"
            hint = f"give credentials that may {verb} it, or check the name"
            return Unauthorized(what, hint=hint)
        if status == 404:
            hint = "check the repository and the tag, or remove the entry"
            if "/blobs/" in call.url:
                hint = "the registry has lost a part of the image: have it pushed again"
            missing = NotFound(what, hint=hint)
            missing.code = code
            return missing
        if status == 400 and host.scheme == "http" and not code:
            return RegistryError(what, hint=f"see what it says{host.other_scheme}")
        return RegistryError(what)


def _better(
    authorizer: Authorizer, response: Response, scope: Scope, refused: str, *, again: bool
) -> str:
    """What to ask again with after a refusal, or ""; the connection is free by now."""
    challenges = parse_challenges(response.headers.get("WWW-Authenticate", ""))
    if response.status == 401 and challenges:
        return authorizer.answer(challenges, scope, refused, again=again)
    return "" if refused else authorizer.offer(scope)


def _is_led(call: Call, url: str) -> bool:
    """Whether it is a redirect's address that answers, and no further one of the registry's own."""
    return url != call.url and (call.is_verified or not is_same_host(call.url, url))


def _safe_path(url: str) -> str:
    """The path alone: queries may be signed."""
    return urlsplit(url).path
