"""What happens to images before a network sees them: RandAugment, mixup, CIFAR's crops, the squares of ImageNet-V2."""

from __future__ import annotations

import math
from collections import Counter

import numpy
import pytest
import torch
from PIL import Image
from torch import Tensor

from workloads.data.torchvision_import import import_torchvision
from workloads.full.data.images.cifar10 import cropped_and_flipped
from workloads.full.data.images.imagenet_v2 import central_square
from workloads.full.data.images.mixup import drawn_shares, mixed_up
from workloads.full.data.images.rand_augment import OPERATIONS, rand_augment
from workloads.full.data.philox import philox, uniform

STRENGTHS = {operation.__name__.strip("_"): (operation, strength, sign) for operation, strength, sign in OPERATIONS}


def photograph(width: int = 224, height: int = 224, seed: int = 0) -> Image.Image:
    """Something with smooth places, edges and colours."""
    draw = numpy.random.default_rng(seed)
    small = Image.fromarray(draw.integers(0, 256, (7, 9, 3), dtype=numpy.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> numpy.ndarray:
    return numpy.asarray(image).astype(int)


def applied(name: str, image: Image.Image, sign: int = 1, seed: int = 0) -> Image.Image:
    operation, strength, _ = STRENGTHS[name]
    return operation(image, sign * strength, numpy.random.default_rng(seed))


# --- numbers from a key ---


def test_the_generator_gives_the_published_words():
    # Known answers of Random123 for philox4x32-10.
    zeros = philox((numpy.array(0),) * 4, (numpy.array(0),) * 2)
    assert [hex(int(word)) for word in zeros] == ["0x6627e8d5", "0xe169c58d", "0xbc57ac4c", "0x9b00dbd8"]
    ones = philox((numpy.array(0xFFFFFFFF),) * 4, (numpy.array(0xFFFFFFFF),) * 2)
    assert [hex(int(word)) for word in ones] == ["0x408f276d", "0x41c83b0e", "0xa20bc7c6", "0x6d5451fd"]


def test_each_seed_and_stream_has_numbers_of_its_own_whatever_stands_beside_it():
    seeds = numpy.array([3, 2**62 + 3, -3])
    both = uniform(seeds, 1000)
    assert numpy.array_equal(both[1:2], uniform(seeds[1:2], 1000))
    assert not numpy.array_equal(both[0], both[1])
    assert not numpy.array_equal(both[0], uniform(seeds, 1000, stream=1)[0])
    assert (both >= 0).all()
    assert (both < 1).all()
    assert both.mean(axis=1).tolist() == pytest.approx([0.5] * 3, abs=0.04)


# --- RandAugment ---


@pytest.mark.parametrize("sign", [1, -1])
def test_the_operations_are_those_of_torchvision_at_algoperfs_strengths(sign: int):
    f = import_torchvision("torchvision.transforms.functional")
    grey = [128, 128, 128]
    image = photograph()
    slope = math.degrees(math.atan(0.3))

    def affine(translate: list[int], shear: list[float], center: list[int] | None = None) -> Image.Image:
        return f.affine(image, 0.0, translate, 1.0, shear, fill=grey, center=center)

    expected = {
        "shear_x": affine([0, 0], [sign * slope, 0.0], [0, 0]),
        "shear_y": affine([0, 0], [0.0, sign * slope], [0, 0]),
        "translate_x": affine([sign * 100, 0], [0.0, 0.0]),
        "translate_y": affine([0, sign * 100], [0.0, 0.0]),
        "rotate": f.rotate(image, sign * 30, fill=grey),
        "brightness": f.adjust_brightness(image, 1.9),
        "color": f.adjust_saturation(image, 1.9),
        "contrast": f.adjust_contrast(image, 1.9),
        "sharpness": f.adjust_sharpness(image, 1.9),
        "posterize": f.posterize(image, 4),
        "solarize": image,
        "auto_contrast": f.autocontrast(image),
        "equalize": f.equalize(image),
        "invert": f.invert(image),
    }
    for name, made in expected.items():
        signed = sign if STRENGTHS[name][2] else 1
        assert numpy.array_equal(pixels(applied(name, image, signed)), pixels(made)), name
    assert set(STRENGTHS) == {*expected, "solarize_add", "cutout"}
    # The sign goes with what has a direction alone.
    assert {name for name, (_, _, sign) in STRENGTHS.items() if sign} == set(list(expected)[:5])


def test_dark_pixels_are_made_lighter_and_others_stay():
    before = pixels(photograph())
    assert numpy.array_equal(
        pixels(applied("solarize_add", photograph())), numpy.where(before < 128, before + 110, before)
    )


def test_a_cut_is_a_grey_square_of_eighty_pixels_and_its_part_outside_is_lost():
    image = Image.new("RGB", (224, 224), (7, 7, 7))
    sizes = []
    for seed in range(200):
        is_grey = (pixels(applied("cutout", image, seed=seed)) == 128).all(axis=2)
        rows, columns = (is_grey.any(axis=axis).sum() for axis in (1, 0))
        assert is_grey.sum() == rows * columns
        sizes += [rows, columns]
        assert (pixels(applied("cutout", image, seed=seed))[~is_grey] == 7).all()
    # The centre lies anywhere, so that the square is whole in 144 of 224 places each way.
    assert max(sizes) == 80
    assert min(sizes) >= 40
    assert Counter(sizes)[80] / len(sizes) == pytest.approx(145 / 224, abs=0.08)


def test_two_operations_are_drawn_evenly_and_the_same_draws_give_the_same_image():
    image = photograph(32, 32)
    again = [rand_augment(image, numpy.random.default_rng(5)) for _ in range(2)]
    assert numpy.array_equal(*map(pixels, again))
    count = 1200
    left = [pixels(rand_augment(image, numpy.random.default_rng(seed))) for seed in range(count)]
    # Translation by 100 pixels leaves nothing of so small an image: two operations of sixteen, drawn twice. A cut may
    # leave nothing either.
    grey = sum((each == 128).all() for each in left) / count
    translated = 1 - (14 / 16) ** 2
    assert translated - 0.04 < grey < translated + 0.15
    # Nothing happens where solarize is drawn twice, or an operation that does nothing to this image.
    assert 0 < sum(numpy.array_equal(each, pixels(image)) for each in left) < 0.1 * count


# --- mixup ---


def labelled(count: int) -> dict[str, Tensor]:
    inputs = torch.arange(float(count))[:, None, None, None].expand(count, 3, 2, 2).clone()
    return {"inputs": inputs, "targets": torch.arange(count) % 3}


def share_of(seed: int) -> float:
    shares = drawn_shares(torch.tensor([seed, 0, 0, 0]))
    assert len(set(shares.tolist())) == 1
    return shares[0].item()


def test_images_and_labels_are_mixed_with_the_one_before_in_one_share():
    batch, share = labelled(4), share_of(8)
    mixed = mixed_up(batch, drawn_shares(torch.tensor([8, 1, 2, 3])), classes=3)
    assert mixed["inputs"][:, 0, 0, 0].tolist() == pytest.approx([3 - 3 * share, share, 1 + share, 2 + share])
    expected = [[1.0, 0.0, 0.0], [1 - share, share, 0.0], [0.0, 1 - share, share], [share, 0.0, 1 - share]]
    torch.testing.assert_close(mixed["targets"], torch.tensor(expected))
    assert mixed["targets"].dtype == torch.float32


def test_the_share_follows_the_beta_distribution_and_the_first_seed_alone():
    shares = numpy.array([share_of(seed) for seed in range(1000)])
    assert shares[8] == share_of(8)
    # Beta(0.2, 0.2): mean 1/2, variance 1 / (4 (2 * 0.2 + 1)); nearly two thirds lie near the ends.
    assert shares.mean() == pytest.approx(0.5, abs=0.05)
    assert shares.var() == pytest.approx(1 / 5.6, abs=0.02)


# --- CIFAR's crops ---


def coordinates(count: int, side: int = 32) -> Tensor:
    """Images whose pixels say where they were: row, column, and 1 everywhere."""
    rows, columns = torch.meshgrid(torch.arange(1, side + 1), torch.arange(1, side + 1), indexing="ij")
    return torch.stack([rows, columns, torch.ones_like(rows)]).to(torch.uint8).expand(count, 3, side, side).clone()


def test_a_crop_moves_by_up_to_four_pixels_is_black_beyond_the_edge_and_half_are_mirrored():
    seeds = torch.arange(2000)
    found = cropped_and_flipped(coordinates(2000), seeds)
    middle = found[:, :, 16, 16].long()
    is_mirrored = found[:, 1, 16, 15].long() > found[:, 1, 16, 16].long()
    down, across = middle[:, 0] - 17, torch.where(is_mirrored, middle[:, 1] - 16, middle[:, 1] - 17)
    for moved in (down, across):
        assert {*moved.tolist()} == set(range(-4, 5))
        assert moved.float().mean().abs() < 0.3
    assert is_mirrored.float().mean().item() == pytest.approx(0.5, abs=0.05)
    # Nothing is left of a row that lies beyond the edge, in any channel.
    beyond = found[down == 4][:, :, 28:]
    assert (beyond == 0).all()
    assert (found[down == 4][:, 2, :28].sum(dim=(1, 2)) > 0).all()
    for which in (0, 7):
        shift, mirrored = int(down[which]), bool(is_mirrored[which])
        row = found[which, 0, :, 16]
        expected = torch.arange(1, 33) + shift
        assert torch.equal(row.long(), torch.where((expected > 0) & (expected < 33), expected, 0))
        column = found[which, 1, 16].flip(0) if mirrored else found[which, 1, 16]
        expected = torch.arange(1, 33) + int(across[which])
        assert torch.equal(column.long(), torch.where((expected > 0) & (expected < 33), expected, 0))


def test_a_crop_follows_from_the_seed_of_its_image_alone():
    images, seeds = torch.randint(256, (6, 3, 32, 32), dtype=torch.uint8), torch.tensor([5, 6, 7, 8, 9, 2**62])
    found = cropped_and_flipped(images, seeds)
    alone = torch.cat([cropped_and_flipped(images[[place]], seeds[[place]]) for place in range(6)])
    assert torch.equal(found, alone)


# --- ImageNet-V2 ---


def test_a_square_is_seven_eighths_of_the_shorter_side_in_the_middle():
    image = numpy.zeros((80, 120, 3), numpy.uint8)
    image[5:75, 25:95] = 200  # int(7/8 * 80) = 70 from (80 - 70 + 1) // 2 on, (120 - 70 + 1) // 2
    found = central_square(image, 224)
    assert found.shape == (224, 224, 3)
    numpy.testing.assert_allclose(found, 200.0, rtol=1e-5)
    image[5] = 0
    assert central_square(image, 224)[0].mean() < 150


def test_enlarging_is_what_pillow_calls_bicubic():
    # Where an image is enlarged, Pillow smoothes nothing and has the same kernel.
    image = photograph(100, 100)
    square = image.crop((7, 7, 94, 94))  # 87 pixels from (100 - 87 + 1) // 2 on
    expected = pixels(square.resize((224, 224), Image.Resampling.BICUBIC))
    found = central_square(numpy.asarray(image), 224)
    # It rounds after each direction.
    assert numpy.abs(found.clip(0, 255) - expected).max() <= 1.5


def test_reducing_smoothes_nothing():
    # Stripes of one pixel: every second column at half the size, so that a mean would be grey all over.
    stripes = numpy.zeros((512, 512, 3), numpy.uint8)
    stripes[:, ::2] = 255
    found = central_square(stripes, 149)  # of 448 pixels: about three become one
    smoothed = pixels(Image.fromarray(stripes[32:480, 32:480]).resize((149, 149), Image.Resampling.BICUBIC))
    assert found.std() > 80
    assert smoothed.std() < 40
