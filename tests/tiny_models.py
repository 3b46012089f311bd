"""Real components so small that a test makes a picture in milliseconds."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from genrefine import ClassPipeline, ClassRefiner, RefinementSampler, TextPipeline, TextRefiner, VisualTokenizer

CLASS_NAMES = ["animals/noto", "animals/fluent", "flags/noto", "flags/fluent", "food/noto", "food/fluent"]
SAMPLER = {
    "num_inference_steps": 4,
    "guidance_scale": 2.0,
    "guidance_interval": (0.3, 1.0),
    "temperature": 0.9,
    "entropy_steps": {"warmup": 2, "slope": 40.0, "offset": -30.0, "min_steps": 3, "max_steps": 8},
}


def tiny_tokenizer(seed: int = 0, **changes: object) -> VisualTokenizer:
    """Return a tokenizer of stride 4 with 4 code channels of 2 classes."""
    config = {"latent_dim": 2, "rounds": 2, "encoder_width": 8, "decoder_width": 8, "num_blocks": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return VisualTokenizer(
            **{**config, "channel_multipliers": (1, 1), "temporal_downsample": (False,), **changes}
        ).eval()


def tiny_refiner(seed: int = 0, **changes: object) -> ClassRefiner:
    """Return a refiner for 16 x 16 pixels of `tiny_tokenizer`, with an opinion of its own."""
    config = {"code_channels": 4, "code_classes": 2, "grid": (4, 4), "num_classes": len(CLASS_NAMES), "width": 16}
    config |= {"depth": 2, "num_heads": 2, "bottleneck": 8, "in_context_tokens": 2, "in_context_start": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refiner = ClassRefiner(**{**config, **changes}).eval()
        for name, parameter in refiner.named_parameters():
            if "head" in name or "modulation" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        torch.nn.init.normal_(refiner.class_embedding.weight)
    return refiner


def tiny_pipeline(**sampler: object) -> ClassPipeline:
    """Return a pipeline of 16 x 16 pictures in six classes."""
    pipeline = ClassPipeline(
        tiny_refiner(), tiny_tokenizer(), RefinementSampler(**{**SAMPLER, **sampler}), list(CLASS_NAMES)
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


WORDS = ["a", "red", "blue", "heart", "dog", "rocket", "flag", "of", "japan", "thumbs", "up", "pizza"]


def tiny_text_encoder(kind: str = "bert", seed: int = 0) -> tuple[Any, Any]:
    """Return an encoder of 24 channels with random weights and its tokenizer: "bert" as MiniLM, or "umt5"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "bert":
            config = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
            return BertModel(BertConfig(vocab_size=32, **config)).eval(), _bert_tokenizer()
        sizes = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
        return UMT5EncoderModel(UMT5Config(vocab_size=48, **sizes)).eval(), _t5_tokenizer()


def _bert_tokenizer() -> Any:
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS, "##s", "##et"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


def _t5_tokenizer() -> Any:
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [("▁" + word, -2.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def tiny_clip_tokenizer(seed: int = 0, **changes: object) -> VisualTokenizer:
    """Return a tokenizer of stride 4 in space and 2 in time with 4 code channels of 2 classes."""
    return tiny_tokenizer(seed, **{"temporal_downsample": (True,), "temporal_kernel": 1, **changes})


def tiny_text_refiner(seed: int = 0, **changes: object) -> TextRefiner:
    """Return a refiner of `tiny_clip_tokenizer`'s codes and `tiny_text_encoder`'s embeddings."""
    config = {"code_channels": 4, "code_classes": 2, "text_channels": 24, "width": 24, "depth": 2, "num_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        refiner = TextRefiner(**{**config, "mlp_width": 32, **changes}).eval()
        for parameter in refiner.parameters():
            if parameter.ndim == 2:
                torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        torch.nn.init.normal_(refiner.text_embedding.weight, std=0.5)
    return refiner


def tiny_text_pipeline(
    kind: str = "bert", attention: str = "joint", tokenizer: object = None, **sampler: object
) -> TextPipeline:
    """Return a pipeline of 16 x 16 stills and clips of 1 + 2k frames."""
    parts = tiny_text_refiner(attention=attention), tokenizer or tiny_clip_tokenizer()
    settings = RefinementSampler(**{**SAMPLER, **sampler})
    pipeline = TextPipeline(*parts, settings, *tiny_text_encoder(kind), height=16, width=16)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
