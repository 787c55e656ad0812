"""Jobs of a cluster: how they fail, what becomes of what they leave, and two at one thing."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from duccmake.errors import NotFound
from duccmake.fs.files import move_whole
from duccmake.jobs import away
from duccmake.jobs.away import AWAY_VARIABLE, check_staged, hand_on, settle
from duccmake.jobs.job import PLAN_VARIABLE, RUN_VARIABLE, running
from duccmake.planning.needs import SMALL_BYTES, is_small, to_fetch, to_flatten, to_unpack
from duccmake.planning.plan import Plan
from duccmake.run.session import forget_failures
from duccmake.workspace.reports import Kind, Rule, read_reports
from duccmake.workspace.results import staged_flat_tree, staged_layer
from support.planned import REPOSITORY, image, layer, plan
from support.runs import CHECKOUT

RUN = Path("results/runs/now")
FAILURE = NotFound("no such blob", step="fetch", hint="push it again")
MB = 1024**2


@pytest.fixture
def made(tmp_path, monkeypatch) -> Plan:
    monkeypatch.chdir(tmp_path)
    made = plan([image()])
    monkeypatch.setenv(PLAN_VARIABLE, str(made.save()))
    monkeypatch.setenv(RUN_VARIABLE, str(RUN))
    monkeypatch.setenv(AWAY_VARIABLE, "yes")
    return made


def unpack(output: Path, error: Exception = FAILURE) -> None:
    """A job for an image that may not fail quietly, which fails."""
    wildcards = (REPOSITORY, output.name)
    with running(Rule.UNPACK_LAYER, *wildcards, log="logs/a.log", output=str(output)) as job:
        job.serves([image()])
        hand_on(job)
        raise error


def publish(*inputs: Path) -> None:
    with running(Rule.PUBLISH_IMAGE, "a", log="logs/b.log", output="results/x.json") as job:
        job.serves([image()])
        check_staged(job, map(str, inputs))


@pytest.mark.usefixtures("made")
def test_what_fails_on_a_cluster_fails_whoever_publishes_as_often_as_there_are_images():
    output = staged_layer(REPOSITORY, "key").parent
    unpack(output)
    for _ in range(2):
        with pytest.raises(SystemExit):
            publish(output)
    told = [report.words for report in read_reports(RUN) if report.kind == Kind.FAILED]
    assert told and all("no such blob" in words for words in told)
    assert output.exists()

    # The next run is to try it again.
    forget_failures(RUN)
    assert not output.exists()


@pytest.mark.usefixtures("made")
def test_on_the_runs_own_machine_it_fails_itself(monkeypatch):
    monkeypatch.delenv(AWAY_VARIABLE)
    with pytest.raises(SystemExit):
        unpack(staged_layer(REPOSITORY, "key").parent)


@pytest.mark.usefixtures("made")
def test_what_is_no_failure_of_the_images_is_left_to_the_cluster_to_try_again():
    with pytest.raises(SystemExit):
        unpack(staged_layer(REPOSITORY, "key").parent, MemoryError())


@pytest.mark.usefixtures("made")
def test_what_others_made_is_kept_where_a_job_failed():
    kept = staged_flat_tree(REPOSITORY, "other")
    kept.mkdir(parents=True)
    unpack(staged_layer(REPOSITORY, "key").parent)
    forget_failures(RUN)
    assert kept.is_dir()


@pytest.mark.usefixtures("made")
def test_what_is_made_away_is_on_the_disk_before_it_counts(monkeypatch):
    synced: list[Path] = []
    monkeypatch.setattr(away, "sync_filesystem", synced.append)
    settle(Path("results/blobs/key"))
    assert synced == [Path("results/blobs")]
    monkeypatch.delenv(AWAY_VARIABLE)
    settle(Path("results/blobs/key"))
    assert len(synced) == 1


def test_the_first_of_two_that_make_the_same_stays(tmp_path):
    for number in ("1", "2"):
        (tmp_path / number / "layerfs").mkdir(parents=True)
        (tmp_path / number / "by").write_text(number)
        move_whole(tmp_path / number, tmp_path / "layer")
    assert (tmp_path / "layer" / "by").read_text() == "1"
    assert {path.name for path in tmp_path.iterdir()} == {"layer"}


# --- what a job asks for ------------------------------------------------


def sized(*sizes: int) -> tuple[Plan, list[str]]:
    layers = tuple(layer(f"layer {size}", size=size) for size in sizes)
    made = plan([image(layers=layers)])
    return made, [made.key(each.digest) for each in layers]


def test_needs_follow_the_size_and_double_with_each_try():
    made, [small, large] = sized(3 * MB, 6000 * MB)
    for needs in (to_fetch, to_unpack):
        less, more = needs(made, small, 1), needs(made, large, 1)
        assert more.runtime > less.runtime and more.disk_mb > 6000 > less.disk_mb
        again = needs(made, large, 3)
        assert (again.mem_mb, again.runtime) == (4 * more.mem_mb, 4 * more.runtime)
    assert to_unpack(made, large, 1).mem_mb > to_unpack(made, small, 1).mem_mb
    flat = made.flat_key(made.images[0])
    assert to_flatten(made, REPOSITORY, flat, 1).mem_mb > to_unpack(made, large, 1).mem_mb


def test_small_layers_are_those_below_a_bound():
    made, [small, large] = sized(SMALL_BYTES - 1, SMALL_BYTES)
    assert is_small(made, small) and not is_small(made, large)


# --- what Slurm says of a job -------------------------------------------

STATES = {
    "COMPLETED": "success",
    "PENDING": "running",
    "RUNNING": "running",
    "COMPLETING": "running",
    "FAILED": "failed",
    "NODE_FAIL": "failed",
    "OUT_OF_MEMORY": "failed",
    "TIMEOUT": "failed",
    "CANCELLED": "failed",
    "slurm_load_jobs error: Unable to contact slurm controller": "running",
}


def status(tmp_path: Path, **programs: str) -> str:
    """What the profile makes of what the programs print."""
    for name, words in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho '{words}'\n")
        program.chmod(0o755)
    return subprocess.run(
        [CHECKOUT / "profiles/slurm/status", "7"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.mark.parametrize("state", STATES)
def test_a_state_of_slurms_is_running_success_or_failed(state: str, tmp_path: Path):
    assert status(tmp_path, squeue=state) == STATES[state]


@pytest.mark.parametrize(
    ("accounted", "outcome"),
    [
        ("COMPLETED", "success"),
        ("CANCELLED by 0", "failed"),
        ("Slurm accounting storage is disabled", "failed"),
        ("sacct: error: slurm_persist_conn_open", "running"),
    ],
)
def test_a_job_that_squeue_has_forgotten_is_asked_for_where_jobs_are_accounted(
    accounted: str, outcome: str, tmp_path: Path
):
    forgotten = "slurm_load_jobs error: Invalid job id specified"
    assert status(tmp_path, squeue=forgotten, sacct=accounted) == outcome
