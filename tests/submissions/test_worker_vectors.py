"""Methods of simulated workers compute what their sheets write: quadratics by hand, codes, schedules, consensus."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from harness import ConfigError, Hyperparameters, SimulatedCluster, Trial, edges, mixing_matrix
from harness.plugins.conformance.rehearsal import STEPS, Rehearsal
from harness.plugins.submission import load_submission, train_function
from submissions.dadao.submission import Dadao, Graph, events
from submissions.dfedsam.submission import sam_step
from submissions.dfedsam.submission import train as train_dfedsam
from submissions.econtrol.submission import largest, sent
from submissions.fedamd.submission import anchor_probability, miner_step
from submissions.fedspeed.submission import finished, local_step
from submissions.one_byte.submission import decoded, encoded, repaired
from submissions.sequential_gradient_coding.submission import (
    Code,
    Jobs,
    SelectiveRepeat,
    code_matrix,
    decoding,
    not_waited_for,
)

# Two clients with f(x) = a (x - b)^2 / 2.
CLIENTS = ((1.0, 1.0), (4.0, -1.0))


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def race_with(name: str, **changes: object) -> Rehearsal:
    submission = load_submission(name)
    hp = Hyperparameters({**submission.hyperparameters, **changes})
    return Rehearsal().run(train_function(submission.folder, submission.entry), hp)


# --- fedspeed ---


def fedspeed(rounds: int, prox: float, *, has_dual: bool = True) -> tuple[list[float], list[float]]:
    """Server's place after each round, and the clients' last duals; five local steps of 0.1 without a radius."""
    server, duals, places = vector(0.0), [vector(0.0), vector(0.0)], []
    rule = {"lr": 0.1, "radius": 0.0, "mix": 1.0, "weight_decay": 0.0, "clip": math.inf}
    for _ in range(rounds):
        uploads = []
        for client, (a, b) in enumerate(CLIENTS):
            weights = server
            for _ in range(5):
                weights = local_step(
                    weights, server, duals[client], lambda at, a=a, b=b: a * (at - b), prox=prox, **rule
                )
            if has_dual:
                duals[client], weights = finished(weights, server, duals[client], prox)
            uploads.append(weights)
        server = torch.stack(uploads).mean(dim=0)
        places.append(float(server))
    return places, [float(dual) for dual in duals]


@pytest.mark.parametrize(
    ("prox", "places"), [(0.1, [-0.504412, -0.597208, -0.502883]), (1.0, [-0.43884, -0.572326, -0.583958])]
)
def test_fedspeed_goes_where_its_sheet_says(prox, places):
    assert fedspeed(3, prox)[0] == pytest.approx(places, abs=1e-6)


def test_fedspeed_ends_at_the_minimum_of_all_and_federated_averaging_does_not():
    places, duals = fedspeed(600, 0.1)
    assert places[-1] == pytest.approx(-0.6, abs=1e-9)
    assert duals == pytest.approx([-1.6, 1.6], abs=1e-8)
    assert fedspeed(200, 0.0, has_dual=False)[0][-1] == pytest.approx(-0.385005, abs=1e-6)


def test_fedspeeds_step_is_clipped_whole_and_looks_uphill():
    seen: list[Tensor] = []

    def gradient(at: Tensor) -> Tensor:
        seen.append(at)
        return vector(3.0, 4.0)

    rule = {"lr": 1.0, "prox": 0.0, "radius": 0.1, "mix": 1.0, "weight_decay": 0.0}
    zero = vector(0.0, 0.0)
    moved = local_step(zero, zero, zero, gradient, clip=1.0, **rule)
    torch.testing.assert_close(seen[1], vector(0.06, 0.08), atol=1e-8, rtol=0)
    torch.testing.assert_close(moved, vector(-0.6, -0.8), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_fedspeeds_server_may_use_the_duals_of_all_clients():
    """As the authors' code does; their paper has those of the active ones."""

    def last(**changes: object) -> dict[str, Tensor]:
        return race_with("fedspeed", workers=4, concentration=None, **changes).weights[-1]

    paper, code = (last(active=4, local_steps=40, all_duals=each) for each in (False, True))
    for name, value in paper.items():
        torch.testing.assert_close(code[name], value, atol=1e-4, rtol=1e-3)
    some, all_ = (last(active=1, local_steps=40, all_duals=each) for each in (False, True))
    assert any(not torch.allclose(some[name], all_[name], atol=1e-3) for name in some)


# --- fedamd ---


def test_fedamd_goes_where_its_sheet_says():
    a, b = CLIENTS[0]
    direction = vector(sum(curvature * (0.0 - place) for curvature, place in CLIENTS) / 2)
    before, weights, seen = None, vector(0.0), []
    for _ in range(3):
        now = weights
        weights, direction = miner_step(now, before, direction, lambda at: a * (at - b), 0.1)
        before = now
        seen.append((float(direction), float(weights)))
    assert [each for each, _ in seen] == pytest.approx([1.5, 1.35, 1.215])
    assert [each for _, each in seen] == pytest.approx([-0.15, -0.285, -0.4065])


def test_fedamds_share_of_anchors():
    assert anchor_probability(5.0) == pytest.approx(0.488088, abs=1e-6)


def test_fedamd_without_local_steps_goes_along_the_anchor_without_a_gradient_of_miners():
    race = race_with("fedamd", local_steps=1, anchor_probability=0.5)
    assert race.reported[-1]["gradient_calls"] < 8 + STEPS * 4
    assert race.losses[-1] < 0.9 * race.losses[0]


# --- dfedsam ---


def test_a_sam_step_looks_along_the_gradient_of_all_parameters_together():
    seen: list[Tensor] = []

    def gradient(at: Tensor) -> Tensor:
        seen.append(at)
        return vector(3.0, 4.0)

    moved = sam_step(vector(0.0, 0.0), gradient, lr=0.1, radius=0.01)
    torch.testing.assert_close(seen[1], vector(0.006, 0.008))
    torch.testing.assert_close(moved, vector(-0.3, -0.4))


def test_dfedsam_without_a_radius_is_decentralised_averaging_bit_for_bit():
    def averaging(trial: Trial, hp: Hyperparameters) -> None:
        cluster = SimulatedCluster(trial, hp.workers, concentration=hp.concentration)
        local, mixing = cluster.weights().repeat(hp.workers, 1), mixing_matrix(hp.topology, hp.workers)
        cluster.judge(lambda: local.mean(dim=0))
        for number, step in cluster.steps(hp.local_steps):
            for worker in range(hp.workers):
                gradient = cluster.gradient(local[worker], cluster.batch(worker, trial.batch_size_hint))
                local[worker] = local[worker] - hp.learning_rate * hp.decay**number * gradient
            if step == hp.local_steps - 1:
                local = mixing @ local

    hp = Hyperparameters({**load_submission("dfedsam").hyperparameters, "radius": 0.0, "workers": 3})
    found, expected = Rehearsal().run(train_dfedsam, hp), Rehearsal().run(averaging, hp)
    assert found.losses == expected.losses
    assert all(torch.equal(found.weights[-1][name], expected.weights[-1][name]) for name in found.weights[-1])


@pytest.mark.slow
def test_workers_agree_better_the_more_they_gossip():
    once, often = (race_with(name, workers=8, local_steps=2) for name in ("dfedsam", "dfedsam_mgs"))
    for few, many in zip(once.reported, often.reported, strict=True):
        assert many["consensus_distance"] < 0.5 * few["consensus_distance"]
    assert often.reported[-1]["bytes_sent"] == 4 * once.reported[-1]["bytes_sent"]


# --- econtrol ---


def test_econtrol_sends_what_its_sheet_says():
    delta, error, copy = sent(vector(3, 1, 2), vector(0, 5, 0), vector(1, 0, 0), eta=0.5, count=1)
    assert delta.tolist() == [0.0, 3.5, 0.0]
    assert error.tolist() == [2.0, 2.5, 2.0]
    assert copy.tolist() == [1.0, 3.5, 0.0]


def test_econtrols_error_is_all_that_was_not_sent():
    generator = torch.Generator().manual_seed(1)
    error, copy, missing = (torch.zeros(6, dtype=torch.float64) for _ in range(3))
    for _ in range(20):
        gradient = torch.randn(6, dtype=torch.float64, generator=generator)
        _, error, copy = sent(gradient, error, copy, eta=0.1, count=2)
        missing += gradient - copy
        torch.testing.assert_close(error, missing)


def test_econtrol_converges_where_compressed_gradient_descent_grows():
    slopes = torch.stack([vector(-3, 2, 2), vector(2, -3, 2), vector(2, 2, -3)])

    def gradients(at: Tensor) -> Tensor:
        return 2 * (slopes @ at).unsqueeze(1) * slopes + 0.5 * at

    naive, weights = vector(1, 1, 1), vector(1, 1, 1)
    naive = naive - 0.01 * largest(gradients(naive), 1).mean(dim=0)
    torch.testing.assert_close(naive, (1 + 0.11 / 6) * vector(1, 1, 1))
    errors, copies = torch.zeros_like(slopes), gradients(weights)
    direction = copies.mean(dim=0)
    for _ in range(2000):
        weights = weights - 0.01 * direction
        deltas, errors, copies = sent(gradients(weights), errors, copies, eta=0.1, count=1)
        direction = direction + deltas.mean(dim=0)
    assert float(weights.norm()) < 1e-9


@pytest.mark.slow
def test_econtrol_stands_unlike_data_and_noise_where_its_rivals_do_not():
    generator = torch.Generator().manual_seed(1)
    numbers = torch.arange(1, 11, dtype=torch.float64).unsqueeze(1)
    curvatures, places = (
        numbers / math.sqrt(10),
        100 / numbers * torch.randn(10, 100, dtype=torch.float64, generator=generator),
    )
    best = (curvatures * places).mean(dim=0) / curvatures.square().mean(dim=0)

    def gap(rule: str, eta: float) -> float:
        weights, seen = torch.zeros(100, dtype=torch.float64), []
        errors, copies = torch.zeros_like(places), torch.zeros_like(places)
        noise = torch.Generator().manual_seed(2)
        direction = torch.zeros(100, dtype=torch.float64)
        for step in range(6000):
            gradients = curvatures * (curvatures * weights - places)
            gradients = gradients + 5 * torch.randn(10, 100, dtype=torch.float64, generator=noise)
            if rule == "classic":
                deltas, errors, _ = sent(gradients, errors, torch.zeros_like(places), eta=1.0, count=10)
                direction = deltas.mean(dim=0)
            elif step == 0:
                copies, direction = gradients, gradients.mean(dim=0)
            else:
                deltas, errors, copies = sent(gradients, errors, copies, eta=eta, count=10)
                direction = direction + deltas.mean(dim=0)
            weights = weights - 0.005 * direction
            if step >= 4800:
                seen.append(float(curvatures.square().mean() * (weights - best).square().sum() / 2))
        return sum(seen) / len(seen)

    found = gap("econtrol", 0.05)
    assert found < 0.5 * gap("classic", 1.0)
    assert found < 0.5 * gap("econtrol", 0.0), "without its error it is EF21"
    assert found == pytest.approx(0.853, rel=0.3)


# --- one_byte ---


@pytest.mark.parametrize(
    ("slope", "level", "back"),
    [(0.5, -11, 0.50283), (-3.0, 18, -3.08022), (1e-5, -127, 3.571e-4), (1e5, 127, 2800.35)],
)
def test_the_code_with_nine_bits_is_the_authors(slope, level, back):
    code = encoded(slope, 127)
    assert code - 1 - 127 - 255 * (slope < 0) == level
    assert decoded(code, 127) == pytest.approx(back, rel=2e-5)


def test_the_code_is_a_byte_that_knows_zero_and_is_off_by_a_sixteenth_at_most():
    assert decoded(encoded(0.0)) == 0.0
    assert decoded(encoded(math.nan)) == 0.0
    codes = set()
    for exponent in range(-780, 780):
        for slope in (math.exp(exponent / 100), -math.exp(exponent / 100)):
            codes.add(encoded(slope))
            assert decoded(encoded(slope)) / slope == pytest.approx(1.0, abs=math.exp(1 / 16) - 1)
    codes |= {encoded(each) for each in (0.0, math.inf, -math.inf, 1e-300, -1e-300)}
    assert codes == set(range(255))


def test_machines_stay_equal_and_send_a_byte_for_each_slope():
    race = race_with("one_byte", workers=3, slopes=2, check_every=1000)
    replicas = race.resumable["kept"].replicas
    assert all(torch.equal(replicas[0], replica) for replica in replicas[1:])
    assert race.reported[-1]["bytes_sent"] == STEPS * 3 * 2 * 2
    assert race.reported[-1]["loss_calls"] == STEPS * 3 * 2 * 2
    assert race.reported[-1]["gradient_calls"] == 0


def test_machines_together_are_one_machine_that_measures_all_slopes_itself():
    def alone(trial: Trial, hp: Hyperparameters) -> None:
        cluster = SimulatedCluster(trial, hp.workers)
        weights = cluster.weights()
        cluster.judge(lambda: weights)
        for number, _ in cluster.steps():
            moves = []
            for machine, each in itertools.product(range(hp.workers), range(hp.slopes)):
                with cluster.working(machine):
                    batch = cluster.batch(machine, trial.batch_size_hint, number=number * hp.slopes + each)
                    drawn = torch.randn(cluster.size, generator=cluster.generator("direction", number, machine, each))
                    losses = [cluster.loss(weights + way * hp.epsilon * drawn, batch) for way in (1, -1)]
                    slope = (losses[0] - losses[1]) / (2 * hp.epsilon)
                moves.append((decoded(encoded(slope)), drawn))
            for slope, drawn in moves:
                weights.add_(drawn, alpha=-hp.learning_rate / math.sqrt(len(moves)) * slope)

    together, one = race_with("one_byte"), Rehearsal().run(alone, load_submission("one_byte").hyperparameters)
    assert together.losses == one.losses


def test_a_machine_with_other_weights_gets_those_of_the_first():
    replicas = torch.ones(3, 4)
    assert repaired(replicas) == 0
    replicas[2, 1] = 1.5
    assert repaired(replicas) == 1
    assert bool((replicas == 1).all())


# --- sequential_gradient_coding ---


def test_what_a_worker_computes_of_a_batch():
    assert Code(256, 1, 1, 15).load == pytest.approx(0.0625)
    assert Code(256, 2, 1, 27).load == pytest.approx(0.007543, abs=1e-6)
    assert Code(256, 1, 1, 0).load == pytest.approx(0.003906, abs=1e-6)
    assert SelectiveRepeat(256, 3, 2, 23).spread == 12
    assert SelectiveRepeat(256, 3, 2, 23).load == pytest.approx(0.050781, abs=1e-6)


def test_any_workers_but_the_late_ones_recover_the_sum():
    matrix = torch.stack([vector(0.5, 1, 0), vector(0, 1, -1), vector(0.5, 0, 1)])
    expected = {(0, 1): [2, -1, 0], (0, 2): [1, 0, 1], (1, 2): [0, 1, 2]}
    for received, weights in expected.items():
        found = decoding(matrix, torch.tensor([worker in received for worker in range(3)]))
        torch.testing.assert_close(found, vector(*weights))
        assert float(found @ (matrix @ vector(1, 2, 4))) == pytest.approx(7.0)


@pytest.mark.parametrize(("workers", "late"), [(4, 0), (4, 1), (5, 2), (8, 3)])
def test_a_code_has_ones_in_the_span_of_any_rows_that_may_arrive(workers, late):
    matrix = code_matrix(workers, late, torch.Generator().manual_seed(1))
    assert int((matrix != 0).sum(dim=1).max()) == late + 1
    for missing in itertools.combinations(range(workers), late):
        received = torch.tensor([worker not in missing for worker in range(workers)])
        ones = decoding(matrix, received) @ matrix
        torch.testing.assert_close(ones, torch.ones(workers, dtype=torch.float64), atol=1e-8, rtol=0)


@pytest.mark.parametrize(
    "code",
    [
        *(
            Code(n, window, burst, late)
            for burst, window, late, n in ((1, 2, 2, 5), (2, 3, 1, 4), (2, 4, 2, 5), (3, 4, 2, 5))
        ),
        *(
            SelectiveRepeat(n, window, burst, late)
            for burst, window, late, n in ((1, 2, 2, 5), (2, 3, 1, 4), (2, 5, 3, 8))
        ),
    ],
)
def test_every_job_is_decoded_exactly_whoever_is_slow(code):
    generator, window, workers = torch.Generator().manual_seed(1), code.window, code.workers
    jobs = Jobs(code, code_matrix(workers, code.spread, generator), torch.zeros(3, dtype=torch.float64))
    parts = torch.randn(60, code.units, 3, dtype=torch.float64, generator=generator)
    was_slow = torch.zeros(window, workers, dtype=torch.bool)
    lost = 0
    for number in range(60):
        seconds = torch.where(torch.rand(workers, generator=generator) < 0.3, 5.0, 1.0)
        slow = not_waited_for(code, was_slow[1:], seconds, 1.0)
        was_slow = torch.cat([was_slow[1:], slow.unsqueeze(0)])
        jobs.start(number, torch.zeros(3, dtype=torch.float64))
        lost += int(slow.sum())
        for worker in (~slow).nonzero().flatten().tolist():
            for task in jobs.tasks(number, worker):
                assert len(task.units) == code.spread + 1
                jobs.receive(task, task.shares.double() @ parts[task.job, task.units])
        done = number - code.rounds + 1
        if done >= 0:
            torch.testing.assert_close(jobs.decoded(done), parts[done].sum(dim=0), atol=1e-4, rtol=1e-5)
    assert lost > 10


def test_a_burst_that_a_repetition_cannot_meet_is_refused():
    with pytest.raises(ConfigError, match="Use a burst that divides"):
        SelectiveRepeat(8, 4, 2, 1)


def test_the_master_waits_for_the_fastest_of_those_it_cannot_do_without():
    code, nobody = Code(4, 2, 1, 1), torch.zeros(1, 4, dtype=torch.bool)
    slow = not_waited_for(code, nobody, vector(1, 9, 5, 1), 1.0)
    assert slow.tolist() == [False, True, False, False]
    again = not_waited_for(code, slow.unsqueeze(0), vector(1, 9, 1, 1), 1.0)
    assert again.tolist() == [False, False, False, False]
    assert not not_waited_for(code, nobody, vector(1, 1.9, 1.5, 1), 1.0).any()


@pytest.mark.slow
def test_the_less_a_code_waits_the_less_virtual_time_passes():
    """Work counts by load, so that the chain of rounds is the same on any machine."""

    def seconds_of(code: Code) -> float:
        generator, total = torch.Generator().manual_seed(1), 0.0
        is_slow, was_slow = (
            torch.zeros(code.workers, dtype=torch.bool),
            torch.zeros(code.window, code.workers, dtype=torch.bool),
        )
        for _ in range(400):
            draws = torch.rand(code.workers, generator=generator)
            is_slow = draws < torch.where(is_slow, 0.05, 0.02)
            seconds = torch.where(is_slow, 8.0, 1.0) * (1.0 + 20 * code.load)
            slow = not_waited_for(code, was_slow[1:], seconds, 1.0)
            was_slow = torch.cat([was_slow[1:], slow.unsqueeze(0)])
            total += float(seconds[~slow].max())
        return total

    sequential, classic, uncoded = (seconds_of(Code(32, *each)) for each in ((2, 1, 4), (1, 1, 4), (1, 1, 0)))
    assert sequential < seconds_of(SelectiveRepeat(32, 2, 1, 4)) < classic < uncoded


# --- dadao ---


def test_constants_of_a_ring_of_four():
    graph = Graph(4, edges("ring", 4))
    assert graph.chi1 == pytest.approx(2.0)
    assert graph.chi2 == pytest.approx(1.5)
    assert graph.gossips == pytest.approx(2.449490, abs=1e-6)


def test_dadao_finds_the_consensus_of_quadratics():
    graph, places = Graph(4, edges("ring", 4)), vector(1, 2, -1, 4)
    nodes = Dadao(torch.zeros(1), graph, convexity=1.0, smoothness=1.0)
    errors, gradients, gossips = {}, 0, 0
    for unit in range(200):
        for time, where in events(graph, unit, torch.Generator().manual_seed(unit)):
            for node in where:
                nodes.advance(node, time)
            if len(where) == 2:
                nodes.gossip(*where)
                gossips += 1
            else:
                nodes.take_gradient(where[0], lambda at, node=where[0]: at - places[node])
                gradients += 1
        errors[unit + 1] = float((nodes.state[:, 0, 0] - 1.5).square().mean())
    assert errors[50] < 1e-2
    assert errors[100] < 1e-4
    assert errors[200] < 1e-9
    assert gradients == pytest.approx(4 * 200, rel=0.15)
    assert gossips == pytest.approx(2.449490 * 200, rel=0.15)
