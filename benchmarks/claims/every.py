"""All claims, measured and not, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter

from benchmarks.claims import (
    on_functions,
    on_language_model,
    on_rates,
    on_rewards,
    on_solvers,
    on_steps,
    on_streams,
    on_terms,
    on_trained_weights,
    on_workers,
    on_workloads,
)
from benchmarks.claims.claim import Claim
from benchmarks.claims.untested import UNTESTED
from harness.api import ConfigError, near_matches

CLAIMS: list[Claim] = sorted(
    [
        *on_functions.CLAIMS,
        *on_language_model.CLAIMS,
        *on_rates.CLAIMS,
        *on_rewards.CLAIMS,
        *on_solvers.CLAIMS,
        *on_steps.CLAIMS,
        *on_streams.CLAIMS,
        *on_terms.CLAIMS,
        *on_trained_weights.CLAIMS,
        *on_workers.CLAIMS,
        *on_workloads.CLAIMS,
    ],
    key=attrgetter("about", "name"),
)


def claims_named(names: Iterable[str]) -> list[Claim]:
    """The claims with these names. Raises ConfigError for a name that there is not."""
    known = {claim.name: claim for claim in CLAIMS}
    for name in names:
        if name not in known:
            raise ConfigError(f"there is no claim {name!r}. {near_matches(name, known)}")
    return [known[name] for name in names]


def without_a_row(submissions: Iterable[str]) -> list[str]:
    """Which of these submissions no claim, measured or not, is about."""
    spoken_of = {claim.submission for claim in CLAIMS} | {claim.submission for claim in UNTESTED}
    return [name for name in submissions if name not in spoken_of]
