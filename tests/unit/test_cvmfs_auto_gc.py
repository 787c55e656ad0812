"""Garbage collection after a publication, where the repository's server would do it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path, PurePosixPath

import pytest

from duccmake.cvmfs.names import Kind
from duccmake.cvmfs.storage import STATUS
from duccmake.errors import RepositoryError
from duccmake.repository.cvmfs.garbage import Garbage
from duccmake.repository.edits import Edits
from support.cvmfs_commits import manifest_of, settings_of, storage_of
from support.cvmfs_repositories import both

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

COLLECTING = ("CVMFS_GARBAGE_COLLECTION=true", "CVMFS_AUTO_TAG=false")


def put(repository, content: bytes) -> None:
    """Publish a file."""
    with repository.lock():
        edits = Edits(repository.view)
        edits.file(PurePosixPath("note.json"), content)
        repository.edit(edits)


@pytest.fixture
def collected(monkeypatch):
    """The moments since which revisions were to be kept."""
    found: list[str] = []
    monkeypatch.setattr(Garbage, "collect", lambda self, since: found.append(since))
    return found


def last_was(cvmfs, words: str | None) -> None:
    """Have garbage been collected at some time."""
    status = Path(settings_of(cvmfs).upstream.rpartition(",")[2], STATUS)
    date = ["date", "--utc", "--date", words] if words else ["echo", "when it rained"]
    text = subprocess.run(date, capture_output=True, text=True, check=True).stdout.strip()
    status.write_text(json.dumps({"last_check": "never", "last_gc": text}))


ON = ("CVMFS_AUTO_GC=true", *COLLECTING)
SHORT = ("CVMFS_AUTO_GC_LAPSE='1 hour ago'", "CVMFS_AUTO_GC_TIMESPAN='2 weeks ago'", *ON)


@pytest.mark.parametrize(
    ("cvmfs", "last", "since"),
    [
        (("standin", *ON), "2 days ago", ["3 days ago"]),
        (("standin", *ON), "2 hours ago", []),
        (("standin", *SHORT), "2 hours ago", ["2 weeks ago"]),
        (("standin", *ON), "", ["3 days ago"]),
        (("standin", *ON), None, ["3 days ago"]),
        (("standin", *COLLECTING), "2 days ago", []),
        (("standin", "CVMFS_AUTO_GC=true"), "2 days ago", []),
    ],
    indirect=["cvmfs"],
)
def test_garbage_is_collected_when_the_server_would_do_it(cvmfs, last, since, collected):
    if last != "":
        last_was(cvmfs, last)
    put(cvmfs.open(), b"content")
    assert collected == since


@pytest.mark.parametrize(
    "cvmfs",
    both("CVMFS_AUTO_GC_LAPSE='1 minute'", "CVMFS_AUTO_GC_TIMESPAN=now", *ON),
    indirect=True,
)
def test_old_revisions_go_and_what_was_published_stays(cvmfs):
    repository = cvmfs.open(lock_seconds=60)
    put(repository, b"first")
    first = manifest_of(cvmfs).get("C") + Kind.CATALOG
    assert json.loads(storage_of(cvmfs).file(STATUS))["last_gc"]
    for number in range(3):
        put(repository, b"more %d" % number)
    assert not storage_of(cvmfs).has([first])
    assert repository.view.read(PurePosixPath("note.json")) == b"more 2"
    assert cvmfs.problems() == ""


@pytest.mark.parametrize("cvmfs", [("standin", *ON)], indirect=True, ids=["standin"])
def test_collection_that_fails_is_a_warning_and_no_failure_of_what_was_published(
    cvmfs, monkeypatch, caplog
):
    def fail(self, since):
        raise RepositoryError("no more")

    monkeypatch.setattr(Garbage, "collect", fail)
    repository = cvmfs.open()
    put(repository, b"content")
    assert repository.view.read(PurePosixPath("note.json")) == b"content"
    assert any("garbage was not collected: no more" in text for text in caplog.messages)


@pytest.mark.parametrize(
    "cvmfs", [("standin", "CVMFS_AUTO_GC_TIMESPAN='cows'", *ON)], indirect=True, ids=["standin"]
)
def test_timespan_that_nobody_understands_is_a_warning(cvmfs, collected, caplog):
    put(cvmfs.open(), b"content")
    assert collected == []
    assert any("CVMFS_AUTO_GC_TIMESPAN is 'cows'" in text for text in caplog.messages)
