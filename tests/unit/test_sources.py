"""Wish lists from elsewhere: what is in force when all is well, and when it is not."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duccmake.errors import ConfigError, RecipeError
from duccmake.recipe.document import MAX_BYTES
from duccmake.recipe.sources import git
from duccmake.recipe.sources.listing import parse_list
from duccmake.recipe.sources.load import Loaded, load_sources
from duccmake.recipe.sources.location import Source
from support.wishes import GitProject, Server, recipe, serving

APP = "https://registry.example.org/team/app:1"
OTHER = "https://registry.example.org/team/other:2"


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")


@pytest.fixture
def project(tmp_path: Path) -> GitProject:
    (tmp_path / "projects").mkdir()
    return GitProject(tmp_path / "projects" / "wishes.git")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with serving() as server:
        server.projects = tmp_path / "projects"
        yield server


class Store:
    """Sources with what is kept of them."""

    def __init__(self, path: Path, *values: Any) -> None:
        self.path = path
        self.sources = [Source.parse(value, path) for value in values]

    def load(self, **options: Any) -> Loaded:
        return load_sources(self.sources, self.path / "sources", **options)


def images(loaded: Loaded) -> list[str]:
    return [str(wish.reference) for recipe in loaded.recipes for wish in recipe.wishes]


# --- git ------------------------------------------------------------------


def test_a_list_in_git_is_read_from_the_tip_of_its_branch(project: GitProject, tmp_path: Path):
    first = project.commit("lists/recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//lists/recipe.yaml@main")
    loaded = store.load()
    assert images(loaded) == [APP]
    assert first[:12] in loaded.status[0]
    [wish] = loaded.recipes[0].wishes
    assert loaded.origins[wish.path] == {"recipe": store.sources[0].text, "commit": first}

    second = project.commit("lists/recipe.yaml", recipe(APP, OTHER))
    loaded = store.load()
    assert images(loaded) == [APP, OTHER]
    assert second[:12] in loaded.status[0]
    assert not loaded.warnings and not loaded.problems
    assert not loaded.recipes[0].stale


def test_without_branch_the_default_one_is_meant(project: GitProject, tmp_path: Path):
    project.commit("recipe.yaml", recipe(APP))
    assert images(Store(tmp_path, f"git+file://{project.path}//recipe.yaml").load()) == [APP]


def test_the_clone_is_shallow(project: GitProject, tmp_path: Path):
    for number in range(5):
        project.commit("recipe.yaml", recipe(f"{APP}{number}"))
    Store(tmp_path, f"git+file://{project.path}//recipe.yaml").load()
    [clone] = tmp_path.glob("sources/*/git")
    command = ["git", "-C", str(clone), "rev-list", "--count", "--all"]
    assert subprocess.check_output(command, text=True).strip() == "1"


def test_a_rewritten_branch_is_followed(project: GitProject, tmp_path: Path):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    store.load()
    project.git("checkout", "--quiet", "--orphan", "new")
    tip = project.commit("recipe.yaml", recipe(OTHER))
    project.git("branch", "--force", "main", "new")
    loaded = store.load()
    assert images(loaded) == [OTHER] and tip[:12] in loaded.status[0]


def test_a_repository_that_is_away_leaves_the_last_version_in_force(
    project: GitProject, tmp_path: Path
):
    commit = project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    store.load()
    project.path.rename(tmp_path / "away")
    loaded = store.load()
    assert images(loaded) == [APP]
    [warning] = loaded.warnings
    assert f"commit {commit[:12]} stays in force" in warning and "\n" not in warning
    assert not loaded.problems
    assert loaded.recipes[0].stale


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("version: 1\ncvmfs_repo: [broken\n", "not YAML"),
        ("", "is empty"),
        (recipe(APP).replace("cvmfs_repo", "cvmfs_rep"), "cvmfs_repo"),
    ],
)
def test_an_invalid_commit_is_named_and_the_last_good_one_stays_in_force(
    project: GitProject, tmp_path: Path, content: str, said: str
):
    good = project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    store.load()
    bad = project.commit("recipe.yaml", content)
    for _ in range(2):
        loaded = store.load()
        assert images(loaded) == [APP]
        [(source, problem)] = loaded.problems
        assert source == store.sources[0].text
        assert f"commit {bad[:12]}" in problem and said in problem
        assert f"commit {good[:12]} stays in force" in problem
        assert loaded.recipes[0].stale
    mended = project.commit("recipe.yaml", recipe(OTHER))
    loaded = store.load()
    assert images(loaded) == [OTHER]
    assert not loaded.problems and not loaded.recipes[0].stale
    assert mended[:12] in loaded.status[0]


@pytest.mark.parametrize("gone", ["file", "branch"])
def test_a_list_that_vanished_from_its_repository_stays_in_force(
    project: GitProject, tmp_path: Path, gone: str
):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    store.load()
    if gone == "file":
        project.git("mv", "recipe.yaml", "moved.yaml")
        project.git("commit", "--quiet", "--message", "moved")
    else:
        project.git("branch", "--move", "main", "trunk")
    loaded = store.load()
    assert images(loaded) == [APP]
    assert loaded.warnings and loaded.recipes[0].stale


def test_a_list_that_was_never_read_is_a_problem_and_others_go_on_without_removals(
    project: GitProject, tmp_path: Path
):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(
        tmp_path,
        f"git+file://{project.path}//recipe.yaml@main",
        f"git+file://{tmp_path}/nowhere.git//recipe.yaml@main",
    )
    loaded = store.load()
    assert images(loaded) == [APP]
    [(source, problem)] = loaded.problems
    assert "nowhere" in source and "no version of it is in force" in problem
    assert all(recipe.stale for recipe in loaded.recipes)


def test_without_fetching_the_version_in_force_is_read(project: GitProject, tmp_path: Path):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    assert images(store.load(fetch=False)) == []
    store.load()
    project.commit("recipe.yaml", recipe(OTHER))
    assert images(store.load(fetch=False)) == [APP]
    assert images(store.load()) == [OTHER]


@pytest.mark.parametrize("damage", [b"", b"{", b'{"content": 5}', b"\xff\xfe"])
def test_what_is_kept_may_be_damaged(project: GitProject, tmp_path: Path, damage: bytes):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    store.load()
    [kept] = tmp_path.glob("sources/*/good.json")
    kept.write_bytes(damage)
    assert images(store.load()) == [APP]


def test_hooks_and_configuration_of_the_remote_repository_do_not_act(
    project: GitProject, tmp_path: Path
):
    project.commit("recipe.yaml", recipe(APP))
    project.commit(".gitattributes", "* filter=evil\n")
    project.git("config", "filter.evil.smudge", f"touch {tmp_path}/hacked")
    assert images(Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main").load()) == [APP]
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("lock", ["shallow.lock", "refs/duccmake/new.lock"])
def test_locks_that_a_killed_git_left_keep_no_later_version_back(
    project: GitProject, tmp_path: Path, lock: str
):
    project.commit("recipe.yaml", recipe(APP))
    store = Store(tmp_path, f"git+file://{project.path}//recipe.yaml@main")
    assert images(store.load()) == [APP]
    [clone] = (tmp_path / "sources").glob("*/git")
    (clone / lock).touch()
    project.commit("recipe.yaml", recipe(OTHER))
    loaded = store.load()
    assert (images(loaded), loaded.warnings) == ([OTHER], ())


def test_a_huge_file_is_refused_unread(project: GitProject, tmp_path: Path):
    project.commit("recipe.yaml", "#" * (MAX_BYTES + 1))
    [(_, problem)] = Store(tmp_path, f"git+file://{project.path}//recipe.yaml").load().problems
    assert "larger than 8 MiB" in problem


def test_git_gets_credentials_unseen(
    project: GitProject, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project.commit("recipe.yaml", recipe(APP))
    server.authorization = f"Basic {base64.b64encode(b'reader:s3cret').decode()}"
    monkeypatch.setenv("WISHES_USER", "reader")
    monkeypatch.setenv("WISHES_TOKEN", "s3cret")
    commands: list[list[str]] = []
    run = subprocess.run

    def recorded(command: list[str], **options: Any) -> Any:
        commands.append(command)
        return run(command, **options)

    monkeypatch.setattr(git.subprocess, "run", recorded)
    place = f"git+{server.url}/wishes.git//recipe.yaml@main"
    who = {"username_env": "WISHES_USER", "password_env": "WISHES_TOKEN"}
    assert images(Store(tmp_path, {"source": place, **who}).load()) == [APP]
    assert commands and not any("s3cret" in word for command in commands for word in command)
    kept = [path for path in (tmp_path / "sources").rglob("*") if path.is_file()]
    assert kept and not any(b"s3cret" in path.read_bytes() for path in kept)

    monkeypatch.setenv("WISHES_TOKEN", "wr0ng")
    loaded = Store(tmp_path, {"source": place, **who}).load()
    [warning] = loaded.warnings
    assert "wr0ng" not in warning and "stays in force" in warning
    monkeypatch.delenv("WISHES_TOKEN")
    [warning] = Store(tmp_path, {"source": place, **who}).load().warnings
    assert "WISHES_TOKEN is not set" in warning


def test_gits_credentials_do_not_follow_a_redirect_to_another_host(
    project: GitProject, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    project.commit("recipe.yaml", recipe(APP))
    monkeypatch.setenv("WISHES_USER", "reader")
    monkeypatch.setenv("WISHES_TOKEN", "s3cret")
    who = {"username_env": "WISHES_USER", "password_env": "WISHES_TOKEN"}
    with serving() as front:
        path = "/wishes.git/info/refs"
        away = f"http://127.0.0.1:{server.server_port}{path}?service=git-upload-pack"
        front.page(path, "", 302, Location=away)
        place = f"git+{front.url}/wishes.git//recipe.yaml@main"
        loaded = Store(tmp_path, {"source": place, **who}).load()
    assert {given for _, _, given in server.asked} == {""}
    assert images(loaded) == [APP]


@pytest.mark.parametrize(
    ("place", "allowed"),
    [("https://git.example.org/a.git", "https"), ("http://git.example.org/a.git", "http:https")],
)
def test_git_follows_no_redirect_from_https_to_http(tmp_path: Path, place: str, allowed: str):
    source = Source.parse(f"git+{place}//recipe.yaml", tmp_path)
    assert git._environment(source)["GIT_ALLOW_PROTOCOL"] == allowed


def test_git_asks_nobody_at_a_terminal(project: GitProject, server: Server, tmp_path: Path):
    server.authorization = "Basic never"
    place = f"git+{server.url}/wishes.git//recipe.yaml@main"
    [(_, problem)] = Store(tmp_path, place).load().problems
    assert "could not read Username" in problem


# --- the web --------------------------------------------------------------


def test_a_list_on_the_web_is_asked_for_again_only_if_it_changed(server: Server, tmp_path: Path):
    server.page("/recipe.yaml", recipe(APP), ETag='"one"')
    store = Store(tmp_path, f"{server.url}/recipe.yaml")
    assert images(store.load()) == [APP]
    assert images(store.load()) == [APP]
    server.page("/recipe.yaml", recipe(OTHER), ETag='"two"')
    loaded = store.load()
    assert images(loaded) == [OTHER]
    assert not loaded.warnings and not loaded.problems


@pytest.mark.parametrize(
    ("page", "told"),
    [
        (("<html><body>Sign in</body></html>", 200), "problems"),
        (("down for maintenance", 503), "warnings"),
        (("", 404), "warnings"),
        (("x" * (MAX_BYTES + 1), 200), "warnings"),
    ],
)
def test_what_is_no_list_leaves_the_last_one_in_force(
    server: Server, tmp_path: Path, page: tuple[str, int], told: str
):
    server.page("/recipe.yaml", recipe(APP))
    server.page("/list.txt", "team/app:1\n")
    store = Store(
        tmp_path,
        f"{server.url}/recipe.yaml",
        {"source": f"{server.url}/list.txt", "cvmfs_repo": "lists.example.org"},
    )
    store.load()
    server.page("/recipe.yaml", *page)
    server.page("/list.txt", *page)
    loaded = store.load()
    assert images(loaded) == [APP, "https://docker.io/team/app:1"]
    assert len(getattr(loaded, told)) == 2
    assert all(recipe.stale for recipe in loaded.recipes)


def test_a_server_that_is_down_is_a_warning_of_one_line(tmp_path: Path):
    with serving() as server:
        server.page("/recipe.yaml", recipe(APP))
        store = Store(tmp_path, f"{server.url}/recipe.yaml")
        store.load()
    loaded = store.load()
    assert images(loaded) == [APP]
    [warning] = loaded.warnings
    assert "stays in force" in warning and "\n" not in warning and len(warning) < 400


def test_credentials_from_netrc_reach_their_host_alone(server: Server, tmp_path: Path):
    server.page("/recipe.yaml", recipe(APP))
    server.authorization = f"Basic {base64.b64encode(b'reader:s3cret').decode()}"
    (tmp_path / ".netrc").write_text("machine localhost login reader password s3cret\n")
    (tmp_path / ".netrc").chmod(0o600)
    with serving() as other:
        other.page("/recipe.yaml", recipe(OTHER))
        elsewhere = other.url.replace("localhost", "127.0.0.1")
        server.page("/moved.yaml", "", 302, Location=f"{elsewhere}/recipe.yaml")
        store = Store(tmp_path, f"{server.url}/recipe.yaml", f"{server.url}/moved.yaml")
        assert sorted(images(store.load())) == [APP, OTHER]
        assert [given for _, _, given in other.asked] == [""]


def test_a_plain_list_joins_a_recipe_for_the_same_repository(tmp_path: Path):
    (tmp_path / "list.txt").write_text("team/app:1\n")
    (tmp_path / "a.yaml").write_text(recipe(APP, user="pusher"))
    listed = {"source": "list.txt", "cvmfs_repo": "unpacked.example.org"}
    for order in ([listed, "a.yaml"], ["a.yaml", listed]):
        [found] = Store(tmp_path, *order).load().recipes
        assert found.user == "pusher"
        assert {str(wish.reference) for wish in found.wishes} == {
            APP,
            "https://docker.io/team/app:1",
        }


def test_a_pinned_repository_counts_and_not_what_the_list_says(server: Server, tmp_path: Path):
    server.page("/recipe.yaml", recipe(APP, repository="victim.example.org"))
    source = {"source": f"{server.url}/recipe.yaml", "cvmfs_repo": "mine.example.org"}
    [found] = Store(tmp_path, source).load().recipes
    assert found.repository == "mine.example.org"


# --- files and places -----------------------------------------------------


def test_files_stay_what_they_were_and_a_broken_one_stops_everything(tmp_path: Path):
    (tmp_path / "a.yaml").write_text(recipe(APP))
    (tmp_path / "b.yaml").write_text(recipe(OTHER))
    store = Store(tmp_path, "a.yaml", "b.yaml", str(tmp_path / "a.yaml"))
    loaded = store.load()
    assert images(loaded) == [APP, OTHER]
    assert not loaded.status
    assert loaded.origins[tmp_path / "a.yaml"] == {"recipe": "a.yaml"}
    (tmp_path / "b.yaml").write_text("nonsense")
    with pytest.raises(RecipeError, match=r"b\.yaml"):
        store.load()


@pytest.mark.parametrize(
    "place",
    [
        "git+https://git.example.org/group/project.git//lists/recipe.yaml@release/1.x",
        "git+ssh://git@git.example.org:2222/group/project.git//recipe.yaml@main",
        "git+https://git.example.org/group/project//recipe.yaml",
    ],
)
def test_places_in_git_are_taken_apart(place: str):
    found = Source.parse(place, Path("/work"))
    assert f"git+{found.url}//{found.path}{'@' * bool(found.branch)}{found.branch}" == place


@pytest.mark.parametrize(
    "place",
    [
        "git+https://git.example.org/project.git",
        "git+https://user:s3cret@git.example.org/project.git//recipe.yaml",
        "git+https://s3cret@git.example.org/project.git//recipe.yaml",
        "git+ssh://git:s3cret@git.example.org/project.git//recipe.yaml",
        "https://user:s3cret@lists.example.org/recipe.yaml",
        "git+https://git.example.org/project.git//../../etc/passwd@main",
        "git+https://git.example.org/project.git//recipe.yaml@--upload-pack=touch",
        "git+https://git.example.org/project.git//recipe.yaml@a..b",
        "git+ssh://-oProxyCommand=touch/project.git//recipe.yaml@main",
        "git+ext://sh -c touch//recipe.yaml@main",
        "git+file://relative/project.git//recipe.yaml@main",
        "ftp://lists.example.org/recipe.yaml",
        "https:///recipe.yaml",
        {"source": "list.txt"},
        {"source": "anything", "format": "list"},
    ],
)
def test_what_is_no_place_is_refused_without_a_secret_in_the_message(place: Any):
    with pytest.raises(ConfigError) as refused:
        Source.parse(place, Path("/work"))
    assert "s3cret" not in str(refused.value)


def test_a_plain_list_is_read_as_its_operators_write_it():
    text = """# Distributions
debian:12
ubuntu      # latest
continuumio/anaconda\r
gromacs/gromacs:*
hub.opensciencegrid.org/htc/rocky:9-cuda-12.6.0
pycbc/pycbc-el8:v2.3.*

Not An Image
"""
    found = parse_list(Path("list.txt"), text.encode(), "images.example.org")
    assert [wish.reference.name for wish in found.wishes] == [
        "docker.io/library/debian:12",
        "docker.io/library/ubuntu:latest",
        "docker.io/continuumio/anaconda:latest",
        "docker.io/gromacs/gromacs:*",
        "hub.opensciencegrid.org/htc/rocky:9-cuda-12.6.0",
        "docker.io/pycbc/pycbc-el8:v2.3.*",
    ]
    assert [wish.line for wish in found.wishes] == [2, 3, 4, 5, 6, 7]
    [bad] = found.bad_entries
    assert bad.line == 9 and "Not An Image" in bad.reason
    assert found.repository == "images.example.org"


@pytest.mark.parametrize(
    "content", [b"", b"# nothing\n", b"\xff\xfe", b"<html>\n<body>\nno\n</body>\n</html>\n"]
)
def test_what_is_no_list_of_images_is_refused_as_a_whole(content: bytes):
    with pytest.raises(RecipeError, match=r"list\.txt"):
        parse_list(Path("list.txt"), content, "images.example.org")
