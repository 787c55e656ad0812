"""Where objects are stored: in a directory, and behind a web server that only reads it."""

from __future__ import annotations

import errno
import functools
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from duccmake.cvmfs.codec import decompress
from duccmake.cvmfs.names import Kind, storage_path
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import PUBLISHED, NotThere, Storage
from duccmake.cvmfs.storage.http import HttpStorage
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.errors import NoSpace, RepositoryError
from support.oracles import needs_root

ABSENT = "0" * 40


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A repository's storage, as mkfs makes it, with a manifest."""
    path = tmp_path / "storage"
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


@pytest.fixture(params=["local", "http"])
def reading(request: pytest.FixtureRequest, local: LocalStorage, url: str) -> Storage:
    return local if request.param == "local" else HttpStorage(url)


def staged(objects: Objects, content: bytes = b"content", kind: Kind = Kind.FILE) -> str:
    return objects.put(content, kind).hex() + kind


def nothing_is_left(directory: Path) -> bool:
    return list((directory / "data/txn").iterdir()) == []


def test_what_is_stored_is_read_by_its_name(
    reading: Storage, local: LocalStorage, objects: Objects
) -> None:
    names = [staged(objects, bytes(kind, "ascii") * 100, kind) for kind in Kind]
    for name in names:
        local.put(name, objects.path(name))
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
    with pytest.raises(RepositoryError, match="nothing can be stored"):
        storage.put(name, objects.path(name))
    with pytest.raises(RepositoryError, match="nothing can be stored"):
        storage.put_bytes(name, b"")
    with pytest.raises(RepositoryError, match="nothing can be stored"):
        storage.delete(name)


def test_a_web_server_that_is_away_is_told() -> None:
    with pytest.raises(RepositoryError, match="cannot be read"):
        HttpStorage("http://127.0.0.1:1").file(PUBLISHED)


def test_objects_become_one_more_link(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    name = staged(objects)
    local.put(name, objects.path(name))
    local.put(name, objects.path(name))
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
    local.put(name, objects.path(name))
    stored = directory / storage_path(name)
    assert not stored.samefile(objects.path(name))
    assert stored.read_bytes() == objects.path(name).read_bytes()
    assert stored.stat().st_mode & 0o777 == 0o644
    assert nothing_is_left(directory)


@pytest.mark.parametrize("damage", [0, 5])
def test_what_a_crash_has_left_of_an_object_is_replaced(
    local: LocalStorage, directory: Path, objects: Objects, damage: int
) -> None:
    name = staged(objects)
    stored = directory / storage_path(name)
    content = objects.path(name).read_bytes()
    for put in (
        lambda: local.put(name, objects.path(name)),
        lambda: local.put_bytes(name, content),
    ):
        stored.unlink(missing_ok=True)
        stored.write_bytes(content[:damage])
        put()
        assert local.get(name) == content
    assert local.has([name]) == {name}


def test_an_empty_file_is_no_object(local: LocalStorage, directory: Path) -> None:
    (directory / storage_path(ABSENT)).touch()
    assert local.has([ABSENT]) == set()


def test_a_directory_that_mkfs_has_not_made_is_made(tmp_path: Path, objects: Objects) -> None:
    (tmp_path / "s/data/txn").mkdir(parents=True)
    local = LocalStorage(tmp_path / "s", tmp_path / "s/data/txn")
    name = staged(objects)
    local.put(name, objects.path(name))
    assert local.has([name]) == {name}


def test_deleting_what_is_not_there_is_fine(local: LocalStorage, objects: Objects) -> None:
    name = staged(objects)
    local.put(name, objects.path(name))
    local.delete(name)
    local.delete(name)
    assert local.has([name]) == set()
    assert objects.get(name) == b"content"


@pytest.mark.parametrize(
    ("code", "error"), [(errno.ENOSPC, NoSpace), (errno.EDQUOT, NoSpace), (errno.EIO, None)]
)
@pytest.mark.parametrize("call", ["link", "chmod", "replace"])
def test_what_fails_is_told_and_leaves_no_name(
    local: LocalStorage,
    directory: Path,
    objects: Objects,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
    code: int,
    error: type[Exception] | None,
) -> None:
    def fails(*args: object, **more: object) -> None:
        raise OSError(code, os.strerror(code), "somewhere")

    name = staged(objects)
    monkeypatch.setattr(os, call, fails)
    with pytest.raises(error or RepositoryError, match=str(directory)):
        local.put(name, objects.path(name))
    monkeypatch.undo()
    assert local.has([name]) == set()
    assert nothing_is_left(directory)


def test_a_storage_or_an_object_that_is_gone_is_told(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    name = staged(objects)
    with pytest.raises(RepositoryError, match="No such file"):
        local.put(name, objects.directory / ABSENT)
    (directory / "data/txn").rmdir()
    with pytest.raises(RepositoryError, match="No such file"):
        local.put(name, objects.path(name))


@needs_root
def test_what_root_stores_belongs_to_the_owner_of_the_storage(
    local: LocalStorage, directory: Path, objects: Objects
) -> None:
    os.chown(directory, 1234, 1235)
    name = staged(objects)
    local.put(name, objects.path(name))
    found = (directory / storage_path(name)).stat()
    assert (found.st_uid, found.st_gid) == (1234, 1235)


@pytest.mark.parametrize("upstream", ["", "local", "local,/tmp", "S3,/tmp,x@y", "gw,/a,/b"])
def test_an_upstream_that_is_no_directory_is_refused(upstream: str) -> None:
    with pytest.raises(RepositoryError, match="CVMFS_UPSTREAM_STORAGE"):
        LocalStorage.parse(upstream)
