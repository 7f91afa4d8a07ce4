"""Kendall's tau-b between the scores of two boards, with intervals over workloads, studies and submissions."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from harness.api import ConfigError
from harness.scoring.resampling import cells_of, draw_medians
from harness.scoring.score import Scoring, area_array, score_times
from harness.scoring.uncertainty import LEVEL, resampled_ratios

Floats = NDArray[np.float64]

FEWEST = 4
"""So many common submissions a statement about two orders takes: three agree by chance in one case of six."""

_RESAMPLES = 2_000
_FIELLER = 0.437
_ROUNDING = 12
_SMALLEST_SHAPE = 0.02


@dataclass(frozen=True)
class Agreement:
    """How well the orders of two boards agree on the submissions that both have.

    `tau`: tau-b, 1 for the same order and -1 for the opposite one; NaN where fewer than `FEWEST` submissions are common
    or a board puts them all level. `low`, `high`: of the mean tau of such boards, with as many other workloads of the
    kind and other seeds, of these very submissions; NaN where both boards are a single workload of single studies.
    `low_others`, `high_others`: over other submissions as well: what holds for those that are yet to come.
    `workloads`: how many each board scores here. `is_over_workloads`, `is_over_studies`: what intervals are taken over.
    """

    tau: float
    low: float
    high: float
    low_others: float
    high_others: float
    submissions: int
    workloads: tuple[int, int]
    is_over_workloads: bool
    is_over_studies: bool


def tau_b(one: Floats, other: Floats) -> Floats:
    """Kendall's tau-b; NaN where either is level throughout. Shapes: [..., n] twice -> [...].

    Source: Kendall, The treatment of ties in ranking problems (1945).
    """
    first, second = np.triu_indices(one.shape[-1], k=1)
    signs = [
        np.sign(values[..., first] - values[..., second])
        for values in (np.round(one, _ROUNDING), np.round(other, _ROUNDING))
    ]
    untied = [np.abs(sign).sum(axis=-1) for sign in signs]
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = (signs[0] * signs[1]).sum(axis=-1) / np.sqrt(untied[0] * untied[1])
    return found


def restricted(scoring: Scoring, *, submissions: Collection[str], workloads: Collection[str]) -> Scoring:
    """The scoring of these submissions alone, over these of its scored workloads, with the variants that gate them.

    A workload of which these submissions have no row is left out. Raises ConfigError where none is left.
    """
    times = scoring.times[scoring.times["submission"].isin(list(submissions))]
    scored = [str(name) for name in scoring.ratios.columns]
    wanted = tuple(name for name in scored if name in workloads and (times["workload"] == name).any())
    if not wanted:
        raise ConfigError(
            f"of {', '.join(workloads)} there is no row that is scored here. Scored: {', '.join(scored)}."
        )
    bases = times["workload"].map(lambda name: scoring.rules.held_out.get(name, name))
    kept = times[bases.isin(wanted)].reset_index(drop=True)
    return score_times(kept, scoring.rules.with_reading(workloads=wanted))


def renamed(scoring: Scoring, names: Mapping[str, str]) -> Scoring:
    """The scoring of the submissions in `names` alone, under these names."""
    kept = restricted(scoring, submissions=names, workloads=list(scoring.ratios.columns))
    times = kept.times.assign(submission=kept.times["submission"].astype(str).map(dict(names)))
    return score_times(times, kept.rules)


def agreement(
    one: Scoring, other: Scoring, *, resamples: int = _RESAMPLES, seed: int = 0, level: float = LEVEL
) -> Agreement:
    """How well two boards agree: scores among the common submissions alone, whose fastest is the measure of each board.

    A resample draws every study anew (`harness.scoring.resampling`) and weighs workloads, those of one name alike on
    both boards; two readings of the same trials share their draws. Intervals lie around the tau that was found, on
    Fisher's scale, because resamples, noisy twice, agree less than boards do; Student's, with a degree of freedom for
    each workload but one. Other submissions add Fieller's variance 0.437 / (n - 4): four leave everything open.
    Sources: Rubin, The Bayesian bootstrap (1981); Fieller, Hartley and Pearson, Tests for rank correlation coefficients
    (1957). How often they hold the truth: benchmarks/agreement_coverage.py.
    """
    names = sorted({str(name) for name in one.scores.index} & {str(name) for name in other.scores.index})
    columns = [[str(name) for name in board.ratios.columns] for board in (one, other)]
    if len(names) >= FEWEST:
        one, other = (
            restricted(board, submissions=names, workloads=workloads)
            for board, workloads in zip((one, other), columns, strict=True)
        )
        tau = float(tau_b(*(board.scores["score"].reindex(names).to_numpy(dtype=float) for board in (one, other))))
    else:
        tau = float("nan")
    over_workloads = max(map(len, columns)) > 1
    over_studies = all((board.studies.groupby(["workload", "submission"]).size() > 1).any() for board in (one, other))
    ends = [float("nan")] * 4
    if not np.isnan(tau) and (over_workloads or over_studies):
        draws = _draws(one, other, names, resamples=resamples, seed=seed)
        pairs = len(names) * (len(names) - 1) / 2
        own = float(np.var(_fisher(draws[~np.isnan(draws)], pairs)))
        more = _FIELLER / (len(names) - FEWEST) if len(names) > FEWEST else np.inf
        freedom = len({*columns[0], *columns[1]}) - 1.0 if over_workloads else np.inf
        reach = _quantile(freedom, level) * own**0.5
        more = _quantile(np.inf, level) * more**0.5
        ends = [*_interval(tau, reach, pairs), *_interval(tau, float(np.hypot(reach, more)), pairs)]
    low, high, low_others, high_others = ends
    sizes = (len(columns[0]), len(columns[1]))
    return Agreement(tau, low, high, low_others, high_others, len(names), sizes, over_workloads, over_studies)


def _draws(one: Scoring, other: Scoring, names: list[str], *, resamples: int, seed: int) -> Floats:
    """Tau of each resample. Shape: [resamples]."""
    weights = _weights([list(board.ratios.columns) for board in (one, other)], resamples, seed)
    same = set(one.times["trial_id"]) == set(other.times["trial_id"])
    scores = [
        _scores(board, names, weights, resamples=resamples, seed=number)
        for board, number in ((one, seed), (other, seed if same else seed + 1))
    ]
    return tau_b(*scores)


def _weights(boards: Sequence[Sequence[str]], resamples: int, seed: int) -> pd.DataFrame:
    """What each workload counts in each resample. Shape: resamples x workloads, each once.

    Gamma variates of the shape (w - 2) / w, w being the workloads of the board: so the variance of a mean of w scores
    is what it is expected to be, where Rubin's shape of 1 gives (w - 1) / (w + 1) of it.
    """
    sizes = {str(name): len(board) for board in sorted(boards, key=len, reverse=True) for name in board}
    known = sorted(sizes)
    shapes = [max(1.0 - 2.0 / sizes[name], _SMALLEST_SHAPE) for name in known]
    # Apart from the seeds of the draws, which are whole numbers from `seed` on.
    rng = np.random.default_rng([seed, len(known)])
    # A shape near 0 is a choice of one workload; all of them at 0 would be no choice.
    weights = np.maximum(rng.standard_gamma(shapes, (resamples, len(known))), np.finfo(float).tiny)
    return pd.DataFrame(weights, columns=known)


def _scores(scoring: Scoring, names: list[str], weights: pd.DataFrame, *, resamples: int, seed: int) -> Floats:
    """Scores of each resample. Shape: [resamples, submissions of `names`]."""
    cells = cells_of(scoring)
    rng = np.random.default_rng(seed)
    areas = np.concatenate(
        [
            area_array(resampled_ratios(scoring, cells, medians)[..., None], scoring.rules)
            for medians in draw_medians(cells, resamples=resamples, rng=rng)
        ]
    )
    share = weights[[str(name) for name in scoring.ratios.columns]].to_numpy()
    share = share / share.sum(axis=1, keepdims=True)
    found: Floats = np.einsum("rsw,rw->rs", areas, share)[:, pd.Index(cells.submissions).get_indexer(pd.Index(names))]
    return found


def _fisher(tau: Floats | float, pairs: float) -> Floats:
    """Fisher's scale, on which a tau of 1 or -1 is half a pair short of it."""
    found: Floats = np.arctanh(np.clip(tau, -1.0 + 1.0 / pairs, 1.0 - 1.0 / pairs))
    return found


def _quantile(freedom: float, level: float) -> float:
    """Student's; the normal one where the degrees of freedom are infinite."""
    return float(stdtrit(freedom, 0.5 + level / 2.0) if np.isfinite(freedom) else ndtri(0.5 + level / 2.0))


def _interval(tau: float, reach: float, pairs: float) -> tuple[float, float]:
    """Around `tau`, which it always holds; its ends are 1 and -1 where they come within half a pair of them."""
    centre, edge = float(_fisher(tau, pairs)), 1.0 - 1.0 / pairs
    low, high = (float(np.tanh(end)) for end in (centre - reach, centre + reach))
    return min(-1.0 if low <= -edge else low, tau), max(1.0 if high >= edge else high, tau)
