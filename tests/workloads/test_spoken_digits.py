"""Spoken digits: features, CTC and its metric against other ways to compute them, padding, and AlgoPerf's models."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import SPLITS, DataError, SplitName, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.data import data_folder, load_verified
from harness.plugins.entries import create_workload
from tests.workloads import librispeech
from tests.workloads.algoperf_weights import set_parity_weights
from workloads.data.speech_features import Frontend
from workloads.data.spoken_digits_data import FRAMES, RECORD, SpokenDigitsFile, Utterances, quantised, spoken
from workloads.losses.ctc import ctc_losses, greedy_errors
from workloads.losses.edit_distance import edit_distances
from workloads.networks.speech.conformer import Conformer, ConformerSizes
from workloads.networks.speech.deepspeech import DeepSpeech, DeepSpeechSizes
from workloads.networks.speech.speech_layers import MaskedBatchNorm, OffsetLayerNorm, SpecAugment, mask_of, subsampled
from workloads.spoken_digits import SpokenDigits

# AlgoPerf's sizes, without dropout and masks.
ALGOPERF: dict[str, Any] = {
    "bins": 80, "vocabulary": 1024, "channels": 512, "width": 512, "dropout": 0.0, "norm_momentum": 0.001,
    "time_masks": 0, "time_mask_share": 0.05, "frequency_masks": 0, "frequency_mask_bins": 27,
}  # fmt: skip
NAMES = ["spoken_digits_conformer", "spoken_digits_deepspeech"]
each_model = pytest.mark.parametrize("name", NAMES)


def workload_of(name: str, **changed: Any) -> SpokenDigits:
    settings = load("workload", name, WorkloadConfig)
    made = create_workload(settings.entry, {**settings.options, **changed})
    assert isinstance(made, SpokenDigits)
    return made


def without_noise(name: str) -> SpokenDigits:
    return workload_of(name, dropout=0.0, time_masks=0, frequency_masks=0)


def model_of(workload: SpokenDigits) -> nn.Module:
    torch.manual_seed(0)
    return workload.build_model()


def split_of(split: SplitName) -> Utterances:
    if not SpokenDigitsFile().is_present(data_folder()):
        pytest.skip("the spoken digits are not here: make data WORKLOAD=spoken_digits_conformer")
    return SpokenDigitsFile().read(split, data_folder())


def noise(frames: list[int], *, seed: int = 0) -> dict[str, Tensor]:
    """Utterances of noise, each with the digits three, three, seven."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(frames)
    inputs = torch.randn(len(frames), FRAMES, 40, generator=generator)
    inputs *= mask_of(lengths, FRAMES)[:, :, None]
    return {"inputs": inputs, "frames": lengths, "targets": torch.tensor([4, 4, 8, 0, 0]).repeat(len(frames), 1)}


# --- AlgoPerf's models ---


def conformer(**changed: Any) -> Conformer:
    sizes = {**ALGOPERF, "blocks": 4, "heads": 8, "hidden": 2048, "kernel": 5, **changed}
    return Conformer(ConformerSizes(**sizes))


def deepspeech(**changed: Any) -> DeepSpeech:
    sizes = {**ALGOPERF, "recurrent_layers": 6, "feed_forward_layers": 3, **changed}
    return DeepSpeech(DeepSpeechSizes(**sizes))


@pytest.mark.parametrize(
    ("model", "changed", "parameters", "tensors"),
    [
        (conformer, {}, 32_321_792, 138),
        (conformer, {"attention_temperature": 1.6}, 32_321_792, 138),
        (conformer, {"block_norm": False}, 32_317_696, 130),
        (conformer, {"activation": "gelu"}, 32_321_792, 138),
        (deepspeech, {}, 18_393_600, 82),
        (deepspeech, {"activation": "tanh"}, 18_393_600, 82),
        (deepspeech, {"residual": False}, 18_393_600, 82),
        (deepspeech, {"norm": "layer", "final_norm": False}, 18_392_576, 80),
    ],
)
def test_algoperfs_models_and_variants_are_these_classes_at_other_sizes(
    model: Any, changed: dict[str, Any], parameters: int, tensors: int
):
    with torch.device("meta"):
        sizes = [parameter.numel() for parameter in model(**changed).parameters()]
    assert (sum(sizes), len(sizes)) == (parameters, tensors)


# Mean, deviation, first four and last output in each mode, and the CTC losses in eval mode, of AlgoPerf's own models.
REFERENCES = [
    (
        conformer, {},
        [-0.044051, 0.938271, -1.74461, -0.31149, 1.35353, -0.63923, -0.77189],
        [-0.043186, 0.964799, -1.53572, -0.44424, 1.02864, 0.59442, -1.10522],
        [526.6548, 450.4683],
    ),
    (
        conformer, {"attention_temperature": 1.6},
        [-0.021445, 0.940482, -2.02977, -0.70939, 0.91051, 0.00277, -0.81834],
        [-0.024947, 0.94934, -1.01778, -0.83856, -0.38229, 1.32701, -1.23844],
        [482.7912, 402.7737],
    ),
    (
        conformer, {"block_norm": False},
        [-0.041391, 0.978227, -0.57675, -2.04218, -0.87878, -0.53029, -0.89448],
        [-0.01304, 0.995725, 0.06506, -1.45938, 0.01045, 0.51785, -1.21427],
        [623.4933, 441.2136],
    ),
    (
        conformer, {"activation": "gelu"},
        [-0.047783, 0.939971, -1.97265, -0.26928, 1.37261, -0.66303, -0.74031],
        [-0.04722, 0.97037, -1.86784, -0.43232, 1.27453, 0.71943, -1.0934],
        [539.9504, 449.1535],
    ),
    (
        deepspeech, {},
        [0.019544, 0.997284, 1.02204, -0.83684, -1.19011, -0.01012, -1.96005],
        [0.013544, 1.020153, 0.68202, 1.44959, 0.46749, -0.02995, -1.96005],
        [653.9989, 457.5825],
    ),
    (
        deepspeech, {"activation": "tanh"},
        [0.010869, 1.012446, 1.3381, -0.90202, 0.3707, -1.05844, -1.96005],
        [0.014112, 1.01745, 0.98833, 0.3183, -0.79239, 1.02594, -1.96005],
        [608.3785, 381.8073],
    ),
    (
        deepspeech, {"residual": False},
        [-0.004762, 0.936618, -1.8554, 0.12213, -0.08784, 1.39225, -0.04855],
        [0.003723, 0.953692, -0.07046, 1.00421, -1.98684, 0.08544, -0.04855],
        [588.0776, 459.3003],
    ),
    (
        deepspeech, {"norm": "layer", "final_norm": False},
        [0.00422, 1.763206, -0.75718, 1.5214, 0.338, 0.36801, -0.18732],
        [0.00422, 1.763206, -0.75718, 1.5214, 0.338, 0.36801, -0.18732],
        [299.9145, 536.5753],
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "changed", "evaluated", "trained", "losses"),
    # Three seconds each: the base models on every run, their variants with the slow tests.
    [pytest.param(*each, marks=[pytest.mark.slow] if each[1] else []) for each in REFERENCES],
)
def test_outputs_are_algoperfs_under_algoperfs_weights(
    model: Any, changed: dict[str, Any], evaluated: list[float], trained: list[float], losses: list[float]
):
    ours = model(**changed)
    set_parity_weights(ours)
    features, frames = librispeech.features()
    for mode, expected in ((False, evaluated), (True, trained)):
        ours.train(mode)
        with torch.no_grad():
            outputs = ours(features, frames)
        flat = outputs.flatten()
        found = torch.cat([flat.mean()[None], flat.std(correction=0)[None], flat[:4], flat[-1:]])
        assert found.tolist() == pytest.approx(expected, abs=1e-4)
        if not mode:
            found = ctc_losses(outputs, subsampled(frames), librispeech.targets())
            assert found.tolist() == pytest.approx(losses, abs=1e-2)


# --- padding ---


@each_model
def test_what_stands_at_padding_changes_no_loss_no_metric_and_no_gradient(name: str):
    workload = without_noise(name)
    batch = noise([160, 97, 62])
    dirty = {**batch, "inputs": batch["inputs"].clone()}
    dirty["inputs"][~mask_of(batch["frames"], FRAMES)] = 1e3
    clean, other = (step_of(workload, each) for each in (batch, dirty))
    assert clean.keys() == other.keys()
    assert all(torch.equal(clean[key], other[key]) for key in clean)


@each_model
def test_more_padding_changes_no_loss_no_metric_and_no_gradient(name: str):
    workload = without_noise(name)
    batch = noise([80, 97, 62])
    shorter = {**batch, "inputs": batch["inputs"][:, :100]}
    long, short = (step_of(workload, each) for each in (batch, shorter))
    assert long.keys() == short.keys()
    for key in long:
        torch.testing.assert_close(long[key], short[key], rtol=1e-4, atol=1e-5)


def step_of(workload: SpokenDigits, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Losses and statistics in both modes, gradients, and buffers after a step, of a new model."""
    model = model_of(workload).train()
    outputs = workload.outputs(model, batch)
    losses, weights = workload.losses(outputs, batch, 0.0)
    mean_loss(losses, weights).backward()
    found = {f"gradient of {key}": each.grad for key, each in model.named_parameters()}
    found |= {key: each.double() for key, each in model.named_buffers()}
    found |= {"losses": losses, "weights": weights, **workload.statistics(outputs, batch)}
    with torch.no_grad():
        found["evaluated"] = workload.losses(workload.outputs(model.eval(), batch), batch, 0.0)[0]
    return found


@each_model
def test_an_utterance_has_the_same_loss_alone_and_among_others(name: str):
    workload = without_noise(name)
    model = model_of(workload).eval()
    batch = noise([160, 97, 62])
    together = workload.losses(workload.outputs(model, batch), batch, 0.0)[0]
    for number in range(3):
        one = {key: values[number : number + 1] for key, values in batch.items()}
        alone = workload.losses(workload.outputs(model, one), one, 0.0)[0]
        torch.testing.assert_close(alone[0], together[number])


# --- norms and augmentation ---


def test_masked_batch_norm_is_torchs_over_the_frames_that_are_no_padding():
    torch.manual_seed(0)
    inputs, mask = 3 + 2 * torch.randn(4, 9, 6), mask_of(torch.tensor([9, 5, 1, 7]), 9)
    ours, theirs = MaskedBatchNorm(6, momentum=0.1), nn.BatchNorm1d(6, eps=1e-3, momentum=0.1)
    ours.weight.data.fill_(0.5)
    theirs.weight.data.fill_(1.5)
    for _ in range(3):
        normed, expected = ours(inputs, mask[:, :, None].float()), theirs(inputs[mask])
    torch.testing.assert_close(normed[mask], expected)
    assert not normed[~mask].any()
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    # torch's running variance has Bessel's correction.
    correction = (mask.sum() - 1) / mask.sum()
    torch.testing.assert_close(ours.running_var - 0.9**3, (theirs.running_var - 0.9**3) * correction)
    torch.testing.assert_close(
        ours.eval()(inputs, mask[:, :, None].float())[mask],
        1.5 * (inputs[mask] - ours.running_mean) / (ours.running_var + 1e-3).sqrt(),
    )


def test_masked_batch_norm_without_momentum_keeps_the_plain_mean_of_its_batches():
    # How trial.refresh_batch_norm recomputes statistics.
    norm, everything = MaskedBatchNorm(2, momentum=0.1), torch.ones(1, 3, 1)
    norm.reset_running_stats()
    norm.momentum = None
    for value in (1.0, 2.0, 6.0):
        norm(torch.full((1, 3, 2), value), everything)
    assert norm.running_mean.tolist() == pytest.approx([3.0, 3.0])


def test_the_layer_norm_is_torchs_with_the_scale_as_an_offset_from_one():
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(OffsetLayerNorm(8)(inputs), nn.LayerNorm(8, eps=1e-6)(inputs))


def augmented(*, length: int, frames: list[int], seed: int = 0, **sizes: Any) -> Tensor:
    """What is left of ones. Shape: [batch, length, 20]."""
    options = {"time_masks": 0, "time_mask_share": 0.05, "frequency_masks": 0, "frequency_mask_bins": 8, **sizes}
    torch.manual_seed(seed)
    return SpecAugment(**options).train()(torch.ones(len(frames), length, 20), torch.tensor(frames))


def test_spec_augment_changes_nothing_in_evaluation():
    features = torch.ones(2, 50, 20)
    augment = SpecAugment(time_masks=9, time_mask_share=0.5, frequency_masks=9, frequency_mask_bins=9).eval()
    assert torch.equal(augment(features, torch.tensor([50, 40])), features)


def test_spec_augment_draws_from_torchs_generator():
    first, again, other = (augmented(length=90, frames=[90] * 5, time_masks=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_time_mask_is_one_stretch_of_all_bins_within_the_utterance():
    left = augmented(length=300, frames=[200] * 500, time_masks=1, time_mask_share=0.1)
    assert torch.equal(left, left[:, :, :1].expand_as(left))
    is_masked = left[:, :, 0] == 0
    assert not is_masked[:, 200:].any()
    begins = (is_masked & ~nn.functional.pad(is_masked, (1, 0))[:, :-1]).sum(dim=1)
    assert int(begins.max()) == 1
    sizes = is_masked.sum(dim=1)
    # floor(u * 20) is uniform on 0 to 19.
    assert int(sizes.max()) == 19
    assert sizes.double().mean().item() == pytest.approx(9.5, abs=1.0)


def test_one_frequency_mask_is_one_band_of_all_frames():
    left = augmented(length=30, frames=[30] * 500, frequency_masks=1)
    assert torch.equal(left, left[:, :1].expand_as(left))
    sizes = (left[:, 0] == 0).sum(dim=1)
    assert int(sizes.max()) == 7
    assert sizes.double().mean().item() == pytest.approx(3.5, abs=0.4)


def test_utterances_of_a_batch_get_masks_of_their_own():
    left = augmented(length=90, frames=[90] * 8, time_masks=2, frequency_masks=1)
    assert len({each.numpy().tobytes() for each in left}) == 8


# --- CTC ---


def collapsed(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol)


@pytest.mark.parametrize("target", [(1,), (1, 2), (2, 2), (1, 1, 2), (2, 1, 2)])
def test_the_loss_is_the_sum_over_all_paths_that_collapse_to_the_target(target: tuple[int, ...]):
    scores = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    probabilities = scores.softmax(dim=1)
    total = sum(
        math.prod(probabilities[place, symbol].item() for place, symbol in enumerate(path))
        for path in itertools.product(range(3), repeat=5)
        if collapsed(path) == target
    )
    padded = torch.tensor([[*target, 0, 0, 0]])
    # Frames past the length must not count, whatever they hold.
    longer = torch.cat([scores, 9 * torch.ones(2, 3)])[None]
    assert ctc_losses(longer, torch.tensor([5]), padded).item() == pytest.approx(-math.log(total))


def guessing_loss(frames: int, target: list[int], vocabulary: int) -> float:
    """The loss of uniform outputs: every path has the same probability, so the paths need only be counted.

    `symbols` may be laid over `frames` in C(frames + symbols - repeats, 2 symbols) ways: a symbol and the blanks around
    it each take at least one or no frame, and equal neighbours need a blank between them.
    """
    repeats = sum(first == second for first, second in itertools.pairwise(target))
    ways = math.comb(frames + len(target) - repeats, 2 * len(target))
    return frames * math.log(vocabulary) - math.log(ways)


@pytest.mark.parametrize("target", [[1], [1, 2], [2, 2], [1, 1, 2], [1, 2, 1], [2, 2, 2]])
def test_the_number_of_paths_is_as_the_formula_says(target: list[int]):
    found = sum(collapsed(path) == tuple(target) for path in itertools.product(range(3), repeat=6))
    assert guessing_loss(6, target, 3) == pytest.approx(6 * math.log(3) - math.log(found))


@each_model
def test_a_model_that_gives_every_symbol_the_same_score_has_the_loss_of_a_guess(name: str):
    workload = workload_of(name)
    model = model_of(workload)
    nn.init.zeros_(model.output.weight)
    batch = split_of("train").gather(torch.arange(200))
    found = mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0)).item()
    targets = [[digit for digit in row if digit] for row in batch["targets"].tolist()]
    guesses = [
        guessing_loss(math.ceil(frames / 4), target, 11)
        for frames, target in zip(batch["frames"].tolist(), targets, strict=True)
    ]
    assert found == pytest.approx(sum(guesses) / sum(map(len, targets)), rel=1e-5)


@each_model
def test_the_loss_at_the_start_is_near_that_of_a_guess(name: str):
    # Scores at the start have a deviation of about 1, which costs a frame half a nat in the mean.
    workload = workload_of(name)
    model = model_of(workload)
    batch = split_of("train").gather(torch.arange(200))
    start = mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0)).item()
    nn.init.zeros_(model.output.weight)
    guess = mean_loss(*workload.losses(workload.outputs(model, batch), batch, 0.0)).item()
    assert 0.7 * guess < start < 2 * guess


def test_the_gradient_of_the_loss_is_the_slope_and_repeats_bit_for_bit():
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(3, 7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    lengths, targets = torch.tensor([7, 5, 6]), torch.tensor([[1, 2, 3], [3, 3, 0], [2, 0, 0]])
    assert torch.autograd.gradcheck(lambda each: ctc_losses(each, lengths, targets), scores)
    first, again = (torch.autograd.grad(ctc_losses(scores, lengths, targets).sum(), scores)[0] for _ in range(2))
    assert torch.equal(first, again)


def test_a_target_that_does_not_fit_into_its_frames_is_impossible():
    assert ctc_losses(torch.zeros(1, 3, 4), torch.tensor([2]), torch.tensor([[2, 2]])).item() == math.inf


# --- digit error rate ---


def plain_distance(read: list[int], target: list[int]) -> int:
    row = list(range(len(target) + 1))
    for count, symbol in enumerate(read, 1):
        last, row[0] = row[0], count
        for place, other in enumerate(target, 1):
            last, row[place] = row[place], min(row[place] + 1, row[place - 1] + 1, last + (symbol != other))
    return row[-1]


def test_edit_distances_are_those_of_the_textbook():
    stream = numpy.random.RandomState(0)
    targets = stream.randint(1, 5, (300, 6)) * (numpy.arange(6) < stream.randint(0, 7, (300, 1)))
    symbols, is_read = stream.randint(1, 5, (300, 9)), stream.rand(300, 9) < 0.6
    found = edit_distances(*(torch.from_numpy(each) for each in (symbols, is_read, targets)))
    expected = [
        plain_distance(row[chosen].tolist(), [digit for digit in target.tolist() if digit])
        for row, chosen, target in zip(symbols, is_read, targets, strict=True)
    ]
    assert found.tolist() == expected


def test_greedy_decoding_collapses_repeats_drops_blanks_and_stops_at_the_end():
    path = torch.tensor([[1, 1, 0, 1, 2, 2, 0, 3, 3, 3], [0, 2, 2, 2, 0, 0, 4, 4, 4, 4]])
    scores = nn.functional.one_hot(path, 5).float()
    mask = mask_of(torch.tensor([7, 6]), 10)
    read = torch.tensor([[1, 1, 2, 0], [2, 0, 0, 0]])
    assert greedy_errors(scores, mask, read).tolist() == [0, 0]
    assert greedy_errors(scores, mask, torch.tensor([[1, 2, 0, 0], [3, 4, 4, 4]])).tolist() == [1, 4]


@each_model
def test_the_metric_is_edits_per_digit_of_the_whole_split(name: str):
    workload = workload_of(name)
    assert workload.metrics({"edits": torch.tensor([1, 0]), "digits": torch.tensor([2, 3])}) == {
        "digit_error_rate": 0.2
    }


# --- features and data ---


@pytest.mark.parametrize("hertz", [300.0, 1000.0, 3000.0])
def test_a_tone_has_its_energy_in_the_bin_whose_triangle_holds_it(hertz: float):
    frontend = Frontend(
        sample_rate=8000, window=200, hop=80, transform=256, bins=40, lowest_hertz=60.0, highest_hertz=3800.0
    )
    tone = torch.sin(2 * math.pi * hertz * torch.arange(8000, dtype=torch.float64) / 8000)
    loudest = frontend.log_mel(tone).mean(dim=0).argmax().item()
    spacing = (1127 * math.log1p(3800 / 700) - 1127 * math.log1p(60 / 700)) / 41
    expected = (1127 * math.log1p(hertz / 700) - 1127 * math.log1p(60 / 700)) / spacing - 1
    assert loudest == pytest.approx(expected, abs=1.0)


def test_features_as_bytes_are_32_to_a_deviation_around_128():
    assert quantised(numpy.array([0.0, 1.0, -1.0, 0.51 / 32, 9.0, -9.0])).tolist() == [128, 160, 96, 129, 255, 0]


def test_the_training_features_are_normalised_and_padding_is_zero():
    batch = split_of("train").gather(torch.arange(1000))
    mask = mask_of(batch["frames"], FRAMES)
    assert not batch["inputs"][~mask].any()
    assert batch["inputs"][mask].mean(dim=0).abs().max().item() < 0.1
    assert batch["inputs"][mask].std(dim=0).sub(1).abs().max().item() < 0.1


@pytest.mark.parametrize("split", SPLITS)
def test_every_utterance_has_digits_and_frames_enough_for_them(split: SplitName):
    tensors = split_of(split).tensors()
    targets, frames = tensors["targets"], tensors["frames"]
    digits = (targets > 0).sum(dim=1)
    assert digits.unique().tolist() == [2, 3, 4, 5]
    assert targets[targets > 0].unique().tolist() == list(range(1, 11))
    assert int(frames.max()) <= FRAMES
    repeats = ((targets[:, 1:] == targets[:, :-1]) & (targets[:, 1:] > 0)).sum(dim=1)
    assert bool((subsampled(frames) >= digits + repeats).all())


def test_a_missing_or_truncated_file_gives_an_error_that_names_make_data(tmp_path: Path):
    [file] = SpokenDigitsFile().files
    with pytest.raises(DataError, match="make data"):
        SpokenDigitsFile().read("train", tmp_path)
    (tmp_path / file.path).parent.mkdir(parents=True)
    (tmp_path / file.path).write_bytes(b"cut short")
    with pytest.raises(DataError, match="make data"):
        SpokenDigitsFile().read("train", tmp_path)


def test_altered_utterances_give_an_error_that_names_make_data(tmp_path: Path):
    [file] = SpokenDigitsFile().files
    if not SpokenDigitsFile().is_present(data_folder()):
        pytest.skip("the spoken digits are not here")
    content = bytearray((data_folder() / file.path).read_bytes())
    content[RECORD.itemsize - 1] ^= 1
    (tmp_path / file.path).parent.mkdir(parents=True)
    (tmp_path / file.path).write_bytes(content)
    settings = load("workload", NAMES[0], WorkloadConfig)
    with pytest.raises(DataError, match="make data"):
        load_verified(workload_of(NAMES[0]), "train", tmp_path, settings.data["train"])


def test_where_espeak_does_not_run_the_error_says_what_to_do(tmp_path: Path):
    (tmp_path / "libespeak-ng.so").write_bytes(b"no library")
    with pytest.raises(DataError, match="Linux on x86-64"):
        spoken([], tmp_path, seed=1)
