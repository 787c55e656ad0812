"""Authorization: Basic, and Bearer tokens as the distribution project specifies them."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from ...errors import RegistryError, RegistryUnavailable, Unauthorized
from .challenge import Challenge
from .credentials import Credentials, CredentialStore
from .redirects import place_of
from .retry import RegistryUnreachable

logger = logging.getLogger(__name__)

DEFAULT_LIFETIME_SECONDS = 60.0
"""How long a token lives whose answer does not say (distribution, token specification)."""

_CLIENT_ID = "duccmake"
_NOTHING = Challenge("")
_HINT = (
    "give credentials in the registry's settings or log in with podman or docker, "
    "and check the name: registries answer so for what does not exist, too"
)


@dataclass(frozen=True, slots=True)
class Scope:
    """What a request needs: actions (``pull``, ``pull,push``) on a repository."""

    repository: str
    actions: str = "pull"

    def __str__(self) -> str:
        return f"repository:{self.repository}:{self.actions}"


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """A request to a realm; ``form`` makes it a POST."""

    url: str
    authorization: str = field(default="", repr=False)
    form: bytes | None = field(default=None, repr=False)

    @property
    def is_secret(self) -> bool:
        """Whether it carries credentials."""
        return bool(self.authorization or self.form)


TokenFetcher = Callable[[TokenRequest], tuple[int, bytes]]
"""Makes the request, with retries, and returns the status and the body."""


@dataclass(slots=True)
class _Grant:
    """A header that was obtained for a scope, and when it ends."""

    header: str = field(repr=False)
    expires: float


class Authorizer:
    """Obtains and remembers the Authorization headers for one host.

    Nothing is sent until the host asks; from then on tokens are fetched before
    the first request for a repository, so that each costs one exchange less.
    Without ``store``, where a redirect led, there are only tokens that anybody gets.

    ``ping`` is what the host's ``/v2/`` asks for.  That is looked at before all else
    where there are credentials, as other clients do, and where the host refuses without
    saying what it wants.
    """

    def __init__(
        self,
        host: str,
        secure: bool,
        store: CredentialStore | None,
        fetch: TokenFetcher,
        ping: Callable[[], Iterable[Challenge]],
    ) -> None:
        self._host = host
        self._secure = secure
        self._store = store
        self._fetch = fetch
        self._ping = ping
        self._pinged = False
        self._challenge: Challenge | None = None
        self._grants: dict[str, _Grant] = {}
        self._locks: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def header(self, scope: Scope) -> str:
        """The header for a request, or "" while the host has not asked for one."""
        challenge = self._challenge
        if challenge is None and not self._pinged and self._credentials(scope):
            with contextlib.suppress(RegistryError):
                challenge = self._learn()
        if challenge is None or (challenge.scheme == "basic" and not self._credentials(scope)):
            # Where others need a password, this repository may be open to everybody.
            return ""
        grant = self._grants.get(str(scope))
        if grant and grant.expires > time.monotonic():
            return grant.header
        try:
            return self._obtain(challenge, scope, refused="", asked=False)
        except RegistryError as error:
            if not self._grants and not isinstance(error, RegistryUnavailable):
                raise
            # It gave tokens before, and the host may name another realm by now; or it is
            # another repository's alone.
            self._challenge, self._pinged = None, False
            return ""

    def answer(
        self, challenges: Iterable[Challenge], scope: Scope, refused: str, *, again: bool = False
    ) -> str:
        """A new header after a 401 to a request that carried the header ``refused``.

        ``again`` after another header has been refused as well.  Raises `Unauthorized`
        where there is nothing better to offer.
        """
        offered = {challenge.scheme: challenge for challenge in challenges}
        challenge = offered.get("bearer") or offered.get("basic")
        if self._store is None and not offered.get("bearer", _NOTHING).parameters.get("realm"):
            return ""
        if challenge is None:
            schemes = ", ".join(sorted(offered)) or "nothing"
            raise Unauthorized(
                f"{self._host} refuses {scope.repository} and asks for {schemes}", hint=_HINT
            )
        known = self._challenge
        if refused.startswith("Bearer ") and challenge.scheme == "basic" and known and not again:
            # Harbor asks for Basic where a token has ended.
            return self._obtain(known, scope, refused, asked=False)
        self._challenge = challenge
        return self._obtain(challenge, scope, refused, asked=True)

    def offer(self, scope: Scope) -> str:
        """What ``/v2/`` asks for, after a refusal that asks for nothing; "" if it does not.

        Some registries say 403 or 404 to whoever offers nothing.
        """
        challenge = self._learn() if self._store else None
        return self._obtain(challenge, scope, refused="", asked=False) if challenge else ""

    def _learn(self) -> Challenge | None:
        """The challenge that is known, or that of ``/v2/``."""
        with self._lock_for(""):
            if self._challenge is None and not self._pinged:
                offered = {challenge.scheme: challenge for challenge in self._ping()}
                self._challenge = offered.get("bearer") or offered.get("basic")
                self._pinged = True
            return self._challenge

    def _credentials(self, scope: Scope) -> Credentials | None:
        return self._store.find(self._host, scope.repository) if self._store else None

    def _obtain(self, challenge: Challenge, scope: Scope, refused: str, *, asked: bool) -> str:
        with self._lock_for(str(scope)):
            grant = self._grants.get(str(scope))
            if grant and grant.header != refused and grant.expires > time.monotonic():
                return grant.header
            credentials = self._credentials(scope)
            if challenge.scheme == "basic":
                grant = self._basic(credentials, scope, refused)
            else:
                grant = self._bearer(challenge, credentials, _token_scopes(challenge, scope, asked))
            self._grants[str(scope)] = grant
            return grant.header

    def _lock_for(self, key: str) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(key, threading.Lock())

    def _basic(self, credentials: Credentials | None, scope: Scope, refused: str) -> _Grant:
        if credentials is None or not credentials.username:
            raise Unauthorized(
                f"{self._host} asks for credentials for {scope.repository}", hint=_HINT
            )
        if credentials.basic == refused:
            raise Unauthorized(
                f"{self._host} refuses the credentials for {scope.repository}", hint=_HINT
            )
        return _Grant(credentials.basic, float("inf"))

    def _bearer(
        self, challenge: Challenge, credentials: Credentials | None, scopes: list[str]
    ) -> _Grant:
        realm = challenge.parameters.get("realm", "")
        parts = place_of(realm)
        if parts is None:
            raise RegistryUnavailable(
                f"{self._host} names {realm[:200]!r} as the realm of its tokens",
                hint="ask its operator",
            )
        fields = [("scope", scope) for scope in scopes]
        service = challenge.parameters.get("service", "")
        if service:
            fields.insert(0, ("service", service))
        request = _token_request(realm, fields, credentials)
        try:
            status, body = self._fetched(request)
        except RegistryUnreachable as error:
            error.hint = f"{self._host} has its tokens given there: ask its operator"
            raise
        if request.form and status in (404, 405):
            raise Unauthorized(
                f"{parts.netloc} knows no identity tokens", hint="log in with a password instead"
            )
        if status != 200:
            raise Unauthorized(
                f"{parts.netloc} gives no token for {' '.join(scopes)} (status {status})",
                hint=_HINT,
            )
        return _grant(body, parts.netloc)

    def _fetched(self, request: TokenRequest) -> tuple[int, bytes]:
        """The realm's answer; by https, whatever an https host writes, unless nothing is secret."""
        parts = urlsplit(request.url)
        if not self._secure or parts.scheme == "https":
            return self._fetch(request)
        safe = parts._replace(scheme="https", netloc=parts.netloc.removesuffix(":80"))
        try:
            return self._fetch(replace(request, url=safe.geturl()))
        except RegistryUnreachable:
            if request.is_secret:
                raise Unauthorized(
                    f"{self._host} wants tokens fetched from {parts.netloc} without encryption",
                    hint="this is not done: credentials would be readable on the way",
                ) from None
        return self._fetch(request)


def _token_scopes(challenge: Challenge, scope: Scope, asked: bool) -> list[str]:
    """The scopes to ask for.

    A challenge to this very request (``asked``) knows best: some registries name
    the repository otherwise than its path does.  A challenge remembered from
    another repository only tells what all tokens of the host need.
    """
    theirs = challenge.parameters.get("scope", "").split()
    if not asked:
        theirs = [other for other in theirs if not other.startswith("repository:")]
    named = any(other.startswith("repository:") for other in theirs)
    complete = all(action in " ".join(theirs) for action in scope.actions.split(","))
    return theirs if named and complete else [*theirs, str(scope)]


def _token_request(
    realm: str, fields: list[tuple[str, str]], credentials: Credentials | None
) -> TokenRequest:
    if credentials and credentials.identity_token:
        form = [
            ("grant_type", "refresh_token"),
            ("client_id", _CLIENT_ID),
            ("refresh_token", credentials.identity_token),
            *fields,
        ]
        return TokenRequest(realm, form=urlencode(form).encode())
    if credentials:
        fields = [("account", credentials.username), *fields]
    parts = urlsplit(realm)
    query = urlencode([*parse_qsl(parts.query, keep_blank_values=True), *fields])
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, query, ""))
    return TokenRequest(url, authorization=credentials.basic if credentials else "")


def _grant(body: bytes, realm_host: str) -> _Grant:
    """Read a token answer; its own clock counts, ours only for the lifetime."""
    try:
        members = json.loads(body)
        token = members.get("token") or members.get("access_token")
        lifetime = float(members.get("expires_in") or DEFAULT_LIFETIME_SECONDS)
    except (ValueError, OverflowError, TypeError, AttributeError, RecursionError):
        token, lifetime = None, 0.0
    if not isinstance(token, str) or not token or not token.isascii() or not token.isprintable():
        raise RegistryError(
            f"{realm_host} gives an answer without a token",
            hint="see whether a proxy or a login page answers instead of the realm",
        )
    # Used up early: a token may not end while a request is on its way.
    return _Grant(f"Bearer {token}", time.monotonic() + lifetime * 0.8)
