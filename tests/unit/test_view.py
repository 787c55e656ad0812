"""What a view of a directory shows, and that nothing outside of it is ever read."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import pytest

from duccmake.fs import beneath
from duccmake.repository.view import DirectoryView, Kind

HERE = PurePosixPath()
SECRET = b"of somebody else"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with one entry of each kind, and something outside of it."""
    root = tmp_path / "repository"
    (root / "a/b").mkdir(parents=True)
    (root / "a/f").write_bytes(b"one\ntwo\r\x0bthree\n\nlast")
    (root / "a/l").symlink_to("f")
    os.mkfifo(root / "a/p")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/f").write_bytes(SECRET)
    (tmp_path / "outside/l").symlink_to("f")
    return root


@pytest.fixture(params=["openat2", "walk"], autouse=True)
def _kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "walk":
        # No kernel has this one: ENOSYS.
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)


@pytest.fixture
def view(root: Path) -> DirectoryView:
    return DirectoryView(root)


def at(path: str) -> PurePosixPath:
    return PurePosixPath(path)


def test_each_kind_is_told_and_nothing_is_none(view: DirectoryView) -> None:
    kinds = {"b": Kind.DIRECTORY, "f": Kind.FILE, "l": Kind.LINK, "p": Kind.OTHER}
    assert view.entries(at("a")) == kinds
    assert {name: view.kind(at("a") / name) for name in kinds} == kinds
    assert view.kind(HERE) is Kind.DIRECTORY
    assert view.kind(at("a/x")) is view.kind(at("a/f/x")) is view.kind(at("x/y")) is None
    assert view.entries(at("a/f")) == view.entries(at("a/x")) == {}


def test_a_file_is_read_whole_in_pieces_and_by_lines(view: DirectoryView, root: Path) -> None:
    content = (root / "a/f").read_bytes()
    assert view.read(at("a/f")) == b"".join(view.pieces(at("a/f"))) == content
    # Lines end with a newline and with nothing else that text knows of.
    assert list(view.lines(at("a/f"))) == (root / "a/f").open("rb").readlines()


@pytest.mark.parametrize("size", [0, 1, 256 * 1024, 600 * 1024 + 1])
def test_lines_are_whole_across_pieces(view: DirectoryView, root: Path, size: int) -> None:
    content = b"line of a file\n" * (size // 15) + b"x" * (size % 15)
    (root / "large").write_bytes(content)
    assert list(view.lines(at("large"))) == content.splitlines(keepends=True)


def test_what_is_not_there_is_not_read_and_has_no_content(view: DirectoryView) -> None:
    for path in ("x", "a/x", "a/f/x", "a/l/x"):
        with pytest.raises(FileNotFoundError, match=path):
            view.read(at(path))
        with pytest.raises(FileNotFoundError):
            view.mtime_ns(at(path))
        assert view.content(at(path)) == b""
        assert view.target(at(path)) == ""


def test_what_is_there_and_no_file_is_not_taken_for_an_empty_one(view: DirectoryView) -> None:
    for path in ("a", "a/l"):
        with pytest.raises(OSError) as caught:
            view.content(at(path))
        assert not isinstance(caught.value, FileNotFoundError)


def test_the_text_of_a_link_is_read_and_of_nothing_else(view: DirectoryView) -> None:
    assert view.target(at("a/l")) == "f"
    assert [view.target(at(path)) for path in ("a", "a/f", "a/p", "x", "a/f/x")] == [""] * 5


@pytest.mark.parametrize("target", ["../outside", "/TMP/outside", "a/../../outside"])
@pytest.mark.parametrize("place", ["way", "a/way"])
def test_nothing_is_read_through_a_link_out_of_the_repository(
    view: DirectoryView, root: Path, target: str, place: str
) -> None:
    if target.startswith("/"):
        target = target.replace("/TMP", str(root.parent))
    elif place != "way":
        target = f"../{target}"
    (root / place).symlink_to(target)
    assert (root / place / "f").read_bytes() == SECRET  # it does lead there
    _shows_nothing_behind(view, at(place))


def test_nor_through_one_that_stays_inside(view: DirectoryView, root: Path) -> None:
    (root / "way").symlink_to("a")
    _shows_nothing_behind(view, at("way"))


def _shows_nothing_behind(view: DirectoryView, link: PurePosixPath) -> None:
    assert view.kind(link) is Kind.LINK
    assert view.entries(link) == {}
    for name in ("f", "l"):
        assert view.kind(link / name) is None
        assert view.target(link / name) == ""
        with pytest.raises(FileNotFoundError):
            view.read(link / name)
    with pytest.raises(OSError):
        view.read(link)
    assert link not in [directory for directory, _ in view.walk(HERE)]


@pytest.mark.parametrize("path", ["..", "a/../../outside/f", "../outside/f", "/etc/passwd"])
def test_a_path_that_leaves_the_repository_is_no_path(view: DirectoryView, path: str) -> None:
    for look in (view.kind, view.read, view.target, view.entries, view.mtime_ns):
        with pytest.raises(ValueError, match="no path of a repository"):
            look(at(path))


def test_the_root_itself_may_be_reached_by_a_link_that_changes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    root = tmp_path / "root"
    view = DirectoryView(root)
    assert view.entries(HERE) == {} and not view.exists(at("f"))
    for name in ("one", "two"):
        root.unlink(missing_ok=True)
        root.symlink_to(name)
        assert view.read(at("f")).decode() == name


def test_what_cannot_be_looked_at_is_not_taken_for_nothing(view: DirectoryView) -> None:
    for look in (view.kind, view.content, view.target, view.entries):
        with pytest.raises(OSError, match="File name too long"):
            look(at("x" * 300))


def test_a_walk_meets_all_directories_but_those_it_is_kept_from(
    view: DirectoryView, root: Path
) -> None:
    (root / "a/b/c").mkdir()
    (root / "d/e").mkdir(parents=True)
    met = {str(directory): sorted(found) for directory, found in view.walk(HERE)}
    assert met == {
        ".": ["a", "d"],
        "a": ["b", "f", "l", "p"],
        "a/b": ["c"],
        "a/b/c": [],
        "d": ["e"],
        "d/e": [],
    }
    some = [str(directory) for directory, _ in view.walk(HERE, lambda path: path.name != "b")]
    assert sorted(some) == [".", "a", "d", "d/e"]


def test_nothing_stays_open(view: DirectoryView) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    view.read(at("a/f"))
    view.kind(at("a/b"))
    view.target(at("a/l"))
    view.target(at("a/f"))
    list(view.walk(HERE))
    next(view.lines(at("a/f")))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
