"""Laws of the class refiner: symmetries, neutral start, precision, saving, and refusals."""

import pytest
import torch

from genrefine.conditioning.class_condition import ClassCondition
from genrefine.errors import GenrefineError
from genrefine.refiner import ClassRefiner, class_refiner_config

TINY = {
    "code_channels": 3,
    "code_classes": 4,
    "grid": (3, 5),
    "num_classes": 6,
    "width": 32,
    "depth": 3,
    "num_heads": 4,
    "bottleneck": 8,
    "in_context_tokens": 2,
    "in_context_start": 1,
}
LAYOUTS = {"index": {}, "bit": {"code_channels": 12, "code_classes": 2}, "no class tokens": {"in_context_tokens": 0}}


def build(awake: bool = True, **changes) -> ClassRefiner:
    """Return a refiner; `awake` moves every weight that starts at zero or one."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        refiner = ClassRefiner(**{**TINY, **changes}).eval()
        for parameter in refiner.parameters() if awake else ():
            parameter.data += 0.2 * torch.randn_like(parameter)
    return refiner


def inputs(refiner: ClassRefiner, batch: int = 4):
    generator = torch.Generator().manual_seed(1)
    config = refiner.config
    shape = (batch, config.code_channels, 1, *config.grid)
    codes = torch.randint(config.code_classes, shape, generator=generator, dtype=torch.int32)
    labels = torch.randint(config.num_classes + 1, (batch,), generator=generator)
    return codes, torch.rand(batch, generator=generator), ClassCondition(labels, config.num_classes)


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS)
def test_logits_are_float32_with_one_distribution_per_code(changes):
    refiner = build(**changes)
    codes, signal, condition = inputs(refiner)
    logits = refiner(codes, signal, condition)
    assert logits.dtype == torch.float32
    assert logits.shape == (*codes.shape, refiner.config.code_classes)


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS)
def test_a_new_network_knows_nothing_and_learns_from_the_first_step(changes):
    refiner = build(awake=False, **changes)
    codes, signal, condition = inputs(refiner)
    logits = refiner(codes, signal, condition)
    assert torch.equal(logits, torch.zeros_like(logits))
    torch.nn.functional.cross_entropy(logits.flatten(0, -2), codes.flatten().long()).backward()
    assert refiner.head.linear.weight.grad.abs().sum() > 0


def test_blocks_of_a_new_network_pass_tokens_on_unchanged():
    refiner = build(awake=False)
    x = torch.randn(2, 15, 32, generator=torch.Generator().manual_seed(0))
    rotation = refiner._rotation.on(x.device)
    for block in refiner.blocks:
        assert torch.equal(block(x, torch.randn(2, 32), rotation), x)


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS)
def test_samples_do_not_see_each_other(changes):
    refiner = build(**changes)
    codes, signal, condition = inputs(refiner, batch=5)
    together, order = refiner(codes, signal, condition), torch.tensor([3, 0, 4])
    some = refiner(codes[order], signal[order], condition.select(order))
    torch.testing.assert_close(some, together[order], atol=1e-5, rtol=1e-5)


def test_every_input_matters_to_every_logit():
    """Class, signal and any single code change the logits of all positions."""
    refiner = build()
    codes, signal, condition = inputs(refiner, batch=1)
    before = refiner(codes, signal, condition)
    other_code = codes.clone()
    other_code[0, 1, 0, 2, 4] = (other_code[0, 1, 0, 2, 4] + 1) % 4
    changed = [
        refiner(codes, signal, condition.null()),
        refiner(codes, 1 - signal, condition),
        refiner(other_code, signal, condition),
    ]
    for after in changed:
        assert ((after - before).abs().amax(-1) > 0).all()


def test_rows_and_columns_are_told_apart():
    refiner = build(grid=(4, 4))
    codes, signal, condition = inputs(refiner)
    straight, turned = refiner(codes, signal, condition), refiner(codes.mT.contiguous(), signal, condition)
    assert (straight - turned.transpose(3, 4)).abs().max() > 1e-2


@pytest.mark.parametrize("signal", [0.0, 1.0])
def test_pure_noise_and_clean_codes_are_accepted(signal):
    refiner = build()
    codes, _, condition = inputs(refiner)
    assert refiner(codes, torch.full((4,), signal), condition).isfinite().all()


@pytest.mark.parametrize("start", [0, 1, 2])
def test_class_tokens_join_at_their_block_and_leave_before_the_head(start):
    refiner = build(in_context_start=start)
    lengths = []
    for module in (*refiner.blocks, refiner.head):
        module.register_forward_pre_hook(lambda _, arguments: lengths.append(arguments[0].shape[1]))
    refiner(*inputs(refiner))
    assert lengths == [15] * start + [17] * (3 - start) + [15]


def test_one_hot_embedding_is_a_sum_of_one_column_per_code():
    refiner = build()
    codes, _, _ = inputs(refiner)
    embedding = refiner.code_embedding
    columns = embedding.compress.weight.unflatten(1, (4, 3))  # bottleneck, class, channel
    compressed = sum(columns[:, codes[:, d, 0].long(), d] for d in range(3))  # bottleneck, batch, h, w
    expected = embedding.expand(compressed.permute(1, 2, 3, 0).flatten(1, 2))
    torch.testing.assert_close(embedding(codes, torch.float32), expected)


@pytest.mark.parametrize("changes", LAYOUTS.values(), ids=LAYOUTS)
def test_bfloat16_stays_near_float32(changes):
    refiner = build(**changes)
    codes, signal, condition = inputs(refiner)
    exact = refiner(codes, signal, condition)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = refiner(codes, signal, condition)
    low = refiner.bfloat16()(codes, signal, condition)
    for logits in (mixed, low):
        assert logits.dtype == torch.float32
        assert 0 < (logits - exact).abs().max() < 0.05 * exact.abs().max()


def test_gradients_reach_every_weight_and_are_the_same_with_checkpointing():
    refiner = build().train()
    codes, signal, condition = inputs(refiner)

    def gradients():
        return torch.autograd.grad(refiner(codes, signal, condition).square().mean(), list(refiner.parameters()))

    plain = gradients()
    assert all(gradient.abs().sum() > 0 for gradient in plain)
    refiner.enable_gradient_checkpointing()
    calls = []
    refiner.blocks[2].register_forward_pre_hook(lambda *_: calls.append(1))
    torch.testing.assert_close(gradients(), plain)
    assert len(calls) == 2


def test_saved_and_loaded_networks_give_the_same_bits(tmp_path):
    refiner = build()
    expected = refiner(*inputs(refiner))
    refiner.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "diffusion_pytorch_model.safetensors"]
    for options in ({}, {"low_cpu_mem_usage": False}):
        loaded = ClassRefiner.from_pretrained(tmp_path, **options)
        assert torch.equal(loaded(*inputs(refiner)), expected)
    half = ClassRefiner.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half(*inputs(refiner)) - expected).abs().max() < 0.05 * expected.abs().max()


REFUSED_SIZES = {
    "width must be a multiple of 4 \\* num_heads; got 36 and 4": {"width": 36},
    "width must be a multiple of 4 \\* num_heads; got 32 and 0": {"width": 32, "num_heads": 0},
    "in_context_start must be a block, 0 .. 2; got 3": {"in_context_start": 3},
}


@pytest.mark.parametrize(("message", "changes"), REFUSED_SIZES.items(), ids=REFUSED_SIZES)
def test_sizes_that_do_not_fit_together_are_refused(message, changes):
    with pytest.raises(GenrefineError, match=message):
        ClassRefiner(**{**TINY, **changes})


REFUSED_INPUTS = {
    "codes must be \\(batch, 3, 1, 3, 5\\); got \\(4, 2, 1, 3, 5\\)": lambda codes, s, c: (codes[:, :2], s, c),
    "codes must be .*; got \\(4, 3, 1, 5, 3\\)": lambda codes, s, c: (codes.mT, s, c),
    "codes must be .*; got \\(4, 3, 2, 3, 5\\)": lambda codes, s, c: (codes.expand(-1, -1, 2, -1, -1), s, c),
    "codes must lie in 0 .. 3; got 4 .. 4": lambda codes, s, c: (torch.full_like(codes, 4), s, c),
    "codes must lie in 0 .. 3; got -1 .. -1": lambda codes, s, c: (torch.full_like(codes, -1), s, c),
    "knows 6 classes; got a condition over 7": lambda codes, s, c: (codes, s, ClassCondition(c.labels, 7)),
    "every sample needs one label; got 3 labels for 4": lambda codes, s, c: (codes, s, c.select(torch.arange(3))),
}


@pytest.mark.parametrize(("message", "spoil"), REFUSED_INPUTS.items(), ids=REFUSED_INPUTS)
def test_inputs_that_do_not_fit_are_refused(message, spoil):
    refiner = build()
    with pytest.raises(GenrefineError, match=message):
        refiner(*spoil(*inputs(refiner)))


@pytest.mark.parametrize(("size", "layout"), [("S", "bit"), ("B", "bits")])
def test_unknown_sizes_and_layouts_are_refused(size, layout):
    with pytest.raises(GenrefineError, match="must be"):
        class_refiner_config(size, layout)


def test_published_sizes_split_the_latent_into_labels_or_bits():
    index, bit = class_refiner_config("B", "index"), class_refiner_config("B", "bit", dim=64, rounds=3)
    assert (index["code_channels"], index["code_classes"]) == (16, 16)
    assert (bit["code_channels"], bit["code_classes"]) == (192, 2)
