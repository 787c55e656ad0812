"""A publisher that is killed at any point, and what the next one makes of it."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
from contextlib import suppress

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.repository.cvmfs.server import processes
from support.staged_trees import TOP, file, publish, stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")

# Each is killed when it comes to the place, which is given as a patch of the program.
PLACES = {
    "before cvmfs_server is started": """
        Server._started = killing(Server._started)
    """,
    "before the open transaction is noted": """
        Transaction.look = killing(Transaction.look)
    """,
    "with the transaction open": """
        Transaction.look = killing_after(Transaction.look)
    """,
    "in the middle of the archive": """
        TarStream.add = killing(TarStream.add, at=lambda self, head: self.members > 25)
    """,
    "in the middle of a file": """
        TarStream._write = killing_after(TarStream._write)
    """,
    "before the archive ends": """
        TarStream.close = killing(TarStream.close)
    """,
    "while cvmfs_server commits": """
        TarStream.close = killing_after(TarStream.close)
    """,
    "after the commit": """
        Server._outcome = killing(Server._outcome)
    """,
}

HARDEST = (
    "with the transaction open",
    "in the middle of the archive",
    "while cvmfs_server commits",
)
"""Where the death of everything else is tried on the real one, which takes its time."""

UNKNOWN = "before the open transaction is noted"

CHILD = """
    import os, pickle, signal, sys
    sys.path[:0] = sys.argv[4:]
    from support.cvmfs_repositories import Real, StandIn
    from duccmake.repository.cvmfs import tar_writer
    from duccmake.repository.cvmfs.next_revision import NextRevision
    from duccmake.repository.cvmfs.publication import Publication
    from duccmake.repository.cvmfs.server import Server
    from duccmake.repository.cvmfs.tar_writer import TarStream
    from duccmake.repository.cvmfs.transaction import Transaction
    from support.staged_trees import publish

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def killing(real, at=lambda *arguments: True):
        def call(*arguments, **more):
            if at(*arguments):
                kill()
            return real(*arguments, **more)
        return call

    def killing_after(real):
        def call(*arguments, **more):
            real(*arguments, **more)
            kill()
        return call

    # Every piece is written at once, so that there are places within small archives.
    tar_writer._PIECE = 1024
    exec(sys.argv[2])
    cvmfs, changes = pickle.loads(open(sys.argv[1], "rb").read())
    publish(cvmfs.open(publisher=sys.argv[3]), changes)
"""


def run_child(tmp_path, cvmfs, changes, patch, publisher="ingest") -> int:
    order = tmp_path / "order"
    order.write_bytes(pickle.dumps((cvmfs, changes)))
    arguments = [str(order), textwrap.dedent(patch), publisher, *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    return done.returncode


def kill_rest(cvmfs) -> bool:
    """Kill what the dead publisher started, as a crash of the machine would.

    Returns whether it had noted which transaction is its own.
    """
    journal = json.loads((cvmfs.spool / "duccmake" / "transaction.json").read_bytes())
    for process in processes(journal["token"]):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return journal["mark"] is not None


@pytest.mark.parametrize("rest", ["goes on", "dies too"])
def test_the_next_publisher_finds_the_old_or_the_new_and_goes_on(cvmfs, tmp_path, rest):
    staging = tmp_path / "staging"
    repository = cvmfs.open(lock_seconds=1, publisher="ingest")
    for number, (place, patch) in enumerate(PLACES.items()):
        if cvmfs.real and rest == "dies too" and place not in HARDEST:
            continue
        name = f"registry.example.org/tools/app:{number}"
        top = [*TOP, file(f"of-{number}", os.urandom(9000))]
        changes = stage(staging, name, top)
        run_child(tmp_path, cvmfs, changes, patch)
        if rest == "dies too":
            # Part of an archive may be written before the transaction is open, and noted.
            is_noted = kill_rest(cvmfs)
            assert not (is_noted and place == UNKNOWN)
            if not is_noted and (cvmfs.spool / "in_transaction.lock").exists():
                # Nothing is left that could tell whose transaction it is.
                with pytest.raises(RepositoryLocked):
                    publish(repository, changes)
                cvmfs.server("abort", "-f", cvmfs.name)
        publish(repository, changes)
        assert repository.verify(name) == [], place
        assert not (cvmfs.spool / "in_transaction.lock").exists(), place
    assert cvmfs.problems() == ""


def test_what_a_dead_publisher_left_does_not_cost_the_operator_a_transaction(cvmfs, tmp_path):
    """The journal tells of a transaction that was never opened; the one that is, is another's."""
    changes = stage(tmp_path / "staging")
    run_child(tmp_path, cvmfs, changes, PLACES["before cvmfs_server is started"])
    cvmfs.server("transaction", cvmfs.name)
    (cvmfs.mounts / cvmfs.name / "of-the-operator").write_text("work")
    repository = cvmfs.open(publisher="ingest")
    with pytest.raises(RepositoryLocked):
        publish(repository, changes)
    assert (cvmfs.mounts / cvmfs.name / "of-the-operator").read_text() == "work"
    cvmfs.server("publish", cvmfs.name)
    publish(repository, changes)
    assert (repository.path / "of-the-operator").read_text() == "work"


@pytest.mark.parametrize(
    "patch",
    [
        "NextRevision.graft = killing(NextRevision.graft)",
        "NextRevision.finish = killing_after(NextRevision.finish)",
        "Publication.publish = killing(Publication.publish)",
    ],
)
def test_nothing_is_left_of_a_revision_whose_publisher_died_but_what_is_collected(
    cvmfs, tmp_path, patch
):
    changes = stage(tmp_path / "staging")
    run_child(tmp_path, cvmfs, changes, patch, "catalogs")
    repository = cvmfs.open(publisher="catalogs")
    publish(repository, changes)
    assert repository.verify(changes.images[0].name) == []
    assert not (cvmfs.spool / "in_transaction.lock").exists()
    # What was stored for the revision that nobody signed stays noted, for gc to free.
    assert list((cvmfs.spool / "duccmake").glob("objects-*")) == []
    assert cvmfs.problems() == ""
