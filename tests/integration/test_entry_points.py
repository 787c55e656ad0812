"""From where the workflow can be run: either Snakefile, wherever the checkout lies."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duccmake.demo.images import Image
from support.images import LayerBuilder
from support.runs import REPOSITORY, Work, checkout_copy, fresh_work
from support.samples import AMD64, text_image
from support.watching import events

PROFILE = "Using workflow specific profile {} for setting default command line arguments."


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    """A copy of the checkout, in which somebody wishes for an image."""
    base = tmp_path_factory.mktemp("entry")
    with fresh_work(base) as work:
        work.path = work.checkout = checkout_copy(base / "checkout")
        work.push("team/app:1", text_image("one"))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)], products=["layers", "flat"])
        yield work


def snakemake(work: Work, *options: str, at: Path | None = None) -> str:
    """All that ``snakemake`` says, run in the copy or elsewhere; it has to end well."""
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", *options],
        cwd=at or work.path,
        env=work.env(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_in_the_checkout_nothing_has_to_be_named(work: Work):
    said = snakemake(work, "--dry-run", "-p")
    assert PROFILE.format("profiles/default") in said
    counts = dict(re.findall(r"^(\w+) +(\d+)$", said, re.MULTILINE))
    assert (counts["all"], counts["publish_image"]) == ("1", "1")


def test_the_snakefile_of_the_catalogue_finds_the_same_profile_rules_and_scripts(
    work: Work, tmp_path: Path
):
    relative = os.path.relpath(work.checkout / "workflow/Snakefile", tmp_path)
    options = ("--snakefile", relative, "--directory", str(tmp_path), "--cores", "2")
    config = ("--configfile", str(work.path / "config/config.yaml"))
    recipe = ("--config", f"recipe={work.path}/config/recipe.yaml")
    said = snakemake(work, *options, *config, *recipe, at=tmp_path)
    profile = os.path.relpath(work.checkout / "workflow/profiles/default", tmp_path)
    assert PROFILE.format(profile) in said
    assert "duccmake: 1 converted" in said
    content = tmp_path / "cvmfs/images.example.org" / work.named("team/app:1") / "content"
    assert content.read_text() == "one"


@pytest.mark.parametrize("snakefile", ["Snakefile", "workflow/Snakefile"])
def test_neither_needs_a_configuration_to_be_linted(work: Work, tmp_path: Path, snakefile: str):
    recipe = ("--config", f"recipe={work.path}/config/recipe.yaml")
    options = ("--lint", "--snakefile", f"{work.checkout}/{snakefile}")
    said = snakemake(work, *options, *recipe, at=tmp_path)
    assert "Congratulations" in said


def test_what_only_shows_something_leaves_the_status_of_the_last_run_alone(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        work.push("team/app:1", text_image("one"))
        recipe = work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        work.run(check=True)
        status = work.path / "results/status/status.json"
        before = status.read_bytes()
        for option in ("-n", "--summary", "--dag", "--unlock", "--list"):
            work.run(option, check=True)
            assert status.read_bytes() == before, option
            program = [sys.executable, str(work.checkout / "scripts/duccmake"), "status"]
            table = subprocess.check_output(program, cwd=work.path, env=work.env(), text=True)
            assert "1 image: 1 published" in table, option
        # Nothing is to be done, which is a run all the same.
        work.run(check=True)
        assert json.loads(status.read_bytes())["run"]["counts"] == {"up to date": 1}
        recipe.write_text("- a list\n")
        work.run("--unlock", check=True)
        assert work.run("-n").status != 0
        assert not json.loads(status.read_bytes())["run"]["error"]
        run = work.run()
        assert run.status != 0
        error = json.loads(status.read_bytes())["run"]["error"]
        assert str(recipe) in error or recipe.name in error
        assert error in run.stderr
        assert [event.get("error") for event in events(work, "end_ducc")] == [None, error]


def test_with_nothing_pending_graphs_show_how_the_published_images_were_made(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        below = text_image("one").layers
        work.push("team/app:1", text_image("one"))
        work.push("team/app:2", text_image("two", *below))
        work.wish("{host}/team/app:*")
        work.configure(platforms=[str(AMD64)])
        pending = labels(work.run("--dag", check=True).stdout)
        work.run(check=True)
        receipts = work.path / "results" / REPOSITORY
        before = {path: path.read_bytes() for path in receipts.rglob("*.json")}
        graph = work.run("--dag", check=True)
        assert sorted(labels(graph.stdout)) == sorted(pending)
        assert "nothing is pending: the graph shows how 2 of 2 published images" in graph.stderr
        digests = {layer.digest.short for layer in (*below, *text_image("two").layers)}
        for words in ("fetch_blob\\nblob: ", "unpack_layer\\nlayer: "):
            shown = [label.removeprefix(words) for label in pending if label.startswith(words)]
            assert {text.partition("\\n")[0] for text in shown} == digests
        rules = labels(work.run("--rulegraph", check=True).stdout)
        assert {"fetch_blob", "unpack_layer", "flatten_image", "publish_image"} < set(rules)
        kept = {path: path.read_bytes() for path in before}
        assert before and kept == before, "a graph changes nothing"


def labels(graph: str) -> list[str]:
    """The labels of a graph's nodes."""
    return re.findall(r'label = "(.*?)"', graph)


def test_the_target_status_shows_the_table_also_while_a_run_is_under_way(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        work.push("team/app:1", text_image("one"))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        assert "has no plan" in work.run("status").stderr
        work.run("-n", check=True)
        work.run("--list-rules", check=True)
        # As a run has it that is under way.
        lock = work.path / ".snakemake/locks/0.input.lock"
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.write_text(f"{work.path}/results/anything\n")
        assert work.run("status").stdout.splitlines() == [
            f"pending  {work.named('team/app:1')}  new",
            "1 image: 1 pending",
        ]
        assert work.run("status").requests == ()


def test_a_check_tells_which_layers_the_repository_has(tmp_path: Path):
    with fresh_work(tmp_path) as work:
        base, more = (LayerBuilder().file(name, name).layer() for name in ("base", "more"))
        work.push("team/base:1", Image((base,), {}, platform=AMD64))
        work.wish("{host}/team/base:1")
        work.configure(platforms=[str(AMD64)])
        work.run(check=True)
        work.push("team/app:1", Image((base, more), {}, platform=AMD64))
        work.wish("{host}/team/base:1", "{host}/team/app:1", file="new.yaml")
        program = [sys.executable, str(work.checkout / "scripts/duccmake"), "check"]
        lists = ["config/new.yaml", "--against", "config/recipe.yaml"]
        done = subprocess.run(
            [*program, *lists], cwd=work.path, env=work.env(), capture_output=True, text=True
        )
        assert (done.returncode, done.stderr) == (0, "")
        *_, image, total = done.stdout.splitlines()
        assert re.fullmatch(
            rf"new  config/new.yaml:\d+  {work.named('team/app:1')}  "
            r"\d+ B in 2 layers, 1 of them there already",
            image,
        )
        assert total.endswith(f"{len(more.blob)} B to fetch")


def test_neither_a_run_nor_its_jobs_import_pandas(tmp_path: Path):
    """Which takes as long as several jobs; Snakemake does it by itself where it is installed."""
    trap = tmp_path / "trap" / "pandas" / "__init__.py"
    trap.parent.mkdir(parents=True)
    marker = tmp_path / "imported"
    trap.write_text(f"open({str(marker)!r}, 'w').close()\nraise ImportError('not here')\n")
    with fresh_work(tmp_path / "work") as work:
        work.environment = {"PYTHONPATH": str(trap.parents[1])}
        work.push("team/app:1", text_image("one"))
        work.wish("{host}/team/app:1")
        work.configure(platforms=[str(AMD64)])
        run = work.run(check=True)
        assert run.counts[0] == 1
        assert not marker.exists(), run.said
        program = [sys.executable, str(work.checkout / "scripts/duccmake"), "status"]
        table = subprocess.run(program, cwd=work.path, env=work.env(), capture_output=True)
        assert table.returncode and marker.exists(), "the trap catches nothing"
        del work.environment["PYTHONPATH"]
        table = subprocess.run(program, cwd=work.path, env=work.env(), capture_output=True)
        assert b"published" in table.stdout


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        ("scope: all\nproducts: [layers\n", "config/config.yaml is not YAML: line 3: expected"),
        ("just words\n", "config/config.yaml is no mapping"),
        ("", ""),
        ("# nothing but a comment\n", ""),
    ],
)
def test_a_configuration_file_is_defaults_where_it_is_empty_and_else_says_where_it_is_broken(
    tmp_path: Path, content: str, wanted: str
):
    work = Work(tmp_path)
    work.wish()
    (tmp_path / "config/config.yaml").write_text(content)
    run = work.run("-n")
    assert (run.status == 0) == (wanted == "")
    assert wanted in run.said
    assert "Traceback" not in run.said
