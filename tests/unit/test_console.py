from __future__ import annotations

import io
import json
import time
from contextlib import nullcontext
from pathlib import Path

import pytest

from duccmake.errors import NotFound
from duccmake.planning.model import Departure, Problem, State
from duccmake.planning.outlook import Outlook
from duccmake.run.announcing import announce
from duccmake.run.session import Session
from duccmake.run.summary import summarise
from duccmake.workspace.reports import JobName, Kind, Report, Rule, write_report
from support.on_disk import OnDisk
from support.planned import LAYER_BYTES, NAME, REPOSITORY, image, layer, plan
from support.staged_trees import digest_of, open_repository, publish, stage


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def summary(tmp_path, made, *reports: Report) -> list[str]:
    run = tmp_path / "run"
    run.mkdir()
    for report in reports:
        write_report(run, report)
    out = io.StringIO()
    times = time.monotonic(), time.time()
    session = Session(made, Path("plan"), run, True, False, *times, nullcontext())
    summarise(session, workdir=tmp_path, stream=out)
    return out.getvalue().splitlines()


def failed(error: str, rule: Rule, *wildcards: str) -> Report:
    return Report(JobName(rule, wildcards), Kind.FAILED, "", error)


def test_each_image_has_one_line_with_what_became_of_it(tmp_path):
    done = image("r.example.org/done:1", state=State.PUBLISHED, why="")
    stale = image("r.example.org/stale:1", state=State.PUBLISHED, why="registry not reached")
    broken = image("r.example.org/broken:1", layers=(layer("b"),))
    quiet = image("r.example.org/quiet:1", layers=(layer("q"),), ignorable=True)
    untried = image("r.example.org/untried:1", layers=(layer("u"),))
    made = plan(
        [done, stale, broken, quiet, untried],
        [Problem(REPOSITORY, "r.example.org/gone:1", "r.example.org/gone:1: 404", False, 1)],
    )
    key = digest_of("b").short
    lines = summary(
        tmp_path,
        made,
        failed("damaged", Rule.UNPACK_LAYER, REPOSITORY, key),
        failed("no such blob", Rule.FETCH_BLOB, digest_of("q").short),
    )
    assert lines[:-1] == [
        "up to date  r.example.org/done:1",
        "up to date  r.example.org/stale:1  registry not reached",
        "failed      r.example.org/broken:1  damaged; nothing is published of it",
        "skipped     r.example.org/quiet:1  no such blob; nothing is published of it",
        "failed      r.example.org/untried:1  interrupted, or not tried: run again; "
        "nothing is published of it",
        "failed      r.example.org/gone:1  404",
    ]
    assert lines[-1].startswith("duccmake: 0 converted, 2 up to date, 3 failed, 1 skipped, in ")


def test_the_repository_is_asked_what_was_converted_and_not_the_jobs(tmp_path):
    changes = stage(tmp_path / "staging", NAME)
    publish(open_repository(tmp_path), changes)
    [staged] = changes.images
    layers = tuple(layer(digest=digest) for digest in staged.layers)
    made = plan([image(manifest=staged.manifest, config=staged.config, layers=layers)])
    lines = summary(tmp_path, made, failed("torn", Rule.PUBLISH_IMAGE, REPOSITORY, NAME))
    assert lines[0].startswith(f"converted  {NAME}")
    assert "1 converted" in lines[-1]


def test_what_is_lost_of_the_tree_and_what_its_layers_alone_lack_are_told_apart(tmp_path):
    changes = stage(tmp_path / "staging", NAME)
    repository = open_repository(tmp_path)
    publish(repository, changes)
    path = OnDisk(repository.path).record(NAME)
    losses = {"owners": 2, "directories": 11, "xattrs": 1, "covered": 3}
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"losses": losses}))
    [staged] = changes.images
    layers = tuple(layer(digest=digest) for digest in staged.layers)
    made = plan([image(manifest=staged.manifest, config=staged.config, layers=layers)])
    assert summary(tmp_path, made)[0] == (
        f"converted  {NAME}  not kept here: 2 owners, 1 xattrs; "
        "no failure, a remark: whoever stacks its layers by themselves misses 3 covered, "
        "11 directories"
    )


def test_a_failure_that_images_share_is_each_ones_own(tmp_path):
    names = [f"r.example.org/app:{tag}" for tag in ("a", "b")]
    shared = NotFound("no such blob", image=f"{names[0]} (and 1 more)", step="fetch")
    job = JobName(Rule.FETCH_BLOB, (layer().digest.short,))
    lines = summary(
        tmp_path,
        plan(map(image, names)),
        Report(job, Kind.FAILED, shared.image, str(shared), log="logs/fetch_blob/abc.log"),
    )
    more = "nothing is published of it; see logs/fetch_blob/abc.log"
    assert lines[:2] == [f"failed  {name}  fetch: no such blob; {more}" for name in names]


def test_a_failure_says_what_stays_published(tmp_path):
    changes = stage(tmp_path / "staging", NAME)
    publish(open_repository(tmp_path), changes)
    gone = Problem(REPOSITORY, NAME, f"{NAME}: 404", False, 1)
    [staged] = changes.images
    lines = summary(tmp_path, plan([image(layers=(layer("moved"),))], [gone]))
    stays = f"{staged.manifest.short} stays published"
    assert [line.rpartition("; ")[2] for line in lines[:-1]] == [stays, stays]


@pytest.mark.parametrize("repository", ["", REPOSITORY])
@pytest.mark.parametrize("name", ["git+https://h/p.git//wish.yaml@main", "../../x", "", "a:*"])
def test_a_problem_need_not_be_an_image_of_any_repository(tmp_path, repository, name):
    lines = summary(tmp_path, plan([], [Problem(repository, name, "why", False, 1)]))
    assert lines[0] == f"failed  {name}  why"


def test_a_refusal_to_remove_stands_at_the_end_and_in_the_status_too(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    out = io.StringIO()
    made = plan([image(state=State.PUBLISHED, why="")])
    times = time.monotonic(), time.time()
    session = Session(made, Path("plan"), run, True, False, *times, nullcontext())
    held_back = {REPOSITORY: "prune: too many"}
    status = summarise(session, workdir=tmp_path, held_back=held_back, stream=out)
    assert out.getvalue().splitlines()[-2] == "duccmake: prune: too many"
    assert status.warnings == ("prune: too many",)


def test_bytes_are_counted_once_a_layer_and_reused_are_those_of_what_was_converted(tmp_path):
    changes = stage(tmp_path / "staging", NAME)
    publish(open_repository(tmp_path), changes)
    [staged] = changes.images
    layers = tuple(layer(digest=digest) for digest in staged.layers)
    converted = {"manifest": staged.manifest, "config": staged.config, "layers": layers}
    failed = image("r.example.org/b:1", layers=(*layers, layer("more")))
    fetched = Report(
        JobName(Rule.FETCH_BLOB, (layers[0].digest.short,)), Kind.FETCHED, size=LAYER_BYTES
    )
    lines = summary(tmp_path, plan([image(**converted), failed]), fetched)
    assert len(layers) > 1
    assert f"1.0 kB fetched, {len(layers) - 1}.0 kB reused" in lines[-1]


def test_thousands_of_images_that_are_up_to_date_are_counted_and_not_listed(tmp_path):
    many = [image(f"r.example.org/app:{n}", state=State.PUBLISHED, why="") for n in range(500)]
    lines = summary(tmp_path, plan([*many, image()]))
    assert [line for line in lines if "up to date" in line] == [lines[-1]]
    assert "500 up to date, 1 failed" in lines[-1]
    assert len(lines) == 2


def test_the_start_of_a_run_says_what_lies_ahead():
    out = io.StringIO()
    stale = [
        image(f"r.example.org/s:{n}", state=State.PUBLISHED, why="registry r not reached")
        for n in range(3)
    ]
    problems = [Problem(REPOSITORY, "x", "no such tag", False, 1)]
    announce(plan([image(), *stale], problems, warnings=("wish.yaml:7: twice",)), stream=out)
    assert out.getvalue().splitlines() == [
        "duccmake: wish.yaml:7: twice",
        "duccmake: 3 images: registry r not reached; what is published stays in force",
        "duccmake: x: no such tag",
        f"pending  {NAME}  new",
        "duccmake: 5 images: 1 pending, 3 up to date, 1 not resolved; 1 new layer, 1.0 kB to fetch",
    ]


def test_the_start_of_a_run_counts_layers_that_images_share_once_and_published_ones_never():
    out = io.StringIO()
    images = [image(), image("r.example.org/b:1", layers=(layer(), layer("b"), layer("there")))]
    missing = {REPOSITORY: frozenset({layer().digest, layer("b").digest})}
    announce(plan(images, missing=missing), stream=out)
    assert out.getvalue().splitlines()[-2:] == [
        "duccmake: 2 images: 2 pending, 0 up to date; 2 new layers, 2.0 kB to fetch",
        "duccmake: 2.0 kB more are shared, or there already",
    ]


def test_the_start_of_a_run_says_what_is_known_of_it_and_nothing_else():
    out = io.StringIO()
    pulls = {"docker.io": (76, 0), "ghcr.io": (0, 3)}
    ahead = Outlook(files=1200, counted=1, least=40.0, most=600.0, pulls=pulls)
    departure = Departure(REPOSITORY, "r.example.org/old:1", "sha256:0", "not wished for")
    images = [image(), image("r.example.org/b:1", layers=(layer("b"),))]
    settings = {"removal": {"policy": "schedule"}}
    made = plan(images, outlook=ahead, departures=(departure,), members=settings)
    announce(made, parts=3, stream=out)
    assert out.getvalue().splitlines()[3:] == [
        "duccmake: 2 images: 2 pending, 0 up to date, 1 leaving; 2 new layers, 2.0 kB to fetch",
        "duccmake: about 1200 files in 1 of the images; about 40 s to 10 min by earlier runs; "
        "in 3 parts",
        "duccmake: docker.io allows 76 pulls for now: no more are needed",
        "duccmake: ghcr.io allows 0 pulls for now: 3 images wait for theirs",
    ]


def test_thousands_of_pending_images_are_counted_and_not_all_listed():
    out = io.StringIO()
    announce(plan([image(f"r.example.org/app:{number}") for number in range(500)]), stream=out)
    lines = out.getvalue().splitlines()
    assert lines[49:51] == ["pending  r.example.org/app:49  new", "pending  450 more"]
    assert len(lines) == 53
