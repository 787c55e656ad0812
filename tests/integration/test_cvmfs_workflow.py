"""Whole runs into CernVM-FS: the stand-in's, and where there is one the real."""

from __future__ import annotations

import os
import time

import pytest

from duccmake.cvmfs.objects import names_of
from duccmake.demo.images import host_platform
from duccmake.layer.catalogs import StagedCatalogs
from duccmake.state.store import FILE, load
from duccmake.tree import mtree
from support import images
from support.cvmfs_repositories import both, repository_for
from support.kept_state import document_of
from support.on_disk import OnDisk
from support.runs import Work, sample_work
from support.trees import differences, snapshot

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root")


@pytest.fixture(params=both())
def cvmfs(request, tmp_path, monkeypatch):
    return repository_for(request.param, tmp_path, monkeypatch)


@pytest.fixture
def work(tmp_path, cvmfs):
    backend = {
        "backend": "cvmfs",
        "mounts": str(cvmfs.mounts),
        "server_config": str(cvmfs.server_config),
    }
    with sample_work(tmp_path, repository=backend) as work:
        work.wish("{host}/demo/hello:*", "{host}/demo/tools:2024", cvmfs_repo=cvmfs.name)
        yield work


def test_images_are_converted_left_alone_moved_and_pruned(work, cvmfs, tmp_path):
    before = cvmfs.revision()
    work.run("--dry-run", check=True)
    assert cvmfs.revision() == before

    first = work.run(check=True)
    assert first.counts == (3, 0, 0, 0)
    repository = cvmfs.open()
    names = [work.named(f"demo/{image}") for image in ("hello:1.0", "hello:latest", "tools:2024")]
    assert list(repository.names()) == names
    for name in names:
        assert repository.verify(name) == []
    assert before < cvmfs.revision() <= before + 3

    at = cvmfs.revision()
    again = work.run()
    assert (again.status, again.counts) == (0, (0, 3, 0, 0))
    assert cvmfs.revision() == at

    images.move_tag(work.host)
    moved = work.run(check=True)
    assert moved.counts == (1, 2, 0, 0)
    assert cvmfs.revision() == at + 1

    # As the directory backend has it, entry by entry.
    plain = Work(tmp_path / "plain", work.registry)
    plain.wish("{host}/demo/hello:*", "{host}/demo/tools:2024")
    plain.configure(platforms=[str(host_platform())])
    plain.run(check=True)
    for name in names:
        wanted = snapshot(OnDisk(plain.repository.path).link(name).resolve())
        found = snapshot(OnDisk(repository.path).link(name).resolve())
        found = {path: node for path, node in found.items() if b".cvmfscatalog" not in path}
        assert differences(wanted, found, ignore=("group", "mtime_ns")) == []

    work.wish("{host}/demo/tools:2024", cvmfs_repo=cvmfs.name)
    work.run("prune", "--config", "force_removal=true", check=True)
    repository = cvmfs.open()  # one shows one revision
    assert list(repository.names()) == names[2:]
    assert repository.verify(names[2]) == []
    assert cvmfs.problems() == ""


def test_what_is_kept_of_images_stands_in_the_spool_area_with_their_revisions(work, cvmfs):
    began, before = time.time(), cvmfs.revision()
    work.run("-n", check=True)
    kept = cvmfs.open().own_directory
    assert not (kept / FILE).exists()
    work.run(check=True)
    first = cvmfs.revision()
    images.move_tag(work.host)
    work.run(check=True)
    found = {image["title"]: image for image in document_of(work)["images"]}
    moved, stayed = (found[work.named(f"demo/{name}")] for name in ("hello:latest", "tools:2024"))
    assert moved["revision"] == cvmfs.revision() == first + 1
    assert before < stayed["revision"] <= first
    assert began - 1 < stayed["published"] <= moved["published"] <= time.time()
    lives = load(kept).lives
    assert lives[moved["title"]].published == moved["current"]
    assert len(lives[moved["title"]].moves) == 2


@pytest.mark.parametrize("cvmfs", both()[:1], indirect=True)
def test_cvmfs_server_ingests_what_jobs_have_staged_where_that_is_wished(work, cvmfs):
    work.configure(
        repository={
            "backend": "cvmfs",
            "mounts": str(cvmfs.mounts),
            "server_config": str(cvmfs.server_config),
            "publisher": "ingest",
        },
    )
    assert work.run(check=True).counts == (3, 0, 0, 0)
    repository = cvmfs.open()
    for image in ("hello:1.0", "hello:latest", "tools:2024"):
        assert repository.verify(work.named(f"demo/{image}")) == []
    images.move_tag(work.host)
    assert work.run(check=True).counts == (1, 2, 0, 0)
    assert cvmfs.problems() == ""


def test_without_a_mount_a_run_says_so_before_it_starts(work, cvmfs):
    (cvmfs.server_config / cvmfs.name / "server.conf").rename(work.path / "aside")
    try:
        work.configure(
            repository={
                "backend": "cvmfs",
                "mounts": str(work.path / "nowhere"),
                "server_config": str(cvmfs.server_config),
            },
        )
        run = work.run("--dry-run")
    finally:
        (work.path / "aside").rename(cvmfs.server_config / cvmfs.name / "server.conf")
    assert run.status != 0
    assert "is not mounted" in run.said


def test_a_machine_without_cvmfs_sees_over_http_what_a_run_would_do(work, cvmfs, monkeypatch):
    work.run(check=True)
    backend = {
        "backend": "cvmfs",
        "mounts": str(work.path / "nowhere"),
        "server_config": str(work.path / "nowhere"),
        "url": cvmfs.url,
    }
    if cvmfs.real:
        backend["public_key"] = f"/etc/cvmfs/keys/{cvmfs.name}.pub"
    work.configure(repository=backend)
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    assert "0 pending, 3 up to date" in work.run("--dry-run", check=True).said
    images.move_tag(work.host)
    run = work.run("--dry-run", check=True)
    assert "1 pending, 2 up to date" in run.said
    run = work.run()
    assert run.status != 0
    assert "this machine does not publish" in run.said


def test_jobs_stage_catalogs_of_all_that_is_to_be_published_by_them(work, cvmfs):
    work.configure(
        platforms=[str(host_platform())],
        repository={
            "backend": "cvmfs",
            "mounts": str(cvmfs.mounts),
            "server_config": str(cvmfs.server_config),
            "prefix": "images",
            "publisher": "catalogs",
        },
    )
    work.run("--until", "flatten_image", "--notemp", check=True)
    results = work.path / "results" / cvmfs.name
    layers = [StagedCatalogs.read(path / "layer") for path in (results / "layers").iterdir()]
    flats = [path / "image" for path in (results / "flat").iterdir()]
    assert layers
    assert flats
    assert all(layer.tree.at.startswith(b"/images/.layers/") for layer in layers)
    for flat in flats:
        staged = StagedCatalogs.read(flat)
        assert staged.tree.at.startswith(b"/images/.flat/")
        contents = staged.contents()
        for entry in mtree.read(flat / "tree.mtree"):
            if entry.kind == mtree.FILE:
                names = set(names_of(contents.of(entry.path)))
                assert any(names <= each.objects.names.keys() for each in [staged, *layers])
