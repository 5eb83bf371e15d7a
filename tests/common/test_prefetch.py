"""Prefetching: order, errors, limit of results ahead, threads."""

import threading
from contextlib import closing

import pytest

from sppnet.common.prefetch import prefetch

WAIT = 30  # Seconds after which a test that hangs fails.


def test_keeps_the_order_whichever_item_is_ready_first():
    done = [threading.Event() for _ in range(4)]

    def last_first(item):
        if item < 3:
            assert done[item + 1].wait(WAIT)
        done[item].set()
        return item

    assert list(prefetch(last_first, range(4), ahead=3, workers=4)) == [0, 1, 2, 3]


def test_an_error_stands_in_place_of_its_result():
    def refuse_one(item):
        if item == 1:
            raise ValueError("one")
        return item

    results = prefetch(refuse_one, range(4), ahead=3, workers=4)
    assert next(results) == 0
    with pytest.raises(ValueError, match="one"):
        next(results)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 20])
@pytest.mark.parametrize("ahead", [0, 1, 2, 5])
def test_gives_the_results_of_map(count, ahead):
    assert list(prefetch(lambda x: x * x, range(count), ahead)) == [x * x for x in range(count)]


def test_works_in_one_other_thread_unless_asked_for_more():
    threads = set(prefetch(lambda _: threading.get_ident(), range(10)))
    assert len(threads) == 1
    assert threads != {threading.get_ident()}


def test_stops_when_its_reader_does():
    started = []
    for _ in prefetch(started.append, range(100), ahead=2):
        break
    assert len(started) <= 3


def test_takes_items_only_as_far_ahead_as_asked():
    taken = []

    def items():
        for item in range(10):
            taken.append(item)
            yield item

    with closing(prefetch(str, items(), ahead=2)) as results:
        assert taken == []
        assert next(results) == "0"
        assert taken == [0, 1, 2]
        assert next(results) == "1"
        assert taken == [0, 1, 2, 3]
    assert taken == [0, 1, 2, 3]


def test_each_thread_is_initialised_before_its_first_item():
    ready = threading.local()

    def initialise():
        ready.yes = True

    assert list(prefetch(lambda _: ready.yes, range(6), workers=3, initializer=initialise)) == [True] * 6


def test_nothing():
    assert list(prefetch(str, [])) == []
