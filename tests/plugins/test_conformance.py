"""The conformance kit: each of the wrong submissions fails with the line that says why; what it lets pass, and why."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.plugins.conformance.check import Check, Outcome
from harness.plugins.conformance.files import check_files
from harness.plugins.conformance.problems import StripeStream
from harness.plugins.conformance.process import check_training_of
from harness.plugins.conformance.training import Candidate, check_training, resumes, trains
from harness.plugins.conformance.watched import Watched, names_read
from harness.plugins.submission import load_submission
from harness.race.evaluation import evaluate

WRONG = Path(__file__).resolve().parent.parent / "wrong_submissions"

# The first check that fails, and what it says. `fails_in_its_space` fails under the referee: tests/commands.
FAULTS = {
    "no_title": ("description", r"submission\.yaml: title is None\. Write a line of text"),
    "wrong_distribution": (
        "description",
        r"search_space\.learning_rate\.scaling is 'lognormal'\. Use 'linear' or 'log'",
    ),
    "no_paper": ("paper", r"submission\.yaml:4: paper is ''\. Give the link"),
    "no_readme": ("readme", r"there is no README\.md\. Begin one with '# No readme'"),
    "default_out_of_range": ("search_space", r"submission\.yaml:7: the default 0\.05 of learning_rate is outside"),
    "names_a_workload": ("names_no_workload", r"submission\.py:9: names the workload 'digits_mlp'"),
    "private_names": ("public_names", r"submission\.py:7: imports harness\.api\.Hyperparameters, which is not for"),
    "matrices_only": ("trains", r"batch_norm: IndexError: .* \(submission\.py:19\)"),
    "counts_ties_twice": ("trains", r"masked_and_tied: ValueError: some parameters appear in more than one"),
    "needs_a_matrix": ("trains", r"one_dimensional: ValueError: optimizer got an empty parameter list \(submission"),
    "returns_early": ("trains", r"train returned after 50 steps, before its trial was over"),
    "replaces_the_model": ("trains", r"trial\.model was replaced, but the model that it was is judged"),
    "rebuilds_another": ("trains", r"batch_norm: what build\(settings\) returned does not take the weights: .* size"),
    "steps_on_a_copy": ("moves", r"after 120 steps the judged weights are those of the start"),
    "unseeded": ("repeats", r"the same seed gave another 0\.weight when it ran again\. Draw from trial\.generator"),
    "not_resumable": ("resumes", r"there are no checkpoints\. Name by trial\.resumable"),
    "forgets_its_state": ("resumes", r"gone on from the checkpoint at step 30, 0\.weight is another one"),
    "unread_hyperparameter": ("reads_hyperparameters", r"submission\.yaml:8: train never reads momentum\. Read it as"),
}


def checks_of(folder: Path, scratch: Path) -> Iterator[Check]:
    """All checks but those under the referee, in this process, as they come."""
    yield from check_files(str(folder))
    yield from check_training(Candidate(load_submission(str(folder)), scratch))


@pytest.mark.parametrize("name", FAULTS)
def test_a_wrong_submission_fails_with_the_line_that_says_why(name: str, tmp_path: Path):
    failed = next(check for check in checks_of(WRONG / name, tmp_path) if check.outcome is Outcome.FAILED)
    expected, said = FAULTS[name]
    assert failed.name == expected
    where = f"{failed.problem}: " if failed.problem else ""
    assert re.search(said, where + failed.said), where + failed.said


def test_every_wrong_submission_is_looked_at():
    kept = {path.parent.name for path in WRONG.glob("*/submission.py")}
    assert kept == {*FAULTS, "fails_in_its_space"}
    assert len(kept) >= 10


def changed(tmp_path: Path, name: str, **texts: tuple[str, str]) -> Path:
    """A copy of a submission of the repository with text in the place of other text of a file."""
    folder = tmp_path / name
    shutil.copytree(load_submission(name).folder, folder)
    for file, (old, new) in texts.items():
        path = folder / file.replace("_", ".")
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    return folder


def failures(checks: Iterator[Check]) -> list[tuple[str, str]]:
    return [(check.name, check.said) for check in checks if check.outcome is Outcome.FAILED]


def test_an_open_submission_that_trains_another_network_than_it_hands_over_is_found(tmp_path: Path):
    folder = tmp_path / "untrained"
    shutil.copytree(WRONG / "rebuilds_another", folder)
    for name, old, new in (
        ("predictor.py", 'settings["width"] + 1', 'settings["width"]'),
        ("submission.py", "trial.hand_over(network,", "trial.hand_over(Network(**settings),"),
    ):
        path = folder / name
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    failed = next(check for check in checks_of(folder, tmp_path / "scratch") if check.outcome is Outcome.FAILED)
    assert (failed.name, failed.problem) == ("moves", "batch_norm")
    assert failed.said.startswith("the network that was handed over first and last is the same")


def test_comments_and_docstrings_may_say_where_a_method_was_tuned(tmp_path: Path):
    folder = changed(tmp_path, "adamw", submission_py=("import torch\n", "import torch  # on kjv_char_lm\n"))
    (folder / "README.md").write_text("# AdamW\n\nTuned on digits_mlp.\n", encoding="utf-8")
    assert failures(iter(check_files(str(folder)))) == []


@pytest.mark.parametrize("text", ["'digits_mlp'", "'Digits-MLP'", "DigitsMlp", "f'{hp}/kjv_char_lm'"])
def test_a_workload_is_recognised_however_it_is_spelt(text: str, tmp_path: Path):
    folder = changed(tmp_path, "adamw", submission_py=("import torch\n", f"import torch\n\nname = lambda hp: {text}\n"))
    assert [name for name, _ in failures(iter(check_files(str(folder))))] == ["names_no_workload"]


def test_a_table_beside_the_code_names_no_workload_either(tmp_path: Path):
    folder = changed(tmp_path, "adamw")
    (folder / "rates.json").write_text('{\n"fashion_mnist_cnn": 0.1}\n', encoding="utf-8")
    ((name, said),) = failures(iter(check_files(str(folder))))
    assert name == "names_no_workload"
    assert said.startswith("rates.json:2: ")


@pytest.mark.parametrize(
    ("read", "expected"),
    [
        (lambda hp: hp.lr, {"lr"}),
        (lambda hp: hp["lr"], {"lr"}),
        (lambda hp: hp.get("momentum"), {"momentum"}),
        (lambda hp: {**hp}, {"lr", "momentum"}),
        (dict, {"lr", "momentum"}),
        (lambda hp: vars(hp), {"lr", "momentum"}),
        (lambda hp: [name for name in hp], set()),  # noqa: C416
        (lambda hp: "lr" in hp and len(hp), {"lr"}),
    ],
)
def test_a_hyperparameter_counts_as_read_by_whatever_road(read, expected: set[str]):
    hp = Watched({"lr": 0.1, "momentum": 0.9})
    read(hp)
    assert names_read(hp) == expected


def test_watched_hyperparameters_are_like_those_that_are_not():
    hp = Watched({"lr": 0.1, "betas": [0.9, 0.99]})
    assert (hp.lr, hp["betas"], len(hp), list(hp)) == (0.1, (0.9, 0.99), 2, ["lr", "betas"])
    with pytest.raises(AttributeError, match="there is no hyperparameter 'beta'"):
        hp.beta  # noqa: B018
    with pytest.raises(KeyError):
        hp["beta"]
    with pytest.raises(AttributeError, match="fixed for a trial"):
        hp.lr = 1.0


CONDITIONAL = """
import torch

def train(trial, hp):
    momentum = hp.momentum if hp.rule == "heavy" else 0.0
    optimizer = torch.optim.SGD(trial.model.parameters(), lr=hp.learning_rate, momentum=momentum)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad()
        trial.loss(batch).backward()
        optimizer.step()
"""


def test_a_hyperparameter_of_another_branch_is_looked_for_there(tmp_path: Path):
    folder = tmp_path / "conditional"
    folder.mkdir()
    (folder / "submission.py").write_text(CONDITIONAL, encoding="utf-8")
    (folder / "submission.yaml").write_text(
        "title: a test\nauthors: nobody\nhyperparameters: {learning_rate: 0.05, rule: plain, momentum: 0.9}\n"
        "search_space:\n  rule: {values: [plain, heavy]}\n  momentum: {min: 0.1, max: 0.95, when: {rule: [heavy]}}\n",
        encoding="utf-8",
    )
    checks = [*check_training(Candidate(load_submission(str(folder)), tmp_path / "scratch"))]
    assert failures(iter(checks)) == []
    assert checks[-1].name == "reads_hyperparameters"


UNWRITABLE = """
class Rate:
    def state_dict(self):
        return {"rate": lambda step: 0.05}

    def load_state_dict(self, state):
        pass

def train(trial, hp):
    trial.resumable(rate=Rate())
    for batch in trial.batches():
        trial.model.zero_grad()
        trial.loss(batch).backward()
        for parameter in trial.model.parameters():
            parameter.data -= 0.05 * parameter.grad
"""


def test_a_state_that_cannot_be_written_is_a_fault_of_resuming_and_not_of_training(tmp_path: Path):
    folder = changed(tmp_path, "adamw")
    (folder / "submission.py").write_text(UNWRITABLE, encoding="utf-8")
    candidate = Candidate(load_submission(str(folder)), tmp_path / "scratch")
    assert trains(candidate, "one_dimensional") is None
    fault = resumes(candidate, "one_dimensional")
    assert fault is not None
    assert "what it names as resumable cannot be written: " in fault
    assert "local object" in fault


FINISHES = """
import torch

def train(trial, hp):
    optimizer = torch.optim.AdamW(trial.model.parameters(), lr=hp.learning_rate)
    trial.resumable(optimizer=optimizer)
    for batch in trial.batches():
        optimizer.zero_grad()
        trial.loss(batch).backward()
        optimizer.step()
        if trial.step == 39:
            trial.finish()
"""


def test_a_submission_that_says_that_it_is_done_keeps_the_contract(tmp_path: Path):
    folder = changed(tmp_path, "adamw")
    (folder / "submission.py").write_text(FINISHES, encoding="utf-8")
    candidate = Candidate(load_submission(str(folder)), tmp_path / "scratch")
    assert trains(candidate, "one_dimensional") is None
    assert resumes(candidate, "one_dimensional") is None


def left_with(tmp_path: Path, code: str, *, seconds: float) -> str:
    """What is said of a submission of this code."""
    folder = changed(tmp_path, "adamw")
    (folder / "submission.py").write_text(code, encoding="utf-8")
    found = check_training_of(load_submission(str(folder)), seconds=seconds)
    assert found.checks[-1].outcome is Outcome.FAILED
    assert not found.measured
    return found.checks[-1].said


def test_a_submission_that_ends_its_process_ends_no_other(tmp_path: Path):
    code = "import os\n\ndef train(trial, hp):\n    print('bye')\n    os._exit(3)\n"
    assert "exit code 3. Its last words" in left_with(tmp_path, code, seconds=120.0)


def test_a_submission_that_leaves_without_a_word_has_not_passed(tmp_path: Path):
    code = "import os\n\ndef train(trial, hp):\n    os._exit(0)\n"
    assert "ended its process before all was looked at" in left_with(tmp_path, code, seconds=120.0)


@pytest.mark.slow
def test_a_submission_that_never_steps_is_ended(tmp_path: Path):
    code = "def train(trial, hp):\n    while True:\n        pass\n"
    assert "not done after 15 seconds. Let its loop draw" in left_with(tmp_path, code, seconds=15.0)


def test_the_problem_in_stages_says_how_wrong_each_is_as_the_referee_asks_of_streams(tmp_path):
    problem = StripeStream()
    metrics = evaluate(problem, problem.build_model(), problem.load("validation", tmp_path), 64)
    stages = [metrics[name] for name in problem.stage_metrics()]
    assert len(stages) == problem.stages
    # Two outputs of a network that has learned nothing.
    assert all(0.2 < wrong < 0.8 for wrong in stages)
