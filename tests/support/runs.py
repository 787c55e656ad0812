"""Runs of the workflow as an operator has them: a directory, a wish list, ``snakemake``."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from duccmake.demo.images import Image, host_platform
from duccmake.oci.reference import Digest
from duccmake.repository.directory.backend import DirectoryRepository
from support.images import push, push_samples
from support.on_disk import OnDisk
from support.registry import FullRegistry, LoggedRequest
from support.servers import free_port, without_proxies

CHECKOUT = Path(__file__).resolve().parents[2]
REPOSITORY = "images.example.org"

_OUTCOME = re.compile(
    r"(converted|up to date|failed|held|skipped|removed|freed|pushed) +"
    r"(\S+(?: \(\S+\))?)(?:  (.*))?\Z"
)
_COUNTS = re.compile(
    r"duccmake: (\d+) converted, (\d+) up to date, (\d+) failed(?:, \d+ held)?(?:, (\d+) skipped)?"
    r"(?:, \d+ removed)?(?:, \d+ pushed)?(?:; (.+) fetched, (.+) reused)?, in [0-9.]+ s\Z"
)
_JOB = re.compile(r"Job (\d+): (.+)\Z")


@dataclass(frozen=True)
class Run:
    """What a run of Snakemake printed, how it ended, and what it asked of registries.

    ``log`` is Snakemake's own, which a dry run has not.
    """

    status: int
    stdout: str
    stderr: str
    requests: tuple[LoggedRequest, ...] = ()
    log: str = field(default="", repr=False)

    @property
    def said(self) -> str:
        """All that it printed: what a dry run finds is on standard output."""
        return self.stdout + self.stderr

    @property
    def outcomes(self) -> dict[str, tuple[str, str]]:
        """Of each image in the summary: what became of it, and the remark."""
        found = map(_OUTCOME.match, self.stderr.splitlines())
        return {match[2]: (match[1], match[3] or "") for match in found if match}

    @property
    def counts(self) -> tuple[int, ...]:
        """Images converted, up to date, failed, skipped, as the summary's last line has them."""
        return tuple(int(number or 0) for number in self._totals.groups()[:4])

    @property
    def transferred(self) -> tuple[str, str]:
        """Bytes fetched and bytes reused, as the summary has them."""
        return self._totals[5] or "0 B", self._totals[6] or "0 B"

    @property
    def jobs(self) -> list[str]:
        """The messages of the jobs that ran or, in a dry run with ``-p``, would."""
        lines = (self.log or self.stdout).splitlines()
        return [match[2] for match in map(_JOB.match, lines) if match]

    @property
    def _totals(self) -> re.Match[str]:
        found = [match for match in map(_COUNTS.match, self.stderr.splitlines()) if match]
        assert len(found) == 1, self.stderr
        return found[0]

    def asked(self, pattern: str = "") -> list[str]:
        """The requests ("GET /v2/...") in which the pattern is found."""
        return [str(request) for request in self.requests if re.search(pattern, str(request))]

    def blobs(self) -> list[str]:
        """Digests of the blobs that were downloaded, sorted; each as often as it was asked for."""
        return sorted(request.rpartition("/")[2] for request in self.asked(r"^GET .*/blobs/"))


@dataclass
class Work:
    """A working directory with a wish list and a configuration, for one or more runs."""

    path: Path
    registry: FullRegistry | None = None
    checkout: Path = CHECKOUT
    prefix: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)

    def wish(self, *images: str, file: str = "recipe.yaml", **members: Any) -> Path:
        """Write a wish list; ``{host}`` in an image is the registry."""
        host = self.registry.host if self.registry else ""
        recipe = {
            "version": 1,
            "user": "tests",
            "cvmfs_repo": REPOSITORY,
            "input": [image.replace("{host}", f"http://{host}") for image in images],
            **members,
        }
        path = self.path / "config" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(recipe, sort_keys=False))
        if not (self.path / "config" / "config.yaml").exists():
            self.configure()
        return path

    def configure(self, *, file: str = "config/config.yaml", **members: Any) -> Path:
        """Write a configuration.

        Without more words, no thin images are pushed, and what failed is tried in each run.
        """
        members.setdefault("thin", {"push": "never"})
        members.setdefault("retry", {"first_seconds": 0})
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(members))
        return path

    def push(self, name: str, image: Image) -> Digest:
        """Push an image to the registry by its repository and tag, ``team/app:1``."""
        repository, _, tag = name.partition(":")
        return push(image, self.host, repository, tag)

    def run(self, *options: str, check: bool = False) -> Run:
        """Run ``snakemake --cores 2`` with options until it ends; ``check`` that it ends well."""
        before = len(self.registry.requests) if self.registry else 0
        earlier = set(self._snakemake_logs())
        done = subprocess.run(
            self.command(*options), cwd=self.path, env=self.env(), capture_output=True, text=True
        )
        requests = self.registry.requests[before:] if self.registry else []
        logs = (path.read_text() for path in self._snakemake_logs() if path not in earlier)
        run = Run(done.returncode, done.stdout, done.stderr, tuple(requests), "".join(logs))
        assert run.status == 0 or not check, run.said
        return run

    @contextmanager
    def started(self, *options: str) -> Iterator[Started]:
        """Start it in a process group of its own, which is gone at the end of the block."""
        process = subprocess.Popen(
            self.command(*options),
            cwd=self.path,
            env=self.env(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            preexec_fn=hear_interrupts,
        )
        started = Started(process)
        try:
            yield started
        finally:
            started.stop(signal.SIGKILL)

    def _snakemake_logs(self) -> Iterator[Path]:
        return (self.path / ".snakemake" / "log").glob("*.log")

    def command(self, *options: str) -> list[str]:
        """The command line."""
        snakemake = [sys.executable, "-m", "snakemake", "--snakefile", f"{self.checkout}/Snakefile"]
        return [*self.prefix, *snakemake, "--cores", "2", *options]

    @contextmanager
    def deserted(self) -> Iterator[None]:
        """Nobody answers at the registry's address for the time of the block."""
        assert self.registry
        down = self.registry
        down.close()
        yield
        self.registry = type(down)(down.store.root, port=down.port).__enter__()

    @property
    def host(self) -> str:
        """The registry's host and port."""
        assert self.registry
        return self.registry.host

    @property
    def repository(self) -> DirectoryRepository:
        """The repository that the configuration's defaults publish into."""
        return DirectoryRepository(self.path / "cvmfs", REPOSITORY)

    def named(self, image: str) -> str:
        """An image's name in the repository: its registry goes before it."""
        return f"{self.host}/{image}"

    def content(self, image: str) -> str | None:
        """What a reader finds in the file ``content`` of an image, if that is there."""
        with suppress(FileNotFoundError):
            return (self.repository.path / self.named(image) / "content").read_text()
        return None

    def logs(self, rule: str) -> dict[str, str]:
        """The logs of a rule's jobs, by their path below ``logs/<rule>``."""
        base = self.path / "logs" / rule
        return {
            str(path.relative_to(base)): path.read_text() for path in sorted(base.rglob("*.log"))
        }

    def env(self) -> dict[str, str]:
        """The environment of all that runs here."""
        inherited = {
            name: value
            for name, value in without_proxies().items()
            if not name.startswith("DUCCMAKE_")
        }
        # Snakemake keeps a cache below it, which tests share with nobody.
        return {**inherited, "XDG_CACHE_HOME": f"{self.path}/.cache", **self.environment}


@contextmanager
def fresh_work(
    base: Path, kind: type[FullRegistry] = FullRegistry, **options: Any
) -> Iterator[Work]:
    """A working directory below ``base`` and a registry of its own, both empty.

    ``kind`` and ``options`` are the registry's.
    """
    # While it is down, its port is nobody else's.
    with kind(base / "registry", **{"port": free_port(), **options}) as registry:
        work = Work(base / "work", registry)
        work.path.mkdir(parents=True, exist_ok=True)
        try:
            yield work
        finally:
            if work.registry not in (registry, None):
                work.registry.close()


@contextmanager
def sample_work(base: Path, **settings: Any) -> Iterator[Work]:
    """The same with the demo's three images, all wished for; ``settings`` are the configuration."""
    with fresh_work(base) as work:
        push_samples(work.host)
        work.wish("{host}/demo/hello:*", "{host}/demo/tools:2024")
        work.configure(platforms=[str(host_platform())], **settings)
        yield work


def hear_interrupts() -> None:
    """As in a terminal: a shell's background job, and all below it, would ignore SIGINT."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Started:
    """A run that is under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def read_until(self, wanted: Callable[[str], bool]) -> str:
        """Read what it prints up to the line that is wanted, and return that line."""
        assert self._process.stderr
        said = []
        for line in self._process.stderr:
            said.append(line)
            if wanted(line):
                return line
        raise AssertionError(f"the run ended without that line:\n{''.join(said)}")

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def commands(self) -> list[list[str]]:
        """The command lines of all processes that it has started."""
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.Error):
                found.append(process.cmdline())
        return found

    def ended(self) -> int:
        """Wait for its end; returns its status."""
        self._process.communicate(timeout=120)
        return self._process.returncode

    def stop(self, with_signal: signal.Signals) -> int:
        """Send a signal to all its processes and wait for its end; returns its status."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, with_signal)
            self._process.communicate(timeout=120)
        return self._process.returncode


@dataclass(frozen=True)
class Stage:
    """A run, and a copy of the repository as it was then, for tests to look at later."""

    run: Run
    repository: Path

    @property
    def layout(self) -> OnDisk:
        """Where things are in the copy."""
        return OnDisk(self.repository)


def stage(work: Work, name: str, *options: str, check: bool = False) -> Stage:
    """Run it, and keep the repository under a name."""
    run = work.run(*options, check=check)
    return Stage(run, kept(work, name))


def days_later(work: Work, days: float) -> Work:
    """The same directory, for runs that take the time to be so many days later."""
    path = str(Path(__file__).parent / "later")
    return replace(
        work,
        environment={**work.environment, "PYTHONPATH": path, "TESTS_DAYS_LATER": str(days)},
    )


def kept(work: Work, name: str) -> Path:
    """A copy of the repository as it is now."""
    copy = work.path.parent / name
    subprocess.run(["cp", "-a", str(work.repository.path), str(copy)], check=True)
    return copy


def checkout_copy(target: Path) -> Path:
    """A copy of what the workflow is made of."""
    for name in ("Snakefile", "workflow", "scripts", "profiles", "environment.yml"):
        source = CHECKOUT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(source, target / name, ignore=ignored)
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target
