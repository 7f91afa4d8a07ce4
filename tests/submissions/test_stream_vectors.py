"""Methods for streams of tasks against the sheets' numbers and what they promise of earlier tasks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.api import Hyperparameters
from harness.plugins.conformance.problems import StripeStream
from harness.plugins.conformance.rehearsal import Rehearsal
from harness.plugins.conformance.training import TRAINING, Candidate
from harness.plugins.submission import load_submission
from submissions.cuber.submission import (
    ALIKE,
    FORBIDDEN,
    UNLIKE,
    basis_of,
    divided,
    pull_back,
    regime_of,
    without,
)
from submissions.cuber.submission import train as train_cuber
from submissions.dynamic_sparse.submission import Masks, best, densities, moved, share_dropped
from submissions.dynamic_sparse.submission import train as train_dynamic_sparse
from submissions.replay_adamw.submission import Memory


def tensor(*rows: list[float]) -> Tensor:
    return torch.tensor(rows)


def defaults(name: str, **others: object) -> Hyperparameters:
    """With stages of the same length, so that the first one ends at step 60 of 120."""
    return Hyperparameters({**load_submission(name).hyperparameters, "step_hint_factor": 1.0, **others})


@pytest.mark.parametrize("name", ["cuber", "dynamic_sparse", "replay_adamw"])
@pytest.mark.parametrize("asked", ["learns", "resumes"])
def test_on_a_stream_it_learns_and_goes_on_in_the_middle_of_a_stage(name: str, asked: str, tmp_path: Path):
    fault_of, _ = TRAINING[asked]
    assert fault_of(Candidate(load_submission(name), tmp_path), "stream") is None


# --- cuber ---


def test_a_gradient_of_three_and_four_is_taken_out_of_the_direction_that_is_closed():
    first, others = torch.eye(3)[:, :1], torch.eye(3)[:, 1:]
    assert torch.equal(without(tensor([3.0, 4.0, 0.0]), first, others), tensor([0.0, 4.0, 0.0]))
    assert torch.equal(without(tensor([3.0, 4.0, 5.0]), others, first), tensor([3.0, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("sufficient", "earlier", "expected"),
    [
        (0.5, [3.0, 4.0, 0.0], ALIKE),  # the share in the direction is 0.6
        (0.6, [3.0, 4.0, 0.0], ALIKE),
        (0.61, [3.0, 4.0, 0.0], FORBIDDEN),
        (0.5, [-3.0, 1.0, 0.0], UNLIKE),
        (0.5, [-4.0, 3.0, 9.0], ALIKE),  # at right angles
    ],
)
def test_what_a_task_may_do_to_an_earlier_one_goes_by_the_share_of_its_gradient_and_by_its_sign(
    sufficient: float, earlier: list[float], expected: int
):
    basis, gradient = tensor([1.0], [0.0], [0.0]), tensor([3.0, 4.0, 0.0])
    assert regime_of(gradient, tensor(earlier), basis, sufficient=sufficient, positive=0.0) == expected


def test_a_basis_holds_the_fewest_directions_with_the_wanted_share_of_the_energy():
    moment = torch.diag(torch.tensor([1.0, 6.0, 3.0]))
    for share, expected in ((0.6, [1]), (0.61, [1, 2]), (0.9, [1, 2]), (0.91, [1, 2, 0]), (1.0, [1, 2, 0])):
        basis = basis_of(moment, share)
        assert basis.abs().argmax(dim=0).tolist() == expected
        torch.testing.assert_close(basis.T @ basis, torch.eye(len(expected)))


def test_bases_that_share_a_direction_are_joined_without_having_it_twice():
    first, second = torch.eye(4)[:, :2], torch.eye(4)[:, 1:3]
    span, rest = divided([first, second])
    torch.testing.assert_close(span @ span.T, torch.diag(torch.tensor([1.0, 1.0, 1.0, 0.0])))
    torch.testing.assert_close(rest @ rest.T, torch.diag(torch.tensor([0.0, 0.0, 0.0, 1.0])))


def test_the_price_of_a_change_is_the_gradient_of_its_norm():
    torch.manual_seed(0)
    weight, old = torch.randn(4, 2, 3, requires_grad=True), torch.randn(4, 2, 3)
    basis = torch.linalg.qr(torch.randn(6, 2)).Q
    ((weight - old).flatten(1) @ basis @ basis.T).norm().backward()
    torch.testing.assert_close(pull_back(weight.detach(), old, basis), weight.grad)
    assert not pull_back(old, old, basis).any()


class FewInputs(StripeStream):
    """Of the first stage there are four different images, so that what they span in each layer is known exactly."""

    def drawn(self, count: int, generator: torch.Generator) -> dict[str, Tensor]:
        examples = super().drawn(count, generator)
        first = torch.nonzero(examples["stages"] == 0).flatten()
        examples["inputs"][first] = examples["inputs"][first[torch.arange(len(first)) % 4]]
        return examples

    def build_model(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 4))


def test_where_all_is_forbidden_the_outputs_of_an_earlier_task_stay_and_the_later_one_is_learned():
    rehearsal = Rehearsal(FewInputs())
    # No gradient has more than all of its size in a subspace. All of the energy but what rounding leaves.
    hp = defaults("cuber", sufficient=2.0, threshold=0.9999999, threshold_rise=0.0, learning_rate=0.1)
    examples = FewInputs().load("train", Path())
    batch = examples.gather(torch.arange(256))
    old = batch["stages"] == 0
    seen: list[Tensor] = []
    losses: list[float] = []

    def look() -> None:
        with torch.no_grad():
            outputs = rehearsal.trial.outputs(batch)
            seen.append(outputs[old])
            losses.append(float(rehearsal.trial.unit_losses(batch, outputs=outputs)[0][~old].mean()))

    rehearsal.trial.on_stage_end(look)
    rehearsal.trial.before_evaluation(look)
    rehearsal.run(train_cuber, hp)
    # Step 30; step 60, where the first task ends, twice; 90; 120.
    assert len(seen) == 5
    assert (seen[2] - seen[0]).abs().max() > 0.05
    torch.testing.assert_close(seen[4], seen[2], atol=1e-4, rtol=0)
    assert losses[4] < 0.7 * losses[2]


# --- dynamic sparse training ---


def test_layers_have_the_densities_of_the_sheet():
    shapes = [(64, 3, 3, 3), (10, 512)]
    found = densities(shapes, 0.2, kind="erk")
    assert found == pytest.approx([0.097242, 0.234681], abs=1e-6)
    assert 64 * 27 * found[0] + 5120 * found[1] == pytest.approx(1369.6)
    assert found[0] * 64 * 27 / (64 + 9) == pytest.approx(2.301849, abs=1e-6)
    assert densities(shapes, 0.2, kind="uniform") == [0.2, 0.2]


def test_a_layer_that_would_have_more_than_all_of_its_weights_has_all_and_the_others_what_is_left():
    shapes = [(2, 2), (100, 100)]
    found = densities(shapes, 0.1, kind="erk")
    assert found[0] == 1.0
    assert 4 * found[0] + 10_000 * found[1] == pytest.approx(0.1 * 10_004)
    assert densities([(2, 2), (3, 3)], 1.0, kind="erk") == [1.0, 1.0]


def test_the_share_that_is_dropped_falls_by_a_cosine():
    assert [share_dropped(0.5, share) for share in (0.0, 0.5, 1.0, 1.2)] == pytest.approx([0.5, 0.2525, 0.005, 0.005])


def test_the_smallest_own_weights_go_and_as_many_of_the_highest_scores_come():
    weight = torch.tensor([0.1, -0.9, 0.5, 0.0, 0.0, 0.0, 0.05])
    mask = torch.tensor([1, 1, 1, 0, 0, 0, 1]).bool()
    own = torch.tensor([1, 1, 1, 0, 0, 0, 0]).bool()  # the last one is an earlier task's
    free = torch.tensor([0, 0, 0, 1, 1, 1, 0]).bool()
    scores = torch.tensor([9.0, 9.0, 9.0, 1.0, 3.0, 2.0, 9.0])
    found, come = moved(mask, weight, scores, own=own, free=free, share=0.6)
    assert torch.nonzero(come).flatten().tolist() == [4, 5]
    assert torch.nonzero(found).flatten().tolist() == [1, 4, 5, 6]
    # No more go than can come.
    one = torch.tensor([0, 0, 0, 1, 0, 0, 0]).bool()
    assert torch.nonzero(moved(mask, weight, scores, own=own, free=one, share=0.6)[0]).flatten().tolist() == [
        1,
        2,
        3,
        6,
    ]


def test_the_best_of_a_few_are_all_where_there_are_no_more():
    among = torch.tensor([True, False, True])
    assert torch.equal(best(torch.tensor([1.0, 5.0, 2.0]), among, 3), among)


@pytest.mark.parametrize("growth", ["random", "unfired", "gradient"])
def test_a_task_trains_its_own_weights_alone_and_leaves_those_of_earlier_tasks_as_they_are(growth: str):
    rehearsal = Rehearsal(StripeStream())
    trial = rehearsal.trial
    weight = dict(trial.model.named_parameters())["4.weight"]
    wanted = round(0.2 * weight.numel())
    counts: list[int] = []
    ends: list[Tensor] = []
    trial.on_stage_end(lambda: ends.append(weight.detach().clone()))
    trial.before_evaluation(lambda: counts.append(int((weight != 0).sum())))
    rehearsal.run(train_dynamic_sparse, defaults("dynamic_sparse", growth=growth))
    # Steps 30, 60, 90, 120. A weight that has grown stays zero where its unit is dead.
    assert all(0.8 * wanted < count <= wanted for count in counts[:2])
    assert counts[1] < counts[2] <= 2 * wanted
    assert counts[3] <= 2 * wanted
    first = ends[0]
    assert torch.equal(weight.detach()[first != 0], first[first != 0])
    assert not torch.equal(weight.detach(), first)


@pytest.mark.parametrize("moves", [2, 3, 5])
def test_connections_move_as_often_in_each_task_as_asked_for(moves: int, monkeypatch: pytest.MonkeyPatch):
    """A task of 60 steps: with five moves they are 10 steps apart, and the sixth would fall on its end."""
    made: list[float] = []
    monkeypatch.setattr(Masks, "move", lambda _, share: made.append(share))
    Rehearsal(StripeStream()).run(train_dynamic_sparse, defaults("dynamic_sparse", moves=moves, step_hint_factor=0.99))
    assert len(made) == 2 * moves
    assert max(made) < 0.9


def test_biases_and_norms_are_trained_in_the_first_task_alone():
    for name, train in (("cuber", train_cuber), ("dynamic_sparse", train_dynamic_sparse)):
        rehearsal = Rehearsal(StripeStream())
        rehearsal.run(train, defaults(name))
        _, end, _, last = rehearsal.weights
        moving = {key for key in last if not torch.equal(end[key], last[key])}
        assert moving == {"0.weight", "4.weight", "6.weight", "6.bias"}, name


# --- replay_adamw ---


def test_a_few_examples_of_each_stage_are_kept_and_join_each_batch_afterwards():
    trial = Rehearsal(StripeStream()).trial
    memory = Memory(trial, 5)
    batch = trial.train_set.gather(torch.arange(4))
    assert memory.joined(batch) is batch
    memory.keep()
    memory.keep()
    kept = memory.state_dict()["inputs"]
    assert len(kept) == 10
    there = {row.numpy().tobytes() for row in trial.train_set.tensors()["inputs"]}
    assert {row.numpy().tobytes() for row in kept} <= there
    assert len({row.numpy().tobytes() for row in kept[:5]}) == 5
    found = memory.joined(batch)
    assert [len(values) for values in found.values()] == [8] * len(batch)
    assert all(torch.equal(found[name][:4], batch[name]) for name in batch)
    assert {row.numpy().tobytes() for row in found["inputs"][4:]} <= {row.numpy().tobytes() for row in kept}


def test_each_rank_replays_examples_of_its_own():
    trial = Rehearsal(StripeStream()).trial
    memory = Memory(trial, 50)
    memory.keep()
    batch = trial.train_set.gather(torch.arange(16))
    start = trial.generator.get_state()
    found = []
    for rank in range(2):
        trial.world_size, trial.rank = 2, rank
        trial.generator.set_state(start)
        found.append(memory.joined(batch)["inputs"][16:])
    assert not torch.equal(*found)
