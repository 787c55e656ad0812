"""Registries that ask for credentials in odd ways get them, and nobody else does."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from duccmake.errors import DuccmakeError, NotFound, RegistryError, Unauthorized
from duccmake.oci.reference import Reference
from duccmake.registry.client import Client
from duccmake.registry.images import select_image
from duccmake.registry.settings import RegistrySettings
from support import faulty_registry as faults
from support import servers
from support.faulty_registry import Answer, Fault, FaultyHandler, FaultyRegistry
from support.samples import AMD64
from support.servers import add_image, reference, skopeo

PASSWORD = "open-sesame-4711"
USERS = {"me": PASSWORD}
PAIR = base64.b64encode(f"me:{PASSWORD}".encode()).decode()
ENVIRONMENT = {"U": "me", "P": PASSWORD}
KNOWN = {"username_env": "U", "password_env": "P"}


def client(*registries: FaultyRegistry, **settings: object) -> Client:
    """A client that knows the password for the first registry."""
    known = {registry.host: RegistrySettings(timeout_seconds=5.0) for registry in registries}
    known[registries[0].host] = RegistrySettings(timeout_seconds=5.0, **settings)
    return Client(known, backoff_seconds=0.001, tries=3, environment=ENVIRONMENT)


def hidden(code: int, error: str = "NAME_UNKNOWN") -> Fault:
    """A registry that says so, and asks for nothing, to whoever it does not know."""

    def fault(handler: FaultyHandler, answer: Answer) -> None:
        if answer.status == 401:
            body = json.dumps({"errors": [{"code": error, "message": "unknown"}]}).encode()
            answer = Answer(code, {"Content-Type": "application/json"}, body)
        handler.send(answer)

    return fault


def sent(registry: FaultyRegistry) -> set[str]:
    """What requests carried for authorization."""
    return {request.authorization for request in registry.requests} - {""}


def is_known(text: str) -> bool:
    """Whether the password is in a text, plain or encoded."""
    return PASSWORD in text or PAIR in text


# --- what is asked for at /v2/ alone ------------------------------------


@pytest.mark.parametrize("code", [401, 403, 404])
@pytest.mark.parametrize("tokens", [False, True], ids=["basic", "bearer"])
def test_who_is_refused_without_a_word_offers_what_v2_asks_for(tmp_path, code, tokens):
    with FaultyRegistry(tmp_path, users=USERS, tokens=tokens) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.break_next("/v2/.+", hidden(code), times=999)
        with client(registry, **KNOWN) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest
            assert asking.tags(reference(registry)) == ["1"]
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
            with pytest.raises(NotFound) as caught:
                asking.manifest(reference(registry, "team/app:none"))
        assert caught.value.code == "MANIFEST_UNKNOWN"
        theirs = skopeo(
            "inspect", "--raw", "--tls-verify=false", "--creds", f"me:{PASSWORD}",
            f"docker://{registry.host}/team/app:1",
        )  # fmt: skip
        assert servers.sha256(theirs.encode()) == image.manifest.digest


@pytest.mark.parametrize("code", [401, 403, 404])
def test_tokens_that_anybody_gets_are_asked_for_as_well(tmp_path, code):
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.break_next("/v2/.+", hidden(code), times=999)
        with client(registry) as asking:
            assert select_image(asking, reference(registry), AMD64)[0] == image.manifest.digest


def test_a_page_for_people_in_the_place_of_a_challenge_is_never_seen(tmp_path):
    """A login page with status 200: whoever has credentials asks /v2/ before all else."""
    with FaultyRegistry(tmp_path, users=USERS) as registry:
        image = add_image(registry.store, "team/app", "1")

        def login(handler: FaultyHandler, answer: Answer) -> None:
            (faults.html if answer.status == 401 else FaultyHandler.send)(handler, answer)

        registry.break_next("/v2/.+", login, times=999)
        with client(registry, **KNOWN) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest


def test_a_challenge_that_comes_with_status_200_counts(tmp_path):
    """Zot: /v2/ is open, asks for Basic all the same, and others are told less."""
    with FaultyRegistry(tmp_path, users=USERS) as registry:
        add_image(registry.store, "team/app", "1")

        def opened(handler: FaultyHandler, answer: Answer) -> None:
            handler.send(Answer(200, answer.headers, b"{}"))

        registry.break_next("/v2/$", opened, times=9)
        registry.break_next("/v2/.+", hidden(404), times=999)
        with client(registry, **KNOWN) as asking:
            asking.poll(reference(registry))


def test_what_is_missing_where_credentials_are_asked_for_may_be_there_for_others(tmp_path):
    """So it is no 404, by which an image would leave."""
    with FaultyRegistry(tmp_path, users=USERS) as registry:
        registry.break_next("/v2/.+", hidden(404, "MANIFEST_UNKNOWN"), times=999)
        with client(registry) as asking, pytest.raises(Unauthorized, match="log in"):
            asking.poll(reference(registry))


@pytest.mark.parametrize(
    ("challenge", "words"),
    [
        ("Basic", "asks for credentials for secret/app"),
        ('Bearer realm="http://localhost:1/token"', "has its tokens given there|left alone"),
        *(
            (f'Bearer realm="{realm}"', "as the realm of its tokens")
            for realm in ("http://[", "http://localhost:99999/token", "http://x:y/", "/token", "")
        ),
    ],
)
def test_what_is_not_for_everybody_keeps_nobody_from_what_is(tmp_path, challenge, words):
    with FaultyRegistry(tmp_path) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.break_next("/secret/", faults.status(401, WWW_Authenticate=challenge), times=99)
        with client(registry) as asking:
            for _ in range(2):
                with pytest.raises(RegistryError, match=words):
                    asking.poll(reference(registry, "secret/app:1"))
                assert asking.manifest(reference(registry)).digest == image.manifest.digest


def test_a_registry_that_asks_for_nothing_gets_nothing(tmp_path):
    with FaultyRegistry(tmp_path) as registry:
        add_image(registry.store, "team/app", "1")
        with client(registry, **KNOWN) as asking:
            select_image(asking, reference(registry), AMD64)
            with pytest.raises(NotFound):
                asking.manifest(reference(registry, "team/app:none"))
        assert sent(registry) == set()
        assert registry.requested().count("GET /v2/") == 1


@pytest.mark.parametrize("fault", [faults.status(500), faults.reset, faults.redirect("{path}")])
def test_a_v2_that_does_not_answer_keeps_nobody_from_the_rest(tmp_path, fault):
    with FaultyRegistry(tmp_path, users=USERS) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.break_next("/v2/$", fault, times=999)
        with client(registry, **KNOWN) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest


def test_what_another_host_asks_for_in_the_place_of_v2_is_not_answered(tmp_path):
    with (
        FaultyRegistry(tmp_path / "a") as registry,
        FaultyRegistry(tmp_path / "b", users=USERS, tokens=True) as other,
    ):
        add_image(registry.store, "team/app", "1")
        registry.break_next("/v2/$", faults.redirect(f"{other.url}{{path}}"), times=9)
        with client(registry, **KNOWN) as asking:
            asking.poll(reference(registry))
        assert sent(registry) == sent(other) == set()
        assert other.requested() == ["GET /v2/"]


# --- registries that lead to another ------------------------------------


@pytest.mark.parametrize("users", [{}, USERS], ids=["open", "with credentials"])
def test_a_registry_behind_another_gives_its_own_tokens_and_gets_no_credentials(tmp_path, users):
    with (
        FaultyRegistry(tmp_path / "a", users=users) as registry,
        FaultyRegistry(tmp_path / "b", tokens=True, anonymous_pull=True) as behind,
    ):
        image = add_image(behind.store, "team/app", "1")
        add_image(registry.store, "team/app", "1")

        def lead(handler: FaultyHandler, answer: Answer) -> None:
            if answer.status == 401:
                handler.send(answer)
            else:
                handler.send(Answer(307, {"Location": f"{behind.url}{handler.path}"}, b""))

        registry.break_next("/v2/.+", lead, times=999)
        settings = {
            registry.host: RegistrySettings(**KNOWN),
            behind.host: RegistrySettings(**KNOWN),
        }
        with Client(settings, environment=ENVIRONMENT) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest
            select_image(asking, reference(registry), AMD64)
            assert asking.tags(reference(registry)) == ["1"]
            asking.fetch_blob(reference(registry), image.layers[0], tmp_path / "blob")
        assert any(header.startswith("Bearer ") for header in sent(behind))
        assert not any(is_known(f"{r.path} {r.authorization}") for r in behind.requests)
        assert len([r for r in behind.requested() if "/token" in r]) == 1
        assert not any(header.startswith("Bearer ") for header in sent(registry))


def test_a_registry_behind_another_that_wants_credentials_gets_none(tmp_path):
    with (
        FaultyRegistry(tmp_path / "a") as registry,
        FaultyRegistry(tmp_path / "b", users=USERS) as behind,
    ):
        add_image(behind.store, "team/app", "1")
        registry.break_next("/v2/.+", faults.redirect(f"{behind.url}{{path}}"), times=999)
        settings = {
            registry.host: RegistrySettings(**KNOWN),
            behind.host: RegistrySettings(**KNOWN),
        }
        with (
            Client(settings, tries=1, environment=ENVIRONMENT) as asking,
            pytest.raises(RegistryError, match="401"),
        ):
            asking.manifest(reference(registry))
        assert sent(behind) == set()


# --- realms -------------------------------------------------------------


@pytest.fixture
def tls(tmp_path: Path) -> tuple[Path, tuple[Path, Path]]:
    """A private authority, and a certificate of its own with the key."""
    ca, certificate, key = servers.certificate(tmp_path)
    return ca, (certificate, key)


class Elsewhere(FaultyRegistry):
    """A registry whose realm is written as `realm` says."""

    realm = ""

    def challenge(self, scope: str) -> str:
        return f'Bearer realm="{self.realm.format(host=self.host)}",service="demo",scope="{scope}"'


@pytest.fixture
def secure(tmp_path: Path, tls: tuple[Path, tuple[Path, Path]]) -> Iterator[Elsewhere]:
    """A registry at https."""
    with Elsewhere(tmp_path / "r", tls=tls[1], tokens=True, anonymous_pull=True) as registry:
        add_image(registry.store, "team/app", "1")
        yield registry


def poll(registry: FaultyRegistry, ca: Path, **settings: object) -> None:
    with client(registry, ca_file=ca, **settings) as asking:
        asking.poll(Reference.parse(f"https://{registry.host}/team/app:1"))


@pytest.mark.parametrize("users", [{}, USERS], ids=["anybody's", "with credentials"])
def test_a_realm_that_an_https_registry_writes_with_http_is_asked_by_https(secure, tls, users):
    secure.realm = "http://{host}/token"
    secure.users.update(users)
    poll(secure, tls[0], **(KNOWN if users else {}))
    assert len([r for r in secure.requested() if "/token" in r]) == 1


def test_credentials_never_go_to_a_realm_that_has_no_https(secure, tls, tmp_path):
    secure.users.update(USERS)
    with FaultyRegistry(tmp_path / "plain") as plain:
        secure.realm = f"{plain.url}/token"
        with pytest.raises(Unauthorized, match="without encryption"):
            poll(secure, tls[0], **KNOWN)
        assert plain.requests == []


def test_a_realm_without_https_is_asked_for_what_anybody_gets(secure, tls, tmp_path):
    with FaultyRegistry(tmp_path / "plain") as plain:
        secure.realm = f"{plain.url}/token"
        plain.break_next("/token", faults.redirect(f"https://{secure.host}{{path}}"), times=9)
        poll(secure, tls[0])
        assert [r.authorization for r in plain.requests] == [""]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("users", [{}, USERS], ids=["anybody's", "with credentials"])
def test_a_token_may_be_somewhere_else_at_the_same_host(tmp_path, code, users):
    with Elsewhere(tmp_path, users=users, tokens=True, anonymous_pull=True) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.realm = "http://{host}/jwt"

        def moved(handler: FaultyHandler, answer: Answer) -> None:
            handler.send(Answer(code, {"Location": handler.path.replace("/jwt", "/token")}, b""))

        registry.break_next("/jwt", moved, times=99)
        with client(registry, **(KNOWN if users else {})) as asking:
            assert asking.poll(reference(registry)) == image.manifest.digest
        user = ["--creds", f"me:{PASSWORD}"] if users else ["--no-creds"]
        skopeo("inspect", *user, "--tls-verify=false", f"docker://{registry.host}/team/app:1")


def test_an_identity_token_is_taken_along_within_the_host(tmp_path):
    with Elsewhere(tmp_path / "r", users=USERS, tokens=True) as registry:
        add_image(registry.store, "team/app", "1")
        registry.realm = "http://{host}/jwt"
        registry.identity_tokens.add("refresh-me")
        registry.break_next("/jwt", faults.redirect("/token"), times=9)
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {registry.host: {"identitytoken": "refresh-me"}}}))
        with client(registry, auth_file=file) as asking:
            asking.poll(reference(registry))
        assert registry.forms[0]["refresh_token"] == ["refresh-me"]


def test_credentials_for_a_token_go_to_no_other_host(tmp_path):
    with (
        Elsewhere(tmp_path / "a", users=USERS, tokens=True) as registry,
        FaultyRegistry(tmp_path / "b") as other,
    ):
        add_image(registry.store, "team/app", "1")
        registry.realm = "http://{host}/token"
        registry.break_next("/token", faults.redirect(f"{other.url}/token"), times=99)
        with client(registry, **KNOWN) as asking, pytest.raises(RegistryError, match="redirects"):
            asking.poll(reference(registry))
        assert other.requests == []


def test_a_token_that_moves_from_place_to_place_is_given_up(tmp_path):
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        add_image(registry.store, "team/app", "1")
        registry.break_next("/token", faults.redirect("{path}"), times=999)
        with client(registry) as asking, pytest.raises(RegistryError, match="redirects more than"):
            asking.poll(reference(registry))
        assert len(registry.requests) < 40


# --- tokens that end ----------------------------------------------------


@pytest.mark.parametrize("code", [401, 404, 500])
@pytest.mark.parametrize("early", [False, True], ids=["as it said", "before"])
def test_another_realm_is_asked_when_a_token_has_ended_and_the_first_one_is_gone(
    tmp_path, monkeypatch, code, early
):
    with Elsewhere(tmp_path, users=USERS, tokens=True) as registry:
        image = add_image(registry.store, "team/app", "1")
        registry.realm = "http://{host}/token?first"
        with client(registry, **KNOWN) as asking:
            asking.poll(reference(registry))
            registry.revoke_tokens()
            registry.realm = "http://{host}/token?second"
            registry.break_next("first", faults.status(code), times=999)
            if not early:
                later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3600)
                monkeypatch.setattr("duccmake.registry.http.auth.time", later)
            assert asking.poll(reference(registry)) == image.manifest.digest


def test_a_token_that_ended_is_replaced_though_the_registry_asks_for_a_password(tmp_path):
    """Harbor asks for Basic where it does not like the token that it gets."""
    with FaultyRegistry(tmp_path, tokens=True, anonymous_pull=True) as registry:
        image = add_image(registry.store, "team/app", "1")
        with client(registry) as asking:
            asking.poll(reference(registry))

            def basic(handler: FaultyHandler, answer: Answer) -> None:
                if answer.status == 401 and handler.headers.get("Authorization"):
                    answer.headers["WWW-Authenticate"] = 'Basic realm="harbor"'
                handler.send(answer)

            registry.break_next("/v2/", basic, times=99)
            registry.revoke_tokens()
            assert asking.poll(reference(registry)) == image.manifest.digest


def test_a_registry_that_takes_no_token_gets_the_password_that_it_asks_for(tmp_path):
    with FaultyRegistry(tmp_path, users=USERS, tokens=True) as registry:
        image = add_image(registry.store, "team/app", "1")
        with client(registry, **KNOWN) as asking:
            asking.poll(reference(registry))
            registry.tokens = False
            assert asking.poll(reference(registry)) == image.manifest.digest
        assert registry.requests[-1].authorization == f"Basic {PAIR}"


def test_wrong_credentials_are_not_offered_over_and_over(tmp_path):
    with FaultyRegistry(tmp_path, users={"me": "another"}, tokens=True) as registry:
        add_image(registry.store, "team/app", "1")
        with client(registry, **KNOWN) as asking, pytest.raises(DuccmakeError):
            asking.poll(reference(registry))
        assert len([r for r in registry.requests if r.authorization]) == 1
