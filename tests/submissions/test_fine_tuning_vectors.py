"""Fine-tuning methods compute what their sheets write: where adapters begin, and which of them are trained."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import Hyperparameters, ParameterKind, Target
from harness.plugins.conformance.problems import AdaptedStripes, Stripes
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.submission import load_submission
from harness.trial.conversation import Conditions, Go, Progress
from harness.trial.parameter_kinds import adapters_of
from harness.trial.trial import Trial
from submissions.eva_lora.submission import Directions, allotted, begin_with, second_moment, strongest_inputs
from submissions.eva_lora.submission import train as train_eva
from submissions.ist.submission import different_sets, drawn, moved, turned_down
from submissions.ist.submission import train as train_ist


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def stretched(rows: int, widths: list[float]) -> Tensor:
    """Gaussian rows, float64, wide along some axes; their mean is far from zero along the last."""
    x = torch.randn(rows, len(widths), dtype=torch.float64, generator=seeded()) * torch.tensor(widths)
    x[:, -1] += 3.0
    return x


def defaults(name: str, **changed: object) -> Hyperparameters:
    return Hyperparameters({**load_submission(name).hyperparameters, **changed})


# --- EVA ---


def test_the_largest_shares_of_all_layers_get_the_budget():
    explained = [torch.tensor([0.6, 0.2, 0.1]), torch.tensor([0.35, 0.3, 0.25])]
    assert allotted(explained, 4) == [1, 3]


def test_a_layer_may_get_nothing_and_all_get_what_they_have_room_for():
    explained = [torch.tensor([0.1, 0.05]), torch.tensor([0.5, 0.4])]
    assert allotted(explained, 2) == [0, 2]
    assert allotted(explained, 4) == [2, 2]


def test_directions_are_those_of_a_singular_value_decomposition_that_is_not_centred():
    x = stretched(64, [5.0, 2.0, 1.0, 0.5])
    directions = Directions(4, second_moment([x], None))
    for rows in x.split(16):
        directions.add(second_moment([rows], None))
    _, values, vectors = torch.linalg.svd(x, full_matrices=False)
    torch.testing.assert_close(directions.squares, values.square())
    torch.testing.assert_close((directions.vectors * vectors).sum(1).abs(), torch.ones(4, dtype=torch.float64))
    torch.testing.assert_close(directions.explained(), values.square() / values.square().sum())


def test_two_of_many_directions_are_followed_from_batch_to_batch_and_converge():
    x = stretched(400, [6.0, 1.0, 0.2, 0.2, 0.2, 0.2])
    directions = Directions(2, second_moment([x], None))
    directions.add(second_moment([x[:10]], None))
    assert not directions.have_converged(1)
    for rows in x[10:].split(10):
        directions.add(second_moment([rows], None))
    assert directions.have_converged(2)
    assert directions.have_converged(0)
    exact = torch.linalg.svd(x, full_matrices=False)[2][:2]
    assert (directions.vectors * exact).sum(1).abs().min() > 0.999


def test_rows_that_are_padding_do_not_count():
    inputs = torch.tensor([[[1.0, 0.0], [5.0, 5.0]], [[0.0, 2.0], [5.0, 5.0]]])
    counts = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert second_moment([inputs], counts).tolist() == [[1.0, 0.0], [0.0, 4.0]]
    # One weight for each example says nothing of the places within it.
    assert second_moment([inputs], torch.ones(2)).tolist() == (inputs.flatten(0, 1).T @ inputs.flatten(0, 1)).tolist()


def test_the_first_gradient_is_larger_than_that_of_random_rows():
    # The gradient of `up` is G^T X A^T for the outputs' gradient G; over G its mean square is |X A^T|^2.
    x = stretched(256, [4.0, 2.0, 1.0, 1.0, 0.5, 0.5, 0.5, 0.5])
    directions = Directions(2, second_moment([x], None))
    directions.add(second_moment([x], None))
    chosen = (x @ directions.vectors.T).square().sum()
    generator = seeded()
    others = [torch.linalg.qr(torch.randn(8, 2, dtype=x.dtype, generator=generator))[0] for _ in range(100)]
    assert chosen > max((x @ other).square().sum() for other in others)


@pytest.mark.parametrize(("rho", "total"), [(1, 12), (2, 6)])
def test_adapters_begin_with_unit_rows_of_as_many_ranks_as_the_budget_has_and_change_nothing_yet(rho: int, total: int):
    rehearsal = Rehearsal(AdaptedStripes())
    trial = rehearsal.trial
    batch = trial.train_set.gather(torch.arange(8))
    before = trial.outputs(batch)
    begin_with(trial, strongest_inputs(trial, rho=rho))
    assert torch.equal(trial.outputs(batch), before)
    assert trial.model.training
    norms = torch.cat([adapter.down.detach().norm(dim=1) for adapter in trial.adapters.values()])
    assert len(norms) == 12
    torch.testing.assert_close(norms[norms > 0], torch.ones(total))


def test_layers_that_get_the_same_tensor_begin_with_the_same_rows():
    class Twice(AdaptedStripes):
        def build_model(self) -> nn.Module:
            return Parallel(super().build_model())

    trial = Rehearsal(Twice()).trial
    first, second, third, fourth = strongest_inputs(trial, rho=1).values()
    assert torch.equal(first, second)
    assert first.shape != third.shape
    assert not torch.equal(third, fourth)


class Parallel(nn.Module):
    """Two adapted layers that read the same input and are added up, two more behind them, and an output layer."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.flatten, self.left, _, middle, _, last, output = layers.children()
        self.right = copy.deepcopy(self.left)
        self.middle, self.last, self.output = middle, last, output

    def forward(self, inputs: Tensor) -> Tensor:
        flat = self.flatten(inputs)
        hidden = torch.relu(self.left(flat) + self.right(flat))
        outputs: Tensor = self.output(torch.relu(self.last(torch.relu(self.middle(hidden)))))
        return outputs


def test_the_same_seed_begins_with_the_same_rows():
    first, again = (strongest_inputs(Rehearsal(AdaptedStripes()).trial, rho=2) for _ in range(2))
    assert all(torch.equal(first[path], again[path]) for path in first)


def test_adapters_that_begin_with_what_layers_get_learn_faster_than_random_ones_at_the_same_rate():
    losses = []
    for begins in (strongest_inputs, None):
        rehearsal = Rehearsal(AdaptedStripes())
        trial = rehearsal.trial
        # The output layer would learn the task by itself.
        trial.model[-1].requires_grad_(False)
        if begins is not None:
            begin_with(trial, begins(trial, rho=1))
        optimizer = torch.optim.SGD([p for p in trial.model.parameters() if p.requires_grad], lr=0.05)
        for _ in range(20):
            optimizer.zero_grad()
            loss = trial.loss(trial.take(torch.arange(512)))
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses[0] < losses[1]


# --- IST ---


def test_scores_move_as_in_the_sheet():
    scores = moved(torch.zeros(4, dtype=torch.float64), [[0, 1], [2, 3], [0, 3]], [1.0, 1.2, 1.1], 10.0)
    expected = torch.tensor([0.081968, 0.084745, -0.081968, -0.084745], dtype=torch.float64)
    torch.testing.assert_close(scores, expected, atol=1e-6, rtol=0.0)


def test_a_layer_that_is_in_no_set_keeps_its_score():
    scores = moved(torch.tensor([0.3, -0.2, 0.1]), [[0], [1]], [1.0, 2.0], 10.0)
    assert scores[2] == torch.tensor(0.1)
    assert scores[0] > 0.3
    assert scores[1] < -0.2


def test_layers_are_drawn_in_proportion_to_the_sigmoid_of_their_scores_and_never_twice():
    generator = seeded()
    scores = torch.tensor([0.0, 2.0, -2.0], dtype=torch.float64)
    counts = torch.zeros(3)
    for _ in range(3000):
        [layer] = drawn(scores, 1, generator)
        counts[layer] += 1
    expected = torch.sigmoid(scores) / torch.sigmoid(scores).sum()
    torch.testing.assert_close(counts.double() / 3000, expected, atol=0.03, rtol=0.0)
    assert drawn(scores, 3, generator) == [0, 1, 2]


def test_sets_differ_and_where_there_are_few_there_are_fewer():
    sets = different_sets(torch.zeros(8), 4, 3, seeded())
    assert len({tuple(each) for each in sets}) == 3
    assert sorted(different_sets(torch.zeros(2), 1, 3, seeded())) == [[0], [1]]
    assert different_sets(torch.zeros(1), 1, 3, seeded()) == [[0]]
    # A set that is all but impossible is not waited for.
    assert different_sets(torch.tensor([80.0, -80.0], dtype=torch.float64), 1, 2, seeded()) == [[0]]


def test_turning_an_adapter_down_scales_what_it_adds_and_is_undone_bit_for_bit():
    trial = Rehearsal(AdaptedStripes()).trial
    adapter = next(iter(trial.adapters.values()))
    with torch.no_grad():
        adapter.up.normal_(generator=seeded())
    before = adapter.up.detach().clone()
    with turned_down([adapter.up], 0.3):
        torch.testing.assert_close(adapter.up.detach(), 0.3 * before)
    assert torch.equal(adapter.up.detach(), before)


def test_adapters_that_are_not_drawn_stay_where_they_are():
    workload, seen, reported = AdaptedStripes(), [], {}

    def look(model: nn.Module, progress: Progress) -> Go | None:
        seen.append(
            [torch.cat([each.down.flatten(), each.up.flatten()]).detach() for each in adapters_of(model).values()]
        )
        reported.update(progress.reported)
        return None if progress.step == 60 else Go(0.0)

    torch.manual_seed(1)
    conditions = Conditions(
        seed=1,
        device=torch.device("cpu"),
        batch_size_hint=32,
        step_hint=80,
        target=Target("loss", "min", 0.0),
        budget_seconds=60.0,
        eval_period=60.0,
        evaluate_every_steps=1,
    )
    trial = Trial(workload, workload.build_model(), workload.load("train", Path()), conditions, look)
    trial.go(Go(0.0))
    # A third of three layers is one.
    train_ist(trial, defaults("ist", active_fraction=1 / 3))
    moves = [
        [not torch.equal(before, after) for before, after in zip(*pair, strict=True)]
        for pair in itertools.pairwise(seen)
    ]
    assert len(moves) == 59
    assert {sum(step) for step in moves} == {1}
    assert {step.index(True) for step in moves} == {0, 1, 2}
    # Three sets every ten steps, on top of what the steps need.
    assert reported["forward_passes"] == 3 * 60 / 10


# --- where there is nothing to fine-tune ---


@pytest.mark.parametrize(("name", "train"), [("eva_lora", train_eva), ("ist", train_ist)])
def test_without_adapters_it_says_so_and_is_adamw(name: str, train, capsys):
    from submissions.adamw.submission import train as train_adamw

    point = defaults(name)
    found = Rehearsal(Stripes()).run(train, point).weights[-1]
    assert capsys.readouterr().out == ("nothing to fine-tune: this model has no adapters, so it is trained by AdamW\n")
    expected = Rehearsal(Stripes()).run(train_adamw, point).weights[-1]
    assert all(torch.equal(found[path], expected[path]) for path in found)


def test_adapters_are_found_by_their_kinds_beside_the_layer_that_they_are_laid_on():
    trial = Rehearsal(AdaptedStripes()).trial
    assert list(trial.adapters) == ["1", "3", "5"]
    assert {tuple(each.down.shape) for each in trial.adapters.values()} == {(4, 64), (4, 16)}
    assert trial.parameter_kinds["1.up"] is ParameterKind.ADAPTER_UP
    assert Rehearsal(Stripes()).trial.adapters == {}
