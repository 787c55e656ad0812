"""A few rounds of ``make chaos``, and that what it would lose is seen."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest
import requests

from chaos import invariants
from chaos.rounds import Tally, campaign
from chaos.world import world

ROUNDS, SECONDS = 2, 15
"""So many at most, and no more of them when so much time is over."""


@pytest.mark.parametrize(
    ("backend", "seed"),
    [
        ("directory", 11),
        pytest.param(
            "standin",
            17,
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="cvmfs_server needs root"),
        ),
    ],
)
def test_nothing_is_lost_while_things_break_at_random(backend: str, seed: int, tmp_path: Path):
    ends = time.monotonic() + SECONDS

    def enough(tally: Tally) -> bool:
        return tally.rounds >= (ROUNDS if time.monotonic() < ends else 1)

    tally = campaign(backend, seed, base=tmp_path, say=print, enough=enough)
    print(tally.table())
    assert tally.losses == []
    assert tally.faults


def test_what_is_lost_in_a_round_is_told(tmp_path: Path):
    with world(tmp_path, "directory", random.Random(1)) as lossy:
        lossy.tags["team/app0:1"] = "what its tag never stood for"
        told = invariants.a_clean_run_converges(lossy)
        assert [line for line in told if line.startswith("team/app0:1 shows 'team/app0:1 1'")]
        assert len(told) == 1
        visible = lossy.visible()
        assert invariants.all_is_whole(lossy, visible) == []

        links = {name: lossy.place.path / lossy.work.named(name) for name in visible}
        (links["team/app1:1"] / "d/content").write_text("torn")
        (links["team/app2:1"] / "opt/own-3-0").write_bytes(bytes(4096))
        links["team/app3:1"].unlink()
        told = invariants.all_is_whole(lossy, visible)
        for words in ("team/app1:1 shows", "opt/own-3-0", "team/app3:1 is not visible"):
            assert any(words in line for line in told), told

        layers = lossy.published_layers()
        (lossy.work.path / "results/blobs/left").mkdir(parents=True)
        assert any("blobs/left" in line for line in invariants.nothing_is_left(lossy))
        asked = len(lossy.registry.requests)
        assert invariants.nothing_is_fetched_again(lossy, layers, asked) == []
        requests.get(f"{lossy.registry.url}/v2/team/app0/blobs/{min(layers)}", timeout=60)
        assert len(invariants.nothing_is_fetched_again(lossy, layers, asked)) == 1
