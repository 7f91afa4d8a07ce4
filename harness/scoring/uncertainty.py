"""Intervals on scores, speed-ups and times, and tiers of submissions that the data cannot separate.

Every interval is over repetitions of the whole benchmark: the same workloads, submissions and number of studies, new
seeds and new hyperparameter draws. It covers the long-run mean of the number that the board shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from harness.scoring.comparison import DIFFERENCE_ALPHA, holm
from harness.scoring.misses import median_misses
from harness.scoring.placing.places import place_intervals
from harness.scoring.profiles import exact_area
from harness.scoring.resampling import Cells, cells_of, draw_medians
from harness.scoring.score import Scoring, area_array, frozen_score, gated_ratio_array

Floats = NDArray[np.float64]
Singles = NDArray[np.float32]
RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Uncertainty:
    """What can be said about a scoring beyond its numbers.

    `scores`: by submission: `score`, `low`, `high`, `standard_error`, `degrees_of_freedom`, `tier` (1 is best),
    `is_pooled`: whether a scored workload has a single study.
    `cells`: one row per workload and submission: `time_to_target`, `low`, `high`, `is_pooled`: a cell of a single
    study, whose spread is that of others. `speedups`: by submission, over the
    reference: `speedup`, `low`, `high`; empty without a reference. `frozen`: as `scores` without tiers, against fixed
    reference times; empty without them. `differences`: submission x submission: p-value of equal scores,
    corrected for all pairs after Holm. `places`: of the submissions that were asked for, `low` and `high`: the first
    and the last place that each may have among all; none where scores have no intervals.
    NaN, and not `is_known`, where some cell has a single study, and none has the two hits that show a spread.
    """

    scores: pd.DataFrame
    cells: pd.DataFrame
    speedups: pd.DataFrame
    frozen: pd.DataFrame
    differences: pd.DataFrame
    places: pd.DataFrame
    is_paired: bool
    is_known: bool


@dataclass(frozen=True)
class _Statistic:
    """A number per submission, its resamples' covariance, and how much of each cell's noise it carries.

    Shapes: value [k], covariance [k, k], loads [k, noises]: covariance with unit-variance noises, block after block;
    block b starts at noise `starts[b]` and has `freedom[b]` degrees of freedom.
    """

    value: Floats
    covariance: Floats
    loads: Floats
    starts: NDArray[np.intp]
    freedom: Floats
    resamples: int

    def interval(self, level: float) -> tuple[Floats, Floats, Floats, Floats]:
        """Low, high, standard error and degrees of freedom of each value. Shapes: [k]."""
        variance = np.diag(self.covariance)
        freedom = self._freedom(self.loads, variance)
        error = np.sqrt(variance)
        reach = stdtrit(freedom, 0.5 + level / 2.0) * error
        return self.value - reach, self.value + reach, error, freedom

    def p_values(self, one: int) -> Floats:
        """Of equal long-run values of `one` and each other. Shape: [k]."""
        own = np.diag(self.covariance)
        variance = np.maximum(own + own[one] - 2.0 * self.covariance[one], 0.0)
        freedom = self._freedom(self.loads - self.loads[one], variance)
        gap = np.abs(self.value - self.value[one])
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient = np.where(gap > 1e-12, gap / np.sqrt(variance), 0.0)
        values: Floats = 2.0 * stdtr(freedom, -quotient)
        return values

    def _freedom(self, loads: Floats, variance: Floats) -> Floats:
        """Degrees of freedom after Welch (1947): each block's share of the variance counts with its own."""
        # A covariance from finitely many resamples is never exactly 0; its expected square is taken off.
        shares = np.maximum(loads**2 - variance[:, None] / self.resamples, 0.0)
        shares = np.add.reduceat(shares, self.starts, axis=1)
        spread = (shares**2 / (self.freedom + 2.0)).sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            freedom = np.where(spread > 0.0, shares.sum(axis=1) ** 2 / spread - 2.0, np.inf)
        return np.maximum(freedom, 1.0)


def bootstrap(
    scoring: Scoring,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
    reference: str | None = None,
    frozen: pd.Series | None = None,
    places_of: Sequence[str] = (),
) -> Uncertainty:
    """Intervals from a bootstrap that is stratified by workload and submission, with `resamples` draws.

    `reference`: submission over which speed-ups are taken. `frozen`: reference seconds by workload. `places_of`: whose
    places are wanted. Interval: value +- Student quantile x standard error of the resamples, with the degrees of
    freedom that few studies leave.
    """
    cells = cells_of(scoring)
    drawn = _draw(scoring, cells, resamples=resamples, seed=seed, frozen=frozen)
    names = pd.Index(cells.submissions, name="submission")
    is_known = cells.is_known

    scores = _statistic(drawn, drawn.scores, scoring.scores["score"].reindex(names).to_numpy(dtype=float))
    table = _table(scores, names, "score", level, is_known)
    table[["low", "high"]] = table[["low", "high"]].clip(0.0, 1.0)
    differences = _differences(scores, names) if is_known else pd.DataFrame(np.nan, names, names)
    table["tier"] = _tiers(table["score"], differences) if is_known else np.nan
    scored = [name in scoring.ratios.columns for name in cells.workloads]
    table["is_pooled"] = (cells.counts[:, scored] == 1).any(axis=1).tolist()

    return Uncertainty(
        scores=table.loc[scoring.scores.index],
        cells=_cell_table(scoring, cells, drawn, level),
        speedups=_speedups(scoring, cells, drawn, reference, level, is_known),
        frozen=_frozen_table(scoring, cells, drawn, frozen, level, is_known),
        differences=differences,
        places=_places(drawn.scores, names, places_of if is_known else ()),
        is_paired=cells.is_paired,
        is_known=is_known,
    )


@dataclass(frozen=True)
class _Drawn:
    """Shapes: logs [resamples, submissions x workloads] (a miss at the cap), noises likewise, sorted by block."""

    logs: Singles
    noises: Singles
    starts: NDArray[np.intp]
    freedom: Floats
    scores: Floats
    frozen_scores: Floats | None


def _draw(scoring: Scoring, cells: Cells, *, resamples: int, seed: int, frozen: pd.Series | None) -> _Drawn:
    rng = np.random.default_rng(seed)
    logs = np.empty((resamples, cells.counts.size), dtype=np.float32)
    scores, frozen_scores, done = [], [], 0
    for medians in draw_medians(cells, resamples=resamples, rng=rng):
        logs[done : done + len(medians)] = np.minimum(medians, cells.log_cap.astype(np.float32)).reshape(
            len(medians), -1
        )
        done += len(medians)
        scores.append(area_array(resampled_ratios(scoring, cells, medians), scoring.rules))
        if frozen is not None:
            frozen_scores.append(_frozen(np.exp(medians), cells.workloads, frozen, scoring.rules.tau_max))
    noises, starts, freedom = _noises(logs, cells)
    return _Drawn(
        logs, noises, starts, freedom, np.concatenate(scores), np.concatenate(frozen_scores) if frozen_scores else None
    )


def resampled_ratios(scoring: Scoring, cells: Cells, medians: Singles) -> Floats:
    """Ratios to the fastest after gating, of log times as from `draw_medians`.

    Shapes: [resamples, submissions, workloads] -> [resamples, submissions, scored workloads], as in `scoring.ratios`.
    """
    scored = [str(name) for name in scoring.ratios.columns]
    missing = [workload for workload in scored if workload not in cells.workloads]
    seconds = np.exp(medians)
    if missing:
        nothing = np.full((*seconds.shape[:-1], len(missing)), np.inf, dtype=np.float32)
        seconds = np.concatenate([seconds, nothing], axis=-1)
    return gated_ratio_array(seconds, [*cells.workloads, *missing], scored, scoring.rules)


def _noises(logs: Singles, cells: Cells) -> tuple[Singles, NDArray[np.intp], Floats]:
    """Independent noises of unit variance behind the resamples, where each block starts, and its degrees of freedom.

    A block is a cell, or with common seeds the cells of a workload that have equally many studies: they go together.
    """
    counts, own = cells.counts.reshape(-1), cells.freedom.reshape(-1)
    of_hits, of_misses = _variances(logs, cells)
    trials = np.repeat(np.maximum(cells.misses.trials - 1.0, 1.0), len(cells.workloads))
    if not cells.is_paired:
        deviation = logs.std(axis=0)
        noises = (logs - logs.mean(axis=0)) / np.where(deviation > 1e-9, deviation, np.inf).astype(np.float32)
        return noises, np.arange(len(counts)), _block_freedom(of_hits, of_misses, own, trials)
    column = np.tile(np.arange(len(cells.workloads)), len(cells.submissions))
    order = np.lexsort((counts, column))
    keys = np.stack([column, counts])[:, order]
    starts = np.flatnonzero(np.append(True, (np.diff(keys) != 0).any(axis=0)))
    noises = logs[:, order]
    noises -= noises.mean(axis=0)
    for start, end in zip(starts, np.append(starts[1:], len(order)), strict=True):
        noises[:, start:end] = _whitened(noises[:, start:end])
    hits, misses = (np.add.reduceat(variance[order], starts) for variance in (of_hits, of_misses))
    own, trials = (np.minimum.reduceat(freedom[order], starts) for freedom in (own, trials))
    return noises, starts, _block_freedom(hits, misses, own, trials)


def _block_freedom(of_hits: Floats, of_misses: Floats, own: Floats, trials: Floats) -> Floats:
    """Degrees of freedom of a block: `own` of the spread of its times, and for misses those of more trials."""
    spread = of_hits**2 / own + of_misses**2 / trials
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0.0, (of_hits + of_misses) ** 2 / spread, own)


def _variances(logs: Singles, cells: Cells) -> tuple[Floats, Floats]:
    """Variance of each cell's resampled logs that its times make, and what misses add. Shapes: [cells]."""
    share, within = _hit_spread(logs, cells)
    of_hits = share * within
    return of_hits, np.maximum(logs.var(axis=0, dtype=float) - of_hits, 0.0)


def _hit_spread(logs: Singles, cells: Cells) -> tuple[Floats, Floats]:
    """Share of each cell's resamples that reach the target, and the variance of the logs of those. Shapes: [cells]."""
    caps = np.tile(cells.log_cap, len(cells.submissions)).astype(np.float32)
    shares, variances = np.zeros(len(caps)), np.zeros(len(caps))
    width = len(cells.workloads)  # a slice at a time: masks of everything would take as much memory as the logs
    for start in range(0, len(caps), width):
        part = slice(start, start + width)
        hit = logs[:, part] < caps[part]
        number = np.maximum(hit.sum(axis=0), 1)
        mean = np.where(hit, logs[:, part], 0.0).sum(axis=0, dtype=float) / number
        gaps = np.where(hit, logs[:, part] - mean.astype(np.float32), 0.0)
        shares[part] = hit.mean(axis=0)
        variances[part] = (gaps**2).sum(axis=0, dtype=float) / number
    return shares, variances


def _whitened(columns: Singles) -> Singles:
    """The same span with uncorrelated columns of unit variance; columns without variance become 0."""
    values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(columns, rowvar=False, bias=True)))
    keep = values > 1e-9 * max(values.max(), 1e-12)
    scale = np.where(keep, 1.0 / np.sqrt(np.where(keep, values, 1.0)), 0.0)
    whitened: Singles = (columns @ (vectors * scale)).astype(np.float32)
    return whitened


def _statistic(drawn: _Drawn, resampled: Floats, value: Floats) -> _Statistic:
    """Shapes: resampled [resamples, k], value [k]."""
    centred = resampled - resampled.mean(axis=0)
    size = len(centred)
    loads = (centred.T.astype(np.float32) @ drawn.noises).astype(float) / size
    return _Statistic(value, centred.T @ centred / size, loads, drawn.starts, drawn.freedom, size)


def _table(statistic: _Statistic, names: pd.Index, column: str, level: float, is_known: bool) -> pd.DataFrame:
    low, high, error, freedom = statistic.interval(level)
    table = pd.DataFrame(
        {column: statistic.value, "low": low, "high": high, "standard_error": error, "degrees_of_freedom": freedom},
        index=names,
    )
    if not is_known:
        table[["low", "high", "standard_error", "degrees_of_freedom"]] = np.nan
    return table


def _differences(scores: _Statistic, names: pd.Index) -> pd.DataFrame:
    """p-value that two submissions have the same long-run score, corrected for all pairs. Submission x submission."""
    plain = np.stack([scores.p_values(one) for one in range(len(names))])
    upper = np.triu_indices(len(names), k=1)
    table = np.ones_like(plain)
    table[upper] = holm(plain[upper])
    return pd.DataFrame(np.minimum(table, table.T), names, names)


def _places(resampled: Floats, names: pd.Index, wanted: Sequence[str]) -> pd.DataFrame:
    at = names.get_indexer(pd.Index(list(wanted), dtype=object)).tolist()
    low, high = place_intervals(resampled, at)
    return pd.DataFrame({"low": low, "high": high}, index=names[at])


def _tiers(score: pd.Series, differences: pd.DataFrame) -> pd.Series:
    """Tier of each submission: the best of those left leads it, all that cannot be told from it belong to it."""
    left = list(score.sort_values(ascending=False, kind="stable").index)
    tier = pd.Series(0, score.index)
    number = 0
    while left:
        number += 1
        apart = differences.loc[left[0], left] <= DIFFERENCE_ALPHA
        tier[[name for name in left if not apart[name]]] = number
        left = [name for name in left if apart[name]]
    return tier


def _cell_table(scoring: Scoring, cells: Cells, drawn: _Drawn, level: float) -> pd.DataFrame:
    """Intervals of times, on the log scale: Student's on the times of hits, with one-sided room for misses.

    A time that was reached has an upper end that misses push towards the budget, as far as the miss rate may go. One
    that was missed has no upper end; its lower one assumes as few misses as the rate may go down to.
    """
    shape = cells.counts.shape
    within = _hit_spread(drawn.logs, cells)[1].reshape(shape)
    seen = np.log(scoring.seconds.fillna(np.inf).to_numpy(dtype=float))
    is_hit = np.isfinite(seen)
    reach = stdtrit(cells.freedom, 0.5 + level / 2.0) * np.sqrt(within)
    tail = 0.5 - level / 2.0
    few, many = (median_misses(cells.misses.quantile(share), cells.counts) for share in (tail, 1.0 - tail))
    centre = np.where(is_hit, seen, cells.mean)
    low, high = np.minimum(centre - reach, cells.log_cap), np.minimum(centre + reach, cells.log_cap)
    low = np.exp(np.where(is_hit, low, low + few * (cells.log_cap - low)))
    high = np.exp(np.where(is_hit, high + many * (cells.log_cap - high), np.inf))
    cap = np.exp(cells.log_cap) * (1.0 - 1e-6)
    low = np.where((cells.misses.mean >= 1.0) | (low >= cap), np.inf, low)
    high = np.where(high >= cap, np.inf, high)
    rows = []
    for row, submission in enumerate(cells.submissions):
        for column, workload in enumerate(cells.workloads):
            if cells.counts[row, column]:
                is_pooled = bool(cells.is_pooled[row, column])
                bounds = [low[row, column], high[row, column]] if cells.is_known or not is_pooled else [np.nan, np.nan]
                rows.append([workload, submission, scoring.seconds.loc[submission, workload], *bounds, is_pooled])
    return pd.DataFrame(rows, columns=["workload", "submission", "time_to_target", "low", "high", "is_pooled"])


def _speedups(
    scoring: Scoring, cells: Cells, drawn: _Drawn, reference: str | None, level: float, is_known: bool
) -> pd.DataFrame:
    """Geometric mean over scored workloads of the reference's time over each submission's, a miss at the budget.

    A workload on which no trial of a submission was evaluated is a miss too: crashing early must not pay.
    """
    if reference is None or reference not in cells.submissions:
        return pd.DataFrame(columns=["speedup", "low", "high"])
    places = [cells.workloads.index(str(name)) for name in scoring.ratios.columns if name in cells.workloads]
    shape = (-1, len(cells.submissions), len(cells.workloads))
    has_run = scoring.seconds.notna().to_numpy()[:, places]
    home = cells.submissions.index(reference)
    shared = has_run & has_run[home]
    share = shared / np.maximum(shared.sum(axis=1, keepdims=True), 1)

    def mean_log(logs: Singles | Floats) -> Floats:
        cube = logs.reshape(shape)
        means = np.zeros(cube.shape[:2])
        for place, weights in zip(places, share.T, strict=True):
            means += weights * (cube[:, home, place, None] - cube[:, :, place])
        return means

    observed = np.minimum(np.log(scoring.seconds.fillna(np.inf).to_numpy(dtype=float)), cells.log_cap)
    statistic = _statistic(drawn, mean_log(drawn.logs), mean_log(observed[None])[0])
    names = pd.Index(cells.submissions, name="submission")
    table = _table(statistic, names, "speedup", level, is_known)[["speedup", "low", "high"]]
    table.loc[~shared.any(axis=1)] = np.nan
    return pd.DataFrame(np.exp(table.to_numpy()), names, table.columns)


def _frozen(seconds: Floats, columns: list[str], frozen: pd.Series, tau_max: float) -> Floats:
    place = {name: position for position, name in enumerate(columns)}
    times = [
        seconds[..., place[str(name)]] if str(name) in place else np.full(seconds.shape[:-1], np.inf)
        for name in frozen.index
    ]
    return exact_area(np.stack(times, axis=-1) / frozen.to_numpy(dtype=float), tau_max)


def _frozen_table(
    scoring: Scoring, cells: Cells, drawn: _Drawn, frozen: pd.Series | None, level: float, is_known: bool
) -> pd.DataFrame:
    if frozen is None or drawn.frozen_scores is None:
        return pd.DataFrame(columns=["frozen_score", "low", "high"], dtype=float)
    value = frozen_score(scoring.seconds, frozen, tau_max=scoring.rules.tau_max).to_numpy()
    names = pd.Index(cells.submissions, name="submission")
    table = _table(_statistic(drawn, drawn.frozen_scores, value), names, "frozen_score", level, is_known)
    table[["low", "high"]] = table[["low", "high"]].clip(0.0, 1.0)
    return table
