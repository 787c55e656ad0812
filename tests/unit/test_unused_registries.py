"""Sections of registries that nothing uses are told of, and no others."""

from __future__ import annotations

from pathlib import Path

import pytest

from duccmake.config.configuration import Config
from duccmake.planning.unused_registries import unused_registries
from duccmake.recipe.parser import parse

RECIPE = """
version: 1
cvmfs_repo: a.example.org
user: x
output_format: 'https://thin.example.org/thin/$(image)'
input: [debian.example.org:5000/a/b:1, https://docker.io/library/debian:12, 'oci:/srv/x:1']
"""


def told(**registries: dict[str, object]) -> list[str]:
    named = {name.replace("_", "."): members for name, members in registries.items()}
    config = Config.parse({"registries": named}, workdir=Path("/srv"))
    return list(unused_registries(config, [parse(Path("r.yaml"), RECIPE.encode())]))


@pytest.mark.parametrize(
    "name", ["docker.io", "index.docker.io", "Debian.example.org:5000", "thin.example.org"]
)
def test_what_the_wish_list_names_is_used_by_whatever_name(name):
    assert told(**{name: {}}) == []


def test_a_section_that_nothing_uses_is_told_of_with_what_may_be_meant():
    assert told(ghcr_io={"scheme": "http"}) == [
        "registries.ghcr.io: no image of the wish list comes from there; "
        "see whether it is spelt as in the wish list"
    ]
    (line,) = told(**{"debian.example.org": {"username_env": "U", "password_env": "P"}})
    assert line.endswith("did you mean debian.example.org:5000?")


def test_an_authority_may_be_that_of_a_storage_which_no_wish_list_names():
    assert told(**{"s3.example.com": {"ca_file": "/srv/ca.pem"}}) == []
    assert len(told(**{"debian.example.org": {"ca_file": "/srv/ca.pem"}})) == 1


def test_mirrors_have_sections_of_their_own(monkeypatch):
    mirror = {"mirror.example.org:443": {}, "docker.io": {}}
    assert len(told(**mirror)) == 1
    mirror["docker.io"] = {"mirrors": ["https://mirror.example.org:443/hub"]}
    assert told(**mirror) == []
    monkeypatch.setenv("DUCC_AUTH_REGISTRIES", "HUB")
    monkeypatch.setenv("DUCC_HUB_IDENT", "docker.io")
    monkeypatch.setenv("DUCC_HUB_PROXY", "proxy.example.org")
    assert told(**{"proxy.example.org": {}}) == []
