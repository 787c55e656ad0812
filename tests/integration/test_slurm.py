"""Jobs of a Slurm cluster fetch, unpack and flatten; what goes wrong there touches no other."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support.cvmfs_repositories import Real, StandIn, both, repository_for
from support.faulty_registry import FaultyRegistry, Held, status
from support.images import Layer, LayerBuilder
from support.runs import CHECKOUT, Run, Work, fresh_work
from support.samples import AMD64
from support.slurm import Cluster, cluster

PROFILE = ("--workflow-profile", str(CHECKOUT / "profiles/slurm"))
QUICKLY = ("--seconds-between-status-checks", "1", "--latency-wait", "5")

SECRET = "a word that only the stratum 0 may know"
BASE = LayerBuilder().dir("etc").file("etc/base", "base").layer()
LARGE = LayerBuilder().dir("opt").file("opt/large", os.urandom(17 * 1024**2)).layer()

CUT_OFF_ONCE = """
import os, signal, sys
if sys.orig_argv[1:] and sys.orig_argv[1].endswith("unpack_layer.py"):
    try:
        os.close(os.open({mark!r}, os.O_CREAT | os.O_EXCL))
        os.kill(os.getpid(), signal.SIGKILL)
    except FileExistsError:
        pass
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with cluster(tmp_path_factory.mktemp("slurm") / "cluster", nodes=2) as running:
        yield running


@pytest.fixture
def work(tmp_path: Path, slurm: Cluster) -> Iterator[Work]:
    with fresh_work(tmp_path, FaultyRegistry) as work:
        work.environment = {**slurm.environment, "TESTS_PASSWORD": SECRET}
        work.wish()
        work.configure(platforms=[str(AMD64)])
        yield work


def own_layer(name: str) -> Layer:
    return LayerBuilder().dir("etc").file("etc/own", name).layer()


def wish(work: Work, images: Mapping[str, tuple[Layer, ...]], **members: str) -> None:
    for name, layers in images.items():
        work.push(f"team/{name}:1", Image(layers, {}, platform=AMD64))
    work.wish(*(f"{{host}}/team/{name}:1" for name in images), **members)


def run(work: Work) -> Run:
    return work.run(*PROFILE, *QUICKLY)


def made(slurm: Cluster, before: list[list[str]]) -> list[dict[str, str]]:
    """What is known of the jobs that were not there before, in their order."""
    numbers = sorted(int(job[0]) for job in slurm.jobs() if job not in before)
    return [dict(re.findall(r"(\S+?)=(\S*)", slurm.told(str(number)))) for number in numbers]


def is_whole(work: Work, name: str) -> bool:
    return work.repository.verify(work.named(f"team/{name}:1")) == []


@pytest.fixture(params=both())
def cvmfs(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> StandIn | Real:
    if os.geteuid() != 0:
        pytest.skip("cvmfs_server needs root")
    return repository_for(request.param, tmp_path, monkeypatch)


def test_layers_and_trees_are_made_by_jobs_of_their_size_that_know_no_secrets(
    work: Work, slurm: Cluster, cvmfs: StandIn | Real
):
    before = slurm.jobs()
    places = {"mounts": str(cvmfs.mounts), "server_config": str(cvmfs.server_config)}
    work.configure(platforms=[str(AMD64)], repository={"backend": "cvmfs", **places})
    small = {name: (BASE, own_layer(name)) for name in ("one", "two")}
    wish(work, {**small, "large": (BASE, LARGE)}, cvmfs_repo=cvmfs.name)
    done = run(work)
    assert (done.status, done.counts) == (0, (3, 0, 0, 0)), done.said
    repository = cvmfs.open()
    for name in ("one", "two", "large"):
        assert repository.verify(work.named(f"team/{name}:1")) == []

    jobs = made(slurm, before)
    assert {job["JobState"] for job in jobs} == {"COMPLETED"}
    # Small layers share one, a large one has its own, with more memory; so do flat trees.
    by_kind = {job["Comment"].partition("_fetch")[0]: job for job in jobs}
    assert sorted(by_kind) == ["flat_trees_flatten_image", "layer", "small_layers"]
    memory = {kind: job["MinMemoryNode"] for kind, job in by_kind.items()}
    assert memory["layer"] == "318M"
    # Two of a group run side by side.
    assert memory["small_layers"] == "602M"
    # What a job of the cluster says is in the log of its rule, as elsewhere.
    assert len(work.logs("unpack_layer")) == 4

    # Of each job its script and its environment are kept a while.
    kept = slurm.stored()
    assert b"DUCCMAKE_PLAN" in kept
    assert SECRET.encode() not in kept
    # To a run without the cluster it is all the same.
    assert work.run().counts == (0, 3, 0, 0)


def test_what_one_layer_lacks_fails_its_images_alone_and_what_is_cut_off_is_tried_again(
    work: Work, slurm: Cluster, tmp_path: Path
):
    before = slurm.jobs()
    bad = own_layer("bad")
    wish(work, {"bad": (BASE, bad), "worse": (BASE, bad, own_layer("worse")), "good": (BASE,)})
    assert isinstance(work.registry, FaultyRegistry)
    gone = work.registry.break_next(f"^GET .*{bad.digest.hex}", status(404), times=99)
    (tmp_path / "sitecustomize.py").write_text(CUT_OFF_ONCE.format(mark=str(tmp_path / "mark")))
    work.environment = {**work.environment, "PYTHONPATH": str(tmp_path)}
    done = run(work)
    assert done.status == 1
    assert {name: outcome for name, (outcome, _) in done.outcomes.items()} == {
        work.named("team/bad:1"): "failed",
        work.named("team/worse:1"): "failed",
        work.named("team/good:1"): "converted",
    }, done.said
    for name in ("bad", "worse"):
        assert f"fetch layer {bad.digest.short}" in done.outcomes[work.named(f"team/{name}:1")][1]
    assert is_whole(work, "good")

    # All layers share a job, which was cut off once, and then had twice as much.
    first, second, flat = made(slurm, before)
    states = [job["JobState"] for job in (first, second, flat)]
    assert states == ["FAILED", "COMPLETED", "COMPLETED"]
    memory = [int(job["MinMemoryNode"].removesuffix("M")) for job in (first, second)]
    assert memory[1] == 2 * memory[0]

    # It is asked for again, and nothing takes the old failure for a layer.
    gone.times = 0
    again = run(work)
    assert (again.status, again.counts) == (0, (2, 1, 0, 0)), again.said
    assert is_whole(work, "bad") and is_whole(work, "worse")


def test_a_run_that_is_stopped_cancels_its_jobs_and_the_next_goes_on(work: Work, slurm: Cluster):
    own = wish_for_app(work)
    for by in (signal.SIGTERM, signal.SIGINT):
        before = slurm.jobs()
        with held(work, own) as download, work.started(*PROFILE, *QUICKLY) as started:
            assert download.reached.wait(60)
            assert started.stop(by) != 0
        assert [job["JobState"] for job in made(slurm, before)] == ["CANCELLED"]
    done = run(work)
    assert (done.status, done.counts) == (0, (1, 0, 0, 0)), done.said
    assert is_whole(work, "app")


# The last one, for a node that is gone does not come back.
def test_the_jobs_of_a_node_that_goes_away_are_done_by_another(work: Work, slurm: Cluster):
    own = wish_for_app(work)
    before = slurm.jobs()
    with held(work, own) as download, work.started(*PROFILE, *QUICKLY) as started:
        assert download.reached.wait(60)
        [job] = made(slurm, before)
        slurm.lose(job["NodeList"])
        download.released.set()
        assert started.ended() == 0
    assert is_whole(work, "app")
    lost, again, _ = made(slurm, before)
    assert lost["JobState"] == "NODE_FAIL"
    assert again["JobState"] == "COMPLETED"
    assert again["NodeList"] != lost["NodeList"]


def wish_for_app(work: Work) -> Layer:
    """Have an image wished for; returns one of its two layers."""
    own = own_layer("app")
    wish(work, {"app": (BASE, own)})
    return own


@contextmanager
def held(work: Work, layer: Layer) -> Iterator[Held]:
    """The next download of a layer does not go on within the block, unless it is released."""
    assert isinstance(work.registry, FaultyRegistry)
    held = Held()
    work.registry.break_next(f"^GET .*{layer.digest.hex}", held)
    try:
        yield held
    finally:
        held.released.set()
