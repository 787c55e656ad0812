from __future__ import annotations

import base64
import json
import logging
import os
from pathlib import Path

import pytest

from duccmake.errors import ConfigError
from duccmake.registry.http.credentials import Credentials, CredentialStore
from duccmake.registry.settings import RegistrySettings


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def store(tmp_path: Path, auths: dict | None = None, **more: object) -> CredentialStore:
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": auths or {}, **more}))
    return CredentialStore({}, {"REGISTRY_AUTH_FILE": str(path)})


def helper(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / f"docker-credential-{name}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_the_longest_path_prefix_wins(tmp_path):
    found = store(
        tmp_path,
        {
            "reg.example.org": auth("all", "1"),
            "reg.example.org/team": auth("team", "2"),
            "reg.example.org/team/app": auth("app", "3"),
        },
    )
    assert found.find("reg.example.org", "team/app").username == "app"
    assert found.find("reg.example.org", "team/app/sub").username == "app"
    assert found.find("reg.example.org", "team/application").username == "team"
    assert found.find("reg.example.org", "other").username == "all"


@pytest.mark.parametrize(
    "host",
    [
        "example.org",
        "evil-reg.example.org",
        "reg.example.org.evil.net",
        "reg.example.org:5000",
        "reg.example.or",
    ],
)
def test_credentials_are_for_the_exact_host_alone(tmp_path, host):
    found = store(tmp_path, {"reg.example.org": auth("me", "secret")})
    assert found.find(host, "reg.example.org/app") is None


@pytest.mark.parametrize(
    "key", ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "registry-1.docker.io"]
)
def test_every_name_of_docker_hub_serves(tmp_path, key):
    found = store(tmp_path, {key: auth("me", "secret")})
    assert found.find("registry-1.docker.io", "library/debian") == Credentials("me", "secret")


def test_a_password_may_hold_colons_and_other_letters(tmp_path):
    found = store(tmp_path, {"r.example.org": auth("me", "a:b:ü")})
    assert found.find("r.example.org", "x").password == "a:b:ü"


def test_an_identity_token_is_preferred_to_a_password(tmp_path):
    entry = auth("me", "secret") | {"identitytoken": "refresh-me"}
    found = store(tmp_path, {"r.example.org": entry})
    assert found.find("r.example.org", "x") == Credentials(identity_token="refresh-me")


def test_a_credential_helper_is_asked_on_its_standard_input(tmp_path, monkeypatch):
    helper(
        tmp_path,
        "test",
        'test "$1" = get && read -r server || test "$server" = r.example.org || exit 1\n'
        'echo "{\\"Username\\":\\"me\\",\\"Secret\\":\\"of $server\\"}"',
    )
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = store(tmp_path, credHelpers={"r.example.org": "test"})
    assert found.find("r.example.org", "x") == Credentials("me", "of r.example.org")
    assert found.find("other.example.org", "x") is None


def test_a_credential_store_answers_for_all_hosts_and_may_give_tokens(tmp_path, monkeypatch):
    helper(tmp_path, "store", 'echo \'{"Username":"<token>","Secret":"refresh-me"}\'')
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    found = store(tmp_path, {"r.example.org": {}}, credsStore="store")
    assert found.find("r.example.org", "x") == Credentials(identity_token="refresh-me")


@pytest.mark.parametrize("script", ["exit 1", "echo no json: hunter2", "echo '[]'"])
def test_a_helper_that_fails_is_passed_over_without_its_output(
    tmp_path, monkeypatch, caplog, script
):
    helper(tmp_path, "bad", script)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    with caplog.at_level(logging.DEBUG):
        found = store(tmp_path, credHelpers={"r.example.org": "bad"})
        assert found.find("r.example.org", "x") is None
    assert "hunter2" not in caplog.text


def test_a_helper_name_cannot_name_another_program(tmp_path):
    found = store(tmp_path, credHelpers={"r.example.org": "x/../../bin/sh"})
    with pytest.raises(ConfigError):
        found.find("r.example.org", "x")


def test_variables_that_the_settings_name_come_first(tmp_path):
    path = tmp_path / "auth.json"
    path.write_text(json.dumps({"auths": {"r.example.org": auth("file", "1")}}))
    settings = {"r.example.org": RegistrySettings(username_env="U", password_env="P")}
    environment = {"U": "me", "P": "secret", "REGISTRY_AUTH_FILE": str(path)}
    found = CredentialStore(settings, environment)
    assert found.find("r.example.org", "x") == Credentials("me", "secret")


def test_a_named_variable_that_is_not_set_is_an_error_that_names_it():
    settings = {"r.example.org": RegistrySettings(username_env="U", password_env="P")}
    with pytest.raises(ConfigError, match="'P'"):
        CredentialStore(settings, {"U": "me"}).find("r.example.org", "x")


def test_ducc_variables_serve_for_their_exact_host():
    environment = {
        "DUCC_AUTH_REGISTRIES": "CERN,HUB",
        "DUCC_CERN_IDENT": "gitlab-registry.cern.ch",
        "DUCC_CERN_USER": "me",
        "DUCC_CERN_PASS": "secret",
        "DUCC_HUB_IDENT": "https://registry.hub.docker.com/",
        "DUCC_HUB_PROXY": "cache.example.org/hub",
    }
    found = CredentialStore({}, environment)
    assert found.find("gitlab-registry.cern.ch", "a/b") == Credentials("me", "secret")
    assert found.find("not-gitlab-registry.cern.ch", "a/b") is None
    assert found.ducc[1].proxy == "https://cache.example.org/hub"


def test_incomplete_ducc_variables_are_refused_by_name():
    environment = {"DUCC_AUTH_REGISTRIES": "CERN", "DUCC_CERN_IDENT": "r.example.org"}
    with pytest.raises(ConfigError, match="DUCC_CERN_USER"):
        CredentialStore({}, environment)


def test_a_configured_auth_file_that_is_missing_is_an_error(tmp_path):
    settings = {"r.example.org": RegistrySettings(auth_file=tmp_path / "none.json")}
    with pytest.raises(ConfigError, match=r"none\.json"):
        CredentialStore(settings, {}).find("r.example.org", "x")


def test_damage_in_an_auth_file_is_told_without_its_text(tmp_path):
    path = tmp_path / "auth.json"
    path.write_text('{"auths": {"r.example.org": {"auth": "hunter2"')
    settings = {"r.example.org": RegistrySettings(auth_file=path)}
    with pytest.raises(ConfigError) as caught:
        CredentialStore(settings, {}).find("r.example.org", "x")
    assert "hunter2" not in str(caught.value)


def test_secrets_are_not_in_the_text_of_credentials():
    text = repr(Credentials("me", "hunter2", "hunter3"))
    assert "hunter" not in text


@pytest.mark.parametrize(
    "written",
    [
        lambda text: "\n".join([text[:76], text[76:]]) + "\n",
        lambda text: "\r\n\t" + text + "  ",
        lambda text: text.rstrip("="),
        lambda text: text.replace("+", "-").replace("/", "_"),
    ],
    ids=["wrapped", "indented", "without padding", "for addresses"],
)
def test_base64_of_auth_files_is_read_as_people_and_tools_write_it(tmp_path, written):
    password = "p~?>" * 20 + "~~"
    encoded = auth("me", password)["auth"]
    assert {"+", "/", "="} <= set(encoded)
    found = store(tmp_path, {"reg.example.org": {"auth": written(encoded)}})
    assert found.find("reg.example.org", "app").password == password


def test_what_is_no_base64_is_an_error_that_does_not_tell_it(tmp_path):
    found = store(tmp_path, {"reg.example.org": {"auth": "me:hunter2"}})
    with pytest.raises(ConfigError, match="not base64") as caught:
        found.find("reg.example.org", "app")
    assert "hunter2" not in str(caught.value)


def test_a_helper_is_asked_once_for_all_repositories(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    helper(tmp_path, "counting", f"echo x >> {tmp_path}/asked; echo '{{}}'")
    found = store(tmp_path, credsStore="counting")
    for name in ("a", "b", "c"):
        assert found.find("reg.example.org", name) is None
    assert (tmp_path / "asked").read_text() == "x\n"
