"""Others who publish into the same repository at the same time, by cvmfs_server alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.repository.cvmfs.others import holders, is_at_work
from duccmake.repository.cvmfs.settings import ServerSettings
from support.cvmfs_repositories import STAND_IN, StandIn, both
from support.logs import told
from support.staged_trees import NAME, publish, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

ADVICE = """\
WARNING: The repository {name} is currently publishing and should not
be touched. If you are absolutely sure, that this is _not_ the case,
please run the following command and retry:

    rm -fR /var/spool/cvmfs/{name}/is_publishing.lock
"""
IN_TRANSACTION = """\
Repository {name} is in a transaction and cannot be repaired.
--> Run `cvmfs_server abort $name` to revert and repair.
"""
NO_MOUNT = "(unexpected termination) cannot establish writable mountpoint\n"
NOT_STARTED = "Impossible to start a transaction\n"

REFUSALS = {
    "another remounts": ADVICE + NO_MOUNT,
    "another is about to close its transaction": IN_TRANSACTION + NO_MOUNT,
    "another has just unmounted": "cannot retrieve root hash from read-only mount point\n",
    "another empties what they share": "cannot open tag database\n",
    "another is faster": "CernVM-FS transaction error: another transaction is already open\n",
}

SHIM = """\
#!/bin/sh
refusal="$CVMFS_STANDIN/refusals/$1"
if [ -e "$refusal" ]; then
    cat "$refusal" >&2
    rm "$refusal"
    exit 1
fi
exec {stand_in}/cvmfs_server "$@"
"""


@pytest.fixture
def refusing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cvmfs: StandIn) -> Iterator[StandIn]:
    """A repository of the stand-in's that refuses what ``refuse`` says, once."""
    shims = tmp_path / "shims"
    shims.mkdir()
    shim = shims / "cvmfs_server"
    shim.write_text(SHIM.format(stand_in=STAND_IN))
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", f"{shims}:{os.environ['PATH']}")
    return cvmfs


def refuse(cvmfs: StandIn, command: str, words: str) -> None:
    refusals = cvmfs.base / "refusals"
    refusals.mkdir(exist_ok=True)
    (refusals / command).write_text(words.format(name=cvmfs.name))


@contextmanager
def publishing_lock(cvmfs: StandIn) -> Iterator[None]:
    """Hold what cvmfs_server holds while it publishes and mounts."""
    path = cvmfs.spool / "is_publishing.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
        path.unlink()


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
@pytest.mark.parametrize("words", REFUSALS.values(), ids=REFUSALS)
def test_who_is_refused_because_of_others_tries_again_and_says_so(refusing, staging, words, caplog):
    refuse(refusing, "ingest", words + NOT_STARTED)
    publish(refusing.open(lock_seconds=60, publisher="ingest"), stage(staging))
    assert refusing.open(publisher="ingest").verify(NAME) == []
    assert "waiting: 'cvmfs_server ingest' says: " in caplog.text
    assert "is_publishing.lock" not in caplog.text
    assert "cvmfs_server abort" not in caplog.text


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
@pytest.mark.parametrize("words", REFUSALS.values(), ids=REFUSALS)
def test_who_waited_long_enough_says_what_for_without_advice_to_remove_a_lock(
    refusing, staging, words
):
    refuse(refusing, "ingest", words + NOT_STARTED)
    with pytest.raises(RepositoryLocked, match=r"on unpacked.*wait until it is done") as caught:
        publish(refusing.open(publisher="ingest"), stage(staging))
    assert "is_publishing.lock" not in str(caught.value)
    assert "abort" not in str(caught.value)


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_transaction_of_ours_that_the_lock_of_others_kept_from_publishing_is_taken_back(
    refusing, staging
):
    """As where somebody asks whether anybody publishes, at the very moment."""
    (refusing.spool / "in_transaction.lock").unlink(missing_ok=True)
    shim = Path(os.environ["PATH"].partition(":")[0]) / "cvmfs_server"
    opening = f'[ "$1" != ingest ] || touch {refusing.spool}/in_transaction.lock\n    exit 1'
    shim.write_text(shim.read_text().replace("exit 1", opening))
    refuse(refusing, "ingest", "Failed to acquire publishing lock\n")

    publish(refusing.open(lock_seconds=60, publisher="ingest"), stage(staging))
    assert refusing.open(publisher="ingest").verify(NAME) == []
    assert not (refusing.spool / "in_transaction.lock").exists()


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_what_is_published_and_could_not_be_mounted_at_once_is_no_failure(
    refusing, staging, caplog
):
    """As where another command looks into the mount at the very moment."""
    shim = Path(os.environ["PATH"].partition(":")[0]) / "cvmfs_server"
    shim.write_text(
        f'#!/bin/sh\n{STAND_IN}/cvmfs_server "$@" || exit\n[ "$1" = ingest ] || exit 0\n'
        "echo Remounting newly created repository revision\n"
        "echo umount: rdonly: target is busy.\nexit 32\n"
    )
    publish(refusing.open(publisher="ingest"), stage(staging))
    assert refusing.open(publisher="ingest").verify(NAME) == []
    assert "what was asked for is done" in caplog.text


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_nothing_is_begun_while_another_mounts_what_it_has_published(cvmfs, staging):
    changes = stage(staging)
    before = cvmfs.revision()
    with publishing_lock(cvmfs), pytest.raises(RepositoryLocked, match="somebody publishes"):
        publish(cvmfs.open(), changes)
    assert cvmfs.revision() == before

    with ThreadPoolExecutor() as pool, told("waiting: somebody publishes") as waiting:
        with publishing_lock(cvmfs):
            done = pool.submit(publish, cvmfs.open(lock_seconds=60, publisher="ingest"), changes)
            assert waiting.wait(60)
        done.result(timeout=60)
    assert cvmfs.open().verify(NAME) == []


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_repository_is_not_mounted_while_another_mounts_it(refusing, staging):
    mount = refusing.spool / "rdonly"
    shown = mount.readlink()
    refuse(refusing, "mount", ADVICE)
    with ThreadPoolExecutor() as pool, told("waiting: somebody publishes") as waiting:
        with publishing_lock(refusing):
            mount.unlink()
            mount.mkdir()
            done = pool.submit(
                publish, refusing.open(lock_seconds=60, publisher="ingest"), stage(staging)
            )
            assert waiting.wait(60)
            mount.rmdir()
            mount.symlink_to(shown)
        done.result(timeout=60)
    assert (refusing.base / "refusals/mount").exists(), "it was called"
    assert refusing.open(publisher="ingest").verify(NAME) == []


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_who_only_looks_takes_no_lock_that_others_could_miss(cvmfs):
    assert not is_at_work(cvmfs.spool)
    with publishing_lock(cvmfs):
        assert is_at_work(cvmfs.spool)
    assert not is_at_work(cvmfs.spool)
    assert not (cvmfs.spool / "is_publishing.lock").exists()


def test_who_keeps_the_mounts_in_use_is_named(tmp_path):
    settings = ServerSettings("name", tmp_path / "spool", tmp_path / "union")
    for mount in (settings.published, settings.union):
        mount.mkdir(parents=True)
    assert holders(settings) == []
    tell = "echo; exec sleep 600"
    with (
        running("sh", "-c", tell, cwd=settings.published) as inside,
        running(
            "unshare", "--mount", "sh", "-c", f"mount -t tmpfs none {settings.union}; {tell}"
        ) as apart,
    ):
        assert set(holders(settings)) == {
            f"process {inside} (sleep)",
            f"process {apart} (sleep), in a mount namespace of its own",
        }
    assert holders(settings) == []


@contextmanager
def running(*command: str, cwd: Path | None = None) -> Iterator[int]:
    """A process that has said something, and is about to become a ``sleep``."""
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        while (Path("/proc") / str(process.pid) / "comm").read_text() != "sleep\n":
            os.sched_yield()
        try:
            yield process.pid
        finally:
            process.kill()
