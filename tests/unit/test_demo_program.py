"""How the demo runs a program of its own image, and what it says where it cannot."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

import pytest

from support.runs import CHECKOUT

HOST = "localhost:5000"


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo, by somebody who is not root and has no programs but those in ``bin``."""
    spec = importlib.util.spec_from_file_location("demo", CHECKOUT / "scripts/demo.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "bin").mkdir()
    (tmp_path / "tree" / HOST / "demo" / "hello:latest").mkdir(parents=True)
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "tree")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return module


def put(tmp_path: Path, name: str, script: str) -> None:
    path = tmp_path / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_chroot_is_found_where_only_root_looks(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chroot = shutil.which("chroot", path="/usr/sbin:/sbin")
    if chroot is None:
        pytest.skip("chroot is not in /usr/sbin or /sbin")
    put(tmp_path, "bwrap", "echo 'bwrap: no permission' >&2; exit 1")
    put(tmp_path, "unshare", 'echo "with $*"')
    demo.run_program(HOST)
    assert f"with --map-root-user {chroot} " in capsys.readouterr().out


def test_the_true_reasons_are_said_where_no_program_can_be_run(
    demo: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    put(tmp_path, "unshare", "echo 'unshare: write failed /proc/self/uid_map' >&2; exit 1")
    demo.run_program(HOST)
    said = capsys.readouterr().out
    assert "unshare: write failed /proc/self/uid_map (status 1)" in said
    assert ("bwrap is not installed" in said) == (
        shutil.which("bwrap", path="/usr/sbin:/sbin") is None
    )
