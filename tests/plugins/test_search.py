"""Search spaces are read, checked and drawn from as their authors wrote them."""

import json
import pickle
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.api import ConfigError, Hyperparameters
from harness.plugins.search import Choice, Interval, SearchSpace, deal, draw, parse_space, resolve_overrides

DEFAULTS = {"learning_rate": 1e-3, "weight_decay": 0.0, "layers": 2, "rule": "cosine"}
KINDS = {**DEFAULTS, "nesterov": True, "betas": (0.9, 0.95), "limit": None}


def space_of(written: object) -> SearchSpace:
    return parse_space(written, defaults=DEFAULTS, where="mine/submission.yaml")


def test_ranges_and_choices_are_read():
    space = space_of(
        {
            "learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"},
            "layers": {"min": 1, "max": 4, "integer": True},
            "rule": {"values": ["cosine", "linear"]},
        }
    )
    assert space.dimensions == {
        "learning_rate": Interval(1e-4, 1e-2, "log"),
        "layers": Interval(1, 4, integer=True),
        "rule": Choice(("cosine", "linear")),
    }


def test_points_of_a_list_keep_the_defaults_that_they_do_not_name():
    space = space_of([{"learning_rate": 0.1}, {"layers": 3}])
    assert [dict(point) for point in space.points] == [
        {**DEFAULTS, "learning_rate": 0.1},
        {**DEFAULTS, "layers": 3},
    ]


def test_no_search_space_means_nothing_to_tune():
    assert draw(space_of(None), count=2, seed=0) == [Hyperparameters(DEFAULTS)] * 2


@pytest.mark.parametrize(
    ("written", "complaint"),
    [
        ({"learning_rate": {"min": 2, "max": 1}}, "search_space.learning_rate has min 2 > max 1"),
        (
            {"learning_rate": {"min": 0, "max": 1, "scaling": "log"}},
            "search_space.learning_rate has min 0 with scaling",
        ),
        ({"learning_rate": {"min": 0, "max": 1, "scalling": "log"}}, "'scalling'. Did you mean 'scaling'?"),
        ({"learning_rate": {"min": 0, "max": 1, "scaling": "square"}}, "scaling is 'square'"),
        ({"learning_rate": {"min": 0}}, "search_space.learning_rate.max is None"),
        ({"learning_rate": {"min": "low", "max": 1}}, "search_space.learning_rate.min is 'low'"),
        ({"learning_rate": {"min": True, "max": 1}}, "search_space.learning_rate.min is True"),
        ({"learning_rate": {"min": 0.5, "max": 2, "integer": True}}, "Use whole numbers"),
        ({"learning_rate": {"min": 1, "max": 2, "integer": "yes"}}, "integer is 'yes'"),
        ({"learning_rate": {"values": []}}, "search_space.learning_rate.values is []"),
        ({"learning_rate": {"values": [[1]]}}, "search_space.learning_rate.values is [1]"),
        ({"learning_rate": {"values": [1], "min": 0}}, "unknown key 'min'"),
        ({"learning_rate": 0.1}, "search_space.learning_rate is 0.1"),
        ({"learningrate": {"min": 0, "max": 1}}, "'learningrate', which is not a hyperparameter. Did you mean"),
        ([], "search_space is an empty list"),
        ([{"learningrate": 0.1}], "Did you mean 'learning_rate'?"),
        ([0.1], "search_space has 0.1 in its list"),
        ([{"learning_rate": float("nan")}], "Use a finite number"),
        ("wide", "search_space is 'wide'"),
        ({"layers": {"min": 1, "max": 4}}, "Add integer: true, or make the default 2.0"),
        ({"layers": {"values": [1, 2.5]}}, "search_space.layers.values is 2.5. Use a whole number"),
        ({"rule": {"min": 1, "max": 2}}, "search_space.rule is a range of numbers, but the default is none"),
        ({"rule": {"values": ["cosine", True]}}, "search_space.rule.values is True. Use text"),
        ({"layers": {"values": [1], "when": {"rule": [1]}}}, "search_space.layers.when.rule is 1. Use text"),
        ({"layers": {"values": [1], "when": {"rul": ["a"]}}}, "search_space.layers.when names 'rul'"),
        ({"layers": {"values": [1], "when": ["rule"]}}, "search_space.layers.when is ['rule']"),
        ({"layers": {"values": [1], "when": {"rule": "cosine"}}}, "List at least one value"),
        ({"layers": {"values": [1], "when": {"layers": [1]}}}, "depends on 'layers', which is drawn later"),
        (
            {"layers": {"values": [1], "when": {"rule": ["a"]}}, "rule": {"values": ["a"]}},
            "Write 'rule' before it",
        ),
    ],
)
def test_what_is_wrong_with_a_space_is_named_with_its_file_and_key(written: object, complaint: str):
    with pytest.raises(ConfigError) as caught:
        space_of(written)
    assert str(caught.value).startswith("mine/submission.yaml: ")
    assert complaint in str(caught.value)


def test_overrides_replace_defaults():
    assert dict(resolve_overrides(DEFAULTS, {"learning_rate": 3e-3, "weight_decay": 0.5})) == {
        **DEFAULTS,
        "learning_rate": 3e-3,
        "weight_decay": 0.5,
    }


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        (
            {"learning_rat": 1.0},
            "hp names 'learning_rat', which is not a hyperparameter. Did you mean 'learning_rate'?",
        ),
        ({"zzz": 1.0}, "Known: betas, layers, learning_rate, limit, nesterov, rule, weight_decay."),
        ({"learning_rate": "fast"}, "hp.learning_rate is 'fast'. Use a number; the default is 0.001."),
        ({"learning_rate": [1, 2]}, "hp.learning_rate is [1, 2]"),
        ({"learning_rate": True}, "hp.learning_rate is True. Use a number"),
        ({"learning_rate": None}, "hp.learning_rate is None. Use a number"),
        ({"learning_rate": 10**400}, "Use a number; the default is 0.001."),
        ({"learning_rate": "1e-3,1e-2"}, "hp.learning_rate is '1e-3,1e-2'. Use a number"),
        ({"layers": 2.5}, "hp.layers is 2.5. Use a whole number, as the default 2 is; where others make sense"),
        ({"nesterov": 1}, "hp.nesterov is 1. Use true or false; the default is true."),
        ({"nesterov": "maybe"}, "hp.nesterov is 'maybe'. Use true or false"),
        ({"rule": True}, "hp.rule is True. Use text, as the default 'cosine' is; in quotes where YAML"),
        ({"betas": 0.9}, "hp.betas is 0.9. Use a list of 2, as the default [0.9, 0.95] is."),
        ({"betas": "[0.9]"}, "hp.betas is '[0.9]'. Use a list of 2"),
        ({"betas": [0.9, "much"]}, "hp.betas.1 is 'much'. Use a number; the default is 0.95."),
        ({"betas": {"2": 0.9}}, "hp names 'betas.2'; betas has the elements 0 to 1."),
        ({"rule": {"0": 1}}, "hp names 'rule.0', which is not a hyperparameter"),
    ],
)
def test_a_wrong_override_is_refused(override: dict[str, Any], complaint: str):
    with pytest.raises(ConfigError) as caught:
        resolve_overrides(KINDS, override)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("override", "point"),
    [
        ({"learning_rate": 1}, {"learning_rate": 1.0}),
        ({"learning_rate": "1e-2"}, {"learning_rate": 0.01}),
        ({"weight_decay": -0.0}, {"weight_decay": 0.0}),
        ({"layers": 3.0}, {"layers": 3}),
        ({"layers": "1_000"}, {"layers": 1000}),
        ({"nesterov": "off"}, {"nesterov": False}),
        ({"nesterov": "False"}, {"nesterov": False}),
        ({"rule": "off"}, {"rule": "off"}),
        ({"rule": "'on'"}, {"rule": "on"}),
        ({"rule": "a: b # c"}, {"rule": "a: b # c"}),
        ({"betas": [0, 1]}, {"betas": (0.0, 1.0)}),
        ({"betas": "[0.8, 1]"}, {"betas": (0.8, 1.0)}),
        ({"betas": {"1": "0.99"}}, {"betas": (0.9, 0.99)}),
        ({"betas.0": 0}, {"betas": (0.0, 0.95)}),
        ({"limit": 1.0}, {"limit": 1}),
        ({"limit": "1.5"}, {"limit": 1.5}),
        ({"limit": "null"}, {"limit": None}),
    ],
)
def test_an_override_is_read_in_the_type_of_the_default(override: dict[str, Any], point: dict[str, Any]):
    resolved = dict(resolve_overrides(KINDS, override))
    assert resolved == {**KINDS, **point}
    # 1 == 1.0 == True in Python, but not in a trial's id.
    assert json.dumps(resolved) == json.dumps({**KINDS, **point})


def test_what_is_drawn_has_the_type_of_the_default():
    space = parse_space(
        {
            "learning_rate": {"min": 1, "max": 3, "integer": True},
            "weight_decay": {"values": [0, 1]},
            "nesterov": {"values": [True, False]},
            "limit": {"values": [1.0, "none"]},
        },
        defaults=KINDS,
        where="mine/submission.yaml",
    )
    points = draw(space, count=32, seed=0)
    assert {repr(point.learning_rate) for point in points} == {"1.0", "2.0", "3.0"}
    assert {repr(point.weight_decay) for point in points} == {"0.0", "1.0"}
    assert {repr(point.nesterov) for point in points} == {"True", "False"}
    assert {repr(point.limit) for point in points} == {"1", "'none'"}


def test_elements_of_a_list_are_tuned_one_by_one_or_as_a_whole():
    def betas(written: dict[str, Any]) -> set[tuple[float, float]]:
        space = parse_space(written, defaults=KINDS, where="mine/submission.yaml")
        return {point.betas for point in draw(space, count=32, seed=0)}

    one = betas({"betas.1": {"min": 0.9, "max": 0.999}})
    assert {first for first, _ in one} == {0.9}
    assert len(one) == 32
    assert all(0.9 <= second <= 0.999 for _, second in one)
    assert betas({"betas": {"values": [[0, 0.9], [0.9, 0.99]]}}) == {(0.0, 0.9), (0.9, 0.99)}
    listed = parse_space([{"betas.0": 0}, {"betas": [0.5, 1]}], defaults=KINDS, where="mine/submission.yaml")
    assert [point.betas for point in listed.points] == [(0.0, 0.95), (0.5, 1.0)]
    with pytest.raises(ConfigError, match=r"search_space names 'betas.2'; betas has the elements 0 to 1"):
        betas({"betas.2": {"min": 0, "max": 1}})


@given(
    low=st.floats(1e-6, 1e3),
    factor=st.floats(1, 1e6),
    scaling=st.sampled_from(["linear", "log"]),
    share=st.floats(0, 1, exclude_max=True),
)
def test_an_interval_contains_what_it_gives(low: float, factor: float, scaling: Any, share: float):
    interval = Interval(low, low * factor, scaling)
    assert interval.contains(interval.value_at(share))


@pytest.mark.parametrize("scaling", ["linear", "log"])
def test_an_integer_interval_gives_each_of_its_integers(scaling: Any):
    interval = Interval(1, 4, scaling, integer=True)
    values = [interval.value_at(number / 1000) for number in range(1000)]
    assert set(values) == {1, 2, 3, 4}
    assert all(isinstance(value, int) for value in values)


def test_points_spread_over_a_logarithmic_range():
    space = space_of({"learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"}})
    rates = [point.learning_rate for point in draw(space, count=64, seed=1)]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    # A low-discrepancy sequence in base 2 puts exactly half of 64 points into each half, here above and below 1e-3.
    assert sum(rate < 1e-3 for rate in rates) == 32


def test_each_choice_comes_as_often():
    rules = [point.rule for point in draw(space_of({"rule": {"values": ["a", "b"]}}), count=32, seed=3)]
    assert rules.count("a") == rules.count("b") == 16


def test_the_seed_decides_the_points_and_a_longer_draw_goes_on():
    space = space_of({"learning_rate": {"min": 0, "max": 1}, "weight_decay": {"min": 0, "max": 1}})
    assert draw(space, count=5, seed=7) == draw(space, count=15, seed=7)[:5]
    assert draw(space, count=5, seed=7) != draw(space, count=5, seed=8)


def test_fixed_points_come_in_order_and_again():
    space = space_of([{"learning_rate": 0.1}, {"learning_rate": 0.2}])
    assert [point.learning_rate for point in draw(space, count=3, seed=0)] == [0.1, 0.2, 0.1]


def test_no_points_cannot_be_drawn():
    with pytest.raises(ConfigError, match="0 points"):
        draw(space_of(None), count=0, seed=0)


def test_a_space_travels_to_another_process():
    space = space_of({"learning_rate": {"min": 0, "max": 1}})
    assert pickle.loads(pickle.dumps(space)) == space


CONDITIONAL = {
    "rule": {"values": ["cosine", "linear"]},
    "layers": {"min": 5, "max": 9, "integer": True, "when": {"rule": ["linear"]}},
}


def test_a_conditional_dimension_is_drawn_where_its_condition_holds_and_stays_at_its_default_elsewhere():
    points = draw(space_of(CONDITIONAL), count=40, seed=0)
    assert {point["layers"] for point in points if point["rule"] == "cosine"} == {DEFAULTS["layers"]}
    assert {point["layers"] for point in points if point["rule"] == "linear"} == {5, 6, 7, 8, 9}


def test_a_condition_on_what_is_not_tuned_looks_at_its_default():
    space = space_of({"layers": {"values": [7], "when": {"rule": ["linear"]}}})
    assert draw(space, count=1, seed=0)[0]["layers"] == DEFAULTS["layers"]


def test_the_points_of_all_studies_are_one_draw_dealt_out():
    space = space_of(
        {"learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"}, "rule": {"values": ["a", "b", "c"]}}
    )
    dealt = [deal(space, study=study, studies=3, trials=5, seed=7) for study in range(3)]
    assert [point for points in dealt for point in points] == draw(space, count=15, seed=7)
    assert len({point["learning_rate"] for points in dealt for point in points}) == 15
    assert all(len({point["rule"] for point in points}) == 3 for points in dealt)


def test_each_study_draws_from_a_list_without_replacement_and_in_its_own_order():
    space = space_of([{"layers": number} for number in range(5)])
    dealt = [[point["layers"] for point in deal(space, study=s, studies=9, trials=5, seed=0)] for s in range(9)]
    assert all(sorted(layers) == [0, 1, 2, 3, 4] for layers in dealt)
    assert len({tuple(layers) for layers in dealt}) > 1
    few = [point["layers"] for point in deal(space, study=0, studies=1, trials=3, seed=0)]
    assert len(set(few)) == 3


def test_a_list_shorter_than_a_study_is_gone_through_again():
    space = space_of([{"layers": 1}, {"layers": 2}])
    layers = [point["layers"] for point in deal(space, study=0, studies=1, trials=5, seed=0)]
    assert sorted(layers[:2]) == sorted(layers[2:4]) == [1, 2]


def test_conditions_are_judged_with_what_is_overridden():
    space = space_of(
        {
            "rule": {"values": ["linear", "constant"]},
            "weight_decay": {"min": 0.1, "max": 0.2, "when": {"rule": ["cosine"]}},
            "layers": {"min": 3, "max": 9, "integer": True, "when": {"rule": ["linear", "constant"]}},
        }
    )
    points = draw(space.overridden({"rule": "cosine"}), count=4, seed=0)
    assert {point["rule"] for point in points} == {"cosine"}
    assert all(0.1 <= point["weight_decay"] <= 0.2 for point in points)
    assert {point["layers"] for point in points} == {DEFAULTS["layers"]}


def test_an_override_leaves_the_other_dimensions_as_they_are_drawn():
    space = space_of({"learning_rate": {"min": 0.1, "max": 0.2}, "weight_decay": {"min": 0.0, "max": 1.0}})
    drawn, overridden = draw(space, count=3, seed=1), draw(space.overridden({"learning_rate": 5.0}), count=3, seed=1)
    assert [point["weight_decay"] for point in overridden] == [point["weight_decay"] for point in drawn]
    assert {point["learning_rate"] for point in overridden} == {5.0}


def test_an_override_is_written_over_every_point_of_a_list():
    space = space_of([{"learning_rate": 0.1}, {"layers": 3}]).overridden({"layers": 7})
    assert [(point["learning_rate"], point["layers"]) for point in space.points] == [(0.1, 7), (1e-3, 7)]
