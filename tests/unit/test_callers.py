"""Whose tokens are believed, and which are not, however near they come."""

from __future__ import annotations

import json
import warnings
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from duccmake.config.settings import TrustedIssuer
from duccmake.service.webhook.callers import Caller, Callers, Rate, Secret
from duccmake.service.webhook.issuer_keys import IssuerKeys
from duccmake.service.webhook.refusal import Refusal
from support.issuer import AUDIENCE, claims, forged, jwk, private_key, public_pem, token

ISSUER = "https://gitlab.example.org/git"
GITHUB = "https://token.actions.githubusercontent.com"
SECRET = "a-secret-of-thirty-two-characters"


class Answers:
    """What issuers answer, and how often they were asked."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys: Any = list(keys)
        self.asked: list[str] = []
        self.down = False
        self.calls_itself = ISSUER
        self.now = 0.0

    def get(self, url: str) -> Any:
        self.asked.append(url)
        if self.down:
            raise OSError("nobody answers")
        if url.endswith("/.well-known/openid-configuration"):
            return {"issuer": self.calls_itself, "jwks_uri": "https://keys.example.org/keys"}
        return {"keys": self.keys}

    def clock(self) -> float:
        return self.now

    def of(self, issuer: str, url: str = "") -> IssuerKeys:
        return IssuerKeys(issuer, url, get=self.get, clock=self.clock)


@pytest.fixture
def answers() -> Answers:
    return Answers(jwk("first"))


def callers(answers: Answers, *rules: TrustedIssuer) -> Callers:
    rule = TrustedIssuer(ISSUER, AUDIENCE, {"project_path": ("team/*",)}, ("r.example.org/team/*",))
    secrets = [Secret(SECRET, "CI_TOKEN", ("r.example.org/*",))]
    return Callers(secrets, rules or (rule,), keys=answers.of)


def identify(known: Callers, text: str) -> Caller:
    return known.identify(f"Bearer {text}")


def refused(known: Callers, text: str) -> Refusal:
    with pytest.raises(Refusal) as caught:
        identify(known, text)
    assert len(text) < 10 or text not in caught.value.words
    return caught.value


# --- who is let in --------------------------------------------------------


def test_a_token_of_a_projects_job_opens_the_images_of_its_rule(answers):
    caller = identify(callers(answers), token(claims(ISSUER)))
    assert caller.may_ask_for("r.example.org/team/app:1")
    assert not caller.may_ask_for("r.example.org/other/app:1")
    assert caller.name == f"{ISSUER} project_path=team/app"
    assert answers.asked == [
        f"{ISSUER}/.well-known/openid-configuration",
        "https://keys.example.org/keys",
    ]


def test_a_secret_of_the_configuration_opens_its_images(answers):
    caller = identify(callers(answers), SECRET)
    assert (caller.name, caller.images) == ("CI_TOKEN", ("r.example.org/*",))
    assert answers.asked == []


@pytest.mark.parametrize(
    "members",
    [
        {"aud": [AUDIENCE, "https://elsewhere.example.org"]},
        # Clocks of issuers are often some seconds ahead.
        {"iat": lambda now: now + 20, "nbf": lambda now: now + 20},
        {"exp": lambda now: now - 20},
        {"nbf": None},
        {"project_path": "Team/App"},
    ],
)
def test_what_real_issuers_do_is_no_reason_to_refuse(answers, members):
    assert identify(callers(answers), token(claims(ISSUER, **members)))


def test_names_of_repositories_are_the_same_in_upper_case_and_branches_are_not(answers):
    answers.calls_itself = GITHUB
    rule = TrustedIssuer(
        GITHUB, AUDIENCE, {"repository": ("Octo-Org/*",), "ref": ("refs/heads/main",)}
    )
    known = callers(answers, rule)
    job = {"repository": "octo-org/App", "ref": "refs/heads/main"}
    assert identify(known, token(claims(GITHUB, **job)))
    assert refused(known, token(claims(GITHUB, **{**job, "ref": "refs/heads/Main"}))).status == 403


def test_a_rule_for_each_group_gives_each_its_own_images(answers):
    known = callers(
        answers,
        TrustedIssuer(ISSUER, AUDIENCE, {"project_path": ("a/*",)}, ("r.example.org/a/*",)),
        TrustedIssuer(ISSUER, AUDIENCE, {"project_path": ("b/*",)}, ("r.example.org/b/*",)),
        TrustedIssuer(ISSUER, "other", {"project_path": ("*",)}, ("*",)),
    )
    caller = identify(known, token(claims(ISSUER, project_path="b/x")))
    assert caller.images == ("r.example.org/b/*",)


@pytest.mark.parametrize(
    ("key", "algorithm"),
    [
        (ec.generate_private_key(ec.SECP256R1()), "ES256"),
        (ec.generate_private_key(ec.SECP384R1()), "ES384"),
        (ed25519.Ed25519PrivateKey.generate(), "EdDSA"),
    ],
)
def test_keys_of_other_kinds_are_taken(answers, key, algorithm):
    kind = jwt.get_algorithm_by_name(algorithm)
    answers.keys = [{**kind.to_jwk(key.public_key(), as_dict=True), "kid": "other"}]
    text = jwt.encode(claims(ISSUER), key, algorithm=algorithm, headers={"kid": "other"})
    assert identify(callers(answers), text)


def test_keys_that_nobody_can_use_are_passed_over(answers):
    answers.keys = [
        "none", {}, {"kty": "oct", "k": "AAAA", "kid": "first"}, {"kty": "EC", "crv": "P-0"},
        {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "first"}, *answers.keys,
    ]  # fmt: skip
    assert identify(callers(answers), token(claims(ISSUER)))


# --- who is not -----------------------------------------------------------


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", f"Basic {SECRET}", SECRET, f"Token {SECRET}"]
)
def test_without_a_token_nobody_is_known(answers, header):
    with pytest.raises(Refusal) as caught:
        callers(answers).identify(header)
    assert caught.value.status == 401
    assert (caught.value.headers or {})["WWW-Authenticate"].startswith("Bearer ")


@pytest.mark.parametrize(
    "text",
    [SECRET[:-1], f"{SECRET}x", SECRET.upper(), "ä" * 30, "a.b", "..", "a.b.c", "x" * 20_000],
)
def test_what_is_nearly_a_secret_is_none(answers, text):
    assert refused(callers(answers), text).status == 401


@pytest.mark.parametrize(
    ("members", "status", "words"),
    [
        ({"project_path": "other/app"}, 403, "no rule"),
        ({"project_path": "x/team/app"}, 403, "no rule"),
        ({"project_path": ["team/app"]}, 403, "no rule"),
        ({"project_path": None}, 403, "no rule"),
        ({"iss": "https://gitlab.example.org"}, 401, ""),
        ({"iss": f"{ISSUER}/"}, 401, ""),
        ({"iss": [ISSUER]}, 401, ""),
        ({"iss": None}, 401, ""),
        ({"aud": "https://elsewhere.example.org"}, 401, "another audience"),
        ({"aud": AUDIENCE.upper()}, 401, "another audience"),
        ({"aud": []}, 401, "lacks"),
        ({"aud": None}, 401, "lacks"),
        ({"exp": lambda now: now - 120}, 401, "expired"),
        ({"exp": None}, 401, "lacks"),
        ({"exp": "never"}, 401, ""),
        ({"nbf": lambda now: now + 120}, 401, "not valid yet"),
        ({"iat": lambda now: now + 120}, 401, "not valid yet"),
        ({"iat": None}, 401, "lacks"),
    ],
)
def test_a_genuine_token_for_something_else_is_refused(answers, members, status, words):
    found = refused(callers(answers), token(claims(ISSUER, **members)))
    assert found.status == status
    assert words in found.words


def test_a_token_without_a_signature_is_refused_however_that_is_called(answers):
    known = callers(answers)
    for algorithm in ("none", "None", "NONE", "nOnE", "", None, [], {}, 0):
        header = {"alg": algorithm, "typ": "JWT", "kid": "first"}
        assert refused(known, forged(header, claims(ISSUER))).status == 401
    assert refused(known, forged({"kid": "first"}, claims(ISSUER))).status == 401
    assert answers.asked == []


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "PS256", "ES256", "hs256"])
def test_a_signature_by_the_public_key_as_a_secret_is_refused(answers, algorithm):
    header = {"alg": algorithm, "typ": "JWT", "kid": "first"}
    for secret in (public_pem("first"), json.dumps(jwk("first")).encode(), b"", SECRET.encode()):
        assert refused(callers(answers), forged(header, claims(ISSUER), secret)).status == 401


def test_a_set_of_keys_with_a_secret_in_it_makes_no_secret_signatures_good(answers):
    answers.keys.append({"kty": "oct", "k": "c2VjcmV0", "kid": "secret", "alg": "HS256"})
    header = {"alg": "HS256", "kid": "secret"}
    assert refused(callers(answers), forged(header, claims(ISSUER), b"secret")).status == 401


def test_a_key_that_the_token_itself_brings_is_not_looked_at(answers):
    text = token(claims(ISSUER), "mine", kid="first", jwk=jwk("mine"), jku="https://m.example.org")
    assert refused(callers(answers), text).status == 401
    assert not any("m.example.org" in url for url in answers.asked)


def test_what_the_issuer_calls_critical_and_nobody_knows_is_refused(answers):
    assert refused(callers(answers), token(claims(ISSUER), crit=["x"], x=1)).status == 401


def test_a_key_that_is_too_short_or_for_something_else_signs_nothing(answers):
    private_key("short", 1024)
    answers.keys = [
        {**jwk("first"), "use": "enc"},
        {**jwt.algorithms.RSAAlgorithm.to_jwk(
            private_key("short", 1024).public_key(), as_dict=True), "kid": "short"},
    ]  # fmt: skip
    assert refused(callers(answers), token(claims(ISSUER))).status == 401
    with warnings.catch_warnings(action="ignore"):  # the library warns of such a key
        short = jwt.encode(
            claims(ISSUER), private_key("short", 1024), algorithm="RS256", headers={"kid": "short"}
        )
    assert refused(callers(answers), short).status == 401


def test_no_character_of_a_token_can_be_another(answers):
    known, text = callers(answers), token(claims(ISSUER))
    assert identify(known, text)
    for at in range(0, len(text), 3):
        if text[at] == "." or at + 1 == len(text):
            continue
        other = "A" if text[at] != "A" else "B"
        assert refused(known, text[:at] + other + text[at + 1 :]).status in (401, 503)
    for at in range(1, len(text), 50):
        assert refused(known, text[:at]).status in (401, 503)


def test_who_is_refused_for_an_unknown_key_hears_no_more_than_anybody(answers):
    known = callers(answers)
    unknown = refused(known, token(claims(ISSUER), "second"))
    tampered = refused(known, token(claims(ISSUER), "second", kid="first"))
    assert unknown.words == tampered.words == "the token is not accepted"


# --- keys that change -----------------------------------------------------


def test_a_key_that_is_new_is_found_and_one_that_is_gone_is_forgotten(answers):
    known = callers(answers)
    assert identify(known, token(claims(ISSUER)))
    answers.now += 31
    answers.keys = [jwk("second")]
    assert identify(known, token(claims(ISSUER), "second"))
    assert refused(known, token(claims(ISSUER))).status == 401


def test_unknown_keys_have_the_issuer_asked_once_in_a_while(answers):
    known = callers(answers)
    assert identify(known, token(claims(ISSUER)))
    for number in range(20):
        answers.now += 1
        assert refused(known, token(claims(ISSUER), "second", kid=f"k{number}")).status == 401
    assert len(answers.asked) == 2
    answers.now += 30
    assert refused(known, token(claims(ISSUER), "second")).status == 401
    assert len(answers.asked) == 4


def test_an_issuer_that_is_down_is_told_of_and_asked_again_later(answers):
    answers.down = True
    known = callers(answers)
    for _ in range(5):
        assert refused(known, token(claims(ISSUER))).status == 503
    assert len(answers.asked) == 1
    answers.down = False
    answers.now += 31
    assert identify(known, token(claims(ISSUER)))


def test_known_keys_outlast_an_outage_of_a_day_and_no_more(answers):
    known = callers(answers)
    assert identify(known, token(claims(ISSUER)))
    answers.down = True
    answers.now += 80_000
    assert identify(known, token(claims(ISSUER)))
    answers.now += 10_000
    assert refused(known, token(claims(ISSUER))).status == 503


@pytest.mark.parametrize("name", ["https://evil.example.org", "", None, f"{ISSUER}/"])
def test_an_issuer_that_calls_itself_another_has_no_keys(answers, name):
    answers.calls_itself = name
    assert refused(callers(answers), token(claims(ISSUER))).status == 503


@pytest.mark.parametrize("keys", [None, 5, "x", {}, {"kid": "first"}])
def test_a_set_of_keys_that_is_none_is_an_outage_or_empty(answers, keys):
    answers.keys = keys
    assert refused(callers(answers), token(claims(ISSUER))).status in (401, 503)


def test_a_slash_at_the_end_of_an_issuer_is_part_of_its_name(answers):
    answers.calls_itself = f"{ISSUER}/"
    known = callers(answers, TrustedIssuer(f"{ISSUER}/", AUDIENCE, {"project_path": ("*",)}))
    assert identify(known, token(claims(f"{ISSUER}/")))
    assert answers.asked[0] == f"{ISSUER}/.well-known/openid-configuration"
    assert refused(known, token(claims(ISSUER))).status == 401


def test_keys_may_be_where_the_configuration_says(answers):
    url = "https://inside.example.org/keys"
    rule = TrustedIssuer(ISSUER, AUDIENCE, {"project_path": ("team/*",)}, ("*",), url)
    assert identify(callers(answers, rule), token(claims(ISSUER)))
    assert answers.asked == [url]


def test_a_token_need_not_name_the_only_key(answers):
    text = jwt.encode(claims(ISSUER), private_key("first"), algorithm="RS256")
    assert identify(callers(answers), text)
    answers.keys.append(jwk("second"))
    assert refused(callers(answers), text).status == 401


# --- how often ------------------------------------------------------------


def test_each_caller_has_so_many_requests_a_minute():
    now = [0.0]
    rate = Rate(3, clock=lambda: now[0])
    for _ in range(3):
        rate.count("one")
    with pytest.raises(Refusal) as caught:
        rate.count("one")
    assert caught.value.status == 429
    pause = int((caught.value.headers or {})["Retry-After"])
    rate.count("other")
    now[0] += pause
    rate.count("one")
    with pytest.raises(Refusal):
        rate.count("one")
