"""A clock that was ahead, and is right again: nothing that it noted is believed for longer."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from duccmake.planning.signed_memory import SignedMemory
from duccmake.planning.thin_images import note_refusal, was_refused
from support.runs import Work, days_later, fresh_work
from support.samples import AMD64, text_image


@pytest.mark.parametrize("max_age", [0, 60])
def test_moves_are_seen_and_what_failed_is_tried_as_soon_as_the_clock_is_right(
    tmp_path: Path, max_age: int
):
    with fresh_work(tmp_path) as work:
        work.push("team/app:1", text_image("first"))
        work.wish("{host}/team/app:1", "{host}/team/late:1")
        settings = {"retry": {"first_seconds": 900}, "resolve": {"max_age": max_age}}
        work.configure(platforms=[str(AMD64)], **settings)
        assert outcomes(days_later(work, 30)) == ["converted", "failed"]
        work.push("team/app:1", text_image("moved"))
        work.push("team/late:1", text_image("late"))
        assert outcomes(work) == ["converted", "converted"]
        assert work.content("team/app:1") == "moved"


def outcomes(work: Work) -> list[str]:
    """What a run says of the images, in the order of their names."""
    return [what for _, (what, _) in sorted(work.run().outcomes.items())]


def test_a_refusal_counts_for_its_time_and_not_before(tmp_path: Path):
    note, now = tmp_path / "note", time.time()
    note_refusal(note)
    assert was_refused(note, now + 50, 60)
    assert not was_refused(note, now + 70, 60)
    assert not was_refused(note, now - 86400, 60)


def test_what_a_policy_refused_is_held_to_it_anew_where_that_was_in_a_time_to_come(
    tmp_path: Path,
):
    memory = SignedMemory(tmp_path / "signed.json")
    memory.remember("key", "not signed", 1000.0)
    memory.save()
    assert SignedMemory(tmp_path / "signed.json").reason("key", 1001.0) == "not signed"
    assert SignedMemory(tmp_path / "signed.json").reason("key", 999.0) is None
