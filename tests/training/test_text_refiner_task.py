"""The loss of a text refiner, computed by hand; captions and first frames as drawn; and it learns."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from genrefine import GenrefineError
from genrefine.conditioning.text_condition import TextCondition
from genrefine.corruption import LogitNormalSignal
from genrefine.data.text_store import TextStore
from genrefine.training.loop import Update, train
from genrefine.training.settings import TrainingSettings
from genrefine.training.text_refiner_task import TextRefinerTask, TextSamples
from tiny_models import tiny_text_refiner

LENGTHS = (1, 2, 3, 4, 5)  # tokens of each caption, so that a length tells which one it is; the first is the null
STILLS, CLIPS = (4, 1, 3, 2), (4, 3, 2, 2)
SHARES = {"stills": 0.6, "clips": 0.4}
BATCHES = {"stills": 3, "clips": 2}
LAW = LogitNormalSignal(-1.3, 1.3)


def texts() -> TextStore:
    embeddings = torch.randn(sum(LENGTHS), 24, generator=torch.Generator().manual_seed(3)).half()
    return TextStore(["", "one", "two", "three", "four"], embeddings, torch.tensor([0, *LENGTHS]).cumsum(0))


def samples(
    name: str, shape: Sequence[int], count: int = 6, captions: Sequence[int] = (1, 2, 3), **changes: Any
) -> TextSamples:
    generator = torch.Generator().manual_seed(len(name))
    codes = torch.randint(0, 2, (count, *shape), generator=generator, dtype=torch.int32)
    labels = torch.zeros(count, dtype=torch.long)
    options = {"batch_size": BATCHES[name], "share": SHARES[name], **changes}
    return TextSamples(name, TensorDataset(codes, labels), [tuple(captions)] * count, **options)


def task(kinds: Sequence[TextSamples] = (), attention: str = "joint", **changes: Any) -> TextRefinerTask:
    kinds = kinds or [samples("stills", STILLS), samples("clips", CLIPS)]
    return TextRefinerTask(tiny_text_refiner(attention=attention), kinds, texts(), LAW, **changes)


def batch_of(own: TextRefinerTask, items: Sequence[int]) -> list[Tensor]:
    codes, numbers = zip(*(own.dataset[item] for item in items), strict=True)
    return [torch.stack(codes), torch.tensor(numbers)]


class Recorded:
    """The refiner, which keeps what it was given and what it said."""

    def __init__(self, own: TextRefinerTask) -> None:
        self.refiner = own.networks["refiner"]

    def __call__(self, codes: Any, signal: Tensor, condition: TextCondition, batching: str) -> Any:
        self.codes, self.signal, self.condition, self.batching = list(codes), signal, condition, batching
        self.logits = self.refiner(codes, signal, condition, batching=batching)
        return self.logits


def update(own: TextRefinerTask, items: Sequence[int], seed: int = 0, network: Any = None) -> Update:
    generator = torch.Generator().manual_seed(seed)
    return next(own.updates({"refiner": network or own.networks["refiner"]}, batch_of(own, items), generator))


@pytest.mark.parametrize("exponent", [0.5, 0.0, 1.0])
@pytest.mark.parametrize("items", [[0, 3, 5], [7, 10]], ids=["stills", "clips"])
def test_every_sample_has_the_weight_of_its_tokens_whatever_batch_it_is_in(items: list[int], exponent: float) -> None:
    own = task(first_frame_share=0.5, token_exponent=exponent)
    mean = sum(SHARES[k] * BATCHES[k] * n**exponent for k, n in (("stills", 6), ("clips", 12)))
    counts = set()
    for seed in range(4):
        recorded = Recorded(own)
        found = update(own, items, seed, recorded).loss
        expected = torch.zeros(())
        for item, logits in zip(items, recorded.logits, strict=True):
            codes = own.dataset[item][0][:, -logits.shape[1] :]
            tokens = codes[0].numel()
            counts.add(tokens)
            expected = expected + tokens**exponent * cross_entropy(logits.flatten(0, -2), codes.flatten().long())
        torch.testing.assert_close(found, expected / mean)
    assert counts == ({6} if items[0] < 6 else {8, 12})


def test_the_mean_weight_of_the_batches_is_one() -> None:
    own = task()
    for network in own.networks.values():
        for parameter in network.head.parameters():
            torch.nn.init.zeros_(parameter)  # every element then costs ln 2
    losses = {name: update(own, items).loss.item() for name, items in (("stills", [0, 1, 2]), ("clips", [6, 7]))}
    mean = sum(SHARES[name] * loss for name, loss in losses.items())
    assert mean == pytest.approx(0.6931, abs=1e-3)
    assert losses["clips"] / losses["stills"] == pytest.approx(2 * 12**0.5 / (3 * 6**0.5), rel=1e-3)


def test_packed_and_padded_batches_have_the_same_loss() -> None:
    for items in ([0, 3, 5], [7, 10, 8]):
        losses = [update(task(first_frame_share=0.5, batching=b), items, seed=2).loss for b in ("packed", "padded")]
        torch.testing.assert_close(losses[0], losses[1])


def test_a_given_first_frame_is_clean_and_bears_no_loss() -> None:
    own = task(first_frame_share=1.0)
    recorded = Recorded(own)
    update(own, [6, 7], network=recorded)
    for item, seen, first in zip([6, 7], recorded.codes, recorded.condition.first_frames, strict=True):
        codes = own.dataset[item][0]
        assert torch.equal(first, codes[:, :1])
        assert seen.shape == codes[:, 1:].shape

    def deaf(codes: Any, signal: Tensor, condition: TextCondition, batching: str) -> list[Tensor]:
        """Say the same whatever is asked, so that the loss depends on the targets alone."""
        generator = torch.Generator().manual_seed(1)
        return [torch.randn(*sample.shape, 2, generator=generator) for sample in codes]

    codes, numbers = batch_of(own, [6, 7])

    def loss(frame: int | None) -> Tensor:
        changed = codes.clone()
        if frame is not None:
            changed[:, :, frame] = 1 - changed[:, :, frame]
        return next(own.updates({"refiner": deaf}, [changed, numbers], torch.Generator().manual_seed(0))).loss

    assert torch.equal(loss(0), loss(None))
    assert not torch.equal(loss(1), loss(None))
    assert not torch.equal(loss(2), loss(None))


def test_a_share_of_the_clips_and_no_still_gives_its_first_frame() -> None:
    own = task([samples("stills", STILLS, 40), samples("clips", CLIPS, 400)], first_frame_share=0.3)
    recorded = Recorded(own)
    update(own, range(40, 440), network=recorded)
    given = [first is not None for first in recorded.condition.first_frames]
    assert sum(given) / 400 == pytest.approx(0.3, abs=0.07)
    assert [sample.shape[1] for sample in recorded.codes] == [2 if first else 3 for first in given]
    assert len(set(recorded.signal.tolist())) == 400
    update(own, range(40), network=recorded)
    assert recorded.condition.first_frames == (None,) * 40


def test_captions_are_dropped_and_drawn_in_their_shares() -> None:
    count = 4000
    own = task([samples("stills", STILLS, count, captions=(2, 1, 4, 3))], caption_dropout=0.1, first_caption_share=0.5)
    codes, numbers = torch.zeros(count, *STILLS, dtype=torch.int32), torch.arange(count)
    none = torch.zeros(count, dtype=torch.bool)
    condition = own.condition(numbers, codes, none, torch.Generator().manual_seed(0))
    found = Counter(condition.lengths)
    assert found[1] / count == pytest.approx(0.1, abs=0.02)
    assert found[3] / count == pytest.approx(0.45, abs=0.03)  # caption 2, of three tokens, comes first
    for length in (2, 5, 4):
        assert found[length] / count == pytest.approx(0.15, abs=0.02)
    again = own.condition(numbers, codes, none, torch.Generator().manual_seed(0))
    assert again.lengths == condition.lengths


@pytest.mark.parametrize(("dropout", "first", "lengths"), [(1.0, 0.5, {1}), (0.0, 1.0, {2}), (0.0, 0.0, {3, 4})])
def test_the_ends_of_the_shares(dropout: float, first: float, lengths: set[int]) -> None:
    own = task([samples("stills", STILLS, 60)], caption_dropout=dropout, first_caption_share=first)
    recorded = Recorded(own)
    update(own, range(60), network=recorded)
    assert set(recorded.condition.lengths) == lengths


def test_captions_follow_the_item_through_the_mixture() -> None:
    own = task([samples("stills", STILLS, captions=[1]), samples("clips", CLIPS, captions=[4])], caption_dropout=0.0)
    for items, length in (([0, 5], 2), ([6, 11], 5)):
        recorded = Recorded(own)
        update(own, items, network=recorded)
        assert recorded.condition.lengths == (length, length)


def test_scalars_tell_the_kinds_apart() -> None:
    own = task(first_frame_share=1.0)
    stills, clips = update(own, [0, 1, 2]).scalars, update(own, [6, 7]).scalars
    assert float(stills["loss_stills"]) == float(stills["loss"])
    assert "loss_clips" not in stills
    assert float(clips["loss_first_frame"]) == pytest.approx(float(clips["loss_clips"]))
    assert stills["loss_first_frame"].isnan()
    alone = update(task([samples("stills", STILLS)]), [0, 1, 2]).scalars
    assert not {"loss_stills", "loss_first_frame"} & alone.keys()


def test_captions_are_learned_by_heart(tmp_path: Path) -> None:
    kind = samples("stills", STILLS, 4, batch_size=8, share=1.0)
    own = task([replace(kind, captions=[[1], [2], [3], [4]])], caption_dropout=0.0)
    settings = TrainingSettings(
        num_steps=50, learning_rate=1e-2, warmup_steps=5, ema_decay=0.9, mixed_precision="no", log_every=50,
        preview_every=1000, save_every=1000, seed=1,
    )  # fmt: skip
    train(own, settings, tmp_path)
    refiner = own.networks["refiner"]
    codes = torch.stack([own.dataset[item][0] for item in range(4)])
    noise = torch.randint(0, 2, codes.shape, generator=torch.Generator().manual_seed(9), dtype=torch.int32)
    store = texts()
    condition = TextCondition.of([store[row] for row in (1, 2, 3, 4)], store[0])
    with torch.no_grad():
        said = refiner(noise, torch.full((4,), 0.05), condition).argmax(-1)
    assert (said == codes).float().mean() > 0.97


def test_a_refiner_without_a_pipeline_is_written_by_itself(tmp_path: Path) -> None:
    own = task()
    own.save(own.networks["refiner"], tmp_path)
    assert (tmp_path / "refiner" / "config.json").is_file()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"caption_dropout": 1.5}, r"loss.caption_dropout must lie in 0 .. 1; got 1.5"),
        ({"first_caption_share": -0.1}, "loss.first_caption_share must lie in"),
        ({"first_frame_share": 2.0}, "loss.first_frame_share must lie in"),
        ({"attention": "prefix", "first_frame_share": 0.5}, "prefix attention takes no first frame"),
        ({"kinds": [samples("stills", STILLS, captions=())]}, "every one of the 6 stills needs a caption; got .* 0"),
        ({"kinds": [samples("stills", STILLS, batch_size=0)]}, "stills need a batch of at least 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(GenrefineError, match=message):
        task(**changes)


def test_prefix_attention_trains_on_stills_and_clips() -> None:
    own = task(attention="prefix")
    for items in ([0, 1, 2], [6, 7]):
        update(own, items).loss.backward()
    assert own.networks["refiner"].text_embedding.weight.grad.abs().sum() > 0
