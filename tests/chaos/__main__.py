"""``make chaos``: rounds on each backend that there is, and what was lost."""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

from chaos.places import BACKENDS
from chaos.rounds import Tally, campaign
from support import oracles
from support.cvmfs_repositories import why_not_real


def main() -> int:
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, action="append")
    parser.add_argument("--seed", type=int)
    parser.add_argument("--world", type=int, default=0, help="the first one")
    parser.add_argument("--rounds", type=int, default=0, help="on each backend")
    parser.add_argument("--minutes", type=float, default=0, help="on each backend")
    asked = parser.parse_args()
    if not asked.rounds and not asked.minutes:
        asked.minutes = 10.0
    seed = random.randrange(1 << 32) if asked.seed is None else asked.seed
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Told to stop, it takes its mounts and processes with it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("stopped"))
    losses = 0
    for backend in asked.backend or backends():
        base = Path(tempfile.mkdtemp(prefix=f"duccmake-chaos-{backend}-"))
        print(f"{backend}: SEED={seed}, in {base}", flush=True)
        if not oracles.ROOT:
            print("without root: no disks are filled, none gets read-only", flush=True)
        ends = time.monotonic() + asked.minutes * 60

        def enough(tally: Tally, ends: float = ends) -> bool:
            return tally.rounds >= asked.rounds if asked.rounds else time.monotonic() > ends

        tally = campaign(backend, seed, base=base, say=say, enough=enough, first_world=asked.world)
        print(f"{backend}: {tally.table()}", flush=True)
        losses += len(tally.losses)
        if not tally.losses:
            base.rmdir()
    return 1 if losses else 0


def say(text: str) -> None:
    print(f"  {text}", flush=True)


def backends() -> list[str]:
    """Those that can be had here."""
    found = ["directory"]
    if oracles.ROOT:
        found.append("standin")
        if reason := why_not_real():
            print(f"not on the real CernVM-FS: {reason}")
        else:
            found.append("real")
    return found


sys.exit(main())
