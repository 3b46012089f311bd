"""The text refiner: published outputs, losses and sizes, and what must not change them."""

import copy
import gzip
import json

import pytest
import torch
from tests.text_goldens import GOLDENS, load_golden, tiny_text_refiner
from torch.nn import functional as F

from genrefine.conditioning.text_condition import TextCondition
from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ
from genrefine.refiner.text_refiner import TextRefiner
from genrefine.refiner.text_sizes import text_refiner_config
from genrefine.sampling.component import RefinementSampler
from genrefine.sampling.guidance import Guidance, apply_guidance
from genrefine.sampling.random_source import SeededSource

MANIFESTS = json.loads(gzip.decompress((GOLDENS / "manifests/text_refiners.json.gz").read_bytes()))
LAYOUTS = ("joint", "prefix")


def random_prompts(lengths, channels=10, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(length, channels, generator=generator) for length in lengths]


def random_codes(shape, classes=2, seed=0):
    return torch.randint(classes, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.int32)


@pytest.mark.parametrize("batching", ["packed", "padded"])
@pytest.mark.parametrize("name", ["prefix_clip", "joint_image", "joint_first_frame"])
def test_conditional_and_unconditional_logits_are_the_published_ones(name, batching):
    refiner, golden = load_golden(name)
    condition = TextCondition.of(
        [golden["in.text_cond"]], golden["in.text_uncond"], golden.get("in.first_frame_labels")
    )
    condition = refiner.prepare(condition)
    with torch.no_grad():
        logits = refiner(
            golden["in.labels"].repeat(2, 1, 1, 1, 1),
            golden["in.pt"].repeat(2),
            condition.joined(condition.null()),
            batching,
        )
    part = "logits_" if name.startswith("joint") else ""
    published = torch.cat([golden[f"out.{part}cond"], golden[f"out.{part}uncond"]])
    torch.testing.assert_close(
        logits.permute(0, 2, 3, 4, 1, 5).reshape(published.shape), published, atol=1e-5, rtol=1e-5
    )


def test_remembered_text_is_what_the_published_network_keeps():
    """Ours writes the first members of all pairs, then the second ones; two prompts stood in one packed sequence."""
    refiner, golden = load_golden("prefix_clip")
    condition = refiner.prepare(TextCondition.of([golden["in.text_cond"]], golden["in.text_uncond"]))
    cache, row, null = condition.prompts.cache, condition.rows[0], condition.null_rows[0]
    first, second = golden["out.cached_k0"][0].unflatten(-1, (-1, 2)).unbind(-1)
    keys = torch.cat([first, second], dim=-1)
    for kept, published in ((cache.keys[0], keys), (cache.values[0], golden["out.cached_v0"][0])):
        ours = torch.cat([kept[row, :, :9], kept[null, :, :2]], dim=1)
        torch.testing.assert_close(ours, published, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_loss_and_gradients_of_an_image_and_a_clip_in_one_sequence_are_the_published_ones(layout):
    refiner, golden = load_golden(f"{layout}_training")
    clean = [HBQ(4, "bit").encode(golden[f"in.feat{i}"])[0] for i in range(2)]
    nominal = golden["draw.nominal_pt" if layout == "joint" else "draw.pt"]
    noisy = [
        torch.where(golden[f"draw.uniform{i}"][0] < nominal[i], clean[i], golden[f"draw.random_labels{i}"][0])
        for i in range(2)
    ]
    for i in range(2):
        assert torch.equal(clean[i].flatten(1).T, golden[f"gt{i}"][0])
    signal = golden["draw.signal"] if layout == "joint" else nominal.float()
    condition = TextCondition.of(golden["in.text"].split([5, 8]), torch.zeros(1, 24))
    logits = refiner(noisy, signal, condition)
    losses = [
        F.cross_entropy(x.flatten(0, -2), y.flatten().long(), reduction="none").view(y.shape[0], -1).mean(0)
        for x, y in zip(logits, clean, strict=True)
    ]
    torch.testing.assert_close(torch.cat(losses), golden["out.loss_tokens"], atol=1e-5, rtol=1e-5)
    # June weighs samples by the square root of their tokens, May alike.
    sizes = torch.tensor([float(len(loss)) for loss in losses])
    weights = sizes**0.5 / (sizes**0.5).sum() if layout == "joint" else torch.tensor([0.5, 0.5])
    loss = (torch.stack([loss.mean() for loss in losses]) * weights).sum()
    torch.testing.assert_close(loss, golden["out.final_loss"], atol=1e-5, rtol=1e-5)
    loss.backward()
    key_norm = refiner.blocks[1].attention.key_norm.weight.grad
    torch.testing.assert_close(
        key_norm, golden["grad.block_chunks.0.module.1.attn.k_norm.weight"], atol=1e-5, rtol=1e-3
    )
    torch.testing.assert_close(
        refiner.text_embedding.weight.grad, golden["grad.text_proj.weight"], atol=1e-5, rtol=1e-3
    )


@pytest.mark.parametrize(
    ("manifest", "size", "layout", "changes"),
    [
        ("t2i_GRN2b_bit", "2B", "bit", {}),
        ("t2i_GRN2b_ind", "2B", "index", {}),
        ("june_t2v_i2v_GRN8b_bit", "8B", "bit", {}),
        ("june_GRN8b_overwritten_kv8", "8B", "bit", {"num_kv_heads": 8, "mlp_width": 16384}),
        ("june_GRN0b_bit", "0.02B", "bit", {}),
    ],
)
def test_published_sizes_have_exactly_the_published_weights(manifest, size, layout, changes):
    from genrefine.convert.text_refiner import translate_weights

    published = {key: torch.empty(shape, device="meta") for key, shape in MANIFESTS[manifest]["shapes"].items()}
    with torch.device("meta"):
        refiner = TextRefiner(**{**text_refiner_config(size, layout), **changes})
    ours = {key: tuple(weight.shape) for key, weight in refiner.state_dict().items()}
    assert ours == {key: tuple(weight.shape) for key, weight in translate_weights(published).items()}
    assert sum(weight.numel() for weight in refiner.parameters()) == MANIFESTS[manifest]["total"]


@pytest.mark.parametrize("classes", [2, 8])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_and_clips_of_all_sizes_in_one_sequence_are_what_each_is_alone(layout, classes):
    refiner = tiny_text_refiner(attention=layout, code_classes=classes)
    grids = [(1, 3, 3), (2, 3, 4), (1, 8, 8), (3, 1, 5), (1, 3, 3), (2, 3, 4)]
    codes = [random_codes((6, *grid), classes, seed) for seed, grid in enumerate(grids)]
    prompts = random_prompts([4, 7, 1, 13, 4, 4])
    firsts = [None, random_codes((6, 1, 3, 4), classes), None, None, None, None] if layout == "joint" else None
    signal = torch.linspace(0, 1, 6)
    condition = TextCondition.of(prompts, random_prompts([1])[0], firsts)
    with torch.no_grad():
        packed = refiner(codes, signal, condition)
        padded = refiner(codes, signal, condition, batching="padded")
        for i, sample in enumerate(codes):
            (alone,) = refiner([sample], signal[i : i + 1], condition.select(torch.tensor([i])))
            assert alone.shape == (*sample.shape, classes)
            assert alone.dtype == torch.float32
            torch.testing.assert_close(packed[i], alone, atol=1e-6, rtol=1e-6)
            torch.testing.assert_close(padded[i], alone, atol=1e-4, rtol=1e-4)


def test_every_part_of_a_sample_reaches_the_logits():
    refiner = tiny_text_refiner()
    codes, signal = random_codes((1, 6, 2, 3, 3)), torch.tensor([0.3])
    first, other_first = random_codes((1, 6, 1, 3, 3), seed=1), random_codes((1, 6, 1, 3, 3), seed=2)
    prompt, other = random_prompts([4, 4])
    with torch.no_grad():
        outputs = [
            refiner(codes, signal, TextCondition.of([prompt], other)),
            refiner(codes, signal, TextCondition.of([other], other)),
            refiner(codes, signal, TextCondition.of([prompt[[1, 0, 2, 3]]], other)),
            refiner(codes, signal + 0.2, TextCondition.of([prompt], other)),
            refiner(codes, signal, TextCondition.of([prompt], other, first)),
            refiner(codes, signal, TextCondition.of([prompt], other, other_first)),
            refiner(codes.flip(2), signal, TextCondition.of([prompt], other)).flip(2),
        ]
    for i, a in enumerate(outputs):
        assert all((a - b).abs().max() > 1e-3 for b in outputs[:i])


def count_calls(module):
    calls = []
    module.register_forward_pre_hook(lambda _module, arguments: calls.append(len(arguments[0])))
    return calls


def test_text_is_computed_once_per_prompt_for_all_steps_and_guidance():
    refiner = tiny_text_refiner(attention="prefix")
    prompts = random_prompts([9, 17])
    condition = TextCondition.of([prompts[0], prompts[1], prompts[0]], random_prompts([2], seed=5)[0])
    text, block = count_calls(refiner.text_embedding), count_calls(refiner.blocks[0])
    prepared = refiner.prepare(condition)
    assert text == [8 + 16 + 24]  # null, both prompts, each once and filled up to eights
    assert len(block) == 1
    assert refiner.prepare(prepared) is prepared
    sampler = RefinementSampler(num_inference_steps=5, guidance_scale=2.0)
    result = sampler.sample(refiner, prepared, SeededSource([1, 2, 3]), (6, 1, 4, 4), 2)
    assert len(text) == 1
    assert len(block) == 1 + 5
    unprepared = sampler.sample(refiner, condition, SeededSource([1, 2, 3]), (6, 1, 4, 4), 2)
    assert torch.equal(result.codes, unprepared.codes)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_seed_gives_the_same_picture_in_any_batch(layout):
    refiner = tiny_text_refiner(attention=layout)
    condition = refiner.prepare(TextCondition.of(random_prompts([3, 8, 5]), random_prompts([1])[0]))
    sampler = RefinementSampler(num_inference_steps=4, guidance_scale=3.0)
    together = sampler.sample(refiner, condition, SeededSource([7, 8, 9]), (6, 2, 3, 3), 2).codes
    for i, seed in enumerate([7, 8, 9]):
        alone = sampler.sample(
            refiner, condition.select(torch.tensor([i])), SeededSource([seed]), (6, 2, 3, 3), 2
        ).codes
        assert torch.equal(alone[0], together[i])


def test_guidance_keeps_the_first_frame_in_both_branches():
    refiner = tiny_text_refiner()
    first = random_codes((1, 6, 1, 3, 3), seed=4)
    prompt, null = random_prompts([4, 1])
    codes, signal = random_codes((1, 6, 2, 3, 3)), torch.tensor([0.5])
    with torch.no_grad():
        guided = apply_guidance(refiner, TextCondition.of([prompt], null, first), Guidance(2.0))(codes, signal).guided
        branches = [refiner(codes, signal, TextCondition.of([text], null, first)) for text in (prompt, null)]
    torch.testing.assert_close(guided, 2 * branches[0] - branches[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_checkpointing_every_layer_changes_no_gradient(layout):
    gradients = []
    for checkpointing in (False, True):
        refiner = tiny_text_refiner(attention=layout).train()
        if checkpointing:
            refiner.enable_gradient_checkpointing()
        blocks = [count_calls(block) for block in refiner.blocks]
        condition = TextCondition.of(random_prompts([3, 5]), random_prompts([1])[0])
        refiner(random_codes((2, 6, 1, 3, 3)), torch.tensor([0.2, 0.7]), condition).logsumexp(-1).sum().backward()
        passes = (2 if layout == "prefix" else 1) * (2 if checkpointing else 1)
        assert [len(calls) for calls in blocks] == [passes] * len(refiner.blocks)
        gradients.append({name: parameter.grad for name, parameter in refiner.named_parameters()})
    for name, gradient in gradients[0].items():
        assert gradient is not None, name
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_new_network_gives_even_odds():
    refiner = TextRefiner(**text_refiner_config("XS", dim=2, text_channels=10))
    with torch.no_grad():
        logits = refiner(
            random_codes((1, 8, 1, 2, 2)), torch.zeros(1), TextCondition.of(random_prompts([3]), torch.ones(1, 10))
        )
    assert logits.abs().max() == 0


def test_bfloat16_stays_close_and_gives_float32_logits():
    refiner, golden = load_golden("joint_image")
    condition = TextCondition.of([golden["in.text_cond"]], golden["in.text_uncond"])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        logits = refiner(golden["in.labels"], golden["in.pt"], condition)
    published = golden["out.logits_cond"]
    assert logits.dtype == torch.float32
    difference = logits.permute(0, 2, 3, 4, 1, 5).reshape(published.shape) - published
    assert difference.square().mean().sqrt() < 0.02 * published.std()


def test_a_refiner_round_trips_through_its_folder(tmp_path):
    refiner = tiny_text_refiner(attention="prefix")
    refiner.save_pretrained(tmp_path)
    loaded = TextRefiner.from_pretrained(tmp_path)
    assert loaded.config.attention == "prefix"
    condition = TextCondition.of(random_prompts([3]), random_prompts([1])[0])
    arguments = random_codes((1, 6, 1, 2, 2)), torch.tensor([0.4]), condition
    with torch.no_grad():
        assert torch.equal(loaded(*arguments), refiner(*arguments))


def test_an_unknown_configuration_key_is_named(tmp_path):
    tiny_text_refiner().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_registers": 4}))
    with pytest.raises(GenrefineError, match="got num_registers; remove it"):
        TextRefiner.from_pretrained(tmp_path)


def test_prepared_text_of_other_weights_is_refused():
    refiner = tiny_text_refiner(attention="prefix")
    condition = refiner.prepare(TextCondition.of(random_prompts([3]), random_prompts([1])[0]))
    arguments = random_codes((1, 6, 1, 2, 2)), torch.tensor([0.4]), condition
    with pytest.raises(GenrefineError, match="prepared by another refiner"):
        copy.deepcopy(refiner)(*arguments)
    refiner.load_state_dict(tiny_text_refiner(seed=1, attention="prefix").state_dict())
    with pytest.raises(GenrefineError, match="before its weights changed"):
        refiner(*arguments)


def test_joined_conditions_keep_what_one_network_prepared():
    refiner = tiny_text_refiner(attention="prefix")
    null = random_prompts([1])[0]
    first, second = (refiner.prepare(TextCondition.of(random_prompts([n], seed=n), null)) for n in (3, 12))
    codes, signal = random_codes((2, 6, 1, 2, 2)), torch.tensor([0.4, 0.6])
    with torch.no_grad():
        joined = refiner(codes, signal, first.joined(second))
        assert first.joined(second).prompts.cache is not None
        torch.testing.assert_close(joined[1:], refiner(codes[1:], signal[1:], second), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"width": 66}, "width / num_heads"),
        ({"width": 16}, "at least 6"),
        ({"num_heads": 0}, "at least 6; got 64 / 0"),
        ({"num_kv_heads": 3}, "must divide num_heads = 4; got 3"),
        ({"attention": "causal"}, "'joint' or 'prefix'; got 'causal'"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(GenrefineError, match=message):
        tiny_text_refiner(**changes)


def test_wrong_inputs_are_refused_in_one_line():
    refiner, prefix = tiny_text_refiner(), tiny_text_refiner(attention="prefix")
    codes, signal = random_codes((1, 6, 1, 2, 2)), torch.zeros(1)
    condition = TextCondition.of(random_prompts([3]), random_prompts([1])[0])
    first = random_codes((1, 6, 1, 2, 2))
    framed = TextCondition.of(random_prompts([3]), random_prompts([1])[0], first)
    cases = [
        (refiner, random_codes((1, 5, 1, 2, 2)), signal, condition, r"\(batch, 6, t, h, w\)"),
        (refiner, codes + 1, signal, condition, "must lie in 0 .. 1; got 1 .. 2"),
        (refiner, codes, signal, TextCondition.of(random_prompts([3], 9), torch.ones(1, 9)), "10 channels; got 9"),
        (
            refiner,
            codes,
            signal,
            TextCondition.of(random_prompts([513]), torch.ones(1, 10)),
            "up to 512 tokens; got 513",
        ),
        (refiner, codes, signal, condition.joined(condition), "1 samples, 2 prompts and 1 signals"),
        (refiner, codes, torch.zeros(2), condition, "1 samples, 1 prompts and 2 signals"),
        (refiner, random_codes((1, 6, 1, 2, 3)), signal, framed, "first frame must have codes of shape"),
        (prefix, codes, signal, framed, "takes no first frame"),
        (refiner, [], signal, condition, "at least one sample"),
    ]
    for network, noisy, level, told, message in cases:
        with pytest.raises(GenrefineError, match=message) as error:
            network(noisy, level, told)
        assert "\n" not in str(error.value)
    for arguments in (("3B",), ("2B", "byte")):
        with pytest.raises(GenrefineError, match="choose one of"):
            text_refiner_config(*arguments)
