"""How often the places that newcomers are given hold their true ones, in worlds with known truth.

A field of submissions is drawn again and again, and each of them is the newcomer once. Prints one line for each design.
Arguments: `repetitions=60 designs=all`, or a part of a design's name.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage import RULES, World, times_table, truth
from harness.scoring.score import score_times
from harness.scoring.uncertainty import bootstrap

Floats = NDArray[np.float64]
_EQUAL = 0.0005
"""Boards show scores to three places: two whose long-run scores are nearer may stand in either order."""
_AWAY = 4
"""So few newcomers on machines of their own stand on a board, among entries that do not, and so many more boards do."""


def make_field(
    *,
    submissions: int = 52,
    workloads: int = 8,
    skill: float = 0.2,
    fit: float = 0.2,
    twins: bool = False,
    **design: Any,
) -> World:
    """Log times that differ by submission with a standard deviation of `skill`, beside it by workload of `fit`.

    Spreads of trials are 2 to 10 percent. `twins`: every submission is there twice. `design`: the other fields of
    `World`; 3 studies of 1 trial where it does not say.
    """
    rng = np.random.default_rng(0)
    log_mean = 0.5 + skill * rng.standard_normal((submissions, 1)) + fit * rng.standard_normal((submissions, workloads))
    spread = np.exp(rng.uniform(np.log(0.02), np.log(0.1), log_mean.shape))
    if twins:
        log_mean, spread = (np.repeat(each[::2], 2, axis=0)[:submissions] for each in (log_mean, spread))
    return World(log_mean, spread, **{"studies": 3, "trials": 1, **design})


@dataclass(frozen=True)
class PlaceCoverage:
    """Shares of newcomers: whose interval `covers` the true place; who are placed too `high` up, too `low` down.

    `width`: mean number of places in an interval. `newcomers`: how many.
    """

    covers: float
    high: float
    low: float
    width: float
    newcomers: int


def place_coverage(
    world: World, *, repetitions: int, machine: float = 0.0, resamples: int = 1000, seed: int = 0
) -> PlaceCoverage:
    """Draw the board so many times, and let each submission be the newcomer on each.

    `machine`: standard deviation of the log factor by which a newcomer's machine has another ratio to the reference's
    step, drawn for each workload; above 0 the newcomers of a board are a few that are drawn by chance.
    """
    rng = np.random.default_rng(seed)
    score = truth(world, rng)[0]
    first = 1 + (score > score[:, None] + _EQUAL).sum(axis=1)
    last = (score >= score[:, None] - _EQUAL).sum(axis=1)
    found = []
    for number in range(repetitions * (_AWAY if machine else 1)):
        seconds = world.draw(rng)[0]
        newcomers = np.arange(len(score))
        if machine:
            newcomers = rng.choice(len(score), size=_AWAY, replace=False)
            seconds[newcomers] *= np.exp(machine * rng.standard_normal((_AWAY, seconds.shape[1], 1, 1)))
        names = [f"s{newcomer}" for newcomer in newcomers]
        scoring = score_times(times_table(world, seconds), RULES)
        places = bootstrap(scoring, resamples=resamples, seed=number, places_of=names).places.loc[names]
        low, high = places["low"].to_numpy(), places["high"].to_numpy()
        found.append(np.stack([high < first[newcomers], low > last[newcomers], high - low + 1], axis=1))
    too_high, too_low, width = np.concatenate(found).mean(axis=0)
    return PlaceCoverage(1.0 - too_high - too_low, too_high, too_low, width, sum(map(len, found)))


DESIGNS: dict[str, dict[str, Any]] = {
    "3 x 1, 8 workloads": {},
    "3 x 1, 8 workloads, common seeds": {"shared": 0.5},
    "3 x 1, 13 workloads, common seeds": {"workloads": 13, "shared": 0.5},
    "3 x 1, 8 workloads, dense": {"skill": 0.05, "fit": 0.1},
    "3 x 1, 8 workloads, wide": {"skill": 0.4, "fit": 0.3},
    "3 x 1, 8 workloads, every one twice": {"twins": True},
    "3 x 1, 8 workloads, 10 % of trials miss": {"miss": 0.1},
    "3 x 1, 8 workloads, 30 % of trials miss": {"miss": 0.3},
    "3 x 1, 3 workloads": {"workloads": 3},
    "3 x 5, 8 workloads, 12 submissions": {"trials": 5, "submissions": 12},
}
MACHINES = (0.01, 0.03, 0.1)


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = dict(argument.split("=", 1) for argument in arguments)
    repetitions, wanted = int(options.get("repetitions", "60")), options.get("designs", "all")
    runs = [(name, make_field(**design), 0.0) for name, design in DESIGNS.items()]
    runs += [(f"3 x 1, 8 workloads, ratios of its machine off by {m:.0%}", make_field(), m) for m in MACHINES]
    print(f"{'95 % intervals of places':55}  holds  too high  too low  places  newcomers")
    for name, world, machine in runs:
        if wanted == "all" or wanted in name:
            found = place_coverage(world, repetitions=repetitions, machine=machine)
            shares = f"{found.covers:.3f}  {found.high:8.3f}  {found.low:7.3f}"
            print(f"{name:55}  {shares}  {found.width:6.1f}  {found.newcomers:9d}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
