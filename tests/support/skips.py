"""A plugin for pytest that lets nothing be skipped but what needs the real ``cvmfs_server``."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A skip fails its test."""
    report = yield
    may_be_skipped = item.get_closest_marker("cvmfs") or hasattr(report, "wasxfail")
    return report if may_be_skipped else _failed(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """So does that of a whole module."""
    report = yield
    return _failed(report)


def _failed(report: Report) -> Report:
    if report.skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"With CI=true only tests marked cvmfs may be skipped. {reason}"
    return report
