"""Polling 2,000 images that did not change, at 20 ms an answer and with 32 connections."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from compare import Program, alternate
from rows import Row, leave

from support import quick_registry

IMAGES = 2000
CONNECTIONS = 32
DELAY_SECONDS = 0.02
SAMPLE = 40
PACKAGE = Path(__file__).parents[2] / "workflow"

POLL = f"""
import sys
sys.path.insert(0, {str(PACKAGE)!r})
from pathlib import Path
from duccmake.recipe.model import Recipe, Wish
from duccmake.oci.reference import Platform, Reference
from duccmake.registry.client import Client
from duccmake.registry.settings import RegistrySettings
from duccmake.planning.resolver import Resolver
from duccmake.oci.content_store import ContentStore
from duccmake.planning.poll_memory import PollMemory
host, state = sys.argv[1], Path(sys.argv[2])
wishes = tuple(
    Wish(Reference.parse(f"http://{{host}}/team/app{{number}}:1"), number)
    for number in range({IMAGES})
)
settings = {{host: RegistrySettings(scheme="http", connections={CONNECTIONS})}}
with Client(settings) as client:
    resolver = Resolver(
        client, PollMemory(state / "polls.json"), ContentStore(state / "content"),
        connections={CONNECTIONS},
    )
    (found,) = resolver.resolve(
        [Recipe(Path("recipe.yaml"), "a.example.org", wishes=wishes)], [Platform("linux", "amd64")]
    )
assert len(found.resolved) == {IMAGES} and not found.unresolved
assert not any(item.stale for item in found.resolved)
"""

BARE = f"""
import queue, socket, sys, threading
host, port = sys.argv[1].split(":")
numbers = queue.SimpleQueue()
for number in range({IMAGES}):
    numbers.put(number)
def ask():
    connection = socket.create_connection((host, int(port)))
    while True:
        try:
            number = numbers.get_nowait()
        except queue.Empty:
            return
        connection.sendall(
            b"HEAD /v2/team/app%d/manifests/1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % number
        )
        answer = b""
        while not answer.endswith(b"\\r\\n\\r\\n"):
            answer += connection.recv(65536)
threads = [threading.Thread(target=ask) for _ in range({CONNECTIONS})]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture(scope="module")
def host() -> Iterator[str]:
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            del os.environ[name]
    with quick_registry.running(DELAY_SECONDS) as host:
        yield host


def test_polls_against_bare_requests_and_skopeo(host: str, tmp_path: Path) -> None:
    ours = Program("duccmake", [sys.executable, "-c", POLL, host, tmp_path])
    bare = Program("bare HEADs", [sys.executable, "-c", BARE, host])
    runs = alternate(f"{IMAGES} images unchanged", [ours, bare])
    mine = sorted(run.wall for run in runs["duccmake"])[len(runs["duccmake"]) // 2]
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    begin = time.monotonic()
    for number in range(SAMPLE):
        image = f"docker://{host}/team/app{number}:1"
        command = ["skopeo", "inspect", "--raw", "--tls-verify=false", image]
        subprocess.run(command, check=True, capture_output=True)
    loop = (time.monotonic() - begin) / SAMPLE * IMAGES
    leave(Row(f"{IMAGES} images unchanged", "s", mine, "skopeo inspect", loop, mine / loop))
    print(
        f"  skopeo inspect --raw in a loop: {loop:.0f} s (from {SAMPLE}); ratio {mine / loop:.3f}"
    )
