"""Slices of a head: the file, k-space and its masks, AlgoPerf's U-Net, structural similarity."""

from __future__ import annotations

import gzip
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from scipy.ndimage import uniform_filter
from torch import Tensor

from harness.api import SPLITS, ConfigError, DataError, mean_loss
from harness.plugins.data import data_folder, is_present
from workloads.data.brain_volume import brain_wheel, read_brain
from workloads.losses.similarity import structural_similarity
from workloads.mri_unet import MriUnet, Slices, column_masks, undersampled
from workloads.networks.u_net import UNet

SIZES: dict[str, Any] = {
    "channels": 4, "pools": 2, "activation": "leaky_relu", "norm": "instance", "residual": False, "dropout": 0.0,
    "output_gain": 1.0,
}  # fmt: skip


def workload(**changes: Any) -> MriUnet:
    return MriUnet(**{**SIZES, **changes})


def network(**changes: Any) -> UNet:
    torch.manual_seed(0)
    return UNet(**{**SIZES, **changes})


def images_of(count: int, side: int = 32) -> Tensor:
    return torch.rand(count, side, side, generator=torch.Generator().manual_seed(count))


# --- the file ---


def write_wheel(path: Path, raw: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(
            "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz", gzip.compress(raw, 1)
        )
    return path


def header(*, shape: tuple[int, int, int] = (197, 233, 189), kind: int = 2) -> bytes:
    fields = bytearray(352)
    struct.pack_into("<i", fields, 0, 348)
    struct.pack_into("<4h", fields, 40, 3, *shape)
    struct.pack_into("<h", fields, 70, kind)
    struct.pack_into("<f", fields, 108, 352.0)
    return bytes(fields)


def test_voxels_are_read_with_the_first_axis_running_fastest(tmp_path: Path):
    voxels = numpy.zeros(197 * 233 * 189, numpy.uint8)
    voxels[[1, 197, 197 * 233]] = [10, 20, 30]
    brain = read_brain(write_wheel(tmp_path / "nilearn.whl", header() + voxels.tobytes()))
    assert brain.shape == (197, 233, 189)
    assert [brain[1, 0, 0], brain[0, 1, 0], brain[0, 0, 1], int(brain.sum())] == [10, 20, 30, 60]


@pytest.mark.parametrize("damage", ["no zip", "no volume", "too few voxels", "another shape", "another type", "empty"])
def test_a_damaged_wheel_gives_one_error_that_names_file_and_command(tmp_path: Path, damage: str):
    raw = {
        "too few voxels": header() + bytes(1000),
        "another shape": header(shape=(10, 10, 10)) + bytes(1000),
        "another type": header(kind=16) + bytes(1000),
        "empty": b"",
    }
    wheel = write_wheel(tmp_path / "nilearn.whl", raw.get(damage, header()))
    if damage == "no zip":
        wheel.write_bytes(wheel.read_bytes()[:-30])
    if damage == "no volume":
        with zipfile.ZipFile(wheel, "w") as archive:
            archive.writestr("nilearn/__init__.py", "")
    with pytest.raises(DataError, match=r"nilearn.whl.*make data"):
        read_brain(wheel)


@pytest.mark.parametrize("size", [None, 100, brain_wheel().files[0].size])
def test_a_missing_truncated_or_altered_wheel_names_the_command(tmp_path: Path, size: int | None):
    if size is not None:
        place = tmp_path / brain_wheel().files[0].path
        place.parent.mkdir()
        with place.open("wb") as handle:
            handle.truncate(size)
    with pytest.raises(DataError, match=r"nilearn-0.14.1.*make data"):
        workload().load("train", tmp_path)


def test_the_held_out_parts_are_no_neighbours_of_training_slices():
    if not is_present(workload(), data_folder()):
        pytest.skip("the data of mri_unet are not here: make data WORKLOAD=mri_unet")
    slices = [workload().load(split, data_folder()).tensors()["images"] for split in SPLITS]
    # 161 slices through 6 masks, 54 and 45 through one.
    assert [len(images) for images in slices] == [966, 54, 45]
    train, *held_out = (images.unique(dim=0).double().flatten(1) for images in slices)
    adjacent = torch.cdist(train, train).fill_diagonal_(torch.inf).min(dim=1).values.median()
    for images in held_out:
        assert torch.cdist(images, train).min() > 2 * adjacent


# --- k-space ---


def test_a_mask_keeps_the_centre_and_about_a_quarter_of_all_columns():
    masks = column_masks(2000, 96, seed=0)
    assert masks[:, 45:52].all()  # 7 columns from (96 - 7 + 1) // 2 on
    assert masks.float().mean().item() == pytest.approx(0.25, abs=0.005)
    others = masks[:, [*range(45), *range(52, 96)]].float().mean(dim=0)
    assert others.min() > 0.14  # 17 / 89 of them, give or take
    assert others.max() < 0.24


def test_masks_differ_from_image_to_image_and_stay_as_they_are():
    masks = column_masks(50, 96, seed=3)
    assert len(masks.unique(dim=0)) == 50
    assert torch.equal(masks, column_masks(50, 96, seed=3))
    assert not torch.equal(masks, column_masks(50, 96, seed=4))


def test_the_input_is_the_image_without_the_columns_that_were_not_measured():
    images, masks = images_of(3), column_masks(3, 32, seed=0)
    found = undersampled(images, masks)
    for image, mask, given, made in zip(images, masks, found["inputs"], found["targets"], strict=True):
        kspace = numpy.fft.fftshift(numpy.fft.fft2(image.double().numpy())) * mask.numpy()
        filled = numpy.abs(numpy.fft.ifft2(numpy.fft.ifftshift(kspace)))
        expected = (filled - filled.mean()) / filled.std()
        numpy.testing.assert_allclose(given.numpy(), expected.clip(-6, 6), atol=1e-4)
        goal = (image.numpy() - filled.mean()) / filled.std()
        numpy.testing.assert_allclose(made.numpy(), goal.clip(-6, 6), atol=1e-4)


def test_with_all_columns_input_and_target_are_the_same():
    found = undersampled(images_of(2), torch.ones(2, 32, dtype=torch.bool))
    torch.testing.assert_close(found["inputs"], found["targets"], atol=1e-4, rtol=0)


def test_images_are_cut_at_six_deviations():
    image = torch.zeros(1, 32, 32)
    image[0, 16, 16] = 1.0
    found = undersampled(image, torch.ones(1, 32, dtype=torch.bool))
    assert found["inputs"].max().item() == found["targets"].max().item() == 6.0


def test_a_split_is_defined_by_whole_numbers_alone():
    slices = Slices(torch.ones(2, 8, 8, dtype=torch.int16), torch.ones(2, 8, dtype=torch.bool), maximum=4)
    assert {str(values.dtype) for values in slices.tensors().values()} == {"torch.int16", "torch.bool"}


# --- loss and metric ---


def test_the_loss_is_the_mean_absolute_error_of_each_image():
    targets = torch.zeros(2, 2, 2)
    outputs = torch.tensor([[[1.0, -1.0], [0.0, 0.0]], [[2.0, 2.0], [2.0, 2.0]]])
    losses, weights = workload().losses(outputs, {"targets": targets}, 0.0)
    assert losses.tolist() == [0.5, 2.0]
    assert weights is None


def test_the_loss_at_the_start_is_that_of_an_image_of_zeros():
    batch = undersampled(images_of(8), column_masks(8, 32, seed=0))
    outputs = workload().outputs(network(output_gain=0.01), batch)
    loss = mean_loss(*workload().losses(outputs, batch, 0.0)).item()
    assert loss == pytest.approx(batch["targets"].abs().mean().item(), rel=0.01)


def test_similarity_is_that_of_filtered_images_without_their_border():
    x, y = images_of(2, 20).numpy().astype(float), images_of(3, 20)[:2].numpy().astype(float)

    def means(image: numpy.ndarray) -> numpy.ndarray:
        return uniform_filter(image, 7)[3:-3, 3:-3]

    for range_ in (1.0, 0.7):
        found = structural_similarity(torch.tensor(x), torch.tensor(y), ranges=torch.full((2,), range_))
        for a, b, value in zip(x, y, found.tolist(), strict=True):
            c1, c2 = (0.01 * range_) ** 2, (0.03 * range_) ** 2
            variances = 49 / 48 * (means(a * a) - means(a) ** 2 + means(b * b) - means(b) ** 2)
            covariance = 49 / 48 * (means(a * b) - means(a) * means(b))
            quotient = (2 * means(a) * means(b) + c1) * (2 * covariance + c2)
            quotient /= (means(a) ** 2 + means(b) ** 2 + c1) * (variances + c2)
            assert value == pytest.approx(quotient.mean(), abs=1e-6)


def test_an_image_is_entirely_like_itself_and_less_so_with_noise():
    images = images_of(3)
    noise = torch.randn(3, 32, 32, generator=torch.Generator().manual_seed(0))
    ranges = torch.ones(3)
    assert structural_similarity(images, images, ranges=ranges).tolist() == pytest.approx([1.0, 1.0, 1.0])
    little, much = (structural_similarity(images + level * noise, images, ranges=ranges) for level in (0.05, 0.5))
    assert (much < little).all()
    assert (little < 0.999).all()


def test_the_left_half_of_the_head_mirrors_the_right_one_so_that_one_half_is_used():
    if not is_present(workload(), data_folder()):
        pytest.skip("the data of mri_unet are not here: make data WORKLOAD=mri_unet")
    brain = read_brain(brain_wheel().path(data_folder()))
    assert numpy.array_equal(brain, brain[::-1])
    whole = [workload().load(split, data_folder()).tensors()["images"].unique(dim=0) for split in SPLITS]
    assert len(torch.cat(whole).unique(dim=0)) == sum(len(images) for images in whole) == 161 + 54 + 45


def test_the_metric_leaves_out_windows_without_the_head():
    images = images_of(2)
    images[:, :, 16:] = 0.0
    batch = undersampled(images, torch.ones(2, 32, dtype=torch.bool))
    in_the_dark, in_the_head = batch["targets"].clone(), batch["targets"].clone()
    in_the_dark[:, :, 22:] += 1.0  # windows that end before column 22 hold none of it
    in_the_head[:, :, 3:9] += 1.0
    assert workload().statistics(in_the_dark, batch)["ssim"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert (workload().statistics(in_the_head, batch)["ssim"] < 0.95).all()


def test_similarity_is_the_mean_over_the_windows_that_count():
    image, reference = images_of(1, 7), images_of(2, 7)[1:]
    alone = structural_similarity(image, reference, ranges=torch.ones(1))
    # With darkness to the right, each further window has a column of the reference less.
    wide, dark = torch.cat([image, image], dim=2), torch.cat([reference, torch.zeros_like(reference)], dim=2)
    least = reference.mean().item() - 1e-4
    torch.testing.assert_close(structural_similarity(wide, dark, ranges=torch.ones(1), least_mean=least), alone)
    assert structural_similarity(wide, dark, ranges=torch.ones(1)).item() != pytest.approx(alone.item(), rel=0.01)


def test_the_metric_compares_images_in_their_own_units():
    images = images_of(3)
    batch = undersampled(images, column_masks(3, 32, seed=0))
    found = workload().statistics(batch["inputs"], batch)["ssim"]
    filled = batch["inputs"] * batch["deviation"][:, None, None] + batch["mean"][:, None, None]
    expected = structural_similarity(filled, images, ranges=torch.ones(3))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert workload().metrics({"ssim": found})["ssim"] == pytest.approx(found.mean().item())


# --- the model ---


def test_a_residual_network_starts_at_its_input():
    images = images_of(2)
    torch.testing.assert_close(network(residual=True, output_gain=0.0)(images), images)
    plain, residual = (network(residual=residual)(images) for residual in (False, True))
    torch.testing.assert_close(residual, images + plain)


def test_initial_weights_have_variance_one_over_fan_in_and_are_cut_at_two_deviations():
    model = network(channels=32, pools=2)
    for weight, fan_in in [(model.bottom[4].weight, 9 * 128), (model.enlarge[0][0].weight, 4 * 64)]:
        assert weight.std().item() == pytest.approx(fan_in**-0.5, rel=0.03)
        assert weight.abs().max().item() == pytest.approx(2 * fan_in**-0.5 / 0.87962566, rel=0.01)


@pytest.mark.parametrize("shape", [(33, 31), (30, 35), (32, 32)])
def test_images_of_any_size_keep_it(shape: tuple[int, int]):
    assert network()(torch.zeros(2, *shape)).shape == (2, *shape)


def test_dropout_takes_whole_channels_in_training_alone():
    model = network(dropout=0.5)
    images = images_of(2)
    assert not torch.equal(model(images), model(images))
    seen = model.down[0][:4](images.unsqueeze(1))
    is_gone = (seen == 0).all(dim=(2, 3))
    assert is_gone.any()
    assert not is_gone.all()
    assert torch.equal(model.eval()(images), network()(images))


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"activation": "relu"}, "leaky_relu, tanh"),
        ({"norm": "x"}, "layer"),
        ({"couplings": "x"}, "stored, recomputed"),
        ({"couplings": "stored", "channels": 5}, "Use an even number"),
    ],
)
def test_what_cannot_be_built_is_refused(changes: dict[str, Any], known: str):
    with pytest.raises(ConfigError, match=known):
        workload(**changes).build_model()


# --- couplings ---


def gradients_of(model: UNet, images: Tensor) -> list[Tensor]:
    loss = (model(images) - 1.0).square().mean()
    return list(torch.autograd.grad(loss, list(model.parameters())))


def apart(first: list[Tensor], second: list[Tensor]) -> float:
    """The largest distance of two tensors at one place, over the second one's norm."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("norm", ["instance", "layer"])
def test_gradients_of_couplings_that_are_undone_are_those_of_stored_ones(norm: str):
    stored, recomputed = (network(couplings=couplings, norm=norm) for couplings in ("stored", "recomputed"))
    images = images_of(2)
    assert torch.equal(stored(images), recomputed(images))
    assert apart(gradients_of(recomputed, images), gradients_of(stored, images)) < 1e-5
    exact = gradients_of(stored.double(), images.double())
    assert apart(gradients_of(recomputed.double(), images.double()), exact) < 1e-12


def test_couplings_that_are_undone_can_be_differentiated_twice():
    def product(model: UNet) -> list[Tensor]:
        parameters = list(model.parameters())
        loss = (model(images_of(1, 16).double()) - 1.0).square().mean()
        first = torch.autograd.grad(loss, parameters, create_graph=True)
        return list(torch.autograd.grad(sum((each * each).sum() for each in first), parameters))

    stored, recomputed = (network(couplings=each, activation="tanh").double() for each in ("stored", "recomputed"))
    assert apart(product(recomputed), product(stored)) < 1e-10


def test_what_went_into_a_coupling_follows_from_what_came_out():
    coupling = network(couplings="stored").bottom[1].couplings[0]
    hidden = torch.randn(2, 16, 8, 8)
    with torch.no_grad():
        assert not torch.allclose(coupling(hidden), hidden, atol=0.1)
        torch.testing.assert_close(coupling.undone(coupling(hidden)), hidden, atol=1e-5, rtol=0)


def kept_for_the_backward_pass(model: UNet, images: Tensor) -> int:
    """Bytes of all tensors that the graph of a forward pass holds, parameters aside."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(images)
    own = {each.untyped_storage().data_ptr() for each in model.parameters()}
    return sum(each.untyped_storage().nbytes() for place, each in kept.items() if place not in own)


def test_couplings_that_are_undone_keep_less_than_half_of_what_stored_ones_keep():
    images = images_of(2, 64)
    stored, recomputed = (
        kept_for_the_backward_pass(network(couplings=couplings), images) for couplings in ("stored", "recomputed")
    )
    assert recomputed < 0.5 * stored
