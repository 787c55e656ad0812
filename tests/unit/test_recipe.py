from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.errors import RecipeError
from duccmake.oci.reference import Reference
from duccmake.recipe import document, members, model
from duccmake.recipe.model import Recipe, output_reference
from duccmake.recipe.parser import parse
from duccmake.recipe.sources.listing import parse_list
from duccmake.recipe.sources.load import load_sources
from duccmake.recipe.sources.location import Source
from support.shipped import shipped
from support.wishes import load

DIGEST = "sha256:" + "ab" * 32
HEAD = "version: 1\ncvmfs_repo: unpacked.example.org\n"

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(content: str | bytes, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


@pytest.fixture
def listed(write: Write) -> Callable[..., Recipe]:
    """A recipe whose entries, as YAML, stand in line 4 and after it."""

    def listed(*entries: str, more: str = "") -> Recipe:
        lines = "".join(f"  - {entry}\n" for entry in entries)
        return load(write(f"{HEAD}input:\n{lines}{more}"))

    return listed


def load_all(*paths: Path) -> tuple[Recipe, ...]:
    sources = [Source.parse(str(path), path.parent) for path in paths]
    return load_sources(sources, paths[0].parent / "sources").recipes


def test_every_field_of_a_recipe_is_read(write: Write) -> None:
    path = write(
        f"""\
version: 1
user: unpacker
cvmfs_repo: 'unpacked.example.org'
output_format: 'https://registry.example.org/thin/$(image)'
input:
    - 'https://registry.example.org:5005/group/image:v1'
    # a comment
    - ghcr.io/group/image
    - "http://localhost:5000/a/b@{DIGEST}"
    - docker.io/library/debian:1*
ignoreErrors:
    - 'ghcr.io/*'
"""
    )
    found = load(path)
    assert (found.path, found.repository, found.user) == (path, "unpacked.example.org", "unpacker")
    assert found.output_format == "https://registry.example.org/thin/$(image)"
    assert [(str(w.reference), w.line, w.ignore_errors) for w in found.wishes] == [
        ("https://registry.example.org:5005/group/image:v1", 6, False),
        ("https://ghcr.io/group/image:latest", 8, True),
        (f"http://localhost:5000/a/b@{DIGEST}", 9, False),
        ("https://docker.io/library/debian:1*", 10, False),
    ]
    assert found.wishes[3].reference.is_glob
    assert (found.bad_entries, found.warnings) == ((), ())


def test_the_example_recipe_of_the_configuration_is_without_fault(write: Write) -> None:
    example = load(write(shipped("recipe.yaml")))
    assert example.repository == "unpacked.example.org"
    assert len(example.wishes) >= 3
    assert (example.bad_entries, example.warnings) == ((), ())
    assert example.output_format == model.DEFAULT_OUTPUT_FORMAT


def test_schema_states_the_defaults_that_the_code_has() -> None:
    properties = yaml.safe_load(members.SCHEMA.read_bytes())["properties"]
    assert properties["output_format"]["default"] == Recipe(Path(), "r").output_format
    assert properties["user"]["default"] == Recipe(Path(), "r").user
    assert all(member["description"] for member in properties.values())


@pytest.mark.parametrize("entries", ["input: []", "input:", "input: []\nuser:\nignoreErrors:"])
def test_empty_list_is_a_valid_recipe(write: Write, entries: str) -> None:
    found = load(write(f"{HEAD}{entries}\n"))
    assert (found.wishes, found.bad_entries, found.warnings, found.user) == ((), (), (), "")


@pytest.mark.parametrize(
    ("content", "line", "words"),
    [
        ("", 1, "empty, not a mapping"),
        ("# only a comment\n", 1, "empty, not a mapping"),
        ("- docker.io/library/debian:12\n", 1, "a list, not a mapping"),
        ("just text\n", 1, "text, not a mapping"),
        ("cvmfs_repo: a.b\ninput: []\n", 1, "no 'version'; add the line 'version: 1'"),
        ("# new\nversion: 3\ncvmfs_repo: a.b\n", 2, "'3' is no version of a recipe; write"),
        ("version: true\ncvmfs_repo: a.b\ninput: []\n", 1, "'true' is no version"),
        ("version: '1'\ncvmfs_repo: a.b\ninput: []\n", 1, "'1' is no version"),
        ("version: [1]\ncvmfs_repo: a.b\ninput: []\n", 1, "is no version"),
        ("version: 1\ninput: []\n", 1, "no 'cvmfs_repo'; add the line 'cvmfs_repo: "),
        ("version: 1\ncvmfs_repo: a.b\ninputs: []\n", 3, "'inputs' but no 'input'; did you mean"),
        (HEAD + "input: docker.io/a/b\n", 3, "'input' is text; write input: ['docker.io/a/b']"),
        (HEAD + "input: {a: b}\n", 3, "'input' is a mapping"),
        (HEAD + "input: []\nignoreErrors: '*'\n", 4, "is text; write ignoreErrors: ['*']"),
        (HEAD + "input: []\nuser: 5\n", 4, "'user' is 5"),
        (HEAD + "input: []\nversion: 1\n", 4, "a second time, first in line 1"),
        (HEAD + "input: []\n? [a]\n: b\n? [c]\n: d\n", 6, "a second time"),
    ],
)  # fmt: skip
def test_unusable_file_is_refused_with_its_line_and_a_mend(
    write: Write, content: str, line: int, words: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write(content))
    assert f"recipe.yaml:{line}: " in str(caught.value)
    assert words in str(caught.value)
    assert "; " in str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["", "..", "a/b", "/x", "../x", "a..b", ".a", "-rf", '"a.b\\n"', "a b", "[a]", "~", "1.5"],
)
def test_repository_name_that_is_no_plain_folder_is_refused(write: Write, name: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:2: 'cvmfs_repo' is"):
        load(write(f"version: 1\ncvmfs_repo: {name}\ninput: []\n"))


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (HEAD + "input: [a, b\n", "4:1"),
        (HEAD + "input:\n\t- a\n", "4:1"),
        (HEAD + "input: *nowhere\n", "3:8"),
        (HEAD + "input: []\n---\nversion: 1\n", "4:1"),
        (HEAD.encode() + b"user: \xff\n", "3:7"),
        (HEAD + "user: ab\x01\n", "3:9"),
    ],
)
def test_what_is_not_yaml_is_refused_with_line_and_column(
    write: Write, content: str | bytes, place: str
) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write(content))
    assert f"recipe.yaml:{place}: not YAML: " in str(caught.value)


def test_all_faults_of_an_unusable_file_are_told_at_once(write: Write) -> None:
    with pytest.raises(RecipeError) as caught:
        load(write("version: 1\ncvmfs_repo: a/b\ninput: x\nuser: []\n"))
    for line in (2, 3, 4):
        assert f"recipe.yaml:{line}: " in str(caught.value)


@pytest.mark.parametrize("name", ["absent.yaml", "", "nul\0.yaml"])
def test_file_that_cannot_be_read_is_a_recipe_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load(tmp_path / name)


def test_file_over_the_limit_is_refused(write: Write) -> None:
    padding = "#" * document.MAX_BYTES
    with pytest.raises(RecipeError, match="larger than 8 MiB"):
        load(write(f"{HEAD}input: []\n{padding}"))


@pytest.mark.parametrize(
    "bomb",
    [
        "- " * 1_000_000 + "x",
        "? " * 100_000,
        "[" * 900 + "]" * 900,
        "a: &a [x]\nb: [" + "*a, " * 2_000 + "]",
        "a: &a [" + "[" * 40 + "*a" + "]" * 40 + "]",
        f"{HEAD}input: [{{image: a.b/c, tags: &a [*a]}}]",
    ],
    ids=["deep blocks", "deep keys", "deep flows", "many aliases", "recursive", "endless"],
)
def test_yaml_bomb_is_refused(write: Write, bomb: str) -> None:
    with pytest.raises(RecipeError, match=r"recipe\.yaml:\d+: the recipe (is nested|has too many)"):
        load(write(bomb))


def test_billion_laughs_within_the_limits_are_not_expanded(listed: Callable[..., Recipe]) -> None:
    levels = ["- &l0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"- &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 12)]
    found = listed("docker.io/a/b:1", more="".join(f"  {level}\n" for level in levels))
    assert len(found.wishes) == 1
    assert {bad.reason for bad in found.bad_entries} == {"the entry is a list"}


def test_alias_of_an_entry_is_that_entry(write: Write) -> None:
    found = load(
        write(f"{HEAD}input:\n- &x ghcr.io/nightly/a\n- ghcr.io/b/c\nignoreErrors:\n- *x\n")
    )
    assert [wish.line for wish in found.wishes] == [4, 5]
    assert found.ignored == ("ghcr.io/nightly/a",)
    assert found.bad_entries == ()


@pytest.mark.parametrize(
    ("entry", "reason", "hint"),
    [
        ("ubuntu:latest", "names no registry", "- 'docker.io/library/ubuntu:latest'"),
        ("ubuntu", "names no registry", "- 'docker.io/library/ubuntu:latest'"),
        ("group/image:v1", "names no registry", "- 'docker.io/group/image:v1'"),
        (f"group/image@{DIGEST}", "names no registry", f"- 'docker.io/group/image@{DIGEST}'"),
        ("ghcr.io/Group/Image:V1", "is not a repository name", "- 'ghcr.io/group/image:V1'"),
        ("https://ghcr.io/Group/Image", "is not a repository", "- 'https://ghcr.io/group/image:latest'"),
        (f"ghcr.io/a/b@{DIGEST.upper()}", "is not a digest", f"- 'ghcr.io/a/b@{DIGEST}'"),
        ("docker://Ubuntu:22.04", "unknown scheme", "- 'docker.io/library/ubuntu:22.04'"),
        ("http://x.y: z", "is no text to YAML", "- 'http://docker.io/library/x.y:z'"),
        ("http://x.y/a: b", "is no text to YAML", "- 'http://x.y/a:b'"),
        ("docker.io/library/debian: 12", "is no text to YAML", "- 'docker.io/library/debian:12'"),
        ("docker.io/library/debian:", "is no text to YAML", "- 'docker.io/library/debian:latest'"),
        ("ghcr.io/a:1\n    ghcr.io/b:2", "blank in it", "- 'ghcr.io/a:1', - 'ghcr.io/b:2'"),
        (f"ghcr.io/a/b:1*@{DIGEST}", "both a tag glob and a digest", "keep one"),
        ("ghcr.io/a/../../etc", "is not a repository name", "write the repository"),
        ("ghcr.io/a@sha256:../../x", "is not a digest", "64 lower-case"),
        ("ghcr.io/a:-x", "is not a tag", "a tag is"),
        ("", "is empty", "remove the line"),
        ("''", "is empty", "remove the line"),
        ("'   '", "is not an image reference", "write it as"),
        ("12", "'12' is no text", "write an image"),
        ("1.5", "'1.5' is no text", "write an image"),
        ("true", "'true' is no text", "write an image"),
        ("2024-99-99", "'2024-99-99' is no text", "write an image"),
        ("!!int nonsense", "'nonsense' is no text", "write an image"),
        ("!!timestamp nonsense", "'nonsense' is no text", "write an image"),
        ("!!bool nonsense", "'nonsense' is no text", "write an image"),
        ("!strange ghcr.io/a/b", "is no text", "write an image"),
        ("[ghcr.io/a/b]", "is a list", "one dash"),
        ("{a: 1, b: 2}", "is a mapping", "write an image"),
        ("ghcr.io/" + "a" * 2000, "2008 characters", "no image has such a name"),
    ],
)  # fmt: skip
def test_bad_entry_is_reported_with_line_and_mend_and_the_others_go_on(
    listed: Callable[..., Recipe], entry: str, reason: str, hint: str
) -> None:
    found = listed("ghcr.io/first/one:1", entry, "ghcr.io/last/one:1")
    assert [wish.reference.repository for wish in found.wishes] == ["first/one", "last/one"]
    (bad,) = found.bad_entries
    assert bad.line == 5
    assert reason in bad.reason
    assert hint in bad.hint
    assert re.search(r"recipe\.yaml:5: .+; .+", str(bad))
    assert len(str(bad)) < 1000


@pytest.mark.parametrize("prefix", ["https://", "http://", "docker://", ""])
@pytest.mark.parametrize(
    "entry", ["me:hunter2@ghcr.io/a/b:1", "hunter2@ghcr.io/a", "me:hun/hunter2@ghcr.io/a:1",
              "me:hunter2@ghcr.io", "me:hunter2@ghcr.io/a: 1", "me:hunter2@ghcr.io/Ä b"],
)  # fmt: skip
def test_credentials_in_an_entry_are_refused_and_never_shown(
    listed: Callable[..., Recipe], prefix: str, entry: str
) -> None:
    found = listed(prefix + entry)
    assert len(found.bad_entries) == 1
    assert "hunter2" not in repr(found)
    assert "hunter2" not in str(found.bad_entries[0])


def test_bad_glob_is_reported_and_the_others_hold(listed: Callable[..., Recipe]) -> None:
    found = listed("ghcr.io/a/b:1", more="ignoreErrors: [5, '', [x], 'ghcr.io/*']\n")
    assert found.wishes[0].ignore_errors
    assert [bad.line for bad in found.bad_entries] == [5, 5, 5]
    assert all("ignoreErrors" in str(bad) for bad in found.bad_entries)


@pytest.mark.parametrize(
    ("key", "suggestion"),
    [("ignore_errors", "ignoreErrors"), ("IgnoreErrors", "ignoreErrors"), ("users", "user"),
     ("outputformat", "output_format")],
)  # fmt: skip
def test_unknown_key_is_a_warning_with_a_suggestion(
    listed: Callable[..., Recipe], key: str, suggestion: str
) -> None:
    found = listed("ghcr.io/a/b:1", more=f"{key}: [x]\n")
    (warning,) = found.warnings
    assert "recipe.yaml:5: " in warning
    assert f"{key!r}" in warning
    assert f"did you mean {suggestion!r}?" in warning
    assert len(found.wishes) == 1


def test_unknown_key_like_no_other_names_the_known_ones(listed: Callable[..., Recipe]) -> None:
    (warning,) = listed(more="zzz: 1\n").warnings
    assert "version, user, cvmfs_repo, output_format, input, ignoreErrors" in warning


def test_unknown_variable_of_the_output_format_is_a_warning(write: Write) -> None:
    found = load(write(f"{HEAD}input: []\noutput_format: 'https://x.y/$(imag):$(tag)'\n"))
    (warning,) = found.warnings
    assert "recipe.yaml:4: " in warning
    assert "$(imag); did you mean $(image)?" in warning


SECRET = "https://user:hunter2@r.example.org"
PLACES = [
    "{}", "version: {}", "{}: 1\n{}: 1", "version: 1\ncvmfs_repo: {}\ninput: []",
    "version: 1\ncvmfs_repo: a.b\ninput: {}", HEAD + "input: []\n{}: 1",
    HEAD + "input: ['{}/a/b:1', {{ {}: 1 }}, '{}', [ '{}' ], {{image: '{}'}}]",
    HEAD + "input: []\nignoreErrors: [ {{ {}: 1 }}, ['{}'] ]",
    HEAD + "input: []\noutput_format: '$({})'", HEAD + "input: []\nuser: [ '{}' ]",
    *(
        f"version: 2\ncvmfs_repo: a.b\ninput: [ {{{{ {entry} }}}} ]"
        for entry in (
            "image: '{}/a/b:1'", "image: r.x/a, '{}': 1", "image: r.x/a, '{}': 1, '{}': 2",
            "'{}': 1", "image: r.x/a, platforms: '{}'", "image: r.x/a, products: '{}'",
            "image: r.x/a, tags: '{}'", "image: '{}/a/b:v*', tags: {{{{include: v}}}}",
            "image: r.x/a, tags: {{{{include: '{}'}}}}", "image: r.x/a, tags: {{{{'{}': 1}}}}",
            "image: r.x/a, tags: {{{{keep_last: '{}'}}}}",
        )
    ),
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_credentials_stand_in_no_message_wherever_they_stand_in_a_list(place: str) -> None:
    text = place.replace("{}", SECRET).replace("{{", "{").replace("}}", "}")
    lists = [lambda raw: parse_list(Path("l.txt"), raw + b"\na/b:1\nc/d:1", "a.b")]
    said = ""
    for read in (*lists, lambda raw: parse(Path("r.yaml"), raw)):
        try:
            found = read(text.encode())
            said += " ".join([*map(str, found.bad_entries), *found.warnings])
            said += " ".join(entry.text for entry in found.bad_entries)
        except RecipeError as error:
            said += str(error)
    assert said and "hunter2" not in said


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ("https://quay.io/a/b:1", "https://quay.io/a/b:1", "is a duplicate: "),
        ("https://quay.io/a/b:1", "quay.io/a/b:1", "is a duplicate: "),
        ("quay.io/a/b", "quay.io/a/b:latest", "is a duplicate: "),
        ("QUAY.io/a/b", "quay.io/a/b/", "is a duplicate: "),
        ("docker.io/debian", "docker.io/library/debian:latest", "is a duplicate: "),
        ("https://quay.io/a/b:1", "http://quay.io/a/b:1", "duplicate but for the scheme"),
    ],
)
def test_duplicate_is_dropped_with_a_warning_that_names_both_lines(
    listed: Callable[..., Recipe], first: str, second: str, words: str
) -> None:
    found = listed(first, "quay.io/other/one:1", second)
    assert [wish.line for wish in found.wishes] == [4, 5]
    (warning,) = found.warnings
    assert "recipe.yaml:6: " in warning
    assert "recipe.yaml:4 " in warning
    assert words in warning


def test_two_names_of_docker_hub_are_both_kept_with_a_warning(
    listed: Callable[..., Recipe],
) -> None:
    found = listed(
        "docker.io/library/debian:12", "https://registry.hub.docker.com/library/debian:12"
    )
    assert [wish.reference.registry for wish in found.wishes] == [
        "docker.io",
        "registry.hub.docker.com",
    ]
    (warning,) = found.warnings
    assert "recipe.yaml:5: " in warning
    assert "recipe.yaml:4" in warning
    assert "both are kept" in warning


@pytest.mark.parametrize(
    "other",
    [f"quay.io/a/b:1@{DIGEST}", "quay.io/a/b:2", "quay.io/a/c:1", "ghcr.io/a/b:1", "quay.io/a/b:*"],
)
def test_different_images_are_no_duplicates(listed: Callable[..., Recipe], other: str) -> None:
    found = listed("quay.io/a/b:1", other)
    assert len(found.wishes) == 2
    assert found.warnings == ()


@pytest.mark.parametrize(
    ("glob", "matched", "spared"),
    [
        ("ghcr.io/a/b:1", ["ghcr.io/a/b:1"], ["ghcr.io/a/b:11", "ghcr.io/a/b"]),
        ("ghcr.io/a/b", ["ghcr.io/a/b:1", "ghcr.io/a/b"], ["ghcr.io/a/bb:1", "ghcr.io/a/b/c:1"]),
        ("a/b", ["ghcr.io/a/b:1", "quay.io/a/b:2"], ["ghcr.io/x/a/b:1"]),
        ("a/b:2", ["quay.io/a/b:2"], ["ghcr.io/a/b:1", "ghcr.io/x/a/b:2"]),
        ("debian*", ["docker.io/debian:12", "docker.io/debian-slim:12"], ["docker.io/a/debian:12"]),
        ("localhost/*", ["localhost/b:2"], ["ghcr.io/localhost/b:2"]),
        ("ghcr.io/*", ["ghcr.io/a/b:1", "ghcr.io/a:1"], ["quay.io/ghcr.io/b:1"]),
        ("https://ghcr.io/*", ["ghcr.io/a/b:1"], ["http://ghcr.io/a/b:1"]),
        ("https://ghcr.io/a/b", ["ghcr.io/a/b:1"], ["http://ghcr.io/a/b:1"]),
        ("*/nightly:*", ["ghcr.io/a/nightly:1"], ["ghcr.io/nightly/a:1"]),
        ("ghcr.io/a/b:1.?", ["ghcr.io/a/b:1.2"], ["ghcr.io/a/b:1.22", "ghcr.io/a/b:1x2"]),
        ("ghcr.io/a/b:[12]", [], ["ghcr.io/a/b:1", "ghcr.io/a/b:2"]),
        ("ghcr.io/a/b:!1", [], ["ghcr.io/a/b:2"]),
        ("docker.io/debian", ["docker.io/debian:12"], ["docker.io/x/debian:12"]),
        ("docker.io/debian:12", ["docker.io/library/debian:12"], ["docker.io/library/debian:1"]),
        ("*", ["ghcr.io/a/b:1", "http://quay.io/x:2"], []),
        (f"*@{DIGEST}", [f"ghcr.io/a/b@{DIGEST}"], ["ghcr.io/a/b:1"]),
    ],
)
def test_ignore_errors_knows_star_and_question_mark_only(
    listed: Callable[..., Recipe], glob: str, matched: list[str], spared: list[str]
) -> None:
    more = f"ignoreErrors:\n  - '{glob}'\n"
    assert all(wish.ignore_errors for wish in listed(*matched, more=more).wishes)
    assert not any(wish.ignore_errors for wish in listed(*spared, more=more).wishes)
    found = listed(more=more)
    assert all(found.ignores(Reference.parse(text)) for text in matched)
    assert not any(found.ignores(Reference.parse(text)) for text in spared)


def test_ignore_errors_can_single_out_a_tag_that_a_glob_stands_for(
    listed: Callable[..., Recipe],
) -> None:
    found = listed("ghcr.io/a/b:*", more="ignoreErrors: ['*:nightly']\n")
    (wish,) = found.wishes
    assert not wish.ignore_errors
    assert found.ignores(wish.reference.with_tag("nightly"))
    assert not found.ignores(wish.reference.with_tag("stable"))


@pytest.mark.parametrize(
    ("format", "image", "output"),
    [
        ("", "ghcr.io/a/b:1", ""),
        (model.DEFAULT_OUTPUT_FORMAT, "ghcr.io/a/b:1", "https://ghcr.io/a/b_thin:1"),
        ("$(scheme)|$(registry)", "http://h:5/a:1", "http|h:5"),
        ("$(tag)|$(digest)|$(reference)|$(image)", "h.x/a/b:1", "1||:1|a/b:1"),
        ("$(tag)|$(digest)", f"h.x/a@{DIGEST}", f"|{DIGEST}"),
        ("$(reference)|$(image)", f"h.x/a@{DIGEST}", f"@{DIGEST}|a@{DIGEST}"),
        ("$(tag)|$(reference)|$(image)", f"h.x/a:1@{DIGEST}", f"1|:1@{DIGEST}|a:1@{DIGEST}"),
        ("https://h.x/sync/$(image)", "docker.io/debian:12", "https://h.x/sync/library/debian:12"),
        ("$(tag)$(tag)$(other)$tag$()", "h.x/a:1", "11$(other)$tag$()"),
    ],
)  # fmt: skip
def test_output_reference_fills_in_the_variables(format: str, image: str, output: str) -> None:
    assert output_reference(format, Reference.parse(image)) == output


def test_recipes_of_one_repository_are_joined_and_others_are_not(write: Write) -> None:
    first = write(f"{HEAD}input: [ghcr.io/a/a:1, ghcr.io/a/b:1, UPPER]\n", "first.yaml")
    other = write("version: 1\ncvmfs_repo: other.org\ninput: [ghcr.io/a/a:1]\n", "other.yaml")
    second = write(
        f"{HEAD}input:\n- ghcr.io/a/b:1\n- ghcr.io/a/c:1\n- 5\nignoreErrors: ['*/b:*', '*/c:*']\n",
        "second.yaml",
    )
    joined, alone = load_all(first, other, second, first)
    assert alone == load(other)
    assert joined.path == first
    assert [(w.reference.repository, w.path, w.line, w.ignore_errors) for w in joined.wishes] == [
        ("a/a", first, 3, False),
        ("a/b", first, 3, True),
        ("a/c", second, 5, True),
    ]
    assert [(bad.path, bad.line) for bad in joined.bad_entries] == [(first, 3), (second, 6)]
    (warning,) = joined.warnings
    assert f"{second}:4: " in warning
    assert f"{first}:3" in warning


@pytest.mark.parametrize("line", ["user: somebody", "output_format: 'https://x.y/$(image)'"])
def test_recipes_of_one_repository_must_agree(write: Write, line: str) -> None:
    first = write(f"{HEAD}input: []\n", "first.yaml")
    second = write(f"{HEAD}input: []\n{line}\n", "second.yaml")
    with pytest.raises(RecipeError, match=r"second\.yaml: .*first\.yaml, for"):
        load_all(first, second)


def test_ten_thousand_entries_are_read_each_with_its_line(listed: Callable[..., Recipe]) -> None:
    found = listed(*(f"'https://ghcr.io/a/image{n}:v{n}'" for n in range(10_000)))
    assert len(found.wishes) == 10_000
    assert (found.wishes[-1].reference.tag, found.wishes[-1].line) == ("v9999", 10_003)


YAML_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates(),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=6,
)


@settings(deadline=None, max_examples=50)
@given(
    members=st.dictionaries(
        st.sampled_from(["user", "output_format", "ignoreErrors", "inptu", "<<"]) | st.text(),
        YAML_VALUES,
    ),
    entries=st.lists(YAML_VALUES, max_size=5) | YAML_VALUES,
)
def test_no_yaml_document_does_more_than_raise_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, members: dict[str, object], entries: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "recipe.yaml"
    document = {"version": 1, "cvmfs_repo": "a.b", "input": entries} | members
    path.write_text(yaml.safe_dump(document, allow_unicode=True), "utf-8")
    try:
        found = load(path)
    except RecipeError as error:
        assert f"{path}:" in str(error)
        return
    wished = document["input"] or []
    assert len(found.wishes) + len(found.bad_entries) + len(found.warnings) >= len(wished)
    assert all(f"{path}:{bad.line}: " in str(bad) for bad in found.bad_entries)


@settings(deadline=None)
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_do_more_than_raise_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "bytes.yaml"
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        load(path)


NAMES = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}", fullmatch=True)
TAGS = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,10}", fullmatch=True)


@settings(deadline=None)
@given(images=st.lists(st.tuples(NAMES, TAGS), unique=True, min_size=1, max_size=8))
def test_good_entries_are_kept_in_order_whatever_their_quotes(
    tmp_path_factory: pytest.TempPathFactory, images: list[tuple[str, str]]
) -> None:
    path = tmp_path_factory.getbasetemp() / "good.yaml"
    texts = [f"https://registry.example.org/{name}:{tag}" for name, tag in images]
    quotes = ["", "'", '"']
    lines = [f"- {quotes[n % 3]}{text}{quotes[n % 3]}\n" for n, text in enumerate(texts)]
    path.write_text(f"{HEAD}input:\n{''.join(lines)}")
    found = load(path)
    assert [str(wish.reference) for wish in found.wishes] == texts
    assert [wish.line for wish in found.wishes] == [4 + n for n in range(len(texts))]
    assert (found.bad_entries, found.warnings) == ((), ())


@settings(deadline=None)
@given(text=st.text("ab.", min_size=1, max_size=8), glob=st.text("ab.*?", min_size=1, max_size=6))
def test_globs_agree_with_a_matcher_written_from_the_rule(text: str, glob: str) -> None:
    def covers(glob: str, text: str) -> bool:
        if not glob:
            return not text
        if glob[0] == "*":
            return covers(glob[1:], text) or (bool(text) and covers(glob, text[1:]))
        return bool(text) and glob[0] in (text[0], "?") and covers(glob[1:], text[1:])

    reference = Reference("https", "h.x", "repository", text)
    found = Recipe(Path(), "r", ignored=(f"h.x/repository:{glob}",))
    assert found.ignores(reference) == covers(glob, text)
