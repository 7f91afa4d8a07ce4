"""M-SGC: slow workers are not waited for; what they miss is tried again a round later, or is in others' sums."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from harness import Hyperparameters, ResumableTensors, SimulatedCluster, Trial


@dataclass(frozen=True)
class Code:
    """Who computes what when. Tolerates `late` workers in any `window` rounds in a row, each in `burst` at most.

    A job, the gradient of one batch, takes `rounds`. Its batch has window - 1 large chunks for each worker, which it
    computes alone and tries again, and `burst` groups of small chunks, one for each worker, of which every worker sends
    one sum of late + 1. A window of 1 is classic gradient coding. Source: arXiv 2211.13802, section 4.
    """

    workers: int
    window: int
    burst: int
    late: int

    @property
    def rounds(self) -> int:
        """Rounds from the first of a job until it can be decoded; each worker has a task of the job in all of them."""
        return self.window - 1 + self.burst

    @property
    def units(self) -> int:
        """Small chunks that a batch is cut into; a large one is late + 1 of them, so that all tasks are as large."""
        return self.workers * ((self.window - 1) * (self.late + 1) + self.burst)

    @property
    def load(self) -> float:
        """Share of a batch that one worker computes in a round."""
        return self.rounds * (self.late + 1) / self.units

    def large(self, worker: int, number: int) -> list[int]:
        """Units of one of a worker's large chunks."""
        first = (worker * (self.window - 1) + number) * (self.late + 1)
        return list(range(first, first + self.late + 1))

    def small(self, group: int, worker: int) -> list[int]:
        """Units in a worker's sum for a group: its own small chunk, and those of the next workers."""
        first = self.workers * ((self.window - 1) * (self.late + 1) + group)
        return [first + (worker + other) % self.workers for other in range(self.late + 1)]

    def admits(self, slow: Tensor) -> bool:
        """Whether the workers slow in the last `window` rounds can be done without. Shape: bool [window, workers]."""
        if int(slow.any(dim=0).sum()) > self.late:
            return False
        places = [rounds.nonzero().flatten() for rounds in slow.T]
        return all(len(each) == 0 or int(each[-1] - each[0]) < self.burst for each in places)


def code_matrix(workers: int, late: int, generator: torch.Generator) -> Tensor:
    """Rows of late + 1 neighbouring entries, such that any `workers` - `late` of them have all ones in their span.

    Shape: float64 [workers, workers]. Source: Tandon et al., Gradient Coding, ICML 2017, algorithm 2.
    """
    code = torch.eye(workers, dtype=torch.float64)
    if late == 0:
        return code
    null = torch.randn(late, workers, dtype=torch.float64, generator=generator)
    null[:, -1] = -null[:, :-1].sum(dim=1)
    for worker in range(workers):
        others = [(worker + other) % workers for other in range(1, late + 1)]
        code[worker, others] = -torch.linalg.solve(null[:, others], null[:, worker])
    return code


def decoding(code: Tensor, received: Tensor) -> Tensor:
    """Weights of the received rows under which they add up to ones; zero for the others. Shapes: [n, n], bool [n]."""
    weights = torch.zeros(len(code), dtype=torch.float64)
    ones = torch.ones(len(code), 1, dtype=torch.float64)
    weights[received] = torch.linalg.lstsq(code[received].T, ones, driver="gelsd").solution.flatten()
    return weights


def not_waited_for(code: Code, before: Tensor, seconds: Tensor, tolerance: float) -> Tensor:
    """Workers that a round ends without: those slower than (1 + tolerance) times the fastest, if the code admits it.

    Else the master waits for one after the other. `before`: who was slow in the `window` - 1 rounds before, bool
    [window - 1, workers]; `seconds` [workers] -> bool [workers].
    """
    slow = seconds > (1 + tolerance) * seconds.min()
    for worker in seconds.argsort(stable=True).tolist():
        if code.admits(torch.cat([before, slow.unsqueeze(0)])):
            break
        slow[worker] = False
    return slow


class Jobs:
    """What has arrived of the jobs under way. They take turns on `code.rounds` places; all is kept in `kept`."""

    def __init__(self, code: Code, matrix: Tensor, start: Tensor) -> None:
        places, n, size = code.rounds, code.workers, len(start)
        self.code = code
        self.matrix = matrix
        self.kept = ResumableTensors(
            weights=start.repeat(places, 1),
            sums=start.new_zeros(places, size),
            is_done=torch.zeros(places, n, code.window - 1, dtype=torch.bool),
            coded=start.new_zeros(places, code.burst, n, size),
            has_coded=torch.zeros(places, code.burst, n, dtype=torch.bool),
        )

    def start(self, job: int, weights: Tensor) -> None:
        """A new job, of the gradient at these weights, on the place of the one that has been decoded."""
        place = job % self.code.rounds
        self.kept.weights[place] = weights
        for name in ("sums", "is_done", "coded", "has_coded"):
            getattr(self.kept, name)[place] = 0

    def task(self, job: int, worker: int, slot: int) -> tuple[list[int], Tensor, tuple[int, int]]:
        """A worker's task of a job in its round `slot`: units, their weights, and (0, large chunk) or (1, group).

        The first attempt of a large chunk; later the oldest one that is missing; else a sum of small chunks.
        """
        place, first_sum = job % self.code.rounds, self.code.window - 1
        missing = (~self.kept.is_done[place, worker]).nonzero().flatten().tolist()
        number = slot if slot < first_sum else next(iter(missing), None)
        if number is not None:
            return self.code.large(worker, number), torch.ones(self.code.late + 1), (0, number)
        units = self.code.small(slot - first_sum, worker)
        first = self.code.small(slot - first_sum, 0)[0]
        return units, self.matrix[worker, [unit - first for unit in units]].float(), (1, slot - first_sum)

    def receive(self, job: int, worker: int, what: tuple[int, int], result: Tensor) -> None:
        """The result of a task."""
        place, (is_sum, number) = job % self.code.rounds, what
        if is_sum:
            self.kept.coded[place, number, worker] = result
            self.kept.has_coded[place, number, worker] = True
        else:
            self.kept.sums[place] += result
            self.kept.is_done[place, worker, number] = True

    def decoded(self, job: int) -> Tensor:
        """Sum of the gradients of all examples of a job whose last round has ended."""
        place = job % self.code.rounds
        assert bool(self.kept.is_done[place].all()), "the pattern of slow workers was admissible"
        total = self.kept.sums[place].clone()
        for results, received in zip(self.kept.coded[place], self.kept.has_coded[place], strict=True):
            total += decoding(self.matrix, received).to(results) @ results
        return total


def train(trial: Trial, hp: Hyperparameters) -> None:
    """Adam along exact gradients of whole batches that come `rounds` - 1 steps late. The stragglers are simulated."""
    cluster = SimulatedCluster(trial, hp.workers)
    code = Code(hp.workers, hp.window, hp.burst, hp.late)
    weights = torch.nn.Parameter(cluster.weights())
    optimizer = torch.optim.Adam([weights], lr=hp.learning_rate)
    jobs = Jobs(code, code_matrix(code.workers, code.late, cluster.generator("code")), weights.detach())
    was_slow = torch.zeros(code.window, code.workers, dtype=torch.bool)
    stragglers = ResumableTensors(was_slow=was_slow, is_slow=torch.zeros(code.workers, dtype=torch.bool))
    trial.resumable(optimizer=optimizer, weights=ResumableTensors(weights=weights), jobs=jobs.kept, slow=stragglers)
    cluster.judge(lambda: weights.detach())
    unit_size = max(1, min(hp.batch_factor * trial.batch_size_hint, len(trial.train_set)) // code.units)
    for number, _ in cluster.steps():
        draws = torch.rand(code.workers, generator=cluster.generator("stragglers", number))
        chances = torch.where(stragglers.is_slow, 1 - hp.slow_ends, hp.slow_begins)
        stragglers.is_slow.copy_(draws < chances)
        slowdowns = torch.where(stragglers.is_slow, hp.slowdown, 1.0)
        slow = not_waited_for(code, stragglers.was_slow[1:], slowdowns, hp.tolerance)
        stragglers.was_slow.copy_(torch.cat([stragglers.was_slow[1:], slow.unsqueeze(0)]))
        jobs.start(number, weights.detach())
        under_way = range(max(0, number - code.rounds + 1), number + 1)
        batches = {job: cluster.batch(cluster.server, unit_size * code.units, number=job) for job in under_way}
        cluster.meet_server(range(code.workers), numbers=cluster.size)
        for worker in range(code.workers):
            with cluster.working(worker, slowdown=float(slowdowns[worker])):
                for job in under_way:
                    units, shares, what = jobs.task(job, worker, number - job)
                    places = (torch.tensor(units).unsqueeze(1) * unit_size + torch.arange(unit_size)).flatten()
                    batch = {name: values[places.to(values.device)] for name, values in batches[job].items()}
                    each = shares.repeat_interleave(unit_size).to(trial.device)
                    result = cluster.gradient(jobs.kept.weights[job % code.rounds], batch, example_weights=each)
                    if not slow[worker]:
                        jobs.receive(job, worker, what, result)
        in_time = (~slow).nonzero().flatten().tolist()
        cluster.ledger.meet([cluster.server, *in_time], left_behind=slow.nonzero().flatten().tolist())
        cluster.ledger.send(len(in_time) * len(under_way) * cluster.size)
        done = number - code.rounds + 1
        if done >= 0:
            with cluster.working(cluster.server):
                weights.grad = jobs.decoded(done) / (unit_size * code.units)
                optimizer.step()
