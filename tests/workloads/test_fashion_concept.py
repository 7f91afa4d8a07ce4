"""Networks that are told the kind of a photograph, what they are told of a new kind, and images that they make."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from harness.api import ConfigError, SplitName
from harness.plugins.data import data_folder, is_present
from harness.race.evaluation import evaluate
from tests.workloads.plain_training import adamw, trained
from workloads.frontier.fashion.class_u_net import ClassUNet
from workloads.frontier.fashion.fashion_concept import BASE, NEW, FashionConcept, ToldConcept, trained_network
from workloads.frontier.fashion.fashion_kinds import KINDS, FashionKinds
from workloads.frontier.fashion.fashion_unlearning import FashionUnlearning
from workloads.frontier.fashion.gradient_inversion import gradients_of, inversion_readouts, search
from workloads.frontier.fashion.guidance import SCALES, feedback_of, greedy, guided
from workloads.frontier.fashion.sampler import Photographs, frechet, levels, sampled

SANDALS = 5
needs_images = pytest.mark.skipif(
    not is_present(BASE, data_folder()), reason="the data are not here: make data WORKLOAD=fashion_concept"
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def whole(workload: FashionKinds | FashionConcept, split: SplitName) -> dict[str, Tensor]:
    examples = workload.load(split, data_folder())
    return examples.gather(torch.arange(len(examples)))


@cache
def network() -> ClassUNet:
    return trained_network().eval()


# --- told a kind ---


@needs_images
def test_kinds_are_those_of_the_photographs_and_one_can_be_left_out():
    held, without = (
        FashionKinds(width=16, left_out=each).load("test", data_folder()).tensors() for each in (None, NEW)
    )
    assert held["kinds"].bincount().min() > 80
    assert len(held["kinds"]) == 1_000
    assert torch.equal(without["kinds"], held["kinds"][held["kinds"] != NEW])
    assert torch.equal(without["images"], held["images"][held["kinds"] != NEW])


def test_the_kind_is_kept_from_the_network_for_a_tenth_of_the_images_in_training_alone():
    torch.manual_seed(0)
    model = FashionKinds(width=16).build_model()
    told: list[Tensor] = []
    model.kinds.register_forward_pre_hook(lambda _, given: told.append(given[0]))
    images, at, kinds = drawn(4_000, 1, 4, 4), torch.ones(4_000), torch.arange(4_000) % KINDS
    with torch.no_grad():
        model.train()(images, at, kinds)
        model.eval()(images, at, kinds)
    kept_from = told[0] == model.none
    assert kept_from.double().mean().item() == pytest.approx(0.1, abs=0.02)
    assert torch.equal(told[0][~kept_from], kinds[~kept_from])
    assert torch.equal(told[1], kinds)


def test_each_block_is_told_its_own_numbers_beside_the_level():
    torch.manual_seed(0)
    model = FashionKinds(width=16).build_model().eval()
    seen: dict[str, Tensor] = {}
    blocks = {"down": model.net.down, "first": model.net.bottom[0], "second": model.net.bottom[1], "up": model.net.up}
    for name, block in blocks.items():
        block.register_forward_pre_hook(lambda _, given, name=name: seen.update({name: given[1]}))
    numbers = drawn(3, 4, 64)
    images, at = drawn(3, 1, 14, 14), torch.ones(3)
    model.told(images, at, numbers)
    level = seen["down"] - numbers[:, 0]
    for number, name in enumerate(blocks):
        torch.testing.assert_close(seen[name], level + numbers[:, number])
    with torch.no_grad():
        model.kinds.weight[7] = numbers[0, 0]
        same = numbers[:1, :1].expand(3, 4, 64)
        torch.testing.assert_close(model(images, at, torch.full((3,), 7)), model.told(images, at, same))


@needs_images
def test_the_trained_network_is_less_wrong_of_a_kind_that_it_is_told():
    batch = whole(BASE, "validation")
    errors = {}
    for name, kinds in (
        ("told", batch["kinds"]),
        ("not told", torch.full_like(batch["kinds"], network().none)),
        ("told another", (batch["kinds"] + 4) % NEW),
    ):
        with torch.no_grad():
            outputs = BASE.outputs(network(), {**batch, "kinds": kinds})
        errors[name] = BASE.metrics(BASE.statistics(outputs, batch))["denoising_error"]
    assert errors["told"] < errors["not told"] < errors["told another"]


# --- a new kind ---


@needs_images
def test_there_are_eight_photographs_of_the_new_kind_and_four_hundred_others_to_judge_by():
    workload = FashionConcept(concept="vector")
    for split, count in (("train", 8), ("validation", 400), ("test", 400)):
        images = workload.load(split, data_folder()).tensors()["images"]
        assert len(images) == count
        assert len(images.flatten(1).unique(dim=0)) == count


def told(concept: str, seed: int = 0) -> ToldConcept:
    torch.manual_seed(seed)
    model = FashionConcept(concept=concept).build_model()
    assert isinstance(model, ToldConcept)
    return model


@pytest.mark.parametrize(("concept", "count"), [("vector", 64), ("mapper", 2 * 16 + 16 + 16 * 64 + 64)])
def test_numbers_of_the_concept_are_all_that_is_trained_and_handed_over(concept: str, count: int):
    model = told(concept)
    assert sum(each.numel() for each in model.state_dict().values()) == count
    assert all(name.startswith("concept.") for name in model.state_dict())
    frozen = {
        name.removeprefix("network."): each for name, each in model.named_buffers() if name.startswith("network.")
    }
    assert all(torch.equal(frozen[name], each) for name, each in network().state_dict().items())


def test_a_concept_begins_as_the_known_ones_are_spread():
    known = network().kinds.weight.detach()[:NEW]
    vectors = torch.stack([told("vector", seed).concept.table.weight.detach()[0] for seed in range(30)])
    standard = (vectors - known.mean(dim=0)) / known.std(dim=0)
    assert standard.mean().item() == pytest.approx(0.0, abs=0.1)
    assert standard.std().item() == pytest.approx(1.0, abs=0.05)


def test_a_vector_is_the_same_for_all_levels_and_blocks_and_a_mapper_gives_each_its_own():
    at = torch.tensor([0.1, 1.0])
    vector, mapped = (told(concept).concept(at).detach() for concept in ("vector", "mapper"))
    assert torch.equal(vector, vector[:1, :1].expand(2, 4, 64))
    assert len(mapped.flatten(0, 1).unique(dim=0)) == 8


def test_another_word_for_the_concept_is_refused():
    with pytest.raises(ConfigError, match=r"concept is 'word'\. Use one of vector, mapper"):
        FashionConcept(concept="word")


# --- images that are made ---


class Exact(nn.Module):
    """The best denoiser of Gaussian images around a mean for each kind; told none, of those around nought."""

    none = 2

    def __init__(self, means: Tensor, deviation: float) -> None:
        super().__init__()
        self.means = torch.cat([means, torch.zeros(1, *means.shape[1:])])
        self.square = deviation**2

    def forward(self, noisy: Tensor, at: Tensor, kinds: Tensor) -> Tensor:
        share = (self.square / (self.square + at.square()))[:, None, None, None]
        return self.means[kinds] + share * (noisy - self.means[kinds])


def test_many_steps_end_where_the_flow_of_gaussian_images_does():
    model = Exact(drawn(2, 1, 3, 3), 0.5)
    kinds, starts, course = torch.tensor([0, 1, 0, 1]), drawn(4, 1, 3, 3, seed=1), levels(400, lowest=1e-3)
    ends = sampled(lambda place, at: model(place, at, kinds), starts, course)
    mean = model.means[kinds]
    expected = mean + 0.5 / (0.25 + float(course[0]) ** 2) ** 0.5 * (course[0] * starts - mean)
    torch.testing.assert_close(ends, expected, atol=0.01, rtol=0.02)


def test_the_distance_of_two_gaussians_is_that_of_their_means_and_roots():
    first, second = torch.tensor([4.0, 1.0]).double(), torch.tensor([9.0, 0.25]).double()
    axes = torch.linalg.qr(drawn(2, 2).double())[0]
    turned = [axes @ torch.diag(each) @ axes.T for each in (first, second)]
    found = frechet(torch.zeros(2).double(), turned[0], torch.tensor([3.0, 4.0]).double(), turned[1])
    assert found == pytest.approx(25 + (2 - 3) ** 2 + (1 - 0.5) ** 2)


@needs_images
def test_photographs_are_at_no_distance_from_themselves_and_copies_of_their_mean_are_at_their_variance():
    images = whole(FashionKinds(width=16), "validation")["targets"]
    photographs = Photographs.of(images)
    assert photographs.distance(images) == pytest.approx(0.0, abs=1e-6)
    copies = images.mean(dim=0, keepdim=True).expand(50, 1, 14, 14)
    assert photographs.distance(copies) == pytest.approx(float(photographs.covariance.trace()), rel=1e-6)


@needs_images
def test_feedback_likes_photographs_of_the_kind_more_than_others_and_more_than_their_mean():
    batch = whole(FashionKinds(width=16), "train")
    images, kinds = batch["targets"][:5_000], batch["kinds"][:5_000]
    feedback = feedback_of(images, kinds)
    own, others = feedback(images, kinds).mean(), feedback(images, (kinds + 1) % KINDS).mean()
    means = torch.stack([images[kinds == kind].mean(dim=0) for kind in range(KINDS)])
    assert own > feedback(means, torch.arange(KINDS)).max()
    assert own > others + 10


def test_greedy_search_takes_the_scale_whose_image_is_best_in_each_step_for_each_image():
    means = torch.stack([torch.full((1, 3, 3), 1.0), torch.full((1, 3, 3), -1.0)])
    model = Exact(means, 1e-3)
    starts, kinds, course = drawn(6, 1, 3, 3), torch.tensor([0, 1, 0, 1, 0, 1]), levels(5)
    # Told a kind it gives that mean, told none about nought: an image is the scale times the mean.
    aims = torch.tensor([1.0, 2.0, 3.0, 5.0, 1.4, 4.9])
    images, scales = greedy(
        model, starts, kinds, course, lambda images, _: -(images.abs().mean(dim=(1, 2, 3)) - aims).abs()
    )
    assert torch.equal(scales, torch.tensor([1.0, 2.0, 3.0, 5.0, 1.5, 5.0]).expand(6, 6))
    assert set(SCALES) >= set(scales.flatten().tolist())
    torch.testing.assert_close(images.abs().mean(dim=(1, 2, 3)), scales[0], rtol=0, atol=1e-3)
    torch.testing.assert_close(images[3:4], guided(model, starts[3:4], kinds[3:4], course, 5.0))


# --- photographs from gradients ---


def test_gradients_of_a_classifier_give_its_input_away():
    # That of a weight of the first layer is what goes in, times that of the bias.
    torch.manual_seed(0)
    classifier = FashionUnlearning().build_model()
    inputs, labels = drawn(3, 196), torch.tensor([1, 5, 9])
    found = gradients_of(classifier, inputs, labels)
    weight, bias = found[:, : 196 * 256].view(3, 256, 196), found[:, 196 * 256 : 197 * 256]
    largest = bias.abs().argmax(dim=1)
    rows = torch.arange(3)
    torch.testing.assert_close(weight[rows, largest] / bias[rows, largest, None], inputs, rtol=1e-4, atol=1e-4)
    loss = torch.nn.functional.cross_entropy(classifier(inputs), labels, reduction="sum")
    together = torch.cat([each.flatten() for each in torch.autograd.grad(loss, list(classifier.parameters()))])
    torch.testing.assert_close(found.sum(dim=0), together, rtol=1e-4, atol=1e-5)


def test_a_search_goes_no_further_than_its_radius_and_keeps_the_best():
    begin, aim = torch.zeros(2, 1, 3, 3), torch.full((2, 1, 3, 3), 0.5)
    unlike = lambda images: (images - aim).square().mean(dim=(1, 2, 3))  # noqa: E731
    for radius, expected in ((torch.inf, 0.5), (0.1, 0.1)):
        numbers, found = search(lambda given: given, begin, unlike, radius=radius)
        torch.testing.assert_close(numbers, torch.full_like(begin, expected), rtol=0, atol=0.02)
        torch.testing.assert_close(found.unlike, unlike(found.images))
    assert float(numbers.abs().mean()) <= 0.1 + 1e-6


def test_later_steps_of_the_sampler_find_what_no_start_leads_to():
    model, photographs = Exact(torch.zeros(1, 1, 3, 3), 0.2), drawn(4, 1, 3, 3, seed=3)
    found = inversion_readouts(
        lambda place, at: model(place, at, torch.zeros(len(place), dtype=torch.long)),
        levels(8, highest=5.0),
        photographs,
        lambda images: 1 - torch.nn.functional.cosine_similarity(images.flatten(1), photographs.flatten(1)),
    )
    assert found["unlike_from_steps"] < 0.01
    assert found["unlike_from_steps"] <= found["unlike_from_starts"]


# --- what training comes to ---


@needs_images
@pytest.mark.slow
@pytest.mark.parametrize("concept", ["vector", "mapper"])
def test_a_new_kind_is_learned_better_than_any_known_one_is_a_name_for_it(concept: str):
    workload = FashionConcept(concept=concept)
    _, seen = trained(workload, adamw(0.02), steps=150, batch_size=8)
    errors = []
    for kind in range(NEW):
        model = told("vector")
        model.concept.table.weight.data.copy_(network().kinds.weight[kind])
        found = evaluate(workload, model, workload.load("validation", data_folder()), 400)
        errors.append(found["denoising_error"])
    assert errors.index(min(errors)) == SANDALS
    assert seen[-1]["denoising_error"] < 0.98 * min(errors)
