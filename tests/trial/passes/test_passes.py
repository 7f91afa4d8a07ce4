"""Forward passes that agree, what goes into layers, labels beside outputs, batches of one's own choosing."""

from __future__ import annotations

import contextlib
import copy

import pytest
import torch
from torch import Tensor, nn

from harness.api import Batch, ConfigError, LossKind
from harness.trial.conversation import TrialOver
from harness.trial.passes.captured import captured, input_layers
from harness.trial.passes.labels import label_codes
from harness.trial.passes.pinned import pinned
from harness.trial.trial import Trial
from tests.blobs import Blobs
from tests.trial.passes.trials import trial_on_blobs
from tests.trial.test_trial import make_trial

MODELS = {
    "plain": {},
    "dropout": {"dropout": 0.5},
    "batch norm": {"batch_norm": True},
    "both": {"dropout": 0.5, "batch_norm": True},
}
with_each_model = pytest.mark.parametrize("options", MODELS.values(), ids=MODELS)


class Noisy(Blobs):
    """Trains on inputs with noise that `outputs` draws before it calls the model."""

    def outputs(self, model: nn.Module, batch: Batch) -> Tensor:
        inputs = batch["inputs"]
        outputs: Tensor = model(inputs + torch.randn_like(inputs) if model.training else inputs)
        return outputs


def statistics_of(trial: Trial) -> list[Tensor]:
    return [buffer.clone() for buffer in trial.model.buffers()]


def are_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


# --- pinned ---


@with_each_model
def test_pinned_passes_agree_bit_for_bit_and_others_do_not_where_there_is_dropout(options):
    trial, _ = make_trial(**options)
    batch = trial.next_batch()
    with trial.pinned():
        first, second = trial.outputs(batch), trial.outputs(batch)
        loss = trial.loss(batch).item()
    assert torch.equal(first, second)
    assert loss == trial.loss(batch, outputs=first).item()
    assert torch.equal(first, trial.outputs(batch)) == ("dropout" not in options)


@with_each_model
def test_pinned_outputs_are_a_function_of_the_weights(options):
    trial, _ = make_trial(**options)
    batch, layer = trial.next_batch(), trial.model[-1]
    with trial.pinned(), torch.no_grad():
        first = trial.outputs(batch)
        layer.bias.add_(1.0)
        torch.testing.assert_close(trial.outputs(batch), first + 1.0)
        layer.bias.sub_(1.0)
        torch.testing.assert_close(trial.outputs(batch), first)


@with_each_model
def test_pinned_passes_leave_what_one_pass_leaves(options):
    """Running statistics, and the stream that dropout draws from."""
    once, often = make_trial(**options)[0], make_trial(**options)[0]
    batch = once.next_batch()
    torch.manual_seed(5)
    once.outputs(batch)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    with often.pinned():
        for _ in range(4):
            often.outputs(batch)
    assert torch.equal(torch.rand(3), drawn)
    assert are_equal(statistics_of(once), statistics_of(often))
    for trial in (once, often):
        torch.manual_seed(6)
        trial.outputs(batch)
    assert are_equal(statistics_of(once), statistics_of(often))


def test_noise_that_a_workload_draws_before_it_calls_the_model_is_pinned_too():
    once, often = (trial_on_blobs({"dropout": 0.5}, Noisy) for _ in range(2))
    batch = once.next_batch()
    torch.manual_seed(5)
    expected = once.outputs(batch)
    drawn = torch.rand(3)
    torch.manual_seed(5)
    with often.pinned():
        for _ in range(3):
            assert torch.equal(often.outputs(batch), expected)
        assert often.loss(batch).item() == once.loss(batch, outputs=expected).item()
    assert torch.equal(torch.rand(3), drawn)
    assert not torch.equal(often.outputs(batch), expected)


class Following(Blobs):
    """Its network counts its passes in train mode, and adds the count to its outputs."""

    def build_model(self) -> nn.Module:
        return Counted(super().build_model())


class Counted(nn.Module):
    moving_buffers = ("passes",)

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, inputs: Tensor) -> Tensor:
        if self.training:
            self.get_buffer("passes").add_(1.0)
        outputs: Tensor = self.network(inputs) + self.get_buffer("passes")
        return outputs


def test_buffers_that_a_network_says_to_move_begin_each_pinned_pass_alike_and_move_once():
    trial = trial_on_blobs(kind=Following)
    batch = trial.next_batch()
    trial.outputs(batch)
    with trial.pinned():
        first, second, third = (trial.outputs(batch) for _ in range(3))
    assert torch.equal(first, second)
    assert torch.equal(first, third)
    assert trial.model.passes.item() == 2
    assert not torch.equal(trial.outputs(batch), first)
    assert trial.model.passes.item() == 3


def test_a_block_inside_another_is_part_of_it():
    trial = trial_on_blobs({"dropout": 0.5}, Noisy)
    batch = trial.next_batch()
    with trial.pinned():
        with trial.pinned():
            first = trial.outputs(batch)
        assert torch.equal(trial.outputs(batch), first)
    assert not torch.equal(trial.outputs(batch), first)


def test_each_block_pins_anew():
    trial, _ = make_trial(dropout=0.5)
    batch = trial.next_batch()
    with trial.pinned():
        first = trial.outputs(batch)
    with trial.pinned():
        assert not torch.equal(trial.outputs(batch), first)


def test_what_is_drawn_between_pinned_passes_goes_on():
    trial, _ = make_trial(dropout=0.5)
    batch = trial.next_batch()
    with trial.pinned():
        trial.outputs(batch)
        torch.manual_seed(5)
        expected = [torch.rand(2), torch.rand(2)]
        torch.manual_seed(5)
        found = [torch.rand(2)]
        trial.outputs(batch)
        found.append(torch.rand(2))
    assert are_equal(expected, found)


def test_a_pass_that_fails_leaves_nothing_pinned():
    trial, _ = make_trial(batch_norm=True, dropout=0.5)
    batch = trial.next_batch()
    with contextlib.suppress(RuntimeError), trial.pinned():
        trial.outputs(batch)
        torch.manual_seed(5)
        trial.model(torch.ones(2, 3))
    expected = torch.rand(2)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(2), expected)
    assert trial.model[1].track_running_stats
    before = statistics_of(trial)
    trial.outputs(batch)
    assert not are_equal(before, statistics_of(trial))


def test_a_model_in_eval_mode_is_pinned_by_itself():
    trial, _ = make_trial(batch_norm=True, dropout=0.5)
    batch = trial.next_batch()
    trial.model.eval()
    before = statistics_of(trial)
    plain = trial.outputs(batch)
    with trial.pinned():
        assert torch.equal(trial.outputs(batch), plain)
        assert torch.equal(trial.outputs(batch), plain)
    assert are_equal(before, statistics_of(trial))


def test_a_copy_of_the_model_is_not_pinned():
    model = nn.Dropout(0.5)
    with pinned(model, torch.device("cpu")):
        inputs = torch.ones(64)
        model(inputs)
        other = copy.deepcopy(model)
        assert not torch.equal(other(inputs), other(inputs))


# --- captured ---


class Branches(nn.Module):
    """One layer twice on the data, one on what comes out of it, one on an embedding, one never."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 2)
        self.table = nn.Embedding(5, 3)
        self.on_table = nn.Linear(3, 2)
        self.unused = nn.Linear(3, 3)
        self.seen_dropout = nn.Dropout(0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.first(inputs) + self.first(input=2 * inputs)
        return self.second(self.seen_dropout(hidden)) + self.on_table(self.table(torch.zeros(1, dtype=torch.int64)))


def test_inputs_of_layers_are_kept_call_by_call_in_the_order_of_calls():
    model, inputs = Branches(), torch.randn(4, 3)
    with captured(model) as seen:
        model(inputs)
    assert list(seen) == ["first", "second", "on_table"]
    assert are_equal(seen["first"], [inputs, 2 * inputs])
    model(inputs)
    assert len(seen["first"]) == 2


class Squared(nn.Module):
    """A matrix that is made of a parameter, whatever the data."""

    def __init__(self) -> None:
        super().__init__()
        self.root = nn.Parameter(torch.eye(3))

    def forward(self) -> Tensor:
        return self.root @ self.root


class OnSquared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.squared = Squared()

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs @ self.squared()


def test_a_layer_that_is_called_without_arguments_is_among_those_that_were_called():
    model, inputs = OnSquared(), torch.randn(4, 3)
    with captured(model, ["", "squared"]) as seen:
        model(inputs)
    assert list(seen) == ["", "squared"]
    assert are_equal(seen[""], [inputs])
    assert seen["squared"] == []


def test_chosen_layers_alone_are_captured_and_a_wrong_name_is_said():
    model = Branches()
    with captured(model, ["second"]) as seen:
        model(torch.randn(4, 3))
    assert list(seen) == ["second"]
    with pytest.raises(ConfigError, match=r"no layer 'secnd'\. Did you mean 'second'"), captured(model, ["secnd"]):
        pass


def test_layers_read_the_data_where_nothing_trainable_stands_before_them():
    model = Branches()
    model.second.eval()
    stream = torch.get_rng_state()
    assert input_layers(model, lambda: model(torch.randn(2, 3, generator=torch.Generator()))) == ["first"]
    assert torch.equal(torch.get_rng_state(), stream)
    assert model.training
    assert not model.second.training


@pytest.mark.parametrize(("options", "found"), [({"hidden": 4}, ["1"]), ({"batch_norm": True}, [])], ids=str)
def test_a_trial_knows_which_layers_read_its_data_and_what_they_get(options, found):
    trial, _ = make_trial(dropout=0.5, **options)
    before = statistics_of(trial)
    assert trial.input_layers() == found
    assert are_equal(before, statistics_of(trial))
    batch = trial.next_batch()
    trial.model.eval()
    with trial.captured(found) as seen:
        trial.loss(batch)
    assert are_equal(seen.get("1", []), [batch["inputs"]] if found else [])


def test_the_shapes_of_an_example_are_found_without_a_trace():
    trial, _ = make_trial(dropout=0.5, batch_norm=True)
    before, stream = statistics_of(trial), torch.get_rng_state()
    assert trial.example_shapes() == ((8,), (2,))
    assert are_equal(before, statistics_of(trial))
    assert torch.equal(torch.get_rng_state(), stream)
    assert all(module.training for module in trial.model.modules())


# --- labels ---


def test_labels_are_codes_in_the_shape_of_the_outputs():
    trial, _ = make_trial()
    batch = trial.next_batch()
    codes = trial.label_codes(batch, outputs=trial.outputs(batch))
    assert codes is not None
    assert codes.shape == (32, 2)
    assert torch.equal(codes.argmax(dim=1), batch["targets"])
    assert torch.equal(codes.sum(dim=1), torch.ones(32))


def test_tokens_have_codes_each_yes_and_no_stay_and_numbers_are_no_labels():
    tokens, answers = torch.tensor([[0, 2], [1, 1]]), torch.tensor([[1, 0], [0, 1]])
    codes = label_codes(LossKind.SOFTMAX_CROSS_ENTROPY, tokens, torch.zeros(2, 2, 3))
    assert codes is not None
    assert codes.tolist() == [[[1, 0, 0], [0, 0, 1]], [[0, 1, 0], [0, 1, 0]]]
    codes = label_codes(LossKind.SIGMOID_CROSS_ENTROPY, answers, torch.zeros(2, 2))
    assert codes is not None
    assert (codes.dtype, codes.tolist()) == (torch.float32, answers.tolist())
    for kind in (LossKind.MEAN_SQUARED_ERROR, LossKind.MEAN_ABSOLUTE_ERROR, LossKind.CTC, LossKind.OTHER):
        assert label_codes(kind, answers, torch.zeros(2, 2)) is None


# --- batches of one's own choosing ---


def test_examples_taken_by_index_are_those_and_count_as_examples():
    trial, told = make_trial([None], every=1)
    index = torch.tensor([5, 5, 300])
    batch = trial.take(index)
    assert torch.equal(batch["inputs"], trial.train_set.gather(index)["inputs"])
    trial.next_batch(7)
    with pytest.raises(TrialOver):
        trial.end_step()
    assert told[0].examples == 10


def test_taking_examples_changes_no_shuffled_batch():
    first, second = make_trial()[0], make_trial()[0]
    first.take(torch.arange(10))
    assert torch.equal(first.next_batch()["inputs"], second.next_batch()["inputs"])


def test_a_workload_without_domains_has_none():
    assert make_trial()[0].domains is None
