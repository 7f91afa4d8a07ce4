"""What the data-parallel trainers (ranks) of one trial do together: shares of a batch, losses, gradients, decisions.

Needs torch's default process group. With one device there are no ranks, and nothing here runs.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils.hooks import RemovableHandle

from harness.api import ConfigError

T = TypeVar("T")

# What ranks that have averaged the same gradients may differ by, relative to a tensor's norm: rounding on GPUs. Ranks
# that train apart pass it within a few steps.
_SAME_WEIGHTS = 1e-3


class Turn(IntEnum):
    """What happens where a step ends."""

    GO_ON = 0
    EVALUATE = 1
    FINISH = 2
    END_STAGE = 3


# What all ranks must decide alike: rank 0's clock alone says when an evaluation is due.
_SAID_BY_ALL = {Turn.FINISH: "finishes at", Turn.END_STAGE: "ends a stage at"}


class Ranks:
    """The ranks of a trial, from the side of one of them. All must call the same methods in the same order."""

    def __init__(self, model: nn.Module) -> None:
        self.rank = dist.get_rank()
        self.world_size = dist.get_world_size()
        self.averages = True
        """False inside `local_gradients`: losses and gradients are of this rank's examples alone."""
        self._model = model
        self._reducer: DistributedDataParallel | None = None
        self._reduced: list[nn.Parameter] = []
        self._hooks: list[RemovableHandle] = []
        self._is_armed = False
        self._is_completing = False
        self._reached: set[nn.Parameter] = set()  # by the backward pass that runs
        self.may_differ = False
        """True once a submission has used `local_gradients`: weights are not compared between the ranks any more."""
        # Every forward pass, by whatever road, announces a backward pass. A copy of the model keeps its hooks.
        arm = torch.compiler.disable(self._arm)
        model.register_forward_pre_hook(lambda module, _: arm() if module is model else None)

    # --- batches and losses ---

    def share(self, index: Tensor) -> Tensor:
        """This rank's contiguous part of the indices of a global batch. Shapes: [batch] -> [batch / world_size].

        Raises ConfigError where the batch does not divide: parts of different sizes would weigh examples differently.
        """
        if len(index) % self.world_size:
            raise ConfigError(
                f"batch size {len(index)} does not divide by hardware.devices={self.world_size}. "
                "Use a multiple of it, or another number of devices."
            )
        size = len(index) // self.world_size
        return index[self.rank * size : (self.rank + 1) * size]

    def mean(self, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Mean over the units of all ranks that count, the same number on each; zero where none does. Shape: [].

        Its gradient is scaled so that the mean over the ranks is the gradient of that mean, whatever their weights.
        """
        if weights is None:
            total, count = losses.sum(), torch.full((), float(losses.numel()), device=losses.device)
        else:
            total, count = (losses * weights).sum(), weights.sum()
        return _over_all_ranks(total, count)

    def sum(self, losses: Tensor, weights: Tensor | None) -> Tensor:
        """Sum over the units of all ranks that count, with its gradient scaled as in `mean`. Shape: []."""
        total = losses.sum() if weights is None else (losses * weights).sum()
        return _over_all_ranks(total, None)

    # --- gradients ---

    @contextlib.contextmanager
    def local_gradients(self) -> Iterator[None]:
        """Average nothing inside; weights may differ between the ranks from here on."""
        before, self.averages, self.may_differ = self.averages, False, True
        try:
            yield
        finally:
            self.averages = before

    def _arm(self) -> None:
        """Let the next backward pass average gradients over the ranks."""
        if not (self.averages and torch.is_grad_enabled()):
            return
        trainable = [parameter for parameter in self._model.parameters() if parameter.requires_grad]
        if not trainable:
            return
        if self._reducer is None or not _are_same(trainable, self._reduced):
            # Made anew where a submission has frozen or thawed parameters: DDP fixes them when it is made. Weights are
            # equal by their seed; DDP must not hide where they have come apart.
            self._reducer, self._reduced = DistributedDataParallel(_Parameters(trainable), init_sync=False), trainable
            for hook in self._hooks:
                hook.remove()
            self._hooks = [parameter.register_post_accumulate_grad_hook(self._reach) for parameter in trainable]
        # A forward pass of DDP arms its hooks on the parameters. It wraps these alone, so that the model, its names,
        # its copies and its own forward pass stay what they are with one device.
        self._reducer()
        self._is_armed, self._reached = True, set()  # also of a pass that an exception has ended

    def _reach(self, parameter: Tensor) -> None:
        """Called when a backward pass has added to a gradient, before DDP sees it."""
        if not self.averages or self._is_completing:
            return
        if not self._reached:
            # As FSDP does: called when this backward pass is over.
            torch.autograd.Variable._execution_engine.queue_callback(self._complete)
        self._reached.add(parameter)  # type: ignore[arg-type]

    def _complete(self) -> None:
        """Average what DDP leaves: after a pass that has not reached all parameters, or that nothing has armed."""
        missing = [parameter for parameter in self._reduced if parameter not in self._reached]
        was_armed, self._is_armed, self._reached = self._is_armed, False, set()
        if was_armed and not missing:
            return
        without = [parameter for parameter in self._reduced if parameter.grad is None]
        if was_armed:
            # DDP waits for each parameter. A gradient of zero lets it end, and changes no mean.
            self._is_completing = True
            try:
                with torch.enable_grad():
                    views = [parameter.view_as(parameter) for parameter in missing]
                torch.autograd.backward(views, [torch.zeros_like(view) for view in views])
            finally:
                self._is_completing = False
        else:
            # A second pass through one forward pass. Gradients of earlier ones are means already, equal on all ranks.
            for parameter in self._reduced:
                gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = self.all_reduce_mean(gradient)
        for parameter in without:
            # No rank has reached it: an optimizer must not take it for one with a gradient.
            if parameter.grad is not None and not parameter.grad.any():
                parameter.grad = None

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """A new tensor with the mean of `tensor` over the ranks, without a gradient; whole numbers become float32."""
        mean = (tensor.detach() / self.world_size).contiguous()
        dist.all_reduce(mean)
        return mean

    # --- decisions ---

    def meet(self, turn: Turn, *, step: int, seconds: float) -> tuple[Turn, float]:
        """What rank 0 says at the end of a step: the turn, and the charged seconds on its clock.

        Raises ConfigError where this rank is at another step, or finishes, or ends a stage, where rank 0 does not.
        """
        word = torch.tensor([float(turn), float(step), seconds], dtype=torch.float64)
        dist.broadcast(word, 0)
        first, first_step = Turn(int(word[0])), int(word[1])
        if first_step != step or _SAID_BY_ALL.get(first) != _SAID_BY_ALL.get(turn):
            ends, its = _SAID_BY_ALL.get(turn, "ends"), _SAID_BY_ALL.get(first, "ends")
            raise ConfigError(
                f"it {ends} step {step} where rank 0 {its} step {first_step}. "
                "All ranks must take the same steps: decide by what is equal on all of them."
            )
        return first, float(word[2])

    def of_first(self, value: T) -> T:
        """What rank 0 has given; `value` does not matter on the others."""
        values: list[Any] = [value]
        dist.broadcast_object_list(values, 0, device=torch.device("cpu"))
        said: T = values[0]
        return said

    def total(self, value: int | None) -> int | None:
        """Sum over the ranks; None where it is None."""
        if value is None:
            return None
        total = torch.tensor(value, dtype=torch.int64)
        dist.all_reduce(total)
        return int(total)

    def wait_for_all(self) -> None:
        """Return when all ranks have come here."""
        dist.all_reduce(torch.zeros(1))

    # --- before weights are handed over ---

    def settle(self, step: int) -> None:
        """Average running statistics of batch norm over the ranks, and see that their weights are still the same.

        Raises ConfigError where they differ although gradients were averaged: a submission that seems to work would
        throw the work of all ranks but one away.
        """
        with torch.no_grad():
            for module in self._model.modules():
                if isinstance(module, _BatchNorm):
                    for statistic in (module.running_mean, module.running_var):
                        if statistic is not None:
                            statistic.copy_(self.all_reduce_mean(statistic))
            if not self.may_differ:
                self._check_weights(step)

    def _check_weights(self, step: int) -> None:
        parameters = [parameter.flatten().float() for parameter in self._model.parameters()]
        longest = max(len(parameter) for parameter in parameters)
        # One number for each tensor instead of all of it. No sum: gradients of a softmax add up to zero.
        # From 1, where a sine is never 0: every element counts.
        wave = torch.arange(1, longest + 1, dtype=torch.float32, device=parameters[0].device).sin()
        marks = torch.stack([parameter @ wave[: len(parameter)] for parameter in parameters])
        norms = torch.stack([torch.linalg.vector_norm(parameter) for parameter in parameters])
        first = marks.clone()
        dist.broadcast(first, 0)
        # Weights that are finite on no rank are for the referee to see.
        is_finite, was_finite = torch.isfinite(marks), torch.isfinite(first)
        is_far = (first - marks).abs() > _SAME_WEIGHTS * norms
        differs = bool(((is_finite != was_finite) | (is_finite & was_finite & is_far)).any())
        # All hear of it before anything is handed over: rank 0 never differs from itself, and its weights are judged.
        verdict = torch.tensor(self.rank if differs else 0)
        dist.all_reduce(verdict, dist.ReduceOp.MAX)
        if verdict:
            raise ConfigError(
                f"the weights of rank {int(verdict)} differ from those of rank 0 at step {step}. "
                "Only backward() from a forward pass of trial.model averages gradients: average others by "
                "trial.all_reduce_mean, draw random numbers that change weights from trial.generator, "
                "or train inside trial.local_gradients()."
            )


class _Parameters(nn.Module):
    """Parameters without a model: what DDP wraps here. Their buffers stay with each rank."""

    def __init__(self, parameters: list[nn.Parameter]) -> None:
        super().__init__()
        self.held = nn.ParameterList(parameters)

    def forward(self) -> None:
        """Nothing to compute."""


def _are_same(some: list[nn.Parameter], others: list[nn.Parameter]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _over_all_ranks(total: Tensor, count: Tensor | None) -> Tensor:
    result: Tensor = _OverAllRanks.apply(total, count)  # type: ignore[no-untyped-call]
    return result


class _OverAllRanks(torch.autograd.Function):
    """Sum of all ranks' totals over the sum of their counts (None: the sum alone), as a function of this rank's total.

    DDP takes the mean over the ranks of gradients with respect to this rank's total, so these carry `world_size`.
    """

    @staticmethod
    def forward(ctx: Any, total: Tensor, count: Tensor | None) -> Tensor:
        """Shapes: [] each -> []."""
        # In float32 at least: bfloat16 counts to 256.
        wide = torch.promote_types(total.dtype, torch.float32)
        sums = torch.stack([total.to(wide), torch.ones_like(total, dtype=wide) if count is None else count.to(wide)])
        dist.all_reduce(sums)
        # Padding alone must give 0 and a zero gradient, not 0/0.
        divisor = 1.0 if count is None else sums[1].clamp_min(torch.finfo(wide).tiny)
        ctx.scale = dist.get_world_size() / divisor
        return (sums[0] / divisor).to(total.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Of the total alone: counts are data."""
        return (gradient * ctx.scale).to(gradient.dtype), None
