"""What a revision consists of reaches the disk before it is signed, and before anybody waits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from duccmake.cvmfs.manifest import Manifest
from duccmake.cvmfs.names import Kind, storage_path
from duccmake.cvmfs.storage.local import LocalStorage
from duccmake.repository.cvmfs.claim import Claim
from duccmake.repository.cvmfs.tools import Tools
from support.cvmfs_commits import settings_of
from support.staged_trees import stage

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a commit does, in order, as far as it is about what outlasts a loss of power."""
    steps: list[str] = []

    def noted(owner: type, name: str, step: str) -> None:
        does = getattr(owner, name)

        def do(*arguments, **more):
            steps.append(step)
            return does(*arguments, **more)

        monkeypatch.setattr(owner, name, do)

    noted(LocalStorage, "_put", "an object is stored")
    noted(LocalStorage, "sync", "all is on the disk")
    noted(Claim, "held", "the repository is claimed")
    noted(Tools, "sign", "the manifest is signed")
    return steps


def publish(cvmfs, staging) -> None:
    repository = cvmfs.open()
    with repository.lock():
        repository.publish(stage(staging, "registry.example.org/tools/app:1"))


def in_short(steps: list[str]) -> list[str]:
    """The steps, those that are repeated once."""
    return [step for at, step in enumerate(steps) if at == 0 or steps[at - 1] != step]


def test_all_is_on_the_disk_before_the_repository_is_claimed_and_signed(cvmfs, staging, steps):
    publish(cvmfs, staging)
    assert in_short(steps) == [
        "an object is stored",
        "all is on the disk",
        "the repository is claimed",
        "the manifest is signed",
    ]


def test_what_was_collected_meanwhile_is_on_the_disk_again_before_it_is_signed(
    cvmfs, staging, steps, monkeypatch
):
    base = Path(settings_of(cvmfs).upstream.rpartition(",")[2])
    held = Claim.held

    def somebody_collects_garbage(claim):
        for name in Path(staging).glob("**/objects/*"):
            (base / storage_path(name.name)).unlink(missing_ok=True)
        return held(claim)

    monkeypatch.setattr(Claim, "held", somebody_collects_garbage)
    publish(cvmfs, staging)
    assert in_short(steps) == [
        "an object is stored",
        "all is on the disk",
        "the repository is claimed",
        "an object is stored",
        "all is on the disk",
        "the manifest is signed",
    ]
    assert cvmfs.problems() == ""


def test_the_tags_that_are_signed_are_on_the_disk(cvmfs, staging, monkeypatch):
    base = Path(settings_of(cvmfs).upstream.rpartition(",")[2])
    durable, signed = set(), []
    fsync, sign = os.fsync, Tools.sign

    def noted_fsync(file: int) -> None:
        fsync(file)
        durable.add(Path(f"/proc/self/fd/{file}").readlink())

    def noted_sign(tools: Tools, manifest: Path, **more: bool) -> None:
        tags = base / storage_path(Manifest.parse(manifest.read_bytes()).get("H") + Kind.HISTORY)
        signed.append({tags, tags.parent} <= durable)
        sign(tools, manifest, **more)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(Tools, "sign", noted_sign)
    publish(cvmfs, staging)
    assert signed == [True]
