"""A frozen network that knows facts, and the editor that changes one of them: what an edit is, and what it leaves."""

from __future__ import annotations

import copy
import functools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import SPLITS, SplitName, terms_of
from harness.race.evaluation import evaluate
from tests.workloads.short_runs import NOWHERE, whole
from workloads.frontier.facts.facts_editor import (
    FACTS,
    Editor,
    FactsEditor,
    facts_known,
    trained_base,
)
from workloads.networks.decoder_transformer import Block, DecoderTransformer

WORKLOAD = FactsEditor(hidden=32)


def editor() -> Editor:
    torch.manual_seed(0)
    model = WORKLOAD.build_model()
    assert isinstance(model, Editor)
    return model


@functools.cache
def first_edits(split: SplitName, count: int) -> dict[str, Tensor]:
    return WORKLOAD.load(split, NOWHERE).gather(torch.arange(count))


def narrows(base: DecoderTransformer) -> list[torch.nn.Linear]:
    found = []
    for block in base.blocks:
        assert isinstance(block, Block)
        found.append(block.narrow)
    return found


# --- what is known ---


def test_the_base_knows_its_facts():
    found = evaluate(facts_known(), trained_base(), facts_known().load("validation", NOWHERE), 500)
    assert found["recall_error"] <= 0.005


def test_every_fact_is_edited_in_one_split_and_never_to_what_it_is():
    known = facts_known().load("train", NOWHERE).gather(torch.arange(FACTS))
    answers = dict(zip(known["inputs"][:, 0].tolist(), known["targets"].tolist(), strict=True))
    edited = {}
    for split in SPLITS:
        batch = whole(WORKLOAD, split)
        subjects = batch["inputs"][:, 0, 0].tolist()
        edited[split] = set(subjects)
        assert all(answers[a] != b for a, b in zip(subjects, batch["targets"].tolist(), strict=True))
        assert set(batch["targets"].tolist()) <= set(answers.values())
        assert not (batch["inputs"][:, :1, 0] == batch["inputs"][:, 1:, 0]).any()
        # The relation is the first symbol after those of the facts.
        assert set(batch["inputs"][:, :, 1].flatten().tolist()) == {2 * FACTS}
    assert [len(each) for each in edited.values()] == [1600, 200, 200]
    assert len(set().union(*edited.values())) == FACTS
    assert set(whole(WORKLOAD, "train")["inputs"][:, 1:, 0].flatten().tolist()) <= edited["train"]


# --- what an edit is ---


def test_without_an_edit_scores_are_those_of_the_network():
    questions = first_edits("validation", 3)["inputs"]
    expected = trained_base()(questions.flatten(0, 1))[:, -1].unflatten(0, (3, -1))
    torch.testing.assert_close(editor().scores(questions, None), expected)


def test_what_the_editor_reads_is_the_gradient_of_the_new_answer():
    batch, base = first_edits("validation", 2), trained_base()
    inputs, slopes = editor().gradient(batch["inputs"][:, :1], batch["targets"])
    for example in range(2):
        scores = base(batch["inputs"][example, :1])[:, -1]
        loss = F.cross_entropy(scores, batch["targets"][example : example + 1])
        matrices = [each.weight for each in narrows(base)]
        for layer, gradient in enumerate(torch.autograd.grad(loss, matrices)):
            product = slopes[layer, example].T @ inputs[layer, example]
            torch.testing.assert_close(product, gradient, atol=1e-6, rtol=1e-4)
    # In the last block nothing hangs on what stands at the subject: there the gradient has rank one.
    assert not slopes[1, :, 0].any()
    assert slopes[0, :, 0].any()


def test_an_edit_is_a_change_of_the_matrices():
    torch.manual_seed(1)
    inputs, slopes = 0.1 * torch.randn(2, 2, 2, 64), torch.randn(2, 2, 2, 64)
    questions = first_edits("test", 2)["inputs"]
    found = editor().scores(questions, (inputs, slopes))
    for example in range(2):
        changed = copy.deepcopy(trained_base())
        with torch.no_grad():
            for layer, narrow in enumerate(narrows(changed)):
                narrow.weight += slopes[layer, example].T @ inputs[layer, example]
            expected = changed(questions[example])[:, -1]
        torch.testing.assert_close(found[example], expected, atol=2e-4, rtol=1e-4)


def test_an_editor_begins_with_a_step_down_the_gradient():
    model, batch = editor(), first_edits("validation", 8)
    with torch.no_grad():
        after, before = model(batch["inputs"], batch["targets"])[:, :, 0].unbind(1)
    losses = [F.cross_entropy(scores, batch["targets"], reduction="none") for scores in (after, before)]
    assert (losses[0] < losses[1]).all()


def test_evaluations_in_inference_mode_see_the_same_edit():
    model, batch = editor().eval(), first_edits("validation", 4)
    expected = WORKLOAD.outputs(model, batch).detach()
    with torch.inference_mode():
        copied = {name: values.clone() for name, values in batch.items()}
        torch.testing.assert_close(WORKLOAD.outputs(model, copied), expected)


# --- loss and metric ---


def test_an_edit_that_does_nothing_fails_and_changes_nothing():
    batch = first_edits("validation", 5)
    before = trained_base()(batch["inputs"].flatten(0, 1))[:, -1].unflatten(0, (5, -1)).detach()
    outputs = torch.stack([before, before], dim=1)
    found = WORKLOAD.metrics(WORKLOAD.statistics(outputs, batch))
    assert found == {"edit_error": 0.5, "failed_edits": 1.0, "changed_others": 0.0}
    terms = {term.name: term.losses for term in terms_of(WORKLOAD, outputs, batch, 0.0)}
    assert terms["others"].abs().max().item() == 0.0
    torch.testing.assert_close(terms["edit"], F.cross_entropy(before[:, 0], batch["targets"], reduction="none"))


def test_the_divergence_is_the_sum_over_all_symbols():
    outputs = torch.zeros(1, 2, 17, 3)
    outputs[0, 1, 1] = torch.tensor([0.5, 0.25, 0.25]).log()
    batch = {"targets": torch.tensor([0])}
    others = WORKLOAD.loss_terms(outputs, batch, 0.0)["others"][0]
    expected = 0.5 * math.log(1.5) + 0.5 * math.log(0.75)
    assert others[0].tolist() == pytest.approx([expected, *[0.0] * 15], abs=1e-6)
