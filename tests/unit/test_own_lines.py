from __future__ import annotations

import logging
from pathlib import Path

import pytest
from snakemake_interface_logger_plugins.common import LogEvent

from duccmake.run.own_lines import OwnLines, are_wanted
from duccmake.workspace.reports import JobName, Kind, Report, Rule, write_report

FETCH = JobName(Rule.FETCH_BLOB, ("abc",))


def shows(lines: OwnLines, text: str | None, level: int = logging.INFO, **members: object) -> bool:
    record = logging.makeLogRecord({"msg": text, "levelno": level, **members})
    return lines.filter(record)


def fails(lines: OwnLines, name: JobName) -> bool:
    """Whether Snakemake shows its own words for a job that failed."""
    return shows(lines, "Error", logging.ERROR, event=LogEvent.JOB_ERROR, log=[log_of(name)])


def log_of(name: JobName) -> str:
    return "/".join(("logs", name.rule, *name.wildcards, "m.log"))


def leave_word(run: Path, name: JobName, title: str, words: str) -> None:
    write_report(run, Report(name, Kind.FAILED, title, words, log=log_of(name)))


@pytest.fixture
def lines(tmp_path: Path) -> OwnLines:
    made = OwnLines()
    made.follow(tmp_path, None)
    return made


@pytest.mark.parametrize(
    "text",
    ["Building DAG of jobs...", "Select jobs to execute...", "Using shell: /bin/bash", None],
)
def test_what_snakemake_does_for_us_is_not_shown(lines: OwnLines, text: str | None) -> None:
    assert not shows(lines, text)


def test_a_failure_that_is_handed_on_is_said_once(
    lines: OwnLines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    publish = JobName(Rule.PUBLISH_IMAGE, ("r", "app:1"))
    for name in (FETCH, publish):
        leave_word(tmp_path, name, "app:1", "app:1: fetch: gone")
        fails(lines, name)
    assert capsys.readouterr().err.splitlines() == ["failed  app:1  fetch: gone"]


@pytest.mark.parametrize("event", [LogEvent.JOB_INFO, LogEvent.PROGRESS, LogEvent.RUN_INFO])
def test_nor_are_jobs_and_their_numbers(lines: OwnLines, event: LogEvent) -> None:
    assert not shows(lines, "Job 1: Fetch", event=event)


@pytest.mark.parametrize(
    ("level", "text"),
    [
        (logging.ERROR, "LockException:\nError: Directory cannot be locked."),
        (logging.ERROR, "MissingRuleException:\nNo rule to produce x"),
        (logging.WARNING, "Falling back to greedy scheduler"),
        (logging.CRITICAL, "anything"),
        (logging.INFO, "Terminating processes on user request, this might take some time."),
        (logging.INFO, "Creating conda environment environment.yml..."),
    ],
)
def test_what_snakemake_refuses_or_warns_of_is_shown(
    lines: OwnLines, level: int, text: str
) -> None:
    assert shows(lines, text, level)


@pytest.mark.parametrize(
    "text",
    [
        "Exiting because a job execution failed. Look above for error messages",
        "WorkflowError:\nAt least one job did not complete successfully.",
        "RuleException:\nCalledProcessError in file x.smk, line 1:\nCommand 'job' returned ...",
    ],
)
def test_that_something_failed_is_said_once_and_by_us(lines: OwnLines, text: str) -> None:
    assert not shows(lines, text, logging.ERROR)


def test_a_failure_is_said_in_the_words_of_its_job_and_once(
    lines: OwnLines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave_word(tmp_path, FETCH, "r.io/a:1", "r.io/a:1: fetch: no such blob")
    assert not fails(lines, FETCH)
    assert not fails(lines, FETCH)
    assert capsys.readouterr().err == "failed  r.io/a:1  fetch: no such blob\n"


def test_a_job_that_died_without_a_word_is_told_of_by_snakemake(
    lines: OwnLines, tmp_path: Path
) -> None:
    leave_word(tmp_path, FETCH, "r.io/a:1", "no such blob")
    assert fails(lines, JobName(Rule.UNPACK_LAYER, ("r", "abc")))


def test_a_failure_before_any_job_was_followed_is_snakemakes_to_tell() -> None:
    assert fails(OwnLines(), FETCH)


def test_jobs_that_somebody_interrupted_are_not_told_of_one_by_one(lines: OwnLines) -> None:
    assert shows(lines, "Terminating processes on user request, this might take some time.")
    assert not fails(lines, FETCH)


def test_wishes_that_cannot_be_followed_were_told_before(
    lines: OwnLines, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = JobName(Rule.REPORT_PROBLEM, ("1",))
    leave_word(tmp_path, name, "", "no such tag")
    assert not fails(lines, name)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [(["--unlock"], True), (["--list"], True), (["-n"], False), ([], False)],
)
def test_what_snakemake_answers_itself_is_its_own(arguments: list[str], wanted: bool) -> None:
    assert are_wanted(arguments) == wanted
