"""`make profile`: a process for each submission on each workload, and one line of each."""

from __future__ import annotations

import pytest

from harness.api import ConfigError
from harness.commands.authors import profile
from harness.records.step_profiles import read_profiles
from tests.commands.test_bench import FAST
from tests.study.test_study import write_submission

ENDS = """
    def train(trial, hp):
        trial.finish()
"""


@pytest.mark.slow
def test_each_pair_is_measured_in_a_process_of_its_own_and_one_that_cannot_be_costs_the_others_nothing(tmp_path, capfd):
    ends = write_submission(tmp_path / "ends", ENDS)
    arguments = ["workload=digits_mlp", f"submission={ends},adamw", f"results={tmp_path}", "steps=5", *FAST]
    assert profile.main(arguments) == 1
    said = capfd.readouterr()
    assert "ends on digits_mlp ended after 0 steps; 15 were to be looked at" in said.err
    assert "adamw on digits_mlp: " in said.out
    assert "update and the rest" in said.out
    (row,) = read_profiles(tmp_path / "runs").to_dict("records")
    assert (row["submission"], row["steps"]) == ("adamw", 5)
    assert min(row[name] for name in row if name.endswith("_seconds")) > 0.0


def test_steps_are_a_number():
    with pytest.raises(ConfigError, match=r"steps='many'\. Use a whole number"):
        profile.main(["steps=many"])
