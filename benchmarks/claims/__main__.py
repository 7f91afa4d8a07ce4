"""Measures claims and writes docs/claims.md; `make claims`. Without a name: what has not been measured yet."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

import torch

from benchmarks.claims import page, results
from benchmarks.claims.claim import Claim, interval_of
from benchmarks.claims.every import CLAIMS, claims_named, without_a_row
from benchmarks.claims.untested import UNTESTED
from harness import command_line
from harness.api import ConfigError, visible
from harness.command_line import PlainConsole
from harness.plugins.submission import SUBMISSIONS


def main(arguments: Sequence[str]) -> int:
    """`[claim=name,name|all]`. Raises ConfigError for a name that there is not."""
    given = command_line.options(arguments, ["claim"])
    console = PlainConsole()
    torch.set_num_threads(1)
    for claim in chosen(given.get("claim", "")):
        measure(claim, console)
    found = [(claim, results.read(claim)) for claim in CLAIMS]
    page.write(page.page(found, UNTESTED))
    console.print(f"written: {page.PAGE.name}")
    names = [path.parent.name for path in visible(SUBMISSIONS, "*/submission.yaml")]
    for name in without_a_row(names):
        console.print(f"no claim is entered for {name}: add one under benchmarks/claims")
    return 0


def chosen(text: str) -> list[Claim]:
    """Claims by their names, `all` of them, or those that have no result that counts."""
    if text == "all":
        return CLAIMS
    return claims_named(command_line.names(text)) if text else [claim for claim in CLAIMS if not _is_measured(claim)]


def measure(claim: Claim, console: PlainConsole) -> None:
    """All repetitions; writes the result down and says it in a line."""
    began = time.monotonic()
    result = results.measured(claim, [claim.measure(seed) for seed in claim.seeds])
    results.write(result)
    estimate, low, high = interval_of(result.numbers, claim.average)
    console.print(
        f"{claim.name}: {estimate:.4g} ({low:.4g} to {high:.4g}) {claim.quantity}; {claim.holds}: "
        f"{page.verdict_of(claim, result)}; {time.monotonic() - began:.0f} s",
        soft_wrap=True,
    )


def _is_measured(claim: Claim) -> bool:
    try:
        return results.read(claim) is not None
    except ConfigError:  # measured under another rule or in another way, which does not count
        return False


if __name__ == "__main__":
    sys.exit(command_line.run(main))
