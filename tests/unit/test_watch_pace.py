"""When the watcher runs: at its interval, soon after a failure, at once after a change."""

from __future__ import annotations

import pytest

from duccmake.service.watch.schedule import Ending, Pace

GOOD, BROKEN = Ending(True), Ending(False)


def failed(*images: str) -> Ending:
    return Ending(True, frozenset(images))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pace(clock: Clock) -> Pace:
    return Pace(600, 15, clock=clock)


def test_the_first_poll_is_due_at_once(pace: Pace, clock: Clock):
    assert pace.due == pace.earliest == clock.now


def test_after_a_good_run_the_interval_passes_and_notices_do_not_wait(pace: Pace, clock: Clock):
    pace.ended(GOOD)
    assert (pace.due, pace.earliest) == (clock.now + 600, clock.now)


def test_what_cannot_run_at_all_is_left_alone_longer_each_time(pace: Pace, clock: Clock):
    pauses = []
    for _ in range(9):
        pace.ended(BROKEN)
        assert pace.due == pace.earliest
        pauses.append(pace.due - clock.now)
        clock.now = pace.due
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600, 600]


def test_an_image_that_keeps_failing_is_tried_less_often_and_makes_no_other_wait(
    pace: Pace, clock: Clock
):
    pauses = []
    for _ in range(8):
        pace.ended(failed("a:1"))
        assert pace.earliest == clock.now
        pauses.append(pace.due - clock.now)
    assert pauses == [15, 30, 60, 120, 240, 480, 600, 600]
    pace.ended(failed("a:1", "b:1"))
    assert pace.due - clock.now == 15


def test_a_run_for_some_images_does_not_put_the_poll_off(pace: Pace, clock: Clock):
    pace.ended(GOOD)
    due = pace.due
    clock.now += 300
    pace.ended(GOOD, whole=False)
    assert pace.due == due
    pace.ended(failed("a:1"), whole=False)
    assert pace.due == clock.now + 15


def test_a_change_ends_the_wait(pace: Pace, clock: Clock):
    for _ in range(5):
        pace.ended(BROKEN)
    pace.changed()
    assert pace.due == pace.earliest == clock.now
    pace.begun()
    pace.ended(BROKEN)
    assert pace.due == clock.now + 15


@pytest.mark.parametrize("outcome", [GOOD, BROKEN, failed("a:1")])
def test_a_change_during_a_run_has_another_one_follow(pace: Pace, clock: Clock, outcome: Ending):
    pace.begun()
    pace.changed()
    clock.now += 5
    pace.ended(outcome)
    assert pace.due == pace.earliest == clock.now
    pace.begun()
    pace.ended(GOOD)
    assert pace.due == clock.now + 600
