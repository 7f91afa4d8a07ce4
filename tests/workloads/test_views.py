"""Clothes in views: what a view is, who is a neighbour of whom, losses by hand, heads and predictors."""

from __future__ import annotations

import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.api import ConfigError, Examples, SplitName
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from harness.trial.passes.pinned import pinned
from tests.workloads.plain_training import adamw, trained
from workloads.frontier.views.fashion_masked import FashionMasked, edges_of, patches_of
from workloads.frontier.views.fashion_siamese import DirectPredictor, FashionSiamese, predictor_of
from workloads.frontier.views.fashion_views import FashionViews, told_apart
from workloads.frontier.views.pictures import knn_error
from workloads.frontier.views.two_views import HEADS, EncoderWithHead, seen_as, spread


def views_with(head: str = "mlp") -> FashionViews:
    return FashionViews(widths=[4, 4, 8], width=16, head=head)


def siamese_with(predictor: str = "learned") -> FashionSiamese:
    return FashionSiamese(widths=[4, 4, 8], width=16, predictor=predictor)


needs_images = pytest.mark.skipif(
    not is_present(views_with(), data_folder()), reason="the data are not here: make data WORKLOAD=fashion_views"
)


@functools.cache
def split_of(split: SplitName) -> Examples:
    return views_with().load(split, data_folder())


def made_up(count: int) -> dict[str, Tensor]:
    return views_with().synthetic_batch(count, torch.Generator().manual_seed(count), data_folder())


def numbers(**changes: float) -> Tensor:
    """Of a view that is the image, with changes."""
    plain = {"size": 1.0, "right": 0.5, "down": 0.5, "contrast": 0.5, "light": 0.5}
    return torch.tensor([list({**plain, **changes}.values())])


# --- the data ---


@needs_images
def test_no_label_is_told_in_training_and_held_out_images_have_theirs():
    assert set(split_of("train").gather(torch.arange(3))) == {"inputs", "beside"}
    for split in ("validation", "test"):
        batch = split_of(split).gather(torch.arange(3000))
        assert batch["targets"].bincount().min() > 200
        assert len(split_of(split)) == 3000
    assert len(split_of("train")) == 20_000


@needs_images
def test_raw_pixels_have_a_fifth_of_all_neighbourhoods_wrong():
    batch = split_of("validation").gather(torch.arange(3000))
    assert knn_error(batch["inputs"].flatten(1), batch["targets"]) == pytest.approx(0.1973, abs=0.001)


# --- views ---


def test_a_view_of_the_whole_image_in_its_own_light_is_the_image():
    images = made_up(2)["inputs"]
    torch.testing.assert_close(seen_as(images, numbers().expand(2, -1)), images, atol=1e-4, rtol=0)


def test_contrast_multiplies_and_light_adds():
    image = made_up(1)["inputs"]
    found = seen_as(image, numbers(contrast=1.0, light=1.0))
    torch.testing.assert_close(found, 1.4 * image + 0.3, atol=1e-4, rtol=0)
    found = seen_as(image, numbers(contrast=0.0, light=0.25))
    torch.testing.assert_close(found, 0.6 * image - 0.15, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("right", "first"), [(0.0, -0.125), (0.5, 3.375), (1.0, 6.875)])
def test_the_smallest_crop_is_three_quarters_of_a_side_at_any_place(right: float, first: float):
    ramp = torch.arange(28.0).expand(1, 1, 28, 28)
    [[rows]] = seen_as(ramp, numbers(size=0.0, right=right))
    # Half a pixel of 0.75 is cut off at an edge, where nothing lies beyond.
    expected = (first + 0.75 * torch.arange(28.0)).clamp(0, 27)
    torch.testing.assert_close(rows, expected.expand(28, 28), atol=1e-4, rtol=0)
    turned = seen_as(ramp.transpose(2, 3), numbers(size=0.0, down=right))
    torch.testing.assert_close(turned[0, 0], rows.T)


def test_views_of_training_are_drawn_from_torchs_stream_and_others_are_made_by_the_numbers_beside_the_images():
    workload, batch = views_with(), made_up(4)
    torch.manual_seed(0)
    model = workload.build_model().train()
    state = torch.get_rng_state()
    first, other = workload.outputs(model, batch), workload.outputs(model, batch)
    torch.set_rng_state(state)
    torch.testing.assert_close(workload.outputs(model, batch), first)
    assert not torch.allclose(first, other)
    model.eval()
    state = torch.get_rng_state()
    found = workload.outputs(model, batch)
    assert torch.equal(torch.get_rng_state(), state)
    seen = seen_as(batch["inputs"], batch["beside"])
    torch.testing.assert_close(found, model(torch.stack([seen, batch["inputs"]], dim=1)))


# --- what is judged ---


def around(angle: float, count: int) -> Tensor:
    """Vectors of some lengths within a hundredth of a radian."""
    angles = angle + torch.linspace(-0.01, 0.01, count)
    return torch.stack([angles.cos(), angles.sin()], dim=1) * torch.linspace(0.5, 2.0, count)[:, None]


def test_neighbours_are_those_by_angle_and_one_among_strangers_is_wrong():
    vectors = torch.cat([around(0.0, 11), around(2.0, 12)])
    labels = torch.tensor([3] * 11 + [5] * 12)
    assert knn_error(vectors, labels) == 0.0
    labels[-1] = 3
    # One of its own kind among eleven strangers, which are the ten next to it.
    assert knn_error(vectors, labels) == pytest.approx(1 / 23)


def test_the_nearer_of_two_decides_and_a_single_one_has_no_neighbour_to_be_wrong():
    angles = torch.tensor([0.0, 0.5, 0.2])
    vectors = torch.stack([angles.cos(), angles.sin()], dim=1)
    # The last lies next to both others, and so both have its kind.
    assert knn_error(vectors, torch.tensor([0, 0, 1])) == 1.0
    assert knn_error(vectors, torch.tensor([0, 1, 0])) == pytest.approx(1 / 3)
    assert knn_error(vectors[:1], torch.tensor([4])) == 0.0


def test_labels_by_chance_are_missed_as_often_as_by_guessing():
    torch.manual_seed(0)
    assert knn_error(torch.randn(1000, 8), torch.randint(10, (1000,))) == pytest.approx(0.9, abs=0.03)


def test_vectors_to_all_sides_have_a_spread_of_one_and_those_to_one_side_none():
    torch.manual_seed(0)
    assert spread(torch.randn(2000, 16)) == pytest.approx(1.0, abs=0.01)
    assert spread(torch.rand(50, 1) * torch.randn(16)) == pytest.approx(0.0, abs=1e-6)


# --- one view among many ---


def test_a_view_is_told_apart_from_all_but_itself():
    torch.manual_seed(0)
    projections = torch.randn(3, 2, 5)
    flat = F.normalize(projections.flatten(0, 1), dim=1)
    expected = []
    for place in range(6):
        alike = [(flat[place] @ flat[each] / 0.2).exp() for each in range(6) if each != place]
        partner = place + 1 if place % 2 == 0 else place - 1
        expected.append(-((flat[place] @ flat[partner] / 0.2).exp() / sum(alike)).log())
    torch.testing.assert_close(told_apart(projections), torch.stack(expected).view(3, 2).mean(dim=1))


def test_views_that_are_all_one_are_a_guess_and_a_simplex_of_images_is_the_best():
    count = 9
    assert told_apart(torch.ones(count, 2, 4)).mean().item() == pytest.approx(math.log(2 * count - 1), rel=1e-5)
    simplex = (torch.eye(count) - 1 / count)[:, None].expand(-1, 2, -1)
    best = math.log1p((2 * count - 2) * math.exp(-(1 + 1 / (count - 1)) / 0.2))
    assert told_apart(simplex).mean().item() == pytest.approx(best, rel=1e-4)
    free = simplex.clone().requires_grad_()
    told_apart(free).mean().backward()
    assert free.grad.abs().max() < 1e-6


def test_the_loss_of_a_split_is_that_of_its_blocks():
    torch.manual_seed(0)
    statistics = {"made": torch.randn(200, 2, 32), "labels": torch.randint(10, (200,))}
    parts = [told_apart(statistics["made"][part, :, 16:]) for part in (slice(0, 125), slice(125, 200))]
    assert views_with().metrics(statistics)["loss"] == pytest.approx(torch.cat(parts).mean().item(), rel=1e-5)


# --- heads ---


def network(head: str) -> EncoderWithHead:
    torch.manual_seed(0)
    model = views_with(head).build_model()
    assert isinstance(model, EncoderWithHead)
    return model.eval()


@pytest.mark.parametrize("head", HEADS)
def test_what_is_before_the_head_stands_before_what_is_behind_it(head: str):
    model, images = network(head), made_up(3)["inputs"][:, None]
    features, projections = model(images)[:, 0].chunk(2, dim=1)
    torch.testing.assert_close(features, model.features(model.layers(images[:, 0])))
    torch.testing.assert_close(projections, model.head(features))
    expected = {"none": features, "reweighted": features * torch.tensor([1.1**-i for i in range(16)])}
    if head in expected:
        torch.testing.assert_close(projections, expected[head])
    else:
        assert not torch.allclose(projections, features)


def test_both_sides_of_the_head_are_judged():
    torch.manual_seed(0)
    labels = torch.arange(60) % 2
    good = F.one_hot(labels, 16) + 0.01 * torch.rand(60, 16)
    poor = torch.randn(60, 16)
    statistics = {"made": torch.cat([good, poor], dim=1)[:, None].expand(-1, 2, -1), "labels": labels}
    found = views_with().metrics(statistics)
    assert found["knn_error"] == 0.0
    assert found["knn_error_after"] == pytest.approx(0.5, abs=0.2)


def test_another_head_or_predictor_is_refused():
    with pytest.raises(ConfigError, match=r"head is 'deep'\. Use one of mlp, linear, reweighted, none"):
        views_with("deep").build_model()
    with pytest.raises(ConfigError, match=r"predictor is 'slow'\. Use one of learned, direct"):
        siamese_with("slow")


# --- predictors ---


def test_a_right_prediction_of_either_view_from_the_other_has_no_loss():
    workload = siamese_with()
    torch.manual_seed(0)
    features, projections = torch.randn(2, 4, 2, 16)
    outputs = torch.cat([features, projections, 3.0 * projections.flip(1)], dim=2)
    assert workload.losses(outputs, {}, 0.0)[0].abs().max() < 1e-6
    opposite = torch.cat([features, projections, -projections.flip(1)], dim=2)
    torch.testing.assert_close(workload.losses(opposite, {}, 0.0)[0], torch.full((4,), 2.0))


def test_what_is_predicted_gets_no_gradient():
    outputs = torch.randn(4, 2, 48, generator=torch.Generator().manual_seed(0)).requires_grad_()
    siamese_with().losses(outputs, {}, 0.0)[0].mean().backward()
    assert not outputs.grad[:, :, :32].any()
    assert outputs.grad[:, :, 32:].any()


def test_the_computed_predictor_is_the_root_of_the_correlation_and_a_tenth():
    torch.testing.assert_close(
        predictor_of(torch.diag(torch.tensor([1.0, 4.0, 0.0]))).diag(), torch.tensor([0.6, 1.1, 0.1])
    )
    torch.manual_seed(0)
    rows = torch.randn(50, 6, dtype=torch.float64)
    correlation = rows.T @ rows / 50
    root = predictor_of(correlation) - 0.1 * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(root @ root, correlation / torch.linalg.eigvalsh(correlation)[-1])
    # Rounding leaves directions that nothing has with eigenvalues below zero.
    assert predictor_of(rows[:2].T.float() @ rows[:2].float()).isfinite().all()


def test_every_fifth_pass_computes_the_predictor_from_a_moving_average_and_evaluation_none():
    predictor = DirectPredictor(4).train()
    torch.manual_seed(0)
    passes = torch.randn(7, 32, 4)
    found, averages = [], []
    for number, projections in enumerate(passes):
        now = projections.T @ projections / 32
        averages.append(now if number == 0 else 0.9 * averages[-1] + 0.1 * now)
        found.append(predictor(projections))
    matrices = [predictor_of(averages[0])] * 5 + [predictor_of(averages[5])] * 2
    for projections, made, matrix in zip(passes, found, matrices, strict=True):
        torch.testing.assert_close(made, projections @ matrix)
    before = predictor.correlation.clone()
    assert torch.equal(predictor.eval()(passes[0]), passes[0])
    assert torch.equal(predictor.correlation, before)


def test_the_computed_predictor_is_neither_trained_nor_handed_over_and_pinned_passes_agree():
    workload, batch = siamese_with("direct"), made_up(8)
    torch.manual_seed(0)
    model = workload.build_model().train()
    assert not any("predictor" in name for name in model.state_dict())
    assert [name for name, _ in model.named_parameters() if "predictor" in name] == []
    for _ in range(4):
        workload.outputs(model, batch)
    with pinned(model, torch.device("cpu")) as pin:
        found = []
        for _ in range(3):
            with pin.one_pass():
                found.append(workload.outputs(model, batch))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
    # A graph that two passes share is not broken by what the second one writes down.
    workload.losses(found[0] + workload.outputs(model, batch), batch, 0.0)[0].mean().backward()


# --- hidden patches ---


def masked_with(*, edges: bool = True) -> FashionMasked:
    return FashionMasked(width=16, heads=2, hidden=16, layers=1, edges=edges)


def painter(*, edges: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return masked_with(edges=edges).build_model().eval()


def images_to_paint() -> dict[str, Tensor]:
    return masked_with().synthetic_batch(3, torch.Generator().manual_seed(0), data_folder())


def test_patches_are_squares_row_by_row():
    image = torch.arange(784.0).view(1, 1, 28, 28)
    patches = patches_of(image)
    assert patches.shape == (1, 49, 16)
    assert torch.equal(patches[0, 8], image[0, 0, 4:8, 4:8].flatten())
    assert torch.equal(patches_of(torch.stack([image, -image], dim=1))[0, 1], -patches[0])


def test_edges_are_as_strong_as_the_slope_whatever_its_direction():
    down, right = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    found = edges_of((3 * down - 4 * right)[None, None])
    assert found.shape == (1, 1, 28, 28)
    torch.testing.assert_close(found[0, 0, 1:-1, 1:-1], torch.full((26, 26), 5.0))
    assert not edges_of(torch.full((1, 1, 28, 28), 7.0)).any()


@pytest.mark.parametrize("edges", [True, False])
def test_what_is_painted_is_compared_with_pixels_and_edges_at_hidden_places(edges: bool):
    batch, model = images_to_paint(), painter(edges=edges)
    order = batch["beside"].argsort(dim=1)
    made = model(patches_of(batch["inputs"]), order)
    outputs = masked_with(edges=edges).outputs(model, batch)
    assert outputs.shape == (3, (1 + edges) * 24 * 16 + 4 * 16)
    errors = (made - outputs)[:, :-64].view(3, 1 + edges, 24, 16)
    wanted = [batch["inputs"], edges_of(batch["inputs"])][: 1 + edges]
    for number, picture in enumerate(wanted):
        for image in range(3):
            expected = patches_of(picture)[image, order[image, :24]]
            torch.testing.assert_close(errors[image, number], expected, atol=1e-5, rtol=0)
    losses, weights = masked_with(edges=edges).losses(outputs, batch, 0.0)
    torch.testing.assert_close(losses, outputs[:, :-64].square())
    assert weights is None


def test_nothing_of_a_hidden_patch_is_seen_and_something_of_all_others():
    batch, model = images_to_paint(), painter()
    patches, order = patches_of(batch["inputs"]), batch["beside"].argsort(dim=1)

    def painted_after(place: int) -> Tensor:
        changed = patches.clone()
        changed[torch.arange(3), order[:, place]] += 1.0
        return model(changed, order)[:, :-64]

    before = model(patches, order)[:, :-64]
    torch.testing.assert_close(painted_after(23), before)
    assert not torch.allclose(painted_after(24), before)
    assert not torch.allclose(painted_after(48), before)


def test_what_is_judged_is_made_of_the_whole_image():
    batch, model = images_to_paint(), painter()
    workload = masked_with()
    shown = workload.statistics(workload.outputs(model, batch), {**batch, "targets": torch.zeros(3).long()})
    others = {**batch, "beside": 1 - batch["beside"], "targets": torch.zeros(3).long()}
    torch.testing.assert_close(
        shown["features"], workload.statistics(workload.outputs(model, others), others)["features"]
    )


def test_the_error_that_is_judged_is_of_pixels_alone():
    batch, model, workload = images_to_paint(), painter(), masked_with()
    outputs = workload.outputs(model, batch)
    found = workload.metrics(workload.statistics(outputs, {**batch, "targets": torch.tensor([0, 1, 2])}))
    pixels, edges = outputs[:, :-64].view(3, 2, -1).square().mean(dim=(0, 2)).tolist()
    assert found["painting_error"] == pytest.approx(pixels)
    assert workload.losses(outputs, batch, 0.0)[0].mean().item() == pytest.approx((pixels + edges) / 2)
    assert found["knn_error"] == 1.0


def test_other_patches_are_hidden_in_each_pass_of_training():
    batch, model = images_to_paint(), painter().train()
    state = torch.get_rng_state()
    first, other = (masked_with().outputs(model, batch) for _ in range(2))
    torch.set_rng_state(state)
    torch.testing.assert_close(masked_with().outputs(model, batch), first)
    assert not torch.allclose(first, other)


@needs_images
def test_the_mean_of_all_images_painted_everywhere_leaves_two_thirds():
    train, held_out = (masked_with().load(split, data_folder()) for split in ("train", "validation"))
    batch = held_out.gather(torch.arange(1000))
    lacking = patches_of(batch["inputs"] - train.gather(torch.arange(20_000))["inputs"].mean(dim=0))
    at = batch["beside"].argsort(dim=1, stable=True)[:, :24, None].expand(-1, -1, 16)
    assert lacking.gather(1, at).square().mean().item() == pytest.approx(0.691, abs=0.002)


# --- what training finds ---


@needs_images
def test_a_short_training_leaves_fewer_neighbourhoods_wrong_than_an_untrained_network():
    workload = FashionViews(widths=[16, 32, 64], width=64, head="mlp")
    torch.manual_seed(0)
    start = evaluate(workload, workload.build_model(), split_of("validation"), 1000)
    _, [found] = trained(workload, adamw(2e-3), steps=60, batch_size=128)
    assert found["knn_error"] < start["knn_error"] - 0.02  # 0.22, 0.26
    assert found["spread"] > 0.9
