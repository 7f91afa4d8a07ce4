"""Directories of AlgoPerf submissions run as they are: their names, their loop, their search spaces."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from harness.api import ConfigError, LossKind
from harness.commands.authors.import_submission import import_submission
from harness.plugins.algoperf import read_search_space
from harness.plugins.submission import load_submission
from tests.conftest import ROOT, SGD, race_on
from tests.trial.passes.trials import trial_on_blobs

SUBMISSIONS = ROOT / "tests" / "algoperf"
POINT = {
    "adamw_with_warmup": {
        "learning_rate": 0.01, "one_minus_beta1": 0.1, "beta2": 0.99, "weight_decay": 0.05, "warmup_factor": 0.05,
    },
    "averaged_weights": {},
    "ends_by_itself": {"learning_rate": 0.02, "steps": 90},
    "relocated": {"learning_rate": 0.05},
}  # fmt: skip


def run(folder: Path, point: dict[str, float], then: str = "") -> dict:
    """One trial in a fresh interpreter, since the names that a submission imports stay in it; what it says as JSON."""
    code = f"""
        import json
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from harness.api import Hyperparameters
        from harness.plugins.algoperf import train_with
        from harness.plugins.conformance.rehearsal import Checkpoints, Rehearsal
        train = train_with(Path({str(folder)!r}))
        race = Rehearsal()
        race.run(train, Hyperparameters({point!r}))
        said = {{"losses": race.losses, "sum": float(race.weights[-1]["4.weight"].abs().sum())}}
        {then}
        print(json.dumps(said))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ["adamw_with_warmup", "averaged_weights", "relocated"])
def test_a_submission_in_algoperfs_api_learns(name):
    losses = run(SUBMISSIONS / name, POINT[name])["losses"]
    assert losses[-1] < 0.6 * losses[0]


def test_the_loop_takes_the_steps_of_the_same_update_written_as_a_plain_one():
    plain = """
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR
import torch
def plain(trial, hp):
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=0.01, betas=(0.9, 0.99), weight_decay=0.05, fused=False)
    warmup = max(1, int(0.05 * trial.step_hint))
    schedule = SequentialLR(optimizer, [LinearLR(optimizer, 1e-10, 1.0, warmup),
        CosineAnnealingLR(optimizer, trial.step_hint - warmup)], [warmup])
    for batch in trial.batches():
        optimizer.zero_grad(); trial.loss(batch).backward(); optimizer.step(); schedule.step()
other = Rehearsal().run(plain, Hyperparameters({}))
said["other"] = float(other.weights[-1]["4.weight"].abs().sum())
"""
    said = run(SUBMISSIONS / "adamw_with_warmup", POINT["adamw_with_warmup"], plain.replace("\n", "\n        "))
    assert said["sum"] == pytest.approx(said["other"], rel=1e-4)


def test_the_end_of_training_error_ends_the_trial():
    # The referee of this test goes on after the last word, so the loop ends at its last step instead.
    code = "said['finished'] = race.trial.is_over"
    said = run(SUBMISSIONS / "ends_by_itself", {"learning_rate": 0.02, "steps": 1000}, code)
    assert said["finished"]


def test_files_that_need_jax_are_refused_by_name(tmp_path):
    folder = tmp_path / "in_jax"
    shutil.copytree(SUBMISSIONS / "adamw_with_warmup", folder)
    (folder / "helper.py").write_text("import jax.numpy as jnp\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", f"""
from pathlib import Path
from harness.plugins.algoperf import train_with
train_with(Path({str(folder)!r}))
"""],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert "helper.py imports jax.numpy. Only AlgoPerf submissions in PyTorch run here" in done.stderr


def test_what_would_name_the_workload_is_not_told(tmp_path):
    folder = tmp_path / "asks"
    shutil.copytree(SUBMISSIONS / "adamw_with_warmup", folder)
    source = (folder / "submission.py").read_text(encoding="utf-8")
    (folder / "submission.py").write_text(
        source.replace("    del model_state, rng\n", "    table = {}[workload.workload_name]\n"), encoding="utf-8"
    )
    with pytest.raises(AssertionError, match=r"asks its workload for 'workload_name', which this suite does not tell"):
        run(folder, POINT["adamw_with_warmup"])


def test_ranges_and_points_of_a_search_space_are_read(tmp_path):
    path = tmp_path / "tuning_search_space.json"
    path.write_text('[{"a": 1}, {"a": 2}]', encoding="utf-8")
    assert read_search_space(path) == [{"a": 1}, {"a": 2}]
    found = read_search_space(SUBMISSIONS / "adamw_with_warmup" / path.name)
    assert found["learning_rate"] == {"min": 1e-3, "max": 1e-2, "scaling": "log"}
    assert found["beta2"] == {"values": [0.99]}


@pytest.mark.parametrize("text", [
        "{", "3", "[]", '{"a": 4}', '{"a": {"feasible_points": []}}', '{"a": {"feasible_points": 5}}',
        '{"a": {"min": null, "max": 1}}', '{"a": {"min": -1, "max": 1, "scaling": "log"}}',
    ],
)  # fmt: skip
def test_another_search_space_is_refused_with_its_file(tmp_path, text):
    path = tmp_path / "tuning_search_space.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match="tuning_search_space"):
        read_search_space(path)


@pytest.mark.parametrize("name", ["adamw_with_warmup", "averaged_weights"])
def test_a_directory_is_wrapped_as_it_is_and_runs_refereed(name, tmp_path, sandbox):
    folder = import_submission(SUBMISSIONS / name, "theirs", tmp_path)
    submission = load_submission(str(folder))
    assert submission.api == "algoperf"
    assert (folder / "submission.py").read_bytes() == (SUBMISSIONS / name / "submission.py").read_bytes()
    outcome = race_on(
        sandbox,
        tmp_path,
        SGD,
        submission={"folder": str(folder), "entry": None, "api": submission.api},
        hyperparameters=dict(submission.hyperparameters),
        evaluate_every_steps=40,
        max_runtime=30.0,
    )
    assert outcome.status == "out_of_budget", outcome.reason
    # Three classes: log 3 before anything is learnt.
    assert outcome.observations[-1].validation["loss"] < 0.3


UNNAMED = """
import copy

import torch

def init_optimizer_state(workload, model_params, model_state, hyperparameters, rng):
    return {"optimizer": torch.optim.SGD(model_params.parameters(), lr=0.05, momentum=0.9), "training": model_params}

def update_params(workload, current_param_container, optimizer_state, model_state, batch, rng, **_):
    # Starts at what was judged, whatever model that is.
    model = optimizer_state["training"]
    model.load_state_dict(current_param_container.state_dict())
    optimizer_state["optimizer"].zero_grad()
    outputs, model_state = workload.model_fn(model, batch, model_state, workload_mode(), rng, True)
    losses = workload.loss_fn(batch["targets"], outputs, batch.get("weights"))
    (losses["summed"] / losses["n_valid_examples"]).backward()
    optimizer_state["optimizer"].step()
    return optimizer_state, model, model_state

def workload_mode():
    from algoperf import spec
    return spec.ForwardPassMode.TRAIN

def prepare_for_eval(workload, current_param_container, optimizer_state, model_state, **_):
    model = copy.deepcopy(current_param_container)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.99)
    return optimizer_state, model, model_state

def get_batch_size(workload_name):
    return 32

def data_selection(input_queue, **_):
    return next(input_queue)
"""


@pytest.mark.parametrize(
    "name",
    [
        "averaged_weights",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw_with_warmup", "another_model")),
    ],
)
def test_a_submission_goes_on_from_a_checkpoint_with_the_model_that_it_was_judged_by(name, tmp_path):
    source = SUBMISSIONS / name
    if name == "another_model":
        source = tmp_path / name
        source.mkdir()
        (source / "submission.py").write_text(UNNAMED, encoding="utf-8")
    folder = import_submission(source, "theirs", tmp_path)
    code = f"""
        from pathlib import Path
        import torch
        torch.set_num_threads(1)
        from harness.plugins.conformance.training import Candidate, resumes, trains
        from harness.plugins.submission import load_submission
        candidate = Candidate(load_submission({str(folder)!r}), Path({str(tmp_path / "checkpoints")!r}))
        print([fault_of(candidate, "batch_norm") for fault_of in (trains, resumes)])
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1:] == ["[None, None]"], done.stdout + done.stderr


def test_a_directory_that_is_no_submission_is_not_wrapped(tmp_path):
    with pytest.raises(ConfigError, match=r"has no submission\.py"):
        import_submission(tmp_path, "theirs", tmp_path)
    assert not (tmp_path / "theirs").exists()


def test_a_link_comes_along_as_its_file_and_one_to_nowhere_does_not(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    (source / "submission.py").symlink_to(SUBMISSIONS / "averaged_weights" / "submission.py")
    (source / "notes.txt").symlink_to("nowhere")
    folder = import_submission(source, "theirs", tmp_path)
    assert not (folder / "submission.py").is_symlink()
    assert not (folder / "notes.txt").is_symlink()


def test_a_directory_that_cannot_be_loaded_leaves_nothing(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(SUBMISSIONS / "averaged_weights" / "submission.py", source)
    (source / "weights.bin").write_bytes(bytes(8 << 20))
    with pytest.raises(ConfigError, match="are allowed"):
        import_submission(source, "theirs", tmp_path)
    assert not (tmp_path / "theirs").exists()


def test_the_losses_of_units_are_what_the_loss_is_the_mean_of():
    from harness.plugins.conformance.rehearsal import Rehearsal

    trial = Rehearsal().trial
    batch = trial.next_batch(32)
    losses, weights = trial.unit_losses(batch)
    assert weights is None
    torch.testing.assert_close(losses.mean(), trial.loss(batch))


def test_a_loss_that_algoperf_has_no_name_for_has_none_and_outputs_stay_as_they_are():
    from harness.plugins.algoperf import AlgoPerfWorkload

    trial = trial_on_blobs()
    trial.loss_kind = LossKind.OTHER
    workload = AlgoPerfWorkload(trial)
    assert workload.loss_type is None
    outputs = trial.outputs(trial.next_batch())
    assert torch.equal(workload.output_activation_fn(outputs), outputs)


@pytest.mark.parametrize(
    "space",
    ['{"dropout_rate": {"feasible_points": [0, 0.1]}}', '[{"dropout_rate": 0}, {"dropout_rate": 0.1}]'],
)
def test_a_whole_number_among_fractions_is_one_of_them(tmp_path, space):
    source = tmp_path / "source"
    shutil.copytree(SUBMISSIONS / "adamw_with_warmup", source)
    (source / "tuning_search_space.json").write_text(space, encoding="utf-8")
    found = load_submission(str(import_submission(source, "theirs", tmp_path)))
    assert found.hyperparameters == {"dropout_rate": 0.0}
