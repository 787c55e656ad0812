"""Tokens that no issuer gives, and keys that none publishes."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import ANY_BYTES, Mutation, applied, changed

from duccmake.config.settings import TrustedIssuer
from duccmake.service.webhook.callers import Callers, Secret
from duccmake.service.webhook.issuer_keys import ALGORITHMS, IssuerKeys, KeysUnavailable
from duccmake.service.webhook.refusal import Refusal
from support.issuer import AUDIENCE, claims, forged, jwk, private_key, public_pem, token

ISSUER = "https://gitlab.example.org"
SECRET = "a-secret-of-thirty-two-characters"
_CLAIMS = claims(ISSUER)
_HEADERS = [{"alg": "RS256", "kid": "first", "typ": "JWT"}, {"alg": "none"}, {"alg": "HS256"}]
_TIMES = st.sampled_from(
    [None, 0, -1, 1e300, float("inf"), float("nan"), 10**400, "1", [], {}, True, "x"]
)


def _callers() -> Callers:
    def keys(issuer: str, url: str) -> IssuerKeys:
        return IssuerKeys(issuer, "https://keys", get=lambda _: {"keys": [jwk("first")]})

    rule = TrustedIssuer(ISSUER, AUDIENCE, {"project_path": ("team/*",)}, ("r.example.org/team/*",))
    return Callers([Secret(SECRET, "CI_TOKEN", ("r.example.org/*",))], [rule], keys=keys)


CALLERS = _callers()


@st.composite
def _claims(draw: st.DrawFn) -> Any:
    found = draw(changed([_CLAIMS]))
    if isinstance(found, dict) and draw(st.booleans()):
        found[draw(st.sampled_from(["exp", "nbf", "iat", "aud"]))] = draw(_TIMES)
    return found


@st.composite
def _unsigned(draw: st.DrawFn) -> str:
    """A token that the issuer has not signed."""
    header, members = draw(changed(_HEADERS)), draw(_claims())
    if draw(st.booleans()) or not isinstance(header, dict):
        return forged(header, members, draw(st.sampled_from([None, b"", public_pem("first")])))
    return token(members, "other", alg="RS256", kid="first")


def _accepted(text: str) -> bool:
    try:
        with confined():
            CALLERS.identify(text)
    except Refusal as refusal:
        event(str(refusal.status))
        assert refusal.status in {401, 403}
        assert SECRET not in refusal.words
        return False
    return True


_CHANGES = st.lists(ANY_BYTES, max_size=2)


@examples(120)
@given(_unsigned(), _CHANGES)
def test_what_the_issuer_has_not_signed_is_refused(text: str, changes: list[Mutation]):
    spoilt = applied(text.encode(), changes).decode("latin-1")
    assert not _accepted(f"Bearer {spoilt}")


@examples(120)
@given(_claims())
def test_what_the_issuer_has_signed_counts_only_as_the_rule_says(members: Any):
    if _accepted(f"Bearer {token(members, 'first')}"):
        audiences = members["aud"] if isinstance(members["aud"], list) else [members["aud"]]
        assert members["iss"] == ISSUER
        assert AUDIENCE in audiences
        assert members["project_path"].lower().startswith("team/")
        assert int(members["exp"]) > time.time() - 120


@examples(60)
@given(
    _CHANGES, st.sampled_from(["Bearer {}", "bearer  {}", "Basic {}", "{}", "Bearer", "Bearer\t{}"])
)
def test_a_signed_token_that_was_changed_is_refused(changes: list[Mutation], form: str):
    sound = token(_CLAIMS, "first")
    spoilt = applied(sound.encode(), changes).decode("latin-1")
    if _accepted(form.format(spoilt)):
        # Base64 has spare bits at its end.
        assert _decoded(spoilt) == _decoded(sound)


def _decoded(text: str) -> list[bytes]:
    return [base64.urlsafe_b64decode(part + "==") for part in text.strip().split(".")]


_SETS: list[object] = [
    {"keys": [jwk("first"), jwk("other", alg=None), {"kty": "oct", "k": "c2VjcmV0"}]},
    {"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "kid": "e"}]},
    {"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "AA", "kid": "o"}]},
    {"issuer": ISSUER, "jwks_uri": "https://keys.example.org/"},
]


@examples(100)
@given(changed(_SETS), st.none() | st.sampled_from(["first", "e", "", "x"]))
def test_whatever_an_issuer_publishes_gives_keys_or_none(found: object, kid: str | None):
    raw = json.loads(json.dumps(found))
    for url in ("", "https://keys"):
        keys = IssuerKeys(ISSUER, url, get=lambda _: raw)
        for algorithm in ("RS256", "ES256", "EdDSA"):
            with confined():
                try:
                    named = keys.named(kid, algorithm)
                except KeysUnavailable:
                    event("unavailable")
                    continue
            for key in named:
                event(algorithm)
                assert algorithm in key.algorithms and set(key.algorithms) <= ALGORITHMS
                # What is secret is no key of an issuer's.
                assert not isinstance(key.public, bytes | type(private_key("first")))


def test_a_token_that_is_right_is_accepted():
    assert _accepted(f"Bearer {token(_CLAIMS, 'first')}")
    assert _accepted(f"Bearer {SECRET}")
    assert jwt.get_unverified_header(token(_CLAIMS, "first"))["alg"] == "RS256"
