"""Fail, with the reason, for a wish that cannot be followed."""

import sys

from duccmake.errors import DuccmakeError
from duccmake.jobs.job import running

log, number = sys.argv[1:]
with running(f"report_problem-{number}", log=log) as job:
    problem = job.plan.problem(int(number))
    raise DuccmakeError(problem.reason)
