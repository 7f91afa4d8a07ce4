"""Draws of what a repetition of the whole benchmark could have given: new seeds, new hyperparameter draws, same design.

A cell is one submission on one workload, with n studies. In each resample every study of every cell is drawn anew: it
misses with a probability that is itself drawn from what `misses` leaves open, else its log time is normal with the
cell's mean and variance.
Common seeds keep their correlation: submissions of one workload then share the random weights on their deviations.
Redrawing the few recorded times themselves would be simpler; `docs/scoring.md` says how far its intervals fall short.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.scoring.misses import MissRates, count_thresholds, miss_rates
from harness.scoring.score import Scoring
from harness.scoring.times import usual_budgets

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]

_CHUNK_VALUES = 2**18  # draws of one workload held at a time: few enough to stay in the processor's cache
_NETWORK_LIMIT = 9  # up to here a sorting network over whole arrays beats sorting many short rows


@dataclass(frozen=True)
class Cells:
    """The studies of every cell as arrays. Shapes: [submissions, workloads], with studies last where there are three.

    `deviations`: log seconds less their mean, 0 for a miss or a study that is not there. `hits`: studies that reach the
    target. `floor`: the least spread on the log scale: what rounding up to the next evaluation makes, or where fewer
    than two studies hit, what others on the workload have. `freedom`: degrees of freedom of the spread. `misses`: how
    likely a study misses. `log_cap`: [workloads], log of `miss_seconds`, where a miss is put on the log scale.
    `is_paired`: all submissions of a workload ran with common seeds. `is_pooled`: a cell of a single study, whose
    spread is that of others. `is_known`: whether every cell has a spread, its own or others'.
    """

    submissions: list[str]
    workloads: list[str]
    counts: NDArray[np.intp]
    hits: NDArray[np.intp]
    mean: Floats
    spread: Floats
    deviations: Floats
    floor: Floats
    freedom: Floats
    misses: MissRates
    log_cap: Floats
    is_paired: bool
    is_pooled: NDArray[np.bool_]
    is_known: bool


def cells_of(scoring: Scoring) -> Cells:
    """The cells of a scoring, from its studies and, for the probability of a miss, from their trials."""
    submissions = [str(name) for name in scoring.seconds.index]
    workloads = [str(name) for name in scoring.seconds.columns]
    studies = scoring.studies
    row = pd.Index(submissions).get_indexer(pd.Index(studies["submission"]))
    column = pd.Index(workloads).get_indexer(pd.Index(studies["workload"]))
    # By number, not by place: common seeds go with the number of a study.
    numbers = np.unique(studies["study"])
    number = np.searchsorted(numbers, studies["study"])
    shape = (len(submissions), len(workloads), len(numbers))
    log_seconds, rounding = np.full(shape, np.nan), np.full(shape, np.nan)
    seconds = studies["time_to_target"].to_numpy(dtype=float)
    log_seconds[row, column, number] = np.log(seconds)
    rounding[row, column, number] = rounding_spread(studies)
    counts = (~np.isnan(log_seconds)).sum(axis=-1)
    finite = np.isfinite(log_seconds)
    hits = finite.sum(axis=-1)
    mean = np.where(finite, log_seconds, 0.0).sum(axis=-1) / np.maximum(hits, 1)
    deviations = np.where(finite, log_seconds - mean[..., None], 0.0)
    spread = np.sqrt((deviations**2).sum(axis=-1) / np.maximum(hits - 1, 1))
    floor = np.where(finite, rounding, 0.0).sum(axis=-1) / np.maximum(hits, 1)
    misses = miss_rates(scoring.times, submissions, workloads)
    for place in range(len(workloads)):
        _borrow(place, counts, hits, mean, spread, floor, misses)
    single = counts == 1
    freedom = _pool(counts, hits, spread, floor)
    return Cells(
        submissions,
        workloads,
        counts,
        hits,
        mean,
        spread,
        deviations,
        floor,
        freedom,
        misses,
        log_cap=np.log(miss_seconds(scoring).reindex(workloads).to_numpy(dtype=float)),
        is_paired=has_common_seeds(scoring.times),
        is_pooled=single,
        is_known=not single.any() or bool((hits > 1).any()),
    )


def _borrow(
    column: int,
    counts: NDArray[np.intp],
    hits: NDArray[np.intp],
    mean: Floats,
    spread: Floats,
    floor: Floats,
    misses: MissRates,
) -> None:
    """Fill in what a cell without a hit, or with a single one, does not show, from the others on its workload.

    Where nobody has hit, nothing is known of hits, and every study is taken to miss.
    """
    some, several = hits[:, column] > 0, hits[:, column] > 1
    never = ~some & (counts[:, column] > 0)
    if several.any():
        common = np.sqrt((spread[several, column] ** 2).mean())
        floor[~several, column] = np.maximum(floor[~several, column], common)
    if some.any():
        floor[never, column] = np.hypot(floor[never, column], mean[some, column].std())
        mean[never, column] = mean[some, column].mean()
    else:
        misses.mean[never, column] = 1.0


def _pool(counts: NDArray[np.intp], hits: NDArray[np.intp], spread: Floats, floor: Floats) -> Floats:
    """Degrees of freedom of every cell's spread; cells of a single study get that of others, and theirs.

    Those on the same workload that have two hits, or where there is none, all of the board: of logarithms.
    """
    freedom = np.maximum(counts - 1, 1).astype(float)
    single, several = counts == 1, hits > 1
    for column in np.flatnonzero(single.any(axis=0)):
        pool = several & (np.arange(several.shape[1]) == column)
        pool = pool if pool.any() else several
        spreads, free = spread[pool], hits[pool].astype(float) - 1.0
        if len(spreads):
            common, freedom[single[:, column], column] = _pooled(spreads, free)
            floor[single[:, column], column] = np.maximum(floor[single[:, column], column], common)
    return freedom


def _pooled(spreads: Floats, freedom: Floats) -> tuple[float, float]:
    """The spread that another cell is expected to have, and its degrees of freedom. Shapes: [cells] alike.

    After Satterthwaite (1946): two over the squared coefficient of variation of a variance, here that of true
    variances from cell to cell (what their estimates vary beyond chance) and that of their mean.
    """
    variance = float(np.average(spreads**2, weights=freedom))
    if variance == 0.0:
        return 0.0, float(freedom.sum())
    by_chance = float((2.0 / freedom).mean())
    found = float(((spreads**2 / variance - 1.0) ** 2).mean())
    between = max(0.0, (found - by_chance) / (1.0 + by_chance))
    relative = between + max(found, by_chance) / len(spreads)
    return variance**0.5, float(np.clip(2.0 / relative, 1.0, freedom.sum()))


def miss_seconds(scoring: Scoring) -> pd.Series:
    """Seconds by workload that stand for a miss where a number is needed: the budget, and what the rules add to it.

    Without a known budget: where the profile stops looking, `tau_max` times the slowest study.
    """
    budget = usual_budgets(scoring.times, ["workload"]) + scoring.rules.miss_extra_seconds
    seconds = scoring.studies["time_to_target"].where(np.isfinite(scoring.studies["time_to_target"]))
    slowest = seconds.groupby(scoring.studies["workload"], observed=True).max().reindex(budget.index).fillna(1.0)
    return budget.where(np.isfinite(budget), slowest * scoring.rules.tau_max)


def rounding_spread(studies: pd.DataFrame) -> Floats:
    """Standard deviation of a time known only to lie between two evaluations, relative to it; 0 for a miss."""
    seconds = studies["time_to_target"].to_numpy(dtype=float)
    with np.errstate(invalid="ignore"):
        gap = (seconds - studies["last_miss_seconds"].to_numpy(dtype=float)) / seconds
    spread: Floats = np.where(np.isfinite(seconds), gap, 0.0) / np.sqrt(12.0)
    return spread


def has_common_seeds(times: pd.DataFrame) -> bool:
    """True where every trial number of every workload ran with one seed in all submissions that have it."""
    if "seed" not in times.columns or times["submission"].nunique() < 2 or (times["seed"] < 0).any():
        return False
    seeds = times.groupby(["workload", "study", "trial"], observed=True)["seed"].nunique()
    return bool((seeds == 1).all())


def draw_medians(cells: Cells, *, resamples: int, rng: np.random.Generator) -> Iterator[Singles]:
    """Log of the time to target of every cell in resample after resample, in chunks; infinite for a miss.

    Shape of a chunk: [some resamples, submissions, workloads].
    """
    shape = cells.counts.shape
    chunk = max(1, _CHUNK_VALUES // max(1, shape[0] * int(cells.counts.max())))
    draw = _paired_draws if cells.is_paired else _single_draws
    for start in range(0, resamples, chunk):
        size = min(chunk, resamples - start)
        medians = np.full((size, *shape), np.inf, dtype=np.float32)
        for column in range(shape[1]):
            for count in np.unique(cells.counts[:, column]):
                members = np.flatnonzero(cells.counts[:, column] == count)
                if count:
                    draws = draw(cells, members, column, size, rng)
                    _put_misses(draws, cells.misses, members, column, rng)
                    medians[:, members, column] = _median(draws)
        yield medians


def _single_draws(cells: Cells, members: NDArray[np.intp], column: int, size: int, rng: np.random.Generator) -> Singles:
    """Log times of the studies of one workload's submissions. Shape: [studies, size, members]."""
    count = int(cells.counts[members[0], column])
    draws = rng.standard_normal((count, size, len(members)), dtype=np.float32)
    draws *= np.maximum(cells.spread, cells.floor)[members, column].astype(np.float32)
    draws += cells.mean[members, column].astype(np.float32)
    return draws


def _paired_draws(cells: Cells, members: NDArray[np.intp], column: int, size: int, rng: np.random.Generator) -> Singles:
    """As `_single_draws`, with one set of weights on their deviations for all submissions."""
    count = int(cells.counts[members[0], column])
    free = np.maximum(cells.hits[members, column] - 1, 1)
    deviations = (cells.deviations[members, column] / np.sqrt(free)[:, None]).astype(np.float32)
    weights = rng.standard_normal((count * size, deviations.shape[1]), dtype=np.float32)
    draws: Singles = (weights @ deviations.T).reshape(count, size, len(members))
    floor, spread = cells.floor[members, column], cells.spread[members, column]
    lacking = np.sqrt(np.maximum(floor**2 - spread**2, 0.0)).astype(np.float32)
    if lacking.any():
        draws += lacking * rng.standard_normal(draws.shape, dtype=np.float32)
    draws += cells.mean[members, column].astype(np.float32)
    return draws


def _put_misses(
    draws: Singles, misses: MissRates, members: NDArray[np.intp], column: int, rng: np.random.Generator
) -> None:
    """Misses are drawn apart in each cell, also with common seeds: how far they go together is not in the tables.

    The number of missed studies is beta-binomial: the rate is drawn anew in each resample. Which ones miss is a turn.
    """
    mean, strength = misses.mean[members, column], misses.strength[members, column]
    draws[..., mean >= 1.0] = np.inf
    some = np.flatnonzero((mean > 0.0) & (mean < 1.0))
    if not len(some):
        return
    count = len(draws)
    thresholds = count_thresholds(mean[some], strength[some], count)
    chance = rng.random((draws.shape[1], len(some)), dtype=np.float32)
    resample, place = np.nonzero(chance >= thresholds[0])
    missed = (chance[resample, place] >= thresholds[:count, place]).sum(axis=0)
    turn = rng.integers(count, size=len(resample))
    for study in range(count):
        is_miss = (study - turn) % count < missed
        draws[study, resample[is_miss], some[place[is_miss]]] = np.inf


def _median(draws: Singles) -> Singles:
    """Median over the first dimension, infinite values included. Shape: [count, ...] -> [...]. Overwrites `draws`."""
    count = len(draws)
    if count > _NETWORK_LIMIT:
        medians: Singles = np.median(draws, axis=0)
        return medians
    for turn in range(count):  # odd-even transposition: after `count` turns the first dimension is sorted
        for low in range(turn % 2, count - 1, 2):
            smaller = np.minimum(draws[low], draws[low + 1])
            np.maximum(draws[low], draws[low + 1], out=draws[low + 1])
            draws[low] = smaller
    middle: Singles = (draws[(count - 1) // 2] + draws[count // 2]) / 2
    return middle
