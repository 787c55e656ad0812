"""A publisher of root catalogs that is killed at any point, and what the next one makes of it."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from duccmake.errors import RepositoryLocked
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
    "before the transaction ends": "Transactions._give_up = killing(Transactions._give_up)",
    "once the transaction has ended": "Claim.forget = killing(Claim.forget, at=2)",
}
PLACES = BEFORE | AFTER

CHILD = """
    import os, pickle, signal, sys
    sys.path[:0] = sys.argv[3:]
    from duccmake.repository.cvmfs.claim import Claim
    from duccmake.repository.cvmfs.publication import Publication
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

    exec(sys.argv[2])
    cvmfs, base, name = pickle.loads(open(sys.argv[1], "rb").read())
    commit_file(cvmfs, base, name)
"""


def run_child(tmp_path: Path, cvmfs, place: str, name: str) -> None:
    order = tmp_path / "order"
    order.write_bytes(pickle.dumps((cvmfs, tmp_path / "objects", name)))
    arguments = [str(order), PLACES[place], *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(CHILD), *arguments], capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


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
