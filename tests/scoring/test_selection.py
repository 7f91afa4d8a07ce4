"""Which rows stand for a submission: whole runs, of one seed and one set of overrides."""

from __future__ import annotations

import datetime
import math
from typing import Any

import pandas as pd
import pytest

from harness.scoring.rules import ScoringRules
from harness.scoring.score import score_tables
from harness.scoring.selection import Selection, comparable, with_evaluations
from tests.scoring.scoring_tables import FIRST_DAY, tables, trial_rows

INF = math.inf
OTHER = '{"rate": 0.5}'


def run(workload: str, day: int, times: list[list[float]], submission: str = "adamw", **changes: Any):
    """The rows of one run of a submission, begun on that day: a list of its trials' times for each study."""
    return [
        trial_rows(
            workload,
            submission,
            seconds,
            study=study,
            trial=trial,
            trial_id=f"{workload}-{submission}-{study}-{trial}-{day}",
            started_at=FIRST_DAY + datetime.timedelta(days=day, minutes=10 * study + trial),
            **changes,
        )
        for study, trials in enumerate(times)
        for trial, seconds in enumerate(trials)
    ]


def selected(*runs: Any) -> Selection:
    return comparable(tables([row for rows in runs for row in rows])[0])


def kept(selection: Selection) -> dict[str, tuple[int, str]]:
    """The seed and the overrides that each workload is left with."""
    runs = selection.trials.groupby("workload")[["study_seed", "overrides"]].agg(lambda values: sorted(set(values)))
    assert all(len(values) == 1 for values in runs.to_numpy().ravel())
    return {workload: (seeds[0], texts[0]) for workload, seeds, texts in runs.itertuples()}


def test_a_run_with_another_seed_that_was_cut_off_stands_back_and_no_study_mixes_the_two():
    whole, cut = [[10.0, INF], [INF, 20.0], [30.0, INF]], [[INF, 40.0], [50.0]]
    rows = [*run("digits", 0, whole), *run("digits", 1, cut, study_seed=1)]
    trials, evaluations = tables(rows)
    selection = comparable(trials)
    assert kept(selection) == {"digits": (0, "{}")}
    assert selection.notes == ["left out: 3 trials of another seed, or other hyperparameters given with hp."]
    of_these = evaluations["trial_id"].isin(selection.trials["trial_id"])
    scoring = score_tables(selection.trials, evaluations[of_these], ScoringRules("plain"))
    assert scoring.studies["time_to_target"].tolist() == [10.0, 20.0, 30.0]


def test_of_two_whole_runs_the_newer_counts():
    selection = selected(run("digits", 0, [[10.0]] * 3), run("digits", 1, [[20.0]] * 3, study_seed=1))
    assert kept(selection) == {"digits": (1, "{}")}


def test_the_seed_of_a_submission_is_the_same_everywhere_where_it_can_be():
    selection = selected(
        run("digits", 0, [[10.0]] * 3),
        run("fashion", 0, [[10.0]] * 3),
        run("digits", 1, [[20.0]] * 3, study_seed=1),
        run("speech", 1, [[20.0]] * 3, study_seed=1),
        run("speech", 2, [[20.0]], study_seed=0),
    )
    assert kept(selection) == {"digits": (0, "{}"), "fashion": (0, "{}"), "speech": (1, "{}")}


def test_overrides_on_one_workload_do_not_count_beside_the_defaults_on_the_others():
    selection = selected(
        run("digits", 0, [[10.0]]), run("fashion", 0, [[10.0]]), run("digits", 1, [[5.0]], overrides=OTHER)
    )
    assert kept(selection) == {"digits": (0, "{}"), "fashion": (0, "{}")}


def test_overrides_on_all_workloads_count_once_they_ran_last():
    workloads = ("digits", "fashion")
    selection = selected(
        *(run(name, 0, [[10.0]]) for name in workloads),
        *(run(name, 1, [[5.0]], overrides=OTHER) for name in workloads),
    )
    assert kept(selection) == {"digits": (0, OTHER), "fashion": (0, OTHER)}


def test_another_submission_does_not_decide_which_run_counts():
    selection = selected(
        run("digits", 0, [[10.0]]), run("digits", 0, [[10.0]], "muon"), run("digits", 1, [[5.0]], "muon", study_seed=1)
    )
    seeds = selection.trials.groupby("submission")["study_seed"].agg(list)
    assert seeds.to_dict() == {"adamw": [0], "muon": [1]}


def test_of_several_attempts_at_one_trial_the_last_counts():
    selection = selected(
        run("digits", 0, [[10.0, INF], [INF, INF]], status="crashed"), run("digits", 1, [[10.0, 20.0]])[1:]
    )
    assert sorted(selection.trials["trial_id"]) == [
        "digits-adamw-0-0-0",
        "digits-adamw-0-1-1",
        "digits-adamw-1-0-0",
        "digits-adamw-1-1-0",
    ]
    assert selection.notes == ["left out: 1 trial that ran again later"]


@pytest.mark.parametrize("steps", [0, 900])
def test_a_trial_whose_evaluations_are_lost_is_left_out_instead_of_missed(steps):
    trials, evaluations = tables([*run("digits", 0, [[10.0], [20.0]]), *run("digits", 0, [[30.0]], "muon")])
    trials["steps"] = steps
    read = evaluations[evaluations["trial_id"] != "digits-adamw-1-0-0"]
    selection = with_evaluations(comparable(trials), read)
    lost = steps > 0  # a trial that made no step had nothing to evaluate
    assert len(selection.trials) == (2 if lost else 3)
    assert selection.notes == (["left out: 1 trial whose evaluations cannot be read"] if lost else [])
    assert isinstance(selection.trials.index, pd.RangeIndex)
