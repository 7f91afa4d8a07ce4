"""Sequential gradient coding: slow workers are not waited for; what they miss is tried again, or in others' sums."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from harness import ConfigError, Hyperparameters, ResumableTensors, SimulatedCluster, Trial


@dataclass(frozen=True)
class Code:
    """M-SGC: who does what when, if in any `window` rounds at most `late` workers are slow, each for `burst` at most.

    A job, the gradient of one batch, takes `rounds`. Its batch has window - 1 large chunks for each worker, which it
    computes alone and tries again, and `burst` groups of small chunks, one for each worker, of which every worker sends
    one sum of `spread` + 1. A window of 1 is classic gradient coding. Source: arXiv 2211.13802, section 4.
    """

    workers: int
    window: int
    burst: int
    late: int

    @property
    def alone(self) -> int:
        """Large chunks of each worker in a job."""
        return self.window - 1

    @property
    def groups(self) -> int:
        """Groups of small chunks in a job."""
        return self.burst

    @property
    def spread(self) -> int:
        """Workers whose sums of a group are not needed; a large chunk is as large as this many small ones and one."""
        return self.late

    @property
    def rounds(self) -> int:
        """Rounds from the first of a job until it can be decoded."""
        return self.window - 1 + self.burst

    @property
    def units(self) -> int:
        """Small chunks that a batch is cut into."""
        return self.workers * (self.alone * (self.spread + 1) + self.groups)

    @property
    def load(self) -> float:
        """Share of a batch that one worker computes in a round."""
        return self.rounds * (self.spread + 1) / self.units

    def large(self, worker: int, number: int) -> list[int]:
        """Units of one of a worker's large chunks."""
        first = (worker * self.alone + number) * (self.spread + 1)
        return list(range(first, first + self.spread + 1))

    def small(self, group: int, worker: int) -> list[int]:
        """Units in a worker's sum for a group: its own small chunk, and those of the next workers."""
        first = self.workers * (self.alone * (self.spread + 1) + group)
        return [first + (worker + other) % self.workers for other in range(self.spread + 1)]

    def admits(self, slow: Tensor) -> bool:
        """Whether the workers slow in the last `window` rounds can be done without. Shape: bool [window, workers]."""
        if int(slow.any(dim=0).sum()) > self.late:
            return False
        places = [rounds.nonzero().flatten() for rounds in slow.T]
        return all(len(each) == 0 or int(each[-1] - each[0]) < self.burst for each in places)


@dataclass(frozen=True)
class SelectiveRepeat(Code):
    """SR-SGC: a job is one group; who missed the one `burst` rounds ago repeats it, if its sum is still needed.

    As many repeat as are needed, those of the smallest numbers. Raises ConfigError unless `burst` divides `window` - 1.
    Source: as above, section 3.
    """

    def __post_init__(self) -> None:
        if (self.window - 1) % self.burst:
            raise ConfigError(
                f"sr_sgc got burst {self.burst} and window {self.window}. Use a burst that divides window - 1."
            )

    @property
    def alone(self) -> int:
        """None."""
        return 0

    @property
    def groups(self) -> int:
        """One."""
        return 1

    @property
    def spread(self) -> int:
        """Late workers of a window, spread over the rounds in which they can be late."""
        return math.ceil(self.burst * self.late / (self.window - 1 + self.burst))

    @property
    def rounds(self) -> int:
        """The first, and the one of the repetition."""
        return self.burst + 1

    @property
    def load(self) -> float:
        """One sum."""
        return (self.spread + 1) / self.units


SCHEMES = {"m_sgc": Code, "sr_sgc": SelectiveRepeat}


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


@dataclass(frozen=True)
class Task:
    """A large chunk, or a worker's sum for a group: units of a job's batch, and by which shares they are added up."""

    job: int
    worker: int
    units: list[int]
    shares: Tensor
    chunk: int | None = None
    group: int = 0


class Jobs:
    """What has arrived of the jobs under way. They take turns on `code.rounds` places; all is kept in `kept`."""

    def __init__(self, code: Code, matrix: Tensor, start: Tensor) -> None:
        places, n, size = code.rounds, code.workers, len(start)
        self.code = code
        self.matrix = matrix
        self.kept = ResumableTensors(
            weights=start.repeat(places, 1),
            sums=start.new_zeros(places, size),
            is_done=torch.zeros(places, n, code.alone, dtype=torch.bool),
            coded=start.new_zeros(places, code.groups, n, size),
            has_coded=torch.zeros(places, code.groups, n, dtype=torch.bool),
        )

    def start(self, job: int, weights: Tensor) -> None:
        """A new job, of the gradient at these weights, on the place of the one that has been decoded."""
        place = job % self.code.rounds
        self.kept.weights[place] = weights
        for name in ("sums", "is_done", "coded", "has_coded"):
            getattr(self.kept, name)[place] = 0

    def tasks(self, number: int, worker: int) -> list[Task]:
        """What a worker does in round `number`."""
        if isinstance(self.code, SelectiveRepeat):
            old = number - self.code.burst
            return [self._sum(old if old >= 0 and worker in self._repeating(old) else number, worker, 0)]
        under_way = range(max(0, number - self.code.rounds + 1), number + 1)
        return [self._task(job, worker, number - job) for job in under_way]

    def _task(self, job: int, worker: int, slot: int) -> Task:
        """The first attempt of a large chunk; later the oldest one that is missing; else a sum of small chunks."""
        missing = (~self.kept.is_done[job % self.code.rounds, worker]).nonzero().flatten().tolist()
        chunk = slot if slot < self.code.alone else next(iter(missing), None)
        if chunk is None:
            return self._sum(job, worker, slot - self.code.alone)
        return Task(job, worker, self.code.large(worker, chunk), torch.ones(self.code.spread + 1), chunk=chunk)

    def _sum(self, job: int, worker: int, group: int) -> Task:
        units = self.code.small(group, worker)
        first = min(self.code.small(group, 0))
        shares = self.matrix[worker, [unit - first for unit in units]].float()
        return Task(job, worker, units, shares, group=group)

    def _repeating(self, job: int) -> list[int]:
        """Workers without whose sums a job cannot be decoded."""
        has_coded = self.kept.has_coded[job % self.code.rounds, 0]
        needed = self.code.workers - self.code.spread - int(has_coded.sum())
        missing: list[int] = (~has_coded).nonzero().flatten().tolist()
        return missing[: max(0, needed)]

    def receive(self, task: Task, result: Tensor) -> None:
        """The result of a task: its units' gradients, weighted by their shares and added up."""
        place = task.job % self.code.rounds
        if task.chunk is not None:
            self.kept.sums[place] += result
            self.kept.is_done[place, task.worker, task.chunk] = True
        else:
            self.kept.coded[place, task.group, task.worker] = result
            self.kept.has_coded[place, task.group, task.worker] = True

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
    if hp.scheme not in SCHEMES:
        raise ConfigError(f"scheme is {hp.scheme!r}. Use one of {', '.join(SCHEMES)}.")
    cluster = SimulatedCluster(trial, hp.workers)
    code = SCHEMES[hp.scheme](hp.workers, hp.window, hp.burst, hp.late)
    weights = torch.nn.Parameter(cluster.weights())
    optimizer = torch.optim.Adam([weights], lr=hp.learning_rate)
    jobs = Jobs(code, code_matrix(code.workers, code.spread, cluster.generator("code")), weights.detach())
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
                for task in jobs.tasks(number, worker):
                    places = (torch.tensor(task.units).unsqueeze(1) * unit_size + torch.arange(unit_size)).flatten()
                    batch = {name: each[places.to(each.device)] for name, each in batches[task.job].items()}
                    shares = task.shares.repeat_interleave(unit_size).to(trial.device)
                    result = cluster.gradient(jobs.kept.weights[task.job % code.rounds], batch, example_weights=shares)
                    if not slow[worker]:
                        cluster.ledger.send(cluster.size)
                        jobs.receive(task, result)
        in_time = (~slow).nonzero().flatten().tolist()
        cluster.ledger.meet([cluster.server, *in_time], left_behind=slow.nonzero().flatten().tolist())
        done = number - code.rounds + 1
        if done >= 0:
            with cluster.working(cluster.server):
                weights.grad = jobs.decoded(done) / (unit_size * code.units)
                optimizer.step()
