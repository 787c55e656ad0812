"""Fail, with the reason, for a wish that cannot be followed."""

from duccmake.errors import DuccmakeError
from duccmake.job import running

with running(f"report_problem-{snakemake.wildcards.problem}", log=snakemake.log[0]) as job:
    problem = job.plan.problem(int(snakemake.wildcards.problem))
    raise DuccmakeError(problem.reason)
