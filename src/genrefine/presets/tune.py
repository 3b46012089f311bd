"""Fine-tuning: an adapter for a trained model, from few pictures, in minutes."""

from dataclasses import replace

from genrefine.experiments.settings import LoraSettings, RefinerRun, TextRun
from genrefine.presets.emoji import small_class
from genrefine.presets.emoji_text import small_text


def tune_class() -> RefinerRun:
    """Return an adapter of rank 8 for the shipped class model and your own classes, a class per subfolder.

    Command: ``genrefine train tune-class --set data.source=FOLDER --out DIR``
    Cost: five minutes of one core; the result is a folder of 1.7 MB. Expect a KID of 0.73 on Fashion-MNIST, from 1.04
    (`docs/fine-tune.md`). Another model needs ``tokenizer``, ``refiner.start`` and its sizes.
    """
    base = small_class()
    training = replace(
        base.training,
        num_steps=300,
        batch_size=32,
        optimizer="adamw",
        learning_rate=3e-3,
        warmup_steps=20,
        decay="constant",
        ema_decay=0.98,
        compile=False,
    )
    refiner = replace(base.refiner, start="emoji-class")
    lora = LoraSettings(rank=8)
    return replace(base, tokenizer="emoji-class", flip=False, refiner=refiner, lora=lora, training=training)


def tune_text() -> TextRun:
    """Return an adapter of rank 8 for a text model of the small size and captioned pictures, one style for instance.

    Command: ``genrefine train tune-text --set data.source=FOLDER data.caption_column=text tokenizer=MODEL
    refiner.start=MODEL text_encoder=MODEL/text_encoder --out DIR``
    Cost and result depend on the pictures; nothing was measured yet.
    """
    base = small_text()
    return replace(base, lora=LoraSettings(rank=8), training=tune_class().training)
