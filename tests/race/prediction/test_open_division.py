"""A trial of the open division: the submission's own network, rebuilt and asked in a second process without targets."""

from __future__ import annotations

import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from harness.api import Target
from harness.race.outcome import Continuation, Outcome
from harness.race.sandbox import Sandbox
from tests.conftest import race_on
from tests.open_sources import PREDICTOR, TRAIN, write_open


@pytest.fixture
def race_open(sandbox: Sandbox, tmp_path: Path) -> Callable[..., Outcome]:
    """Runs an open submission of these two sources on the blobs workload, and returns how it went."""

    def race(source: str = TRAIN, predictor: str = PREDICTOR, **changes: object) -> Outcome:
        folder = write_open(tmp_path / "submission", source, predictor)
        submission = {"folder": str(folder), "entry": None, "division": "open"}
        return race_on(sandbox, tmp_path, source, submission=submission, **{"max_runtime": 1.0, **changes})

    return race


def predicting(*lines: str, returned: str = "self.layers(inputs)") -> str:
    """A predictor whose `predict` does this first, and returns that."""
    indent = "\n" + 12 * " "
    return PREDICTOR.replace("return self.layers(inputs)", indent.join(["pass", *lines, f"return {returned}"]))


def test_an_own_network_is_judged_by_what_it_predicts(race_open):
    outcome = race_open(target=Target("error", "min", 0.02))
    assert outcome.status == "reached", outcome.reason + outcome.log
    assert outcome.observations[-1].validation["error"] <= 0.02
    assert outcome.observations[-1].test is not None
    # Two layers of 8 x 4 + 4 and 4 x 2 + 2 numbers of 4 bytes, and {"width": 4}.
    assert outcome.predictor_size == (46, 4 * 46 + 12)


@pytest.mark.slow
def test_predictors_that_cannot_be_forked_are_fresh_interpreters(tmp_path):
    folder = write_open(tmp_path / "submission")
    submission = {"folder": str(folder), "entry": None, "division": "open"}
    changes = {"evaluate_every_steps": 40, "target": Target("error", "min", 0.02)}
    with Sandbox(torch.device("cpu"), threads=1, forks=False) as sandbox:
        outcome = race_on(sandbox, tmp_path, TRAIN, submission=submission, **changes)
        assert outcome.status == "reached", outcome.reason + outcome.log
        servers = [sandbox._server, sandbox.predictors._server]
    assert [server.poll() is not None for server in servers if server is not None] == [True, True]


def test_what_a_predictor_takes_is_not_charged(race_open):
    outcome = race_open(predictor=predicting("import time", "time.sleep(0.3)"), eval_period=0.4)
    assert len(outcome.observations) >= 2
    assert outcome.charged_seconds < 1.1
    assert outcome.evaluation_seconds > 0.6


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        ("self.layers(inputs)[:, :1]", r"predict\(inputs\) returned float32 \[256, 1\], where float32 \[256, 2\]"),
        ("self.layers(inputs)[1:]", r"float32 \[255, 2\]"),
        ("self.layers(inputs).double()", r"float64 \[256, 2\]"),
        ("self.layers(inputs).argmax(1)", r"int64 \[256\]"),
        ("inputs.tolist()", "returned list"),
    ],
)
def test_a_prediction_that_does_not_fit_is_refused(race_open, returned, said):
    outcome = race_open(predictor=predicting(returned=returned))
    assert outcome.status == "refused"
    assert re.search(said, outcome.reason), outcome.reason
    assert outcome.observations == []


def test_a_prediction_that_is_not_finite_is_a_divergence_as_weights_are(race_open):
    outcome = race_open(predictor=predicting(returned="self.layers(inputs) / 0.0"))
    assert (outcome.status, outcome.reason) == (
        "diverged",
        "the predictor said something that is not finite for validation",
    )
    spoilt = TRAIN.replace("optimizer.step()", "network.layers[0].weight.data.fill_(float('nan'))")
    outcome = race_open(spoilt)
    assert outcome.status == "diverged"
    assert "layers.0.weight holds a value that is not finite" in outcome.reason


def test_a_predictor_that_raises_is_a_crash_with_its_place_and_its_last_words(race_open):
    outcome = race_open(predictor=predicting("print('so far')", "raise ValueError('no such luck')"))
    assert outcome.status == "crashed"
    assert outcome.reason == "the predictor: ValueError: no such luck (predictor.py:13)"
    assert "so far\nTraceback" in outcome.log


@pytest.mark.parametrize("way", ["os._exit(3)", "os.kill(os.getpid(), 9)"])
def test_a_predictor_that_exits_is_a_crash(race_open, way):
    outcome = race_open(predictor=predicting("import os", way))
    assert outcome.status == "crashed"
    assert outcome.reason.startswith("the predictor ")


@pytest.mark.slow
def test_a_predictor_that_uses_more_of_the_processor_than_it_may_is_refused(race_open):
    outcome = race_open(predictor=predicting("while True:", "    pass"))
    assert outcome.status == "refused"
    assert re.search(r"the predictor used \d\.\d+ s of processor time for validation; \d\.\d+ s are", outcome.reason)


def test_weights_that_its_source_does_not_take_are_refused(race_open):
    outcome = race_open(TRAIN.replace("build(settings)", "build({'width': 5})"))
    assert outcome.status == "refused"
    assert "what build(settings) returned does not take the weights" in outcome.reason
    assert "size mismatch for layers.0.weight" in outcome.reason


def test_a_submission_that_hands_nothing_over_is_told_how(race_open):
    outcome = race_open(TRAIN.replace("trial.hand_over(network, settings)", "pass"))
    assert outcome.status == "crashed"
    assert "calls trial.hand_over(module, settings) before its first step ends" in outcome.reason


def test_the_closed_division_takes_no_other_network(race):
    outcome = race("def train(trial, hp):\n    trial.hand_over(trial.model, {})\n")
    assert outcome.status == "crashed"
    assert "Write division: open into submission.yaml" in outcome.reason


def test_a_network_may_grow_from_one_evaluation_to_the_next(race_open):
    growing = """
        import torch
        from predictor import build

        def train(trial, hp):
            for batch in trial.batches():
                width = trial.step + 1
                trial.hand_over(build({"width": width}), {"width": width})
    """
    outcome = race_open(growing, evaluate_every_steps=3, budget_steps=6)
    assert [seen.step for seen in outcome.observations] == [3, 6]
    assert outcome.predictor_size[0] == 11 * 6 + 2


def test_an_open_trial_goes_on_from_its_checkpoint_as_if_it_had_not_been_killed(race_open, tmp_path):
    kept = []

    def take_over(checkpoint, folder):
        if not kept:
            shutil.copytree(folder, tmp_path / "kept", symlinks=True)
            kept.append(checkpoint)

    by_steps = {"evaluate_every_steps": 20, "budget_steps": 80, "checkpoint_evaluations": 2}
    whole = race_open(on_checkpoint=take_over, **by_steps)
    assert (kept[0].step, kept[0].predictor_size) == (40, (46, 196))
    past = Continuation(kept[0], tmp_path / "kept", whole.observations[:2], resumes=1)
    rest = race_open(continuation=past, **by_steps)
    assert [seen.step for seen in rest.observations] == [20, 40, 60, 80]
    assert [seen.validation for seen in rest.observations] == [seen.validation for seen in whole.observations]
    assert rest.predictor_size == (46, 196)


def test_a_rehearsal_of_an_own_network_costs_nothing_and_changes_nothing(race_open):
    by_steps = {"evaluate_every_steps": 20, "budget_steps": 60, "max_runtime": 60.0, "eval_period": 60.0}
    without = race_open(**by_steps)
    rehearsed = race_open(**by_steps, rehearsal_seconds=60.0, rehearsal_steps=2)
    assert rehearsed.log.startswith("--- rehearsal: ended with a snapshot at step 2 ---"), rehearsed.log
    assert rehearsed.rehearsal_seconds > 0.0
    assert [seen.step for seen in rehearsed.observations] == [20, 40, 60]
    assert [seen.validation for seen in rehearsed.observations] == [seen.validation for seen in without.observations]
    assert rehearsed.predictor_size == without.predictor_size == (46, 196)


def test_an_own_network_may_have_another_form_in_the_rehearsal(race_open):
    # Made-up data may lead to another choice of architecture than the true ones.
    source = TRAIN.replace('{"width": 4}', '{"width": 64 if trial.seed == 0 else 4}')
    outcome = race_open(
        source, evaluate_every_steps=20, budget_steps=20, rehearsal_seconds=60.0, rehearsal_steps=2, max_runtime=60.0
    )
    assert outcome.log.startswith("--- rehearsal: ended with a snapshot at step 2 ---"), outcome.log
    assert (outcome.status, outcome.predictor_size) == ("out_of_budget", (46, 196)), outcome.reason


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("None", "a snapshot without a module"),
        ("{'layout': [['a', 'float32', [1 << 29]]], 'settings': {}}", "a module of 2048 MiB; 1024 are allowed"),
        ("{'layout': [['a', 'float32', [-4]]], 'settings': {}}", "a tensor that is none"),
        ("{'layout': [['a', 'object', [4]]], 'settings': {}}", "a tensor that is none"),
        (
            "{'layout': [['a', 'bool', [4]]] * 2, 'settings': {}}",
            "a module with two tensors of one name",
        ),
        ("{'layout': [], 'settings': {'a': 'b' * 70_000}}", "settings that are no mapping of at most 64 KiB"),
    ],
)
def test_what_is_said_of_a_module_is_checked(race_open, said, reason):
    source = f"""
        import gc

        def train(trial, hp):
            hand_over = next(one for one in gc.get_objects() if type(one).__name__ == "_HandOver")
            trial.next_batch()
            snapshot = {{"type": "snapshot", "step": 1, "examples": 32, "is_finished": True, "is_last": False}}
            hand_over.ask({{**snapshot, "ends_stage": False, "reported": {{}}, "predictor": {said}}})
    """
    outcome = race_open(source)
    assert outcome.status == "refused"
    assert outcome.reason.startswith(f"the trainer sent {reason}")


# --- what a predictor cannot do ---

LOOKS = """
    import os
    import socket
    from pathlib import Path

    import torch
    from torch import nn

    DATA, PORT = {data!r}, {port}


    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def predict(self, inputs):
            found = ", ".join(f"{{name}} {{outcome_of(look)}}" for name, look in LOOKS.items())
            Path("/tmp/left").touch()
            Path("left").touch()
            if self.weight > 0:
                raise ValueError(found)
            return inputs[:, :2]


    def outcome_of(look):
        try:
            return "GAINED" if look() else "nothing"
        except Exception as error:
            return type(error).__name__


    def files():
        return [path for top in ("/tmp", "/root", "/home", "/dev/shm") for path in Path(top).rglob("blobs.bin")]


    def descriptors():
        # Inputs are rows of eight floats; weights and outputs take a page. A label would be a ninth number.
        sizes = []
        for name in os.listdir("/proc/self/fd"):
            try:
                sizes.append(len(os.pread(int(name), 1 << 20, 0)))
            except OSError:
                pass
        return [size for size in sizes if size not in (0, 4096, 256 * 8 * 4)]


    LOOKS = {{
        "data": lambda: Path(DATA, "blobs.bin").read_bytes(),
        "anywhere": files,
        "descriptors": descriptors,
        "processes": lambda: [pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) not in (1, os.getpid())],
        "network": lambda: socket.create_connection(("127.0.0.1", PORT), timeout=1.0),
        "earlier": lambda: Path("/tmp/left").exists() or Path("left").exists(),
    }}


    def build(settings):
        return Network()
"""


@pytest.mark.slow
def test_a_predictor_sees_examples_that_ship_with_a_package_empty(race_open, sandbox):
    digits = "Path(sklearn.__file__).with_name('datasets') / 'data' / 'digits.csv.gz'"
    look = f"raise ValueError(len(({digits}).read_bytes()))"
    predictor = predicting("import sklearn", "from pathlib import Path", look)
    source = """
        from predictor import build

        def train(trial, hp):
            trial.hand_over(build({"width": 4}), {"width": 4})
            trial.next_batch()
            trial.end_step()
    """
    outcome = race_open(source, predictor, entry="workloads.digits_mlp.DigitsMlp", options={"hidden": [4]})
    if sandbox.missing is not None:
        pytest.skip(f"no sandbox: this system lacks {sandbox.missing}")
    assert outcome.reason.startswith("the predictor: ValueError: 0 (predictor.py:")


def test_a_predictor_finds_no_target_no_network_and_nothing_of_an_earlier_one(race_open, sandbox, tmp_path):
    source = """
        from predictor import build

        def train(trial, hp):
            network = build({})
            trial.hand_over(network, {})
            for batch in trial.batches():
                network.weight.data.fill_(trial.step >= 5)
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        looks = LOOKS.format(data=str(tmp_path / "data"), port=server.getsockname()[1])
        outcome = race_open(source, looks, evaluate_every_steps=3, options={"stored": True})
    if sandbox.missing is not None:
        pytest.skip(f"no sandbox: this system lacks {sandbox.missing}")
    assert [seen.step for seen in outcome.observations] == [3]
    assert outcome.reason.startswith(
        "the predictor: ValueError: data FileNotFoundError, anywhere nothing, descriptors nothing, processes nothing, "
        "network ConnectionRefusedError, earlier nothing"
    )
