"""What is kept of images: written whole, read by anybody, begun anew where it is damaged."""

from __future__ import annotations

import random
import sqlite3
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from duccmake.errors import Fault
from duccmake.state import store
from duccmake.state.model import Day, Failure, LayerSizes, Life, Move, State
from duccmake.state.pauses import OWN, Pauses, key_of
from duccmake.state.store import FILE, UnreadableState, changing, load

NOW = 1_800_000_000.0


def life(number: int) -> Life:
    chance = random.Random(number)
    failures = tuple(
        Failure("layer", f"k{n}", "why \x1b[1m", NOW, NOW + n, n + 1, NOW * 2, ended and NOW)
        for n, ended in enumerate([False, *[True] * chance.randrange(3)])
    )
    return Life(
        f"r.example.org/app:{number}",
        NOW - number,
        path=f"r.example.org/app:{number}",
        source={"recipe": "list.yaml"},
        published=f"sha256:{number}",
        published_at=chance.choice([None, NOW]),
        revision=chance.choice([None, 7]),
        files=chance.choice([None, 12]),
        losses={"owners": number},
        config=chance.choice(["", "sha256:1"]),
        changes=chance.choice([{}, {"since": "sha256:0", "largest": [["added", "f", 1]]}]),
        layers=tuple(f"sha256:l{chance.randrange(9)}" for _ in range(chance.randrange(4))),
        moves=tuple(Move(f"sha256:{n}", NOW + n) for n in range(chance.randrange(3))),
        failures=failures[: chance.randrange(len(failures) + 1)],
    )


def state_of(count: int) -> State:
    lives = {one.title: one for one in map(life, range(count))}
    digests = {digest for one in lives.values() for digest in one.layers}
    layers = {digest: LayerSizes(5, None) for digest in digests}
    return State(
        lives, layers, {"2026-11-28": Day("2026-11-28", 1, 2, 3, 4, 5)}, [1.5, 0.5], {"a": 1.0}
    )


def write(directory: Path, wished: State) -> None:
    with changing(directory) as state:
        state.lives, state.layers = dict(wished.lives), dict(wished.layers)
        state.days, state.waits = dict(wished.days), list(wished.waits)
        state.counts = dict(wished.counts)


def test_what_was_written_is_read_back_whatever_was_there_before(tmp_path):
    assert load(tmp_path) == load(None) == State()
    for count in (5, 50, 0, 20):
        write(tmp_path, state_of(count))
        assert load(tmp_path) == state_of(count)


def test_a_block_that_fails_changes_nothing_and_locks_nobody_out(tmp_path):
    write(tmp_path, state_of(3))
    with pytest.raises(ZeroDivisionError), changing(tmp_path) as state:
        state.lives.clear()
        raise ZeroDivisionError
    assert load(tmp_path) == state_of(3)
    write(tmp_path, state_of(4))


def test_readers_see_the_old_state_while_another_is_made(tmp_path):
    write(tmp_path, state_of(3))
    with changing(tmp_path) as state:
        state.lives.clear()
        assert load(tmp_path) == state_of(3)
    assert load(tmp_path).lives == {}


def test_a_reader_writes_nothing(tmp_path):
    write(tmp_path, state_of(3))
    for path in (tmp_path / FILE, tmp_path):
        path.chmod(stat.S_IRUSR | stat.S_IXUSR)
    before = sorted(tmp_path.iterdir())
    assert load(tmp_path) == state_of(3)
    assert sorted(tmp_path.iterdir()) == before
    tmp_path.chmod(0o700)


def _garbage(path: Path) -> None:
    path.write_bytes(b"no database\n" * 1000)


def _torn(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _newer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version = 99")


def _no_table(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE failures")


def _no_json(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE images SET losses = '{'")


def _no_such_layer(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE images SET layers = '[77]'")


@pytest.mark.parametrize("damage", [_garbage, _torn, _newer, _no_table, _no_json, _no_such_layer])
def test_what_cannot_be_read_is_put_aside_and_begun_anew(tmp_path, damage):
    write(tmp_path, state_of(3))
    damage(tmp_path / FILE)
    with pytest.raises(UnreadableState) as error:
        load(tmp_path)
    assert error.value.is_damaged and str(tmp_path / FILE) in str(error.value)
    write(tmp_path, state_of(2))
    assert (tmp_path / f"{FILE}.unreadable").exists()
    assert load(tmp_path) == state_of(2)


def test_a_state_that_somebody_else_holds_is_not_damaged(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_WAIT_SECONDS", 0.01)
    with changing(tmp_path), pytest.raises(UnreadableState) as error, changing(tmp_path):
        raise AssertionError("never begun")
    assert not error.value.is_damaged


def test_what_is_not_wished_for_any_more_is_forgotten_after_a_while(tmp_path):
    now = time.time()
    short, long = replace(life(1), gone=now - 86400), replace(life(2), gone=now - 91 * 86400)
    write(tmp_path, State({one.title: one for one in (short, long)}))
    assert set(load(tmp_path).lives) == {short.title}


def test_what_is_kept_is_bounded():
    found = Life("a", NOW)
    for number in range(250):
        found = found.moved(f"sha256:{number}", NOW + number)
        found = found.failed(Failure("layer", f"{number}", "x" * 10**6, NOW, NOW, 1))
    assert len(found.moves) == len(found.failures) == 100
    assert found.moves[0].digest == "sha256:249"
    assert len(found.failures[0].reason) <= 2000
    assert [one.ended is None for one in found.failures[:2]] == [True, False]


def test_a_digest_that_stays_is_no_move():
    found = Life("a", NOW).moved("sha256:1", NOW).moved("sha256:1", NOW + 9)
    assert found.moves == (Move("sha256:1", NOW),)


def test_pauses_double_up_to_a_day_and_a_failure_of_something_else_begins_anew():
    pauses, found, now, waits = Pauses(), Life("a", NOW), NOW, []
    for _ in range(9):
        found = pauses.noted(found, Fault.LAYER, "key", "damaged", now)
        due = pauses.next_try(found.failure)
        waits.append((due - now) / 60)
        now = due
    assert waits == [15, 30, 60, 120, 240, 480, 960, 1440, 1440]
    assert (found.failure.count, found.failure.first) == (9, NOW)
    other = pauses.noted(found, Fault.LAYER, "other", "damaged", now)
    assert (other.failure.count, other.failures[1].ended) == (1, now)
    assert other.recovered(now).failure is None


def test_shorter_pauses_of_the_configuration_count_for_what_failed_before():
    failure = Pauses().noted(Life("a", NOW), Fault.LAYER, "key", "damaged", NOW).failure
    assert Pauses(0).next_try(failure) == NOW
    assert Pauses(10**6, 10**6).next_try(failure) == NOW + 900


@pytest.mark.parametrize("fault", Fault)
def test_only_what_an_image_itself_is_at_fault_for_is_held(fault):
    failure = Pauses().noted(Life("a", NOW), fault, "key", "why", NOW).failure
    assert (Pauses().next_try(failure) is not None) == (fault in OWN)
    theirs = {"unreached", "space", "repository", "other"}
    assert (fault in OWN) == (fault not in theirs)


def test_keys_differ_where_what_is_tried_does():
    assert key_of(["a", "b"]) == key_of(["a", "b"])
    assert len({key_of(parts) for parts in (["a", "b"], ["ab"], ["a"], [])}) == 4
