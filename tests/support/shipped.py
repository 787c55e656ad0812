"""What is shipped in config/, which everybody who uses a checkout makes their own."""

from __future__ import annotations

import subprocess

import pytest

from support.runs import CHECKOUT
from support.servers import need


def shipped(name: str) -> str:
    """The text of a file of config/ as it was committed; skips the test where no commit is."""
    command = [need("git"), "-c", "safe.directory=*", "show", f"HEAD:config/{name}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"git does not know what was shipped: {done.stderr.strip()}")
    return done.stdout
