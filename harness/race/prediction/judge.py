"""Judges a submission's own network: has it rebuilt where no target is, and scores what it says of the inputs."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from harness.api import Batch, DataError, SnapshotError, SplitName, TrialStatus
from harness.race.channel import Message, SharedWeights
from harness.race.clock import ChargedClock
from harness.race.evaluation import evaluate, score
from harness.race.judge import Judge, enough_memory, not_finite
from harness.race.outcome import DisturbedError, StallError, TrialSpec
from harness.race.prediction.memory import HandedOver, OwnWeights, Sealed, handed_over
from harness.race.process import ProcessGone, ServerGone, Untrusted
from harness.race.protocol import Snapshot, TrialEnded, check_failure
from harness.race.sandbox import Sandbox

_READY_SECONDS = 300.0
# What a predictor may use of the processor for one split: so many times what the workload's own network does, and
# seconds for its import. In that time it could train, on what was handed over to it as weights: see docs/trust.md.
LIMIT_FACTOR = 20.0
LIMIT_SECONDS = 2.0
# Until when it must be done: so many times that, and seconds. A processor may be busy with other things; of the work of
# a GPU nothing but this clock tells.
_PATIENCE = {"cpu": (10.0, 30.0), "cuda": (1.0, 10.0)}


def scratch_of_predictor(scratch: Path) -> Path:
    """The folder that predictors may write, beside that of their trainer."""
    return scratch.with_name(f"{scratch.name}-predictor")


class PredictorJudge:
    """The judge of one trial of the open division. `size`: numbers and bytes of the module that was judged last.

    Each split is predicted by a new process, which is ended when it is done. Close it when the trial is over.
    """

    def __init__(
        self, judge: Judge, sandbox: Sandbox, spec: TrialSpec, scratch: Path, size: tuple[int, int] | None
    ) -> None:
        assert judge.workload.has_open_division, "its inputs tell targets, or too little: studies are checked for that"
        self.size = size
        self.log = ""
        """What the predictor printed that ended the trial."""
        self._judge = judge
        self._sandbox = sandbox
        self._spec = spec
        self._scratch = scratch_of_predictor(scratch)
        self._module: HandedOver | None = None
        self._weights: Sealed | None = None

    def shared_weights(self) -> OwnWeights:
        """New shared memory for any module."""
        return OwnWeights.create()

    def load(self, weights: OwnWeights, snapshot: Snapshot) -> str | None:
        """Take over what was written; returns the name of a tensor with a non-finite value, if there is one.

        Raises SnapshotError where it is no module.
        """
        self.close()
        self._module = handed_over(snapshot.predictor)
        self._weights = Sealed(weights.read(self._module.slots))
        self.size = self._module.numbers, self._module.bytes
        return not_finite(self._weights.tensors())

    def validation(self) -> dict[str, float]:
        """Metrics and loss of what is predicted for the validation split. Raises TrialEnded where nothing fits."""
        return self._metrics("validation")

    def test(self) -> dict[str, float]:
        """The same for the test split."""
        return self._metrics("test")

    def close(self) -> None:
        """Give the memory of the last module back."""
        if self._weights is not None:
            self._weights.close()
            self._weights = None

    def _metrics(self, split: SplitName) -> dict[str, float]:
        judge = self._judge
        held_out = held_out_of(judge, split)
        try:
            predictions = self._predicted(split, held_out)
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if not bool(torch.isfinite(predictions).all()):
            raise TrialEnded(TrialStatus.DIVERGED, f"the predictor said something that is not finite for {split}")
        with enough_memory(judge.batch_size), torch.inference_mode():

            def outputs_of(_: Batch, part: slice) -> Tensor:
                return predictions[part].to(judge.device)

            return score(judge.workload, outputs_of, judge.splits[split], judge.batch_size, judge.device)

    def _predicted(self, split: SplitName, held_out: HeldOut) -> Tensor:
        """What a new process says of the inputs of a split: float32, of the shape that the workload's network gives."""
        assert self._weights is not None
        outputs = SharedWeights.create({"outputs": held_out.outputs})
        try:
            process = self._sandbox.start_predictor(
                [self._weights.descriptor, held_out.inputs.descriptor, outputs.descriptor],
                self._scratch,
                readable=[Path(self._spec.submission["folder"])],
                private=Path(self._spec.workload["data_folder"]),
                masked=held_out.masked,
            )
            try:
                self._run(process, split, held_out, self._task(held_out, outputs))
            finally:
                process.end(patience=0.0)
            # Nobody can write there any more: the process has ended with all its children.
            return outputs.read()["outputs"].clone()
        except BaseException:
            if not self._sandbox.is_idle:  # an interrupt comes anywhere, in the middle of the end too
                self._sandbox.close()
            raise
        finally:
            outputs.close()

    def _task(self, held_out: HeldOut, outputs: SharedWeights) -> Message:
        assert self._module is not None
        assert self._weights is not None
        return {
            "folder": self._spec.submission["folder"],
            "settings": self._module.settings,
            "weights": [vars(slot) for slot in self._weights.slots],
            "inputs": [vars(slot) for slot in held_out.inputs.slots],
            "outputs": outputs.describe(),
            "batch_size": self._judge.batch_size,
            "seed": self._spec.seed,
            "threads": self._sandbox.threads,
            "device": str(self._sandbox.device),
        }

    def _run(self, process: Untrusted, split: SplitName, held_out: HeldOut, task: Message) -> None:
        """Have a process do its work within its limit. Raises TrialEnded where it does not."""
        process.send(task)
        try:
            ready = process.receive(time.monotonic() + _READY_SECONDS)
            if ready.get("type") != "ready":
                raise DataError(f"no predictor could be started: {str(ready)[:200]}. Run the same command again.")
            began = process.cpu_seconds()
            process.send({"type": "go"})
            self._await_predictions(process, split, held_out.seconds, began)
        except TrialEnded:
            process.end(patience=0.5)  # for its last words
            self.log = f"\n[the predictor, on {split}]\n{process.log}"
            raise
        except ServerGone as error:
            raise DisturbedError(f"{error}. Close other programs and run the same command again.") from None
        except (ProcessGone, TimeoutError) as error:
            raise DataError(f"no predictor could be started: {error}. Run the same command again.") from None

    def _await_predictions(self, process: Untrusted, split: SplitName, own_seconds: float, began: float) -> None:
        allowed = LIMIT_FACTOR * own_seconds + LIMIT_SECONDS

        def check_processor() -> None:
            used = process.cpu_seconds() - began
            if used > allowed:
                raise TrialEnded(
                    TrialStatus.REFUSED,
                    f"the predictor used {used:.2f} s of processor time for {split}; {allowed:.2f} s are allowed, "
                    f"{LIMIT_FACTOR:.0f} times those of the workload's own network and {LIMIT_SECONDS:.0f} s",
                )

        clock = ChargedClock()

        def tick() -> None:
            clock.look()
            check_processor()

        clock.start()
        times, seconds = _PATIENCE[self._judge.device.type]
        patience = times * allowed + seconds
        try:
            message = process.receive(time.monotonic() + patience, tick)
        except TimeoutError:
            clock.stop()
            if clock.unwatched_seconds > 0.0:
                raise StallError("the machine stalled while a predictor ran. Run the same command again.") from None
            late = f"the predictor was not done with {split} after {patience:.0f} s"
            raise TrialEnded(TrialStatus.REFUSED, late) from None
        except ServerGone:
            raise
        except ProcessGone as error:
            raise TrialEnded(TrialStatus.CRASHED, f"{error}, on {split}") from None
        except SnapshotError as error:
            raise TrialEnded(TrialStatus.REFUSED, f"the predictor sent {error}") from None
        check_failure(message, patience=0.0)
        if message.get("type") != "predicted":
            raise TrialEnded(TrialStatus.REFUSED, f"the predictor sent a message of type {message.get('type')!r}")
        check_processor()


class HeldOut:
    """The inputs of a split as predictors get them, and what the workload's own network does with them.

    `outputs`: of what shape and dtype predictions are, without content; `seconds`: of the processor, for all of them.
    `masked`: files and folders outside the data folder that hold examples.
    """

    def __init__(self, judge: Judge, split: SplitName) -> None:
        examples = judge.splits[split]
        whole = range(0, len(examples), judge.batch_size)
        index = [torch.arange(at, min(at + judge.batch_size, len(examples)), device=judge.device) for at in whole]
        self.inputs = Sealed({"inputs": torch.cat([examples.gather(part)["inputs"].cpu() for part in index])})
        own = judge.model
        with torch.inference_mode():
            first = judge.workload.outputs(own, examples.gather(index[0][:2]))
        self.outputs = torch.empty((len(examples), *first.shape[1:]), dtype=first.dtype, device="meta")
        clock: Callable[[], float] = time.process_time if judge.device.type == "cpu" else time.perf_counter
        began = clock()
        evaluate(judge.workload, own, examples, judge.batch_size)
        self.seconds = clock() - began
        copies = (path for source in judge.workload.sources() for path in source.installed_copies())
        self.masked = [*judge.workload.packaged_data(), *copies]


@functools.lru_cache(maxsize=2)
def held_out_of(judge: Judge, split: SplitName) -> HeldOut:
    """What predictors of a judge get of a split, kept for the next one."""
    return HeldOut(judge, split)
