"""Wish lists in git repositories: a shallow clone, fetched by the program ``git``."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from ...errors import RecipeError
from ..document import MAX_BYTES
from .location import Source

SECONDS = 60.0
"""How long a fetch may take."""

_NEW = "refs/duccmake/new"


def fetch(source: Source, clone: Path) -> str:
    """Bring the tip of the source's branch into the bare repository ``clone``; its commit.

    Raises `RecipeError`.
    """
    try:
        return _fetch(source, clone)
    except RecipeError:
        if not any(clone.rglob("*.lock")):
            raise
    # A git that was killed leaves its locks for ever; all that is here can be had again.
    shutil.rmtree(clone, ignore_errors=True)
    return _fetch(source, clone)


def _fetch(source: Source, clone: Path) -> str:
    if not (clone / "HEAD").is_file():
        shutil.rmtree(clone, ignore_errors=True)
        clone.parent.mkdir(parents=True, exist_ok=True)
        _git(["init", "--quiet", "--bare", str(clone)], source)
    wanted = source.branch or "HEAD"
    options = [
        "--quiet",
        "--depth=1",
        "--no-tags",
        "--no-recurse-submodules",
        "--no-write-fetch-head",
    ]
    _git(["fetch", *options, "--", source.url, f"+{wanted}:{_NEW}"], source, clone)
    return _git(["rev-parse", "--verify", f"{_NEW}^{{commit}}"], source, clone).decode().strip()


def content(source: Source, clone: Path, commit: str) -> bytes:
    """The wish list as it is in ``commit``; `RecipeError` where it is not there."""
    blob = f"{commit}:{source.path.as_posix()}"
    size = int(_git(["cat-file", "-s", blob], source, clone))
    if size > MAX_BYTES:
        raise RecipeError(
            f"{source.path} is larger than {MAX_BYTES // 1024**2} MiB in commit {commit[:12]}",
            hint="split it: 'recipe' in the configuration may be a list",
        )
    return _git(["cat-file", "blob", blob], source, clone)


def _git(arguments: list[str], source: Source, clone: Path | None = None) -> bytes:
    at = ["-C", str(clone)] if clone else []
    try:
        done = subprocess.run(
            ["git", *at, *_SETTINGS, *arguments],
            env=_environment(source),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except FileNotFoundError:
        raise RecipeError("the program git is missing", hint="install git") from None
    except subprocess.TimeoutExpired:
        raise RecipeError(
            f"{source.url} did not answer within {SECONDS:.0f} s", hint="see whether it is up"
        ) from None
    if done.returncode:
        raise RecipeError(f"git {arguments[0]}: {_said(done.stderr)}", hint=_HINT)
    return done.stdout


_SETTINGS = (
    "-c",
    "core.hooksPath=/dev/null",
    "-c",
    "gc.auto=0",
    "-c",
    "http.lowSpeedLimit=1000",
    "-c",
    "http.lowSpeedTime=20",
)

_HINT = (
    "see whether the repository, the branch and the file are there; credentials come from "
    "git's own helpers, or from 'username_env' and 'password_env'"
)


_USER, _PASSWORD = "DUCCMAKE_GIT_USER", "DUCCMAKE_GIT_PASSWORD"

_HELPER = (
    f"""!f() {{ test "$1" != get || printf 'username=%s\\npassword=%s\\n' """
    f""""${_USER}" "${_PASSWORD}"; }}; f"""
)


def _environment(source: Source) -> dict[str, str]:
    """Git's environment: nothing that waits for a person, and credentials out of sight."""
    env = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY")
    }
    env["GIT_TERMINAL_PROMPT"] = "0"
    env["LC_ALL"] = "C"
    scheme, _, rest = source.url.partition("://")
    # A redirect never leads from https to http, where anybody may answer.
    allowed = {"https": "https", "http": "http:https"}
    env["GIT_ALLOW_PROTOCOL"] = allowed.get(scheme, "ssh:file")
    env.setdefault("GIT_SSH_COMMAND", "ssh -oBatchMode=yes -oConnectTimeout=20")
    if source.password_env:
        env[_USER], env[_PASSWORD] = credentials(source)
        # A helper for this host alone: an extra header would go wherever a redirect leads.
        # The empty one before it keeps what others know of the host, and may store, out.
        key = f"credential.{scheme}://{rest.partition('/')[0]}.helper"
        count = int(env.get("GIT_CONFIG_COUNT", "0") or 0)
        for number, helper in enumerate(("", _HELPER), start=count):
            env[f"GIT_CONFIG_KEY_{number}"] = key
            env[f"GIT_CONFIG_VALUE_{number}"] = helper
        env["GIT_CONFIG_COUNT"] = str(count + 2)
    return env


def credentials(source: Source) -> tuple[str, str]:
    """User and password from the environment; `RecipeError` where they are not there."""
    for name in (source.username_env, source.password_env):
        if not os.environ.get(name):
            raise RecipeError(
                f"the environment variable {name} is not set", hint="set it, or leave it out"
            )
    return os.environ[source.username_env], os.environ[source.password_env]


def _said(stderr: bytes) -> str:
    """The last thing git complained of, on one line, without credentials in addresses."""
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if line.startswith(("fatal:", "error:"))] or lines[-1:]
    text = re.sub(r"://[^/\s@]*@", "://...@", " ".join(told) or "failed without a word")
    return text[:500]
