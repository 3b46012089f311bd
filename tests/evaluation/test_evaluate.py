"""Evaluations of whole models on tiny ones."""

import json
import math

import pytest
import torch
from torch import nn

from genrefine.errors import GenrefineError
from genrefine.evaluation.evaluate import evaluate_class_pipeline
from genrefine.evaluation.features import EfficientNetFeatures, collect_features
from genrefine.evaluation.frechet import frechet_distance
from genrefine.evaluation.perceptual import EfficientNetPerceptual
from genrefine.evaluation.pixels import psnr, ssim
from genrefine.evaluation.reconstruction import evaluate_tokenizer
from genrefine.evaluation.samples import labels_like
from genrefine.hbq import HBQ
from genrefine.media.pixels import from_uint8, to_uint8
from tiny_models import CLASS_NAMES, tiny_pipeline, tiny_tokenizer


class Means(nn.Module):
    """Describe frames by means and spreads of colors over quarters."""

    num_features = 24
    description = "color means of quarters"

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        floats = frames.float()
        means = nn.functional.adaptive_avg_pool2d(floats, 2).flatten(1)
        return torch.cat([means, nn.functional.adaptive_avg_pool2d(floats.square(), 2).flatten(1)], dim=1)


def _pixels(count: int, side: int = 16, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(3, 1, side, side, generator=generator) * 2 - 1 for _ in range(count)]


def _labeled(count: int, seed: int = 0) -> list[tuple[torch.Tensor, int]]:
    return [(pixels, index % len(CLASS_NAMES)) for index, pixels in enumerate(_pixels(count, seed=seed))]


def test_tokenizer_evaluation_equals_reconstructing_everything_at_once():
    tokenizer, pictures = tiny_tokenizer(), _pixels(5)
    found = evaluate_tokenizer(tokenizer, pictures, batch_size=2, progress=False)
    originals = torch.stack(pictures)
    output = tokenizer.decode(tokenizer.encode(originals))
    assert found.psnr == pytest.approx(psnr(output, originals).mean().item(), rel=1e-4)
    assert found.ssim == pytest.approx(ssim(output, originals).mean().item(), rel=1e-4)
    error = (output.clamp(-1, 1) - originals).square().mean().item()
    assert found.psnr_of_mean_error == pytest.approx(10 * torch.log10(torch.tensor(4 / error)).item(), rel=1e-4)
    assert found.psnr_of_mean_error <= found.psnr + 1e-6
    # 2 latent channels of 2 rounds at stride 4: 4 bits for 16 pixels.
    assert found.bits_per_pixel == 0.25
    assert (found.num_pictures, found.frames, found.height, found.width) == (5, 1, 16, 16)


def test_rates_change_only_the_rounds_and_keep_the_weights():
    tokenizer, pictures = tiny_tokenizer(), _pixels(4)
    found = evaluate_tokenizer(tokenizer, pictures, progress=False)
    assert [rate.rounds for rate in found.rates] == list(range(1, 9))
    originals = torch.stack(pictures)
    with torch.no_grad():
        for rate in found.rates:
            output = tokenizer(originals, HBQ(rate.rounds, "bit"))
            assert rate.psnr == pytest.approx(psnr(output, originals).mean().item(), rel=1e-4)
            assert rate.bits_per_pixel == rate.rounds * 0.125
    assert found.rates[1].psnr == found.psnr
    # 2^-16 of rounding error is next to none.
    finest = evaluate_tokenizer(tokenizer, pictures, rounds=[16], progress=False)
    assert finest.rates[0].psnr == pytest.approx(found.psnr_unquantized, abs=1e-3)


def test_bits_in_use_and_what_reconstructions_look_like():
    """Entropies by counting the codes; distances of the pictures that files would show."""
    tokenizer, pictures = tiny_tokenizer(), _pixels(5)
    networks = {"extractor": EfficientNetFeatures(32), "perceptual": EfficientNetPerceptual()}
    found = evaluate_tokenizer(tokenizer, pictures, [], 2, False, **networks)
    codes = torch.cat([tokenizer.encode(one[None]) for one in pictures])
    rounds = tokenizer.hbq.rounds
    assert tokenizer.hbq.layout == "bit"
    for number in range(rounds):
        for channel in range(tokenizer.latent_dim):
            bits = codes[:, number * tokenizer.latent_dim + channel].flatten().tolist()
            p = sum(bits) / len(bits)
            expected = 0.0 if p in (0, 1) else -p * math.log2(p) - (1 - p) * math.log2(1 - p)
            assert found.bit_entropies[number][channel] == pytest.approx(expected)
    made = torch.cat([from_uint8(to_uint8(tokenizer.decode(code))) for code in codes.split(1)])
    real = torch.stack(list(pictures))
    features = [collect_features(networks["extractor"], [one]) for one in (made, real)]
    assert found.frechet == pytest.approx(frechet_distance(*features), rel=1e-4)
    looks = [float(networks["perceptual"](a, b)) for a, b in zip(made.split(1), real.split(1), strict=True)]
    assert found.perceptual == pytest.approx(sum(looks) / len(looks), rel=1e-4)
    assert found.networks == (networks["perceptual"].description, networks["extractor"].description)
    with pytest.raises(GenrefineError, match="go together"):
        evaluate_tokenizer(tokenizer, pictures, [], 2, False, extractor=networks["extractor"])


def test_labels_of_a_tokenizer_source_are_ignored():
    tokenizer = tiny_tokenizer()
    labeled, bare = _labeled(3), _pixels(3)
    assert evaluate_tokenizer(tokenizer, labeled, [1], progress=False) == evaluate_tokenizer(
        tokenizer, bare, [1], progress=False
    )


@pytest.mark.parametrize(
    ("pictures", "message"),
    [([], "empty source"), ([*_pixels(1), *_pixels(1, side=32)], "one size"), (_pixels(1, side=18), "multiple of 4")],
)
def test_pictures_that_cannot_be_evaluated_are_refused(pictures, message):
    with pytest.raises(GenrefineError, match=message):
        evaluate_tokenizer(tiny_tokenizer(), pictures, progress=False)


def test_class_evaluation_says_what_was_compared_and_how_many():
    held_out, training = _labeled(12), _labeled(20, seed=1)
    found = evaluate_class_pipeline(
        tiny_pipeline(), held_out, 9, training, Means(), batch_size=4, progress=False, num_inference_steps=3
    )
    assert [(row.first, row.num_first, row.second, row.num_second) for row in found.comparisons] == [
        ("samples", 9, "held-out", 12),
        ("training pictures", 9, "held-out", 12),
        ("half of held-out", 6, "other half", 6),
        ("as many samples", 6, "other half", 6),
    ]
    assert sum(found.labels.values()) == found.num_samples == 9
    assert set(found.labels) == set(CLASS_NAMES)
    assert (found.mean_steps, found.fewest_steps, found.most_steps) == (3, 3, 3)
    assert found.mean_evaluations == 5  # guided at signals 1/3 and 2/3 of 0, 1/3, 2/3
    assert found.extractor == "color means of quarters"
    assert found.memorization.num_training == 20


def test_class_evaluation_repeats_itself_and_its_json_holds_everything():
    runs = [
        evaluate_class_pipeline(tiny_pipeline(), _labeled(8), 8, extractor=Means(), progress=False, adaptive=True)
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    stored = json.loads(runs[0].to_json())
    assert stored["comparisons"][0]["kernel"]["mean"] == runs[0].comparisons[0].kernel.mean
    assert stored["memorization"] is None
    assert stored["sampling"] == {"adaptive": True}
    assert 3 <= stored["fewest_steps"] <= stored["mean_steps"] <= stored["most_steps"] <= 8
    assert stored["sampler"]["temperature"] == 0.9


def test_real_pictures_come_nearer_to_held_out_ones_than_samples_of_an_untrained_model():
    found = evaluate_class_pipeline(
        tiny_pipeline(), _labeled(40), 30, _labeled(60, seed=1), Means(), progress=False, num_inference_steps=2
    )
    samples, real, halves, as_many = found.comparisons
    assert samples.kernel.mean > 10 * abs(real.kernel.mean)
    assert as_many.frechet > halves.frechet
    assert samples.frechet > real.frechet


def test_the_default_extractor_is_efficientnet_and_sees_the_samples_themselves():
    held_out = _labeled(8)
    pipe = tiny_pipeline(num_inference_steps=2)
    found = evaluate_class_pipeline(pipe, held_out, 8, progress=False)
    assert found.extractor.startswith("EfficientNet-Lite0")
    network = EfficientNetFeatures()
    labels = labels_like([label for _, label in held_out], len(CLASS_NAMES), 8)
    images = pipe(labels, seed=0, output_type="pt").images[:, :, None] * 2 - 1
    real = collect_features(network, [torch.stack([pixels for pixels, _ in held_out])])
    expected = frechet_distance(collect_features(network, [images]), real)
    assert found.comparisons[0].frechet == pytest.approx(expected, rel=0.01)


def test_too_few_pictures_and_unlabeled_pictures_are_refused():
    with pytest.raises(GenrefineError, match="eight held-out pictures"):
        evaluate_class_pipeline(tiny_pipeline(), _labeled(7), 8, extractor=Means(), progress=False)
    with pytest.raises(GenrefineError, match="without a label"):
        evaluate_class_pipeline(tiny_pipeline(), _pixels(8), 8, extractor=Means(), progress=False)
    with pytest.raises(GenrefineError, match="same classes"):
        evaluate_class_pipeline(tiny_pipeline(), [(p, 9) for p in _pixels(8)], 8, extractor=Means(), progress=False)
