"""A maze whose moves sometimes slip, what a policy is worth in it, and episodes of somebody who half knows the way.

Knows no model.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy

SIZE = 13
DISCOUNT = 0.97
_SLIP = 0.1
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
_GOAL, _WRONG_GOAL = (11, 11), (1, 1)
_LONGEST_EPISODE = 60
# Of the one who wanders: shares of the way to the goal and of that to the opposite corner; else any move.
_RIGHT_WAY, _WRONG_WAY = 0.2, 0.3
# Walls that are opened beside those that make all rooms one tree, so that there are ways around.
_MORE_PASSAGES = 3
_SEED_OF_MAZE = 2024


@dataclass(frozen=True)
class Maze:
    """Free cells by number: their places, int64 [cells, 2], and where each move leads, int64 [cells, moves]."""

    places: numpy.ndarray
    leads_to: numpy.ndarray
    goal: int
    wrong_goal: int


@functools.cache
def maze() -> Maze:
    """A random tree of 6x6 rooms with walls between them, and three ways around: 74 cells."""
    stream = numpy.random.RandomState(_SEED_OF_MAZE)
    is_free = numpy.zeros((SIZE, SIZE), dtype=bool)
    is_free[1::2, 1::2] = True
    way, seen = [(1, 1)], {(1, 1)}
    while way:
        row, column = way[-1]
        walls = {(row + 2 * down, column + 2 * right): (row + down, column + right) for down, right in _MOVES}
        rooms = [room for room in walls if all(0 < place < SIZE for place in room) and room not in seen]
        if not rooms:
            way.pop()
            continue
        room = rooms[stream.randint(len(rooms))]
        is_free[walls[room]] = True
        way.append(room)
        seen.add(room)
    inner = numpy.argwhere(~is_free[1:-1, 1:-1]) + 1
    between = inner[inner.sum(axis=1) % 2 == 1]
    for row, column in between[stream.permutation(len(between))[:_MORE_PASSAGES]]:
        is_free[row, column] = True
    places = numpy.argwhere(is_free)
    number = {(int(row), int(column)): cell for cell, (row, column) in enumerate(places)}
    leads_to = [
        [number.get((row + down, column + right), number[row, column]) for down, right in _MOVES]
        for row, column in number
    ]
    return Maze(places, numpy.array(leads_to), number[_GOAL], number[_WRONG_GOAL])


def distances(goal: int) -> numpy.ndarray:
    """Moves from each cell to `goal` by the shortest way. Shape: int64 [cells]."""
    leads_to = maze().leads_to
    far = len(leads_to)
    found = numpy.where(numpy.arange(far) == goal, 0, far)
    for _ in range(far):
        found = numpy.minimum(found, 1 + found[leads_to].min(axis=1))
    return found


def shortest_way(goal: int) -> numpy.ndarray:
    """The policy that goes it; of several moves that are as good, the first. Shape: float64 [cells, moves]."""
    best: numpy.ndarray = numpy.eye(len(_MOVES))[distances(goal)[maze().leads_to].argmin(axis=1)]
    return best


def behaviour() -> numpy.ndarray:
    """The policy that the episodes are of. Shape: float64 [cells, moves]."""
    ways = _RIGHT_WAY * shortest_way(maze().goal) + _WRONG_WAY * shortest_way(maze().wrong_goal)
    mixed: numpy.ndarray = ways + (1 - _RIGHT_WAY - _WRONG_WAY) / len(_MOVES)
    return mixed


def episodes(count: int, *, first: int, stream: numpy.random.RandomState) -> dict[str, numpy.ndarray]:
    """Moves of `count` episodes, numbered from `first`: each begins anywhere, and ends at the goal or after 60 moves.

    `episodes`, `cells`, `next_cells` and `moves`, int64 [n]; `rewards`, float32 [n], 1 where the goal is entered.
    """
    leads_to, goal = maze().leads_to, maze().goal
    # Exact: sums of twentieths would differ in their last bits from machine to machine, and with them what is drawn.
    chances = numpy.rint(40 * behaviour()).astype(numpy.int64).cumsum(axis=1)
    elsewhere = numpy.delete(numpy.arange(len(leads_to)), goal)
    rows = []
    for episode in range(first, first + count):
        cell = elsewhere[stream.randint(len(elsewhere))]
        for _ in range(_LONGEST_EPISODE):
            move = int((chances[cell] <= stream.randint(40)).sum())
            made = move if stream.randint(10) >= 10 * _SLIP else stream.randint(len(_MOVES))
            rows.append((episode, cell, leads_to[cell, made], move))
            cell = leads_to[cell, made]
            if cell == goal:
                break
    names = ("episodes", "cells", "next_cells", "moves")
    table = dict(zip(names, numpy.array(rows, dtype=numpy.int64).T, strict=True))
    return {**table, "rewards": (table["next_cells"] == goal).astype(numpy.float32)}


def action_values(policy: numpy.ndarray) -> numpy.ndarray:
    """What each move brings where `policy` goes on after it, by a linear solve; nothing at the goal.

    Shapes: float64 [cells, moves], rows of which add up to 1 -> the same.
    """
    chances, rewards = _world()
    each = (policy[:, :, None] * chances).sum(axis=1)
    values = numpy.linalg.solve(numpy.eye(len(each)) - DISCOUNT * each, (policy * rewards).sum(axis=1))
    found: numpy.ndarray = rewards + DISCOUNT * chances @ values
    return found


def worth(policy: numpy.ndarray) -> float:
    """The discounted reward that `policy` has before it, mean over all cells but the goal."""
    values = (policy * action_values(policy)).sum(axis=1)
    return float(numpy.delete(values, maze().goal).mean())


@functools.cache
def best_worth() -> float:
    """That of the best policy, by policy iteration from the shortest way."""
    policy = shortest_way(maze().goal)
    found = worth(policy)
    while True:
        policy = numpy.eye(len(_MOVES))[action_values(policy).argmax(axis=1)]
        before, found = found, worth(policy)
        if found <= before:
            return before


@functools.cache
def _world() -> tuple[numpy.ndarray, numpy.ndarray]:
    """Chances of the next cell, [cells, moves, cells], and of a reward, [cells, moves]; nothing follows the goal."""
    leads_to, goal = maze().leads_to, maze().goal
    where = numpy.eye(len(leads_to))[leads_to]
    chances = (1 - _SLIP) * where + _SLIP * where.mean(axis=1, keepdims=True)
    chances[goal] = 0.0
    rewards = chances[:, :, goal].copy()
    chances[:, :, goal] = 0.0
    return chances, rewards
