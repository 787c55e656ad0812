"""The process that writes: order, faults, and that it never outlives what it was for."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from corpus.archives import OWNER, archive, random_archive
from duccmake.errors import LayerError, NoSpace, UnsafeLayer
from duccmake.layer import writers
from duccmake.layer.disk import Disk
from duccmake.layer.place import PIECE, ROOT
from duccmake.layer.unpack import unpack_layer
from duccmake.layer.writer_process import Writer
from duccmake.layer.writers import Writers
from duccmake.oci.reference import Digest

SECOND = 1_000_000_000


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)


def make_file(
    writer: Writer, name: bytes, content: bytes, parent: int = ROOT, mode: int = 0o644
) -> None:
    start = writer.put(content)
    writer.do(Disk.make_file, parent, name, mode, *OWNER, 5 * SECOND, start, len(content))


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


# --- order ----------------------------------------------------------------


def test_everything_is_there_once_the_losses_are_told(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        writer.do(Disk.make_directory, ROOT, b"d", 1)
        for n in range(2500):
            make_file(writer, b"%d" % n, b"content %d" % n, parent=1)
        assert writer.ask(Disk.losses) == {}
        assert len(list((tmp_path / "d").iterdir())) == 2500
        assert (tmp_path / "d/2499").read_bytes() == b"content 2499"
        assert (tmp_path / "d/0").stat().st_mtime_ns == 5 * SECOND


def test_contents_far_larger_than_the_shared_memory_arrive_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    pieces = [rng.randbytes(PIECE - n) for n in range(40)]
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        writer.do(Disk.open_file, ROOT, b"big", 0o600)
        for piece in pieces:
            writer.do(Disk.write, writer.put(piece), len(piece))
        writer.do(Disk.close_file, 0o600, *OWNER, SECOND, ())
        writer.ask(Disk.losses)
    assert (tmp_path / "big").read_bytes() == b"".join(pieces)


def test_file_replaced_by_a_symlink_is_never_written_through(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"canary")
    stage = tmp_path / "stage"
    stage.mkdir()
    with opened(stage) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        make_file(writer, b"f", b"first")
        writer.do(Disk.remove_name, ROOT, b"f")
        writer.do(Disk.make_symlink, ROOT, b"f", bytes(outside), *OWNER, 0, ())
        make_file(writer, b"f", b"evil")
        with pytest.raises(FileExistsError):
            writer.ask(Disk.losses)
    assert outside.read_bytes() == b"canary"


def test_directory_swapped_for_a_symlink_by_somebody_else_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    stage = tmp_path / "stage"
    stage.mkdir()
    with opened(stage) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        writer.do(Disk.make_directory, ROOT, b"d", 1)
        writer.ask(Disk.losses)
        (stage / "d").rmdir()
        (stage / "d").symlink_to(outside)
        make_file(writer, b"f", b"evil", parent=1)
        with pytest.raises(OSError) as caught:
            writer.ask(Disk.losses)
    assert caught.value.errno in (errno.ENOTDIR, errno.ELOOP)
    assert list(outside.iterdir()) == []


def test_hard_link_to_a_file_of_the_same_batch_shares_its_inode(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        writer.do(Disk.make_directory, ROOT, b"d", 1)
        make_file(writer, b"f", b"x")
        writer.do(Disk.make_hard_link, ROOT, b"f", 1, b"g")
        writer.ask(Disk.losses)
    assert (tmp_path / "f").samefile(tmp_path / "d/g")


def test_hard_links_across_directories_deeper_than_the_descriptors_kept(tmp_path: Path) -> None:
    depth = 200
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        for branch, name in ((0, b"a"), (depth, b"b")):
            parent = ROOT
            for level in range(1, depth + 1):
                writer.do(Disk.make_directory, parent, name, branch + level)
                parent = branch + level
        make_file(writer, b"f", b"deep", parent=depth)
        writer.do(Disk.make_hard_link, depth, b"f", 2 * depth, b"g")
        writer.ask(Disk.losses)
    assert (tmp_path / ("b/" * depth) / "g").read_bytes() == b"deep"


def test_last_of_many_duplicates_stays(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        for n in range(3000):
            if n:
                writer.do(Disk.remove_name, ROOT, b"f")
            make_file(writer, b"f", b"%d" % n)
        writer.ask(Disk.losses)
    assert (tmp_path / "f").read_bytes() == b"2999"


# --- faults ---------------------------------------------------------------


def test_killed_process_is_an_error_for_whoever_asks(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        os.kill(writer.pid, signal.SIGKILL)
        with pytest.raises(LayerError, match="ended"):
            writer.ask(Disk.losses)


def test_killed_process_is_an_error_for_whoever_only_orders(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        os.kill(writer.pid, signal.SIGKILL)
        with pytest.raises(LayerError, match="ended"):
            for n in range(200_000):
                make_file(writer, b"%d" % n, b"")


def test_name_too_long_comes_back_as_the_same_error(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        make_file(writer, b"n" * 256, b"")
        with pytest.raises(OSError) as caught:
            writer.ask(Disk.losses)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert caught.value.filename == b"n" * 256


@pytest.mark.parametrize("form", ["tree", "catalogs"])
def test_real_full_disk_fails_the_layer_and_is_cleared_again(tmp_path: Path, form: str) -> None:
    content = archive([(f"f{n}", os.urandom(100_000), {}) for n in range(50)])
    (tmp_path / "blob").write_bytes(content)
    (tmp_path / "small").mkdir()
    program = textwrap.dedent("""
        import hashlib, subprocess, sys
        from pathlib import Path
        from duccmake.errors import NoSpace
        from duccmake.oci.reference import Digest
        from duccmake.layer.unpack import unpack_layer
        from duccmake.cvmfs.codec import Codec
        from duccmake.cvmfs.keeping import Keeping
        from duccmake.layer.catalogs import CatalogForm
        blob, small, form = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
        mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(small)]
        if subprocess.run(mount, check=False).returncode:
            sys.exit(77)
        digest = Digest("sha256", hashlib.sha256(blob.read_bytes()).hexdigest())
        try:
            unpack_layer(
                blob, small / "stage", digest=digest,
                catalogs=CatalogForm(b"/l", Keeping(), Codec()) if form == "catalogs" else None,
            )
        except NoSpace:
            assert list((small / "stage").iterdir()) == []
            sys.exit(28)
    """)
    command = ["unshare", "-rm", sys.executable, "-c", program]
    environment = {**os.environ, "PYTHONPATH": str(Path(writers.__file__).parents[2])}
    if shutil.which("unshare") is None:
        pytest.skip("there is no unshare")
    done = subprocess.run(
        [*command, tmp_path / "blob", tmp_path / "small", form],
        capture_output=True,
        env=environment,
        check=False,
    )
    if done.returncode in (1, 77) and b"Traceback" not in done.stderr:
        pytest.skip(f"no file system of its own: {done.stderr.decode().strip()}")
    assert done.returncode == 28, done.stderr.decode()


def test_nothing_after_a_failed_order_is_carried_out(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        make_file(writer, b"before", b"")
        writer.do(Disk.remove_name, ROOT, b"missing")
        make_file(writer, b"after", b"")
        with pytest.raises(FileNotFoundError):
            writer.ask(Disk.losses)
    assert [path.name for path in tmp_path.iterdir()] == ["before"]


def test_process_has_ended_when_the_caller_fails(tmp_path: Path) -> None:
    with (
        opened(tmp_path) as fd,
        pytest.raises(KeyboardInterrupt),
        Writer(partial(Disk, fd), keep=fd) as writer,
    ):
        pid = writer.pid
        raise KeyboardInterrupt
    assert is_gone(pid)


def test_process_has_ended_after_success(tmp_path: Path) -> None:
    with opened(tmp_path) as fd, Writer(partial(Disk, fd), keep=fd) as writer:
        pid = writer.pid
    assert is_gone(pid)


def test_process_ends_when_its_caller_is_killed(tmp_path: Path) -> None:
    program = textwrap.dedent("""
        import os, sys, time
        from functools import partial
        from duccmake.layer.disk import Disk
        from duccmake.layer.writer_process import Writer
        writer = Writer(partial(Disk, os.open(sys.argv[1], os.O_RDONLY))).__enter__()
        other = Writer(partial(Disk, os.open(sys.argv[1], os.O_RDONLY))).__enter__()
        os.write(1, b"up")
        time.sleep(600)
    """)
    package = str(Path(writers.__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": package},
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.read(2) == b"up"
        caller.kill()
        # Both writers hold the pipe's other end: it ends when they have.
        assert caller.stdout.read() == b""


def test_failed_unpacking_leaves_neither_process_nor_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Writer] = []

    class Noted(Writer):
        def __init__(self, make: Callable[[memoryview], Disk], **more: Any) -> None:
            super().__init__(make, **more)
            started.append(self)

    monkeypatch.setattr(writers, "Writer", Noted)
    with pytest.raises(UnsafeLayer):
        unpacked(tmp_path, archive([("f", b"x", {}), ("../up", b"x", {})]))
    assert started
    assert all(is_gone(writer.pid) for writer in started)
    assert list((tmp_path / "stage").iterdir()) == []


def test_disk_that_fills_up_fails_the_layer_with_no_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Disk, *args: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), b"f")

    full.__name__ = "make_file"
    monkeypatch.setattr(Disk, "make_file", full)
    with pytest.raises(NoSpace):
        unpacked(tmp_path, archive([("f", b"x", {})]))
    assert list((tmp_path / "stage").iterdir()) == []


# --- several of them ---------------------------------------------------------


@contextmanager
def two_writers(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writers]:
    """Two, also where there is one core; odd directories are one's, even ones the other's."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with opened(path) as fd, Writers(fd) as both:
        yield both


def test_hard_link_to_a_file_that_another_writer_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_writers(tmp_path, monkeypatch) as both:
        both.make_directory(ROOT, b"d", 1)
        for n in range(2000):
            make_file(both.of(ROOT), b"f", b"%d" % n)
            both.make_hard_link(ROOT, b"f", 1, b"g%d" % n)
            both.of(ROOT).do(Disk.remove_name, ROOT, b"f")
        both.losses()
    assert [(tmp_path / f"d/g{n}").read_bytes() for n in range(2000)] == [
        b"%d" % n for n in range(2000)
    ]


def test_directory_is_removed_after_what_its_writer_removes_there_and_its_name_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with two_writers(tmp_path, monkeypatch) as both:
        for n in range(1, 200):
            both.make_directory(ROOT, b"d", n)
            for name in (b"a", b"b"):
                make_file(both.of(n), name, b"x", parent=n)
                both.of(n).do(Disk.remove_name, n, name)
            both.remove_directory(n)
            make_file(both.of(ROOT), b"d", b"x")
            both.of(ROOT).do(Disk.remove_name, ROOT, b"d")
            both.of(ROOT).settle()
        both.losses()
    assert list(tmp_path.iterdir()) == []


def test_what_fails_in_one_writer_ends_them_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pids: list[int] = []
    with pytest.raises(FileNotFoundError), two_writers(tmp_path, monkeypatch) as both:
        pids += [both.of(number).pid for number in range(2)]
        both.make_directory(ROOT, b"d", 1)
        both.of(1).do(Disk.remove_name, 1, b"missing")
        both.losses()
    assert len(pids) == 2
    assert all(map(is_gone, pids))


# --- beside it, in one process, the same comes out --------------------------


class InProcess:
    """A writer that carries out each order at once: what the process must agree with."""

    def __init__(self, make: Callable[[memoryview], Disk], **more: Any) -> None:
        self._memory = bytearray(PIECE)
        self._disk = make(memoryview(self._memory))

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *exc: object) -> None:
        self._disk.close()

    def put(self, content: bytes | memoryview) -> int:
        self._memory[: len(content)] = content
        return 0

    def do(self, order: Any, *args: Any) -> None:
        order(self._disk, *args)

    def ask(self, order: Any, *args: Any) -> Any:
        return order(self._disk, *args)

    def settle(self) -> None:
        return

    flush = settle


@pytest.mark.parametrize("seed", range(12))
def test_random_layers_come_out_the_same_as_without_a_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    blob = random_archive(seed)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    here = unpacked(tmp_path / "a", blob)
    monkeypatch.setattr(writers, "Writer", InProcess)
    there = unpacked(tmp_path / "b", blob)
    assert (here / ".metadata/tree.mtree").read_bytes() == (
        there / ".metadata/tree.mtree"
    ).read_bytes()
    assert facts(here / "layerfs") == facts(there / "layerfs")


def unpacked(place: Path, content: bytes) -> Path:
    blob = place / "blob"
    blob.write_bytes(content)
    digest = Digest("sha256", hashlib.sha256(content).hexdigest())
    return unpack_layer(blob, place / "stage", digest=digest).path


def facts(root: Path) -> list[tuple[object, ...]]:
    inodes: dict[int, str] = {}
    found = []
    for path in sorted(root.rglob("*")):
        at = path.lstat()
        relative = str(path.relative_to(root))
        first = inodes.setdefault(at.st_ino, relative)
        content = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        found.append(
            (
                relative,
                at.st_mode,
                at.st_uid,
                at.st_gid,
                at.st_mtime_ns,
                hashlib.sha256(content).hexdigest(),
                target,
                first,
            )
        )
    return found
