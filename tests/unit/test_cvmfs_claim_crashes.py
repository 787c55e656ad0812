"""A publisher of root catalogs that is killed at any point, and what the next one makes of it."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from duccmake.errors import RepositoryLocked
from duccmake.repository.cvmfs import transaction
from support.cvmfs_commits import commit_file, manifest_of, newest, transactions_of

FLAG = "in_transaction.lock"
CLAIM = "duccmake-transaction.lock"

# Each is killed when it comes to the place, which is given as a patch of the program.
BEFORE = {
    "before it claims anything": "Claim.held = killing(Claim.held)",
    "with a claim that is no transaction": "Claim._give_away = killing(Claim._give_away)",
    "with a transaction, and nobody kept from ending it":
        "Claim._publishing = killing(Claim._publishing)",
    "with the publishers' lock": "Claim._publishing = killing_after(Claim._publishing)",
    "with everything stored": "Publication.publish = killing(Publication.publish)",
    "before the tags": "Tools.add_tag = killing(Tools.add_tag)",
    "after the tags": "Tools.add_tag = killing_after(Tools.add_tag)",
    "before the signature": "Tools.sign = killing(Tools.sign)",
}  # fmt: skip
AFTER = {
    "after the signature": "Tools.sign = killing_after(Tools.sign)",
    "before this machine is told": "Publication.show = killing(Publication.show)",
    "once it is noted what to mount": "Tools.chroot = killing(Tools.chroot)",
    "once it is mounted": "Tools.chroot = killing_after(Tools.chroot)",
    "before it is mounted anew": "Server.mount_anew = killing(Server.mount_anew)",
    "while it is mounted anew": "Server._end_of = killing(Server._end_of)",
    "with nothing mounted": "Server.mount_anew = unmounting",
    "before the transaction ends": "Claim.end = killing(Claim.end)",
    "before it is forgotten": "Transactions._give_up = killing(Transactions._give_up)",
    "once the transaction has ended": "Claim.forget = killing(Claim.forget, at=2)",
}
PLACES = BEFORE | AFTER

CHILD = """
    import os, pickle, signal, subprocess, sys
    sys.path[:0] = sys.argv[3:]
    from duccmake.repository.cvmfs.claim import Claim
    from duccmake.repository.cvmfs.publication import Publication
    from duccmake.repository.cvmfs.server import Server
    from duccmake.repository.cvmfs.tools import Tools
    from duccmake.repository.cvmfs.transaction import Transactions
    from support.cvmfs_commits import commit_file
    from support.cvmfs_repositories import Real, StandIn

    def kill():
        os.kill(os.getpid(), signal.SIGKILL)

    def killing(real, at=1):
        calls = iter(range(1, at))
        def call(*arguments, **more):
            if next(calls, None) is None:
                kill()
            return real(*arguments, **more)
        return call

    def killing_after(real):
        def call(*arguments, **more):
            real(*arguments, **more)
            kill()
        return call

    def unmounting(server, token, lock):
        for step in ("rw_umount", "rdonly_umount"):
            subprocess.run(["cvmfs_suid_helper", step, server.settings.name], check=True)
        kill()

    exec(sys.argv[2])
    cvmfs, base, name = pickle.loads(open(sys.argv[1], "rb").read())
    commit_file(cvmfs, base, name)
"""


def start_child(tmp_path: Path, cvmfs, patch: str, name: str) -> subprocess.Popen[str]:
    order = tmp_path / "order"
    order.write_bytes(pickle.dumps((cvmfs, tmp_path / "objects", name)))
    arguments = [str(order), patch, *sys.path]
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), *arguments], text=True)


def run_child(tmp_path: Path, cvmfs, place: str, name: str) -> None:
    with start_child(tmp_path, cvmfs, PLACES[place], name) as child:
        pass
    assert child.returncode == -signal.SIGKILL, place


def test_the_next_publisher_finds_the_old_or_the_new_and_goes_on(cvmfs, tmp_path):
    for number, place in enumerate(PLACES):
        before = manifest_of(cvmfs)
        run_child(tmp_path, cvmfs, place, f"killed-{number}")
        transactions_of(cvmfs).recover()

        assert not (cvmfs.spool / FLAG).exists(), place
        assert not (cvmfs.spool / CLAIM).exists(), place
        is_new = manifest_of(cvmfs).revision == before.revision + 1
        assert is_new if place in AFTER else manifest_of(cvmfs) == before, place
        assert cvmfs.revision() == manifest_of(cvmfs).revision, place
        assert (cvmfs.spool / "rdonly" / f"killed-{number}").exists() == is_new, place

        commit_file(cvmfs, tmp_path / "objects", f"next-{number}")
        with newest(cvmfs) as revision:
            assert revision.read(f"/next-{number}".encode()), place
        cvmfs.server("transaction", cvmfs.name)
        cvmfs.server("abort", "-f", cvmfs.name)
    assert cvmfs.problems() == ""


@pytest.mark.parametrize(
    "place", ["before it claims anything", "with a claim that is no transaction"]
)
def test_what_a_dead_publisher_left_does_not_cost_the_operator_a_transaction(
    cvmfs, tmp_path, place
):
    run_child(tmp_path, cvmfs, place, "killed")
    cvmfs.server("transaction", cvmfs.name)
    _is_left_to_the_operator(cvmfs, tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "with a transaction, and nobody kept from ending it",
        "with the publishers' lock",
        "before the signature",
        "with nothing mounted",
        "before the transaction ends",
    ],
)
def test_operator_who_ended_a_dead_publishers_transaction_has_the_next_one_for_good(
    cvmfs, tmp_path, place
):
    run_child(tmp_path, cvmfs, place, "killed")
    cvmfs.server("abort", "-f", cvmfs.name)
    cvmfs.server("transaction", cvmfs.name)
    _is_left_to_the_operator(cvmfs, tmp_path)


SHIM = """\
#!/bin/sh
case "$1" in sign)
    : >{begun}
    read -r _ <{go}
esac
exec {program} "$@"
"""


def test_what_a_dead_publisher_has_started_is_waited_for(cvmfs, tmp_path, monkeypatch):
    """Its signature would come after that of the next, and take back what that has published."""
    shim, begun, go = (tmp_path / name for name in ("bin/cvmfs_swissknife", "begun", "go"))
    shim.parent.mkdir()
    program = shutil.which("cvmfs_swissknife")
    shim.write_text(SHIM.format(begun=begun, go=go, program=program))
    shim.chmod(0o755)
    os.mkfifo(go)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{shim.parent}:{os.environ['PATH']}")
        with start_child(tmp_path, cvmfs, "", "of-the-dead") as child:
            while child.poll() is None and not begun.exists():
                os.sched_yield()
            child.kill()
    assert child.returncode == -signal.SIGKILL

    before = manifest_of(cvmfs)
    with monkeypatch.context() as patch, pytest.raises(RepositoryLocked):
        patch.setattr(transaction, "_GRACE_SECONDS", 0)
        transactions_of(cvmfs).recover()
        commit_file(cvmfs, tmp_path / "objects", "of-the-next")
    assert manifest_of(cvmfs) == before
    go.write_bytes(b"\n")
    transactions_of(cvmfs, 60).recover()
    commit_file(cvmfs, tmp_path / "objects", "of-the-next", seconds=60)
    assert manifest_of(cvmfs).revision == before.revision + 2
    for name in ("of-the-dead", "of-the-next"):
        assert (cvmfs.spool / "rdonly" / name).read_text() == name
    assert cvmfs.problems() == ""


def _is_left_to_the_operator(cvmfs, tmp_path: Path) -> None:
    (cvmfs.mounts / cvmfs.name / "of-the-operator").write_text("work")
    assert transactions_of(cvmfs).recover() == ""
    with pytest.raises(RepositoryLocked):
        commit_file(cvmfs, tmp_path / "objects", "ours")
    assert (cvmfs.mounts / cvmfs.name / "of-the-operator").read_text() == "work"
    cvmfs.server("publish", cvmfs.name)
    commit_file(cvmfs, tmp_path / "objects", "ours")
    assert (cvmfs.spool / "rdonly/of-the-operator").read_text() == "work"
    assert cvmfs.problems() == ""
