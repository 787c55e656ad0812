"""The watcher and the webhook as an operator runs them, seen from outside."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import psutil
import requests

from support.faulty_registry import FaultyRegistry, Held
from support.images import Layer
from support.runs import CHECKOUT, REPOSITORY, Work
from support.servers import free_port

T = TypeVar("T")

PATIENCE_SECONDS = 240.0
"""How long something may take on a machine that is busy; a test never waits for it to pass."""


def eventually(found: Callable[[], T | None], what: str, *programs: Program) -> T:
    """What is found, as soon as it is there."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if (result := found()) not in (None, False):
            return result
        for program in programs:
            assert program.process.poll() is None, f"{what}: it ended\n{program.said()}"
        time.sleep(0.01)
    said = "\n".join(program.said() for program in programs)
    raise AssertionError(f"{what}: never\n{said}")


class Program:
    """A program that runs beside the test."""

    def __init__(
        self, work: Work, script: str, *options: str, env: Mapping[str, str] | None = None
    ) -> None:
        self.work = work
        self._out = work.path.parent / f"{script}-{time.monotonic_ns()}.out"
        with self._out.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(CHECKOUT / "scripts" / script), *options],
                cwd=work.path,
                env={**work.env(), **(env or {})},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

    def said(self) -> str:
        """All that it and its children have printed."""
        return self._out.read_text(errors="replace")

    def says(self, text: str) -> None:
        """Wait until it has said something."""
        eventually(lambda: text in self.said() or None, f"says {text!r}", self)

    def ends(self) -> int:
        """The status with which it ends by itself."""
        try:
            return self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for its end; the status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_SECONDS)

    def kill(self) -> None:
        """Kill it with all that it started, as systemd does in the end or the power failing."""
        with suppress(psutil.NoSuchProcess):
            family = [*psutil.Process(self.process.pid).children(recursive=True)]
            self.process.kill()
            for process in family:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.wait(PATIENCE_SECONDS)


@contextmanager
def watching(work: Work, *options: str, env: Mapping[str, str] | None = None) -> Iterator[Program]:
    """The watcher, until the end of the block at the latest."""
    program = Program(work, "watch.py", "--cores", "2", *options, env=env)
    try:
        yield program
    finally:
        program.kill()


class Webhook(Program):
    """The webhook, listening on a free port of the loopback address."""

    def __init__(self, work: Work, *, env: Mapping[str, str] | None = None) -> None:
        port = free_port()
        super().__init__(
            work, "webhook.py", "--config", f"webhook={{listen: '127.0.0.1:{port}'}}", env=env
        )
        self.url = f"http://127.0.0.1:{port}"
        self.session = requests.Session()
        self.session.trust_env = False
        eventually(self._answers, "listens", self)

    def _answers(self) -> bool | None:
        with suppress(requests.ConnectionError):
            return self.session.get(f"{self.url}/healthz", timeout=5).status_code == 200
        return None

    def post(self, path: str, body: object, **headers: str) -> requests.Response:
        """Send a notification."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.session.post(f"{self.url}{path}", content, headers=headers, timeout=60)

    def waiting(self) -> list[str]:
        """The images that notices wait for."""
        spool = self.work.path / "results/notices/new"
        found = []
        for path in spool.glob("[!.]*.json"):
            with suppress(FileNotFoundError):  # it is taken by now
                found.append(json.loads(path.read_bytes())["image"])
        return sorted(found)


@contextmanager
def listening(work: Work, *, env: Mapping[str, str] | None = None) -> Iterator[Webhook]:
    """The webhook, until the end of the block at the latest."""
    webhook = Webhook(work, env=env)
    try:
        yield webhook
    finally:
        webhook.kill()


def storm(
    webhook: Webhook, host: str, names: Sequence[str], notices: int, move: Callable[[str], object]
) -> None:
    """Tell of so many pushes of the tag 1 of images, eight at a time.

    Each image is really moved once, all along the storm.
    """

    def send(number: int) -> int:
        name = names[number % len(names)]
        if number % len(names) == number * len(names) // notices:
            move(name)
        event = {
            "action": "push",
            "target": {
                "repository": name,
                "tag": "1",
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
            },
            "request": {"host": host},
        }
        return webhook.post("/distribution", {"events": [event]}).status_code

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(send, range(notices))) == {200}


def deaths(work: Work, name: str, layer: Layer) -> Iterator[str]:
    """Kill the watcher in each phase of an image with a slow layer; the phases, one after each."""
    assert isinstance(work.registry, FaultyRegistry)
    held = Held()
    staged = work.path / "results" / REPOSITORY / "layers" / layer.digest.short
    journal = work.repository.path / ".duccmake/journal.json"
    requests = {
        "poll": f"{name.partition(':')[0]}/manifests",
        "fetch": f"blobs/.*{layer.digest.hex}",
    }
    for phase in ("poll", "fetch", "unpack", "publish"):
        held.again()
        if phase in requests:
            work.registry.break_next(requests[phase], held)
        reached = {"unpack": staged.exists, "publish": journal.exists}.get(
            phase, held.reached.is_set
        )
        with watching(work) as watch:
            eventually(reached, phase, watch)
            watch.kill()
        held.released.set()
        yield phase


def events(work: Work, action: str = "") -> list[dict[str, str]]:
    """The event log so far."""
    path = work.path / "logs/events.jsonl"
    # What stands after the last newline is being written.
    whole = path.read_text().rpartition("\n")[0] if path.exists() else ""
    lines = whole.splitlines()
    return [event for event in map(json.loads, lines) if action in ("", event["action"])]


def polls(work: Work) -> list[dict[str, str]]:
    """The ends of the watcher's polls so far."""
    return events(work, "end_poll")


@contextmanager
def systemd(path: Path) -> Iterator[Callable[[], str]]:
    """A socket in systemd's place; what comes out is all that it was told."""
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(str(path))
        server.setblocking(False)

        def read() -> str:
            with suppress(BlockingIOError):
                while True:
                    told.append(server.recv(65536).decode())
            return "\n".join(told)

        yield read
    path.unlink()
