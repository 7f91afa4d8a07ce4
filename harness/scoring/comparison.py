"""Two submissions against each other: how much faster one is, and whether chance alone would show as much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from harness.api import ConfigError
from harness.scoring.resampling import cells_of, miss_seconds, rounding_spread
from harness.scoring.score import Scoring

Floats = NDArray[np.float64]
DIFFERENCE_ALPHA = 0.025
"""Chance of calling any equals of a board different by their scores, and likewise by their speeds, corrected for all
pairs after Holm: 5 % together, because a page says both."""


@dataclass(frozen=True)
class Comparison:
    """`speedup`: geometric mean over workloads and studies of the other's time over this one's: 2 is twice as fast.

    `low`, `high`: interval over repetitions of the benchmark; `p_value` of equal speed by itself, `adjusted_p_value`
    among the pairs that are compared together, and `is_different` where that is at most `DIFFERENCE_ALPHA`. NaN and
    False where a workload has a single study, and no other cell shows a spread that could stand for its own.
    `is_paired`: by common seeds, study by study. `faster`, `slower`: workloads by their mean log ratio.
    """

    submission: str
    other: str
    speedup: float
    low: float
    high: float
    p_value: float
    adjusted_p_value: float
    is_different: bool
    is_paired: bool
    workloads: int
    faster: int
    slower: int


def compare(scoring: Scoring, submission: str, other: str, *, level: float = 0.95) -> Comparison:
    """Compare two submissions on the scored workloads that both have run, a miss at the budget.

    With common seeds the ratio is taken study by study, so that what both share cancels, where they have two or more
    studies of one number on every workload. Student interval on the mean
    log ratio with degrees of freedom after Satterthwaite (1946), which errs on the careful side with few studies.
    Raises ConfigError where there is nothing to compare.
    """
    found = _compare(_samples(scoring), submission, other, level)
    if found is None:
        raise ConfigError(f"{submission} and {other} have no scored workload in common. Run both on the same ones.")
    return found


def compare_all(scoring: Scoring, *, submissions: list[str] | None = None, level: float = 0.95) -> pd.DataFrame:
    """Every pair of `submissions` (None: all) that share a scored workload, a row each, in columns of `Comparison`.

    Which of them differ is said at one level for all of these pairs.
    """
    names = submissions or [str(name) for name in scoring.scores.index]
    samples = _samples(scoring)
    pairs = [
        _compare(samples, one, other, level) for position, one in enumerate(names) for other in names[position + 1 :]
    ]
    return _corrected([vars(pair) for pair in pairs if pair is not None])


def compare_by_workload(scoring: Scoring, submission: str, other: str, *, level: float = 0.95) -> pd.DataFrame:
    """The two on each scored workload that both have run by itself, a row each: `workload` and columns of `Comparison`.

    On which of them they differ is said at one level for all of these workloads.
    """
    found = [
        (name, _compare(alone, submission, other, level)) for name, alone in _by_workload(scoring, _samples(scoring))
    ]
    return _corrected([{"workload": name, **vars(one)} for name, one in found if one is not None], "workload")


class Comparisons:
    """Comparisons of the submissions of one scoring, on all of its scored workloads or on some of them."""

    def __init__(self, scoring: Scoring) -> None:
        self._samples = _samples(scoring)
        self._workloads = pd.Index(scoring.ratios.columns)

    def mean_logs(self, workloads: Sequence[str]) -> pd.Series:
        """By submission the log time to target, a miss at the budget: mean over studies, then workloads.

        NaN where a submission has not run on all of `workloads`.
        """
        logs = self._samples.logs[:, self._workloads.get_indexer(pd.Index(workloads))]
        return pd.Series(_mean_logs(logs).mean(axis=-1), pd.Index(self._samples.place, name="submission"))

    def with_each(
        self, submission: str, others: Sequence[str], workloads: Sequence[str], *, level: float = 0.95
    ) -> pd.DataFrame:
        """`submission` against each of `others` that shares one of `workloads`, a row each, in columns of `Comparison`.

        Which of them differ is said at one level for all of these rows. That holds also where `submission` is the one
        that came out best, as long as it is asked which others can be ruled out as the best (Hsu 1984).
        Source: Hsu, Constrained simultaneous confidence intervals for multiple comparisons with the best (1984).
        """
        samples = _on(self._samples, self._workloads.isin(workloads))
        pairs = [_compare(samples, submission, other, level) for other in others]
        return _corrected([vars(pair) for pair in pairs if pair is not None])


def losses(scoring: Scoring, *, most: int, level: float = 0.95) -> pd.DataFrame:
    """To whom each submission loses on each scored workload, and by how much: at most so many, the fastest there first.

    Columns: workload, submission, other, `factor` (how many times as fast the other is there), its interval `low` and
    `high`, `p_value`, `adjusted_p_value` (after Holm, for all others on all workloads, those not shown too),
    `is_different`, `is_paired`, `faster` (how many in all are faster there). Misses and intervals as in `compare`.
    """
    by_workload = [each for each in _by_workload(scoring, _samples(scoring)) if each[0] in scoring.seconds.columns]
    rows = []
    for submission in (str(name) for name in scoring.scores.index):
        mine: list[dict[str, object]] = []
        for workload, alone in by_workload:
            # By what the factor is made of: the faster median may have the slower mean.
            means = _mean_logs(alone.logs)[:, 0]
            own = means[alone.place[submission]]
            faster = [name for name, at in alone.place.items() if means[at] < own]
            faster.sort(key=lambda name: means[alone.place[name]])
            for other in faster[:most]:
                found = _compare(alone, submission, other, level)
                if found is not None and found.speedup < 1.0:  # of the studies that both have
                    shown = {
                        "workload": workload,
                        "submission": submission,
                        "other": other,
                        "factor": 1.0 / found.speedup,
                        "low": 1.0 / found.high,
                        "high": 1.0 / found.low,
                        "p_value": found.p_value,
                        "is_paired": found.is_paired,
                        "faster": len(faster),
                    }
                    mine.append(shown)
        others = (len(scoring.scores) - 1) * scoring.ratios.shape[1]
        p_values = np.array([row["p_value"] for row in mine], dtype=float)
        # Those that are not looked at, because they are slower or many are faster, are chances as well.
        adjusted = holm(np.concatenate([p_values, np.ones(max(0, others - len(mine)))]))[: len(mine)]
        rows += [row | {"adjusted_p_value": float(p)} for row, p in zip(mine, adjusted, strict=True)]
    columns = ["workload", "submission", "other", "factor", "low", "high", "p_value", "adjusted_p_value"]
    table = pd.DataFrame(rows, columns=[*columns, "is_paired", "faster"])
    return table.assign(is_different=table["adjusted_p_value"] <= DIFFERENCE_ALPHA)


def holm(p_values: Floats) -> Floats:
    """The p-values corrected so that the chance of any false one among them is kept. Shapes: [n] -> [n]; NaN stays.

    Source: Holm, A simple sequentially rejective multiple test procedure (1979).
    """
    adjusted = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    steps = np.arange(len(order), 0, -1) * p_values[order]
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(order) else steps
    return adjusted


def _mean_logs(logs: Floats) -> Floats:
    """Mean over the studies that there are; NaN where there is none. Shapes: [..., studies] -> [...]."""
    counts = (~np.isnan(logs)).sum(axis=-1)
    means: Floats = np.where(counts > 0, np.nansum(logs, axis=-1) / np.maximum(counts, 1), np.nan)
    return means


def _corrected(rows: list[dict[str, object]], *before: str) -> pd.DataFrame:
    """Comparisons as a table, with p-values after Holm's correction for all of them. `before`: columns besides."""
    table = pd.DataFrame(rows, columns=[*before, *Comparison.__dataclass_fields__])
    table["adjusted_p_value"] = holm(table["p_value"].to_numpy(dtype=float))
    table["is_different"] = table["adjusted_p_value"] <= DIFFERENCE_ALPHA
    return table


_BY_WORKLOAD = ("logs", "rounding", "spread", "freedom", "hit_rate", "by_misses")


@dataclass(frozen=True)
class _Samples:
    """Studies of scored workloads as arrays. Shapes: `logs`, `rounding` [submissions, workloads, studies], NaN where
    there is none; `seeds` [submissions, slots] likewise, one slot for each trial of each workload; `slots`: their
    workloads. `caps`: [workloads], the log of a miss. [submissions, workloads]: `spread`, the standard deviation of a
    study that hits, with `freedom` degrees; `hit_rate`, how likely it does; `by_misses`, what misses add to the
    variance. `trials`: [submissions], which say that."""

    place: dict[str, int]
    logs: Floats
    rounding: Floats
    seeds: Floats
    slots: NDArray[np.intp]
    caps: Floats
    spread: Floats
    freedom: Floats
    hit_rate: Floats
    by_misses: Floats
    trials: Floats


def _samples(scoring: Scoring) -> _Samples:
    """A miss is where `miss_seconds` has it; so are studies of a cell that was left out for lack of evaluations."""
    submissions = pd.Index([str(name) for name in scoring.scores.index])
    workloads = pd.Index(scoring.ratios.columns)
    is_counted = scoring.studies["workload"].isin(workloads) & (scoring.studies["trials"] > 0)
    studies = scoring.studies[is_counted]
    seconds = studies["time_to_target"].clip(upper=studies["workload"].map(miss_seconds(scoring)))
    numbers = pd.Index(studies["study"].unique())
    at = (
        submissions.get_indexer(pd.Index(studies["submission"])),
        workloads.get_indexer(pd.Index(studies["workload"])),
        numbers.get_indexer(pd.Index(studies["study"])),
    )
    logs = np.full((len(submissions), len(workloads), len(numbers)), np.nan)
    rounding = logs.copy()
    logs[at] = np.log(seconds.to_numpy(dtype=float))
    rounding[at] = rounding_spread(studies)
    has_rows = scoring.seconds.reindex(index=submissions, columns=workloads).notna().to_numpy()
    row, column = np.nonzero(np.isnan(logs).all(axis=-1) & has_rows)
    caps = np.log(miss_seconds(scoring).reindex(workloads).to_numpy(dtype=float))
    logs[row, column], rounding[row, column] = caps[column, None], 0.0
    seeds = _seeds(scoring.times[scoring.times["workload"].isin(workloads)], submissions)
    slots = workloads.get_indexer(seeds.index.get_level_values("workload"))
    cells = cells_of(scoring)
    at_cells = np.ix_(
        pd.Index(cells.submissions).get_indexer(submissions), pd.Index(cells.workloads).get_indexer(workloads)
    )
    rate = cells.misses.mean
    # With the doubt about the rate itself: its mean alone would make equals differ too often where trials miss.
    by_misses = rate * (1.0 - rate) * (cells.log_cap - cells.mean) ** 2
    spread = np.maximum(cells.spread, cells.floor)
    spread[cells.is_pooled & (not cells.is_known)] = np.nan
    return _Samples(
        {name: number for number, name in enumerate(submissions)},
        logs,
        rounding,
        seeds.to_numpy(dtype=float).T,
        slots,
        caps,
        spread[at_cells],
        cells.freedom[at_cells],
        1.0 - rate[at_cells],
        by_misses[at_cells],
        cells.misses.trials[at_cells[0][:, 0]],
    )


def _on(samples: _Samples, chosen: NDArray[np.bool_]) -> _Samples:
    """The samples of some workloads. Shape: [workloads]."""
    is_kept = chosen[samples.slots]
    return replace(
        samples,
        **{name: getattr(samples, name)[:, chosen] for name in _BY_WORKLOAD},
        caps=samples.caps[chosen],
        seeds=samples.seeds[:, is_kept],
        slots=(np.cumsum(chosen) - 1)[samples.slots[is_kept]],
    )


def _by_workload(scoring: Scoring, samples: _Samples) -> Iterator[tuple[str, _Samples]]:
    """Each scored workload, and the samples of it alone."""
    for name in scoring.ratios.columns:
        yield str(name), _on(samples, np.asarray(scoring.ratios.columns == name))


def _seeds(times: pd.DataFrame, submissions: pd.Index) -> pd.DataFrame:
    """Slot x submission: the number of its seed, so that equal numbers are equal seeds; -1 where none was recorded."""
    if "seed" not in times.columns:
        times = times.assign(seed=-1)
    # Seeds are large whole numbers, which a float, needed for gaps, would round.
    numbers = np.where(times["seed"] < 0, -1, pd.factorize(times["seed"])[0])
    slots = times.assign(seed=numbers).drop_duplicates(["workload", "study", "trial", "submission"])
    table = slots.pivot(index=["workload", "study", "trial"], columns="submission", values="seed")
    return table.reindex(columns=submissions)


def _compare(samples: _Samples, submission: str, other: str, level: float) -> Comparison | None:
    """On the workloads that both have run; None where there is none."""
    one, two = samples.place[submission], samples.place[other]
    has_run = ~np.isnan(samples.logs[[one, two]])
    shared = np.flatnonzero(has_run.any(axis=-1).all(axis=0))
    if not len(shared):
        return None
    both = has_run[:, shared].all(axis=0)
    is_paired = bool((both.sum(axis=-1) > 1).all()) and _have_common_seeds(samples, one, two, shared)
    # Where neither has missed, misses cannot have made the difference, and times alone decide.
    pair = samples.logs[[one, two]][:, shared]
    has_missed = bool((pair >= samples.caps[shared, None] - 1e-9).any())
    by_misses = np.zeros(2)
    means: list[float] = []
    variances: list[float] = []
    freedoms: list[float] = []
    for workload in shared:
        ours, theirs = samples.logs[one, workload], samples.logs[two, workload]
        rounding = samples.rounding[[one, two], workload]
        if is_paired:
            both = has_run[:, workload].all(axis=0)
            gap = (theirs - ours)[both]
            found = [(gap, np.hypot(*rounding[:, both]))]
            means.append(float(gap.mean()))
        else:
            found = [
                (log[~np.isnan(log)], spread[~np.isnan(log)])
                for log, spread in zip((ours, theirs), rounding, strict=True)
            ]
            means.append(float(found[1][0].mean() - found[0][0].mean()))
        if has_missed:
            parts, misses = _with_misses(samples, one, two, int(workload), is_paired=is_paired)
            by_misses += misses
        else:
            parts = [(_variance_of_mean(*sample), len(sample[0]) - 1.0) for sample in found]
            for place, name in enumerate((one, two) if len(found) > 1 else ()):
                if len(found[place][0]) == 1:  # of a single study: the spread of others
                    parts[place] = (samples.spread[name, workload] ** 2, samples.freedom[name, workload])
        variances += [variance for variance, _ in parts]
        freedoms += [freedom for _, freedom in parts]
    if has_missed:
        # The miss rates of a submission's cells are known together: from all of its trials, once.
        variances += by_misses.tolist()
        freedoms += np.maximum(samples.trials[[one, two]] - 1.0, 1.0).tolist()
    centre = float(np.mean(means))
    reach, p_value = _student(centre, np.array(variances) / len(means) ** 2, np.array(freedoms, dtype=float), level)
    return Comparison(
        submission,
        other,
        float(np.exp(centre)),
        float(np.exp(centre - reach)),
        float(np.exp(centre + reach)),
        p_value,
        p_value,
        p_value <= DIFFERENCE_ALPHA,
        is_paired,
        len(means),
        faster=sum(mean > 0 for mean in means),
        slower=sum(mean < 0 for mean in means),
    )


def _with_misses(
    samples: _Samples, one: int, two: int, workload: int, *, is_paired: bool
) -> tuple[list[tuple[float, float]], Floats]:
    """Variances of the mean log ratio on a workload, with degrees of freedom: of times; and by each one's misses: [2].

    A handful of studies that all hit, or all miss, hides how much misses move a mean; `misses` says it.
    """
    logs, cap = samples.logs[[one, two], workload], samples.caps[workload] - 1e-9
    is_used = ~np.isnan(logs)
    if is_paired:
        is_used &= is_used.all(axis=0)
    counts, hits = is_used.sum(axis=1), (is_used & (logs < cap)).sum(axis=1)
    by_misses = samples.by_misses[[one, two], workload] / counts
    both = (is_used & (logs < cap)).all(axis=0)
    if is_paired and both.sum() > 1:
        rounding = np.hypot(*samples.rounding[[one, two], workload][:, both])
        return [(_variance_of_mean((logs[1] - logs[0])[both], rounding), float(both.sum() - 1))], by_misses
    return [
        (
            float(samples.hit_rate[name, workload] * samples.spread[name, workload] ** 2 / count),
            max(float(hit) - 1.0, 1.0) if count > 1 else float(samples.freedom[name, workload]),
        )
        for name, count, hit in zip((one, two), counts, hits, strict=True)
    ], by_misses


def _have_common_seeds(samples: _Samples, one: int, two: int, workloads: NDArray[np.intp]) -> bool:
    """True where every trial of these workloads that both have ran with one seed."""
    is_shared = np.zeros(len(samples.caps), dtype=bool)
    is_shared[workloads] = True
    seeds = samples.seeds[[one, two]][:, is_shared[samples.slots]]
    either_lacks = np.isnan(seeds).any(axis=0)
    return bool(((seeds[0] == seeds[1]) | either_lacks).all() and not (seeds < 0).any())


def _variance_of_mean(sample: Floats, rounding: Floats) -> float:
    """At least that of rounding up to the next evaluation, which equal times would hide."""
    if len(sample) < 2:
        return float("nan")
    return float(max(sample.var(ddof=1), (rounding**2).mean()) / len(sample))


def _student(centre: float, variances: Floats, freedoms: Floats, level: float) -> tuple[float, float]:
    """Half width of the interval and p-value of a mean whose variance is a sum of estimated ones."""
    variance = float(variances.sum())
    if np.isnan(variance):
        return float("nan"), float("nan")
    if variance == 0.0:  # every repetition gave the same ratio
        return 0.0, 1.0 if centre == 0.0 else 0.0
    freedom = variance**2 / float((variances**2 / freedoms).sum())
    freedom = max(freedom, 1.0)
    error = variance**0.5
    # As scipy.stats.t has it, which takes half a second to import.
    return float(stdtrit(freedom, 0.5 + level / 2.0)) * error, float(2.0 * stdtr(freedom, -abs(centre) / error))
