"""finewebedu_lm and fineweb_gpt: models number by number, files of tokens and of parquet, windows, perplexity."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy
import pyarrow
import pyarrow.parquet
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.api import ConfigError, DataError, DataSource, ParameterKind, mean_loss
from harness.config import WorkloadConfig, load
from harness.plugins.entries import create_workload
from harness.race.evaluation import evaluate
from harness.trial.parameter_kinds import kinds_of
from tests.workloads.algoperf_weights import set_parity_weights
from tests.workloads.full.refereed import trial_and_evaluations
from workloads.full.data.text import finewebedu, token_files
from workloads.full.data.text.gpt2_tokens import Gpt2Encoding, check_merges
from workloads.full.data.text.token_windows import TokenWindows, cut, from_to, overlapping
from workloads.full.networks.speedrun_gpt import SpeedrunGpt

WINDOW = 16
SMALL: dict[str, dict[str, Any]] = {
    "finewebedu_lm": {"vocabulary": 261, "context": WINDOW, "width": 16, "layers": 2, "heads": 2, "hidden": 16},
    "fineweb_gpt": {"vocabulary": 300, "context": WINDOW, "width": 16, "layers": 2, "heads": 2, "held_out_windows": 6},
}


def config(name: str) -> WorkloadConfig:
    return load("workload", name, WorkloadConfig)


def workload(name: str, **changes: Any) -> Any:
    return create_workload(config(name).entry, {**config(name).options, **changes})


def small(name: str) -> Any:
    return workload(name, **SMALL[name])


each_workload = pytest.mark.parametrize("name", list(SMALL))


def test_the_budget_of_finewebedu_lm_is_algoperfs_and_that_of_fineweb_gpt_has_its_sources_evaluations():
    [published] = config("finewebedu_lm").published.values()
    budget = config("finewebedu_lm").budget
    assert budget.step_hint == published.step_hint == 72_000
    assert budget.evaluations == round(published.max_runtime / published.eval_period)
    track = config("fineweb_gpt").budget
    assert track.steps / track.evaluations == 125
    assert config("fineweb_gpt").batch_size * config("fineweb_gpt").options["context"] == 524_288


# --- the models ---


def shapes_of_algoperf() -> list[list[int]]:
    block = [[], [3072, 1024], [1024, 1024], [1024], [8192, 1024], [1024, 4096], [1024]]
    return [[50_257, 1024], *block * 12, [1024]]


def test_the_model_of_finewebedu_lm_has_the_parameters_of_algoperfs():
    with torch.device("meta"):
        model = workload("finewebedu_lm").build_model()
    shapes = [list(parameter.shape) for parameter in model.parameters()]
    assert sorted(shapes) == sorted(shapes_of_algoperf())
    assert sum(math.prod(shape) for shape in shapes) == config("finewebedu_lm").parameters
    assert sum(math.prod(shape) for shape in shapes[1:]) == 201_352_204


def in_algoperfs_order(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    order = [
        "attention.sharpness", "attention.qkv.weight", "attention.out.weight", "attention_norm.weight", "widen.weight",
        "narrow.weight", "feed_forward_norm.weight",
    ]  # fmt: skip
    named = dict(model.named_parameters())
    blocks = [named[f"blocks.{block}.{name}"] for block in range(12) for name in order]
    return [named["embedding.weight"], *blocks, named["norm.weight"]]


@pytest.mark.slow
def test_the_model_of_finewebedu_lm_computes_what_algoperfs_does():
    # Reference values of an independent implementation with the same weights and inputs.
    model = workload("finewebedu_lm").build_model().eval()
    set_parity_weights(model, in_algoperfs_order(model))
    tokens = torch.from_numpy(numpy.random.RandomState(7).randint(0, 50_257, (2, 17)))
    batch = {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    with torch.no_grad():
        scores = workload("finewebedu_lm").outputs(model, batch)
        loss = mean_loss(*workload("finewebedu_lm").losses(scores, batch, 0.0)).item()
    assert scores.shape == (2, 16, 50_257)
    assert scores.mean().item() == pytest.approx(0.003103, abs=2e-6)
    assert scores.std(unbiased=False).item() == pytest.approx(1.005125, rel=1e-4)
    assert scores.flatten()[:4].tolist() == pytest.approx([0.48124, 0.21501, 0.98435, -1.37258], rel=1e-4)
    assert scores.flatten()[-1].item() == pytest.approx(-1.50368, rel=1e-4)
    assert loss == pytest.approx(11.37437, rel=1e-5)


def test_the_model_of_fineweb_gpt_has_the_parameters_of_its_source():
    with torch.device("meta"):
        model = workload("fineweb_gpt").build_model()
    d = 768
    linear = [[d, d], [d]]
    block = linear * 4 + [[4 * d, d], [4 * d], [d, 4 * d], [d], [d], [d]]
    shapes = [list(parameter.shape) for parameter in model.parameters()]
    assert len(shapes) == 173
    assert sorted(shapes) == sorted([[50_304, d], *block * 12, [50_304, d], [50_304], [d], [d]])
    assert sum(math.prod(shape) for shape in shapes) == config("fineweb_gpt").parameters == 162_354_816


def speedrun(**changes: Any) -> SpeedrunGpt:
    torch.manual_seed(0)
    return SpeedrunGpt(**{"vocabulary": 50, "context": 32, "width": 64, "layers": 2, "heads": 2, **changes})


def moved(model: SpeedrunGpt) -> SpeedrunGpt:
    """A step away from the start, where all scores are zero."""
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def test_fineweb_gpt_begins_at_a_guess_with_zeros_where_something_is_added_to_the_stream():
    model = speedrun(width=256, layers=1)
    named = dict(model.named_parameters())
    zero = {name for name, parameter in named.items() if not parameter.any()}
    assert zero == {name for name in named if name.endswith("bias")} | {
        "output.weight", "blocks.0.attention.out.weight", "blocks.0.narrow.weight",
    }  # fmt: skip
    assert named["embedding.weight"].std().item() == pytest.approx(1.0, rel=0.05)
    for name in ("attention.queries", "attention.keys", "attention.values", "widen"):
        assert named[f"blocks.0.{name}.weight"].std().item() == pytest.approx(math.sqrt(0.33 / 256), rel=0.03)
    assert all((p == 1).all() for name, p in named.items() if name.endswith("norm.weight"))
    assert not model(torch.randint(50, (2, 8))).any()


def by_hand(model: SpeedrunGpt, symbols: Tensor) -> Tensor:
    """The network written out for one row, position by position, from its description in the source's words."""
    w = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    heads, length = 2, len(symbols)

    def rms(x: Tensor) -> Tensor:
        return x / (x.square().mean(dim=-1, keepdim=True) + torch.finfo(torch.float32).eps).sqrt()

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def rotary(x: Tensor) -> Tensor:
        quarter = x.shape[-1] // 4
        out = x.clone()
        for place in range(length):
            for pair in range(quarter):
                angle = place * (1 / 1024) ** (pair / (quarter - 1))
                a, b = x[place, pair], x[place, pair + 2 * quarter]
                out[place, pair] = a * math.cos(angle) + b * math.sin(angle)
                out[place, pair + 2 * quarter] = b * math.cos(angle) - a * math.sin(angle)
        return out

    x = rms(w["embedding.weight"][symbols]) * w["embedding_norm.weight"]
    for block in range(2):
        at = f"blocks.{block}"
        normed = rms(x) * w[f"{at}.attention_norm.weight"]
        q, k, v = (
            linear(normed, f"{at}.attention.{name}").chunk(heads, dim=1) for name in ("queries", "keys", "values")
        )
        mixed = []
        for head in range(heads):
            scores = 0.12 * rotary(rms(q[head])) @ rotary(rms(k[head])).T
            scores = scores.masked_fill(torch.ones(length, length).triu(1) > 0, -math.inf)
            mixed.append(scores.softmax(dim=1) @ v[head])
        x = x + linear(torch.cat(mixed, dim=1), f"{at}.attention.out")
        wide = linear(rms(x) * w[f"{at}.feed_forward_norm.weight"], f"{at}.widen").clamp_min(0).square()
        x = x + linear(wide, f"{at}.narrow")
    z = linear(rms(x) * w["norm.weight"], "output")
    return 15 * z / (z.square() + 225).sqrt()


@torch.no_grad()
def test_fineweb_gpt_computes_what_its_description_says():
    model = moved(speedrun())
    symbols = torch.randint(50, (2, 9))
    found = model(symbols)
    for row in (0, 1):
        torch.testing.assert_close(found[row], by_hand(model, symbols[row]).float(), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_fineweb_gpt_does_not_look_ahead_and_its_scores_stay_below_the_cap():
    model = moved(speedrun())
    symbols = torch.randint(50, (2, 12))
    changed = symbols.clone()
    changed[:, 8:] = (changed[:, 8:] + 1) % 50
    before, after = model(symbols), model(changed)
    torch.testing.assert_close(before[:, :8], after[:, :8])
    assert not torch.allclose(before[:, 8:], after[:, 8:])
    model.output.weight.data *= 1e4
    assert 14.9 < model(symbols).abs().max().item() <= 15.0


def test_fineweb_gpt_names_the_roles_of_its_parameters():
    kinds = kinds_of(speedrun(layers=1))
    assert kinds["blocks.0.attention.queries.weight"] == ParameterKind.ATTENTION_Q
    assert kinds["output.weight"] == ParameterKind.OUTPUT
    assert kinds["embedding.weight"] == ParameterKind.EMBEDDING
    assert sum(kind == ParameterKind.NORM_SCALE for kind in kinds.values()) == 4


def test_heads_that_do_not_fit_are_refused():
    with pytest.raises(ConfigError, match=r"4 \* heads"):
        speedrun(width=66)


def test_finewebedu_lm_has_no_dropout_and_its_loss_starts_near_that_of_a_guess():
    torch.manual_seed(0)
    made = small("finewebedu_lm")
    model = made.build_model()
    assert {module.p for module in model.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}
    batch = made.synthetic_batch(8, torch.Generator().manual_seed(0), Path())
    assert torch.equal(made.outputs(model.train(), batch), made.outputs(model.eval(), batch))
    loss = mean_loss(*made.losses(made.outputs(model, batch), batch, 0.0)).item()
    assert loss == pytest.approx(math.log(261), rel=0.05)


# --- loss and metrics ---


@each_workload
def test_the_metrics_are_the_mean_loss_of_all_tokens_and_its_exponential(name: str):
    made = small(name)
    outputs, targets = torch.randn(3, WINDOW, 50), torch.randint(50, (3, WINDOW))
    batch = {"inputs": targets, "targets": targets}
    statistics = made.statistics(outputs, batch)
    losses, weights = made.losses(outputs, batch, 0.0)
    assert weights is None
    by_hand = F.cross_entropy(outputs.flatten(0, 1).double(), targets.flatten()).item()
    assert losses.mean().item() == pytest.approx(by_hand, rel=1e-5)
    assert made.metrics(statistics) == pytest.approx(
        {"nats_per_token": by_hand, "perplexity": math.exp(by_hand)}, rel=1e-5
    )
    smoothed, _ = made.losses(outputs, batch, 0.1)
    wanted = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), label_smoothing=0.1).item()
    assert smoothed.mean().item() == pytest.approx(wanted, rel=1e-5)


# --- windows ---


def test_pieces_of_a_row_share_nothing_and_a_short_tail_is_left_out():
    arrays = [numpy.arange(begin, begin + 7, dtype=numpy.uint16) for begin in range(0, 35, 7)]
    found = numpy.concatenate(list(cut(arrays, length=4)))
    assert found.tolist() == [[4 * n, 4 * n + 1, 4 * n + 2, 4 * n + 3] for n in range(8)]


def test_overlapping_windows_have_each_token_as_target_once():
    tokens = numpy.arange(14, dtype=numpy.uint16)
    found = numpy.concatenate(list(overlapping(tokens, window=4)))
    assert found.tolist() == [[0, 1, 2, 3, 4], [4, 5, 6, 7, 8], [8, 9, 10, 11, 12]]
    assert [len(list(overlapping(tokens[:count], window=4))) for count in (4, 5)] == [0, 1]


@pytest.mark.parametrize(("begin", "end"), [(0, None), (3, 7), (5, None), (0, 2), (8, 8)])
def test_pieces_are_taken_from_any_of_them_to_any(begin: int, end: int | None):
    pieces = [numpy.arange(10, dtype=numpy.uint16)[first : first + 4, None] for first in (0, 4, 8)]
    chunks = [chunk["tokens"] for chunk in from_to(pieces, begin, end)]
    assert [int(number) for chunk in chunks for [number] in chunk] == list(range(10))[begin:end]


# --- files of tokens ---


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def write_tokens(path: Path, tokens: numpy.ndarray, *, magic: int = 20240520, count: int | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    header = numpy.zeros(256, "<i4")
    header[:3] = magic, 1, len(tokens) if count is None else count
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def random_tokens(count: int, seed: int) -> numpy.ndarray:
    return numpy.random.default_rng(seed).integers(0, 300, count).astype(numpy.uint16)


def host_of(data: Path) -> Path:
    """What stands for huggingface.co."""
    return data.with_name("host")


def write_fineweb(data: Path) -> dict[str, list[numpy.ndarray]]:
    """Two files for training and one for validation, as modded-nanogpt fetches them."""
    raw = host_of(data) / "resolve" / "main"
    tokens = {"train": [random_tokens(count, count) for count in (400, 333)], "val": [random_tokens(250, 3)]}
    for kind, files in tokens.items():
        for number, each in enumerate(files, kind == "train"):
            write_tokens(raw / f"fineweb_{kind}_{number:06d}.bin", each)
    return tokens


def fineweb_splits(data: Path, **changes: Any) -> token_files.FinewebSplits:
    asked: dict[str, Any] = {
        "vocabulary": 300, "window": WINDOW, "held_out_windows": 6, "training_files": 2,
        "place": host_of(data).as_uri(),
    }  # fmt: skip
    return token_files.FinewebSplits(**{**asked, **changes})


def test_fineweb_is_prepared_from_files_of_tokens(data: Path):
    tokens = write_fineweb(data)
    fineweb_splits(data).fetch(data)
    made = small("fineweb_gpt")
    train, validation, test = (made.load(split, data) for split in ("train", "validation", "test"))
    assert (len(train), len(validation), len(test)) == (24 + 20, 6, 6)
    batch = train.gather(torch.tensor([23, 24]))
    assert {values.dtype for values in batch.values()} == {torch.int64}
    first, second = tokens["train"]
    assert batch["inputs"].tolist() == [first[23 * WINDOW : 24 * WINDOW].tolist(), second[:WINDOW].tolist()]
    assert batch["targets"].tolist() == [
        first[23 * WINDOW + 1 : 24 * WINDOW + 1].tolist(),
        second[1 : WINDOW + 1].tolist(),
    ]
    [held_out] = tokens["val"]
    whole = torch.cat([each.gather(torch.arange(6))["inputs"] for each in (validation, test)])
    assert whole.flatten().tolist() == held_out[: 12 * WINDOW].tolist()


@pytest.mark.parametrize(
    ("damage", "words"), [("magic", "begins with"), ("cut short", "its header says"), ("empty", "begins with")]
)
def test_a_file_that_is_none_of_tokens_is_named(tmp_path: Path, damage: str, words: str):
    path = tmp_path / "fineweb_train_000001.bin"
    write_tokens(path, random_tokens(50, 0), magic=7 if damage == "magic" else 20240520)
    path.write_bytes(path.read_bytes()[: {"magic": None, "cut short": -2, "empty": 0}[damage]])
    with pytest.raises(DataError, match=rf"000001\.bin .*{words}.*make data"):
        token_files.read_tokens(path)


def test_missing_files_and_tokens_past_the_vocabulary_are_refused(data: Path):
    write_fineweb(data)
    with pytest.raises(DataError, match=r"fineweb_train_000003\.bin cannot be fetched.*run make data again"):
        fineweb_splits(data, training_files=3).fetch(data)
    with pytest.raises(DataError, match="the vocabulary ends before 200"):
        fineweb_splits(data, vocabulary=200).fetch(data)
    assert not fineweb_splits(data).is_present(data)


def test_too_short_a_validation_file_is_refused(data: Path):
    write_fineweb(data)
    with pytest.raises(DataError, match="15 examples were read, 16 are expected"):
        fineweb_splits(data, held_out_windows=16).fetch(data)


# --- pages and byte pairs ---

MERGES = ["#version: 0.2", "t h", "th e", "\u0120 the", "a n", ""]


def write_finewebedu(data: Path, *, pages: int = 60) -> list[str]:
    """Two files of parquet as Hugging Face has them, and a file of merges as OpenAI's."""
    pytest.importorskip("tiktoken")
    raw, own = host_of(data), data / "finewebedu_lm" / "raw"
    for folder in (raw, own):
        folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(0)
    words = ["the", "an", "then", "Zürich", "naïve", "42", "don't", "<|endoftext|>", "\n\n"]
    texts = [" ".join(draw.choice(words) for _ in range(draw.randint(3, 40))) for _ in range(pages)]
    for number, part in enumerate((texts[: pages // 2], texts[pages // 2 :])):
        columns = {"text": part, "id": [f"<urn:uuid:{n}>" for n in range(len(part))], "score": [3.5] * len(part)}
        pyarrow.parquet.write_table(pyarrow.table(columns), raw / f"{number:03d}_00000.parquet")
    (own / "vocab.bpe").write_text("\n".join(MERGES), encoding="utf-8")
    return texts


def encoding(folder: Path, vocabulary: int = 261) -> Gpt2Encoding:
    pytest.importorskip("tiktoken")
    path = folder / "vocab.bpe"
    path.write_text("\n".join(MERGES), encoding="utf-8")
    return Gpt2Encoding(path, vocabulary=vocabulary)


def finewebedu_splits(data: Path, **changes: Any) -> finewebedu.FinewebEduSplits:
    asked: dict[str, Any] = {
        "vocabulary": 261, "window": WINDOW, "counts": {"train": 100, "validation": 20, "test": 10}, "files": 2,
        "check": Path.read_bytes, "place": host_of(data).as_uri(),
    }  # fmt: skip
    return finewebedu.FinewebEduSplits(**{**asked, **changes})


def splits_of(name: str, data: Path) -> DataSource:
    """The source of small splits, whose files have been written."""
    if name == "fineweb_gpt":
        write_fineweb(data)
        return fineweb_splits(data)
    write_finewebedu(data)
    return finewebedu_splits(data)


def test_texts_become_gpt2s_tokens_with_an_end_each(tmp_path: Path):
    made = encoding(tmp_path)
    [first, second] = made.tokens([["the than", "<|endoftext|>!"]])
    # The bytes that can be printed come first: ! is 0, t is 83; then the others; then the merges in their order.
    assert first.tolist() == [257, 220, 256, 259, 260]
    assert made.end == second[-1] == 260
    assert 260 not in second[:-1]
    assert second[-2] == 0


def test_merges_of_another_vocabulary_or_none_are_refused(tmp_path: Path):
    with pytest.raises(DataError, match="gives 261 tokens, the workload asks for 50257"):
        encoding(tmp_path, vocabulary=50_257)
    (tmp_path / "vocab.bpe").write_text("#version: 0.2\nnonsense\n", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as merges"):
        Gpt2Encoding(tmp_path / "vocab.bpe", vocabulary=261)
    with pytest.raises(DataError, match=r"not the published file.*openaipublic"):
        check_merges(tmp_path / "vocab.bpe")


def test_finewebedu_is_prepared_from_shuffled_pages(data: Path):
    texts = write_finewebedu(data)
    finewebedu_splits(data).fetch(data)
    made = small("finewebedu_lm")
    splits = [made.load(split, data) for split in ("validation", "test", "train")]
    assert [len(split) for split in splits] == [20, 10, 100]
    batches = [split.gather(torch.arange(len(split))) for split in splits]
    assert torch.equal(batches[2]["inputs"][:, 1:], batches[2]["targets"][:, :-1])
    pieces = torch.cat([torch.cat([each["inputs"], each["targets"][:, -1:]], dim=1) for each in batches])
    row = pieces.flatten().tolist()
    made_of = Gpt2Encoding(data / "finewebedu_lm" / "raw" / "vocab.bpe", vocabulary=261)
    pages = {tuple(each.tolist()): text for each, text in zip(made_of.tokens([texts]), texts, strict=True)}
    ends = [place + 1 for place, token in enumerate(row) if token == made_of.end]
    found = [pages[tuple(row[begin:end])] for begin, end in zip([0, *ends], ends, strict=False)]
    assert len(set(found)) == len(found) > 15
    assert found != texts[: len(found)]


def test_preparing_again_gives_the_same_windows(tmp_path: Path):
    digests = []
    for folder in (tmp_path / "one" / "data", tmp_path / "two" / "data"):
        write_finewebedu(folder)
        finewebedu_splits(folder).fetch(folder)
        digests.append([small("finewebedu_lm").load(split, folder).digest() for split in ("train", "validation")])
    assert digests[0] == digests[1]


def test_missing_damaged_or_too_few_pages_are_refused(data: Path):
    write_finewebedu(data)
    raw = data / "finewebedu_lm" / "raw"
    with pytest.raises(DataError, match=r"002_00000\.parquet cannot be fetched.*run make data again"):
        finewebedu_splits(data, files=3).fetch(data)
    with pytest.raises(DataError, match=r"train: .* examples were read, 5000 are expected"):
        finewebedu_splits(data, counts={"train": 5000, "validation": 20, "test": 10}).fetch(data)
    (raw / "000_00000.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        list(finewebedu.shuffled_texts(sorted(raw.glob("*.parquet")), cache=data / "other"))


@each_workload
def test_a_made_up_batch_has_the_form_of_a_true_one(tmp_path: Path, name: str):
    splits_of(name, tmp_path / "data").fetch(tmp_path / "data")
    train = small(name).load("train", tmp_path / "data")
    assert isinstance(train, TokenWindows)
    true, batch = train.gather(torch.arange(3)), small(name).synthetic_batch(3, torch.Generator(), tmp_path)
    assert {key: (values.shape, values.dtype) for key, values in batch.items()} == {
        key: (values.shape, values.dtype) for key, values in true.items()
    }


def test_windows_of_another_size_are_refused(data: Path):
    write_fineweb(data)
    fineweb_splits(data).fetch(data)
    with pytest.raises(DataError, match=r"prepared for another window.*make data"):
        workload("fineweb_gpt", **{**SMALL["fineweb_gpt"], "context": 32}).load("train", data)


def test_an_evaluation_covers_every_window_whatever_the_batch(data: Path):
    write_fineweb(data)
    fineweb_splits(data).fetch(data)
    made = small("fineweb_gpt")
    model = moved(made.build_model())
    validation = made.load("validation", data)
    found = [evaluate(made, model, validation, batch_size) for batch_size in (6, 4)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    assert found[0]["nats_per_token"] == pytest.approx(found[0]["loss"], rel=1e-6)


@pytest.mark.slow
@each_workload
def test_the_network_compiles_without_breaks_to_the_same_outputs(name: str):
    made = small(name)
    torch.manual_seed(0)
    model = made.build_model().eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    batch = made.synthetic_batch(2, torch.Generator().manual_seed(0), Path())
    assert made.compiles
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(made.outputs(compiled, batch), made.outputs(model, batch), rtol=1e-4, atol=1e-5)


# --- a trial ---


@pytest.mark.slow
@each_workload
def test_three_steps_and_an_evaluation_are_refereed_from_files_of_the_true_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
):
    monkeypatch.setenv("TIMETRIAL_DATA", str(tmp_path / "data"))
    splits_of(name, tmp_path / "data").fetch(tmp_path / "data")
    trial, evaluations = trial_and_evaluations(
        tmp_path, name, options=SMALL[name], batch_size=4, eval_batch_size=5, parameters=1
    )
    assert (trial["status"], trial["steps"]) == ("out_of_budget", 3)
    assert evaluations["validation"].between(0.0, 1e6).all()
