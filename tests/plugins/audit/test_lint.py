"""What the reading of a submission's source finds, and what it leaves in peace."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from harness.api import visible
from harness.config import names_in
from harness.plugins.audit.lint import read_source
from tests.conftest import ROOT

SUBMISSIONS = [
    path.parent
    for folder in ("submissions", "tests/algoperf")
    for path in visible(ROOT / folder, "*/submission.*")
    if path.suffix in (".py", ".yaml")
]

SUSPECT = {
    "size": "def train(trial, hp):\n    return sum(p.numel() for p in trial.model.parameters()) == 8970",
    "size in a range": """
        def train(trial, hp):
            count = sum(p.numel() for p in trial.model.parameters())
            return 0.1 if count < 10_000 else 0.01
        """,
    "shape in a table": """
        RATES = {(10, 64): 0.1, (66, 128): 0.004}

        def train(trial, hp):
            shapes = [tuple(p.shape) for p in trial.model.parameters()]
            return RATES.get(shapes[-2], 0.01)
        """,
    "shapes as text": """
        RATES = {"[64, 64]": 0.1}

        def train(trial, hp):
            return RATES[str([p.shape[0] for p in trial.model.parameters()])]
        """,
    "shape as a size": """
        import torch

        def train(trial, hp):
            return next(trial.model.parameters()).shape == torch.Size([66, 128])
        """,
    "size in a range of numbers": """
        def train(trial, hp):
            return sum(map(torch.numel, trial.model.parameters())) in range(8000, 9000)
        """,
    "hash of shapes": """
        import hashlib

        def train(trial, hp):
            shapes = [tuple(p.shape) for p in trial.model.parameters()]
            return hashlib.sha256(str(shapes).encode()).hexdigest().startswith("3fa1")
        """,
    "width": "def train(trial, hp):\n    return any(m.weight.shape[-1] == 784 for m in trial.model.modules())",
    "number of parameters": "def train(trial, hp):\n    return len(list(trial.model.parameters())) == 6",
    "class of a layer": "def train(trial, hp):\n    return type(trial.model).__name__ == 'ResidualNetwork'",
    "hint": "def train(trial, hp):\n    return 0.1 if trial.step_hint == 2160 else 0.01",
    "hint under another name": """
        KNOWN = 2160

        def train(t, hp):
            hint = t.step_hint
            return hint == KNOWN
        """,
    "match": """
        def train(trial, hp):
            match trial.batch_size_hint:
                case 64:
                    return 0.1
        """,
    "metric": "def train(trial, hp):\n    return trial.target.metric == 'error'",
    "target": "def train(trial, hp):\n    return trial.target.validation < 0.05",
    "seed": "def train(trial, hp):\n    return trial.seed % 1000 == 717",
    "examples": "def train(trial, hp):\n    return len(trial.train_set) == 997",
    "first batch": """
        def train(trial, hp):
            batch = trial.next_batch()
            return batch["inputs"].mean().item() > 0.25
        """,
    "fields of a batch": """
        def train(trial, hp):
            for batch in trial.batches():
                return "atoms" in batch
        """,
    "helper that is told": """
        from harness import Trial

        def rate(race: Trial):
            return 0.1 if race.batch_size_hint == 64 else 0.01
        """,
    "name of a workload": "RATES = {'kjv_char_lm': 0.1}",
    "name of a workload in a name": "def rate_of_digits_mlp():\n    return 0.1",
    "workload's module": "import workloads.digits_mlp",
    "inner module": "from harness.plugins.entries import create_workload",
    "behind the trial": "def train(trial, hp):\n    return trial._workload.load('validation', None)",
    "behind the trial by name": "def train(trial, hp):\n    return getattr(trial, '_work' + 'load')",
    "module of a class": "def train(trial, hp):\n    return type(trial.model[0]).__module__",
    "data in a package": "from sklearn.datasets import load_digits",
    "trained weights": "import torch\n\nMODEL = torch.hub.load('a', 'b')",
    "files": "from pathlib import Path",
    "file": "def train(trial, hp):\n    return open('/tmp/weights').read()",
    "weights in a file": "import torch\n\nWEIGHTS = torch.load('weights.pt')",
    "weights under another name": "from torch import load as read\n\nWEIGHTS = read('weights.pt')",
    "network": "import socket",
    "packed": "import base64",
    "text that is code": "exec('train = None')",
    "blob of text": f"WEIGHTS = {'QUJD' * 50!r}",
    "blob of bytes": f"WEIGHTS = {bytes(range(100))!r}",
    "blob of numbers": f"WEIGHTS = {[0.5 + number for number in range(100)]}",
    "number of many bits": f"WEIGHTS = {3**200}",
    "own seed": "import torch\n\ndef train(trial, hp):\n    torch.manual_seed(717)",
    "no Python": "def train(trial, hp:",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "submission.yaml").write_text("title: a test\n", encoding="utf-8")
    return tmp_path


def signs(folder: Path) -> list[str]:
    return [sign.what for sign in read_source(folder, workloads=names_in("workload"))]


@pytest.mark.parametrize("submission", sorted(set(SUBMISSIONS)), ids=lambda path: path.name)
def test_no_submission_of_the_repository_has_a_sign(submission):
    assert signs(submission) == []


@pytest.mark.parametrize("source", SUSPECT.values(), ids=SUSPECT)
def test_foreknowledge_leaves_a_sign(folder, source):
    (folder / "submission.py").write_text(textwrap.dedent(source), encoding="utf-8")
    assert signs(folder)


def test_a_sign_says_where_and_why(folder):
    (folder / "helper.py").write_text("import torch\n\nimport socket\n", encoding="utf-8")
    [sign] = read_source(folder, workloads=[])
    assert (sign.file, sign.line, sign.what) == ("helper.py", 3, "reaches for a network (socket)")


def test_what_training_algorithms_ask_of_matrices_is_no_sign(folder):
    source = """
        import torch
        from harness import Hyperparameters, LossKind, Trial

        def train(trial: Trial, hp: Hyperparameters) -> None:
            '''As in digits_mlp, but for all.'''
            matrices = [p for p in trial.model.parameters() if p.ndim == 2 and min(p.shape) > 1 and p.numel() < 2**20]
            rows, columns = matrices[0].shape
            scale = max(1, rows / columns) ** 0.5
            groups = {}
            for p in matrices:
                groups.setdefault(p.shape, []).append(torch._foreach_abs([p]))
            warmup = int(0.05 * trial.step_hint)
            if trial.loss_kind == LossKind.CTC or trial.target.goal == "max" or warmup < 1:
                warmup = 1
            for batch in trial.batches():
                if "weights" in batch and trial.step > 1000 and trial.evaluations and trial.device.type == "cuda":
                    break
        """
    (folder / "submission.py").write_text(textwrap.dedent(source), encoding="utf-8")
    assert signs(folder) == []


def test_other_files_than_python_may_not_hold_data(folder):
    (folder / "weights.bin").write_bytes(bytes(range(256)))
    (folder / "table.json").write_text("[" + "0.5, " * 10_000 + "1]", encoding="utf-8")
    (folder / "submission.yaml").write_text("hyperparameters:\n  rate_digits_mlp: 0.1\n", encoding="utf-8")
    found = {sign.file: sign.what for sign in read_source(folder, workloads=["digits_mlp"])}
    assert found == {
        "submission.yaml": "names the workload digits_mlp",
        "table.json": "is 50003 bytes that are no Python",
        "weights.bin": "is no text",
    }
