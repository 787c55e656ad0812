"""Wish lists and configurations, as nobody should write them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import yaml
from bounds import confined, examples
from hypothesis import event, given
from hypothesis import strategies as st
from mutations import ANY_BYTES, VALUES, Mutation, applied, changed

from duccmake.config.configuration import Config
from duccmake.config.file import read_file
from duccmake.errors import ConfigError, DuccmakeError, RecipeError
from duccmake.recipe.coverage import Coverage
from duccmake.recipe.parser import parse
from duccmake.recipe.sources.listing import parse_list
from duccmake.registry.settings import RegistrySettings
from support.runs import CHECKOUT

_RECIPES: list[object] = [
    {
        "version": 1,
        "user": "tests",
        "cvmfs_repo": "unpacked.example.org",
        "output_format": "$(scheme)://r.example.org/thin/$(image)",
        "input": ["https://r.example.org/team/app:1", "https://docker.io/library/debian:1*"],
        "ignoreErrors": ["r.example.org/*"],
    },
    {
        "version": 2,
        "cvmfs_repo": "unpacked.example.org",
        "input": [
            "https://r.example.org/team/app@sha256:" + "a" * 64,
            {
                "image": "docker.io/library/alpine",
                "platforms": ["linux/amd64", "linux/arm64"],
                "tags": {"include": ["3.*"], "exclude": ["*_rc*"], "keep_last": 3},
                "products": ["layers", "flat"],
            },
        ],
    },
]
_CONFIGS: list[object] = [
    yaml.safe_load((CHECKOUT / "config/config.yaml").read_bytes()),
    {
        "recipe": ["a.yaml", {"url": "https://h.example.org/x", "format": "list"}],
        "repository": {"backend": "cvmfs", "root": "/cvmfs", "batch": {"images": 3}},
        "products": ["layers", "flat"],
        "platforms": ["linux/amd64", "linux/arm/v7"],
        "registries": {
            "ghcr.io": {"username_env": "A", "password_env": "B", "mirrors": ["https://m.org"]},
            "localhost:5000": {"scheme": "http", "limits": {"connections": 2}},
        },
        "resolve": {"max_age": 60, "only": ["r.example.org/a:1"]},
        "limits": {"bytes": 10**9, "ratio": 100},
        "removal": {"policy": "schedule", "retention": [{"images": "*", "keep_last": 2}]},
        "webhook": {"listen": "127.0.0.1:8484", "secrets": {"harbor": "X"}, "aliases": {"a": "b"}},
        "events": {"file": "logs/events.jsonl"},
    },
]
_YAML = [
    b"&a [*a, *a]", b"!!python/object/apply:os.system [id]", b"&a {<<: *a}", b"? {a: b}\n: c\n",
    b"2024-99-99", b"!!binary x", b"1:2:3", b"%YAML 9.9\n---\n", b"--- a\n--- b\n", b"\t",
    b"[" * 3000, b"{a: " * 500, b"!!timestamp x", b"!!int ''", b"9" * 5000, b"!!float .", b"=",
    b"2024-01-01 00:00:00 +99:99", b"!!set {a, b}", b"!!omap [a: b]", b"0o9", b"0b", b"!!int -",
    b"[&b " + b"&a [x, x, x, x]" + b", *a" * 30 + b"]",
]  # fmt: skip


def _as_yaml(value: object) -> bytes:
    return yaml.safe_dump(value, allow_unicode=True).encode("utf-8", "surrogatepass")


def _line(number: int, value: bytes) -> Mutation:
    """Put something in the place of a line's value."""

    def mutate(data: bytes) -> bytes:
        lines = data.split(b"\n")
        at = number % len(lines)
        key, _, _ = lines[at].rpartition(b" ")
        lines[at] = key + b" " + value
        return b"\n".join(lines)

    return mutate


_MUTATIONS = st.one_of(ANY_BYTES, st.builds(_line, st.integers(0, 60), st.sampled_from(_YAML)))


def _texts(samples: Sequence[object]) -> st.SearchStrategy[bytes]:
    return st.builds(
        applied,
        changed(samples).map(_as_yaml),
        st.lists(_MUTATIONS, max_size=2) | st.just([]),
    )


@examples(80)
@given(_texts(_RECIPES))
def test_a_wish_list_is_read_or_refused_with_a_line(raw: bytes):
    with confined():
        try:
            recipe = parse(Path("recipe.yaml"), raw)
        except RecipeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
            return
        event(f"{len(recipe.wishes)} wishes")
        Coverage([recipe])
        for entry in recipe.bad_entries:
            assert str(entry.error()).isprintable()
        for wish in recipe.wishes:
            # What becomes a path stays below the repository.
            assert ".." not in wish.reference.name.split("/")


@examples(60)
@given(
    st.builds(
        applied,
        st.just(b"# list\nlibrary/debian:12\nr.example.org/team/app:1  # x\nquay.io/a/b:*\n"),
        st.lists(ANY_BYTES, min_size=1, max_size=6),
    )
)
def test_a_plain_list_is_read_or_refused_with_a_line(raw: bytes):
    with confined():
        try:
            recipe = parse_list(Path("list"), raw, "a.example.org")
        except RecipeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
            return
        assert recipe.wishes


@examples(80)
@given(_texts(_CONFIGS))
def test_a_configuration_s_file_is_read_or_refused_with_a_line(raw: bytes):
    with tempfile.TemporaryDirectory(prefix="fuzz") as directory:
        path = Path(directory, "config.yaml")
        path.write_bytes(raw)
        with confined():
            try:
                config = Config.parse(read_file(path), workdir=Path(directory))
            except ConfigError as error:
                event("refused")
                assert len(str(error).splitlines()) == 1
                return
    event("read")
    assert all(isinstance(each, RegistrySettings) for each in config.registries.values())


@examples(60)
@given(changed(_CONFIGS, VALUES))
def test_members_of_any_kind_are_a_configuration_or_refused(members: object):
    if not isinstance(members, dict):
        return
    with confined():
        try:
            Config.parse(members, workdir=Path("/work"))
        except DuccmakeError as error:
            event("refused")
            assert len(str(error).splitlines()) == 1
        else:
            event("read")
