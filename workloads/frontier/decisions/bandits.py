"""Two arms whose chances are even draws from 0 to 1: what is exact about pulling them so many times, by their counts.

A state is how often each arm has won and lost: wins and losses of the first, wins and losses of the second.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator

import numpy

Rule = Callable[[tuple[int, int, int, int]], float]
"""The chance with which the second arm is pulled in a state."""

_STATES = 4


@functools.cache
def best_values(pulls: int) -> tuple[numpy.ndarray, numpy.ndarray]:
    """What the pulls left are worth at best in a state, and how much of that each arm's pull gives away.

    By dynamic programming. Shapes: float64 [pulls + 1] * 4, [pulls] * 4 + [2]; 0 where there have been more pulls.
    """
    values = numpy.zeros((pulls + 1,) * _STATES)
    lost = numpy.zeros((pulls,) * _STATES + (2,))
    for done in reversed(range(pulls)):
        for state in states(done):
            of_arms = [_worth(state, arm, values) for arm in (0, 1)]
            values[state] = max(of_arms)
            lost[state] = values[state] - numpy.array(of_arms)
    return values, lost


def worth(rule: Rule, *, pulls: int) -> float:
    """What a rule wins in a pull, mean over all bandits, exactly."""
    values = numpy.zeros((pulls + 1,) * _STATES)
    for done in reversed(range(pulls)):
        for state in states(done):
            second = rule(state)
            values[state] = (1 - second) * _worth(state, 0, values) + second * _worth(state, 1, values)
    return float(values[0, 0, 0, 0]) / pulls


def second_is_better(state: tuple[int, int, int, int]) -> float:
    """The chance that the second arm is the better one, given what was seen: Thompson's rule pulls it as often.

    Of two chances with beta distributions of whole parameters; the sum is Miller's, "Bayesian A/B testing" (2014).
    """
    first_wins, first_losses, second_wins, second_losses = (count + 1 for count in state)
    return math.fsum(
        math.exp(
            _log_beta(first_wins + won, first_losses + second_losses)
            - math.log(second_losses + won)
            - _log_beta(1 + won, second_losses)
            - _log_beta(first_wins, first_losses)
        )
        for won in range(second_wins)
    )


@functools.cache
def posteriors(pulls: int) -> numpy.ndarray:
    """`second_is_better` of every state before the last of so many pulls, and 0. Shape: float64 [pulls] * 4."""
    found = numpy.zeros((pulls,) * _STATES)
    for done in range(pulls):
        for state in states(done):
            found[state] = second_is_better(state)
    return found


def states(done: int) -> Iterator[tuple[int, int, int, int]]:
    """All states after so many pulls."""
    for first, second, third in itertools.product(range(done + 1), repeat=3):
        if first + second + third <= done:
            yield first, second, third, done - first - second - third


def _worth(state: tuple[int, int, int, int], arm: int, values: numpy.ndarray) -> float:
    """What a pull of the arm wins, and the best that follows."""
    wins, losses = state[2 * arm], state[2 * arm + 1]
    chance = (wins + 1) / (wins + losses + 2)
    won, lost = (tuple(count + (place == 2 * arm + at) for place, count in enumerate(state)) for at in (0, 1))
    return float(chance * (1 + values[won]) + (1 - chance) * values[lost])


def _log_beta(first: float, second: float) -> float:
    return math.lgamma(first) + math.lgamma(second) - math.lgamma(first + second)
