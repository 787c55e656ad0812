from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from duccmake.config.configuration import Config
from duccmake.config.file import read_file
from duccmake.config.mistakes import InvalidConfig
from duccmake.config.schema import SCHEMA as SCHEMA_FILE
from duccmake.config.settings import Limits, WebhookSettings
from duccmake.errors import ConfigError
from duccmake.oci.reference import Platform, Reference
from duccmake.recipe.sources.location import Source
from duccmake.registry.settings import RegistrySettings
from duccmake.repository.settings import RepositorySettings
from duccmake.workspace.event_log import EventSettings
from support.shipped import shipped
from support.wishes import load

ROOT = Path(__file__).parents[2]
WORK = Path("/srv/state")
SCHEMA = yaml.safe_load(SCHEMA_FILE.read_bytes())


def parse(**members: Any) -> Config:
    return Config.parse(members, workdir=WORK)


def mistakes(**members: Any) -> dict[str, str]:
    """The mistakes of a configuration, as whole lines by their keys."""
    with pytest.raises(InvalidConfig) as caught:
        parse(**members)
    assert isinstance(caught.value, ConfigError)
    lines = {mistake.key: str(mistake) for mistake in caught.value.mistakes}
    assert all(line in str(caught.value) for line in lines.values())
    return lines


def leaves(schema: Any = SCHEMA, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every key that holds a value, dotted, with its schema; a registry's host is HOST."""
    if key and "properties" not in schema:
        yield key, schema
    for name, member in schema.get("properties", {}).items():
        yield from leaves(member, f"{key}.{name}" if key else name)
    if isinstance(schema.get("additionalProperties"), dict):
        yield from leaves(schema["additionalProperties"], f"{key}.HOST")


def nested(dotted: str, value: Any) -> dict[str, Any]:
    for name in reversed(dotted.replace("HOST", "ghcr/io").split(".")):
        value = {name.replace("/", "."): value}
    return value


# One truth in four places: schema, dataclasses, README.md, config.yaml.


def test_schema_is_valid_and_describes_every_key_with_a_default() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    for key, schema in leaves():
        assert schema.get("description"), key
        assert "default" in schema, key


@pytest.mark.parametrize("key", [key for key, _ in leaves()])
def test_default_of_the_schema_is_the_default_of_the_code(key: str) -> None:
    default = dict(leaves())[key]["default"]
    without = parse(registries={"ghcr.io": {}}) if "HOST" in key else parse()
    assert Config.parse(nested(key, default), workdir=WORK) == without


def test_defaults_are_those_of_the_dataclasses() -> None:
    found = parse()
    assert found == dataclasses.replace(
        Config(),
        recipe=(Source.parse("config/recipe.yaml", WORK),),
        repository=RepositorySettings(root=WORK / "cvmfs"),
        webhook=WebhookSettings(spool=WORK / "results/notices"),
        events=EventSettings(file=WORK / "logs/events.jsonl"),
    )
    assert found.limits == Limits()
    assert parse(registries={"ghcr.io": {}}).registries == {"ghcr.io": RegistrySettings()}


def test_schema_has_a_key_for_every_field_and_no_other() -> None:
    def fields(values: Any, key: str) -> set[str]:
        found = set()
        for member in dataclasses.fields(values):
            value = getattr(values, member.name)
            dotted = f"{key}{member.name}"
            nested = dataclasses.is_dataclass(value)
            found |= fields(value, f"{dotted}.") if nested else {dotted}
        return found

    registry = {f"registries.HOST.{field.name}" for field in dataclasses.fields(RegistrySettings)}
    found = {key.replace("HOST.limits", "HOST") for key, _ in leaves()}
    assert found == fields(Config(), "") | registry


def test_readme_explains_every_key_with_its_default() -> None:
    readme = (ROOT / "config" / "README.md").read_text()
    sections = re.findall(r"^### `(.+)`\n\nDefault: `(.+)`\n\n(\S[^#]+)", readme, re.MULTILINE)
    explained = {key: yaml.safe_load(default) for key, default, _ in sections}
    assert readme.count("\n### ") == len(sections)
    assert explained == {key: schema["default"] for key, schema in leaves()}


def test_readme_explains_every_key_of_the_recipe() -> None:
    readme = (ROOT / "config" / "README.md").read_text()
    recipe = yaml.safe_load((ROOT / "workflow/duccmake/recipe/recipe.schema.yaml").read_bytes())
    keys = [*recipe["properties"], *recipe["$defs"]["entry"]["properties"]]
    assert re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE) == keys


def test_examples_of_the_readme_are_valid(tmp_path: Path) -> None:
    readme = (ROOT / "config" / "README.md").read_text()
    examples = re.findall(r"```yaml\n(.+?)```", readme, re.DOTALL)
    lists = [example for example in examples if example.startswith("version: ")]
    found = [parse(**yaml.safe_load(text)) for text in examples if text not in lists]
    for example in lists:
        path = tmp_path / "recipe.yaml"
        path.write_text(example)
        assert (load(path).bad_entries, load(path).warnings) == ((), ())
    assert {registry for config in found for registry in config.registries} == {
        "ghcr.io",
        "registry-1.docker.io",
        "localhost:5000",
    }


def test_shipped_configuration_holds_nothing_but_defaults() -> None:
    assert parse(**yaml.safe_load(shipped("config.yaml"))) == parse()


def test_commented_example_of_the_shipped_configuration_is_valid() -> None:
    text = shipped("config.yaml")
    example = re.search(r"(?:^#(?:| {1,5}\S.*)\n)+^registries: \{\}\n", text, re.MULTILINE)
    assert example
    lines = example[0].partition("# registries:")[2].splitlines()[1:-1]
    members = yaml.safe_load("\n".join(line[1:] for line in lines))
    assert set(parse(registries=members).registries) == {"ghcr.io", "localhost:5000"}


# What is read.


def test_every_section_is_read() -> None:
    found = parse(
        recipe=["a.yaml", "/abs/b.yaml"],
        repository={"backend": "directory", "root": "/srv", "flat": "copy", "lock_seconds": 5},
        products=["flat", "layers", "flat"],
        platforms=["linux/arm64"],
        registries={
            "Ghcr.IO": {
                "scheme": "http",
                "username_env": "USER_OF",
                "password_env": "PASSWORD_OF",
                "auth_file": "auth.json",
                "mirrors": ["https://m.example.org/hub/", "http://localhost:5000"],
                "ca_file": "/etc/ca.pem",
                "limits": {
                    "connections": 2,
                    "requests_per_second": 0.5,
                    "bytes_per_second": 1_000_000,
                    "timeout_seconds": 7,
                },
            }
        },
        resolve={"max_age": 60, "connections": 4},
        limits={"bytes": 1, "entries": 2, "ratio": 3, "header_bytes": 4, "path_bytes": 5},
        flat={"mount_points": ["/a//b/./c/", "/a/b/c", "/d"], "fix_permissions": True},
        scope="all",
    )
    assert [source.path for source in found.recipe] == [WORK / "a.yaml", Path("/abs/b.yaml")]
    assert found.repository == RepositorySettings("directory", Path("/srv"), "copy", 5.0)
    assert found.products == ("layers", "flat")
    assert found.platforms == (Platform("linux", "arm64"),)
    assert found.registries == {
        "ghcr.io": RegistrySettings(
            scheme="http",
            username_env="USER_OF",
            password_env="PASSWORD_OF",
            auth_file=WORK / "auth.json",
            mirrors=("https://m.example.org/hub", "http://localhost:5000"),
            ca_file=Path("/etc/ca.pem"),
            connections=2,
            requests_per_second=0.5,
            bytes_per_second=1_000_000,
            timeout_seconds=7.0,
        )
    }
    assert (found.resolve.max_age, found.resolve.connections) == (60.0, 4)
    assert found.limits == Limits(1, 2, 3.0, 4, 5)
    assert (found.flat.mount_points, found.flat.fix_permissions) == (("/a/b/c", "/d"), True)
    assert found.scope == "all"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"recipe": "a.yaml"}, {"recipe": ["a.yaml"]}),
        ({"platforms": "linux/arm64"}, {"platforms": ["linux/arm64"]}),
        ({"platforms": ["linux/arm64"] * 2}, {"platforms": ["linux/arm64"]}),
        ({"products": "layers"}, {"products": ["layers"]}),
        ({"flat": {"mount_points": "/x"}}, {"flat": {"mount_points": ["/x"]}}),
        ({"resolve": {"max_age": "60"}}, {"resolve": {"max_age": 60}}),
        ({"resolve": {"connections": "+4"}}, {"resolve": {"connections": 4}}),
        ({"resolve": {"connections": 4.0}}, {"resolve": {"connections": 4}}),
        ({"limits": {"bytes": "2e9"}}, {"limits": {"bytes": 2_000_000_000}}),
        ({"limits": {"ratio": "1.5"}}, {"limits": {"ratio": 1.5}}),
        ({"limits": None}, {}),
        ({"limits": {"bytes": None}}, {}),
        ({"repository": None, "registries": None, "resolve": None, "flat": None}, {}),
        ({"recipe": None, "products": None, "platforms": None, "scope": None}, {}),
        ({"registries": {"ghcr.io": None}}, {}),
        ({"registries": {"ghcr.io": {"auth_file": None}}}, {"registries": {"ghcr.io": {}}}),
    ],
)  # fmt: skip
def test_other_ways_to_write_a_value_mean_the_same(
    given: dict[str, Any], meant: dict[str, Any]
) -> None:
    assert parse(**given) == parse(**meant)


def test_numbers_have_the_type_that_the_code_counts_with() -> None:
    found = parse(limits={"bytes": "5", "ratio": "5"}, resolve={"connections": "5", "max_age": 5})
    for value in (found.limits.bytes, found.resolve.connections):
        assert type(value) is int
    for value in (found.limits.ratio, found.resolve.max_age):
        assert type(value) is float


def test_home_folder_is_filled_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/operator")
    found = parse(recipe="~/list.yaml", repository={"root": "~no such user~/x"})
    assert [source.path for source in found.recipe] == [Path("/home/operator/list.yaml")]
    assert found.repository.root == WORK / "~no such user~/x"


@pytest.mark.parametrize(
    ("written", "image"),
    [
        ("docker.io", "registry.hub.docker.com/library/debian:12"),
        ("registry.hub.docker.com", "docker.io/library/debian"),
        ("GHCR.io", "https://ghcr.io/a/b"),
        ("localhost:5000", "http://localhost:5000/a"),
        ("[::1]:5000", "http://[::1]:5000/a"),
    ],
)
def test_settings_are_found_by_the_host_of_a_reference(written: str, image: str) -> None:
    found = parse(registries={written: {"scheme": "http"}})
    assert found.registries[Reference.parse(image).host].scheme == "http"


# What is refused.


@pytest.mark.parametrize(
    ("members", "key", "words"),
    [
        ({"recipee": 1}, "recipee", "did you mean 'recipe'?"),
        ({"repository": {"rot": 1}}, "repository.rot", "did you mean 'repository.root'?"),
        ({"root": "x"}, "root", "did you mean 'repository.root'?"),
        ({"max_age": 1}, "max_age", "did you mean 'resolve.max_age'?"),
        ({"zzz": 1}, "zzz", "known here are recipe, repository, "),
        ({"limits": {"zzz": 1}}, "limits.zzz", "known here are bytes, "),
        ({"registries": {"a.b": {"limits": {"conections": 1}}}},
         'registries."a.b".limits.conections', "limits.connections'?"),
        ({"registries": {"a.b": {"usrname_env": "X"}}},
         'registries."a.b".usrname_env', "did you mean 'registries.\"a.b\".username_env'?"),
        ({"repository": {"backend": "directry"}}, "repository.backend", "mean 'directory'?"),
        ({"repository": {"flat": "symlink"}}, "repository.flat", "one of hardlink, reflink, copy"),
        ({"repository": {"flat": 1}}, "repository.flat", "use one of"),
        ({"repository": {"root": 1}}, "repository.root", "write it like 'root: /srv/cvmfs'"),
        ({"repository": {"root": ""}}, "repository.root", "nothing; write it like"),
        ({"repository": {"root": "a\0b"}}, "repository.root", "write it like"),
        ({"repository": {"lock_seconds": -1}}, "repository.lock_seconds", "use at least 0"),
        ({"repository": {"lock_seconds": "soon"}}, "repository.lock_seconds", "write a number"),
        ({"repository": {"lock_seconds": True}}, "repository.lock_seconds", "write a number"),
        ({"repository": "cvmfs"}, "repository", "write a section"),
        ({"products": ["layers", "flt"]}, "products[1]", "did you mean 'flat'?"),
        ({"products": "flat"}, "products", "write 'products: [layers, flat]'"),
        ({"products": []}, "products", "an empty list; write it like 'products: [layers, flat]'"),
        ({"platforms": ["linux/arm64", "linux/amd64", "linux/arm64/v8"]}, "platforms[2]",
         "'linux/arm64/v8' would be published in the same place as 'linux/arm64'"),
        ({"platforms": "amd64"}, "platforms[0]", "write it as os/architecture"),
        ({"platforms": [1]}, "platforms[0]", "write it like"),
        ({"recipe": "http://["}, "recipe[0]", "is no address"),
        ({"recipe": []}, "recipe", "an empty list; write it like 'recipe: config/recipe.yaml'"),
        ({"recipe": {"source": 1}}, "recipe[0].source", "something else (not shown"),
        ({"recipe": ["a", 1]}, "recipe[1]", "found 1; write it like"),
        ({"registries": {"https://a.b": {}}}, 'registries."https://a.b"', "no host name"),
        ({"registries": {"a.b/c": {}}}, 'registries."a.b/c"', "no host name"),
        ({"registries": {"name": {}}}, "registries.name", "no host name"),
        ({"registries": {"": {}}}, 'registries.""', "no host name"),
        ({"registries": {5000: {}}}, "registries.5000", "the key is no text"),
        ({"registries": {"docker.io": {}, "index.docker.io": {}}},
         'registries."index.docker.io"', "the same registry as 'docker.io'"),
        ({"registries": {"a.b": {"password_env": "X"}}}, 'registries."a.b"', "name both"),
        ({"registries": {"a.b": {"scheme": "ftp"}}}, 'registries."a.b".scheme', "of http, https"),
        ({"registries": {"a.b": {"mirrors": "ftp://x"}}}, 'registries."a.b".mirrors[0]', "write"),
        ({"registries": {"a.b": {"limits": {"connections": 0}}}},
         'registries."a.b".limits.connections', "use at least 1"),
        ({"registries": {"a.b": {"limits": {"timeout_seconds": 0}}}},
         'registries."a.b".limits.timeout_seconds', "use more than 0"),
        ({"resolve": {"connections": 2000}}, "resolve.connections", "use at most 1000"),
        ({"resolve": {"connections": 1.5}}, "resolve.connections", "write a whole number"),
        ({"limits": {"ratio": math.nan}}, "limits.ratio", "write a number"),
        ({"limits": {"ratio": "inf"}}, "limits.ratio", "write a number"),
        ({"limits": {"bytes": 10**30}}, "limits.bytes", "write a whole number"),
        ({"limits": {"bytes": "9" * 9999}}, "limits.bytes", "write a whole number"),
        ({"limits": []}, "limits", "write a section"),
        ({"scope": "al"}, "scope", "did you mean 'all'?"),
        ({"flat": {"mount_points": ["relative"]}}, "flat.mount_points[0]", "absolute path"),
        ({"flat": {"mount_points": ["/a/../b"]}}, "flat.mount_points[0]", "without '..'"),
        ({"flat": {"mount_points": ["/ok", "//"]}}, "flat.mount_points[1]", "no mount point"),
        ({"flat": {"mount_points": ["/.cvmfscatalog"]}}, "flat.mount_points[0]", "no mount point"),
        ({"flat": {"mount_points": ["/a/.wh.b"]}}, "flat.mount_points[0]", "no mount point"),
        ({"flat": {"mount_points": ["/a\nb"]}}, "flat.mount_points[0]", "no mount point"),
        ({"flat": {"mount_points": ["/" + "a" * 300]}}, "flat.mount_points[0]", "no mount point"),
        ({"flat": {"mount_points": [1]}}, "flat.mount_points[0]", "write it like"),
    ],
)  # fmt: skip
def test_mistake_names_its_key_and_the_mend(members: dict[str, Any], key: str, words: str) -> None:
    found = mistakes(**members)
    assert list(found) == [key]
    assert words in found[key]


def test_a_mistake_on_the_command_line_is_told_from_one_in_a_file() -> None:
    members = {"scope": "x", "removal": {"policy": "y", "grace_days": "z"}}
    with pytest.raises(InvalidConfig) as caught:
        parse(**members)
    told = caught.value.told_of({"scope": "x", "removal": {"policy": "y"}})
    assert sorted(mistake.key for mistake in told.mistakes) == [
        "removal.grace_days",
        "removal.policy, from --config",
        "scope, from --config",
    ]


def test_all_mistakes_are_told_at_once() -> None:
    found = mistakes(
        recipe=5,
        unknown=1,
        repository={"backend": "cfmvs", "flat": "wrong", "rot": 1},
        platforms=["x"],
        registries={"a.b": {"limits": {"connections": -1}}, "name": {}},
        flat={"mount_points": ["x", "/y", "z"]},
    )
    assert set(found) == {
        "recipe", "unknown", "repository.backend", "repository.flat", "repository.rot",
        "platforms[0]", 'registries."a.b".limits.connections', "registries.name",
        "flat.mount_points[0]", "flat.mount_points[2]",
    }  # fmt: skip


@pytest.mark.parametrize("members", [[], "text", 5, [{"recipe": "x"}]])
def test_configuration_that_is_no_mapping_is_refused(members: Any) -> None:
    with pytest.raises(InvalidConfig, match=r"the configuration: .*write a section"):
        Config.parse(members, workdir=WORK)


@pytest.mark.parametrize(
    "members",
    [
        {"password": "hunter2"},
        {"registries": {"a.b": {"password": "hunter2"}}},
        {"registries": {"a.b": {"Password": ["hunter2"]}}},
        {"registries": {"a.b": {"username": "hunter2"}}},
        {"registries": {"a.b": {"user": "hunter2"}}},
        {"registries": {"a.b": {"token": {"x": "hunter2"}}}},
        {"registries": {"a.b": {"auth": "hunter2"}}},
        {"registries": {"a.b": {"api_key": "hunter2"}}},
        {"registries": {"password": "hunter2"}},
        {"repository": {"secret": "hunter2"}},
    ],
)
def test_credentials_in_clear_are_refused_with_the_way_out(members: dict[str, Any]) -> None:
    ((key, line),) = mistakes(**members).items()
    assert "hunter2" not in line
    if key != "registries.password":
        assert "environment variable and name that" in line


@pytest.mark.parametrize(
    "members",
    [
        {"registries": "hunter2"},
        {"registries": ["hunter2"]},
        {"registries": {"a.b": "hunter2"}},
        {"registries": {"me:hunter2@a b": {}}},
        {"registries": {"a.b": {"username_env": "U", "password_env": "hunter2!"}}},
        {"registries": {"a.b": {"username_env": "U", "password_env": "hunter2\n"}}},
        {"registries": {"a.b": {"username_env": ["hunter2"], "password_env": "P"}}},
        {"registries": {"a.b": {"mirrors": "https://me:hunter2@mirror.example.org"}}},
        {"registries": {"a.b": {"mirrors": "https://mirror.example.org/?token=hunter2"}}},
        {"registries": {"a.b": {"auth_file": '{"auths": {"a.b": {"auth": "hunter2"}}}'}}},
        {"registries": {"a.b": {"zzz": "hunter2"}}},
        {"registries": {"a.b": {"limits": {"zzz": "hunter2"}}}},
    ],
)
def test_what_may_be_a_secret_in_the_wrong_place_is_not_shown(members: dict[str, Any]) -> None:
    ((_, line),) = mistakes(**members).items()
    assert "hunter2" not in line


def test_long_value_is_cut_in_the_message() -> None:
    assert all(len(line) < 300 for line in mistakes(scope="x" * 100_000).values())


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(), children),
    max_leaves=6,
)


@settings(deadline=None)
@given(key=st.sampled_from([key for key, _ in leaves()] + ["repository", "registries", "flat"]),
       value=VALUES)  # fmt: skip
def test_any_value_of_any_key_is_read_or_refused_with_a_line(key: str, value: Any) -> None:
    try:
        found = Config.parse(nested(key, value), workdir=WORK)
    except InvalidConfig as error:
        assert error.mistakes
        assert "\n" not in str(error)
    else:
        assert all(source.path.is_absolute() for source in found.recipe if not source.is_remote)
        assert all(point.startswith("/") for point in found.flat.mount_points)


@settings(deadline=None)
@given(number=st.integers(0, 2**53))
def test_number_means_the_same_as_text(number: int) -> None:
    assert parse(limits={"bytes": str(number)}) == parse(limits={"bytes": number})
    assert parse(limits={"seconds": str(number)}) == parse(limits={"seconds": number})


def test_true_and_false_on_the_command_line_are_no_texts() -> None:
    assert parse(force_removal="true").force_removal is True
    assert parse(force_removal="false").force_removal is False
    assert "found 'yes'" in mistakes(force_removal="yes")["force_removal"]


def test_removal_is_read_with_its_rules() -> None:
    rule = {"images": "ghcr.io/x/*", "keep_last": "3"}
    found = parse(removal={"policy": "prune", "retention": [rule], "pinned": "a/*"}).removal
    assert (found.retention[0].images, found.retention[0].keep_last) == ("ghcr.io/x/*", 3)
    assert found.pinned == ("a/*",)
    assert "removal.retention[0]" in mistakes(removal={"retention": [{"keep_last": 3}]})


ISSUER = {"issuer": "https://g.example.org", "audience": "x", "claims": {"project_path": "team/*"}}


@pytest.mark.parametrize(
    ("convert", "said"),
    [
        ({"issuers": [{**ISSUER, "issuer": "http://g.example.org"}]}, "https://gitlab"),
        ({"issuers": [{**ISSUER, "claims": {}}]}, "project_path: 'team/*'"),
        ({"issuers": [{**ISSUER, "claims": {"project_id": 12}}]}, "project_id: '1234'"),
        ({"tokens": "s3cret"}, "not shown"),
        ({"tokens": [{"token_env": "s3 cret"}]}, "not shown"),
    ],
)
def test_who_may_ask_for_conversions_is_checked_and_no_secret_is_shown(convert, said) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(webhook={"convert": convert})
    assert said in str(caught.value)
    assert "s3" not in str(caught.value)


def test_a_glob_of_a_rule_stands_for_a_list_of_one() -> None:
    [issuer] = parse(webhook={"convert": {"issuers": ISSUER}}).webhook.convert.issuers
    assert (issuer.claims, issuer.images) == ({"project_path": ("team/*",)}, ("*",))


@pytest.mark.parametrize(
    "text",
    [
        "a: !!timestamp x",
        "a: 2024-99-99",
        "a: !!int ''",
        "a: !!bool x",
        f"a: {'9' * 5000}",
        "a: [",
        "[" * 3000,
    ],
)
def test_a_file_that_is_no_yaml_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml is not YAML: "):
        read_file(path)
