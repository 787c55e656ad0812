"""What `make` says to somebody who is new here."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from support.runs import CHECKOUT
from support.servers import need

OLD = f"""#!{sys.executable}
import sys
sys.version_info = (3, 10, 12, "final", 0)
assert sys.argv[1] == "-c", "it is asked for no more than its version"
exec(sys.argv[2])
"""


def make(*arguments: str, at: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    outer = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        [need("make"), *arguments], cwd=at, env=outer, capture_output=True, text=True
    )


def test_a_python_that_is_too_old_is_told_before_anything_is_made(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(CHECKOUT / name, tmp_path)
    python = tmp_path / "python3.10"
    python.write_text(OLD)
    python.chmod(0o755)
    before = set(tmp_path.iterdir())
    done = make("test", f"PYTHON={python}", at=tmp_path)
    assert done.returncode != 0
    assert f"needs Python 3.11 or newer, and {python} is 3.10" in done.stderr
    assert set(tmp_path.iterdir()) == before


def test_help_lists_all_that_can_be_made():
    makefile = (CHECKOUT / "Makefile").read_text()
    targets = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    listed = re.findall(r"^(\w+) +\w", make("help").stdout, re.MULTILINE)
    assert targets and listed == targets[1].split()
