"""The package as ``pip install .`` puts it into an environment, with the workflow elsewhere."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from support.runs import CHECKOUT

WORKFLOW = (
    "Snakefile",
    "workflow/Snakefile",
    "workflow/rules",
    "workflow/report",
    "scripts",
    "profiles",
)
"""What the workflow is without the package."""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with the package; what that needs is this one's."""
    base = tmp_path_factory.mktemp("installed")
    source, environment = base / "source", base / "environment"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(CHECKOUT / "workflow/duccmake", source / "workflow/duccmake", ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, source)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    found = environment / "bin/python"
    where = [found, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    packages = Path(
        subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    )
    # Files of this kind that are in there, such as the editable package's, are not read.
    (packages / "others.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = [sys.executable, "-m", "pip", "--python", found, "install", "--quiet"]
    install += ["--no-index", "--no-deps", "--no-build-isolation", "--ignore-installed", source]
    done = subprocess.run(install, capture_output=True, text=True, env=plain())
    assert done.returncode == 0, done.stderr
    return found


def plain() -> dict[str, str]:
    """The environment's variables without those that lead to this checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_an_installed_package_runs_a_workflow_that_lies_elsewhere(python: Path, tmp_path: Path):
    elsewhere, work = tmp_path / "elsewhere", tmp_path / "work"
    for name in WORKFLOW:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, elsewhere / name)
        elif source.exists():
            (elsewhere / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, elsewhere / name)
    (work / "config").mkdir(parents=True)
    (work / "config/recipe.yaml").write_text(
        "{version: 1, user: tests, cvmfs_repo: images.example.org, input: [oci:gone:1]}\n"
    )
    (work / "config/config.yaml").write_text("recipe: config/recipe.yaml\n")
    command = [python, "-m", "snakemake", "--dry-run", "--snakefile", elsewhere / "Snakefile"]
    done = subprocess.run(
        [*command, "--directory", work, "--cores", "1"],
        cwd=work,
        env=plain(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "1 not resolved" in done.stderr
    assert "duccmake: oci/gone:1: " in done.stderr


def test_the_installed_package_is_the_one_that_is_run(python: Path, tmp_path: Path):
    code = "import duccmake; print(duccmake.__file__)"
    done = subprocess.run(
        [python, "-c", code], cwd=tmp_path, env=plain(), check=True, capture_output=True, text=True
    )
    assert Path(done.stdout.strip()).is_relative_to(python.parents[1])


def test_the_installed_command_checks_a_list(python: Path, tmp_path: Path):
    recipe = "{version: 1, cvmfs_repo: images.example.org, input: [r.example.org/a, wrong]}\n"
    (tmp_path / "recipe.yaml").write_text(recipe)
    command = [python.with_name("duccmake"), "check", "recipe.yaml", "--offline"]
    done = subprocess.run(command, cwd=tmp_path, env=plain(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "recipe.yaml: 1 problem" in done.stdout
