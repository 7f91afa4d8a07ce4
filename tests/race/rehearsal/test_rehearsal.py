"""The rehearsal before *go*: what it is given, when it ends, and that nothing of it outlives it but a warm cache."""

from __future__ import annotations

import pytest
import torch

from harness.api import ConfigError
from harness.config import RehearsalConfig
from harness.race.rehearsal.examples import made_up
from tests.blobs import Blobs
from tests.conftest import SGD

# No test here waits for the budget.
LONG = {"max_runtime": 60.0, "eval_period": 60.0}
REHEARSAL = {"rehearsal_seconds": 60.0, "rehearsal_steps": 2, **LONG}
BY_STEPS = {"evaluate_every_steps": 10, "budget_steps": 30}
# A rehearsal is what comes first: the trial after it finds the mark that it has left with the compiler's cache.
IS_REHEARSAL = """
import os, pathlib

def is_rehearsal():
    mark = pathlib.Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) / "mark"
    is_first = not mark.exists()
    mark.parent.mkdir(exist_ok=True)
    mark.touch()
    return is_first
"""


def what_is_seen(trial: str) -> str:
    """A submission that says what it has been given, and fails; in rehearsals it takes its steps."""
    return f"""
import hashlib, random
import numpy
import torch
{IS_REHEARSAL}

def digest(*tensors):
    return hashlib.sha256(b"".join(each.detach().numpy().tobytes() for each in tensors)).hexdigest()[:8]

def train(trial, hp):
    if "compiler_cache" in os.environ.get("TORCHINDUCTOR_CACHE_DIR", "") and is_rehearsal():
        for batch in trial.batches():
            trial.loss(batch).backward()
            torch.rand(5), numpy.random.rand(5), random.random(), torch.rand(5, generator=trial.generator)
            next(trial.model.parameters()).data.add_(1.0)
    {trial}
"""


def test_weights_order_and_every_random_stream_are_as_without_it(race):
    source = what_is_seen(
        """
    drawn = [torch.rand(3), torch.rand(3, generator=trial.generator), torch.from_numpy(numpy.random.rand(3))]
    batch = trial.next_batch()
    raise ValueError(digest(*trial.model.parameters(), *drawn, *batch.values(), torch.tensor(random.random())))"""
    )
    without, with_it = race(source, **LONG), race(source, **REHEARSAL)
    assert without.reason.startswith("ValueError: ")
    assert with_it.reason == without.reason
    assert (without.rehearsal_seconds, with_it.rehearsal_seconds > 0) == (None, True)


def test_a_trial_learns_the_same_as_without_it(race):
    without, with_it = (race(SGD, **BY_STEPS, **more) for more in (LONG, REHEARSAL))
    assert [seen.step for seen in with_it.observations] == [10, 20, 30]
    assert [seen.validation for seen in with_it.observations] == [seen.validation for seen in without.observations]


def test_it_costs_the_trial_no_second_of_its_clock(race):
    source = f"""
import time
{IS_REHEARSAL}

def train(trial, hp):
    if is_rehearsal():
        time.sleep(3.0)
    trial.finish()
"""
    # A budget that the rehearsal alone would have used up.
    outcome = race(source, **{**REHEARSAL, "max_runtime": 2.5})
    assert outcome.status == "finished"
    assert outcome.rehearsal_seconds > 3.0


def test_it_has_made_up_examples_and_other_weights(race, tmp_path):
    source = what_is_seen("trial.finish()").replace(
        "        for batch in trial.batches():",
        """        print("weights", next(trial.model.parameters()).flatten().tolist()[:2])
        print("length", len(trial.train_set), trial.seed)
        print("inputs", trial.train_set[100]["inputs"].tolist())
        for batch in trial.batches():""",
    )
    said = dict(line.split(" ", 1) for line in race(source, **REHEARSAL).log.splitlines() if line.count(" "))
    true = Blobs().load("train", tmp_path)
    assert said["length"] == "512 0"
    inputs = torch.tensor(eval(said["inputs"]))
    assert inputs.shape == (8,)
    assert not any(torch.allclose(inputs, true[place]["inputs"]) for place in range(len(true)))


def test_it_ends_with_its_steps_and_otherwise_with_its_seconds(race):
    count = """
def train(trial, hp):
    for batch in trial.batches():
        print("step", trial.step)
        trial.loss(batch).backward()
        if trial.step > 10:
            trial.finish()
"""
    log = race(count, **REHEARSAL).log
    before, _, _ = log.partition("--- end of the rehearsal ---")
    assert before.splitlines()[0] == "--- rehearsal: ended with a snapshot at step 2 ---"
    assert [line for line in before.splitlines() if line.startswith("step")] == ["step 0", "step 1"]
    hangs = f"""
import time
{IS_REHEARSAL}

def train(trial, hp):
    if is_rehearsal():
        time.sleep(1000)
    trial.finish()
"""
    outcome = race(hangs, **{**REHEARSAL, "rehearsal_seconds": 0.5})
    assert outcome.status == "finished"
    assert outcome.log.startswith("--- rehearsal: its time was used up ---")


def test_a_rehearsal_that_fails_is_in_the_log_and_no_end_of_the_trial(race):
    source = f"""
{IS_REHEARSAL}

def train(trial, hp):
    if is_rehearsal():
        raise ValueError("not today")
    trial.finish()
"""
    outcome = race(source, **REHEARSAL)
    assert outcome.status == "finished"
    assert outcome.log.startswith("--- rehearsal: crashed, ValueError: not today")


def test_of_what_it_writes_only_the_compilers_cache_is_there_in_the_trial(race, tmp_path):
    source = f"""
import tempfile
{IS_REHEARSAL}

def train(trial, hp):
    folders = [pathlib.Path(each) for each in (".", tempfile.gettempdir(), os.environ["HOME"])]
    if is_rehearsal():
        for folder in folders:
            (folder / "kept").write_text("a thing to remember")
    else:
        assert not [folder for folder in folders if (folder / "kept").exists()]
        assert os.listdir(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == ["mark"]
        assert not list(pathlib.Path(".").rglob("kept"))
    trial.finish()
"""
    outcome = race(source, **REHEARSAL)
    assert outcome.status == "finished", outcome.log
    assert not list(tmp_path.glob("scratch-cache"))


def test_a_link_in_place_of_the_cache_leads_nowhere(race, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "secret").touch()
    source = f"""
import os

def train(trial, hp):
    cache = os.environ["TORCHINDUCTOR_CACHE_DIR"]
    if not os.path.lexists("begun"):
        open("begun", "w").close()
        os.symlink({str(tmp_path / "private")!r}, cache)
    trial.finish()
"""
    assert race(source, **REHEARSAL).status == "finished"
    assert (tmp_path / "private" / "secret").exists()


def test_made_up_examples_stand_in_for_all_places_of_the_split(tmp_path):
    examples = made_up(Blobs(), tmp_path, different=5)
    assert len(examples) == 512
    assert torch.equal(examples[3]["inputs"], examples[508]["inputs"])
    assert not torch.equal(examples[3]["inputs"], examples[4]["inputs"])
    assert {name: len(values) for name, values in examples.tensors().items()} == {"inputs": 512, "targets": 512}
    moved = examples.to(torch.device("cpu"))
    assert len(moved) == 512
    assert torch.equal(moved[511]["inputs"], examples[511]["inputs"])


@pytest.mark.parametrize(("seconds", "steps"), [(10.0, 0), (0.0, 2), (-1.0, 2)])
def test_seconds_and_steps_come_together(seconds, steps):
    with pytest.raises(ConfigError, match="Use 0 and 0 for none, else both above 0"):
        RehearsalConfig(seconds, steps)


@pytest.mark.slow
def test_what_was_compiled_in_a_rehearsal_is_not_compiled_again_in_the_trial(race):
    source = """
        import torch
        from torch._dynamo.utils import counters

        def train(trial, hp):
            compiled = torch.compile(trial.model)
            for batch in trial.batches():
                trial.loss(batch, outputs=compiled(batch["inputs"])).backward()
                if trial.step == 1:
                    print("found", counters["inductor"]["fxgraph_cache_hit"])
                    trial.finish()
    """
    long = {"max_runtime": 240.0, "eval_period": 240.0, "options": {"hidden": 16}}
    without = race(source, **long)
    assert "found 0" in without.log, without.log
    with_it = race(source, rehearsal_seconds=240.0, rehearsal_steps=1, **long)
    assert "found 0" not in with_it.log.partition("--- end of the rehearsal ---")[2], with_it.log
