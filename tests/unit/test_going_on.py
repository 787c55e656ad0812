from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import asdict, replace

import pytest

from duccmake.run import parts
from duccmake.run.parts import VARIABLE, Begun, begin_anew, begun, takes_all

RUN = Begun(os.getpid(), "results/plans/0.json", "results/runs/0-1", 1.0, 2.0, 1, True)


@pytest.fixture(autouse=True)
def _without_the_variable(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)


def blocked() -> set[signal.Signals]:
    return {*signal.pthread_sigmask(signal.SIG_BLOCK, ())} & {signal.SIGINT, signal.SIGTERM}


def test_the_next_part_is_begun_with_the_same_command_line_and_hears_what_is_told_meanwhile(
    monkeypatch,
):
    told = []

    def execv(program, arguments):
        told.append((program, arguments[1:], json.loads(os.environ[VARIABLE]), len(blocked())))
        raise OSError("no memory")

    monkeypatch.setattr(os, "execv", execv)
    ended = []
    with pytest.raises(OSError, match="no memory"):
        begin_anew(RUN, lambda: False, lambda: ended.append(blocked()))
    assert told == [(sys.executable, sys.orig_argv[1:], asdict(RUN), 2)]
    assert ended == [set()], "the run's end is told of, and can be interrupted"
    assert VARIABLE not in os.environ


def test_who_is_told_to_stop_ends_instead(monkeypatch):
    monkeypatch.setattr(os, "execv", lambda *_: pytest.fail("it goes on"))
    ended = []
    begin_anew(RUN, lambda: True, lambda: ended.append(blocked()))
    assert ended == [set()]


def test_only_the_process_that_began_a_run_goes_on_with_it_and_once(monkeypatch):
    assert begun() is None
    monkeypatch.setenv(VARIABLE, json.dumps(asdict(RUN)))
    assert begun() == RUN
    assert begun() is None
    monkeypatch.setenv(VARIABLE, json.dumps(asdict(replace(RUN, pid=RUN.pid + 1))))
    assert begun() is None


@pytest.mark.parametrize(
    ("program", "words", "whole"),
    [
        ("/usr/bin/snakemake", "--cores 2", False),
        ("/lib/snakemake/__main__.py", "-n", False),
        ("/usr/bin/snakemake", "--cores 1 results/r.example.org/published/app:1/0.json", True),
        ("my_program.py", "--cores 2", True),
    ],
)
def test_a_run_has_parts_where_it_can_begin_anew_and_nobody_names_a_file(
    monkeypatch, program, words, whole
):
    monkeypatch.setattr(parts.sys, "argv", [program])
    assert takes_all(words.split()) == whole
