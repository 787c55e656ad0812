from __future__ import annotations

import errno
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duccmake.errors import DuccmakeError, NotFound
from duccmake.jobs.job import PLAN_VARIABLE, RUN_VARIABLE, running
from duccmake.workspace.reports import (
    WRITERS,
    JobName,
    Kind,
    Report,
    Rule,
    read_reports,
    write_report,
)
from support.planned import NAME, image, plan
from support.runs import CHECKOUT, hear_interrupts

FAILURE = NotFound("no such blob", step="fetch", hint="push it again")


@pytest.fixture(autouse=True)
def _a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PLAN_VARIABLE, str(plan([image()]).save()))
    monkeypatch.setenv(RUN_VARIABLE, "results/runs/now")
    root = logging.getLogger()
    before = root.handlers[:]
    on_sigterm = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, on_sigterm)
    root.handlers[:] = before


def fail(output, *, ignorable: bool, error: Exception = FAILURE) -> None:
    """A job that fails."""
    with running(Rule.FETCH_BLOB, "key", log="logs/a.log", output=str(output)) as job:
        job.serves([image(ignorable=ignorable)])
        raise error


def consume(*inputs, ignorable: bool) -> None:
    """A job that works on what others made."""
    with running(Rule.PUBLISH_IMAGE, "key", log="logs/b.log", output="results/x.json") as job:
        job.serves([image(ignorable=ignorable)])
        job.check_inputs([str(path) for path in inputs])
        job.report(Report(job.name, Kind.FETCHED, size=1))


def reports(tmp_path) -> list[Report]:
    return read_reports(tmp_path / "results/runs/now")


def test_a_failure_ends_the_job_and_one_line_of_its_log_says_why(tmp_path):
    with pytest.raises(SystemExit) as ended:
        fail(tmp_path / "results/blobs/key", ignorable=False)
    assert ended.value.code == 1
    [line] = (tmp_path / "logs/a.log").read_text().splitlines()
    assert line.endswith(f"ERROR {NAME}: fetch: no such blob; push it again")
    assert not (tmp_path / "results/blobs/key").exists()
    [report] = reports(tmp_path)
    assert report.kind == Kind.FAILED and str(report.job) == "fetch_blob-key"
    assert report.subject == NAME and "no such blob" in report.words


def test_a_failure_names_how_many_images_it_is_about(tmp_path):
    with pytest.raises(SystemExit), running(Rule.UNPACK_LAYER, "key", log="logs/a.log") as job:
        job.serves([image(), image("r.example.org/b:1"), image("r.example.org/c:1")])
        raise DuccmakeError("damaged")
    assert f"{NAME} (and 2 more): damaged" in (tmp_path / "logs/a.log").read_text()


def test_a_job_for_a_loud_and_a_quiet_image_fails_loudly(tmp_path):
    with (
        pytest.raises(SystemExit),
        running(Rule.FETCH_BLOB, "j", log="logs/a.log", output="results/out") as job,
    ):
        job.serves([image(ignorable=True), image("r.example.org/b:1")])
        raise FAILURE


@pytest.mark.parametrize("output", ["results/blobs/key", "results/r/flat/key", "results/p/x.json"])
def test_a_quiet_failure_is_handed_on_from_job_to_job(tmp_path, output):
    fail(tmp_path / output, ignorable=True)
    assert (tmp_path / output).exists()
    consume(tmp_path / output, ignorable=True)
    assert "no such blob; push it again" in (tmp_path / "logs/b.log").read_text()
    assert [report.kind for report in reports(tmp_path)] == [Kind.FAILED, Kind.FAILED]
    with pytest.raises(SystemExit):
        consume("results/x.json", ignorable=False)


def test_a_loud_job_fails_for_a_quiet_failure_of_an_earlier_run_and_has_it_made_again(tmp_path):
    output = tmp_path / "results/r/layers/key"
    fail(output, ignorable=True)
    with pytest.raises(SystemExit):
        consume(output, ignorable=False)
    assert not output.exists()


def test_what_is_whole_passes(tmp_path):
    blob, staged = tmp_path / "blob", tmp_path / "staged"
    blob.write_bytes(b"any bytes")
    (staged / "layer").mkdir(parents=True)
    (tmp_path / "empty").write_bytes(b"")
    consume(blob, staged, tmp_path / "empty", ignorable=False)
    assert [report.kind for report in reports(tmp_path)] == [Kind.FETCHED]


def test_a_defect_fails_even_a_quiet_job_and_leaves_its_traceback_in_the_log(tmp_path):
    with pytest.raises(SystemExit):
        fail(tmp_path / "results/blobs/key", ignorable=True, error=ZeroDivisionError("oh"))
    log = (tmp_path / "logs/a.log").read_text()
    assert "Traceback" in log and "ZeroDivisionError: oh" in log and "please report it" in log
    assert not (tmp_path / "results/blobs/key").exists()
    [report] = reports(tmp_path)
    assert report.kind == Kind.FAILED and "a defect of duccmake" in report.words


WORDS = st.text(max_size=300)
JOBS = st.builds(JobName, st.sampled_from(Rule), st.lists(WORDS, max_size=2).map(tuple))


@given(st.lists(st.builds(Report, job=JOBS, subject=WORDS, words=WORDS), max_size=5))
def test_what_is_reported_is_read_as_it_was_whatever_images_are_called(reported):
    with tempfile.TemporaryDirectory() as run:
        for report in reported:
            write_report(Path(run), report)
        found = read_reports(Path(run))
    assert set(found) == set(reported)
    assert found == sorted(found, key=lambda report: (report.kind, report.job, report.subject))


def test_a_report_of_each_of_several_repositories_is_kept(tmp_path):
    with running(Rule.ROLLBACK, log="logs/a.log") as job:
        for repository in ("r", "s"):
            job.report(Report(job.name, Kind.PINNED, NAME, f"to sha256:0 in {repository}"))
    assert len(reports(tmp_path)) == 2


def test_a_failure_for_whose_report_there_is_no_room_is_said_on_the_terminal(
    monkeypatch, capsys, tmp_path
):
    def full(run, report):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("duccmake.jobs.job.write_report", full)
    with pytest.raises(SystemExit), running(Rule.FETCH_BLOB, "key", log="logs/a.log"):
        raise NotFound("no such blob", image=NAME, step="fetch")
    assert capsys.readouterr().err == f"failed  {NAME}  fetch: no such blob\n"
    with pytest.raises(SystemExit), running(Rule.FETCH_BLOB, "key", log="logs/a.log"):
        full(None, None)
    assert capsys.readouterr().err == (
        f"failed  key  no space is left in {tmp_path}: make room and run again\n"
    )


def test_who_presses_control_c_gets_no_traceback_of_a_job(capsys):
    with pytest.raises(SystemExit) as ended, running(Rule.FETCH_BLOB, "key", log="logs/a.log"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""


WRITER = """
import sys
from pathlib import Path
from duccmake.fs.locks import held
from duccmake.jobs.job import running
from duccmake.workspace.reports import Rule

def wait(name):
    open(name, "w").close()
    open("go").read()

with running(Rule(sys.argv[1]), log="logs/a.log"):
    wait("waiting")
    with held(Path("lock"), 0):
        wait("writing")
    wait("noting")
    Path("receipt").touch()
"""


@pytest.mark.parametrize("rule", sorted(WRITERS))
@pytest.mark.parametrize("told", ["waiting", "writing", "noting"])
def test_told_to_stop_a_job_ends_unless_it_has_the_repository(tmp_path, rule: Rule, told: str):
    moments = ("waiting", "writing", "noting")
    for name in (*moments, "go"):
        os.mkfifo(name)
    with subprocess.Popen([sys.executable, "-c", WRITER, rule]) as job:
        for moment in moments:
            Path(moment).read_bytes()
            if moment == told:
                job.terminate()
            if told == "waiting":
                break
            Path("go").write_bytes(b"")
        assert job.wait(60) == (-signal.SIGTERM if told == "waiting" else 0)
    assert Path("receipt").exists() == (told != "waiting")


@pytest.mark.parametrize("rule", list(Rule))
def test_control_c_while_a_job_is_loaded_prints_nothing(tmp_path: Path, rule: Rule) -> None:
    interrupting = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    (tmp_path / "logging.py").write_text(interrupting)
    done = subprocess.run(
        [sys.executable, CHECKOUT / "scripts" / f"{rule}.py", "log"],
        env={"PYTHONPATH": f"{tmp_path}:{CHECKOUT / 'workflow'}"},
        capture_output=True,
        preexec_fn=hear_interrupts,
    )
    assert (done.returncode, done.stderr) == (-signal.SIGINT, b"")
