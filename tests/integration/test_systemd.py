"""The units that are shipped: systemd understands them, and finds them shut tight."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from support.runs import CHECKOUT
from support.servers import need

UNITS = CHECKOUT / "config" / "systemd"
NAMES = ("duccmake-watch.service", "duccmake-webhook.service", "duccmake.service")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The units, with the programs of this checkout."""
    for unit in (*NAMES, "duccmake.timer"):
        text = (UNITS / unit).read_text()
        text = text.replace("/opt/duccmake/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit).write_text(text.replace("/opt/duccmake", str(CHECKOUT)))
    return tmp_path


def analyze(*arguments: str, units: Path) -> str:
    done = subprocess.run(
        [need("systemd-analyze"), *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{units}:", "LC_ALL": "C"},
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    return said


@pytest.mark.parametrize("name", [*NAMES, "duccmake.timer"])
def test_systemd_understands_a_unit(installed: Path, name: str):
    assert analyze("verify", "--man=no", str(installed / name), units=installed) == ""


def test_what_cvmfs_needs_is_understood_too(installed: Path):
    for name in ("duccmake-watch.service", "duccmake.service"):
        directory = installed / f"{name}.d"
        directory.mkdir()
        (directory / "cvmfs.conf").write_text((UNITS / "cvmfs.conf").read_text())
        assert analyze("verify", "--man=no", str(installed / name), units=installed) == ""


@pytest.mark.parametrize(("name", "exposure"), list(zip(NAMES, (3.0, 1.5, 3.0), strict=True)))
def test_a_unit_is_shut_tight(installed: Path, name: str, exposure: float):
    limit = f"--threshold={exposure * 10:.0f}"
    analyze("security", "--offline=yes", limit, str(installed / name), units=installed)
