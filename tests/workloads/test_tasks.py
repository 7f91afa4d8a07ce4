"""Several tasks at once: what scenes show, what is asked of whom, and experts that choose their tokens."""

from __future__ import annotations

import functools
import math

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import SPLITS, ConfigError, Examples, SplitName, mean_loss
from harness.plugins.data import data_folder, is_present
from workloads.data.bibles import king_james, read_king_james
from workloads.data.spoken_digits_data import SpokenDigitsFile
from workloads.frontier.tasks.scenes import KINDS, SIDE, inside, scenes
from workloads.frontier.tasks.shapes_tasks import ALPHABET, PLACES, TASKS, ShapesTasks, by_task, constant_error, signs
from workloads.frontier.tasks.token_encoder import Experts

COUNT, _, DIGITS, NEXT = range(len(TASKS))


def workload_with(*, experts: int = 1) -> ShapesTasks:
    return ShapesTasks(width=16, layers=1, heads=2, hidden=16, experts=experts)


@functools.cache
def split_of(split: SplitName) -> Examples:
    if not is_present(workload_with(), data_folder()):
        pytest.skip("the data are not here: make data WORKLOAD=shapes_tasks")
    return workload_with().load(split, data_folder())


def of_task(split: SplitName, task: int) -> dict[str, Tensor]:
    tensors = split_of(split).tensors()
    return {name: values[tensors["groups"] == task] for name, values in tensors.items()}


# --- scenes ---


@pytest.mark.parametrize(
    ("kind", "share"),
    [
        ("disc", math.pi / 4),
        ("square", 0.875**2),
        ("triangle", 0.5),
        ("ring", math.pi / 4 * 0.75),
        # Two bars of three eighths, less the square in which they cross.
        ("cross", 2 * 0.375 - 0.375**2),
        ("diamond", 0.5),
    ],
)
def test_a_shape_covers_its_share_of_the_square_around_it(kind: str, share: float):
    [found] = inside(kind, numpy.array([[24.0, 24.0]]), numpy.array([19.9]))
    assert found.sum() / 39.8**2 == pytest.approx(share, rel=0.08)
    # Left is as right, and nothing lies outside.
    assert (found == found[:, ::-1]).all()
    assert not found[:4].any()
    assert not found[44:].any()


def test_kinds_have_six_names_and_each_is_another_shape():
    found = [inside(kind, numpy.array([[20.0, 30.0]]), numpy.array([6.0])).tobytes() for kind in KINDS]
    assert len(set(found)) == len(KINDS) == 6


def test_scenes_hold_as_many_shapes_as_they_say_each_whole_and_all_numbers_come_alike_often():
    made = scenes(500, numpy.random.RandomState(0))
    assert numpy.bincount(made.counts).tolist()[1:] == pytest.approx([100] * 5, abs=30)
    # One more contrast, the ground's, than shapes, or fewer where some are hidden.
    contrasts = [len(numpy.unique(scene)) - 1 for scene in made.clean]
    assert all(found <= count for found, count in zip(contrasts, made.counts, strict=True))
    assert numpy.mean(contrasts == made.counts) > 0.9
    shown = abs(made.clean[made.clean != 0])
    assert shown.min() == pytest.approx(0.6, abs=0.005)
    assert shown.max() == pytest.approx(1.2, abs=0.005)
    assert (made.clean > 0).mean() == pytest.approx((made.clean < 0).mean(), rel=0.2)


def test_the_noise_is_that_of_the_sheet_and_independent_of_the_shapes():
    made = scenes(100, numpy.random.RandomState(1))
    noise = made.seen - made.clean
    assert noise.std() == pytest.approx(0.4, rel=0.01)
    assert noise.mean() == pytest.approx(0.0, abs=0.005)
    assert numpy.corrcoef(noise.ravel(), made.clean.ravel())[0, 1] == pytest.approx(0.0, abs=0.01)


def test_all_numbers_of_a_scene_are_exact():
    made = scenes(20, numpy.random.RandomState(2))
    for values in (made.clean, made.seen):
        assert numpy.array_equal(1024 * values, numpy.rint(1024 * values))


# --- what is asked ---


def test_signs_are_those_in_the_middle_of_each_patch():
    clean = numpy.zeros((1, SIDE, SIDE))
    clean[0, 3, 9] = 0.7
    clean[0, 45, 45] = -0.7
    clean[0, 20, 20] = 1.0
    found = signs(clean)
    assert found.shape == (1, PLACES)
    assert {place: found[0, place] for place in numpy.flatnonzero(found[0])} == {1: 1, 63: 2}


def test_tokens_of_a_scene_are_its_patches():
    made = scenes(500, numpy.random.RandomState([2305, 1]))
    rows = of_task("validation", COUNT)
    assert torch.equal(rows["targets"][:, 0], torch.from_numpy(made.counts) - 1)
    patches = F.unfold(torch.from_numpy(made.seen[:5, None]), 6, stride=6).transpose(1, 2)
    tokens = rows["tokens"][:5].double().sub(128).div(32)
    torch.testing.assert_close(tokens[..., :36], patches, atol=1 / 64, rtol=0)
    assert not tokens[..., 36:].any()


def test_the_first_examples_are_of_every_task_and_sizes_are_those_that_tasks_say():
    tensors = split_of("train").tensors()
    assert tensors["groups"][:4].tolist() == [0, 1, 2, 3]
    assert tensors["groups"].bincount().tolist() == [task.examples for task in TASKS]
    halves = tensors["groups"][: len(tensors["groups"]) // 2].bincount()
    assert halves.tolist() == pytest.approx([task.examples / 2 for task in TASKS], rel=0.02)
    for split in ("validation", "test"):
        assert split_of(split).tensors()["groups"].bincount().tolist() == [500] * 4
    assert torch.equal(workload_with().domains(split_of("train")), tensors["groups"])


def test_a_text_is_read_up_to_the_character_that_is_asked_for():
    text = read_king_james(king_james().path(data_folder())).lower()
    assert sorted(ALPHABET) == sorted(set(text)) == list(ALPHABET)
    begins = {"train": 0, "validation": round(0.9 * len(text)), "test": round(0.95 * len(text)), "end": len(text)}
    for split, end in zip(SPLITS, list(begins)[1:], strict=True):
        rows = of_task(split, NEXT)
        assert rows["tokens"].ne(128).sum(dim=2).unique().tolist() == [1]
        for tokens, target in zip(rows["tokens"][:20], rows["targets"][:20, 0], strict=True):
            window = "".join(ALPHABET[place] for place in (*tokens.argmax(dim=1).tolist(), int(target)))
            assert window in text[begins[split] : begins[end]]


def test_speech_is_heard_in_pairs_of_frames_and_its_digits_are_counted():
    utterances = SpokenDigitsFile().read("validation", data_folder()).tensors()
    rows = of_task("validation", DIGITS)
    assert torch.equal(rows["targets"][:, 0], (utterances["targets"][:500] > 0).sum(dim=1) - 2)
    pairs = utterances["features"][:500, :128].double().unflatten(1, (64, 2)).mean(dim=2)
    assert torch.equal(rows["tokens"].double(), pairs.floor())


# --- who is judged by what ---


def outputs_that_say(answers: list[int], count: int) -> Tensor:
    """Scores of one answer to all questions of each task, whatever the example."""
    parts = [
        F.one_hot(torch.full((count, task.answers), answer), task.classes).flatten(1).double()
        for task, answer in zip(TASKS, answers, strict=True)
    ]
    return torch.cat(parts, dim=1)


def test_whoever_always_gives_the_commonest_answers_has_a_relative_error_of_one():
    workload, examples = workload_with(), split_of("validation")
    batch = examples.gather(torch.arange(len(examples)))
    commonest = [
        int(batch["targets"][batch["groups"] == number, : task.answers].flatten().bincount().argmax())
        for number, task in enumerate(TASKS)
    ]
    found = workload.metrics(workload.statistics(outputs_that_say(commonest, len(examples)), batch))
    assert found["mean_relative_error"] == pytest.approx(1.0)
    for number, task in enumerate(TASKS):
        rows = of_task("validation", number)
        assert found[f"{task.name}_error"] == pytest.approx(constant_error(rows["targets"][:, : task.answers]))


def test_whoever_is_right_has_no_error_and_one_task_alone_counts_by_itself():
    workload, examples = workload_with(), split_of("validation")
    batch = examples.gather(torch.arange(len(examples)))
    right = torch.cat(
        [F.one_hot(batch["targets"][:, : t.answers].clamp_max(t.classes - 1), t.classes).flatten(1) for t in TASKS],
        dim=1,
    ).double()
    assert workload.metrics(workload.statistics(right, batch))["mean_relative_error"] == 0.0
    only = {name: values[batch["groups"] == COUNT] for name, values in batch.items()}
    found = workload.metrics(workload.statistics(right[batch["groups"] == COUNT], only))
    assert found == {"mean_relative_error": 0.0, "count_error": 0.0}


def test_a_term_is_the_loss_of_its_own_examples_alone():
    workload = workload_with()
    batch = split_of("train").gather(torch.arange(16))
    outputs = torch.randn(16, sum(task.answers * task.classes for task in TASKS))
    terms = workload.loss_terms(outputs, batch, 0.0)
    for number, (task, scores) in enumerate(by_task(outputs)):
        is_own = batch["groups"] == number
        expected = F.cross_entropy(scores[is_own].flatten(0, 1), batch["targets"][is_own, : task.answers].flatten())
        torch.testing.assert_close(mean_loss(*terms[task.name]), expected)


def test_a_batch_of_one_task_has_no_loss_in_the_others():
    workload = workload_with()
    examples = split_of("train")
    batch = examples.gather(torch.where(examples.tensors()["groups"] == DIGITS)[0][:8])
    terms = workload.loss_terms(workload.outputs(workload.build_model(), batch), batch, 0.0)
    losses = {name: mean_loss(*term).item() for name, term in terms.items()}
    assert losses["digits"] > 1.0
    assert sum(losses.values()) == losses["digits"]


# --- experts ---


def by_hand(layer: Experts, tokens: Tensor) -> Tensor:
    """Of one example, expert by expert and token by token."""
    weights = layer.router(tokens).softmax(dim=1)
    made = torch.zeros_like(tokens)
    for number, expert in enumerate(layer.experts):
        for place in weights[:, number].argsort(descending=True)[: len(tokens) // len(layer.experts)].tolist():
            made[place] += weights[place, number] * expert(tokens[place])
    return made


def test_each_expert_takes_its_share_of_the_tokens_those_of_most_weight():
    torch.manual_seed(0)
    layer = Experts(8, 12, 4).double()
    tokens = torch.randn(3, 16, 8, dtype=torch.float64)
    found = layer(tokens)
    for example, made in zip(tokens, found, strict=True):
        torch.testing.assert_close(made, by_hand(layer, example))


def test_what_an_example_becomes_does_not_depend_on_the_others():
    torch.manual_seed(0)
    model: nn.Module = workload_with(experts=4).build_model().eval()
    batch = split_of("train").gather(torch.arange(8))
    whole = workload_with().outputs(model, batch)
    alone = workload_with().outputs(model, {name: values[:3] for name, values in batch.items()})
    torch.testing.assert_close(whole[:3], alone)


@pytest.mark.parametrize(("heads", "experts"), [(3, 1), (2, 3)])
def test_sizes_that_do_not_fit_are_refused(heads: int, experts: int):
    workload = ShapesTasks(width=16, layers=1, heads=heads, hidden=16, experts=experts)
    with pytest.raises(ConfigError, match=rf"heads {heads}, experts {experts}\. Use heads that divide the width"):
        workload.build_model()
