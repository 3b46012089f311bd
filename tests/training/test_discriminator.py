"""The patch discriminator and its hinge losses."""

import pytest
import torch

from genrefine.errors import GenrefineError
from genrefine.training.discriminator import PatchDiscriminator, adversarial_loss, discriminator_loss


def _discriminator(**settings: int) -> PatchDiscriminator:
    torch.manual_seed(0)
    return PatchDiscriminator(**{"width": 8, **settings})


def _pixels(batch: int, frames: int = 1, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(batch, 3, frames, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_a_clip_is_scored_frame_by_frame():
    discriminator, clip = _discriminator(), _pixels(2, frames=3)
    single = torch.cat([discriminator(clip[:, :, i : i + 1]) for i in range(3)], dim=1)
    torch.testing.assert_close(discriminator(clip), single)


def test_a_picture_scores_the_same_alone_and_in_any_batch_and_mode():
    discriminator, pixels = _discriminator(), _pixels(4)
    alone = discriminator(pixels[2:3])
    torch.testing.assert_close(discriminator(pixels)[2:3], alone)
    torch.testing.assert_close(discriminator.eval()(pixels)[2:3], alone)


def test_nothing_but_parameters_is_kept_so_that_processes_need_no_synchronizing():
    assert not list(_discriminator().buffers())


@pytest.mark.parametrize(("num_layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_score_sees_a_patch_of_the_stated_size(num_layers, patch):
    # Group normalization looks at the whole picture on purpose; the patch is what the convolutions see.
    discriminator = _discriminator(num_layers=num_layers)
    for module in discriminator.modules():
        if isinstance(module, torch.nn.GroupNorm):
            module.forward = lambda hidden: hidden
    pixels = _pixels(1, side=128).requires_grad_()
    scores = discriminator(pixels)
    scores[0, 0, scores.shape[2] // 2, scores.shape[3] // 2].backward()
    rows = pixels.grad[0, :, 0].abs().amax(dim=(0, 2)).nonzero().flatten()
    assert rows[-1] - rows[0] + 1 == patch


def test_the_published_size_is_the_default():
    default = PatchDiscriminator()
    assert [tuple(layer.weight.shape) for layer in default.layers if isinstance(layer, torch.nn.Conv2d)] == [
        (64, 3, 4, 4),
        (128, 64, 4, 4),
        (256, 128, 4, 4),
        (512, 256, 4, 4),
        (1, 512, 4, 4),
    ]


def test_losses_equal_their_definition():
    real, fake = torch.tensor([2.0, 0.5, -1.0]), torch.tensor([-2.0, 0.5, 0.0])
    assert discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5 + 2) / 3 + (0 + 1.5 + 1) / 3) / 2)
    assert adversarial_loss(fake).item() == pytest.approx(0.5)
    assert discriminator_loss(torch.zeros(3), torch.zeros(3)).item() == 1.0
    assert discriminator_loss(torch.full((3,), 1.5), torch.full((3,), -1.5)).item() == 0.0


def test_training_tells_two_kinds_of_pictures_apart_and_the_tokenizer_learns_to_pass():
    discriminator = _discriminator()
    bright, dark = _pixels(4) * 0.3 + 0.5, _pixels(4, seed=1) * 0.3 - 0.5
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=2e-3)
    for _ in range(30):
        optimizer.zero_grad()
        discriminator_loss(discriminator(bright), discriminator(dark)).backward()
        optimizer.step()
    with torch.no_grad():
        assert discriminator_loss(discriminator(bright), discriminator(dark)) < 0.3
    moved = dark.clone().requires_grad_()
    gradient = torch.autograd.grad(adversarial_loss(discriminator(moved)), moved)[0]
    with torch.no_grad():
        assert adversarial_loss(discriminator(moved - 0.05 * gradient.sign())) < adversarial_loss(discriminator(moved))


def test_scores_are_float32_under_autocast():
    with torch.autocast("cpu", torch.bfloat16):
        assert _discriminator()(_pixels(1)).dtype == torch.float32


def test_a_picture_below_the_smallest_side_is_refused_and_at_it_is_scored():
    discriminator = _discriminator()
    assert discriminator(_pixels(1, side=24)).shape == (1, 1, 1, 1)
    with pytest.raises(GenrefineError, match="24 pixels a side or more"):
        discriminator(_pixels(1, side=23))


@pytest.mark.parametrize("settings", [{"width": 0}, {"num_layers": 0}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(GenrefineError, match="at least 1"):
        PatchDiscriminator(**settings)
