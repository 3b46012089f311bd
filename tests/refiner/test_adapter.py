"""Laws of low-rank adapters on both refiners: none at first or at scale 0, merged as unmerged."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from genrefine import GenrefineError
from genrefine.conditioning.class_condition import ClassCondition
from genrefine.conditioning.text_condition import TextCondition
from genrefine.refiner.adapter import lora_config
from genrefine.refiner.adapter_folder import CONFIG, WEIGHTS, read_adapter
from tiny_models import tiny_refiner, tiny_text_refiner

Ask = Callable[[Any], torch.Tensor]


def ask_class(refiner: Any, rows: slice = slice(None)) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (5, 4, 1, 4, 4), generator=draws, dtype=torch.int32)
    signal, labels = torch.rand(5, generator=draws), torch.tensor([0, 1, 2, 3, refiner.config.num_classes])
    condition = ClassCondition(labels[rows], refiner.config.num_classes)
    with torch.no_grad():
        return refiner(codes[rows], signal[rows], condition)


def ask_text(refiner: Any, rows: slice = slice(None)) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 2, (3, 4, 1, 4, 4), generator=draws, dtype=torch.int32)
    signal = torch.rand(3, generator=draws)
    prompts = [torch.randn(n, 24, generator=draws) for n in (3, 1, 5)]
    null = torch.zeros(1, 24)
    with torch.no_grad():
        return refiner(codes[rows], signal[rows], TextCondition.of(prompts[rows], null, [None] * len(prompts[rows])))


KINDS: list[tuple[Callable[..., Any], Ask]] = [(tiny_refiner, ask_class), (tiny_text_refiner, ask_text)]
both = pytest.mark.parametrize(("make", "ask"), KINDS, ids=["class", "text"])


def adapted(make: Callable[..., Any], **changes: Any) -> Any:
    """Return a refiner with an adapter that has learned something."""
    refiner = make()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        refiner.add_adapter(lora_config(refiner, rank=3, **changes))
        for name, parameter in refiner.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.2)
    return refiner


@both
@pytest.mark.parametrize("parts", ["blocks", "attention"])
def test_fresh_adapter_changes_nothing(make: Any, ask: Ask, parts: Any) -> None:
    refiner = make()
    refiner.add_adapter(lora_config(refiner, rank=3, scale=2.0, parts=parts))
    assert torch.equal(ask(refiner), ask(make()))
    assert any(".mlp." in name for name in refiner.adapter_weights()) == (parts == "blocks")


@both
def test_only_the_adapter_is_trained(make: Any, ask: Ask) -> None:
    refiner = adapted(make)
    trained = {name for name, parameter in refiner.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert len(trained) == len(refiner.adapter_weights())


@both
def test_a_saved_adapter_gives_the_same_logits(make: Any, ask: Ask, tmp_path: Path) -> None:
    refiner, other = adapted(make, scale=0.5), make()
    refiner.save_lora_adapter(tmp_path)
    state = torch.get_rng_state()
    adapter = other.load_lora_adapter(tmp_path)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(ask(other), ask(refiner))
    assert not torch.equal(ask(other), ask(make()))
    assert (adapter.rank, adapter.alpha) == (3, 1.5)
    size = (tmp_path / WEIGHTS).stat().st_size
    assert adapter.num_parameters * 4 < size < adapter.num_parameters * 4 + 8000
    with safe_open(tmp_path / WEIGHTS, "pt") as file:
        assert json.loads(file.metadata()["genrefine"])["refiner"] == type(refiner).__name__


@both
def test_peft_reads_what_we_write(make: Any, ask: Ask, tmp_path: Path) -> None:
    refiner = adapted(make)
    refiner.save_lora_adapter(tmp_path)
    theirs = peft.PeftModel.from_pretrained(make(), tmp_path)
    assert torch.equal(ask(theirs.get_base_model()), ask(refiner))


@both
def test_we_read_what_peft_writes(make: Any, ask: Ask, tmp_path: Path) -> None:
    theirs = peft.get_peft_model(make(), lora_config(make(), rank=2))
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                parameter.fill_(0.1)
    theirs.save_pretrained(tmp_path)
    refiner = make()
    refiner.load_lora_adapter(tmp_path)
    assert torch.equal(ask(refiner), ask(theirs.get_base_model()))


@both
def test_merged_equals_beside_and_scale_zero_equals_none(make: Any, ask: Ask, tmp_path: Path) -> None:
    refiner = adapted(make)
    beside = ask(refiner)
    refiner.set_adapters("default", 0.0)
    assert torch.equal(ask(refiner), ask(make()))
    assert refiner.adapter_scales() == {"default": 0.0}
    refiner.set_adapters("default", 0.5)
    half = ask(refiner)
    refiner.set_adapters("default", 1.0)
    refiner.fuse_lora()
    refiner.unload_lora()
    torch.testing.assert_close(ask(refiner), beside, rtol=0, atol=1e-5)
    assert not torch.allclose(half, beside, atol=1e-3)
    assert list(refiner.state_dict()) == list(make().state_dict())
    refiner.save_pretrained(tmp_path)
    assert torch.equal(ask(type(refiner).from_pretrained(tmp_path)), ask(refiner))


@both
@pytest.mark.parametrize("scale", [0.0, 0.5, 2.0])
def test_merging_at_a_scale_equals_the_adapter_at_that_scale(make: Any, ask: Ask, scale: float) -> None:
    beside, merged = adapted(make), adapted(make)
    beside.set_adapters("default", scale)
    merged.fuse_lora(scale)
    merged.unload_lora()
    torch.testing.assert_close(ask(merged), ask(beside), rtol=0, atol=1e-5)
    if not scale:
        assert torch.equal(ask(merged), ask(make()))


@both
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sample_is_the_same_in_any_batch_beside_an_adapter(
    make: Any, ask: Any, dtype: torch.dtype, tmp_path: Path
) -> None:
    adapted(make).save_lora_adapter(tmp_path)
    refiner = torch.nn.Module.to(make(), dtype)
    refiner.load_lora_adapter(tmp_path)
    assert {parameter.dtype for parameter in refiner.parameters()} == {dtype}
    together = ask(refiner)
    alone = [ask(refiner, slice(i, i + 1)) for i in range(len(together))]
    assert torch.equal(torch.cat(alone), together)


@both
def test_two_adapters_add_up(make: Any, ask: Ask, tmp_path: Path) -> None:
    adapted(make).save_lora_adapter(tmp_path)
    refiner = make()
    refiner.load_lora_adapter(tmp_path, "a")
    refiner.load_lora_adapter(tmp_path, "b")
    assert refiner.adapter_scales() == {"a": 1.0, "b": 1.0}
    refiner.set_adapters(["a", "b"], [0.25, 0.75])
    torch.testing.assert_close(ask(refiner), ask(adapted(make)), rtol=0, atol=1e-5)
    with pytest.raises(GenrefineError, match="already"):
        refiner.load_lora_adapter(tmp_path, "a")


def test_an_adapter_with_classes_of_its_own_starts_all_of_them_as_no_class(tmp_path: Path) -> None:
    refiner = tiny_refiner()
    nothing = ask_class(refiner)[4]
    refiner.choose_classes([None, 2, None, None])
    refiner.add_adapter(lora_config(refiner, rank=2))
    assert refiner.config.num_classes == 4
    refiner.save_lora_adapter(tmp_path, class_names=["a", "b", "c", "d"])
    other = tiny_refiner()
    adapter = other.load_lora_adapter(tmp_path)
    assert adapter.facts.class_rows == [None, 2, None, None]
    assert adapter.facts.class_names == ["a", "b", "c", "d"]
    assert torch.equal(ask_class(other), ask_class(refiner))
    condition = ClassCondition(torch.tensor([0, 2, 3, 4]), 4)
    codes = torch.zeros(4, 4, 1, 4, 4, dtype=torch.int32)
    with torch.no_grad():
        logits = other(codes, torch.full((4,), 0.3), condition)
    assert all(torch.equal(logits[0], row) for row in logits)
    assert torch.equal(ask_class(other)[4], nothing)
    with pytest.raises(GenrefineError, match="classes of its own"):
        other.load_lora_adapter(tmp_path, "again")


def test_wrong_classes_are_refused() -> None:
    for rows in ([], [6], [-1]):
        with pytest.raises(GenrefineError, match=r"0 \.\. 5"):
            tiny_refiner().choose_classes(rows)


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**config, **changes}))


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    with safe_open(folder / WEIGHTS, "pt") as file:
        metadata = file.metadata()
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS, metadata)


def first(weights: dict[str, torch.Tensor]) -> str:
    return min(name for name in weights if "lora_A" in name)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (lambda f: (f / CONFIG).unlink(), "is no adapter folder"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "is no adapter folder"),
    "no json": (lambda f: (f / CONFIG).write_text("{"), "not readable JSON"),
    "no object": (lambda f: (f / CONFIG).write_text("[]"), "JSON object"),
    "unknown key": (lambda f: change_config(f, lora_alhpa=3), "unknown key 'lora_alhpa'; did you mean 'lora_alpha'"),
    "other method": (lambda f: change_config(f, peft_type="LOHA"), "peft_type LORA"),
    "dora": (lambda f: change_config(f, use_dora=True), "'use_dora' to True"),
    "no rank": (lambda f: change_config(f, r=None), "r and lora_alpha"),
    "other rank": (lambda f: change_config(f, r=4), "must have shape"),
    "truncated": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes()[:-9]), "truncated or damaged"),
    "lacking": (lambda f: change_weights(f, lambda w: w.pop(first(w))), "lacks weight"),
    "unknown": (
        lambda f: change_weights(f, lambda w: w.update({first(w) + "x": torch.zeros(2)})),
        "has the unknown weight",
    ),
    "foreign": (lambda f: change_weights(f, lambda w: w.update(a=torch.zeros(2))), "unknown weight 'a'"),
    "elsewhere": (
        lambda f: change_weights(f, lambda w: w.update({first(w).replace("attention", "atention"): torch.zeros(2)})),
        "no layer of this",
    ),
    "not a number": (lambda f: change_weights(f, lambda w: w[first(w)].fill_(float("nan"))), "finite"),
    "integers": (lambda f: change_weights(f, lambda w: w.update({first(w): w[first(w)].int()})), "finite numbers"),
}


@both
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_adapter_is_refused_in_one_line_and_changes_nothing(
    make: Any, ask: Ask, damage: str, tmp_path: Path
) -> None:
    adapted(make).save_lora_adapter(tmp_path)
    harm, message = DAMAGES[damage]
    harm(tmp_path)
    refiner = make()
    with pytest.raises(GenrefineError, match=message) as caught:
        refiner.load_lora_adapter(tmp_path)
    assert "\n" not in str(caught.value)
    assert refiner.adapters == []
    assert torch.equal(ask(refiner), ask(make()))


@both
def test_an_adapter_of_another_model_is_refused(make: Any, ask: Ask, tmp_path: Path) -> None:
    adapted(make).save_lora_adapter(tmp_path)
    changed = make()
    with torch.no_grad():
        changed.blocks[1].mlp.output.weight.mul_(1.1)
    with pytest.raises(GenrefineError, match="trained beside other weights"):
        changed.load_lora_adapter(tmp_path)
    other = tiny_text_refiner() if make is tiny_refiner else tiny_refiner()
    with pytest.raises(GenrefineError, match=f"adapts a {make().__class__.__name__}; this is a"):
        other.load_lora_adapter(tmp_path)
    with pytest.raises(GenrefineError, match=r"must have shape|no layer of this"):
        make(width=48).load_lora_adapter(tmp_path)
    cast = torch.nn.Module.to(make(), torch.bfloat16)
    cast.load_lora_adapter(tmp_path)  # the same model, rounded


def test_reading_needs_no_network(tmp_path: Path) -> None:
    adapted(tiny_refiner).save_lora_adapter(tmp_path)
    adapter = read_adapter(tmp_path)
    assert "class_embedding" in adapter.layers
    assert "blocks.1.modulation" in adapter.layers


@both
def test_a_network_with_an_adapter_beside_it_is_not_saved_as_weights(make: Any, ask: Ask, tmp_path: Path) -> None:
    with pytest.raises(GenrefineError, match="save_lora_adapter"):
        adapted(make).save_pretrained(tmp_path)
    with pytest.raises(GenrefineError, match="no adapter 'x'; it has none"):
        make().save_lora_adapter(tmp_path, "x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("changes", [{"rank": 0}, {"rank": 2, "scale": 0.0}])
def test_adapters_without_effect_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(GenrefineError, match="rank of at least 1 and a scale other than 0"):
        lora_config(tiny_refiner(), **changes)


def test_remembered_prompts_belong_to_their_adapter(tmp_path: Path) -> None:
    refiner = tiny_text_refiner(attention="prefix")
    condition = TextCondition.of([torch.randn(3, 24)], torch.zeros(1, 24), [None])
    codes, signal = torch.zeros(1, 4, 1, 4, 4, dtype=torch.int32), torch.tensor([0.5])

    def stale(prepared: TextCondition) -> bool:
        try:
            refiner(codes, signal, prepared)
        except GenrefineError:
            return True
        return False

    with torch.no_grad():
        before = refiner.prepare(condition)
        assert not stale(before)
        refiner.add_adapter(lora_config(refiner, rank=2))
        assert stale(before)
        beside = refiner.prepare(condition)
        assert not stale(beside)
        refiner.set_adapters("default", 0.5)
        assert stale(beside)
        refiner.fuse_lora()
        refiner.unload_lora()
        assert stale(before)
        assert not stale(refiner.prepare(condition))
