"""How each image stands, as a table."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest

from duccmake.commands.main import main
from duccmake.fs.files import write_atomically
from duccmake.planning.model import Departure, Problem
from duccmake.planning.model import State as Planned
from duccmake.planning.plan import Plan
from duccmake.run.status import Outcome, Status, read_document
from support.planned import REPOSITORY, image, plan

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "duccmake"


def status(run: str, **became: tuple[Outcome, str]) -> None:
    """The last run's, by tags."""
    images = {f"r.example.org/app:{tag}": found for tag, found in became.items()}
    Status(1, run, 0, 0, {}, images, (), (), ()).save(Path.cwd())


def told(tag: str, failure: dict | None = None) -> dict:
    """An image of the document, as far as the table reads it."""
    failed = failure and {"first": 1.0, **failure}
    title = f"r.example.org/app:{tag}"
    return {"title": title, "repository": REPOSITORY, "published": 3.0, "failure": failed}


def tell(**failures: dict) -> None:
    """Leave a document with these images."""
    images = [told(tag, failure) for tag, failure in failures.items()]
    members = {"format": 1, "run": None, "images": images}
    write_atomically(Path("results/status/status.json"), json.dumps(members).encode())


def planned(tag: str, *, state: Planned = Planned.PENDING, why: str = "new", **more):
    return image(f"r.example.org/app:{tag}", state=state, why=why, **more)


@pytest.fixture(autouse=True)
def _in_a_directory_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def saved() -> str:
    """A plan with an image of each kind; what its runs are called."""
    made = plan(
        [
            planned("done", state=Planned.PUBLISHED, why=""),
            planned("stale", state=Planned.PUBLISHED, why="registry not reached"),
            *map(planned, ("new", "broken", "quiet", "made")),
        ],
        [
            Problem(REPOSITORY, "r.example.org/gone:1", "no such\n  tag", False, 1),
            Problem(REPOSITORY, "r.example.org/may:1", "no such tag", True, 2),
        ],
        departures=(
            Departure(REPOSITORY, "r.example.org/app:old", "sha256:0", "not wished for"),
            Departure(REPOSITORY, "r.example.org/app:left", "sha256:0", "not wished for"),
        ),
    )
    return f"{made.save().stem[:12]}-7"


BECAME = {
    "broken": (Outcome.FAILED, "damaged"),
    "quiet": (Outcome.SKIPPED, "no such blob"),
    "made": (Outcome.CONVERTED, ""),
    "left": (Outcome.REMOVED, "not wished for"),
}
LINES = """\
failed     r.example.org/app:broken  damaged
failed     r.example.org/gone:1      no such tag
skipped    r.example.org/app:quiet   no such blob
skipped    r.example.org/may:1       no such tag
pending    r.example.org/app:new     new
leaving    r.example.org/app:old     not wished for
stale      r.example.org/app:stale   registry not reached
published  r.example.org/app:done
published  r.example.org/app:made
9 images: 2 failed, 2 skipped, 1 pending, 1 leaving, 1 stale, 2 published
"""


def test_what_wants_to_be_looked_at_comes_first_with_its_reason(saved, capsys):
    status(saved, **BECAME)
    assert main(["status"]) == 0
    assert capsys.readouterr().out == LINES


def test_of_an_older_run_only_failures_of_what_is_pending_count(saved, capsys):
    became = BECAME | {"done": (Outcome.FAILED, "once")}
    status("0123456789ab-7", **became)
    main(["status", "--json"])
    found = {row["image"].rpartition(":")[2]: row for row in json.loads(capsys.readouterr().out)}
    assert found["made"]["state"] == "pending" and found["made"]["reason"] == "new"
    assert found["broken"]["state"] == "failed"
    assert found["left"]["state"] == "leaving"
    assert found["done"]["state"] == "published"


def test_what_failed_last_comes_first_with_when_it_is_tried_again(saved, capsys):
    due = time.time() + 900
    failed = {"count": 2, "next": due, "last": 5.0}
    tell(broken=failed, quiet={"count": 1, "next": None, "last": 7.0})
    document = read_document(Path())
    document["images"].append(told("gone", {"count": 1, "next": None, "last": 9.0}))
    document["images"][-1]["title"] = "r.example.org/gone:1"
    write_atomically(Path("results/status/status.json"), json.dumps(document).encode())
    status(saved, **BECAME)
    main(["status", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert [row["image"].partition("/")[2] for row in rows[:2]] == ["gone:1", "app:broken"]
    assert rows[1]["reason"].startswith("damaged; tried again from ")
    assert rows[1]["failures"] == "2" and rows[1]["next_try"].startswith("20")
    assert rows[1]["failing_since"] == "1970-01-01T00:00:01Z"


def test_what_waits_says_for_what(capsys):
    held = planned("held", state=Planned.HELD, why="damaged", until=time.time() + 900)
    gone = Problem(
        REPOSITORY, "r.example.org/gone:1", "no tag", False, 1, until=time.time() + 9 * 86400
    )
    Plan.load(plan([held], [gone]).save())
    main(["status"])
    first, second, total = capsys.readouterr().out.splitlines()
    assert first.startswith("held  r.example.org/app:held  damaged; tried again from ")
    assert re.search(r"no tag; tried again from \d{4}-\d\d-\d\d \d\d:\d\d \(at once", second)
    assert total == "2 images: 2 held"


def test_globs_choose_images_and_tables_are_read_as_they_were_written(saved, capsys):
    status(saved, **BECAME)
    main(["status", "*:broken", "*:new", "--tsv"])
    found = pandas.read_csv(io.StringIO(capsys.readouterr().out), sep="\t")
    assert list(found["image"]) == ["r.example.org/app:broken", "r.example.org/app:new"]
    assert set(found["repository"]) == {REPOSITORY}
    assert all(digest.startswith("sha256:") for digest in found["digest"])
    main(["status", "nothing"])
    assert capsys.readouterr().out == "0 images\n"


@pytest.mark.parametrize("is_empty", [False, True])
@pytest.mark.parametrize("form", [[], ["--json"], ["--tsv"]])
def test_no_image_is_a_table_too(saved, capsys, is_empty: bool, form: list[str]):
    if is_empty:
        os.utime(plan([]).save(), (2**31, 2**31))
    assert main(["status", "*nowhere*", *form]) == 0
    wanted = {"": "0 images\n", "--json": "[", "--tsv": "state\timage\treason"}
    assert capsys.readouterr().out.startswith(wanted["".join(form)])


def test_the_newest_plan_is_the_one_that_counts(saved, capsys):
    def images(made: Plan) -> str:
        before = list(Path("results/plans").iterdir())
        for path in before:
            os.utime(path, (1, 1))
        made.save()
        main(["status"])
        return capsys.readouterr().out.splitlines()[-1]

    one, two = (plan([planned(f"v{n}") for n in range(count)]) for count in (1, 2))
    assert images(one) == "1 image: 1 pending"
    assert images(two) == "2 images: 2 pending"
    assert images(one) == "1 image: 1 pending"


def test_a_line_is_no_longer_than_the_terminal_is_wide(saved, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setattr(sys, "stdout", Terminal())
    main(["status", "*app*"])
    assert {len(line) <= 40 for line in sys.stdout.getvalue().splitlines()[:-1]} == {True}


def test_where_nothing_has_run_it_says_so(tmp_path, capsys):
    assert main(["status", "-d", str(tmp_path / "empty")]) == 1
    assert f"{tmp_path / 'empty'} has no plan: run snakemake there" in capsys.readouterr().err


def test_who_reads_only_the_beginning_gets_no_traceback():
    plan([planned(f"v{number}") for number in range(5000)]).save()
    program = subprocess.Popen(
        [sys.executable, SCRIPT, "status"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert program.stdout and program.stderr
    program.stdout.readline()
    program.stdout.close()
    assert program.stderr.read() == b""
    assert program.wait() == 0
