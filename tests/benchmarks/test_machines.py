"""What a step of each method costs on other processors: docs/machines.md."""

import pandas as pd
import pytest

from benchmarks import machines


def rows(of_a_step: dict[str, float], *, reference: float, fingerprint: str) -> pd.DataFrame:
    """Two studies of each submission, a step of which takes so many steps of the reference, one study more than so."""
    table = [
        {
            "workload": "w",
            "submission": name,
            "study": study,
            "trial": 0,
            "seed": study,
            "hyperparameters": "{}",
            "ruleset": "self",
            "ruleset_version": 2,
            "workload_hash": "h",
            "reference": "adamw",
            "reference_step_seconds": reference,
            "steps": 100,
            "hardware_fingerprint": fingerprint,
            "charged_seconds": 100 * reference * cost * (1.1 if study else 1.0 / 1.1),
        }
        for name, cost in of_a_step.items()
        for study in (0, 1)
    ]
    return pd.DataFrame(table)


def test_a_ratio_is_of_costs_in_reference_steps_and_so_not_of_the_speed_of_the_machine():
    here = rows({"muon": 2.0, "sgd": 0.5}, reference=0.01, fingerprint="aaaa")
    there = rows({"muon": 3.0, "sgd": 0.5}, reference=0.04, fingerprint="bbbb")
    found = machines.costs(here, there).set_index("submission")
    assert found["ratio"].to_dict() == pytest.approx({"muon": 1.5, "sgd": 1.0})
    assert found.loc["muon", ["board", "other"]].tolist() == pytest.approx([2.0, 3.0])
    assert found["trials"].tolist() == [2, 2]


def test_trials_of_other_seeds_or_hyperparameters_and_those_without_a_step_are_not_compared():
    here = rows({"muon": 2.0}, reference=0.01, fingerprint="aaaa")
    for changes in ({"hyperparameters": '{"rate": 1}'}, {"seed": 7}, {"steps": 0}, {"reference": "sgd"}):
        there = rows({"muon": 2.0}, reference=0.01, fingerprint="bbbb").assign(**changes)
        with pytest.raises(ValueError, match="no trial is in both"):
            machines.costs(here, there)


def test_the_page_and_its_table_are_those_of_the_rows():
    text, found = machines.page()
    # Where they are not: make machines
    assert machines.PAGE.read_text(encoding="utf-8") == text
    pd.testing.assert_frame_equal(
        pd.read_csv(machines.COSTS, dtype={"machine": str}), found.round(5), check_dtype=False
    )
