"""AlgoPerf's U-Net on knees: counts, shapes, outputs; its masks, volumes, standardised slices, similarity."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

from harness.api import SPLITS, DataError
from harness.config import values_of
from harness.race.evaluation import evaluate
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.parity import check_made_up_batch, check_outputs, made, noise, shapes_of
from tests.workloads.full.refereed import trial_and_evaluations
from workloads.full.data.images.knee_volumes import column_mask, masked_image, prepare_slices, slices, volumes
from workloads.losses.similarity import structural_similarity
from workloads.mri_unet import standardised

COUNTS = [
    ("fastmri", 7_756_097, 24),
    ("fastmri_tanh", 7_756_097, 24),
    ("fastmri_layernorm", 7_761_985, 60),
    ("fastmri_model_size", 7_692_929, 19),
]
# Columns outside the centre that AlgoPerf's evaluation keeps, by the reference generator.
BELOW = (
    10, 11, 19, 20, 25, 28, 30, 32, 38, 49, 53, 55, 63, 66, 69, 76, 82, 86, 91, 105, 113, 118, 122, 125, 135, 140,
)  # fmt: skip
ABOVE = (
    203, 208, 219, 226, 228, 232, 233, 237, 242, 245, 249, 250, 253, 266, 274, 283, 286, 294, 296, 301, 302, 305, 309,
    312,
)  # fmt: skip
FURTHER = (320, 321, 322, 326, 330, 333, 346, 351, 352, 358, 361, 363, 366)


# --- the model ---


def algoperfs_shapes(name: str) -> list[tuple[int, ...]]:
    """Written down from AlgoPerf's list of parameters."""
    widths = [64, 128, 256, 512] if name == "fastmri_model_size" else [32, 64, 128, 256, 512]

    def block(into: int, out: int) -> list[tuple[int, ...]]:
        norm = [(out,), (out,)] if name == "fastmri_layernorm" else []
        return [(out, into, 3, 3), *norm, (out, out, 3, 3), *norm]

    shapes = [shape for into, out in zip([1, *widths], widths, strict=False) for shape in block(into, out)]
    shapes += [shape for width in widths[-2::-1] for shape in block(2 * width, width)]
    shapes += [(1, widths[0], 1, 1), (1,)]
    return shapes + [(2 * width, width, 2, 2) for width in widths[-2::-1]]


@pytest.mark.parametrize(("name", "parameters", "tensors"), COUNTS)
def test_it_has_algoperfs_parameters_in_number_shape_and_order(name: str, parameters: int, tensors: int):
    shapes = shapes_of(name)
    assert shapes == algoperfs_shapes(name)
    assert (len(shapes), sum(map(math.prod, shapes))) == (tensors, parameters)
    assert values_of("workload", name)["parameters"] == parameters


REFERENCES = [
    ("fastmri", -0.548376, 0.76018, [-0.56437, 0.10481, 0.06914, -0.90089], -0.36699),
    ("fastmri_tanh", -0.074871, 0.755111, [-0.62725, -0.0897, 0.86281, 0.01182], 0.10852),
    ("fastmri_layernorm", 0.58793, 0.462493, [0.44817, 0.39201, 0.58964, -0.06526], 0.61915),
    ("fastmri_model_size", 0.066562, 0.602079, [-0.4404, -0.74345, -0.30828, -0.05824], 0.28257),
]


@pytest.mark.parametrize(
    ("name", "mean", "deviation", "first", "last"),
    [pytest.param(*values, marks=[] if values[0] == "fastmri" else pytest.mark.slow) for values in REFERENCES],
)
def test_it_computes_what_algoperf_computes(name: str, mean: float, deviation: float, first: list[float], last: float):
    model = made(name).build_model().eval()
    set_parity_weights(model)
    check_outputs(model, noise(1, 320, 320), mean, deviation, first, last)


def test_norms_are_algoperfs():
    def norms(name: str) -> dict[str, list[Any]]:
        model = made(name, channels=4, pools=2).build_model()
        found: dict[str, list[Any]] = {"blocks": [], "enlarging": []}
        for path, module in model.named_modules():
            if isinstance(module, nn.InstanceNorm2d | nn.GroupNorm):
                found["enlarging" if path.startswith("enlarge") else "blocks"].append(module)
        return found

    plain, layer = norms("fastmri"), norms("fastmri_layernorm")
    assert [len(each) for each in (*plain.values(), *layer.values())] == [10, 2, 10, 2]
    for norm in [*plain["blocks"], *plain["enlarging"], *layer["enlarging"]]:
        assert isinstance(norm, nn.InstanceNorm2d)
        assert (norm.eps, norm.affine, norm.track_running_stats) == (1e-5, False, False)
    for norm in layer["blocks"]:
        assert isinstance(norm, nn.GroupNorm)
        assert (norm.num_groups, norm.eps, norm.affine) == (1, 1e-6, True)


def test_dropout_takes_channels_in_every_block_and_nowhere_else():
    torch.manual_seed(0)
    model = made("fastmri", channels=4, pools=2, dropout=0.25).build_model()
    found = [module for module in model.modules() if isinstance(module, nn.Dropout | nn.Dropout2d)]
    assert len(found) == 2 * 5
    assert {(type(module), module.p) for module in found} == {(nn.Dropout2d, 0.25)}
    images = noise(1, 32, 32)
    for module in found:
        module.p = 0.0
    plain = model(images)
    for module in found:
        module.p = 0.5
        assert not torch.allclose(model.train()(images), plain, atol=1e-4)
        torch.testing.assert_close(model.eval()(images), plain)
        module.p = 0.0


# --- masks and k-space ---


@pytest.mark.parametrize(
    ("width", "centre", "beside", "kept"),
    [
        (320, (148, 172), (179, 188, 190, 197, 202), 80),
        (328, (151, 176), (179, 188, 190, 197, 202), 85),
        (352, (162, 189), (153, 156, 190, 197, 202), 91),
        (356, (164, 191), (153, 156, 162, 197, 202), 92),
        (368, (170, 198), (153, 156, 162, 164, 202), 97),
        (372, (172, 200), (153, 156, 162, 164, 202), 97),
    ],
)
def test_held_out_slices_are_seen_through_algoperfs_columns(
    width: int, centre: tuple[int, int], beside: tuple[int, ...], kept: int
):
    expected = numpy.zeros(width, bool)
    expected[centre[0] : centre[1] + 1] = True
    expected[[*BELOW, *beside, *ABOVE, *(column for column in FURTHER if column < width)]] = True
    mask = column_mask(width, (0, 0))
    assert numpy.array_equal(mask, expected)
    assert mask.sum() == kept


def test_a_training_mask_keeps_the_centre_and_about_a_quarter():
    masks = numpy.stack([column_mask(368, (1, number)) for number in range(400)])
    assert masks[:, 170:199].all()
    assert masks.mean() == pytest.approx(0.25, abs=0.005)
    assert len(numpy.unique(masks, axis=0)) == 400


def test_the_image_is_made_of_what_was_measured():
    draw = numpy.random.default_rng(0)
    truth = (draw.normal(size=(24, 20)) + 1j * draw.normal(size=(24, 20))).astype(numpy.complex64)
    # The transform of an image whose middle is the origin, and its energy.
    kspace = numpy.fft.fftshift(numpy.fft.fft2(numpy.fft.ifftshift(truth))) / math.sqrt(24 * 20)
    whole = masked_image(kspace.astype(numpy.complex64), numpy.ones(20, bool), side=8)
    numpy.testing.assert_allclose(whole, numpy.abs(truth[8:16, 6:14]), rtol=1e-4, atol=1e-5)
    mask = column_mask(20, (1, 3))
    alone = numpy.fft.fftshift(numpy.fft.ifft2(numpy.fft.ifftshift(numpy.where(mask, kspace, 0)))) * math.sqrt(24 * 20)
    found = masked_image(kspace.astype(numpy.complex64), mask, side=8)
    numpy.testing.assert_allclose(found, numpy.abs(alone[8:16, 6:14]), rtol=1e-3, atol=1e-5)


# --- volumes ---


def write_volume(path: Path, count: int, width: int = 368, maximum: float | None = 2e-3, seed: int = 0) -> Path:
    """A volume as NYU publishes them, of noise."""
    h5py = pytest.importorskip("h5py")
    draw = numpy.random.default_rng([seed, count])
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as volume:
        kspace = draw.normal(size=(count, 640, width)) + 1j * draw.normal(size=(count, 640, width))
        volume["kspace"] = (1e-5 * kspace).astype(numpy.complex64)
        volume["reconstruction_esc"] = numpy.abs(1e-3 * draw.normal(size=(count, 320, 320))).astype(numpy.float32)
        volume["ismrmrd_header"] = "<ismrmrdHeader/>"
        volume.attrs["acquisition"] = "CORPD_FBK"
        if maximum is not None:
            volume.attrs["max"] = maximum
    return path


def test_slices_come_in_the_order_of_names_and_go_on_anywhere(tmp_path: Path):
    paths = [write_volume(tmp_path / f"file{number}.h5", count) for number, count in [(1, 2), (2, 1), (3, 2)]]
    whole = list(slices(paths, "train"))
    assert [(each["image"].shape, each["image"].dtype) for each in whole] == [((320, 320), numpy.float32)] * 5
    for start in (1, 2, 3, 5):
        later = list(slices(paths, "train", start=start))
        assert len(later) == 5 - start
        for one, other in zip(later, whole[start:], strict=True):
            assert all(numpy.array_equal(one[name], other[name]) for name in other)


def test_a_slice_is_what_its_file_holds_seen_through_its_mask(tmp_path: Path):
    h5py = pytest.importorskip("h5py")
    path = write_volume(tmp_path / "file1.h5", 2, width=372)
    with h5py.File(path) as volume:
        kspace, references = volume["kspace"][...], volume["reconstruction_esc"][...]
    for split, keys in [("train", [(1, 0), (1, 1)]), ("validation", [(0, 0), (0, 0)]), ("test", [(0, 0), (0, 0)])]:
        for number, found in enumerate(slices([path], split)):
            expected = masked_image(kspace[number], column_mask(372, keys[number]), side=320)
            assert numpy.array_equal(found["image"], expected)
            assert numpy.array_equal(found["reference"], references[number])
            assert found["maximum"] == numpy.float32(2e-3)


def test_the_first_hundred_volumes_validate_and_the_others_test(tmp_path: Path):
    for folder, count in [("singlecoil_val", 103), ("singlecoil_train", 2)]:
        (tmp_path / folder).mkdir()
        for number in range(count):
            (tmp_path / folder / f"file{number:04}.h5").touch()
    names = {split: [path.stem for path in volumes(tmp_path, split)] for split in ("train", "validation", "test")}
    assert names["train"] == ["file0000", "file0001"]
    assert names["validation"] == [f"file{number:04}" for number in range(100)]
    assert names["test"] == ["file0100", "file0101", "file0102"]


@pytest.mark.parametrize("damage", ["cut short", "no k-space", "another type", "too small", "no file"])
def test_a_damaged_volume_gives_one_error_that_names_it(tmp_path: Path, damage: str):
    h5py = pytest.importorskip("h5py")
    path = write_volume(tmp_path / "file1.h5", 1, width=300 if damage == "too small" else 368)
    if damage == "cut short":
        path.write_bytes(path.read_bytes()[:5000])
    if damage == "no file":
        path.unlink()
    if damage in ("no k-space", "another type"):
        with h5py.File(path, "a") as volume:
            del volume["kspace"]
            if damage == "another type":
                volume["kspace"] = numpy.zeros((1, 640, 368), numpy.float32)
    with pytest.raises(DataError, match=r"file1.h5 cannot be read as a single-coil knee volume.*Unpack it again"):
        list(slices([path], "train"))


def test_no_volumes_give_an_error_that_says_which_go_where(tmp_path: Path):
    with pytest.raises(DataError, match=r"singlecoil_val holds no volume .*unpack the single-coil knee archives"):
        volumes(tmp_path, "test")


# --- similarity ---


def images_of(count: int, side: int = 64) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(count))


def test_the_similarity_is_that_of_scikit_image_with_the_maximum_of_each_volume():
    metrics = pytest.importorskip("skimage.metrics")
    references, ranges = images_of(4), torch.tensor([1.0, 0.7, 2.0, 1.0])
    images = references + 0.1 * images_of(5)[:4]
    found = structural_similarity(images, references, ranges=ranges)
    for image, reference, range_, value in zip(images, references, ranges.tolist(), found.tolist(), strict=True):
        # fastMRI's settings are its defaults: a uniform window of 7, sample covariances, K1 0.01, K2 0.03.
        expected = metrics.structural_similarity(reference.double().numpy(), image.double().numpy(), data_range=range_)
        assert value == pytest.approx(expected, abs=1e-9)


# --- what a network gets, and what is measured ---


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder of the smallest volumes: two for training, a hundred and one held out."""
    folder = tmp_path_factory.mktemp("data")
    raw = folder / "fastmri"
    for number in range(2):
        write_volume(raw / "singlecoil_train" / f"file{number}.h5", 2, seed=number)
    first = write_volume(raw / "singlecoil_val" / "file000.h5", 1, seed=9)
    # The same few slices again, so that the test does not write gigabytes of noise.
    for number in range(1, 101):
        (raw / "singlecoil_val" / f"file{number:03}.h5").symlink_to(first)
    for split in SPLITS:
        prepare_slices(raw, split)
    return folder


def test_a_network_gets_slices_by_mean_and_deviation_of_its_input_cut_at_six(data: Path, tmp_path: Path):
    workload = made("fastmri")
    assert not workload.sources()[0].is_present(tmp_path)
    assert workload.sources()[0].is_present(data)
    assert [len(workload.load(split, data)) for split in SPLITS] == [4, 100, 1]
    paths = volumes(data / "fastmri", "train")
    examples = workload.load("train", data)
    batch = examples.gather(torch.tensor([3, 0]))
    raw = list(slices(paths, "train"))
    for place, number in enumerate([3, 0]):
        image, reference = raw[number]["image"].astype(float), raw[number]["reference"].astype(float)
        for name, values in [("inputs", image), ("targets", reference)]:
            expected = ((values - image.mean()) / image.std()).clip(-6, 6)
            numpy.testing.assert_allclose(batch[name][place].numpy(), expected, atol=1e-4)
        assert batch["mean"][place].item() == pytest.approx(image.mean(), rel=1e-5)
        assert batch["deviation"][place].item() == pytest.approx(image.std(), rel=1e-5)
    assert batch["maximum"].tolist() == pytest.approx([2e-3] * 2)
    check_made_up_batch(workload, data)


def test_the_deviation_is_that_of_all_pixels():
    image = torch.tensor([[[0.0, 2.0], [4.0, 6.0]]])
    found = standardised(image, image, maximum=torch.ones(1))
    assert (found["mean"].item(), found["deviation"].item()) == pytest.approx((3.0, math.sqrt(5)))


def test_a_volume_without_a_maximum_has_the_range_one(tmp_path: Path):
    write_volume(tmp_path / "fastmri" / "singlecoil_train" / "file0.h5", 1, maximum=None)
    prepare_slices(tmp_path / "fastmri", "train")
    batch = made("fastmri").load("train", tmp_path).gather(torch.tensor([0]))
    assert batch["maximum"].tolist() == [1.0]


def test_the_metric_is_algoperfs_of_images_in_their_own_units_with_references_cut_at_six_deviations():
    metrics = pytest.importorskip("skimage.metrics")
    workload = made("fastmri")
    filled, references, ranges = images_of(3), images_of(4)[:3], torch.tensor([1.0, 0.5, 2.0])
    references[0, 5:9, 5:9] = 40.0  # far beyond six deviations
    batch = standardised(filled, references, maximum=ranges)
    outputs = batch["inputs"] + 0.05
    found = workload.statistics(outputs, batch)
    for place in range(3):
        mean, deviation = filled[place].mean().item(), filled[place].double().std(correction=0).item()
        image = outputs[place].double().numpy() * deviation + mean
        cut = references[place].double().numpy().clip(mean - 6 * deviation, mean + 6 * deviation)
        expected = metrics.structural_similarity(cut, image, data_range=ranges[place].item())
        assert found["ssim"][place].item() == pytest.approx(expected, abs=1e-4)
    assert workload.metrics(found)["ssim"] == pytest.approx(found["ssim"].mean().item())
    itself = workload.statistics(batch["targets"], batch)["ssim"]
    assert itself.tolist() == pytest.approx([1.0] * 3)


def test_an_evaluation_does_not_depend_on_how_full_its_last_batch_is(data: Path):
    workload = made("fastmri", channels=2, pools=1)
    examples = workload.load("train", data)
    torch.manual_seed(0)
    model = workload.build_model()
    whole, uneven = (evaluate(workload, model, examples, size) for size in (4, 3))
    assert uneven == pytest.approx(whole, rel=1e-5)


@pytest.mark.slow
def test_three_steps_and_an_evaluation_pass_the_referee(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TIMETRIAL_DATA", str(data))
    trial, evaluations = trial_and_evaluations(tmp_path, "fastmri", options={}, batch_size=2, eval_batch_size=2)
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(-1.0, 1.0).all()
