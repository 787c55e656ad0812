"""Where objects are stored: in a directory, in a bucket, or behind a web server that only reads."""

from __future__ import annotations

import errno
import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duccmake.cvmfs.codec import decompress
from duccmake.cvmfs.names import Kind, storage_path
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import NEVER, PUBLISHED, NotThere, Storage
from duccmake.cvmfs.storage.http import HttpStorage
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.cvmfs.storage.s3 import S3Storage
from duccmake.cvmfs.storage.s3_settings import S3Settings
from duccmake.errors import NoSpace, RepositoryError
from support.oracles import needs_root
from support.s3_servers import ALIAS, S3Server, conf, s3_server

ABSENT = "0" * 40


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "root") as running:
        yield running


@pytest.fixture
def bucket(server: S3Server) -> str:
    return server.bucket()


@pytest.fixture
def directory(server: S3Server, bucket: str) -> Path:
    """A repository's storage, as mkfs makes it, with a manifest; it is in a bucket as well."""
    path = server.root / bucket / ALIAS
    for number in range(256):
        (path / f"data/{number:02x}").mkdir(parents=True)
    (path / "data/txn").mkdir()
    (path / ".cvmfspublished").write_bytes(b"manifest")
    return path


@pytest.fixture
def local(directory: Path) -> LocalStorage:
    return LocalStorage.parse(f"local,{directory}/data/txn,{directory}")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


@pytest.fixture
def url(directory: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            return

    handler = functools.partial(Quiet, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


@pytest.fixture
def s3(tmp_path: Path, server: S3Server, bucket: str) -> S3Storage:
    return S3Storage(S3Settings.read(conf(tmp_path, bucket, server.port)))


@pytest.fixture(params=["local", "http", "s3"])
def reading(
    request: pytest.FixtureRequest, local: LocalStorage, url: str, s3: S3Storage
) -> Storage:
    storages: dict[str, Storage] = {"local": local, "http": HttpStorage(url), "s3": s3}
    return storages[request.param]


@pytest.fixture(params=["local", "s3"])
def writing(request: pytest.FixtureRequest, local: LocalStorage, s3: S3Storage) -> Storage:
    storages: dict[str, Storage] = {"local": local, "s3": s3}
    return storages[request.param]


def staged(objects: Objects, content: bytes = b"content", kind: Kind = Kind.FILE) -> str:
    return objects.put(content, kind).hex() + kind


def nothing_is_left(directory: Path) -> bool:
    return list((directory / "data/txn").iterdir()) == []


def test_what_is_stored_is_read_by_its_name(
    reading: Storage, local: LocalStorage, objects: Objects
) -> None:
    names = [staged(objects, bytes(kind, "ascii") * 100, kind) for kind in Kind]
    for name in names:
        local.put_all(objects.directory, [name])
    for name, kind in zip(names, Kind, strict=True):
        assert decompress(reading.get(name)) == bytes(kind, "ascii") * 100
    assert reading.has([*names, ABSENT]) == set(names)
    assert reading.file(PUBLISHED) == b"manifest"


def test_what_is_not_there_is_told(reading: Storage, directory: Path) -> None:
    with pytest.raises(NotThere, match=storage_path(ABSENT)):
        reading.get(ABSENT)
    (directory / ".cvmfspublished").unlink()
    with pytest.raises(NotThere, match="cvmfspublished"):
        reading.file(PUBLISHED)


def test_an_object_that_is_not_what_its_name_says_is_refused(
    reading: Storage, local: LocalStorage, directory: Path, objects: Objects
) -> None:
    name = staged(objects)
    (directory / storage_path(name)).write_bytes(b"something else")
    with pytest.raises(RepositoryError, match="damaged"):
        reading.get(name)


def test_a_web_server_takes_nothing(url: str, objects: Objects) -> None:
    storage, name = HttpStorage(url), staged(objects)
    for work in (
        lambda: storage.put_all(objects.directory, [name]),
        lambda: storage.lacking(objects.names),
        lambda: storage.lost(objects.names, NEVER),
        lambda: storage.delete(name),
    ):
        with pytest.raises(RepositoryError, match="nothing can be stored"):
            work()


def test_a_web_server_that_is_away_is_told() -> None:
    with pytest.raises(RepositoryError, match="cannot be read"):
        HttpStorage("http://127.0.0.1:1").file(PUBLISHED)


def test_what_is_put_is_there_for_all(
    writing: Storage, local: LocalStorage, s3: S3Storage, url: str, objects: Objects
) -> None:
    names = {staged(objects, bytes([number])) for number in range(5)}
    for _ in range(2):
        writing.put_all(objects.directory, names)
    writing.sync()
    for each in (local, s3, HttpStorage(url)):
        assert each.has([*names, ABSENT]) == names
        assert {each.get(name) for name in names} == {
            objects.path(name).read_bytes() for name in names
        }


def test_what_is_not_there_or_cut_off_is_lacking(
    writing: Storage, directory: Path, objects: Objects
) -> None:
    whole, cut, absent = (staged(objects, bytes([number])) for number in range(3))
    writing.put_all(objects.directory, [whole, cut])
    (directory / storage_path(cut)).unlink()
    (directory / storage_path(cut)).write_bytes(b"x")
    assert writing.lacking(objects.names) == {cut, absent}
    assert writing.lost(objects.names, NEVER) == {cut, absent}


@given(gone=st.sets(st.integers(0, 39)))
@settings(max_examples=20, deadline=None)
def test_what_is_gone_since_some_moment_is_lost_and_seldom_is_all_looked_for(
    tmp_path_factory: pytest.TempPathFactory, gone: set[int]
) -> None:
    base = tmp_path_factory.mktemp("storage")
    (base / "s/data/txn").mkdir(parents=True)
    (base / "objects").mkdir()
    objects = Objects(base / "objects")
    local = LocalStorage(base / "s", base / "s/data/txn")
    names = [staged(objects, b"%d" % number) for number in range(40)]
    local.put_all(objects.directory, names)
    since = local.mark()
    for number in gone:
        local.delete(names[number])
    assert local.lost(objects.names, since) == {names[number] for number in gone}
    local.put_all(objects.directory, names)
    assert local.lost(objects.names, since) == set()


def test_what_changes_at_that_very_moment_is_looked_for(
    local: LocalStorage, objects: Objects, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = staged(objects)
    local.put_all(objects.directory, [name])
    part = (directory / storage_path(name)).parent
    waits = time.sleep

    def somebody_else_stores(seconds: float) -> None:
        waits(seconds)
        (part / "other").touch()

    monkeypatch.setattr(time, "sleep", somebody_else_stores)
    since = local.mark()
    assert part.name not in since
    assert len(since) == 255


def test_nothing_is_looked_for_where_nothing_was_changed(
    local: LocalStorage, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [staged(objects, b"%d" % number) for number in range(40)]
    local.put_all(objects.directory, names)
    since = local.mark()
    monkeypatch.setattr(LocalStorage, "_size", None)
    assert local.lost(objects.names, since) == set()


def test_objects_become_one_more_link(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    name = staged(objects)
    local.put_all(objects.directory, [name])
    local.put_all(objects.directory, [name])
    assert (directory / storage_path(name)).samefile(objects.path(name))
    assert nothing_is_left(directory)
    local.sync()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EACCES])
def test_objects_are_copied_where_they_cannot_be_linked(
    local: LocalStorage,
    directory: Path,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
    code: int,
) -> None:
    def fails(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code))

    name = staged(objects)
    monkeypatch.setattr(os, "link", fails)
    local.put_all(objects.directory, [name])
    stored = directory / storage_path(name)
    assert not stored.samefile(objects.path(name))
    assert stored.read_bytes() == objects.path(name).read_bytes()
    assert stored.stat().st_mode & 0o777 == 0o644
    assert nothing_is_left(directory)


@pytest.mark.parametrize("damage", [0, 5])
def test_what_a_crash_has_left_of_an_object_is_replaced(
    writing: Storage, directory: Path, objects: Objects, damage: int
) -> None:
    name = staged(objects)
    content = objects.path(name).read_bytes()
    (directory / storage_path(name)).write_bytes(content[:damage])
    writing.put_all(objects.directory, [name])
    assert writing.get(name) == content
    assert writing.has([name]) == {name}
    assert nothing_is_left(directory)


def test_an_empty_file_is_no_object(writing: Storage, directory: Path) -> None:
    (directory / storage_path(ABSENT)).touch()
    assert writing.has([ABSENT]) == set()


def test_a_directory_that_mkfs_has_not_made_is_made(tmp_path: Path, objects: Objects) -> None:
    (tmp_path / "s/data/txn").mkdir(parents=True)
    local = LocalStorage(tmp_path / "s", tmp_path / "s/data/txn")
    name = staged(objects)
    local.put_all(objects.directory, [name])
    assert local.has([name]) == {name}


def test_deleting_what_is_not_there_is_fine(writing: Storage, objects: Objects) -> None:
    name = staged(objects)
    writing.put_all(objects.directory, [name])
    writing.delete(name)
    writing.delete(name)
    assert writing.has([name]) == set()
    assert objects.get(name) == b"content"


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, None)]
)
@pytest.mark.parametrize("calls", [["link"], ["chmod"], ["link", "replace"]])
def test_what_fails_is_told_and_leaves_no_name(
    local: LocalStorage,
    directory: Path,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
    calls: list[str],
    code: int,
    error: type[Exception] | None,
) -> None:
    def failing(code: int) -> Callable[..., None]:
        def fails(*args: object, **more: object) -> None:
            raise OSError(code, os.strerror(code), "somewhere")

        return fails

    name = staged(objects)
    objects.path(name).chmod(0o600)
    *before, last = calls
    for call in before:
        monkeypatch.setattr(os, call, failing(errno.EXDEV))
    monkeypatch.setattr(os, last, failing(code))
    with pytest.raises(error or RepositoryError, match=str(directory)):
        local.put_all(objects.directory, [name])
    monkeypatch.undo()
    assert local.has([name]) == set()
    assert nothing_is_left(directory)


def test_a_staged_object_that_is_gone_is_told(writing: Storage, objects: Objects) -> None:
    with pytest.raises(RepositoryError, match="No such file"):
        writing.put_all(objects.directory, [ABSENT])


def test_a_storage_that_is_gone_is_told(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    name = staged(objects)
    shutil.rmtree(directory)
    with pytest.raises(RepositoryError, match="No such file"):
        local.put_all(objects.directory, [name])


@needs_root
def test_what_root_stores_belongs_to_the_owner_of_the_storage(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    os.chown(directory, 1234, 1235)
    name = staged(objects)
    local.put_all(objects.directory, [name])
    found = (directory / storage_path(name)).stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)


@pytest.mark.parametrize("upstream", ["", "local", "local,/tmp", "S3,/tmp,x@y", "gw,/a,/b"])
def test_an_upstream_that_is_no_directory_is_refused(upstream: str) -> None:
    with pytest.raises(RepositoryError, match="CVMFS_UPSTREAM_STORAGE"):
        LocalStorage.parse(upstream)
