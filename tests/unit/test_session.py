from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
import yaml

from duccmake.demo.images import Image
from duccmake.errors import ConfigError, DuccmakeError
from duccmake.oci.reference import Platform
from duccmake.planning.plan import Plan
from duccmake.run.session import begin, is_preview, tidy
from duccmake.run.status import Status
from duccmake.workspace.results import RESULTS, partial_layer
from support.images import LayerBuilder, push
from support.planned import REPOSITORY, image, layer, plan
from support.registry import FullRegistry
from support.staged_trees import digest_of

MEMBERS = {"recipe": "recipe.yaml", "repository": {"root": "root"}}


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _leaving_the_log_as_it_was():
    """A session turns the package's log to the terminal, where other tests do not hear it."""
    log = logging.getLogger("duccmake")
    before = log.handlers[:], log.level, log.propagate
    yield
    log.handlers[:], log.propagate = before[0], before[2]
    log.setLevel(before[1])


@pytest.fixture
def registry(tmp_path):
    with FullRegistry(tmp_path / "registry") as running:
        for tag in ("1", "2"):
            layer = LayerBuilder().file("tag", tag).layer()
            push(Image((layer,), {}, platform=Platform("linux", "amd64")), running.host, "app", tag)
        running.requests.clear()
        yield running


def wish(*images: str) -> None:
    recipe = {"version": 1, "user": "u", "cvmfs_repo": REPOSITORY, "input": list(images)}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))


def test_a_session_plans_what_is_wished_for(registry, tmp_path):
    wish(f"http://{registry.host}/app:*")
    session = begin(MEMBERS, workdir=tmp_path, arguments=["--cores", "1"])
    assert [found.reference.tag for found in session.plan.wanted] == ["1", "2"]
    assert Plan.load(session.plan_file) == session.plan
    assert not Path("root").exists()


def test_the_same_state_gives_the_same_plan_file(registry, tmp_path):
    wish(f"http://{registry.host}/app:*")
    one, other = (begin(MEMBERS, workdir=tmp_path, arguments=[]) for _ in range(2))
    assert one.plan_file == other.plan_file
    assert len(list((RESULTS / "plans").iterdir())) == 1


@pytest.mark.parametrize("option", ["--lint", "--unlock", "--list-rules"])
def test_calls_that_need_no_image_ask_no_registry(registry, tmp_path, option):
    wish(f"http://{registry.host}/app:*")
    session = begin(MEMBERS, workdir=tmp_path, arguments=[option])
    assert session.plan.images == ()
    assert not session.polled
    assert registry.requests == []


def test_a_receipt_does_not_stand_in_the_way_of_an_image_that_is_lost(registry, tmp_path):
    wish(f"http://{registry.host}/app:1")
    [wanted] = begin(MEMBERS, workdir=tmp_path, arguments=[]).plan.wanted
    published = RESULTS / REPOSITORY / "published" / wanted.name
    receipt = published / f"{wanted.manifest.short}.json"
    other = published / "0123456789ab.json"
    published.mkdir(parents=True)
    receipt.touch()
    other.touch()
    begin(MEMBERS, workdir=tmp_path, arguments=[])
    assert not receipt.exists()
    assert other.exists()


def test_an_invalid_configuration_makes_nothing_but_a_status_that_says_so(tmp_path):
    def told(members, *arguments) -> str:
        with pytest.raises(DuccmakeError) as raised:
            begin(members, workdir=tmp_path, arguments=arguments)
        return str(raised.value)

    wish("ghcr.io/a/b:1")
    for option in ("--dry-run", "--lint"):
        told({**MEMBERS, "products": ["paper"]}, option)
    assert not RESULTS.exists()
    broken = [told({**MEMBERS, "products": ["paper"]})]
    assert Status.load(tmp_path).error == broken[0]
    Path("recipe.yaml").write_text("- a list\n")
    broken.append(told(MEMBERS))
    status = Status.load(tmp_path)
    assert (status.error, status.pid) == (broken[1], os.getpid())
    assert {path.name for path in RESULTS.rglob("*.*")} == {"index.html", "status.json"}


@pytest.mark.parametrize(
    ("place", "there"),
    [("/proc/nowhere/root", "/proc"), ("recipe.yaml", "recipe"), ("recipe.yaml/root", "recipe")],
)
def test_a_root_that_cannot_be_is_told_before_anything_is_fetched(registry, tmp_path, place, there):
    wish(f"http://{registry.host}/app:1")
    members = {**MEMBERS, "repository": {"root": place}}
    if there == "/proc":
        begin(members, workdir=tmp_path, arguments=["-n"])
    with pytest.raises(ConfigError, match=rf"repository\.root: nothing .* in \S*{there}"):
        begin(members, workdir=tmp_path, arguments=["--cores", "1"])
    assert "repository.root" in Status.load(tmp_path).error


@pytest.mark.parametrize(
    ("line", "preview"),
    [
        ("-n", True), ("-np", True), ("-pn --cores 1", True), ("--dry-run", True),
        ("--cores 2 --dryrun", True), ("--dag", True), ("--rulegraph", True), ("-S", True),
        ("--summary", True), ("-D", True), ("--report=r.html", True),
        ("", False), ("--cores 2", False), ("-c1", False), ("-j 4 -k -p", False),
        ("--config notes=-1 --nolock", False), ("--keep-going prune", False),
    ],
)  # fmt: skip
def test_what_only_shows_something_is_told_from_a_run(line, preview):
    assert is_preview(line.split()) == preview


def test_what_nobody_wants_any_more_is_tidied_away():
    made = plan([image(layers=(layer("wanted"),))])
    kept, given_up = digest_of("wanted").short, digest_of("given up").short
    paths = [f"{REPOSITORY}/layers/{{}}/layer/f", f"{REPOSITORY}/flat/{{}}/image/f"]
    paths += ["blobs/{}", "blobs/.{}.part", "blobs/{}.part"]
    for key in (kept, given_up):
        for path in paths:
            file = RESULTS / path.format(key)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    tidy(made, made.save())
    left = {str(path) for path in RESULTS.rglob("*") if path.is_file()}
    assert not [path for path in left if given_up in path]
    assert {path for path in left if kept in path} == {f"results/{p.format(kept)}" for p in paths}


def test_what_was_being_unpacked_when_its_job_was_cut_off_is_tidied_away():
    made = plan([image(layers=(layer("wanted"),))])
    partial = partial_layer(REPOSITORY, digest_of("wanted").short)
    (partial / "layerfs").mkdir(parents=True)
    tidy(made, made.save())
    assert not partial.exists()


def test_what_somebody_else_published_is_tidied_away():
    wanted = image(layers=(layer("there"), layer("missing")))
    missing = {REPOSITORY: frozenset([digest_of("missing")])}
    for name in ("there", "missing"):
        (RESULTS / REPOSITORY / "layers" / digest_of(name).short / "layer").mkdir(parents=True)
    made = plan([wanted], missing=missing)
    tidy(made, made.save())
    left = (RESULTS / REPOSITORY / "layers").iterdir()
    assert [path.name for path in left] == [digest_of("missing").short]


def test_plans_of_old_runs_are_tidied_away_but_not_the_one_in_use():
    mine = plan([image()]).save()
    for number in range(30):
        plan([image(f"r.example.org/app:{number}")]).save()
    tidy(Plan.load(mine), mine)
    assert mine.exists()
    assert len(list((RESULTS / "plans").iterdir())) <= 21
