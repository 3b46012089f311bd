"""What of a tokenizer is trained: stills and clips mixed, and training over time alone, which no still notices."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from genrefine import GenrefineError, VisualTokenizer
from genrefine.experiments.settings import TokenizerSettings
from genrefine.experiments.sources import build_tokenizer
from genrefine.training.loop import train
from genrefine.training.mixture import Kind, Mixture
from genrefine.training.settings import TrainingSettings
from genrefine.training.tokenizer_parts import freeze
from genrefine.training.tokenizer_task import TokenizerTask
from tiny_models import tiny_clip_tokenizer, tiny_tokenizer

SETTINGS = TrainingSettings(
    num_steps=6, batch_size=4, learning_rate=1e-2, warmup_steps=0, ema_decay=0.5, mixed_precision="no",
    log_every=6, preview_every=6, save_every=6,
)  # fmt: skip


class Pixels(Dataset[Tensor]):
    """Films of one color that turns to another; stills of one color."""

    def __init__(self, frames: int, count: int = 8) -> None:
        generator = torch.Generator().manual_seed(frames)
        first, last = torch.rand(2, count, 3, 1, 1, 1, generator=generator) * 2 - 1
        share = torch.linspace(0, 1, frames)[:, None, None]
        self.pixels = (first + (last - first) * share).expand(-1, -1, -1, 8, 8).contiguous()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> Tensor:
        return self.pixels[index]


STILLS, CLIPS = Pixels(1), Pixels(5)


def task(tokenizer: VisualTokenizer, dataset: Dataset[Any] | None = None, **changes: Any) -> TokenizerTask:
    mixed = Mixture([STILLS, CLIPS], [Kind("stills", 8, 4, 0.5), Kind("clips", 8, 2, 0.5)])
    options = {"perceptual_weight": 0.0, "adversarial_weight": 0.0, "rounds": (1, 2)}
    return TokenizerTask(tokenizer, dataset or mixed, STILLS.pixels[:3], **{**options, **changes})


def over_time(name: str) -> bool:
    return ".time_conv." in name


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_training_over_time_keeps_the_codes_of_stills_to_the_bit(optimizer: str, tmp_path: Path) -> None:
    before = tiny_clip_tokenizer()
    own = task(tiny_clip_tokenizer(), train_encoder="temporal")
    train(own, TrainingSettings(**{**vars(SETTINGS), "optimizer": optimizer}), tmp_path)
    after = VisualTokenizer.from_pretrained(tmp_path / "tokenizer")
    changed = {name for name, value in after.state_dict().items() if not torch.equal(value, before.state_dict()[name])}
    encoder = {name for name in changed if name.startswith(("encoder.", "conv_quant."))}
    assert encoder
    assert all(map(over_time, encoder))
    assert {name for name, _ in before.named_parameters() if name.startswith("decoder.")} <= changed
    codes = before.encode(STILLS.pixels)
    assert torch.equal(after.encode(STILLS.pixels), codes)
    assert torch.equal(after.encode(CLIPS.pixels)[:, :, :1], before.encode(CLIPS.pixels[:, :, :1]))
    assert not torch.equal(after.decode(codes), before.decode(codes))


def test_training_both_halves_over_time_changes_clips_alone(tmp_path: Path) -> None:
    before = tiny_clip_tokenizer()
    train(task(tiny_clip_tokenizer(), CLIPS, train_encoder="temporal", train_decoder="temporal"), SETTINGS, tmp_path)
    after = VisualTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert torch.equal(after(STILLS.pixels), before(STILLS.pixels))
    assert not torch.equal(after(CLIPS.pixels), before(CLIPS.pixels))


def test_a_tokenizer_of_stills_that_gains_time_lacks_the_convolutions_over_time_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stills, known = tiny_tokenizer(temporal_kernel=1), TokenizerSettings().arguments()
    stills.save_pretrained(tmp_path)
    config = {**{key: stills.config[key] for key in known}, "temporal_downsample": (True,), "start": str(tmp_path)}
    joint = build_tokenizer(TokenizerSettings(**config))
    assert joint.temporal_stride == 2
    captured = capsys.readouterr()
    new = (captured.out + captured.err).partition("new weights: ")[2].strip().split(", ")
    assert set(new) == {name for name in joint.state_dict() if over_time(name)}
    joint.save_pretrained(tmp_path / "joint")
    again = build_tokenizer(TokenizerSettings(**{**config, "start": str(tmp_path / "joint")}))
    assert torch.equal(again.encode(CLIPS.pixels), joint.encode(CLIPS.pixels))


def test_stills_and_clips_train_one_tokenizer_which_gets_better(tmp_path: Path) -> None:
    own = task(tiny_clip_tokenizer(latent_dim=4, rounds=3), rounds=(3,))
    network = own.networks["tokenizer"]

    def errors() -> list[float]:
        with torch.no_grad():
            return [float((network(data.pixels) - data.pixels).abs().mean()) for data in (STILLS, CLIPS)]

    before = errors()
    train(own, TrainingSettings(**{**vars(SETTINGS), "num_steps": 30, "learning_rate": 3e-2}), tmp_path)
    assert all(late < 0.9 * early for late, early in zip(errors(), before, strict=True))


def test_scalars_of_clips_come_from_clips_alone() -> None:
    own = task(tiny_clip_tokenizer())
    networks = dict(own.networks)
    scalars = [
        next(own.updates(networks, data.pixels[:2], torch.Generator().manual_seed(0))).scalars
        for data in (STILLS, CLIPS)
    ]
    assert ["psnr_clips" in found for found in scalars] == [False, True]


def test_optimizers_see_what_is_trained_and_nothing_else() -> None:
    for encoder, decoder in (("true", "false"), ("false", "temporal"), ("temporal", "true")):
        tokenizer = tiny_clip_tokenizer()
        freeze(tokenizer, encoder, decoder)
        for name, parameter in tokenizer.named_parameters():
            half = encoder if name.startswith(("encoder.", "conv_quant.")) else decoder
            assert parameter.requires_grad == (half == "true" or (half == "temporal" and over_time(name))), name


@pytest.mark.parametrize(
    ("changes", "modes", "message"),
    [
        ({}, ("false", "false"), "nothing is left to train"),
        ({"temporal_kernel": 3}, ("temporal", "true"), r"train_encoder=temporal needs .* got temporal_kernel 3"),
        ({"temporal_downsample": (False,)}, ("true", "temporal"), "train_decoder=temporal needs .* stride 1"),
    ],
)
def test_modes_without_meaning_are_refused(changes: dict[str, Any], modes: Any, message: str) -> None:
    with pytest.raises(GenrefineError, match=message):
        freeze(tiny_clip_tokenizer(**changes), *modes)


def test_stills_cannot_train_time_alone() -> None:
    for data in (None, STILLS):  # mixed, and alone
        with pytest.raises(GenrefineError, match="stills train nothing over time"):
            task(tiny_clip_tokenizer(), data, train_encoder="temporal", train_decoder="false")


@pytest.mark.parametrize(("pixels", "moves"), [(STILLS, False), (CLIPS, True)], ids=["stills", "clips"])
def test_motion_counts_the_differences_of_neighboring_frames(pixels: Pixels, moves: bool) -> None:
    batch = pixels.pixels[:2]
    losses = []
    for weight in (0.0, 0.5):
        own = task(tiny_clip_tokenizer(), rounds=(2,), motion_weight=weight, flip=False)
        (update,) = own.updates(own.networks, batch, torch.Generator().manual_seed(0))
        losses.append(update.loss)
    again = tiny_clip_tokenizer()(batch)
    jumps = [(again[:, :, i + 1] - again[:, :, i]) - (batch[:, :, i + 1] - batch[:, :, i]) for i in range(4 * moves)]
    expected = 0.5 * torch.stack(jumps).abs().mean() if moves else torch.tensor(0.0)
    torch.testing.assert_close(losses[1] - losses[0], expected, atol=1e-6, rtol=1e-5)
    assert not moves or expected > 0.01
