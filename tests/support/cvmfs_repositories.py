"""CernVM-FS repositories for tests: a stand-in for ``cvmfs_server``, and the real one."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from duccmake.repository.cvmfs.backend import CvmfsRepository
from duccmake.repository.cvmfs.settings import ServerSettings
from support import s3_servers

STAND_IN = Path(__file__).parent / "cvmfs_standin"
NAME = f"unpacked-{os.getpid()}.example.org"
"""Of this process alone: publishers wait for anybody's commands that name their repository."""
GATEWAY = "CVMFS_UPSTREAM_STORAGE=gw,/srv/cvmfs,http://localhost:4929/api/v1"
"""The setting of a release manager with a gateway."""
LARGEST = 16384
CHUNKS = (
    "CVMFS_MIN_CHUNK_SIZE=4096",
    "CVMFS_AVG_CHUNK_SIZE=8192",
    f"CVMFS_MAX_CHUNK_SIZE={LARGEST}",
)
"""Settings that have files of more than `LARGEST` bytes stored in chunks."""


@dataclass
class StandIn:
    """A repository of the stand-in's, below ``base``."""

    base: Path
    name: str = NAME
    real = False

    def make(self, *settings: str) -> StandIn:
        """Make the repository; ``settings`` are lines of its server.conf."""
        self.base.mkdir(parents=True, exist_ok=True)
        if GATEWAY in settings:
            settings = (*settings, f"CVMFS_STRATUM0={self.url}")
        self.server("mkfs", *settings, self.name)
        return self

    @property
    def environment(self) -> dict[str, str]:
        """What has ``cvmfs_server`` be the stand-in, for this repository."""
        return {
            "PATH": f"{STAND_IN}:{os.environ['PATH']}",
            "CVMFS_STANDIN": str(self.base),
            "CVMFS_STANDIN_PYTHON": sys.executable,
        }

    @property
    def mounts(self) -> Path:
        """What stands for /cvmfs."""
        return self.base / "cvmfs"

    @property
    def server_config(self) -> Path:
        """What stands for /etc/cvmfs/repositories.d."""
        return self.base / "etc"

    @property
    def spool(self) -> Path:
        """What stands for /var/spool/cvmfs/NAME."""
        return self.base / "spool" / self.name

    def open(self, **settings: Any) -> CvmfsRepository:
        """The repository as duccmake sees it."""
        settings = {"lock_seconds": 0, **settings}
        return CvmfsRepository(
            self.name, mounts=self.mounts, server_config=self.server_config, **settings
        )

    def server(self, *arguments: str, status: int = 0) -> str:
        """Run ``cvmfs_server`` as an operator does; returns what it said."""
        done = self._run(*arguments)
        assert done.returncode == status, done.stdout
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """The same, for what fails."""
        done = self._run(*arguments)
        assert done.returncode, done.stdout
        return done.stdout

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["cvmfs_server", *arguments],
            env={**os.environ, **self.environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    @functools.cached_property
    def url(self) -> str:
        """Where its storage can be read over HTTP."""
        return served(self.base / "storage" / self.name)

    def revision(self) -> int:
        """The number of the revision that readers see."""
        return int((self.spool / "rdonly").readlink().name)

    def problems(self) -> str:
        """What a check of the repository finds, its stored objects included."""
        done = self._run("check", "-i", self.name)
        return done.stdout if done.returncode else ""


_GEOGRAPHY = Path("/var/lib/cvmfs-server/geo")
"""A directory without which no replica is made, though it has nothing in it."""

_KEYS = Path("/etc/cvmfs/keys")
_REPOSITORIES = Path("/etc/cvmfs/repositories.d")
_ONE_AT_A_TIME = Path("/run/lock/duccmake-test-cvmfs")
_SECONDS = 120
_OURS = re.compile(r"duccmake-test-([0-9]+)-[0-9]+\.example\.org")
_numbers = itertools.count()


@dataclass
class Real:
    """A repository of the real ``cvmfs_server``, whose storage is below ``base``."""

    base: Path
    name: str
    real = True
    mounts = Path("/cvmfs")
    server_config = _REPOSITORIES

    @property
    def spool(self) -> Path:
        """Where it keeps its flags and mounts."""
        return Path("/var/spool/cvmfs") / self.name

    def open(self, **settings: Any) -> CvmfsRepository:
        """The repository as duccmake sees it."""
        settings = {"lock_seconds": 0, **settings}
        return CvmfsRepository(self.name, **settings)

    def server(self, *arguments: str, status: int = 0) -> str:
        """Run ``cvmfs_server`` as an operator does; returns what it said."""
        done = self._run(*arguments)
        assert done.returncode == status, done.stdout
        return done.stdout

    def refused(self, *arguments: str) -> str:
        """The same, for what fails."""
        done = self._run(*arguments)
        assert done.returncode, done.stdout
        return done.stdout

    @property
    def url(self) -> str:
        """Where its storage can be read over HTTP."""
        values = ServerSettings.read(self.name).values
        return values.get("CVMFS_STRATUM1") or values["CVMFS_STRATUM0"]

    def revision(self) -> int:
        """The number of the revision that readers see."""
        return int(os.getxattr(self.spool / "rdonly", "user.revision"))

    def empty(self) -> None:
        """Remove all that was published, and whatever was left open."""
        if (self.spool / "in_transaction.lock").exists():
            self.server("abort", "-f", self.name)
        state = self.spool / "duccmake"
        shutil.rmtree(state, ignore_errors=True)
        names = sorted(path.name for path in (self.spool / "rdonly").iterdir())
        names = [name for name in names if name != "new_repository"]
        if any(":" in name for name in names):  # ingest takes that for two names
            self.server("transaction", self.name)
            for name in names:
                shutil.rmtree(self.mounts / self.name / name)
            self.server("publish", self.name)
        elif names:
            self.server("ingest", *(word for name in names for word in ("-d", name)), self.name)

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return _cvmfs_server(*arguments)

    def problems(self) -> str:
        """What a check of the repository finds, its stored objects included."""
        done = _cvmfs_server("check", self.name)
        return done.stdout if done.returncode else ""


@dataclass
class Replica(Real):
    """A replica that another web server serves: its commands see no Apache, and want no module."""

    def _run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        hidden = 'mount --bind /bin/false "$(command -v service)" && exec "$@"'
        return _cvmfs_server(*arguments, within=("unshare", "--mount", "sh", "-c", hidden, "sh"))


def _cvmfs_server(
    *arguments: str, within: Sequence[str] = ()
) -> subprocess.CompletedProcess[str].CompletedProcess[str]:
    command = [*within, "timeout", "--kill-after=10", str(_SECONDS), "cvmfs_server", *arguments]
    if arguments[0] in ("mkfs", "rmfs"):
        # Both edit /etc/fstab, and side by side each loses the other's lines.
        command = ["flock", "--close", "--timeout", str(_SECONDS), str(_ONE_AT_A_TIME), *command]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd="/",
        env={**os.environ, "CVMFS_GEO_DB_FILE": "NONE"},
        errors="backslashreplace",
    )


class _Quiet(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # a head and a body are two writes, 40 ms apart otherwise

    def log_message(self, *arguments: object) -> None:
        pass


def served(directory: Path) -> str:
    """The URL of a directory, which is served so long as this process lives."""
    web = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(directory)))
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{web.server_port}"


class RealRepositories:
    """Storage for repositories, with a web server; all that is made is removed at the end.

    Making one takes seconds, so one with the same settings is emptied and used again.
    """

    def __init__(self) -> None:
        self._base = Path(tempfile.mkdtemp(prefix="duccmake-cvmfs-"))
        self._url = served(self._base)
        self._made: dict[tuple[str, ...], Real] = {}

    def get(self, *settings: str) -> Real:
        """An empty repository; ``settings`` are lines of its server.conf.

        Raises `OSError` where the server makes none, with what it said.
        """
        known = self._made.get(settings)
        if known is not None:
            try:
                known.empty()
            except (OSError, AssertionError):
                # A test, or somebody else on this machine, has broken it.
                del self._made[settings]
                _remove(known.name)
            else:
                return known
        try:
            made = self._make(settings)
        except OSError:
            made = self._make(settings)
        self._made[settings] = made
        return made

    def _make(self, settings: tuple[str, ...]) -> Real:
        name = f"duccmake-test-{os.getpid()}-{next(_numbers)}.example.org"
        made = Real(self._base, name)
        storage = self._base / name
        url = f"{self._url}/{name}"
        upstream = f"local,{storage}/data/txn,{storage}"
        done = _cvmfs_server("mkfs", "-o", "root", "-p", "-w", url, "-u", upstream, name)
        if done.returncode:
            _remove(name)
            raise OSError(done.stdout)
        with (_REPOSITORIES / name / "server.conf").open("a") as config:
            # Nobody but the tests has files open there.
            config.write("\nCVMFS_FORCE_REMOUNT_WARNING=false\n")
            config.writelines(f"{line}\n" for line in settings)
        return made

    def close(self) -> None:
        """Remove all of them."""
        for repository in self._made.values():
            _remove(repository.name)
        shutil.rmtree(self._base, ignore_errors=True)


@contextmanager
def real_in_a_bucket(base: Path) -> Iterator[Real]:
    """An empty repository whose storage is a bucket, which a web server shows to everybody."""
    name = f"duccmake-test-{os.getpid()}-{next(_numbers)}.example.org"
    with s3_servers.s3_server(base / "s3") as server:
        bucket = server.bucket()
        handler = partial(_Quiet, directory=str(server.root / bucket))
        with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
            threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
            s3_servers.conf(base, bucket, server.port)
            url = f"http://127.0.0.1:{web.server_port}/"
            where = ("-s", str(base / "s3.conf"), "-w", url)
            try:
                done = _cvmfs_server("mkfs", "-o", "root", "-p", "-z", "-g", *where, name)
                assert done.returncode == 0, done.stdout
                with (_REPOSITORIES / name / "server.conf").open("a") as config:
                    config.write("\nCVMFS_FORCE_REMOUNT_WARNING=false\n")
                yield Real(server.root / bucket, name)
            finally:
                _remove(name)
                web.shutdown()


@contextmanager
def client(cvmfs: Real, *settings: str) -> Iterator[Path]:
    """The repository as another machine mounts it."""
    base = Path(tempfile.mkdtemp(prefix="client"))
    mount = base / "mount"
    mount.mkdir()
    config = base / "client.conf"
    lines = (
        f"CVMFS_SERVER_URL={cvmfs.url}",
        f"CVMFS_PUBLIC_KEY=/etc/cvmfs/keys/{cvmfs.name}.pub",
        f"CVMFS_CACHE_BASE={base}/cache",
        "CVMFS_RELOAD_SOCKETS=" + str(base),
        "CVMFS_HTTP_PROXY=DIRECT",
        "CVMFS_USER=root",
        *settings,
    )
    config.write_text("\n".join(lines) + "\n")
    options = f"config={config},allow_other"
    done = subprocess.run(
        ["cvmfs2", "-o", options, cvmfs.name, mount], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        yield mount
    finally:
        subprocess.run(["umount", "--lazy", mount], check=True)


@contextmanager
def replica_of(original: Real) -> Iterator[Replica]:
    """A replica of a repository, with nothing in it yet, under a name of its own."""
    name = f"duccmake-test-{os.getpid()}-{next(_numbers)}.example.org"
    storage = original.base / name
    url = f"{original.url.rpartition('/')[0]}/{name}"
    upstream = f"local,{storage}/data/txn,{storage}"
    where = ("-n", name, "-u", upstream, "-w", url, original.url)
    _GEOGRAPHY.mkdir(parents=True, exist_ok=True)
    try:
        done = _cvmfs_server(
            "add-replica", "-o", "root", "-p", "-a", "-z", *where, f"{_KEYS}/{original.name}.pub"
        )
        assert done.returncode == 0, done.stdout
        yield Replica(original.base, name)
    finally:
        _remove(name)


@functools.cache
def real_repositories() -> RealRepositories:
    """Those of this process, which are gone when it ends."""
    repositories = RealRepositories()
    atexit.register(repositories.close)
    return repositories


def _remove(name: str) -> None:
    """Remove a repository, whatever state it is in and whoever has files open there."""
    spool = Path("/var/spool/cvmfs") / name
    if _cvmfs_server("rmfs", "-f", name).returncode == 0 and not spool.exists():
        return
    for mounted in (Path("/cvmfs") / name, spool / "rdonly"):
        subprocess.run(["umount", "--lazy", mounted], capture_output=True)
    _cvmfs_server("rmfs", "-f", name)
    if not os.path.ismount(spool / "rdonly"):
        shutil.rmtree(spool, ignore_errors=True)


@functools.cache
def why_not_real() -> str:
    """Why the real ``cvmfs_server`` cannot be tested here; empty where it can."""
    if shutil.which("cvmfs_server") is None:
        return "cvmfs_server is not on the PATH"
    if os.geteuid() != 0:
        return "cvmfs_server needs root"
    for path in _REPOSITORIES.glob("duccmake-test-*"):
        match = _OURS.fullmatch(path.name)
        if match and not Path("/proc", match[1]).exists():
            _remove(path.name)
    try:
        made = real_repositories().get()
        made.server("transaction", made.name)
        made.server("abort", "-f", made.name)
    except (OSError, AssertionError) as error:
        return _said("cvmfs_server cannot make a repository here", error)
    return ""


def _said(what: str, error: Exception) -> str:
    return f"{what}: {' '.join(str(error).split())[-300:]}"


def both(*settings: str) -> list[Any]:
    """Parameters for `repository_for`: the stand-in and the real one, with these settings."""
    return [
        pytest.param(("standin", *settings), id="standin"),
        pytest.param(("real", *settings), marks=pytest.mark.cvmfs, id="real"),
    ]


def repository_for(
    parameters: tuple[str, ...], base: Path, monkeypatch: pytest.MonkeyPatch
) -> StandIn | Real:
    """An empty repository; skips where it is to be real and cannot be."""
    which, *settings = parameters
    if which == "real":
        if reason := why_not_real():
            pytest.skip(reason)
        try:
            return real_repositories().get(*settings)
        except OSError as error:
            pytest.skip(_said("cvmfs_server made no repository", error))
    repository = StandIn(base / "standin").make(*settings)
    for name, value in repository.environment.items():
        monkeypatch.setenv(name, value)
    return repository
