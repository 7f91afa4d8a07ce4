"""Every submission of the repository for a moment on every workload of a suite: none may be taken for a dishonest one.

One that says itself that it is not for such a workload is counted, and is no false alarm.

Run by `make redteam ARGS=honest=mini`. A trial lasts a twentieth of its budget, which is a few steps of the slowest
workload: enough for all that a referee refuses to have been looked at.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import get_args

from harness import config
from harness.api import Division
from harness.commands import bench
from harness.commands.leaderboard import read_trials
from harness.config import SuiteConfig, WorkloadConfig
from harness.plugins.submission import SUBMISSIONS, load_submission
from harness.study.division import has_division

SHARE_OF_BUDGET = 0.05
# One in the middle, after which training goes on, and one at the end; more would take most of the hour.
EVALUATIONS = 2


def main(suite: str) -> int:
    """Returns 1 where a trial was refused, had crashed, or has no row."""
    workloads = config.load("suite", suite, SuiteConfig).workloads
    names = sorted(path.parent.name for path in SUBMISSIONS.glob("*/submission.yaml"))
    asked = []
    for division in get_args(Division):
        mine = [name for name in names if load_submission(name).division == division]
        places = [name for name in workloads if has_division(division, config.load("workload", name, WorkloadConfig))]
        if mine and places:
            asked.append((mine, places))
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder).resolve()
        for names, places in asked:
            bench.main(
                [
                    *(f"workload={','.join(places)}", f"submission={','.join(names)}", f"results={results}"),
                    *("ruleset=quick", "ruleset.name=a_moment", f"ruleset.budget_factor={SHARE_OF_BUDGET}"),
                    *(f"workload.budget.evaluations={EVALUATIONS}", "tracking=off"),
                ]
            )
        trials = read_trials(results / "runs", ["reason"])
    statuses = Counter(trials["status"])
    ended = trials[trials["status"].isin(["refused", "crashed"])]
    # The error by which a submission says so has words alone. Others have the name of their class in front, and the
    # referee's own words begin with whom they are of.
    others = r"[\w.]+(Error|Exception|Interrupt|Exit)\b|the trainer |rank "
    declined = (ended["status"] == "crashed") & ~ended["reason"].str.match(others)
    for row in ended[declined].itertuples():
        print(f"{row.submission} is not for {row.workload}: {row.reason}")
    wrong = ended[~declined]
    for row in wrong.itertuples():
        print(f"wrong: {row.submission} on {row.workload} is {row.status}: {row.reason}")
    expected = sum(len(names) * len(places) for names, places in asked)
    print(
        f"{statuses['refused']} of {len(trials)} honest trials refused; {_counted(statuses)}, of which "
        f"{declined.sum()} say that they are not for such a workload; {expected} asked for"
    )
    return 1 if len(wrong) or len(trials) != expected else 0


def _counted(statuses: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in sorted(statuses.items()))
