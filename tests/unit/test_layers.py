"""The layers that the package's modules stand in: who may import whom."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LINT = Path(sys.executable).with_name("lint-imports")

UPWARDS = {
    "tree/mtree.py": "from ..registry.client import Client",
    "recipe/model.py": "from ..registry.settings import RegistrySettings",
    "repository/pins.py": "from ..recipe.model import Recipe",
    "repository/model.py": "from ..registry.client import Client",
    "planning/pending.py": "from ..jobs.publish_image import publish_ready",
    "run/session.py": "from ..jobs.job import Job",
    "service/invocation.py": "from ..jobs.job import Job",
}
"""Imports that no module may have, by the module."""


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package that may be spoilt."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(CHECKOUT / "workflow/duccmake", tmp_path / "duccmake", ignore=ignored)


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    """Check the package in a directory as ``make check`` checks the one of the checkout."""
    return subprocess.run(
        [LINT, "--no-cache", CHECKOUT / "pyproject.toml"],
        cwd=directory,
        capture_output=True,
        text=True,
    )


def test_modules_import_only_what_lies_below_them(package: Path):
    done = lint(package.parent)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(("module", "line"), UPWARDS.items(), ids=UPWARDS)
def test_an_import_upwards_is_found(package: Path, module: str, line: str):
    path = package / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    done = lint(package.parent)
    name = ".".join(Path(module).with_suffix("").parts)
    assert done.returncode == 1, done.stdout
    assert f"duccmake.{name} ->" in done.stdout


def test_a_package_in_no_layer_is_found(package: Path):
    (package / "stray.py").touch()
    done = lint(package.parent)
    assert done.returncode == 1
    assert "duccmake.stray" in done.stdout
