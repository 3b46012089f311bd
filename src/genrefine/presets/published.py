"""The published recipes at their published sizes (arXiv 2604.13030, section 4 and appendix).

Nobody here has run them: there was no accelerator and no ImageNet. They are the real configuration of the same code
that trains the small models, and their networks have the published number of weights.
"""

from genrefine.experiments.settings import (
    DataSettings,
    RefinerLoss,
    RefinerRun,
    RefinerSettings,
    SamplerDefaults,
    TokenizerLoss,
    TokenizerRun,
    TokenizerSettings,
)
from genrefine.training.settings import TrainingSettings


def image_tokenizer() -> TokenizerRun:
    """Return the image tokenizer of stride 16, d = 16, M = 4: 703 M parameters.

    Command: ``accelerate launch -m genrefine train image-tokenizer --set data.source=IMAGES --out DIR``
    Cost: not measured here. Published: rFID 0.56, LPIPS 0.13, SSIM 0.71 on ImageNet-256.
    The learning rate, batch size and number of steps are ours; the paper gives loss weights, optimizer and EMA.
    """
    return TokenizerRun(
        data=DataSettings(source="", size=256, label_column=""),
        tokenizer=TokenizerSettings(latent_dim=16, rounds=4),
        loss=TokenizerLoss(pixel=1.0, perceptual=1.0, adversarial=0.3),
        training=TrainingSettings(
            num_steps=500_000,
            batch_size=64,
            learning_rate=1e-4,
            warmup_steps=1000,
            clip_norm=1.0,
            ema_decay=0.9999,
            mixed_precision="no",
            gradient_checkpointing=True,
            num_workers=8,
            save_every=5000,
            preview_every=5000,
        ),
    )


def class_refiner() -> RefinerRun:
    """Return the class-to-image refiner of size B, 131 M parameters, with the published recipe for ImageNet-256.

    Command: ``accelerate launch -m genrefine train class-refiner --set data.source=IMAGENET --set tokenizer=DIR
    --out DIR``
    Cost: not measured here. Published: FID 3.56 at 50 steps, temperature 1.31, guidance 2.35 in (0.44, 1).
    Rate: 5e-5 * batch / 256; 5 warm-up epochs of 1,251 updates, 600 epochs.
    """
    return RefinerRun(
        data=DataSettings(source="", size=256),
        refiner=RefinerSettings(),
        loss=RefinerLoss(signal_mean=-0.8, signal_std=0.8, label_dropout=0.1),
        sampler=SamplerDefaults(
            num_inference_steps=50,
            guidance_scale=2.35,
            guidance_interval=(0.44, 1.0),
            temperature=1.31,
            final_latents="drawn",
        ),
        training=TrainingSettings(
            num_steps=750_600,
            batch_size=1024,
            learning_rate=2e-4,
            warmup_steps=6255,
            clip_norm=0.1,
            ema_decay=0.9999,
            num_workers=8,
            save_every=5000,
            preview_every=5000,
        ),
    )
