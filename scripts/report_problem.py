"""Fail, with the reason, for a wish that cannot be followed."""

import sys

import duccmake.jobs.start  # noqa: F401
from duccmake.errors import DuccmakeError
from duccmake.jobs.job import running
from duccmake.workspace.reports import Rule

log, number = sys.argv[1:]
with running(Rule.REPORT_PROBLEM, number, log=log) as job:
    problem = job.plan.problem(int(number))
    raise DuccmakeError(problem.reason)
