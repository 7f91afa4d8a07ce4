"""Writes the tables of docs/workloads.md from the YAML files and from recorded runs. Measures nothing.

After a change there: python -m benchmarks.workload_tables
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence

from benchmarks.marks import with_part
from benchmarks.power import measured
from harness import config
from harness.api import Target
from harness.config import WorkloadConfig
from harness.plugins.entries import create_workload

PAGE = config.ROOT / "docs" / "workloads.md"
TIMES = config.ROOT / "results" / "reference" / "times.csv"


def with_tables(page: str) -> str:
    """`page` with the part between the two marks made anew."""
    return with_part(page, f"{_table()}\n{_variants()}\n{_times()}", by="workload_tables.py")


def _table() -> str:
    rows = [
        [
            "workload",
            "parameters",
            "batch",
            "metric",
            "validation target",
            "test target",
            "budget",
            "fetched",
            "licence",
            "methods / seeds",
            "seeds for 10 %",
        ],
        ["---", "---:", "---:", "---", "---:", "---:", "---:", "---:", "---", "---:", "---:"],
    ]
    for name in config.base_workloads():
        settings = config.load("workload", name, WorkloadConfig)
        sources = create_workload(settings.entry, settings.options).sources()
        target = settings.target
        rows.append(
            [
                f"`{name}`",
                f"{settings.parameters:,}",
                f"{settings.batch_size}",
                target.metric,
                *_target_cells(target),
                f"{settings.budget.steps:,} steps, {settings.budget.evaluations} evaluations",
                f"{sum(source.size_megabytes for source in sources):.1f} MB" if sources else "nothing",
                "; ".join(source.licence for source in sources) or "with a package, or generated",
                *_power_cells(name),
            ]
        )
    return _lines(rows)


def _variants() -> str:
    rows = [
        ["variant", "options", "parameters", "validation target", "test target", "methods / seeds", "seeds for 10 %"],
        ["---", "---", "---:", "---:", "---:", "---:", "---:"],
    ]
    for name in sorted(set(config.pinned_workloads()) - set(config.base_workloads())):
        settings = config.load("workload", name, WorkloadConfig)
        base = config.load("workload", str(settings.variant_of), WorkloadConfig)
        changed = {key: value for key, value in settings.options.items() if base.options.get(key) != value}
        said = ", ".join(f"{key}: {str(value).lower()}" for key, value in changed.items())
        rows.append(
            [f"`{name}`", said, f"{settings.parameters:,}", *_target_cells(settings.target), *_power_cells(name)]
        )
    return _lines(rows)


def _times() -> str:
    if not TIMES.exists():
        return "No recorded trials: make workload-times takes them over.\n"
    with TIMES.open(newline="", encoding="utf-8") as file:
        times = list(csv.DictReader(file))
    rows = [
        [
            *("workload", "submission", "reached", "seconds", "budget, s", "steps", "best validation", "test there"),
            *("examples/s", "data", "peak MiB"),
        ],
        ["---", "---", *["---:"] * 9],
    ]
    forms = {
        "seconds": ".1f",
        "budget_seconds": ".1f",
        "steps": ",.0f",
        "best_validation": ".4g",
        "test_at_best": ".4g",
    }
    forms |= {"examples_per_second": ",.0f", "data_share": ".1%", "peak_mebibytes": ",.0f"}
    for row in times:
        # A value that no trial has is empty, as the seconds of a target that none reached.
        numbers = [format(float(row[key]), form) if row[key] else "" for key, form in forms.items()]
        rows.append([f"`{row['workload']}`", row["submission"], f"{row['reached']} of {row['trials']}", *numbers])
    machines = "; ".join(dict.fromkeys(row["machine"] for row in times))
    said = (
        f"Medians over recorded trials, one thread of {machines}. Seconds and steps: to the target. Data: share of\n"
        "a step that gathering its batch takes. Memory: peak of the trainer's processes.\n"
    )
    return f"{_lines(rows)}\n{said}"


def _lines(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _target_cells(target: Target) -> list[str]:
    sign = "<=" if target.goal == "min" else ">="
    return [f"{sign} {target.validation:g}", f"{sign} {target.test:g}" if target.test is not None else ""]


def _power_cells(name: str) -> list[str]:
    found = measured(name)
    if found is None:
        return ["not measured", "not measured"]
    low, high = found.power.range_of_seeds
    return [f"{found.ratio:.1f}", f"{found.power.seeds_needed} ({low} to {high})"]


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
