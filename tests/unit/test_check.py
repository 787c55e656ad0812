"""Wish lists before they are merged: what is said of them, and whether that stands in the way."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator

from duccmake.commands.checking.findings import Rule
from duccmake.commands.main import main
from duccmake.oci.reference import Platform
from support.faulty_registry import (
    Answer,
    FaultyHandler,
    FaultyRegistry,
    PullLimit,
    html,
    lying_digest,
    status,
    wrong_bytes,
)
from support.private_registry import CREDENTIALS, PASSWORD, USER, PrivateRegistry
from support.registry import FullRegistry
from support.runs import CHECKOUT
from support.servers import add_image, add_index
from support.tag_lists import TagLists
from support.wishes import GitProject, recipe, serving

SARIF = json.loads((Path(__file__).parents[1] / "support/sarif_subset.json").read_bytes())
ARM = Platform("linux", "arm64")
HEAD = "version: 1\ncvmfs_repo: a.example.org\ninput:\n"


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("HOME", "XDG_RUNTIME_DIR", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "nobody"))


@pytest.fixture
def registry(tmp_path) -> Iterator[FullRegistry]:
    with FullRegistry(tmp_path / "registry") as running:
        for tag in ("1.0", "1.1", "2.0"):
            add_image(running.store, "team/app", tag)
        running.requests.clear()
        yield running


def write(text: str, file: str = "recipe.yaml") -> str:
    Path(file).write_text(text)
    return file


def wishes(*images: str, version: int = 1, more: str = "") -> str:
    """A recipe whose images stand from line 4 on, one a line."""
    lines = "".join(f"  - {image}\n" for image in images)
    return f"{HEAD.replace('1', str(version))}{lines}{more}"


class Checked:
    """A check as its user and its CI see it: exit status, text, and the JSON of it."""

    def __init__(self, *arguments: str) -> None:
        report = Path("report.json")
        report.unlink(missing_ok=True)
        stdout, sys.stdout = sys.stdout, io.StringIO()
        try:
            self.status = main(["check", *arguments, "--format", "json", "-o", str(report)])
            self.text = sys.stdout.getvalue()
        finally:
            sys.stdout = stdout
        self.members: dict[str, Any] = json.loads(report.read_text())

    @property
    def found(self) -> list[tuple[str, int]]:
        return [(item["rule"], item["line"]) for item in self.members["findings"]]

    @property
    def fingerprints(self) -> set[str]:
        return {item["fingerprint"] for item in self.members["findings"]}


# --- the list by itself ---------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (wishes("'r.example.org/a/b:1'"), []),
        ("version: 1\ninput: [\n", [("syntax", 3)]),
        ("version: 1\ncvmfs_repo: a.b\ninput:\n  - a\n b: c\n", [("syntax", 5)]),
        ("- a\n", [("schema", 1)]),
        ("", [("schema", 1)]),
        ("\n\nversion: 3\ncvmfs_repo: a.b\ninput: []\n", [("schema", 3)]),
        ("version: 1\ninput: x\n", [("schema", 1), ("schema", 2)]),
        ("version: 1\nversion: 1\n", [("schema", 2)]),
        (wishes("r.x/a:1", "R.x/A:1", "debian:12", "r.x/b:é"), [("entry", n) for n in (5, 6, 7)]),
        (wishes("r.x/a:1", more="ignore_errors: [x]\n"), [("unknown-key", 5)]),
        (wishes(more="output_format: $(what)\n"), [("unknown-variable", 4)]),
        (wishes("r.x/a", "r.x/b", "r.x/a:latest", "http://r.x/b"),
         [("duplicate", 6), ("duplicate", 7)]),
        (wishes("{image: r.x/a, platform: linux/arm64}", version=2), [("entry", 4)]),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_list_is_told_with_its_line(text, found):
    checked = Checked(write(text), "--offline")
    assert checked.found == found
    worst = {item["level"] for item in checked.members["findings"]}
    assert checked.status == int("error" in worst)
    for rule, line in found:
        assert f"recipe.yaml:{line} " in checked.text, rule


HUB = ["docker.io", "index.docker.io", "registry.hub.docker.com", "registry-1.docker.io"]
SPELLINGS = [
    *(f"{scheme}{host}/{name}" for host in HUB for scheme in ("", "https://")
      for name in ("library/debian:12", "debian:12")),
    "DOCKER.io/library/debian:12/",
]  # fmt: skip


@pytest.mark.parametrize("other", SPELLINGS)
def test_an_image_by_another_spelling_is_told_to_be_the_same(other):
    checked = Checked(write(wishes("docker.io/library/debian:12", f"'{other}'")), "--offline")
    is_same_path = other.lower().removeprefix("https://").startswith("docker.io")
    rule = "duplicate" if is_same_path else "other-spelling"
    assert checked.found == [(rule, 5)]
    assert checked.status == int(is_same_path)
    assert (
        Checked(write(wishes("docker.io/library/debian:13", f"'{other}'")), "--offline").found == []
    )


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("quay.io/a/b:1", "quay.io:443/a/b:1", ["other-spelling"]),
        ("http://r.x/a/b:1", "http://r.x:80/a/b:1", ["other-spelling"]),
        ("quay.io/a/b:1", "quay.io:80/a/b:1", []),
        ("quay.io/a/b:1", "quay.io:4430/a/b:1", []),
    ],
)
def test_the_usual_port_makes_no_other_image(one, other, found):
    checked = Checked(write(wishes(one, other)), "--offline")
    assert [rule for rule, _ in checked.found] == found


ODD = "".join(map(chr, [*range(0x20), 0x7F, 0x85, 0x200B, 0x202E, 0x2028, 0x2066, 0xFEFF]))


@pytest.mark.parametrize("char", ODD)
@pytest.mark.parametrize("form", ["text", "json", "sarif", "gitlab-codequality"])
def test_nothing_in_a_list_does_anything_to_a_terminal_or_a_log(char, form, capsys):
    entries = [f'"{text}"' for text in ("r.x/a{}b", "{}", "r.x/a{} b", "r.x/{}\\n::error::x")]
    text = wishes(*entries, more='"{}": 1\noutput_format: "$({})"\n')
    for written in (char, f"\\u{ord(char):04x}"):
        main(["check", write(text.replace("{}", written)), "--offline", "--format", form])
        report = "".join(capsys.readouterr())
        assert report
        lines = report.split("\n")
        assert not [line for line in lines if not line.isprintable() or line.startswith("::")]


def test_letters_that_a_terminal_does_not_know_are_no_failure():
    write(wishes("r.x/é:1"))
    command = [sys.executable, str(CHECKOUT / "scripts/duccmake"), "check", "recipe.yaml"]
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*command, "--offline"], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert r"r.x/\xe9:1" in done.stdout


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"\xef\xbb\xbf" + wishes("BAD").encode(), 4),
        (wishes("BAD").replace("\n", "\r\n").encode(), 4),
        (wishes("BAD").replace("\n", "\r").encode(), 4),
        (wishes("BAD").encode("utf-16"), 4),
        ((wishes("r.x/a") + "---\n" + wishes("BAD")).encode(), 5),
        (wishes("r.x/a ] ]").encode(), 4),
        (b"---\n" + wishes("BAD").encode() + b"...\n", 5),
    ],
)
def test_lines_are_counted_however_editors_write_them(raw, line):
    Path("recipe.yaml").write_bytes(raw)
    assert [at for _, at in Checked("recipe.yaml", "--offline").found] == [line]


def test_a_plain_list_is_read_as_such(monkeypatch, capsys):
    text = "# these\r\nlibrary/debian:12\n\ndebian:12\nindex.docker.io/library/debian:12\nBAD\n"
    checked = Checked(write(text, "images.txt"), "--offline")
    assert checked.found == [("duplicate", 4), ("other-spelling", 5), ("entry", 6)]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert Checked("-", "--plain", "--offline").found == checked.found
    again = Checked("images.txt", "--offline", "--against", "images.txt")
    assert again.status == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        (["r.x/a:1.2", "r.x/a:1.*"], [("overlap", 4)]),
        (["r.x/a:1.*", "r.x/a:1.2"], [("overlap", 5)]),
        (["r.x/a:2.2", "r.x/a:1.*"], []),
        (["r.x/b:1.2", "r.x/a:1.*"], []),
        (["r.x/a:1.2", "{image: r.x/a, tags: {include: '1.*'}}"], [("overlap", 4)]),
        (["r.x/a:1.2", "{image: r.x/a, tags: {include: '1.*', exclude: '1.2'}}"], []),
        # These are deliberate: one has to stay, or is wished for in another way.
        (["r.x/a:1.2", "{image: r.x/a, tags: {include: '1.*', keep_last: 1}}"], []),
        (["{image: r.x/a:1.2, platforms: linux/arm64}", "r.x/a:1.*"], []),
    ],
)
def test_what_a_glob_brings_need_not_be_named(entries, found):
    checked = Checked(write(wishes(*entries, version=2)), "--offline")
    assert checked.found == found
    assert checked.status == 0
    assert Checked("recipe.yaml", "--offline", "--strict").status == int(bool(found))


# --- what registries say --------------------------------------------------


def test_images_are_told_with_their_sizes_and_globs_with_their_tags(registry):
    app = f"http://{registry.host}/team/app"
    checked = Checked(write(wishes(f"{app}:1.*", f"{app}:2.0")))
    assert (checked.status, checked.found) == (0, [])
    assert checked.members["globs"] == [
        {"name": f"{registry.host}/team/app:1.*", "line": 4, "is_new": True, "tags": ["1.0", "1.1"]}
    ]
    images = {image["name"].rpartition(":")[2]: image for image in checked.members["images"]}
    assert {tag: image["line"] for tag, image in images.items()} == {"1.0": 4, "1.1": 4, "2.0": 5}
    assert all(image["layers"] == 1 and image["bytes"] > 0 for image in images.values())
    assert checked.members["to_fetch"] == sum(image["bytes"] for image in images.values())
    assert "2 tags: 1.0, 1.1" in checked.text
    assert checked.text.splitlines()[-1].startswith("recipe.yaml: 3 images: 0 problems")


def test_what_is_not_there_or_is_none_for_the_platform_stands_in_the_way(registry):
    add_image(registry.store, "team/arm", "1", platform=ARM)
    add_index(registry.store, "team/both", "1", [
        add_image(registry.store, "team/both").manifest,
        add_image(registry.store, "team/both", platform=ARM).manifest,
    ])  # fmt: skip
    add_image(
        registry.store, "team/chart", "1", config_type="application/vnd.cncf.helm.config.v1+json"
    )
    names = [
        "gone/app:1",
        "team/app:9",
        "team/arm:1",
        "team/both:1",
        "team/chart:1",
        "team/app:x*",
        "lost/app:*",
    ]
    checked = Checked(write(wishes(*(f"http://{registry.host}/{name}" for name in names))))
    assert checked.found == [
        ("missing", 4), ("missing", 5), ("platform", 6), ("unusable", 8), ("nothing-matches", 9),
        ("missing", 10),
    ]  # fmt: skip
    assert checked.status == 1
    assert "only for: linux/arm64" in checked.text
    more = "ignoreErrors: ['*/gone/*', '*/lost/*', '*/team/*']\n"
    ignored = Checked(
        write(wishes(*(f"http://{registry.host}/{name}" for name in names), more=more))
    )
    assert (ignored.status, ignored.found) == (0, checked.found)
    assert ignored.fingerprints == checked.fingerprints


@pytest.mark.parametrize("fault", [wrong_bytes, status(418), status(500), html, lying_digest])
def test_content_that_is_wrong_is_told_from_a_registry_that_does_not_tell(tmp_path, fault):
    with FaultyRegistry(tmp_path / "faulty") as registry:
        for tag in "12":
            add_image(registry.store, "team/app", tag)
        registry.break_next(r"(GET|HEAD) /v2/team/app/manifests/1", fault, times=100)
        write(wishes(*(f"http://{registry.host}/team/app:{tag}" for tag in "12")))
        checked = Checked("recipe.yaml")
        rule = "unusable" if fault in (wrong_bytes, lying_digest) else "unanswered"
        assert (checked.status, checked.found) == (1, [(rule, 4)])


def test_credentials_that_are_missing_here_are_no_fault_of_the_image(registry):
    settings = {"scheme": "http", "username_env": "NOT_SET", "password_env": "NOT_SET"}
    values = json.dumps({registry.host: settings})
    write(wishes(f"{registry.host}/team/app:1.0"))
    checked = Checked("recipe.yaml", "--config", f"registries={values}")
    assert checked.found == [("unanswered", 4)]
    assert "'NOT_SET'" in checked.text


def test_a_check_leaves_nothing_behind(registry):
    write(wishes(f"http://{registry.host}/team/app:*"))
    before = sorted(Path().rglob("*"))
    main(["check", "recipe.yaml"])
    assert sorted(Path().rglob("*")) == before


def test_each_platform_that_is_wished_for_is_looked_at(registry):
    app = f"http://{registry.host}/team/app:1.0"
    entry = f"{{image: '{app}', platforms: [linux/amd64, linux/arm64]}}"
    checked = Checked(write(wishes(entry, version=2)))
    assert checked.found == [("platform", 4)]
    assert [image["platform"] for image in checked.members["images"]] == ["linux/amd64"]
    assert "app:1.0 (linux/arm64): there is no image for linux/arm64" in checked.text
    gone = Checked(write(wishes(entry.replace(":1.0", ":9"), version=2)))
    assert gone.found == [("missing", 4)]
    assert Checked(write(wishes(app)), "--config", "platforms=[linux/arm64]").status == 1


def test_a_registry_that_does_not_answer_is_told_once_and_nothing_is_good(registry):
    names = [f"http://{registry.host}/team/app:{tag}" for tag in ("1.0", "1.1", "2.*")]
    registry.close()
    checked = Checked(write(wishes(*names)))
    assert checked.status == 1
    assert checked.found == [("unanswered", line) for line in (4, 5, 6)]
    assert checked.text.count("cannot be reached") == len(checked.members["silent"]) == 1


def test_two_globs_that_match_the_same_tags_are_told(registry):
    app = f"http://{registry.host}/team/app"
    checked = Checked(write(wishes(f"{app}:1.*", f"{app}:*.0", f"{app}:3*")))
    assert checked.found == [("overlap", 5), ("nothing-matches", 6)]
    assert "matches 1.0 as" in checked.text
    assert checked.status == 0
    old = write(wishes(f"{app}:*.0", f"{app}:1.*"), "old.yaml")
    again = Checked("recipe.yaml", "--against", old)
    assert [item["known"] for item in again.members["findings"]] == [True, False]


def test_a_list_of_tags_without_an_end_is_told_and_what_came_of_it_counts(tmp_path, monkeypatch):
    with FaultyRegistry(tmp_path / "faulty") as registry:
        add_image(registry.store, "team/app", "v0007")
        ways = TagLists(size=1000, link="", last=False)
        many = tuple(f"v{number:04}" for number in range(1201))

        def half(handler: FaultyHandler, answer: Answer) -> None:
            handler.send(ways.page("team/app", many, {"n": "1000"}, registry.host))

        registry.break_next("tags/list", half, times=100)
        checked = Checked(write(wishes(f"http://{registry.host}/team/app:*7")))
    levels = {item["level"] for item in checked.members["findings"] if item["rule"] == "unanswered"}
    assert levels == {"warning"}
    assert checked.members["globs"][0]["tags"][:2] == ["v0007", "v0017"]
    assert [image["name"][-5:] for image in checked.members["images"]] == ["v0007"]


def test_who_has_no_pulls_left_still_hears_what_is_there(tmp_path):
    with FaultyRegistry(tmp_path / "faulty") as registry:
        for tag in "1234":
            add_image(registry.store, "team/app", tag)
        registry.break_next(r"GET /v2/team/app/manifests/.*", PullLimit(2), times=100)
        names = [f"http://{registry.host}/team/app:{tag}" for tag in "12349"]
        checked = Checked(write(wishes(*names)), "--config", "resolve={connections: 1}")
    assert checked.found == [("unanswered", 8)]
    assert [image["bytes"] is None for image in checked.members["images"]].count(True) == 2
    assert "its size was not asked for" in checked.text


@pytest.mark.parametrize("says", [401, 403, 404])
@pytest.mark.parametrize(("private", "status"), [("allow", 0), ("refuse", 1)])
def test_what_only_some_can_read_is_told_though_it_can_be_read_here(
    tmp_path, monkeypatch, says, private, status
):
    with PrivateRegistry(tmp_path / "private", says=says) as registry:
        for name in ("private/app", "open/app"):
            add_image(registry.store, name, "1")
        write(wishes(f"{registry.host}/private/app:1", f"{registry.host}/open/app:1"))
        Path("config").mkdir()
        members = {"registries": {registry.host: registry.settings()}, "private": private}
        Path("config/config.yaml").write_text(json.dumps(members))
        for name, value in CREDENTIALS.items():
            monkeypatch.setenv(name, value)
        checked = Checked("recipe.yaml")
        assert (checked.status, checked.found) == (status, [("private", 4)])
        assert "nobody without credentials" in checked.text
        assert ("'private: allow'" in checked.text) == (private == "refuse")
        for name in CREDENTIALS:
            monkeypatch.delenv(name)
        Path("config/config.yaml").write_text(
            json.dumps({"registries": {registry.host: {"scheme": "http"}}})
        )
        assert Checked("recipe.yaml").found == [("private", 4)]


# --- beside an older version ----------------------------------------------


def test_only_what_a_change_brings_stands_in_its_way(registry):
    app = f"http://{registry.host}/team/app"
    old = write(wishes(f"{app}:1.0", f"{app}:1.0", f"{app}:9", "BAD"), "old.yaml")
    new = write("# moved\n" + wishes(f"{app}:9", f"{app}:1.0", "BAD", f"{app}:1.0"))
    checked = Checked(new, "--against", old)
    assert {rule for rule, _ in checked.found} == {"duplicate", "missing", "entry"}
    assert all(item["known"] for item in checked.members["findings"])
    assert checked.status == 0
    assert Checked(new).status == 1
    write(wishes(f"{app}:1.0", f"{app}:1.0", f"{app}:9", "BAD", f"{app}:1.0", f"{app}:8"))
    worse = Checked(new, "--against", old)
    assert worse.status == 1
    assert [item["known"] for item in worse.members["findings"]] == [True, True, True, False, False]
    assert worse.text.startswith("problem  recipe.yaml:8  ")


def test_what_has_not_changed_costs_no_pull(registry):
    app = f"http://{registry.host}/team/app"
    old = write(wishes(f"{app}:1.*"), "old.yaml")
    new = write(wishes(f"{app}:1.*", f"{app}:2.0"))
    registry.requests.clear()
    checked = Checked(new, "--against", old)
    pulls = [
        line for line in registry.requested() if line.startswith("GET") and "/manifests/" in line
    ]
    assert pulls == ["GET /v2/team/app/manifests/2.0"]
    assert [image["is_new"] for image in checked.members["images"]] == [False, False, True]
    assert "3 images, 1 of them new" in checked.text
    assert "matches" not in checked.text


def test_what_leaves_is_told(registry):
    app = f"http://{registry.host}/team/app"
    named = f"{registry.host}/team/app"
    old = write(
        wishes(
            f"{app}:1.*",
            f"{app}:2.0",
            "{image: '" + app + ":1.0', platforms: [linux/amd64, linux/arm64]}",
            version=2,
        ),
        "old.yaml",
    )
    new = write(wishes(f"{app}:1.0"))
    checked = Checked(new, "--against", old)
    gone = [f"{named}:1.0 (linux/arm64)", f"{named}:1.1", f"{named}:2.0"]
    assert sorted(checked.members["leaving"]) == gone
    assert sorted(re.findall("^leaves +(.*)$", checked.text, re.MULTILINE)) == gone
    assert checked.status == 0
    # Without a registry nobody knows what the glob brought.
    gone[1] = f"{named}:1.*"
    assert sorted(Checked(new, "--against", old, "--offline").members["leaving"]) == sorted(gone)


def test_which_repository_a_plain_list_is_for_is_known_from_the_configuration():
    write("library/debian:12\n", "images.txt")
    assert Checked("images.txt", "--offline").members["repository"] == ""
    source = "recipe=[{source: images.txt, cvmfs_repo: b.example.org}]"
    known = Checked("images.txt", "--offline", "--config", source)
    assert known.members["repository"] == "b.example.org"
    named = Checked("images.txt", "--offline", "--config", source, "--repository", "c.example.org")
    assert named.members["repository"] == "c.example.org"
    other = Checked(write(wishes()), "--offline", "--config", source)
    assert other.members["repository"] == "a.example.org"


def test_a_glob_that_cannot_be_told_makes_nothing_leave(registry):
    app = f"http://{registry.host}/team/app"
    old = write(wishes(f"{app}:1.0"), "old.yaml")
    new = write(wishes(f"{app}:1.*"))
    registry.close()
    assert Checked(new, "--against", old).members["leaving"] == []


def test_another_repository_and_a_new_list_are_told(registry, capsys):
    app = f"http://{registry.host}/team/app:1.0"
    new = write(wishes(app))
    old = write(wishes(app).replace("a.example.org", "b.example.org"), "old.yaml")
    assert Checked(new, "--against", old).found == [("other-repository", 1)]
    for nothing in ("", "- no list\n"):
        fresh = Checked(new, "--against", write(nothing, "old.yaml"))
        assert fresh.found == []
        assert "1 image, 1 of them new" in fresh.text
        assert ("all counts as new" in capsys.readouterr().err) == bool(nothing)


# --- reports --------------------------------------------------------------

ENTRIES = [
    "r.x/a:1",
    "r.x/a:1",
    "r.x/a:1",
    "BAD",
    "BAD",
    "r.x/a:*",
    "r.x:443/a:1",
    "'http://u:p@r.x/a:1'",
    "[x]",
    "{y: 1}",
]


@settings(deadline=None, max_examples=30)
@given(st.permutations(ENTRIES), st.lists(st.integers(0, len(ENTRIES)), max_size=5))
def test_a_finding_keeps_its_fingerprint_wherever_it_stands(entries, blank):
    entries = list(entries)
    for at in blank:
        entries.insert(at, "# a comment")
    text = HEAD + "".join(
        f"{'' if entry.startswith('#') else '  - '}{entry}\n" for entry in entries
    )
    checked = Checked(write(text), "--offline")
    assert len(checked.fingerprints) == len(checked.found), "GitLab shows one of each fingerprint"
    first = Checked(write(wishes(*ENTRIES)), "--offline")

    # What comes second of two spellings depends on their order, and nothing else does.
    def named(found):
        return {
            item["fingerprint"]
            for item in found.members["findings"]
            if item["rule"] != "other-spelling"
        }

    assert named(checked) == named(first)


def test_the_reports_are_what_their_readers_take(registry, capsys):
    app = f"http://{registry.host}/team/app"
    entries = [*ENTRIES, f"{app}:9", f"{app}:1.*", f"{app}:*.0", f"{app}:x*"]
    Path("a list").mkdir()
    wished = write(wishes(*entries, more="what: 1\n"), "a list/ä.yaml")
    for against in ([], ["--against", "/dev/null"]):
        capsys.readouterr()
        assert main(["check", wished, "--format", "sarif", *against]) == 1
        sarif = json.loads(capsys.readouterr().out)
        Draft4Validator(SARIF, format_checker=Draft4Validator.FORMAT_CHECKER).validate(sarif)
        [run] = sarif["runs"]
        rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
        assert run["results"]
        for result in run["results"]:
            assert rules[result["ruleIndex"]] == result["ruleId"]
            [location] = result["locations"]
            assert location["physicalLocation"]["artifactLocation"]["uri"] == "a%20list/%C3%A4.yaml"
            assert result["message"]["text"]
            assert ("baselineState" in result) == bool(against)
    assert main(["check", wished, "--format", "gitlab-codequality"]) == 1
    issues = json.loads(capsys.readouterr().out)
    assert len({issue["fingerprint"] for issue in issues}) == len(issues) == len(run["results"])
    for issue in issues:
        assert set(issue) == {"description", "check_name", "fingerprint", "severity", "location"}
        assert issue["severity"] in ("info", "minor", "major", "critical", "blocker")
        assert issue["description"] and "\n" not in issue["description"]
        assert issue["location"]["path"] == "a list/ä.yaml"
        assert issue["location"]["lines"]["begin"] >= 1
    assert main(["check", write(wishes()), "--format", "gitlab-codequality"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_no_part_of_a_list_is_taken_for_all_of_it(monkeypatch, capsys):
    text = wishes("r.x/a:1").encode() + b"#" * 8 * 1024**2
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["check", "-", "--offline"]) == 2
    assert "larger than 8 MiB" in capsys.readouterr().err


def test_the_documentation_has_all_rules_and_no_others():
    text = (CHECKOUT / "docs/checking-wish-lists.md").read_text()
    rows = [row.split("|")[1:3] for row in text.splitlines() if row.startswith("| `")]
    told = {name: level.strip() for names, level in rows for name in re.findall("`(.+?)`", names)}
    assert told == {rule.id: rule.level for rule in Rule}


@pytest.mark.parametrize("form", ["text", "json", "sarif", "gitlab-codequality"])
def test_credentials_are_in_no_report(tmp_path, monkeypatch, capsys, form):
    with PrivateRegistry(tmp_path / "private") as registry:
        entry = f"'http://{USER}:{PASSWORD}@{registry.host}/private/app:1'"
        monkeypatch.setenv("R_USER", USER)
        monkeypatch.setenv("R_PASSWORD", PASSWORD + "-of-before")
        Path("config").mkdir()
        members = {"registries": {registry.host: registry.settings()}}
        Path("config/config.yaml").write_text(json.dumps(members))
        write(wishes(entry, f"{registry.host}/private/app:1", f"{registry.host}/private/app:*"))
        assert main(["check", "recipe.yaml", "--format", form]) == 1
    said = "".join(capsys.readouterr())
    assert "private" in said
    assert PASSWORD not in said and USER not in said


def test_a_report_is_written_where_it_is_asked_for_and_the_text_is_shown(capsys):
    write(wishes("r.x/a", "r.x/a"))
    assert main(["check", "recipe.yaml", "--offline", "--format", "sarif", "-o", "x.sarif"]) == 1
    assert json.loads(Path("x.sarif").read_text())["version"] == "2.1.0"
    assert capsys.readouterr().out.startswith("problem  recipe.yaml:5  ")


# --- where lists come from, and what is no check --------------------------


def test_a_list_comes_from_wherever_it_is(tmp_path, monkeypatch, capsys):
    text = recipe("r.x/a", "r.x/a")
    project = GitProject(tmp_path / "project")
    project.commit("lists/ours.yaml", text)
    with serving() as server:
        server.page("/raw/main/ours.yaml", text)
        server.page("/", text)
        places = {
            f"{server.url}/raw/main/ours.yaml?inline=false": "ours.yaml",
            f"{server.url}/": "localhost",
            f"git+file://{project.path}//lists/ours.yaml@main": "lists/ours.yaml",
            "-": "stdin",
            f"{tmp_path}/project/lists/ours.yaml": "project/lists/ours.yaml",
            "./project/../project/lists/ours.yaml": "project/lists/ours.yaml",
        }
        for place, path in places.items():
            monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
            checked = Checked(place, "--offline")
            assert [item["path"] for item in checked.members["findings"]] == [path]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    checked = Checked("-", "--offline", "--name", "lists/ours.yaml")
    assert (
        checked.fingerprints
        == Checked(f"git+file://{project.path}//lists/ours.yaml", "--offline").fingerprints
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["nothing.yaml"],
        ["recipe.yaml", "--against", "nothing.yaml"],
        ["-", "--against", "-"],
        ["https://user:hunter2@r.example.org/recipe.yaml"],
        ["recipe.yaml", "--config", "products=[paper]"],
        ["recipe.yaml", "--configfile", "nothing.yaml"],
        ["recipe.yaml", "--offline", "-o", "nowhere/report"],
    ],
)
def test_what_cannot_be_checked_is_told_from_what_is_wrong(arguments, capsys):
    write(wishes())
    assert main(["check", *arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1 and said.err.startswith("duccmake: ")
    assert "hunter2" not in said.err


@pytest.mark.parametrize("arguments", [[], ["recipe.yaml", "--fomat", "json"], ["a", "b"]])
def test_a_command_line_that_is_wrong_ends_with_2(arguments):
    with pytest.raises(SystemExit) as ended:
        main(["check", *arguments])
    assert ended.value.code == 2
