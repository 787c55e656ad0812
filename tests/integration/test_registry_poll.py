"""Thousands of images polled: what that costs in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support import quick_registry

PACKAGE = Path(__file__).parents[2] / "workflow"
LIMIT_MB = 200
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
references = [Reference.parse(f"http://{{host}}/team/app{{n}}:1") for n in range(2000)]
wishes = tuple(Wish(reference, 1) for reference in references)
with Client({{host: RegistrySettings(scheme="http", connections=32)}}) as client:
    memory, store = PollMemory(state / "polls.json"), ContentStore(state / "content")
    (found,) = Resolver(client, memory, store).resolve(
        [Recipe(Path("recipe.yaml"), "a.example.org", wishes=wishes)], [Platform("linux", "amd64")]
    )
assert len(found.resolved) == 2000 and not any(item.stale for item in found.resolved)
# The peak of this program alone: getrusage counts the one that started it as well.
print(next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM")))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_images_fit_into_little_memory_when_new_and_when_unchanged(
    tmp_path, monkeypatch
):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with quick_registry.running(0.0) as host:
        for _ in ("new", "unchanged"):
            done = subprocess.run(
                [sys.executable, "-c", POLL, host, str(tmp_path)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            assert int(done.stdout) / 1024 < LIMIT_MB
