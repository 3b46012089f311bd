"""Small text-conditional models: the shipped emoji model for stills and clips, and the same network for your own data.

The text encoder is any transformers encoder; the shipped model reads all-MiniLM-L6-v2 (384 channels, Apache-2.0).
"""

from dataclasses import replace

from genrefine.experiments.settings import (
    ClipSettings,
    DataSettings,
    SamplerDefaults,
    TextLoss,
    TextRefinerSettings,
    TextRun,
    TokenizerLoss,
    TokenizerRun,
)
from genrefine.presets.emoji import emoji_tokenizer
from genrefine.training.settings import TrainingSettings

EMOJI_STILLS = DataSettings(
    source="datasets/emoji",
    split="train",
    heldout="concept",
    label_column="class_name",
    caption_column="captions",
    balance="concept,style",
)
EMOJI_CLIPS = ClipSettings(
    source="datasets/emoji-clips",
    split="train",
    heldout="concept",
    label_column="class_name",
    caption_column="captions",
    share=0.2,
)
EMOJI_PROMPTS = (
    "fluent emoji of red heart; noto emoji of red heart; twemoji emoji of red heart; fluent emoji of thumbs up; "
    "noto emoji of thumbs up; fluent emoji of pizza; noto emoji of pizza; fluent emoji of dog face; "
    "noto emoji of dog face; fluent emoji of rocket; noto emoji of rocket; twemoji emoji of flag: Japan; "
    "noto emoji of flag: Japan; fluent emoji of grinning face; noto emoji of crying face; fluent emoji of cat face; "
    "a red heart; a heart; pizza; a dog; rocket; flag of Japan; a smiling face; a car; "
    "fluent emoji of blue heart; noto emoji of tree; fluent emoji of sun; noto emoji of moon; fluent emoji of apple; "
    "noto emoji of birthday cake; fluent emoji of house; noto emoji of clock"
)


def small_text() -> TextRun:
    """Return a text-conditional refiner for 64 x 64 pictures of your own, with captions: 13.5 M parameters.

    Command: ``genrefine train small-text --set data.source=FOLDER data.caption_column=text tokenizer=DIR/tokenizer
    text_encoder=MINILM --out DIR2``; clips as well with ``clips.source=VIDEOS clips.caption_column=text``.
    Cost and result depend on the pictures; `emoji_text` is this preset on emoji.
    """
    return TextRun(
        data=DataSettings(source="", caption_column="text"),
        clips=ClipSettings(caption_column="text"),
        refiner=TextRefinerSettings(),
        loss=TextLoss(),
        sampler=SamplerDefaults(num_inference_steps=50, guidance_scale=1.5, temperature=0.5),
        training=TrainingSettings(
            num_steps=6000,
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


def emoji_text() -> TextRun:
    """Return the text-conditional refiner of the shipped model, for stills, clips and first frames.

    Command: ``genrefine train emoji-text --set tokenizer=runs/clips-tokenizer/tokenizer text_encoder=MINILM
    --out runs/emoji-text``
    Cost: 89 minutes of one core with AMX, 2.2 seconds for an update of 64 stills or 13 clips. Expect a training loss of
    about 0.40 nats per bit. The shipped model went on from there for 1,550 updates, to 0.34 (`zoo/emoji/README.md`);
    `docs/measurements.md` has what samples show. MINILM is a folder of all-MiniLM-L6-v2.
    """
    base = small_text()
    return replace(
        base,
        data=EMOJI_STILLS,
        clips=EMOJI_CLIPS,
        preview=EMOJI_PROMPTS,
        loss=replace(base.loss, batching="padded"),
        training=replace(base.training, num_steps=2350),
    )


def emoji_clips_tokenizer() -> TokenizerRun:
    """Return the joint tokenizer of stills and clips, with temporal stride 4, for M = 3 and 4.

    Command: ``genrefine train emoji-clips-tokenizer --set tokenizer.start=runs/decoder/tokenizer
    --out runs/clips-tokenizer``
    Codes of stills change: the shortcuts of a stride over time average the first frame with an empty one, so encoder
    and decoder are trained anew. From a tokenizer that has its strides already, ``loss.train_encoder=temporal`` trains
    the encoder's convolutions over time alone and leaves the codes of stills as they are. Cost: 35 minutes, a second
    for an update of 32 stills or 6 clips. The shipped tokenizer took three runs (`zoo/emoji/README.md`), and without
    ``loss.motion`` the frames of a latent frame stood nearly still.
    """
    base = emoji_tokenizer()
    return replace(
        base,
        data=replace(base.data, only=""),
        clips=replace(EMOJI_CLIPS, share=0.65, batch_size=6),
        tokenizer=replace(base.tokenizer, rounds=3, temporal_downsample=(True, True)),
        loss=TokenizerLoss(rounds=(3, 4), perceptual=0.02, adversarial=0.0, motion=1.0),
        training=replace(base.training, num_steps=2000, learning_rate=1.2e-3, ema_decay=0.995),
    )
