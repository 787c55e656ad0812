"""What is skipped where nobody looks: with CI=true, nothing but what needs cvmfs_server."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
SKIPPED = {
    "by_a_mark": "@pytest.mark.skip(reason='no program')\ndef test_it(): pass",
    "in_the_test": "def test_it(): pytest.skip('no program')",
    "in_a_fixture": (
        "@pytest.fixture\ndef thing(): pytest.skip('no program')\ndef test_it(thing): pass"
    ),
    "as_a_module": "pytest.skip('no program', allow_module_level=True)",
}
ALLOWED = {
    "for_cvmfs": "@pytest.mark.cvmfs\ndef test_it(): pytest.skip('no cvmfs_server')",
    "failing_as_expected": "@pytest.mark.xfail\ndef test_it(): assert False",
}


def pytest_with(test: str, base: Path, *options: str, ci: str) -> tuple[int, str]:
    """The status of a run over one test, among all that surrounds ours, and what it said."""
    (base / "test_it.py").write_text(f"import pytest\n{test}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "conftest", "-o", "markers=cvmfs"),
            # Of its own: pytest clears what earlier runs left in the usual place.
            *("--basetemp", str(base / "tmp"), *options),
        ],
        cwd=base,
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}/workflow", "CI": ci},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize("where", SKIPPED)
def test_in_ci_a_skip_fails_the_run_and_tells_its_reason(tmp_path, where):
    status, said = pytest_with(SKIPPED[where], tmp_path, ci="true")
    assert status != 0
    assert re.search("only tests marked cvmfs may be skipped.*no program", said)


@pytest.mark.parametrize("where", ALLOWED)
def test_in_ci_what_may_be_skipped_is(tmp_path, where):
    assert pytest_with(ALLOWED[where], tmp_path, ci="true")[0] == 0


def test_in_ci_workers_fail_as_well(tmp_path):
    options = ("--numprocesses", "1")
    assert pytest_with(SKIPPED["in_the_test"], tmp_path, *options, ci="true")[0] == 1
    assert pytest_with(ALLOWED["for_cvmfs"], tmp_path, *options, ci="true")[0] == 0


def test_elsewhere_a_skip_is_one(tmp_path):
    status, said = pytest_with(SKIPPED["in_the_test"], tmp_path, ci="")
    assert (status, "1 skipped" in said) == (0, True)
