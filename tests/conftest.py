"""What all tests have around them."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import HealthCheck, settings

from support import skips

# What differs from a text that is kept is shown.
pytest.register_assert_rewrite("support.expected")

# Where it is set, every process compiles our modules anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# How long an example takes says nothing where several tests share a processor.
settings.register_profile(
    "tests", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tests")


def pytest_configure(config: pytest.Config) -> None:
    # Known without pytest-xdist as well.
    config.addinivalue_line("markers", "xdist_group(name): tests that one worker runs")
    if os.environ.get("CI") == "true":
        config.pluginmanager.register(skips)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """As many as there are processors: tests that wait for what others compute have limits."""
    return len(os.sched_getaffinity(0))


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What shares something dear stays with one worker.

    That is a fixture of a module, such as a finished run, or the machine's CernVM-FS server.
    """
    for item in items:
        if item.get_closest_marker("cvmfs"):
            item.add_marker(pytest.mark.xdist_group("cvmfs"))
        elif _has_fixture_of_module(item):
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))


def _has_fixture_of_module(item: pytest.Item) -> bool:
    fixtures = item._fixtureinfo.name2fixturedefs  # type: ignore[attr-defined]
    return any(definition[-1].scope == "module" for definition in fixtures.values())
