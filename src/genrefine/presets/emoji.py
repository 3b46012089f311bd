"""Small models for one small machine: the shipped emoji models, and the same networks for pictures of your own.

The emoji pictures are in `datasets/emoji`; run those commands from a checkout, or set ``data.source``. The costs were
measured on one core of a two-core machine (AMD EPYC 9005, AVX-512, bf16 without AMX), which another job shared.
"""

from dataclasses import replace

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

EMOJI = DataSettings(
    source="datasets/emoji", split="train", heldout="concept", label_column="class_name", only="skin_tone="
)


def small_tokenizer() -> TokenizerRun:
    """Return a tokenizer for 64 x 64 pictures of your own: stride 8, d = 16, for M = 2, 3 and 4; 1.7 M parameters.

    Command: ``genrefine train small-tokenizer --set data.source=FOLDER --out DIR``
    Cost and result depend on the pictures; `emoji_tokenizer` is this preset on emoji.
    """
    return TokenizerRun(
        data=DataSettings(source=""),
        tokenizer=TokenizerSettings(
            latent_dim=16,
            rounds=4,
            encoder_width=32,
            decoder_width=48,
            channel_multipliers=(1, 2, 2),
            num_blocks=1,
            temporal_downsample=(False, False),
            temporal_kernel=1,
        ),
        loss=TokenizerLoss(rounds=(2, 3, 4), perceptual=0.0, adversarial=0.0),
        training=TrainingSettings(
            num_steps=2500,
            batch_size=32,
            optimizer="muon",
            learning_rate=1.5e-3,
            warmup_steps=100,
            decay="cosine",
            ema_decay=0.998,
            compile=True,
        ),
    )


def small_class() -> RefinerRun:
    """Return a class-conditional refiner for 64 x 64 pictures of your own: 12.4 M parameters, a class per subfolder.

    Command: ``genrefine train small-class --set data.source=FOLDER --set tokenizer=DIR/tokenizer --out DIR2``
    Cost and result depend on the pictures; `emoji_class` is this preset on emoji.
    """
    return RefinerRun(
        data=DataSettings(source=""),
        refiner=RefinerSettings(width=288, depth=8, num_heads=6, bottleneck=96, in_context_tokens=0),
        loss=RefinerLoss(),
        sampler=SamplerDefaults(num_inference_steps=50, guidance_scale=2.5, temperature=0.7),
        training=TrainingSettings(
            num_steps=3100,
            batch_size=64,
            optimizer="muon",
            learning_rate=1e-3,
            warmup_steps=200,
            decay="trapezoid",
            clip_norm=1.0,
            ema_decay=0.999,
            compile=True,
        ),
    )


def emoji_tokenizer() -> TokenizerRun:
    """Return a tokenizer of stills, the one that the shipped joint tokenizer of stills and clips began as.

    Command: ``genrefine train emoji-tokenizer --out runs/tokenizer``
    Cost: 16 minutes. Expect 26.4, 27.7, 28.1 dB PSNR at M = 2, 3, 4 on held-out concepts (mean over pictures).
    """
    return replace(small_tokenizer(), data=EMOJI)


def emoji_decoder() -> TokenizerRun:
    """Return the run that fits the decoder to M = 3 with the encoder, and so all codes, left as they are.

    Command: ``genrefine train emoji-decoder --set tokenizer.start=runs/tokenizer/tokenizer --out runs/decoder``
    Cost: 6 minutes. Expect 28.0 dB PSNR at M = 3 on held-out concepts, up from 27.7.
    """
    base = small_tokenizer()
    return replace(
        base,
        data=EMOJI,
        tokenizer=replace(base.tokenizer, rounds=3),
        loss=TokenizerLoss(perceptual=0.02, adversarial=0.0, train_encoder="false"),
        training=replace(base.training, num_steps=900, learning_rate=1e-3),
    )


def emoji_class() -> RefinerRun:
    """Return the class-conditional refiner of the shipped model: 27 classes, nine groups in three styles, M = 4.

    Command: ``genrefine train emoji-class --set tokenizer=runs/clips-tokenizer/tokenizer --out runs/emoji-class``
    Cost: 1 hour. Expect a training loss of about 0.44 nats per bit at M = 3 (the fourth round's bits are harder). The
    shipped model took several such runs (`zoo/emoji-class/README.md`); `docs/measurements.md` has the distances.
    """
    return replace(small_class(), data=EMOJI, flip=False, rounds=4)
