"""Opening below a directory, by openat2(2) and, where that is not to be had, name by name."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.fs import beneath
from duccmake.fs.beneath import open_beneath, open_directory


@pytest.fixture(params=["openat2", "walk"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    if request.param == "walk":
        # No kernel has this one: ENOSYS.
        monkeypatch.setattr(beneath, "_OPENAT2", 100_000)
    (tmp_path / "root").mkdir()
    return request.getfixturevalue("descriptor")


@pytest.fixture
def descriptor(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "root", os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def opened(root: int, *names: bytes) -> os.stat_result:
    fd = open_directory(root, names)
    try:
        assert not os.get_inheritable(fd)
        return os.fstat(fd)
    finally:
        os.close(fd)


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("depth", [1, 2, 30])
def test_directories_are_opened_however_deep(root: int, tmp_path: Path, depth: int) -> None:
    names = ["d" * 200] * depth
    here = os.dup(root)
    for name in names:
        os.mkdir(name, dir_fd=here)
        below = os.open(name, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    wanted = os.fstat(here)
    os.close(here)
    before = open_descriptors()
    assert os.path.samestat(opened(root, *(name.encode() for name in names)), wanted)
    assert open_descriptors() == before


@pytest.mark.parametrize("target", ["a", "../outside", "/", "."])
@pytest.mark.parametrize("names", [(b"l",), (b"l", b"b"), (b"a", b"l"), (b"a", b"l", b"b")])
def test_no_link_is_followed_inside_or_out(
    root: int, tmp_path: Path, target: str, names: tuple[bytes, ...]
) -> None:
    for place in ("root/a/b", "root/b", "outside/b"):
        (tmp_path / place).mkdir(parents=True)
    (tmp_path / "root/l").symlink_to(target)
    (tmp_path / "root/a/l").symlink_to(target)
    before = open_descriptors()
    with pytest.raises(OSError) as caught:
        opened(root, *names)
    assert caught.value.errno in (errno.ELOOP, errno.ENOTDIR)
    assert open_descriptors() == before


def test_what_is_missing_or_no_directory_says_so(root: int, tmp_path: Path) -> None:
    (tmp_path / "root/a").mkdir()
    (tmp_path / "root/a/f").write_bytes(b"")
    with pytest.raises(FileNotFoundError):
        opened(root, b"a", b"x")
    with pytest.raises(NotADirectoryError):
        opened(root, b"a", b"f")


@pytest.mark.parametrize("names", [(b"f",), (b"a", b"f")])
def test_files_are_opened_and_links_only_as_such(
    root: int, tmp_path: Path, names: tuple[bytes, ...]
) -> None:
    directory = (tmp_path / "root").joinpath(*(os.fsdecode(name) for name in names[:-1]))
    directory.mkdir(exist_ok=True)
    (directory / "f").write_bytes(b"content")
    (directory / "l").symlink_to("f")
    with os.fdopen(open_beneath(root, names, os.O_RDONLY), "rb") as file:
        assert file.read() == b"content"
    link = (*names[:-1], b"l")
    with pytest.raises(OSError) as caught:
        open_beneath(root, link, os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP
    fd = open_beneath(root, link, os.O_PATH)
    try:
        assert os.readlink("", dir_fd=fd) == "f"
    finally:
        os.close(fd)


def test_this_kernels_openat2_is_used_where_it_has_it(
    descriptor_of_two: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> int:
        raise AssertionError("walked")

    if tuple(map(int, os.uname().release.split(".")[:2])) < (5, 6):
        pytest.skip("this kernel has no openat2(2)")
    monkeypatch.setattr(beneath, "_walk", never)
    opened(descriptor_of_two, b"a", b"b")


@pytest.fixture
def descriptor_of_two(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "a/b").mkdir(parents=True)
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)
