"""The visual tokenizer: one frame = a clip of one, chunks = the whole, and clear refusals."""

import pytest
import torch
from torch import nn

from genrefine import HBQ, GenrefineError, VisualTokenizer
from genrefine.nn.causal_conv import Cache, CausalConv3d
from genrefine.tokenizer import PUBLISHED
from genrefine.tokenizer.blocks import average_down, duplicate_up

TINY = {"latent_dim": 3, "rounds": 3, "encoder_width": 4, "decoder_width": 6, "channel_multipliers": (1, 2, 2)}


def random_weights(tokenizer: VisualTokenizer, seed: int = 0) -> VisualTokenizer:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in tokenizer.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.1)
    return tokenizer.eval()


@pytest.fixture(scope="module")
def video_tokenizer() -> VisualTokenizer:
    """Stride 8 and 4 in time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return random_weights(VisualTokenizer(**TINY, num_blocks=1, temporal_downsample=(True, True)))


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return torch.rand(2, 3, 13, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


def full_causal(conv: CausalConv3d, x: torch.Tensor) -> torch.Tensor:
    """The definition: zeros before the clip, then an ordinary convolution."""
    padded = nn.functional.pad(x, (0, 0, 0, 0, conv.history, 0))
    return nn.functional.conv3d(padded, conv.weight, conv.bias, padding=conv.padding)


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_fast_path_of_one_frame_is_the_general_convolution(frames: int) -> None:
    conv = CausalConv3d(3, 5)
    x = torch.randn(2, 3, frames, 6, 7)
    torch.testing.assert_close(conv(x), full_causal(conv, x))


@pytest.mark.parametrize("chunks", [(1, 4, 4, 4), (5, 8), (9, 4), (1, 12), (5, 4, 4)])
def test_any_chunking_encodes_like_the_whole_clip(
    video_tokenizer: VisualTokenizer, clip: torch.Tensor, chunks: tuple[int, ...]
) -> None:
    whole = video_tokenizer.latents(clip)
    cache = Cache()
    parts = [video_tokenizer.latents(part, cache) for part in clip.split(chunks, dim=2)]
    torch.testing.assert_close(torch.cat(parts, dim=2), whole, atol=1e-5, rtol=1e-5)
    codes = list(video_tokenizer.encode_chunks(clip.split(chunks, dim=2)))
    assert torch.equal(torch.cat(codes, dim=2), video_tokenizer.hbq.encode(torch.cat(parts, dim=2)))


@pytest.mark.parametrize("chunks", [(1, 1, 1, 1), (2, 2), (1, 3), (3, 1), (4,)])
def test_any_chunking_decodes_like_the_whole_clip(
    video_tokenizer: VisualTokenizer, clip: torch.Tensor, chunks: tuple[int, ...]
) -> None:
    codes = video_tokenizer.encode(clip)
    assert codes.shape == (2, 9, 4, 2, 3)
    parts = list(video_tokenizer.decode_chunks(codes.split(chunks, dim=2)))
    torch.testing.assert_close(torch.cat(parts, dim=2), video_tokenizer.decode(codes), atol=1e-5, rtol=1e-5)


def test_later_frames_never_change_earlier_ones(video_tokenizer: VisualTokenizer, clip: torch.Tensor) -> None:
    changed = torch.cat([clip[:, :, :5], -clip[:, :, 5:]], dim=2)
    torch.testing.assert_close(video_tokenizer.latents(changed)[:, :, :2], video_tokenizer.latents(clip)[:, :, :2])
    assert not torch.allclose(video_tokenizer.latents(changed), video_tokenizer.latents(clip))


def test_an_image_is_the_first_frame_of_a_clip(video_tokenizer: VisualTokenizer, clip: torch.Tensor) -> None:
    alone = video_tokenizer.latents(clip[:, :, :1])
    torch.testing.assert_close(alone, video_tokenizer.latents(clip)[:, :, :1], atol=1e-5, rtol=1e-5)


def test_shortcuts_average_down_and_duplicate_up() -> None:
    x = torch.randn(1, 2, 3, 4, 4)
    down = average_down(x, 2, time=2, space=2)
    assert down.shape == (1, 2, 2, 2, 2)
    zero_first = torch.cat([torch.zeros(1, 2, 1, 4, 4), x], dim=2)
    expected = torch.stack([zero_first[0, c, 2:, 2:, 2:].mean() for c in range(2)])
    torch.testing.assert_close(down[0, :, 1, 1, 1], expected)
    up = duplicate_up(x, 2, time=2, space=2, first=True)
    assert up.shape == (1, 2, 5, 8, 8)
    torch.testing.assert_close(average_down(up, 2, 2, 2)[:, :, 1:], x[:, :, 1:])


@pytest.mark.parametrize(("name", "elements"), [("image", 702_687_612), ("joint", 705_693_036)])
def test_published_sizes_have_the_published_number_of_weights(name: str, elements: int) -> None:
    with torch.device("meta"):
        tokenizer = VisualTokenizer(**PUBLISHED[name])
    assert len(tokenizer.state_dict()) == 196
    assert sum(p.numel() for p in tokenizer.parameters()) == elements
    assert (tokenizer.spatial_stride, tokenizer.temporal_stride) == (16, 4)


def test_tokenizer_of_stills_has_a_third_of_the_convolution_weights() -> None:
    stills = VisualTokenizer(**TINY, temporal_downsample=(False, False), temporal_kernel=1)
    clips = VisualTokenizer(**TINY, temporal_downsample=(False, False))
    assert stills.encoder.conv_in.weight.numel() * 3 == clips.encoder.conv_in.weight.numel()
    assert stills.decode(stills.encode(torch.zeros(1, 3, 1, 8, 8))).shape == (1, 3, 1, 8, 8)


def test_kernel_of_one_frame_still_halves_time_and_streams() -> None:
    tokenizer = VisualTokenizer(**TINY, temporal_downsample=(True, True), temporal_kernel=1).eval()
    clip = torch.rand(1, 3, 13, 16, 16, generator=torch.Generator().manual_seed(3)) * 2 - 1
    codes = tokenizer.encode(clip)
    assert codes.shape[2] == 4
    assert torch.equal(codes[:, :, :1], tokenizer.encode(clip[:, :, :1]))
    chunks = [clip[:, :, :5], clip[:, :, 5:9], clip[:, :, 9:]]
    assert torch.equal(torch.cat(list(tokenizer.encode_chunks(chunks)), dim=2), codes)
    streamed = torch.cat(list(tokenizer.decode_chunks(codes.split(1, dim=2))), dim=2)
    torch.testing.assert_close(streamed, tokenizer.decode(codes))


def test_one_tile_is_the_whole_and_small_tiles_stay_close(video_tokenizer: VisualTokenizer) -> None:
    codes = torch.randint(0, 2, (1, 9, 1, 10, 7), generator=torch.Generator().manual_seed(2), dtype=torch.int32)
    whole = video_tokenizer.decode(codes)
    video_tokenizer.enable_tiling(tile=16, overlap=4)
    torch.testing.assert_close(video_tokenizer.decode(codes), whole)
    video_tokenizer.enable_tiling(tile=6, overlap=4)
    tiled = video_tokenizer.decode(codes)
    assert tiled.shape == whole.shape
    assert (tiled - whole).abs().mean() < 0.4 * whole.abs().mean()  # random attention sees only its tile
    with pytest.raises(GenrefineError, match="overlap"):
        video_tokenizer.enable_tiling(tile=4, overlap=4)
    video_tokenizer.disable_tiling()
    assert torch.equal(video_tokenizer.decode(codes), whole)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        ((2, 16, 16), "frames must be 1 \\+ 4k; got 2; nearest 1 or 5"),
        ((0, 16, 16), "nearest 1"),
        ((1, 20, 16), "height must be a multiple of 8; got 20; nearest 16 or 24"),
        ((1, 16, 3), "width must be a multiple of 8; got 3; nearest 8"),
    ],
)
def test_impossible_sizes_are_refused_with_the_nearest(
    video_tokenizer: VisualTokenizer, size: tuple[int, int, int], message: str
) -> None:
    with pytest.raises(GenrefineError, match=message):
        video_tokenizer.grid(*size)
    with pytest.raises(GenrefineError):
        video_tokenizer.encode(torch.zeros(1, 3, *size))


def test_grid_and_rate_follow_the_strides(video_tokenizer: VisualTokenizer) -> None:
    assert video_tokenizer.grid(9, 16, 24) == (3, 2, 3)
    assert video_tokenizer.bits_per_pixel(1, 64, 64) == pytest.approx(9 / 64)


def test_wrong_codes_and_configurations_are_refused(video_tokenizer: VisualTokenizer) -> None:
    with pytest.raises(GenrefineError, match="9 channels"):
        video_tokenizer.decode(torch.zeros(1, 4, 1, 2, 2, dtype=torch.int32))
    with pytest.raises(GenrefineError, match="one entry per halving stage"):
        VisualTokenizer(**TINY, temporal_downsample=(True,))
    with pytest.raises(GenrefineError, match="divide"):
        VisualTokenizer(latent_dim=2, channel_multipliers=(1, 3, 2), temporal_downsample=(False, False))
    with pytest.raises(GenrefineError, match="temporal_kernel"):
        VisualTokenizer(**TINY, temporal_downsample=(True, False), temporal_kernel=0)


def test_saved_tokenizer_gives_the_same_codes_and_fingerprint(
    video_tokenizer: VisualTokenizer, clip: torch.Tensor, tmp_path: object
) -> None:
    video_tokenizer.save_pretrained(tmp_path)
    loaded = VisualTokenizer.from_pretrained(tmp_path)
    assert torch.equal(loaded.encode(clip), video_tokenizer.encode(clip))
    assert loaded.fingerprint() == video_tokenizer.fingerprint()
    with torch.no_grad():
        loaded.decoder.conv_in.weight.add_(1)
    assert loaded.fingerprint() == video_tokenizer.fingerprint()  # the decoder does not decide codes
    with torch.no_grad():
        loaded.encoder.conv_in.weight.add_(1)
    assert loaded.fingerprint() != video_tokenizer.fingerprint()


def test_codes_of_fewer_rounds_are_the_first_channels_of_more(
    video_tokenizer: VisualTokenizer, clip: torch.Tensor
) -> None:
    rounds, channels = video_tokenizer.hbq.rounds, video_tokenizer.code_channels
    finer = video_tokenizer.with_rounds(rounds + 2)
    assert finer.code_channels == channels // rounds * (rounds + 2)
    assert torch.equal(finer.encode(clip)[:, :channels], video_tokenizer.encode(clip))
    assert torch.equal(finer.with_rounds(rounds).encode(clip), video_tokenizer.encode(clip))
    assert finer.with_rounds(rounds).fingerprint() == video_tokenizer.fingerprint() != finer.fingerprint()


def test_training_path_has_gradients_everywhere_and_checkpointing_changes_none(
    video_tokenizer: VisualTokenizer, clip: torch.Tensor
) -> None:
    gradients = []
    for enable in (False, True):
        tokenizer = VisualTokenizer.from_config(video_tokenizer.config)
        tokenizer.load_state_dict(video_tokenizer.state_dict())
        tokenizer.train()
        if enable:
            tokenizer.enable_gradient_checkpointing()
        tokenizer(clip[:, :, :5], HBQ(2)).square().mean().backward()
        gradients.append({name: p.grad for name, p in tokenizer.named_parameters()})
        assert all(g is not None and torch.isfinite(g).all() for g in gradients[-1].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)
