"""How often nominal 95 % intervals cover the truth, and how often equal submissions are called different.

A world with known truth is drawn again and again; prints one line per design. Arguments: `repetitions=400`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.comparison import compare, compare_all
from harness.scoring.rules import ScoringRules
from harness.scoring.score import Scoring, area_array, gated_ratio_array, score_times
from harness.scoring.stopping.pruning import median_is_lost
from harness.scoring.uncertainty import bootstrap

Floats = NDArray[np.float64]
RULES = ScoringRules("simulation")
MAX_RUNTIME = 16.0
_TRUTH_DRAWS = 20_000
_SHOWN = 0.0005
"""Boards show scores to three places: an interval of 1.000 to 1.000 holds 0.99999."""


@dataclass(frozen=True)
class World:
    """Submissions whose trials take lognormal times; shapes of `log_mean` and `spread`: [submissions, workloads].

    `miss`: probability that a trial misses. `shared`: correlation of log times that common seeds make. `grid`: seconds
    between evaluations, to which times are rounded up; 0: none. `pruned`: trials stop at the best time of their study
    so far, and studies are not run once the median is lost. `tails`: degrees of freedom of Student noise; 0: normal.
    `alone`: so many cells, on as many workloads, have a single study.
    """

    log_mean: Floats
    spread: Floats
    studies: int
    trials: int
    miss: float = 0.0
    shared: float = 0.0
    grid: float = 0.0
    pruned: bool = False
    tails: int = 0
    alone: int = 0

    def draw(self, rng: np.random.Generator, size: int = 1) -> Floats:
        """Seconds of trials. Shape: [size, submissions, workloads, studies, trials]."""
        shape = (size, *self.log_mean.shape, self.studies, self.trials)
        noise = np.sqrt(1.0 - self.shared) * rng.standard_normal(shape)
        if self.tails:
            noise = rng.standard_t(self.tails, shape)
        if self.shared:
            noise += np.sqrt(self.shared) * rng.standard_normal((size, 1, *shape[2:]))
        seconds = np.exp(self.log_mean[..., None, None] + self.spread[..., None, None] * noise)
        if self.grid:
            seconds = np.ceil(seconds / self.grid) * self.grid
        missed = rng.random(shape) < self.miss
        return np.where(missed | (seconds > MAX_RUNTIME), np.inf, seconds)


def make_world(
    *, submissions: int = 6, workloads: int = 8, slowest: float = 3.0, equal: bool = False, **design: Any
) -> World:
    """Times from 1 to `slowest` seconds, spreads from 2 to 20 percent; `equal`: all submissions are the same.

    `design`: the other fields of `World`; 3 studies of 5 trials where it does not say.
    """
    rng = np.random.default_rng(0)
    rows = 1 if equal else submissions
    log_mean = np.log(rng.uniform(1.0, slowest, (rows, workloads)))
    spread = np.exp(rng.uniform(np.log(0.02), np.log(0.2), (rows, workloads)))
    shape = (submissions, workloads)
    design = {"studies": 3, "trials": 5} | design
    return World(np.broadcast_to(log_mean, shape), np.broadcast_to(spread, shape), **design)


def times_table(world: World, seconds: Floats) -> pd.DataFrame:
    """The trials of one draw as a table. Shape of `seconds`: [submissions, workloads, studies, trials]."""
    places = np.indices(seconds.shape).reshape(4, -1)
    stopped = stop_times(seconds) if world.pruned else np.full(seconds.shape, np.inf)
    is_pruned = (seconds > stopped).reshape(-1)
    flat = np.where(is_pruned, np.inf, seconds.reshape(-1))
    reached = np.isfinite(flat)
    table = pd.DataFrame(dict(zip(["submission", "workload", "study", "trial"], places, strict=True)))
    table["trial_id"] = np.arange(len(flat))
    # Common seeds are told from others by the seed column alone, as in recorded rows.
    table["seed"] = table["study"] * 100 + table["trial"] if world.shared else table["trial_id"]
    table["submission"] = "s" + table["submission"].astype(str)
    table["workload"] = "w" + table["workload"].astype(str)
    table["status"] = np.where(is_pruned, "pruned", np.where(reached, "reached", "out_of_budget"))
    table["charged_seconds"] = np.minimum(np.minimum(seconds, stopped).reshape(-1), MAX_RUNTIME)
    table["max_runtime"] = MAX_RUNTIME
    table["time_to_target"] = table["steps_to_target"] = flat
    table["last_miss_seconds"] = np.where(reached, np.maximum(flat - world.grid, 0.0), np.inf)
    table["evaluation_to_target"] = np.where(reached, 1.0, np.inf)
    table["evaluations"] = 1
    rows, columns, studies, _ = places
    dropped = (columns < world.alone) & (rows == columns % len(world.log_mean)) & (studies > 0)
    return table.drop(np.flatnonzero(dropped))


def stop_times(seconds: Floats) -> Floats:
    """When each trial is stopped, as in live runs: at the best of its study so far; 0 once the median is lost.

    Shapes: [submissions, workloads, studies, trials] -> the same.
    """
    best = np.minimum.accumulate(seconds, axis=-1)
    stopped = np.concatenate([np.full((*seconds.shape[:-1], 1), np.inf), best[..., :-1]], axis=-1)
    studies = seconds.shape[2]
    for row, column in np.ndindex(seconds.shape[:2]):
        study_times = best[row, column, :, -1]
        for study in range(studies):
            if median_is_lost(study_times[:study].tolist(), studies):
                stopped[row, column, study] = 0.0
    return stopped


def scored(world: World, rng: np.random.Generator) -> Scoring:
    """The scoring of one draw."""
    return score_times(times_table(world, world.draw(rng)[0]), RULES)


def truth(world: World, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Long-run means: score by submission, log seconds (a miss at the budget) by cell, log speed-up over the first."""
    scores, logs = [], []
    for _ in range(_TRUTH_DRAWS // 500):
        medians = np.median(world.draw(rng, 500).min(axis=-1), axis=-1)
        scores.append(score_array(medians))
        logs.append(np.log(np.minimum(medians, MAX_RUNTIME)))
    log_seconds = np.concatenate(logs).mean(axis=0)
    return np.concatenate(scores).mean(axis=0), log_seconds, (log_seconds[0] - log_seconds).mean(axis=-1)


def score_array(seconds: Floats) -> Floats:
    """Scores from times to target. Shapes: [..., submissions, workloads] -> [..., submissions]."""
    names = [f"w{number}" for number in range(seconds.shape[-1])]
    return area_array(gated_ratio_array(seconds, names, names, RULES), RULES)


@dataclass(frozen=True)
class Coverage:
    """Shares of intervals that cover the truth; NaN where they were not asked for."""

    score: float
    time: float
    speedup: float = float("nan")


def coverage(world: World, *, repetitions: int, resamples: int = 1000, seed: int = 0) -> Coverage:
    """Draw the world and its intervals `repetitions` times."""
    rng = np.random.default_rng(seed)
    true_score, true_log, true_speed = truth(world, rng)
    score, time, speedup = [], [], []
    for repetition in range(repetitions):
        scoring = scored(world, rng)
        found = bootstrap(scoring, resamples=resamples, seed=repetition, reference="s0")
        names = scoring.seconds.index
        score.append(_inside(found.scores.loc[names], true_score, to=_SHOWN))
        cells = found.cells.set_index(["submission", "workload"]).sort_index()
        # An interval without an upper end reaches the budget.
        time.append(_inside(cells[["low", "high"]].clip(upper=MAX_RUNTIME).apply(np.log), true_log.reshape(-1)))
        speedup.append(_inside(found.speedups.loc[names[1:]].apply(np.log), true_speed[1:]))
    return Coverage(float(np.mean(score)), float(np.mean(time)), float(np.mean(speedup)))


def plain_coverage(world: World, *, repetitions: int, resamples: int = 1000, seed: int = 0) -> Coverage:
    """The same for percentiles of recorded studies redrawn with replacement: what one would try first."""
    rng = np.random.default_rng(seed)
    true_score, true_log, _ = truth(world, rng)
    score: list[NDArray[np.bool_]] = []
    time: list[NDArray[np.bool_]] = []
    for _ in range(repetitions):
        study_seconds = world.draw(rng)[0].min(axis=-1)
        rows, columns, studies = study_seconds.shape
        picked = rng.integers(studies, size=(resamples, rows, columns, studies))
        redrawn = study_seconds[np.arange(rows)[:, None, None], np.arange(columns)[:, None], picked]
        medians = np.median(redrawn, axis=-1)
        logs = np.log(np.minimum(medians, MAX_RUNTIME))
        for covered, values, true in ((score, score_array(medians), true_score), (time, logs, true_log)):
            low, high = np.quantile(values, [0.025, 0.975], axis=0)
            covered.append((low <= true) & (true <= high))
    return Coverage(float(np.mean(score)), float(np.mean(time)))


def false_tiers(world: World, *, comparisons: int, resamples: int = 1000, seed: int = 0) -> int:
    """How many of so many A/A comparisons put the two names of one submission in different tiers."""
    rng = np.random.default_rng(seed)
    tiers = [bootstrap(scored(world, rng), resamples=resamples, seed=n).scores["tier"] for n in range(comparisons)]
    return sum(tier.nunique() > 1 for tier in tiers)


def false_speeds(world: World, *, comparisons: int, seed: int = 0) -> int:
    """How many of so many A/A comparisons of two submissions' speed declare a difference."""
    rng = np.random.default_rng(seed)
    return sum(compare(scored(world, rng), "s0", "s1").is_different for _ in range(comparisons))


def false_boards(world: World, *, boards: int, resamples: int = 1000, seed: int = 0) -> int:
    """How many of so many boards of equals call any two of them different: in tiers, in scores or head to head."""
    rng = np.random.default_rng(seed)
    count = 0
    for number in range(boards):
        scoring = scored(world, rng)
        by_score = bootstrap(scoring, resamples=resamples, seed=number).scores["tier"].nunique() > 1
        count += bool(by_score or compare_all(scoring)["is_different"].any())
    return count


def _inside(bounds: pd.DataFrame, value: Floats, *, to: float = 1e-9) -> NDArray[np.bool_]:
    return ((bounds["low"] <= value + to) & (value - to <= bounds["high"])).to_numpy(dtype=bool)


DESIGNS: dict[str, dict[str, Any]] = {
    "3 studies x 5 trials": {"studies": 3, "trials": 5},
    "5 studies x 5 trials": {"studies": 5, "trials": 5},
    "3 studies x 1 trial": {"studies": 3, "trials": 1},
    **{f"3 x 1, {share} % of trials miss": {"studies": 3, "trials": 1, "miss": share / 100} for share in (10, 30, 50)},
    **{
        f"two on two workloads, 3 x 1, {share} % miss": {
            "submissions": 2,
            "workloads": 2,
            "studies": 3,
            "trials": 1,
            "miss": share / 100,
        }
        for share in (0, 10, 30, 50)
    },
    "two workloads, 3 x 5": {"workloads": 2},
    **{f"3 x 1, {cells} cells of a single study": {"studies": 3, "trials": 1, "alone": cells} for cells in (1, 4)},
    "3 x 1, heavy tails": {"studies": 3, "trials": 1, "tails": 3},
    "3 x 5, heavy tails": {"tails": 3},
    "3 x 5, common seeds": {"studies": 3, "trials": 5, "shared": 0.5},
    "3 x 5, near ties": {"studies": 3, "trials": 5, "slowest": 1.05},
    "3 x 5, coarse evaluations": {"studies": 3, "trials": 5, "grid": 0.1},
    "3 x 5, half of all trials miss": {"studies": 3, "trials": 5, "miss": 0.5},
    "3 x 5, pruned": {"studies": 3, "trials": 5, "pruned": True},
    "3 x 5, pruned, half of all trials miss": {"studies": 3, "trials": 5, "miss": 0.5, "pruned": True},
    "5 x 5, three of four trials miss": {"studies": 5, "trials": 5, "miss": 0.75},
}


def main(arguments: list[str]) -> None:
    """Print the table."""
    options = dict(argument.split("=", 1) for argument in arguments)
    repetitions = int(options.get("repetitions", "400"))
    print(f"{'share of 95 % intervals that cover':38}  score   time  speed-up   plain percentiles: score   time")
    for name, design in DESIGNS.items():
        world = make_world(**design)
        ours = coverage(world, repetitions=repetitions)
        plain = plain_coverage(world, repetitions=repetitions)
        numbers = f"{ours.score:.3f}  {ours.time:.3f}     {ours.speedup:.3f}"
        print(f"{name:38}  {numbers}                      {plain.score:.3f}  {plain.time:.3f}", flush=True)
    for name, shared in {"apart": 0.0, "common seeds": 0.5}.items():
        world = make_world(submissions=2, equal=True, shared=shared)
        speeds = false_speeds(world, comparisons=5 * repetitions)
        tiers = false_tiers(world, comparisons=repetitions)
        print(
            f"A/A, {name}: another speed in {speeds} of {5 * repetitions}, two tiers in {tiers} of {repetitions}",
            flush=True,
        )
    for share in (0, 10, 30, 50):
        world = make_world(submissions=10, equal=True, studies=3, trials=1, miss=share / 100)
        flagged = false_boards(world, boards=repetitions)
        print(f"ten equals, 3 x 1, {share} % of trials miss: any two apart on {flagged} of {repetitions}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
