"""Objects as they are staged, what compresses them, and what cannot go wrong with names."""

import hashlib
import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.cvmfs import objects as objects_module
from duccmake.cvmfs.codec import Codec, Level, decompress, decompressed
from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.objects import CHUNK, CHUNK_ABOVE, Objects, cut
from duccmake.errors import RepositoryError

COMPRESS_ALL = """
import hashlib, pathlib, sys
from duccmake.cvmfs.codec import Codec, Level
names = hashlib.sha1()
for content in pathlib.Path(sys.argv[1]).read_bytes().split(b"\\0SEPARATOR\\0"):
    for level in Level:
        names.update(hashlib.sha1(Codec(level).compress(content)).digest())
print(names.hexdigest())
"""

contents = st.one_of(
    st.binary(max_size=5000),
    st.tuples(st.binary(min_size=1, max_size=30), st.integers(1, 5000)).map(lambda p: p[0] * p[1]),
)
levels = st.sampled_from(list(Level))


@pytest.fixture
def staged(tmp_path):
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


def real_files(most_bytes):
    """Files of this machine, of all sizes and kinds: those of the standard library."""
    found, total = [], 0
    for path in sorted(Path(os.__file__).parent.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size < CHUNK:
            found.append(path.read_bytes())
            total += len(found[-1])
            if total > most_bytes:
                break
    return found


# --- the codec ------------------------------------------------------------


@given(content=contents, level=levels)
def test_what_is_compressed_is_read_by_zlib_and_by_us(content, level):
    stored = Codec(level).compress(content)
    assert zlib.decompress(stored) == decompress(stored) == content


@given(
    content=contents, level=st.integers(0, 9), piece=st.integers(1, 4096), cuts=st.integers(1, 999)
)
def test_what_anybody_compressed_is_read_in_pieces_of_any_size(content, level, piece, cuts):
    stored = zlib.compress(content, level)
    parts = [stored[at : at + cuts] for at in range(0, len(stored), cuts)]
    found = list(decompressed(parts, piece))
    assert b"".join(found) == content
    assert all(len(part) <= piece for part in found)


@given(content=contents, data=st.data())
def test_what_is_cut_short_or_goes_on_is_damaged(content, data):
    stored = bytes(Codec().compress(content))
    short = stored[: data.draw(st.integers(0, len(stored) - 1))]
    for damaged in (short, stored + b"\0", stored + stored):
        with pytest.raises(RepositoryError):
            decompress(damaged)


def test_names_are_the_same_in_every_process(tmp_path):
    files = real_files(20 * 1024 * 1024)
    assert len(files) > 500
    # The same content again, and behind other content: nothing of what came before counts.
    (tmp_path / "all").write_bytes(b"\0SEPARATOR\0".join(files))
    command = [sys.executable, "-c", COMPRESS_ALL, str(tmp_path / "all")]
    processes = [
        subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "MALLOC_PERTURB_": perturbed}
        )
        for perturbed in ("1", "170")
    ]
    names = {process.communicate()[0] for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert len(names) == 1


def test_names_are_the_same_on_every_machine():
    # Taken once, with the version of the library in constraints.txt.
    content = b"".join(b"line %d of a file\n" % (number * number % 1009) for number in range(5000))
    assert {level: hashlib.sha1(Codec(level).compress(content)).hexdigest() for level in Level} == {
        Level.FAST: "d1b970e47ffa2e70f689186f6113d9615fe37f53",
        Level.BALANCED: "4bd326b45c720255615edc841900c1d5808769b5",
        Level.SMALL: "dc409cb10bf33291784c5a817359973699d20a8c",
    }


def test_stored_sizes_are_near_those_of_cvmfs_itself():
    files = real_files(8 * 1024 * 1024)
    stock = sum(len(zlib.compress(content, 6)) for content in files)
    stored = {
        level: sum(len(Codec(level).compress(content)) for content in files) for level in Level
    }
    assert stored[Level.BALANCED] < 1.03 * stock
    assert stored[Level.SMALL] < stored[Level.BALANCED] < stored[Level.FAST] < 1.15 * stock


# --- objects ----------------------------------------------------------------


@given(parts=st.lists(st.binary(max_size=50)), size=st.integers(1, 60))
def test_cutting_keeps_every_byte_in_pieces_of_one_size(parts, size):
    found = [bytes(piece) for piece in cut(parts, size)]
    assert b"".join(found) == b"".join(parts)
    assert all(len(piece) == size for piece in found[:-1])
    assert all(0 < len(piece) <= size for piece in found[-1:])


def test_an_object_is_named_by_its_stored_bytes_and_its_kind(staged):
    for kind in Kind:
        digest = staged.put(b"content of any kind", kind)
        stored = (staged.directory / (digest.hex() + kind)).read_bytes()
        assert hashlib.sha1(stored).digest() == digest
        assert zlib.decompress(stored) == staged.get(digest.hex() + kind) == b"content of any kind"
        assert staged.names[digest.hex() + kind] == len(stored)
    assert len(list(staged.directory.iterdir())) == len(Kind)


def test_what_is_staged_already_is_not_written_again(staged):
    name = staged.put(b"twice").hex()
    before = staged.path(name).stat()
    assert staged.put(b"twice").hex() == name
    assert staged.path(name).stat() == before
    assert Objects(staged.directory).names == staged.names == {name: before.st_size}


def test_everybody_may_read_objects_whatever_the_umask(staged):
    before = os.umask(0o077)
    try:
        name = staged.put(b"for clients").hex()
    finally:
        os.umask(before)
    assert staged.path(name).stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("size", [0, 1, CHUNK, CHUNK_ABOVE, CHUNK_ABOVE + 1, 3 * CHUNK + 17])
def test_files_are_stored_whole_or_in_chunks_and_come_back(staged, size):
    piece = os.urandom(1000) * 1000
    wanted = (piece * (size // len(piece) + 1))[:size]
    pieces = [wanted[at : at + 300_000] for at in range(0, size, 300_000)]
    content = staged.file(iter(pieces), size)
    assert content.size == size
    if size <= CHUNK_ABOVE:
        assert content.hash is not None
        assert content.chunks == ()
    else:
        assert content.hash is None
        ends = [chunk.offset + chunk.size for chunk in content.chunks]
        assert [chunk.offset for chunk in content.chunks] == [0, *ends[:-1]]
        assert ends[-1] == size
        assert {chunk.size for chunk in content.chunks[:-1]} == {CHUNK}
    assert b"".join(staged.pieces(content)) == wanted


@pytest.mark.parametrize("size", [9, 11, CHUNK_ABOVE + 9])
def test_a_file_of_another_size_than_was_said_is_refused(staged, size):
    with pytest.raises(RepositoryError, match="bytes"):
        staged.file([b"0123456789"], size)


def test_an_object_that_is_missing_or_cut_short_is_told(staged):
    name = staged.put(os.urandom(5000)).hex()
    with pytest.raises(RepositoryError, match="not staged"):
        staged.get("0" * 40)
    os.truncate(staged.path(name), 4000)
    with pytest.raises(RepositoryError, match="cut short"):
        staged.get(name)


def test_short_writes_are_completed(staged, monkeypatch):
    write = os.write
    monkeypatch.setattr(objects_module.os, "write", lambda file, data: write(file, data[:700]))
    content = os.urandom(10_000)
    assert staged.get(staged.put(content).hex()) == content


@pytest.mark.parametrize("call", ["open", "write", "fchmod", "close", "rename"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_error_at_any_call_leaves_no_name_with_other_content(staged, monkeypatch, call, after):
    left = after
    owner, name = (Path, "rename") if call == "rename" else (objects_module.os, call)
    real = getattr(owner, name)

    def fails(*args, **kwargs):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        if call == "write":
            return real(args[0], args[1][:1500])
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, fails)
    with pytest.raises(OSError, match="No space"):
        for _ in range(5):
            staged.put(os.urandom(4000))
    monkeypatch.undo()
    found = list(staged.directory.iterdir())
    for path in found:
        assert hashlib.sha1(path.read_bytes()).hexdigest() == path.name
    assert {path.name for path in found} >= set(staged.names)


KILLED = """
import os, signal, sys
from pathlib import Path
from duccmake.cvmfs.objects import Objects
left = int(sys.argv[2])
def counted(real):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    return call
write = os.write
os.write = counted(lambda file, data: write(file, data[:1500]))
os.close, os.fchmod, Path.rename = map(counted, (os.close, os.fchmod, Path.rename))
staged = Objects(Path(sys.argv[1]))
for number in range(3):
    staged.put(b"".join(b"%d" % (n * n * n) for n in range(number, 1000)))
print(left)
"""


def test_a_kill_at_any_call_leaves_no_name_with_other_content(tmp_path):
    def run(calls):
        directory = tmp_path / str(calls)
        directory.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(directory), str(calls)],
            stdout=subprocess.PIPE,
            check=False,
        )
        for path in directory.iterdir():
            if not path.name.startswith("."):
                assert hashlib.sha1(path.read_bytes()).hexdigest() == path.name
        # What is half there does not disturb the next one.
        assert len(Objects(directory).names) <= 3
        return done

    whole = run(1000)
    assert whole.returncode == 0
    for calls in range(1000 - int(whole.stdout)):
        assert run(calls).returncode == -9
