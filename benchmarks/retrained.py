"""What networks come to that have never seen what fashion_unlearning is to forget: `python -m benchmarks.retrained`.

Ten of them, trained as the one that is to forget; the means are RETRAINED in the workload's module. Another base, or
another RETRAINED, is another version of the workload.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks.base_weights import TO_FORGET, trained
from harness.api import SplitName
from harness.plugins.data import data_folder
from harness.race.evaluation import evaluate
from workloads.frontier.fashion.fashion_unlearning import RETRAINED, FashionUnlearning, FirstTraining

_NETWORKS = 10
_SPLITS: tuple[SplitName, ...] = ("validation", "test")


def main() -> None:
    """Train them, and print the means, and how far each network is from these."""
    torch.set_num_threads(1)
    workload = FashionUnlearning()
    others = FirstTraining(retains=True)
    settings = {"steps": TO_FORGET.steps, "batch_size": TO_FORGET.batch_size}
    networks = [trained(others, **settings, seed=seed) for seed in range(1, _NETWORKS + 1)]
    for split, names in zip(_SPLITS, RETRAINED.values(), strict=True):
        examples = workload.load(split, data_folder())
        found = [evaluate(workload, network, examples, 1_000) for network in networks]
        means = {name: statistics.fmean(each[name] for each in found) for name in names}
        gaps = [statistics.fmean(abs(each[name] - mean) for name, mean in means.items()) for each in found]
        print(split, {name: round(mean, 4) for name, mean in means.items()})
        print("gaps", [round(gap, 4) for gap in gaps])


if __name__ == "__main__":
    main()
