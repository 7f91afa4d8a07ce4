"""Shapes known in part or read off numbers: a solid on slices, a line on a grid; what is exact, what training finds."""

from __future__ import annotations

import math

import numpy
import pytest
import torch
from scipy.interpolate import RegularGridInterpolator
from sklearn.datasets import load_sample_image
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from harness import config
from harness.api import SPLITS, Workload, mean_loss, terms_of
from harness.config import WorkloadConfig
from tests.workloads.short_runs import adam, made, trained, validated, whole
from workloads.frontier.signals.contour_grid import CELLS, WIDTH, LineGrid, corners, signed_distance
from workloads.frontier.signals.image_gaussians import START, Gaussians
from workloads.frontier.signals.open_curves import arcs, distance_to_arcs
from workloads.frontier.signals.slices_field import (
    BALL_CENTRE,
    BALL_RADIUS,
    TORUS_RADIUS,
    TUBE_RADIUS,
    WaveField,
    distance_to_surface,
    inside,
    places,
    surface_of,
)
from workloads.networks.stored_weights import read_weights

# --- slices_field ---


class TrueSolid(nn.Module):
    """Logits that are positive inside the solid and grow with the distance to its surface."""

    def __init__(self) -> None:
        super().__init__()
        self.steepness = nn.Parameter(torch.tensor(10.0))

    def forward(self, points: Tensor) -> Tensor:
        signs = 2.0 * torch.from_numpy(inside(points.double().numpy())).double() - 1
        return (self.steepness * signs * distance_to_surface(points.double())).float()


def test_the_solid_fills_as_much_as_a_torus_and_the_part_of_a_ball_outside_of_it():
    points = numpy.random.RandomState(0).uniform(-1, 1, (400_000, 3))
    torus = 2 * math.pi**2 * TORUS_RADIUS * TUBE_RADIUS**2
    ball = 4 / 3 * math.pi * BALL_RADIUS**3
    assert torus / 8 < inside(points).mean() < (torus + ball) / 8
    far_from_ball = ((points - BALL_CENTRE) ** 2).sum(axis=1) > BALL_RADIUS**2
    in_rest = points[inside(points) & far_from_ball]
    assert numpy.hypot(numpy.hypot(in_rest[:, 0], in_rest[:, 1]) - TORUS_RADIUS, in_rest[:, 2]).max() <= TUBE_RADIUS
    assert inside(numpy.array([BALL_CENTRE, (TORUS_RADIUS, 0, 0), (0, 0, 0)])).tolist() == [True, True, False]


def test_training_sees_planes_alone_and_validation_the_whole_cube():
    points, known_along = places("train")
    planes = numpy.round(numpy.linspace(-0.6, 0.6, 13) * 1024) / 1024
    across = (~known_along).argmax(axis=1)
    assert (~known_along).sum(axis=1).tolist() == [1] * len(points)
    assert set(across) == {0, 2}
    assert set(points[numpy.arange(len(points)), across]) == set(planes)
    held_out, known_along = places("validation")
    assert known_along.all()
    assert numpy.isin(held_out[:, 0], planes).mean() < 0.02
    assert numpy.abs(held_out).max() > 0.99


def test_the_true_solid_makes_no_error():
    found = validated(made("slices_field"), TrueSolid())
    assert found["iou_error"] == 0.0
    # Cells are a twelfth wide: what a straight line from corner to corner of a cell misses.
    assert found["surface_error"] < 0.004


def test_a_field_that_is_on_one_side_everywhere_has_no_surface_and_an_error_all_the_same():
    class Nothing(TrueSolid):
        def forward(self, points: Tensor) -> Tensor:
            return -self.steepness.expand(len(points))

    found = validated(made("slices_field"), Nothing())
    assert found["iou_error"] == 1.0
    assert found["surface_error"] > 0.5


def test_points_near_the_surface_are_those_from_which_a_step_in_the_plane_crosses_it():
    batch = whole(made("slices_field"), "train")
    points = batch["inputs"].double()
    near = batch["near_surface"] > 0.5
    distances = distance_to_surface(points)
    assert distances[near].max() <= 0.04 + 1e-6
    assert 0.02 < near.double().mean() < 0.1


def test_a_steep_field_is_cut_in_the_middle_of_an_edge_and_a_gentle_one_where_it_is_zero():
    def plane(steepness: float) -> Tensor:
        return surface_of(lambda points: steepness * (points[:, 0] - 0.015), device=torch.device("cpu"))[:, 0]

    assert plane(1e4).sub(1 / 24).abs().max() < 1e-6
    assert plane(0.1).sub(0.015).abs().max() < 1e-5


def test_slopes_carried_forward_are_those_of_autograd():
    torch.manual_seed(0)
    model = WaveField(16, frequency=4.0, steps_to_all_waves=None, gives_slopes=True).double()
    points = (2 * torch.rand(8, 3, dtype=torch.float64) - 1).requires_grad_()
    logits, squares = model(points).unbind(dim=1)
    (slopes,) = torch.autograd.grad(logits.sigmoid().sum(), points)
    torch.testing.assert_close(squares, slopes.square().sum(dim=1))


def test_the_second_term_is_the_squared_slope_of_points_near_the_surface_and_of_no_others():
    workload = made("slices_field_smooth")
    batch = {name: values[:2000] for name, values in whole(workload, "train").items()}
    torch.manual_seed(0)
    outputs = workload.build_model()(batch["inputs"])
    inside, slope = terms_of(workload, outputs, batch, 0.0)
    plain = made("slices_field").losses(outputs[:, 0], batch, 0.0)[0]
    torch.testing.assert_close(inside.losses, plain)
    near = batch["near_surface"] > 0
    mean = mean_loss(slope.losses, slope.weights)
    torch.testing.assert_close(mean, outputs[near, 1].mean())
    loss = mean_loss(*workload.losses(outputs, batch, 0.0))
    torch.testing.assert_close(loss, plain.mean() + 5e-5 * mean)


def test_coarse_to_fine_sees_one_wave_at_first_and_all_in_the_end_and_counts_in_training_alone():
    torch.manual_seed(0)
    model = WaveField(8, frequency=4.0, steps_to_all_waves=32, gives_slopes=False)
    fine = WaveField(8, frequency=4.0, steps_to_all_waves=None, gives_slopes=False)
    fine.load_state_dict(model.state_dict(), strict=False)
    points = 2 * torch.rand(16, 3) - 1
    fastest = [module.layers[0].weight for module in (model, fine)]
    with torch.no_grad():
        for weight in fastest:  # the columns of the fastest wave's sine and cosine
            weight[:, [18, 34]] += 1.0
    model.eval()
    assert torch.equal(model(points), model(points))
    assert not torch.allclose(model(points), fine(points))
    model.train()
    for _ in range(32):
        model(points)
    assert torch.equal(model.eval()(points), fine(points))
    lengths = model.frequencies.norm(dim=1)
    assert torch.equal(lengths, lengths.sort().values)


def nearest_point_error(workload: Workload) -> float:
    """Of the rule that a point is inside where the nearest point of training is."""
    train, validation = (whole(workload, split) for split in ("train", "validation"))
    nearest = KNeighborsClassifier(1).fit(train["inputs"].numpy(), train["targets"].numpy())
    answers = torch.from_numpy(nearest.predict(validation["inputs"].numpy())) - 0.5
    return workload.metrics(workload.statistics(answers, validation))["iou_error"]


def test_a_network_knows_more_of_what_is_between_the_planes_than_the_nearest_point_does():
    workload = made("slices_field")
    assert nearest_point_error(workload) == pytest.approx(0.15, abs=0.01)
    model = trained(workload, adam(5e-3), steps=400, batch_size=512)
    assert validated(workload, model)["iou_error"] < 0.75 * nearest_point_error(workload)  # 0.084 to 0.093, by seed


@pytest.mark.slow
def test_a_penalty_on_slopes_makes_the_surface_smoother_and_the_solid_worse():
    found = {
        name: validated(made(name), trained(made(name), adam(5e-3), steps=1500, batch_size=512))
        for name in ("slices_field", "slices_field_smooth")
    }
    plain, penalised = found.values()
    assert penalised["surface_error"] < 0.85 * plain["surface_error"]  # 0.0085 against 0.0127
    assert plain["iou_error"] < penalised["iou_error"] < 0.1  # 0.051 against 0.074


@pytest.mark.slow
def test_coarse_to_fine_ends_with_less_cross_entropy_between_the_planes():
    plain, coarse = (
        validated(made(name), trained(made(name), adam(5e-3), steps=1500, batch_size=512))
        for name in ("slices_field", "slices_field_coarse_to_fine")
    )
    assert coarse["loss"] < 0.85 * plain["loss"]  # 0.0067 against 0.0123


# --- contour_grid ---


def grid_of(heights: Tensor, *, flexible: bool) -> LineGrid:
    """A grid with these heights, and weights and moves at their start. Shape of `heights`: [corners, corners]."""
    grid = LineGrid(flexible=flexible).double()
    with torch.no_grad():
        grid.heights.copy_(heights)
    return grid


def places_of_corners() -> Tensor:
    return LineGrid(flexible=False).corners.double()


def test_the_distance_to_a_square_is_the_one_by_hand():
    square = torch.tensor([(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)], dtype=torch.float64)
    points = torch.tensor([(0.5, 0.4), (0.9, 0.5), (2.0, 0.5), (-3.0, -4.0), (0.5, 1.25)], dtype=torch.float64)
    expected = torch.tensor([-0.4, -0.1, 1.0, 5.0, 0.25], dtype=torch.float64)
    torch.testing.assert_close(signed_distance(points, square, square.roll(-1, dims=0)), expected)


def test_the_line_to_learn_is_an_l_with_right_angles_within_the_grid():
    sides = corners().roll(-1, dims=0) - corners()
    torch.testing.assert_close((sides * sides.roll(1, dims=0)).sum(dim=1), torch.zeros(6, dtype=torch.float64))
    assert sorted(round(each, 6) for each in sides.norm(dim=1).tolist()) == [0.55] * 4 + [1.1] * 2
    assert corners().abs().max() < 1 - WIDTH


@pytest.mark.parametrize("flexible", [False, True])
def test_a_line_that_is_straight_is_read_off_exactly(flexible: bool):
    # Heights that are linear, but for a wall near the border that closes the line.
    normal, places = torch.tensor([0.6, 0.8], dtype=torch.float64), places_of_corners()
    heights = places @ normal - 0.05
    heights[(places.abs() > 0.99).any(dim=2)] = 1.0
    starts, ends = grid_of(heights, flexible=flexible).line()
    within = ((starts.abs() < 0.8) & (ends.abs() < 0.8)).all(dim=1)
    assert within.sum() > CELLS / 2
    for each in (starts[within], ends[within]):
        torch.testing.assert_close(each @ normal, torch.full_like(each[:, 0], 0.05))


def test_every_bend_joins_two_pieces_so_the_line_is_closed():
    starts, ends = LineGrid(flexible=True).line()
    bends, counts = torch.cat([starts, ends]).detach().unique(dim=0, return_counts=True)
    assert counts.tolist() == [2] * len(bends)


def test_at_the_start_the_flexible_grid_draws_the_line_of_the_plain_one():
    points = 2 * torch.rand(50, 2, dtype=torch.float64) - 1
    heights = LineGrid(flexible=False).heights.detach().double()
    found = [grid_of(heights, flexible=flexible)(points) for flexible in (False, True)]
    torch.testing.assert_close(*found)


def test_a_flexible_grid_can_put_a_corner_where_a_plain_one_cuts_it_off():
    # Two crossings of one cell, from whose straight connection a moved corner pulls the bend away.
    places = places_of_corners()
    heights = (places - 0.05).amax(dim=2)
    plain, flexible = (grid_of(heights, flexible=each) for each in (False, True))
    corner = torch.tensor([0.05, 0.05], dtype=torch.float64)

    def missed(grid: LineGrid) -> Tensor:
        return (torch.cat(grid.line()) - corner).norm(dim=1).min()

    assert missed(plain) > 0.2 * WIDTH
    optimizer = torch.optim.Adam([flexible.moves, flexible.corner_weights, flexible.edge_weights], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        missed(flexible).backward()
        optimizer.step()
    assert missed(flexible) < 0.02 * WIDTH


def test_without_any_line_a_grid_still_answers():
    grid = grid_of(torch.ones(CELLS + 1, CELLS + 1, dtype=torch.float64), flexible=False)
    distances = grid(torch.zeros(3, 2, dtype=torch.float64))
    assert distances.tolist() == [CELLS] * 3
    distances.sum().backward()
    assert not grid.heights.grad.any()


def error_of_true_heights() -> float:
    """Of a plain grid whose heights are the distances to the line itself."""
    places, starts = places_of_corners(), corners()
    heights = signed_distance(places.flatten(0, 1), starts, starts.roll(-1, dims=0)).view(places.shape[:2])
    return validated(made("contour_grid"), grid_of(heights / WIDTH, flexible=False).float())["distance_error"]


def test_true_heights_cut_all_corners_off():
    assert error_of_true_heights() == pytest.approx(0.167, abs=0.001)


@pytest.mark.slow
def test_trained_heights_are_better_than_true_ones_and_a_flexible_grid_is_better_than_both():
    plain, flexible = (
        validated(made(name), trained(made(name), adam(2e-2), steps=600, batch_size=256))["distance_error"]
        for name in ("contour_grid", "contour_grid_flexible")
    )
    assert flexible < 0.8 * plain < 0.8 * 0.6 * error_of_true_heights()  # 0.053, 0.083


# --- image_gaussians ---


def one_gaussian(**values: list[float]) -> Gaussians:
    """A network whose first Gaussian has these values, and whose others have no colour."""
    model = Gaussians(read_weights(START)["colours"], start="dense")
    with torch.no_grad():
        model.colours.zero_()
        for name, each in values.items():
            model.get_parameter(name)[0] = torch.tensor(each)
    return model


def test_a_gaussian_is_the_one_by_hand():
    turn = math.pi / 6
    model = one_gaussian(
        middles=[0.5, 0.7], log_deviations=[math.log(0.1), math.log(0.3)], angles=turn, colours=[1.0, 0.5, 0.25]
    )
    down, right = 0.08, -0.2
    first = (math.cos(turn) * down - math.sin(turn) * right) / 0.1
    second = (math.sin(turn) * down + math.cos(turn) * right) / 0.3
    height = math.exp(-(first**2 + second**2) / 2)
    found = model(torch.tensor([[0.5 + down, 0.7 + right]]))
    torch.testing.assert_close(found, height * torch.tensor([[1.0, 0.5, 0.25]]))


def test_the_pixels_are_those_of_the_photograph_in_blocks_of_six():
    levels = load_sample_image("china.jpg")
    batch = whole(made("image_gaussians"), "test")
    rows, columns = ((batch["inputs"][:, axis] * 64 - 0.5).round().long().tolist() for axis in range(2))
    top, left = (427 - 6 * 64) // 2, (640 - 6 * 96) // 2
    for row, column, colour in list(zip(rows, columns, batch["targets"], strict=True))[:20]:
        block = levels[top + 6 * row : top + 6 * row + 6, left + 6 * column : left + 6 * column + 6]
        assert colour.numpy() == pytest.approx(block.mean(axis=(0, 1)) / 255, abs=1e-6)


def test_the_splits_are_all_pixels_of_the_picture():
    workload = made("image_gaussians")
    places = torch.cat([whole(workload, split)["inputs"] for split in SPLITS]).mul(64).floor().long()
    assert len(places.unique(dim=0)) == len(places) == 64 * 96


def test_the_dense_start_is_nearer_to_the_picture_than_one_colour_and_the_sparse_one_is_not():
    torch.manual_seed(0)
    dense, sparse = (
        validated(made(name), made(name).build_model())["rmse"]
        for name in ("image_gaussians", "image_gaussians_sparse")
    )
    colours = whole(made("image_gaussians"), "validation")["targets"]
    of_one_colour = (colours - colours.mean(dim=0)).square().mean().sqrt().item()
    assert of_one_colour == pytest.approx(0.316, abs=0.001)
    assert dense < of_one_colour < sparse


def test_a_start_knows_the_colours_of_training_pixels_alone():
    colours = whole(made("image_gaussians"), "train")["targets"]
    torch.testing.assert_close(read_weights(START)["colours"], colours, rtol=0, atol=1 / 254 + 1e-6)


def test_the_sparse_start_has_nine_gaussians_at_each_place():
    torch.manual_seed(0)
    middles = made("image_gaussians_sparse").build_model().get_parameter("middles").detach()
    crowds = middles.view(24, 9, 2)
    assert crowds.std(dim=1).mean() < 0.03
    assert crowds.mean(dim=1).std(dim=0).min() > 0.2


@pytest.mark.slow
def test_from_the_dense_start_a_third_of_the_steps_leads_to_where_the_sparse_one_ends():
    dense, sparse = (
        validated(made(name), trained(made(name), adam(5e-3), steps=steps, batch_size=256))["rmse"]
        for name, steps in (("image_gaussians", 200), ("image_gaussians_sparse", 600))
    )
    assert dense < sparse < 0.085  # 0.076, 0.079


# --- open_curves ---


def test_the_distance_to_an_arc_is_the_one_by_hand():
    half = numpy.array([[0.0, 0.0, 0.5, 0.0, math.pi]] * 4)
    points = numpy.array([(0.0, 0.8), (0.0, 0.1), (0.5, -0.3), (-0.9, -0.3)])
    assert distance_to_arcs(points, half) == pytest.approx([0.3, 0.4, 0.3, 0.5])


def test_the_distance_to_an_arc_is_that_to_its_nearest_point():
    points = numpy.random.RandomState(0).uniform(-1, 1, (16, 2))
    shares = numpy.linspace(0, 1, 20_001)
    for point, arc in zip(points, arcs(), strict=True):
        angles = arc[3] + shares * arc[4]
        on_arc = arc[:2] + arc[2] * numpy.column_stack([numpy.cos(angles), numpy.sin(angles)])
        nearest = numpy.hypot(*(on_arc - point).T).min()
        assert distance_to_arcs(point[None], arc[None]) == pytest.approx(nearest, abs=1e-6)


def test_every_curve_has_two_ends():
    assert ((arcs()[:, 4] > 0) & (arcs()[:, 4] < 1.6 * math.pi)).all()


def grid_error() -> float:
    """Of bilinear interpolation of true distances on a grid, with as many numbers as network and codes have."""
    batch = whole(made("open_curves"), "validation")
    side = int((config.load("workload", "open_curves", WorkloadConfig).parameters / len(arcs())) ** 0.5)
    line = numpy.linspace(-1, 1, side)
    grid = numpy.stack(numpy.meshgrid(line, line, indexing="ij"), axis=2).reshape(-1, 2)
    squares = []
    for curve, arc in enumerate(arcs()):
        distances = distance_to_arcs(grid, numpy.repeat(arc[None], len(grid), axis=0)).reshape(side, side)
        is_its = batch["curves"] == curve
        found = RegularGridInterpolator((line, line), distances, bounds_error=False, fill_value=None)(
            batch["inputs"][is_its].double().numpy()
        )
        squares.append((found - batch["targets"][is_its].double().numpy()) ** 2)
    return float(numpy.concatenate(squares).mean() ** 0.5)


def test_a_grid_of_as_many_true_numbers_is_nearer_than_what_training_finds():
    assert grid_error() == pytest.approx(0.0042, abs=0.0002)


@pytest.mark.slow
def test_a_network_learns_distances_that_have_no_sign_and_errs_most_at_the_crease():
    workload = made("open_curves")
    found = validated(workload, trained(workload, adam(1e-2), steps=1500, batch_size=256))
    assert grid_error() < found["distance_error"] < 0.05  # 0.031
    assert found["error_near"] > found["distance_error"]  # 0.045
