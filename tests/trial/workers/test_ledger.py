"""The ledger: seconds of the longest chain of work, and what was sent."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from harness import Ledger, mixing_matrix


def ledger_of(workers: int, *durations: float) -> Ledger:
    """A ledger whose blocks of work take so many seconds, one after the other."""

    def moments() -> Iterator[float]:
        at = 0.0
        for duration in durations:
            yield at
            at += duration
            yield at

    return Ledger(workers, clock=moments().__next__)


def test_workers_who_do_not_wait_work_side_by_side():
    ledger = ledger_of(3, 5.0, 2.0, 1.0)
    for worker in range(3):
        with ledger.working(worker):
            pass
    assert ledger.clocks == [5.0, 2.0, 1.0]
    assert ledger.virtual_seconds == 5.0


def test_who_meets_goes_on_when_the_last_is_there():
    ledger = ledger_of(3, 5.0, 2.0, 1.0, 4.0)
    for worker in range(3):
        with ledger.working(worker):
            pass
    ledger.meet([1, 2])
    with ledger.working(2):
        pass
    assert ledger.clocks == [5.0, 2.0, 6.0]


def test_who_is_left_behind_is_not_waited_for():
    ledger = ledger_of(2, 3.0, 3.0)
    with ledger.working(0):
        pass
    with ledger.working(1, slowdown=10.0):
        pass
    assert ledger.virtual_seconds == 30.0
    ledger.meet([0], left_behind=[1])
    assert ledger.clocks == [3.0, 3.0]


def test_in_a_gossip_each_waits_for_whom_it_hears_alone():
    ledger = ledger_of(5, 8.0, 1.0, 1.0, 2.0, 1.0)
    for worker in range(5):
        with ledger.working(worker):
            pass
    ledger.gossip(mixing_matrix("ring", 5), 100)
    assert ledger.clocks == [8.0, 8.0, 2.0, 2.0, 8.0]
    assert ledger.bytes_sent == 5 * 2 * 100 * 4


def test_the_clock_of_a_server_takes_no_part_in_gossip():
    ledger = ledger_of(3, 1.0)
    with ledger.working(0):
        pass
    ledger.gossip(mixing_matrix("full", 2), 10)
    assert ledger.clocks == [1.0, 1.0, 0.0]


def test_bytes_are_numbers_times_their_width():
    ledger = Ledger(2)
    ledger.send(10)
    ledger.send(3, number_bytes=1)
    assert ledger.totals()["bytes_sent"] == 43


def test_a_ledger_goes_on_from_its_state():
    ledger = ledger_of(2, 1.5)
    with ledger.working(1):
        pass
    ledger.send(7)
    ledger.gradient_calls, ledger.loss_calls, ledger.examples_used = 3, 2, 64
    other = Ledger(2)
    other.load_state_dict(ledger.state_dict())
    assert other.totals() == ledger.totals()
    with other.working(0):
        torch.zeros(1)
    assert ledger.clocks == [0.0, 1.5]
