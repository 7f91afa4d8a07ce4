"""What a submission sees of its trial: model, batches, loss, hints, clock, hooks. Names no workload, judges nothing."""

from __future__ import annotations

import array
import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from harness.api import Batch, ConfigError, Examples, LossKind, ParameterKind, Policy, Workload, mean_loss, terms_of
from harness.trial.conversation import Checkpoints, Conditions, Evaluation, Go, HandOver, TrialOver
from harness.trial.loader import Loader
from harness.trial.order import Order, stream_seed
from harness.trial.pace import Pace, Streams
from harness.trial.parameter_kinds import Adapter, adapters_of, kinds_of
from harness.trial.passes.captured import captured, input_layers
from harness.trial.passes.labels import label_codes
from harness.trial.passes.modes import in_eval_mode
from harness.trial.passes.speed import Forward
from harness.trial.passes.twice import (
    gradient_difference,
    gradient_of,
    has_second_derivatives,
    hessian_product,
    twice_differentiable,
)
from harness.trial.ranks import Ranks
from harness.trial.stages import shown

# The name under which answers go through a forward pass beside the fields of their batch.
_ANSWERS = "answers of trial.log_probabilities"


class Trial:
    """One training run, as its submission sees it.

    Write an ordinary loop over `batches()`; it ends by itself when the referee stops the clock. See docs/submitting.md.
    """

    def __init__(
        self,
        workload: Workload,
        model: nn.Module,
        train_set: Examples,
        conditions: Conditions,
        hand_over: HandOver,
        ranks: Ranks | None = None,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.model = model
        """The network: float32 parameters, initialised by the harness from the trial seed, on `device`."""
        self.train_set = shown(workload, train_set)
        """Map-style access to the training split: `len`, `[i]`, and `gather(index)` for whole batches.

        Of a stream it is the current stage alone, and its length changes with it: what comes again must be copied.
        """
        self.stages = workload.stages
        """How many stages training goes through, one after the other; 1: all examples are there from the start."""
        self.step_hint = conditions.step_hint
        """Steps over which a schedule should run out."""
        self.batch_size_hint = conditions.batch_size_hint
        """The batch size that the target was set with."""
        self.loss_kind: LossKind = workload.loss_kind
        """What the training loss is."""
        self.target = conditions.target
        """Metric, goal and value on the validation split."""
        self.budget_seconds = conditions.budget_seconds
        """Charged seconds after which the trial is over."""
        streams = Streams(conditions, self.train_set)
        pace = Pace(model, streams, conditions, hand_over, ranks, checkpoints, self.stages)
        self.evaluations: list[Evaluation] = pace.evaluations
        """The validation history, oldest first, for self-tuning."""
        self.seed = conditions.seed
        """The trial's seed, the same for every submission of this study and trial."""
        self.device = conditions.device
        """Where the model and the batches are."""
        self.generator: torch.Generator = streams.generator
        """A CPU generator of the submission's own, equal on all ranks: drawing changes no batch, no dropout mask."""
        self.rank = 0 if ranks is None else ranks.rank
        """Number of this trainer among the data-parallel trainers of the trial: one on each device."""
        self.world_size = 1 if ranks is None else ranks.world_size
        """How many data-parallel trainers the trial has."""
        self.parameter_kinds: dict[str, ParameterKind] = kinds_of(model)
        """Role of each parameter, by its name in `model.named_parameters()`."""
        self.adapters: dict[str, Adapter] = adapters_of(model)
        """Adapters (`down`, `up`) by the path of their frozen layer; empty where there is nothing to fine-tune."""

        self.has_rewards = workload.policy() is not None
        """Whether the model writes answers that can be scored: `sample`, `rewards` and what is beside them."""

        self._workload = workload
        self._forward = Forward(
            workload,
            model,
            conditions.device,
            precision=conditions.precision,
            is_compiled=conditions.is_compiled,
            micro_batch=conditions.micro_batch,
        )
        self._ranks = ranks
        self._streams = streams
        self._pace = pace
        self._loader = Loader(
            self.train_set, conditions.seed, workers=conditions.loader_workers, share=ranks.share if ranks else None
        )

    # --- data ---

    @property
    def domains(self) -> Tensor | None:
        """Which domain each training example is of, numbered from 0: int64 [n]; None where the workload has none."""
        return self._workload.domains(self.train_set)

    def batches(self, batch_size: int | None = None) -> Iterator[Batch]:
        """Endless shuffled training batches; one iteration is one step, and evaluations happen between iterations."""
        while not self._pace.is_over:
            yield self.next_batch(batch_size)
            try:
                self.end_step()
            except TrialOver:
                return

    def next_batch(self, batch_size: int | None = None) -> Batch:
        """The next shuffled training batch: every example comes once before any comes again.

        `batch_size` is that of all ranks together (None: the hint); each gets its part of the batch. Raises ConfigError
        where it is no whole number from 1 on or does not divide by `world_size`.
        """
        order = self._streams.order
        return self._take(order.draw(self.batch_size_hint if batch_size is None else batch_size), order)

    def take(self, index: Tensor) -> Batch:
        """These training examples as a batch of a step, for samplers of your own: they count as `examples`.

        `index`: int64 [batch], the same on all ranks; each gets its part. Raises ConfigError as `next_batch`.
        """
        return self._take(index.to(self.device), None)

    def _take(self, index: Tensor, order: Order | None) -> Batch:
        position = self._pace.examples
        self._pace.examples += len(index)
        return self._loader.batch(index, position, order)

    def end_step(self) -> None:
        """Say that a step has ended. Evaluates where one is due. Raises TrialOver when the clock has stopped."""
        self._pace.end_step()

    # --- streams of tasks ---

    @property
    def stage(self) -> int:
        """The current stage, counted from 0. The next begins by itself, for good, after an even share of `step_hint`.

        The target counts in the last stage alone, which lasts to the end of the trial.
        """
        return self._streams.stage

    def on_stage_end(self, function: Callable[[], object]) -> None:
        """Call `function` after the last step of each stage but the last, while `train_set` still shows that stage.

        Then comes an evaluation, whatever the clock says, and then the next stage. Its time is charged.
        """
        self._pace.stage_ends.append(function)

    def next_stage(self) -> None:
        """Let the stage end with this step, before its share of steps is used up. All ranks must ask in one step.

        For methods whose steps take longer than those of the reference. Raises ConfigError in the last stage.
        """
        self._pace.next_stage()

    # --- forward and loss ---

    def outputs(self, batch: Batch, *, model: nn.Module | None = None) -> Tensor:
        """Forward pass of the model on a batch, in whatever mode (train or eval) the model is.

        `model`: another of the same form in its place, such as an averaged copy.
        """
        return self._forward(batch, model)

    def loss(
        self,
        batch: Batch,
        *,
        outputs: Tensor | None = None,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> Tensor:
        """The workload's training loss; padding and masked labels never count.

        `reduction`: `mean` or `sum` over what counts, both scalars, or `none`: the mean of each example, [batch]. With
        several ranks, scalars are of the whole batch and equal on all; `none` is of this rank's examples. Where the
        loss has several terms or couples the examples of a batch, `none` is the share of each: the loss is their mean.
        `outputs`: as returned by `outputs(batch)`, or made here.
        Raises ConfigError for another reduction, or a smoothing outside [0, 1).
        """
        _check_smoothing(label_smoothing)
        if outputs is None:
            outputs = self._forward(batch)
        if reduction == "mean":
            return _added(self._means(outputs, batch, label_smoothing))
        together = self._together
        if reduction == "sum" and len(self._workload.term_weights) > 1:
            # Each term has units of its own: what is summed are the shares of the examples.
            ranks = 1 if together is None else together.world_size
            return _added(self._means(outputs, batch, label_smoothing)) * (len(outputs) * ranks)
        losses, weights = self._workload.losses(outputs, batch, label_smoothing)
        if reduction == "sum" and together is not None:
            return together.sum(losses, weights)
        if reduction == "sum":
            return losses.sum() if weights is None else (losses * weights).sum()
        if reduction == "none":
            if losses.ndim == 1:
                return losses if weights is None else losses * weights
            if weights is None:
                return losses.flatten(1).mean(dim=1)
            return (losses * weights).flatten(1).sum(dim=1) / weights.flatten(1).sum(dim=1).clamp_min(1e-12)
        raise ConfigError(f"reduction is {reduction!r}. Use 'mean', 'sum' or 'none'.")

    def loss_terms(
        self, batch: Batch, *, outputs: Tensor | None = None, label_smoothing: float = 0.0
    ) -> dict[str, Tensor]:
        """The terms that the mean loss is the sum of, weighted, each with its graph; most losses have one, `loss`.

        Scalars; with several ranks of the whole batch and equal on all. For a gradient of each, all backward passes but
        the last need `retain_graph=True`. Raises ConfigError for a smoothing outside [0, 1).
        """
        _check_smoothing(label_smoothing)
        return self._means(self._forward(batch) if outputs is None else outputs, batch, label_smoothing)

    def unit_losses(
        self, batch: Batch, *, outputs: Tensor | None = None, label_smoothing: float = 0.0
    ) -> tuple[Tensor, Tensor | None]:
        """Loss of each unit (example, token, label ...) and its weight: 0 is masked or padding; None: all count.

        Shapes: both [batch, ...], alike; with several ranks of this rank's examples. What `loss` is the mean or sum of.
        Of a loss of several terms: the share of each example, [batch].
        """
        if outputs is None:
            outputs = self._forward(batch)
        return self._workload.losses(outputs, batch, label_smoothing)

    def label_codes(self, batch: Batch, *, outputs: Tensor) -> Tensor | None:
        """Labels in the shape of `outputs`: one-hot classes, or 0 and 1; None where targets are no labels.

        Those of padding and of unknown labels mean nothing: see the weights of `unit_losses`.
        """
        return label_codes(self.loss_kind, batch["targets"], outputs)

    @contextlib.contextmanager
    def pinned(self) -> Iterator[None]:
        """Inside this block forward passes of the model agree: they are a function of weights and batch.

        All draw the dropout masks of the first one, and the noise where a workload trains on noise, and only the first
        moves the running statistics of batch norm. For methods that look at one batch several times in a step; close it
        before the step ends. Where the hardware asks for a compiled network, it is not compiled here: what
        differentiates twice needs that.
        """
        with self._forward.pinned():
            yield

    @contextlib.contextmanager
    def twice_differentiable(self) -> Iterator[None]:
        """Inside this block forward passes can be differentiated twice, which fused attention cannot be.

        Slower than outside, and not compiled. Enter it before the loop: ConfigError where the loss has no second
        derivative (CTC), before anything has been computed. `hessian_product` needs it not.
        """
        with self._forward.uncompiled(), twice_differentiable(self.model, self.loss_kind):
            yield

    def hessian_product(self, batch: Batch, vector: Sequence[Tensor], *, label_smoothing: float = 0.0) -> list[Tensor]:
        """The Hessian of the mean loss on `batch` times `vector`: a tensor for each parameter that is trained.

        `vector`: likewise, in the order of `model.parameters()`. Exact by a second backward pass; where the loss has no
        second derivative, from gradients a little to either side. Two to four times the cost of a gradient. Equal on
        all ranks. Draws dropout masks, and moves the statistics of batch norm, as one forward pass does.
        """
        parameters = [p for p in self.model.parameters() if p.requires_grad]

        def loss() -> Tensor:
            return self.loss(batch, label_smoothing=label_smoothing)

        with self.local_gradients(), self.pinned():
            if has_second_derivatives(self.loss_kind):
                with self.twice_differentiable():
                    product = hessian_product(loss, parameters, vector)
            else:
                product = gradient_difference(lambda: gradient_of(loss, parameters), parameters, vector)
        return [self.all_reduce_mean(each) for each in product]

    @contextlib.contextmanager
    def captured(self, names: Collection[str] | None = None) -> Iterator[dict[str, list[Tensor]]]:
        """Inside this block keep what layers get: path -> inputs, one for each call, in the order of first calls.

        `names`: paths in `model.named_modules()`; None: all linear layers and convolutions. With several ranks: of this
        rank's examples. Raises ConfigError for a name that there is not.
        """
        with self._forward.uncompiled(), captured(self.model, names) as inputs:
            yield inputs

    def input_layers(self) -> list[str]:
        """Paths of the linear layers and convolutions that nothing trainable stands before: they read the data.

        None where the data are looked up in embeddings. Makes one forward pass on two examples.
        """
        batch = self.train_set.gather(torch.arange(min(2, len(self.train_set)), device=self.device))
        with self._forward.uncompiled():
            return input_layers(self.model, lambda: self.outputs(batch))

    def example_shapes(self) -> tuple[torch.Size, torch.Size]:
        """Shapes of the inputs and of the outputs of one example, for networks of your own.

        Makes one forward pass of the model on two examples. Raises ConfigError where batches have no `inputs`.
        """
        batch = self.train_set.gather(torch.arange(min(2, len(self.train_set)), device=self.device))
        if "inputs" not in batch:
            raise ConfigError(f"batches have no 'inputs' here, but {', '.join(batch)}. Take the shapes of these.")
        with in_eval_mode(self.model), torch.no_grad():
            return batch["inputs"].shape[1:], self.outputs(batch).shape[1:]

    def _means(self, outputs: Tensor, batch: Batch, label_smoothing: float) -> dict[str, Tensor]:
        mean = mean_loss if self._together is None else self._together.mean
        terms = terms_of(self._workload, outputs, batch, label_smoothing)
        return {term.name: term.times(mean(term.losses, term.weights)) for term in terms}

    @property
    def _together(self) -> Ranks | None:
        return self._ranks if self._ranks is not None and self._ranks.averages else None

    # --- answers and rewards ---

    def sample(self, batch: Batch, count: int, *, generator: torch.Generator | None = None) -> Tensor:
        """`count` answers of each example, drawn from what the model says. Shape: int64 [batch, count, length].

        Without a gradient, and in eval mode. `generator`: None: torch's global one, as dropout masks come from.
        Raises ConfigError where the workload has no rewards (`has_rewards`), as all of these do, or if count < 1.
        """
        policy = self._policy()
        if count < 1:
            raise ConfigError(f"sample got a count of {count}. Use at least 1.")
        with in_eval_mode(self.model):
            return self._forward.at_once(
                batch, lambda network, whole: policy.sample(network, whole, count=count, generator=generator)
            )

    def likeliest(self, batch: Batch) -> Tensor:
        """The answer of each example whose every symbol is the likeliest one. Shape: int64 [batch, length]."""
        policy = self._policy()
        with in_eval_mode(self.model):
            return self._forward.at_once(batch, policy.likeliest)

    def log_probabilities(self, batch: Batch, answers: Tensor) -> Tensor:
        """Log-probability of each symbol given those before it, with its gradient; 0 behind an answer's end.

        Shapes: int64 [batch, count, length] -> float, alike.
        """
        policy = self._policy()
        together = {**batch, _ANSWERS: answers}
        return self._forward(together, of=lambda network, part: policy.log_probabilities(network, part, part[_ANSWERS]))

    def credits(self, batch: Batch, answers: Tensor) -> Tensor:
        """What each symbol adds to the reward of its answer. Shapes: int64 [batch, count, length] -> float, alike."""
        return self._policy().credits(batch, answers)

    def rewards(self, batch: Batch, answers: Tensor) -> Tensor:
        """Of each answer: 1 of a right one, less of any other. Shapes: int64 [batch, count, length] -> [batch, count].

        The sum of its `credits`.
        """
        return self.credits(batch, answers).sum(dim=2)

    def demonstrations(self, batch: Batch) -> Tensor:
        """A right answer of each example. Shape: int64 [batch, length]."""
        return self._policy().demonstrations(batch)

    def _policy(self) -> Policy:
        policy = self._workload.policy()
        if policy is None:
            raise ConfigError(
                "this workload has no rewards: its model writes no answers that could be scored. "
                "Look at trial.has_rewards first."
            )
        return policy

    # --- the clock ---

    @property
    def step(self) -> int:
        """Steps that have ended."""
        return self._pace.step

    @property
    def elapsed_seconds(self) -> float:
        """Charged seconds so far, as the trainer's own clock has it; the referee's clock decides.

        With several ranks: rank 0's clock at the end of the last step, so that all see the same.
        """
        return self._pace.seconds()

    # --- around evaluations ---

    def before_evaluation(self, function: Callable[[], object]) -> None:
        """Call `function` before weights are handed over, to swap averaged ones in; its time is charged."""
        self._pace.before.append(function)

    def after_evaluation(self, function: Callable[[], object]) -> None:
        """Call `function` when training goes on after an evaluation, to swap them out again; its time is charged."""
        self._pace.after.append(function)

    def refresh_batch_norm(self, batches: int) -> None:
        """Recompute the running statistics of batch norm layers as plain means over `batches` fresh training batches.

        For averaged weights, whose statistics no training step has seen. Charged; draws from streams of its own, so
        the order of training batches and the masks of dropout stay. Leaves each module in the mode that it was in.
        Raises ConfigError if batches < 1.
        """
        if batches < 1:
            raise ConfigError(f"refresh_batch_norm got {batches} batches. Use at least 1.")
        norms = [module for module in self.model.modules() if isinstance(module, _BatchNorm)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        modes = [(module, module.training) for module in self.model.modules()]
        order = self._streams.new_batch_norm_order()
        share = self._ranks.share if self._ranks else None
        loader = Loader(self.train_set, stream_seed(self.seed, "batch norm"), share=share)
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain mean over all batches
        self.model.train()
        with torch.no_grad(), torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            for number in range(batches):
                self.outputs(loader.batch(order.draw(self.batch_size_hint), number * self.batch_size_hint))
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, was_training in modes:
            module.training = was_training

    def set_dropout(self, probability: float) -> None:
        """Set the probability of every dropout layer; no effect where the model has none.

        Raises ConfigError outside [0, 1).
        """
        if not 0.0 <= probability < 1.0:
            raise ConfigError(f"dropout is {probability}. Use a number in [0, 1).")
        for module in self.model.modules():
            if isinstance(module, _DropoutNd):
                module.p = probability

    def resumable(self, **objects: object) -> None:
        """Name what a checkpoint must hold beside the model: objects with `state_dict` and `load_state_dict`.

        A trial that never calls this has no checkpoints and starts again after a kill; without objects it says that
        the model is all. States are loaded at the end of the first step, or here for what is named later.
        Raises ConfigError for an object without them, or a name given twice.
        """
        self._pace.named.add(objects)

    # --- data-parallel trainers ---

    def all_reduce_mean(self, tensor: Tensor) -> Tensor:
        """Mean of `tensor` over the ranks, without a gradient: a new tensor; with one rank, the tensor itself.

        All ranks must call it, with tensors of one shape and dtype.
        """
        return tensor if self._ranks is None else self._ranks.all_reduce_mean(tensor)

    def local_gradients(self) -> contextlib.AbstractContextManager[None]:
        """Inside this block nothing is averaged: losses and gradients are of this rank's part of the batch alone.

        For algorithms that decide themselves what the ranks exchange, by `all_reduce_mean`. The weights of rank 0 are
        judged. No effect with one rank.
        """
        return contextlib.nullcontext() if self._ranks is None else self._ranks.local_gradients()

    # --- words to the referee ---

    def log(self, /, **scalars: object) -> None:
        """Report real numbers, kept with the next evaluation in the journal and W&B; never scored.

        Of several under one name the last counts. `train_loss` has a column of its own. NaN and infinities are recorded
        as such. What is no number is said once in the trial's log and left out: a diagnostic never ends a trial.
        """
        self._pace.reported.add(scalars)

    def hand_over(self, module: nn.Module, settings: Mapping[str, Any]) -> None:
        """Have `module` judged in place of the model, from the next evaluation on: the open division alone.

        At each evaluation its `state_dict` goes to the referee. In another process, which trains nothing, predictor.py
        makes it anew by `build(settings)`, loads that state, and says `predict(inputs)` of held-out inputs.
        `settings`: what JSON can hold. Raises ConfigError where it cannot, and in the closed division.
        """
        self._pace.judge_own(module, settings)

    def finish(self) -> None:
        """Say that nothing is left to do: the weights as they are now are judged. Raises TrialOver, the normal end."""
        self._pace.finish()

    # --- for the trainer and the debugger ---

    def go(self, word: Go) -> None:
        """Start, or go on after an evaluation, from the referee's word. Called by the harness."""
        self._pace.go(word)

    @property
    def is_over(self) -> bool:
        """True once the referee has stopped the clock or the submission has finished."""
        return self._pace.is_over

    @property
    def step_ends(self) -> array.array[float]:
        """Charged seconds at the end of each step, on the trainer's clock, for the record."""
        return self._pace.step_ends


def _check_smoothing(label_smoothing: float) -> None:
    if not 0.0 <= label_smoothing < 1.0:
        raise ConfigError(f"label_smoothing is {label_smoothing}. Use a number in [0, 1).")


def _added(terms: Mapping[str, Tensor]) -> Tensor:
    first, *others = terms.values()
    return sum(others, start=first)
