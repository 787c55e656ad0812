"""Objects in a bucket: how it is spoken to, what is done about faults, and what is told."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest

from duccmake.cvmfs.codec import decompress
from duccmake.cvmfs.names import storage_path
from duccmake.cvmfs.objects import Objects
from duccmake.cvmfs.storage import PUBLISHED, NotThere, bucket
from duccmake.cvmfs.storage.http import HttpStorage
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.cvmfs.storage.s3 import S3Storage
from duccmake.cvmfs.storage.s3_settings import S3Settings
from duccmake.errors import NoSpace, RepositoryError
from duccmake.repository.cvmfs.options import obstacles
from duccmake.repository.cvmfs.settings import ServerSettings
from duccmake.repository.cvmfs.staging import check_public, open_storage
from support.s3_servers import (
    ACCESS,
    ALIAS,
    SECRET,
    Fault,
    Front,
    S3Server,
    breaks_off,
    checks_v2,
    conf,
    hangs_up,
    loses_a_byte,
    s3_server,
    says,
)

ABSENT = "0" * 40
HOST = "s3.example.org"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "root") as running:
        yield running


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server that takes the name of a bucket from that of the host."""
    with s3_server(tmp_path_factory.mktemp("s3") / "root", "--force-path-style=false") as running:
        yield running


@pytest.fixture(scope="module")
def unsigned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3") / "root", signed=False) as running:
        yield running


@pytest.fixture
def front(server: S3Server) -> Iterator[Front]:
    with Front(server) as running:
        yield running


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses between tries, which are not made."""
    made: list[float] = []
    monkeypatch.setattr(bucket.time, "sleep", made.append)
    return made


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    (tmp_path / "objects").mkdir()
    return Objects(tmp_path / "objects")


def staged(objects: Objects, content: bytes = b"content") -> str:
    return objects.put(content).hex()


def storage(directory: Path, front: Front, **more: str) -> S3Storage:
    return S3Storage(S3Settings.read(conf(directory, front.server.bucket(), front.port, **more)))


def test_objects_are_put_as_cvmfs_puts_them(front: Front, tmp_path: Path, objects: Objects) -> None:
    s3 = storage(tmp_path, front)
    name = staged(objects)
    s3.put_all(objects.directory, s3.lacking(objects.names))
    head, put = front.requests
    assert (head.method, put.method) == ("HEAD", "PUT")
    assert put.path.endswith(f"/{ALIAS}/{storage_path(name)}")
    assert put.headers["Content-Type"] == "application/octet-stream"
    assert put.headers["Cache-Control"] == "max-age=259200"
    assert put.headers["x-amz-acl"] == "public-read"
    assert put.headers["Host"] == f"127.0.0.1:{front.port}"
    assert put.headers["Content-MD5"]


@pytest.mark.parametrize(
    ("peek", "methods"), [("on", "HEAD PUT HEAD HEAD"), ("off", "PUT PUT HEAD")]
)
def test_an_object_is_looked_for_before_it_is_put_where_that_is_wanted(
    front: Front, tmp_path: Path, objects: Objects, peek: str, methods: str
) -> None:
    s3 = storage(tmp_path, front, PEEK_BEFORE_PUT=peek, X_AMZ_ACL="")
    staged(objects)
    for _ in range(2):
        s3.put_all(objects.directory, s3.lacking(objects.names))
    assert s3.lost(objects.names, s3.mark()) == set()
    assert [request.method for request in front.requests] == methods.split()
    assert not any(request.headers["x-amz-acl"] for request in front.requests)


def test_a_thousand_objects_are_put(server: S3Server, tmp_path: Path, objects: Objects) -> None:
    upstream = conf(tmp_path, server.bucket(), server.port, PEEK_BEFORE_PUT="off")
    s3 = S3Storage(S3Settings.read(upstream))
    names = [staged(objects, b"%d" % number) for number in range(1000)]
    s3.put_all(objects.directory, names)
    assert s3.has([*names, ABSENT]) == set(names)
    for number in (0, 999):
        assert decompress(s3.get(names[number])) == b"%d" % number


def test_objects_are_put_over_few_connections_that_are_kept(
    front: Front, tmp_path: Path, objects: Objects
) -> None:
    limit = 4
    s3 = storage(tmp_path, front, MAX_NUMBER_OF_PARALLEL_CONNECTIONS=str(limit))
    names = [staged(objects, b"%d" % number) for number in range(40)]
    s3.put_all(objects.directory, names)
    assert s3.has(names) == set(names)
    assert 1 < front.busy <= limit
    assert front.connections <= limit


@pytest.mark.parametrize("dns", ["true", "false"])
def test_the_bucket_may_be_part_of_the_hosts_name(
    hosts: S3Server, server: S3Server, tmp_path: Path, objects: Objects, dns: str
) -> None:
    with Front(hosts if dns == "true" else server) as front:
        s3 = storage(
            tmp_path,
            front,
            HOST=HOST,
            PORT="8080",
            DNS_BUCKETS=dns,
            PROXY=f"http://127.0.0.1:{front.port}",
        )
        name = staged(objects)
        s3.put_all(objects.directory, [name])
        assert s3.has([name]) == {name}
        expected = f".{HOST}:8080" if dns == "true" else f"{HOST}:8080"
        assert front.requests[0].headers["Host"].endswith(expected)
        found = front.server.root / s3._settings.bucket / ALIAS / storage_path(name)
        assert found.read_bytes() == objects.path(name).read_bytes()


@pytest.mark.parametrize("dns", ["true", "false"])
@pytest.mark.parametrize("acl", ["public-read", ""])
def test_requests_are_signed_by_v2_where_no_region_is_set(
    unsigned: S3Server, tmp_path: Path, objects: Objects, dns: str, acl: str
) -> None:
    with Front(unsigned) as front:
        name = unsigned.bucket()
        more = {"REGION": "-", "HOST": HOST, "DNS_BUCKETS": dns, "X_AMZ_ACL": acl}
        proxy = f"http://127.0.0.1:{front.port}"
        s3 = S3Storage(S3Settings.read(conf(tmp_path, name, front.port, **more, PROXY=proxy)))
        front.faults = [checks_v2(name)] * 4
        # The server behind knows paths alone: what is right is not found, what is wrong refused.
        assert s3.has([ABSENT]) == set()
        object_name = staged(objects)
        if dns == "false":
            s3.put_all(objects.directory, [object_name])
            assert s3.has([object_name]) == {object_name}
        answers = front.requests[0].headers["Authorization"]
        assert answers.startswith(f"AWS {ACCESS}:")
        front.faults = [checks_v2(name)]
        assert s3._bucket.answer("HEAD", "nothing").status == 404


def test_a_wrong_secret_is_told_and_shown_nowhere(
    front: Front, tmp_path: Path, objects: Objects, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    wrong = "what-nobody-may-see"
    s3 = storage(tmp_path, front, SECRET_KEY=wrong)
    name = staged(objects)
    with pytest.raises(RepositoryError, match="status 403 SignatureDoesNotMatch") as told:
        s3.put_all(objects.directory, [name])
    shown = f"{told.value} {caplog.text} {s3._settings}"
    for secret in (wrong, SECRET, ACCESS):
        assert secret not in shown


FAULTS = {
    "status 429": says(429, "TooManyRequests"),
    "status 500": says(500, "InternalError"),
    "status 503": says(503, "SlowDown"),
    "RequestTimeout": says(400, "RequestTimeout"),
    "hangs up": hangs_up,
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("method", ["HEAD", "PUT", "GET", "DELETE"])
def test_what_fails_is_tried_again(
    front: Front,
    tmp_path: Path,
    objects: Objects,
    pauses: list[float],
    fault: Fault,
    method: str,
) -> None:
    s3 = storage(tmp_path, front)
    name = staged(objects)
    front.breaks = lambda request: request.method == method
    front.faults = [fault] * 3
    s3.put_all(objects.directory, [name])
    assert decompress(s3.get(name)) == b"content"
    s3.delete(name)
    assert s3.has([name]) == set()
    assert len(pauses) == 3
    assert all(0 < pause <= 2 for pause in pauses)


def test_an_answer_that_breaks_off_is_asked_for_again(
    front: Front, tmp_path: Path, objects: Objects
) -> None:
    s3 = storage(tmp_path, front)
    name = staged(objects)
    s3.put_all(objects.directory, [name])
    front.faults = [breaks_off] * 3
    assert decompress(s3.get(name)) == b"content"


@pytest.mark.parametrize("region", ["us-east-1", "-"])
def test_what_is_damaged_on_the_way_is_sent_again(
    server: S3Server, unsigned: S3Server, tmp_path: Path, objects: Objects, region: str
) -> None:
    with Front(unsigned if region == "-" else server) as front:
        s3 = storage(tmp_path, front, REGION=region)
        name = staged(objects)
        front.breaks = lambda request: request.method == "PUT"
        front.faults = [loses_a_byte] * 2
        s3.put_all(objects.directory, [name])
        assert decompress(s3.get(name)) == b"content"
        assert [request.method for request in front.requests].count("PUT") == 3


@pytest.mark.parametrize(
    ("headers", "pause"),
    [
        ({"Retry_After": "3"}, 3.0),
        ({"X_Retry_In": "250ms"}, 0.25),
        ({"Retry_After": "86400"}, 10.0),
        ({"Retry_After": formatdate(usegmt=True)}, None),
        ({"Retry_After": "-1"}, None),
    ],
)
def test_the_pause_that_a_server_asks_for_is_made(
    front: Front,
    tmp_path: Path,
    pauses: list[float],
    headers: dict[str, str],
    pause: float | None,
) -> None:
    s3 = storage(tmp_path, front)
    front.faults = [says(429, **headers)] * 20
    assert s3.has([ABSENT]) == set()
    assert len(pauses) == 20  # one request too many is no fault
    assert all(0 < made <= 2 if pause is None else made == pause for made in pauses)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (says(500, "InternalError"), "status 500 InternalError"),
        (says(429), "status 429"),
        (hangs_up, "failed 4 times"),
        (says(301, "PermanentRedirect", Location="http://elsewhere/"), "status 301 Permanent"),
        (says(501, "NotImplemented"), "status 501 NotImplemented"),
        (says(403, "AccessDenied"), "status 403 AccessDenied"),
    ],
)
def test_what_goes_on_failing_is_told(
    front: Front, tmp_path: Path, objects: Objects, fault: Fault, words: str
) -> None:
    s3 = storage(tmp_path, front)
    front.faults = [fault] * 1000
    front.breaks = lambda request: request.method in ("PUT", "DELETE")
    name = staged(objects)
    for work in (
        lambda: s3.put_all(objects.directory, [name]),
        lambda: s3.delete(name),
    ):
        with pytest.raises(RepositoryError, match=words) as told:
            work()
        assert ACCESS not in str(told.value)


def test_one_that_fails_ends_the_others_soon(
    front: Front, tmp_path: Path, objects: Objects
) -> None:
    s3 = storage(tmp_path, front, MAX_NUMBER_OF_PARALLEL_CONNECTIONS="2")
    names = [staged(objects, b"%d" % number) for number in range(200)]
    front.faults = [says(403, "AccessDenied")] * 1000
    with pytest.raises(RepositoryError, match="AccessDenied"):
        s3.put_all(objects.directory, names)
    assert len(front.requests) < 200


@pytest.mark.parametrize("fault", [says(507), says(403, "QuotaExceeded")])
def test_a_full_bucket_is_no_space(
    front: Front, tmp_path: Path, objects: Objects, fault: Fault
) -> None:
    s3 = storage(tmp_path, front, PEEK_BEFORE_PUT="off")
    front.faults = [fault]
    name = staged(objects)
    with pytest.raises(NoSpace, match="make room"):
        s3.put_all(objects.directory, [name])


def test_what_is_forbidden_may_be_what_is_not_there(front: Front, tmp_path: Path) -> None:
    s3 = storage(tmp_path, front)
    front.faults = [says(403)] * 2
    assert s3.has([ABSENT]) == set()
    with pytest.raises(NotThere, match="not there, or may not be read: status 403"):
        s3.file(PUBLISHED)


def test_a_server_that_is_away_is_told(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        upstream = conf(tmp_path, "bucket", nobody.getsockname()[1])
        s3 = S3Storage(S3Settings.read(upstream))
        with pytest.raises(RepositoryError, match=r"failed 4 times.*refused.*CVMFS_S3_HOST"):
            s3.has([ABSENT])


# --- settings ---------------------------------------------------------------


def test_settings_are_cvmfs_own_where_nothing_is_set(tmp_path: Path) -> None:
    upstream = conf(tmp_path, "@org@-b", 1, HOST=HOST, PORT="-", DNS_BUCKETS="-", REGION="-")
    found = S3Settings.read(upstream)
    assert found.url == f"http://unpacked-b.{HOST}"
    assert (found.signature, found.acl, found.peek) == ("V2", "public-read", True)
    assert (found.connections, found.retries, found.seconds) == (16, 3, 60)


@pytest.mark.parametrize(
    ("more", "signature"),
    [
        ({"REGION": "-", "FLAVOR": "awsv4"}, "V4"),
        ({"REGION": "-", "FLAVOR": "awsv2"}, "V2"),
        ({"REGION": "x", "FLAVOR": "awsv2"}, "V2"),
        ({"REGION": "x"}, "V4"),
        ({"FLAVOR": "azure"}, "azure"),
    ],
)
def test_the_flavor_says_how_requests_are_signed(
    tmp_path: Path, more: dict[str, str], signature: str
) -> None:
    assert S3Settings.read(conf(tmp_path, "bucket", 1, **more)).signature == signature


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"HOST": "-"}, "CVMFS_S3_HOST is not set"),
        ({"SECRET_KEY": ""}, "CVMFS_S3_SECRET_KEY is not set"),
        ({"FLAVOR": "gcs"}, "CVMFS_S3_FLAVOR is 'gcs'"),
        ({"X_AMZ_ACL": "mine"}, "CVMFS_S3_X_AMZ_ACL is 'mine'"),
        ({"MAX_RETRIES": "many"}, "CVMFS_S3_MAX_RETRIES is 'many'"),
    ],
)
def test_settings_that_mean_nothing_are_told(
    tmp_path: Path, more: dict[str, str], words: str
) -> None:
    with pytest.raises(RepositoryError, match=words) as told:
        S3Settings.read(conf(tmp_path, "bucket", 1, **more))
    assert "s3.conf" in str(told.value)
    assert SECRET not in str(told.value)


@pytest.mark.parametrize("upstream", ["", "S3", "S3,/tmp", "S3,/tmp,alias", "local,/tmp,a@b"])
def test_an_upstream_that_is_no_bucket_is_refused(upstream: str) -> None:
    with pytest.raises(RepositoryError, match="CVMFS_UPSTREAM_STORAGE"):
        S3Settings.read(upstream)


def server_settings(upstream: str, url: str = "http://127.0.0.1:1") -> ServerSettings:
    values = {"CVMFS_UPSTREAM_STORAGE": upstream, "CVMFS_STRATUM0": url}
    return ServerSettings.parse(ALIAS, values)


def test_a_repository_in_a_bucket_is_published_by_catalogs(tmp_path: Path) -> None:
    settings = server_settings(conf(tmp_path, "bucket", 1))
    assert list(obstacles(settings)) == []
    assert isinstance(open_storage(settings), S3Storage)


def test_a_machine_without_the_storage_reads_as_everybody(tmp_path: Path) -> None:
    settings = server_settings(f"local,{tmp_path}/txn,{tmp_path}/storage")
    assert isinstance(open_storage(settings), HttpStorage)
    (tmp_path / "storage").mkdir()
    assert isinstance(open_storage(settings), LocalStorage)


def test_azures_storage_is_left_to_cvmfs_server(tmp_path: Path) -> None:
    settings = server_settings(conf(tmp_path, "bucket", 1, FLAVOR="azure"))
    assert any("Azure" in why for why in obstacles(settings))
    assert isinstance(open_storage(settings), HttpStorage)


def test_who_may_not_read_the_keys_reads_as_everybody_and_publishes_nothing(
    tmp_path: Path,
) -> None:
    settings = server_settings(f"S3,/tmp,{ALIAS}@{tmp_path}/s3.conf")
    assert isinstance(open_storage(settings), HttpStorage)
    with pytest.raises(RepositoryError, match="repository's owner"):
        list(obstacles(settings))


def test_a_bucket_that_not_everybody_may_read_is_told(server: S3Server) -> None:
    url = f"http://127.0.0.1:{server.port}/{server.bucket()}"
    with pytest.raises(RepositoryError, match=r"by everybody: .*status 40[03]; see CVMFS_STRATUM0"):
        check_public(server_settings("", url))


def test_nothing_of_s3_is_imported_where_it_is_not_used() -> None:
    code = "import sys, duccmake.repository.cvmfs.backend; print('botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
