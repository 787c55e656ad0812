"""Who asks for a conversion: by a secret of the configuration, or by a token of a CI's."""

from __future__ import annotations

import hmac
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jwt

from ...config.settings import ConvertSettings, TrustedIssuer
from ...errors import ConfigError
from ...oci.globs import any_of
from .issuer_keys import ALGORITHMS, IssuerKeys, KeysUnavailable
from .refusal import Refusal

logger = logging.getLogger(__name__)

LEEWAY_SECONDS = 60.0
"""So much clocks may differ: those of issuers are often some seconds ahead."""

_SHORTEST = 20
_MAX_TOKEN = 16384
_CALLERS = 10_000

_NAMES = frozenset({"repository", "repository_owner", "project_path", "namespace_path"})
"""Claims with names that GitHub and GitLab take for the same in upper and lower case."""

_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="duccmake", error="invalid_token"'}


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who is known; ``images`` are globs over the names that it may ask for."""

    name: str
    images: tuple[str, ...]

    def may_ask_for(self, image: str) -> bool:
        """Whether that image is among them."""
        return any_of(*self.images).fullmatch(image) is not None


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret, what it is called in the configuration, and the images that it opens."""

    value: str
    name: str
    images: tuple[str, ...]


def read_tokens(settings: ConvertSettings) -> list[Secret]:
    """The configuration's secrets, from the environment; `ConfigError` where one is not there."""
    found = []
    for number, token in enumerate(settings.tokens):
        value = os.environ.get(token.token_env, "")
        if len(value) < _SHORTEST:
            wrong = f"has fewer than {_SHORTEST} characters" if value else "is not set"
            raise ConfigError(
                f"webhook.convert.tokens[{number}]: the environment variable "
                f"{token.token_env} {wrong}",
                hint="set it to a long random text, such as that of 'openssl rand -hex 32'",
            )
        found.append(Secret(value, token.token_env, token.images))
    return found


class Callers:
    """All who are known, by their tokens."""

    def __init__(
        self,
        secrets: Sequence[Secret],
        issuers: Sequence[TrustedIssuer],
        *,
        keys: Callable[[str, str], IssuerKeys] = IssuerKeys,
    ) -> None:
        self._secrets = secrets
        self._issuers: dict[str, list[TrustedIssuer]] = {}
        self._keys: dict[str, IssuerKeys] = {}
        for issuer in issuers:
            self._issuers.setdefault(issuer.issuer, []).append(issuer)
            if issuer.issuer not in self._keys or issuer.keys_url:
                self._keys[issuer.issuer] = keys(issuer.issuer, issuer.keys_url)

    def identify(self, authorization: str) -> Caller:
        """Who has sent an ``Authorization`` header; `Refusal` where that is nobody known.

        What is wrong with a token is said to whom has one of an issuer that is trusted: it is
        signed.  Others hear nothing.
        """
        scheme, _, token = authorization.partition(" ")
        token = token.strip()
        if scheme.lower() != "bearer" or not token or len(token) > _MAX_TOKEN:
            raise Refusal(401, "a token is needed, as 'Authorization: Bearer TOKEN'", _CHALLENGE)
        # All are compared, so that the time taken says nothing of which one fits.
        fitting = [
            secret
            for secret in self._secrets
            if hmac.compare_digest(token.encode(), secret.value.encode())
        ]
        if fitting:
            return Caller(fitting[0].name, fitting[0].images)
        return self._by_claims(token)

    def _by_claims(self, token: str) -> Caller:
        try:
            header = jwt.get_unverified_header(token)
            claimed = jwt.decode(token, options={"verify_signature": False})
            issuer, algorithm = claimed.get("iss"), header.get("alg")
            kid = header.get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise _unknown("it is no token") from None
        if not isinstance(issuer, str) or issuer not in self._issuers:
            raise _unknown(f"issuer {issuer!r:.200}")
        if not isinstance(algorithm, str) or algorithm not in ALGORITHMS or "crit" in header:
            raise _unknown(f"algorithm {algorithm!r:.40}")
        trusted = self._issuers[issuer]
        claims = self._verified(token, issuer, algorithm, kid, trusted)
        granted = [one for one in trusted if _is_granted(one, claims)]
        if not granted:
            logger.warning("refused a token of %s: no rule has its claims", issuer)
            raise Refusal(403, "no rule here lets the project of this token ask for anything")
        named = sorted({name for one in granted for name in one.claims})
        who = " ".join(f"{name}={_text(claims[name])[:200]}" for name in named)
        return Caller(f"{issuer} {who}", tuple(glob for one in granted for glob in one.images))

    def _verified(
        self,
        token: str,
        issuer: str,
        algorithm: str,
        kid: str | None,
        trusted: Iterable[TrustedIssuer],
    ) -> Mapping[str, Any]:
        """The claims of a token that the issuer has signed for us, and that is valid now."""
        try:
            keys = self._keys[issuer].named(kid, algorithm)
        except KeysUnavailable as error:
            logger.error("%s: %s", issuer, error)
            raise Refusal(
                503, "tokens of this issuer cannot be checked now", {"Retry-After": "30"}
            ) from None
        audiences = sorted({one.audience for one in trusted})
        for key in keys:
            try:
                found: Mapping[str, Any] = jwt.decode(
                    token,
                    key.public,
                    algorithms=[algorithm],
                    audience=audiences,
                    issuer=issuer,
                    leeway=LEEWAY_SECONDS,
                    options={"require": ["exp", "iat", "aud", "iss"]},
                )
            except jwt.InvalidSignatureError:
                continue
            except jwt.PyJWTError as error:
                raise _invalid(error) from None
            return found
        raise _unknown(f"not signed by a key of {issuer}")


def _is_granted(rule: TrustedIssuer, claims: Mapping[str, Any]) -> bool:
    """Whether a rule is about tokens with such claims."""
    audience = claims["aud"]
    audiences = audience if isinstance(audience, list) else [audience]
    return rule.audience in audiences and all(
        _fits(name, globs, claims.get(name)) for name, globs in rule.claims.items()
    )


def _fits(name: str, globs: Sequence[str], value: object) -> bool:
    if not isinstance(value, str | int):
        return False
    text = _text(value)
    if name in _NAMES:
        text, globs = text.lower(), [glob.lower() for glob in globs]
    return any_of(*globs).fullmatch(text) is not None


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


_WRONG: Mapping[type[jwt.PyJWTError], str] = {
    jwt.ExpiredSignatureError: "it has expired",
    jwt.ImmatureSignatureError: "it is not valid yet: see the clocks",
    jwt.InvalidAudienceError: "it is for another audience",
    jwt.MissingRequiredClaimError: "it lacks one of the claims exp, iat, aud and iss",
}


def _invalid(error: jwt.PyJWTError) -> Refusal:
    """What is said of a token that is signed, and is not valid."""
    logger.warning("refused a token: %s", error)
    words = next((words for kind, words in _WRONG.items() if isinstance(error, kind)), "")
    return Refusal(401, f"the token is not accepted{': ' if words else ''}{words}", _CHALLENGE)


def _unknown(why: str) -> Refusal:
    """What is said of a token of nobody that is known."""
    logger.warning("refused a token: %s", why)
    return Refusal(401, "the token is not accepted", _CHALLENGE)


class Rate:
    """How many requests a caller may make a minute, in memory."""

    def __init__(self, a_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._a_minute = a_minute
        self._clock = clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def count(self, name: str) -> None:
        """Count a request; `Refusal` where it is one too many."""
        now = self._clock()
        left, then = self._left.pop(name, (float(self._a_minute), now))
        left = min(self._a_minute, left + (now - then) * self._a_minute / 60.0)
        is_too_much = left < 1
        self._left[name] = left if is_too_much else left - 1, now
        if len(self._left) > _CALLERS:
            self._left.popitem(last=False)
        if is_too_much:
            pause = max(1, round((1 - left) * 60.0 / self._a_minute + 0.5))
            raise Refusal(
                429, f"at most {self._a_minute} requests a minute", {"Retry-After": str(pause)}
            )
