"""The settings of a run: data, network, loss and training, one frozen group each."""

from dataclasses import dataclass, field
from typing import Any, Literal

from genrefine.errors import GenrefineError
from genrefine.resolutions import ASPECT_RATIOS
from genrefine.training.ranges import check_ranges, number
from genrefine.training.settings import TrainingSettings
from genrefine.training.tokenizer_parts import Trained


@dataclass(frozen=True)
class DataSettings:
    """Say which pictures are used.

    Args:
        source: image folder, parquet file or folder, or Hugging Face data set.
        split: split of the data set; empty for all of it.
        heldout: split that previews show and that is never trained on; empty shows pictures of ``split``.
        size: height and width in pixels; pictures are center-cropped and resized to it.
        buckets: aspect ratios, height over width, of which each picture takes the nearest: numbers separated by commas
            ("0.5,1,2") or "published" for the 15 of the released models. Every bucket has about ``size`` x ``size``
            pixels. Empty crops all pictures to squares. For text refiners.
        image_column, label_column: where a table keeps pictures and class names; ignored for image folders. An empty
            ``label_column`` means ``class_name`` or ``label``, whichever there is.
        caption_column: where captions are kept, one or a list of them; several columns separated by commas.
        only: ``column=value`` pairs, comma-separated; rows must match all of them (``skin_tone=`` keeps base pictures).
        balance: columns, comma-separated; pictures that agree in all of them take turns and count as one picture
            (``concept,style`` shows a hand in six skin tones as often as a hand in one). Empty shows all equally often.
        on_error: "raise" stops at a file that is no picture, "skip" leaves it out and says so.
    """

    source: str
    split: str = ""
    heldout: str = ""
    size: int = number(64, at_least=1, at_most=8192)
    buckets: str = ""
    image_column: str = "image"
    label_column: str = ""
    caption_column: str = ""
    only: str = ""
    balance: str = ""
    on_error: Literal["raise", "skip"] = "raise"

    def __post_init__(self) -> None:
        check_ranges(self, "data")

    def where(self) -> dict[str, str]:
        """Return ``only`` as a mapping."""
        return _where(self.only, "data.only")

    def aspect_ratios(self) -> tuple[float, ...]:
        """Return ``buckets`` as numbers.

        Raises:
            GenrefineError: they are none.
        """
        if self.buckets.strip() == "published":
            return ASPECT_RATIOS
        try:
            return tuple(float(ratio) for ratio in self.buckets.split(",") if ratio.strip())
        except ValueError:
            raise GenrefineError(
                f"data.buckets must be aspect ratios such as 0.5,1,2 or 'published'; got {self.buckets!r}"
            ) from None


@dataclass(frozen=True)
class ClipSettings:
    """Say which clips are used beside the pictures.

    Args:
        source: folder of videos, parquet file or folder, or Hugging Face data set; empty for no clips.
        split, heldout: as in `DataSettings`.
        num_frames: frames of a clip, 1 + n temporal strides of the tokenizer.
        size: height and width in pixels.
        frames_per_second: rate that clips are brought to; 0 takes frames as they are.
        video_column, caption_column, label_column: where a table keeps videos, captions and class names.
        only, on_error: as in `DataSettings`.
        share: share of the micro-batches that hold clips.
        batch_size: clips per update; 0 for as many as give the tokens of a batch of pictures.
    """

    source: str = ""
    split: str = ""
    heldout: str = ""
    num_frames: int = number(17, at_least=1, at_most=10_000)
    size: int = number(64, at_least=1, at_most=8192)
    frames_per_second: float = number(0.0, at_least=0, at_most=1000)
    video_column: str = "video"
    caption_column: str = ""
    label_column: str = ""
    only: str = ""
    on_error: Literal["raise", "skip"] = "raise"
    share: float = number(0.25, above=0, below=1)
    batch_size: int = number(0, at_least=0, at_most=10**6)

    def __post_init__(self) -> None:
        check_ranges(self, "clips")

    def where(self) -> dict[str, str]:
        """Return ``only`` as a mapping."""
        return _where(self.only, "clips.only")


def _where(only: str, name: str) -> dict[str, str]:
    pairs = [pair.partition("=") for pair in only.split(",") if pair]
    wrong = [column for column, equals, _ in pairs if not equals or not column.strip()]
    if wrong:
        raise GenrefineError(f"{name} must be column=value pairs; got {wrong[0]!r}")
    return {column.strip(): value.strip() for column, _, value in pairs}


@dataclass(frozen=True)
class TokenizerSettings:
    """Arguments of `genrefine.VisualTokenizer`, and a model to start from.

    ``start`` names a tokenizer, a pipeline or a shipped model, whose weights are taken where names and shapes agree;
    what is not taken is reported.
    """

    latent_dim: int = number(16, at_least=1, at_most=4096)
    rounds: int = number(4, at_least=1, at_most=16)
    layout: Literal["bit", "index"] = "bit"
    encoder_width: int = number(160, at_least=1, at_most=2**16)
    decoder_width: int = number(256, at_least=1, at_most=2**16)
    channel_multipliers: tuple[int, ...] = number((1, 2, 4, 4), at_least=1, at_most=64)
    num_blocks: int = number(2, at_least=1, at_most=64)
    temporal_downsample: tuple[bool, ...] = (False, True, True)
    temporal_kernel: int = number(3, at_least=1, at_most=15)
    encoder_outputs: int = number(1, at_least=1, at_most=2)
    bounded: bool = True
    start: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, "tokenizer")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network."""
        return {name: value for name, value in vars(self).items() if name != "start"}


@dataclass(frozen=True)
class TokenizerLoss:
    """Weights of the three terms, see `genrefine.training.tokenizer_task`.

    Args:
        rounds: HBQ rounds to draw from at each update; empty for the tokenizer's own.
        pixel, perceptual, adversarial: weights; 0 leaves a term and its cost out.
        motion: weight of the differences of neighboring frames of clips (ours, not published).
        discriminator_width, discriminator_layers: size of the PatchGAN.
        extractor: "efficientnet-lite0", or the path of an exported feature extractor (``.pt2``).
        train_encoder: "false" trains the decoder alone, so that codes stay valid; "temporal" trains the encoder's
            convolutions over time alone: with ``temporal_kernel=1`` a picture never meets them, and its codes stay.
        train_decoder: the same for the decoder.
        flip: mirror every other picture.
    """

    rounds: tuple[int, ...] = number((), at_least=1, at_most=16)
    pixel: float = number(1.0, at_least=0, at_most=10**6)
    perceptual: float = number(1.0, at_least=0, at_most=10**6)
    adversarial: float = number(0.3, at_least=0, at_most=10**6)
    motion: float = number(0.0, at_least=0, at_most=10**6)
    discriminator_width: int = number(64, at_least=1, at_most=2**16)
    discriminator_layers: int = number(3, at_least=1, at_most=16)
    extractor: str = "efficientnet-lite0"
    train_encoder: Trained = "true"
    train_decoder: Trained = "true"
    flip: bool = True

    def __post_init__(self) -> None:
        check_ranges(self, "loss")


@dataclass(frozen=True)
class RefinerSettings:
    """Arguments of `genrefine.ClassRefiner` that the data and the tokenizer do not decide, and a model to start from.

    ``start`` names a refiner, a pipeline or a shipped model, whose weights are taken where names and shapes agree; what
    is not taken is reported. Classes keep their weights by name; new ones start as the null class. Bit codes of other
    rounds keep the weights of the rounds that both know.
    """

    width: int = number(768, at_least=1, at_most=2**16)
    depth: int = number(12, at_least=1, at_most=1024)
    num_heads: int = number(12, at_least=1, at_most=1024)
    bottleneck: int = number(128, at_least=1, at_most=2**16)
    in_context_tokens: int = number(32, at_least=0, at_most=4096)
    in_context_start: int = number(4, at_least=0, at_most=1024)
    mlp_ratio: float = number(4.0, above=0, at_most=64)
    start: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, "refiner")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network."""
        return {name: value for name, value in vars(self).items() if name != "start"}


@dataclass(frozen=True)
class RefinerLoss:
    """Say how codes are corrupted and labels dropped.

    Args:
        signal_mean, signal_std: the signal is the sigmoid of a normal variable with these.
        signal_shift: moves the signal towards noise; 1 for none.
        label_dropout: share of labels replaced by the null class.
    """

    signal_mean: float = number(-0.8, at_least=-100, at_most=100)
    signal_std: float = number(0.8, at_least=0, at_most=100)
    signal_shift: float = number(1.0, above=0, at_most=10**6)
    label_dropout: float = number(0.1, at_least=0, at_most=1)

    def __post_init__(self) -> None:
        check_ranges(self, "loss")


@dataclass(frozen=True)
class TextRefinerSettings:
    """Arguments of `genrefine.TextRefiner` that tokenizer and text encoder do not decide, and a model to start from.

    ``start`` names a refiner, a pipeline or a shipped model, whose weights are taken where names and shapes agree; what
    is not taken is reported. Bit codes of other rounds keep the weights of the rounds that both know.
    """

    width: int = number(320, at_least=1, at_most=2**16)
    depth: int = number(8, at_least=1, at_most=1024)
    num_heads: int = number(5, at_least=1, at_most=1024)
    mlp_width: int = number(1280, at_least=1, at_most=2**18)
    num_kv_heads: int | None = number(None, at_least=1, at_most=1024)
    attention: Literal["joint", "prefix"] = "joint"
    start: str = ""

    def __post_init__(self) -> None:
        check_ranges(self, "refiner")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of the network."""
        return {name: value for name, value in vars(self).items() if name != "start"}


@dataclass(frozen=True)
class TextLoss:
    """Say how codes are corrupted, captions drawn and samples weighted; see `genrefine.training.text_refiner_task`.

    Args:
        signal_mean, signal_std: the signal is the sigmoid of a normal variable with these.
        signal_shift: moves the signal towards noise; 1 for none.
        caption_dropout: share of captions replaced by the empty prompt.
        first_caption_share: share of draws that take the first of several captions.
        first_frame_share: share of clips whose first frame is given (image-to-video).
        token_exponent: a sample's weight is its number of predicted tokens to this power.
        signal: what the network is told, "nominal" or, as in the published joint models, "realized": the share of the
            codes that were really kept.
        batching: "packed" or "padded", see `genrefine.refiner.packing`.
    """

    signal_mean: float = number(-1.3, at_least=-100, at_most=100)
    signal_std: float = number(1.3, at_least=0, at_most=100)
    signal_shift: float = number(1.0, above=0, at_most=10**6)
    caption_dropout: float = number(0.1, at_least=0, at_most=1)
    first_caption_share: float = number(0.5, at_least=0, at_most=1)
    first_frame_share: float = number(0.25, at_least=0, at_most=1)
    token_exponent: float = number(0.5, at_least=-10, at_most=10)
    signal: Literal["nominal", "realized"] = "nominal"
    batching: Literal["packed", "padded"] = "packed"

    def __post_init__(self) -> None:
        check_ranges(self, "loss")


@dataclass(frozen=True)
class LoraSettings:
    """Train an adapter beside the frozen weights of ``refiner.start``; see `genrefine.refiner.adapter`.

    Args:
        rank: of the factors; 0 trains the weights themselves.
        scale: what the product of the factors is multiplied by.
        parts: "blocks" adapts every linear layer of the blocks, "attention" those of attention only.
    """

    rank: int = number(0, at_least=0, at_most=2**16)
    scale: float = number(1.0, at_least=-(10**6), at_most=10**6)
    parts: Literal["attention", "blocks"] = "blocks"

    def __post_init__(self) -> None:
        check_ranges(self, "lora")
        if not self.scale:
            raise GenrefineError("lora.scale must not be 0, which would leave the adapter without effect; got 0")
        if not self.rank and (self.scale, self.parts) != (1.0, "blocks"):
            raise GenrefineError("lora.scale and lora.parts need an adapter; set lora.rank, 8 for instance")


@dataclass(frozen=True)
class SamplerDefaults:
    """Sampling defaults that are saved with the trained pipeline; see `genrefine.RefinementSampler`."""

    num_inference_steps: int = number(50, at_least=1, at_most=10**6)
    guidance_scale: float = number(2.35, at_least=-1000, at_most=1000)
    guidance_interval: tuple[float, float] = number((0.0, 1.0), at_least=0, at_most=1)
    temperature: float = number(1.0, above=0, at_most=10**6)
    kernel: Literal["refresh", "exact"] = "refresh"
    final_latents: Literal["drawn", "expected"] = "expected"

    def __post_init__(self) -> None:
        check_ranges(self, "sampler")


@dataclass(frozen=True)
class TokenizerRun:
    """Everything about the training of a tokenizer."""

    data: DataSettings = field(default_factory=lambda: DataSettings(source=""))
    clips: ClipSettings = ClipSettings()
    tokenizer: TokenizerSettings = TokenizerSettings()
    loss: TokenizerLoss = TokenizerLoss()
    training: TrainingSettings = field(default_factory=TrainingSettings)


@dataclass(frozen=True)
class RefinerRun:
    """Everything about the training of a class-conditional refiner.

    Args:
        tokenizer: folder of a trained tokenizer.
        rounds: HBQ rounds of the codes; 0 for the tokenizer's own.
        codes: "store" encodes all pictures once into a code store beside OUT, ``OUT-codes``; "pixels" encodes each
            batch as it comes.
        flip: keep each picture and its mirror image.
    """

    data: DataSettings = field(default_factory=lambda: DataSettings(source=""))
    tokenizer: str = ""
    rounds: int = number(0, at_least=0, at_most=16)
    codes: Literal["store", "pixels"] = "store"
    flip: bool = True
    refiner: RefinerSettings = RefinerSettings()
    lora: LoraSettings = LoraSettings()
    loss: RefinerLoss = RefinerLoss()
    sampler: SamplerDefaults = SamplerDefaults()
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(frozen=True)
class TextRun:
    """Everything about the training of a text-conditional refiner on pictures, clips or both.

    Args:
        data: pictures; an empty ``data.source`` trains on clips alone.
        clips: clips; an empty ``clips.source`` trains on pictures alone.
        tokenizer: folder of a trained tokenizer, with a temporal stride where there are clips.
        rounds: HBQ rounds of the codes; 0 for the tokenizer's own.
        text_encoder: folder or hub name of a transformers encoder.
        max_tokens: longest caption.
        flip: keep each sample and its mirror image; captions that name a side would then be wrong.
        preview: prompts of the preview sheet, separated by semicolons; empty shows captions of ``data.heldout``, or of
            the data where nothing is held out.
    """

    data: DataSettings = field(default_factory=lambda: DataSettings(source=""))
    clips: ClipSettings = ClipSettings()
    tokenizer: str = ""
    rounds: int = number(0, at_least=0, at_most=16)
    text_encoder: str = ""
    max_tokens: int = number(64, at_least=1, at_most=10**5)
    flip: bool = False
    preview: str = ""
    refiner: TextRefinerSettings = TextRefinerSettings()
    lora: LoraSettings = LoraSettings()
    loss: TextLoss = TextLoss()
    sampler: SamplerDefaults = SamplerDefaults()
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def __post_init__(self) -> None:
        check_ranges(self)
