from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from duccmake.registry.http.pull_budget import PullBudget


@pytest.mark.parametrize(
    ("headers", "left"),
    [
        ({"RateLimit-Remaining": "76;w=21600"}, 76),
        ({"RateLimit-Remaining": "0;w=21600"}, 0),
        ({"RateLimit-Remaining": "76"}, 76),
        ({"X-RateLimit-Remaining": " 12 "}, 12),
        ({"X-RateLimit-Remaining": "12", "X-RateLimit-Reset": "3600"}, 12),
        ({"X-RateLimit-Remaining": "12", "X-RateLimit-Reset": f"{time.time() + 9999:.0f}"}, 12),
        ({"RateLimit": '"default";r=50;t=3600'}, 50),
        ({"RateLimit": "limit=100, remaining=40, reset=9000"}, 40),
        # Limits that are renewed at once are met by 429, and are no budget.
        ({"RateLimit-Remaining": "3;w=60"}, None),
        ({"RateLimit-Remaining": "3", "RateLimit-Reset": "30"}, None),
        ({"RateLimit-Remaining": "3", "RateLimit-Reset": f"{time.time() + 20:.0f}"}, None),
        ({"RateLimit": '"burst";r=5;t=10'}, None),
        ({"RateLimit-Remaining": "many"}, None),
        ({"RateLimit-Remaining": "-1"}, None),
        ({"RateLimit-Limit": "100;w=21600"}, None),
        ({}, None),
    ],
)
def test_what_registries_tell_of_their_budgets(headers, left):
    budget = PullBudget()
    assert budget.note(headers) == (left is not None)
    assert budget.remaining == left


def test_without_a_word_there_is_no_limit():
    budget = PullBudget()
    assert all(budget.take() for _ in range(1000))


def test_pulls_under_way_count_as_spent():
    budget = PullBudget()
    budget.note({"RateLimit-Remaining": "3"})
    assert [budget.take() for _ in range(4)] == [True, True, True, False]
    budget.settle({"RateLimit-Remaining": "2"})
    assert not budget.take()
    budget.settle(None)
    assert budget.take()


def test_pulls_whose_answers_tell_nothing_are_counted():
    budget = PullBudget()
    budget.note({"RateLimit-Remaining": "2"})
    for _ in range(2):
        assert budget.take()
        budget.settle({})
    assert not budget.take()


def test_a_budget_that_is_renewed_is_believed():
    budget = PullBudget()
    budget.note({"RateLimit-Remaining": "0"})
    assert not budget.take()
    budget.note({"RateLimit-Remaining": "100"})
    assert budget.take()


def test_threads_take_no_more_than_there_is():
    budget = PullBudget()
    budget.note({"RateLimit-Remaining": "50"})
    with ThreadPoolExecutor(16) as threads:
        taken = list(threads.map(lambda _: budget.take(), range(500)))
    assert taken.count(True) == 50


def test_an_answer_that_was_overtaken_by_a_later_one_gives_nothing_back():
    budget = PullBudget()
    assert budget.take() and budget.take()
    budget.settle({"RateLimit-Remaining": "1;w=21600"})
    budget.settle({"RateLimit-Remaining": "2;w=21600"})
    assert budget.remaining == 1


def test_a_budget_that_was_renewed_is_believed():
    budget = PullBudget()
    assert budget.take()
    budget.settle({"RateLimit-Remaining": "1;w=21600"})
    assert budget.take()
    budget.settle({"RateLimit-Remaining": "100;w=21600"})
    assert budget.remaining == 100
