from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.registry.http.challenge import Challenge, parse_challenges


def test_commas_inside_a_quoted_scope_belong_to_the_scope():
    header = (
        'Bearer realm="https://auth.example.org/token",service="reg",'
        'scope="repository:a/b:pull,push"'
    )
    assert parse_challenges(header) == (
        Challenge(
            "bearer",
            {
                "realm": "https://auth.example.org/token",
                "service": "reg",
                "scope": "repository:a/b:pull,push",
            },
        ),
    )


def test_two_challenges_in_one_header_are_told_apart():
    found = parse_challenges('Negotiate, Basic realm="a, b", Bearer realm="https://x/",error=odd')
    assert [challenge.scheme for challenge in found] == ["negotiate", "basic", "bearer"]
    assert found[1].parameters == {"realm": "a, b"}
    assert found[2].parameters == {"realm": "https://x/", "error": "odd"}


def test_escaped_quotes_and_odd_spacing_are_read():
    found = parse_challenges('BEARER  Realm = "a\\"b" , scope="" ')
    assert found == (Challenge("bearer", {"realm": 'a"b', "scope": ""}),)


def test_a_scheme_alone_is_a_challenge():
    assert parse_challenges("Basic") == (Challenge("basic", {}),)


@pytest.mark.parametrize("header", ["", ",,,", '"', "=", 'Bearer realm="unfinished'])
def test_what_cannot_be_read_yields_no_parameters(header):
    assert all(not challenge.parameters for challenge in parse_challenges(header))


@given(st.text())
def test_no_header_whatever_breaks_the_parser(header):
    parse_challenges(header)
