"""The suites of the full tier: that they name what there is, and what the small one is made of."""

from __future__ import annotations

from harness.config import SuiteConfig, WorkloadConfig, load, names_in


def workloads_of(suite: str) -> list[WorkloadConfig]:
    return [load("workload", name, WorkloadConfig) for name in load("suite", suite, SuiteConfig).workloads]


def test_the_full_suite_has_every_workload_of_its_room_and_no_variant():
    every = [load("workload", name, WorkloadConfig) for name in names_in("workload")]
    of_the_room = {each.name for each in every if each.entry.startswith("workloads.full.") and each.variant_of is None}
    assert {each.name for each in workloads_of("full")} == of_the_room
    assert len(of_the_room) == 11


def test_one_gpu_gets_the_workloads_with_short_published_budgets_and_the_track_that_may_be_run_on_one():
    short = {
        each.name
        for each in workloads_of("full")
        if "v0.6" in each.published and each.published["v0.6"].max_runtime < 4 * 3600
    }
    assert {each.name for each in workloads_of("full_one_gpu")} == short | {"fineweb_gpt"}
