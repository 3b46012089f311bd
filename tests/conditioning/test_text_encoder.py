"""Text encoders: real transformers encoders with random weights, and tokenizers built here."""

import json
import warnings

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, CanineTokenizer, PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel
from transformers import UMT5ForConditionalGeneration as UMT5Whole

from genrefine.conditioning.text_encoder import TextEncoder, readable_prompt
from genrefine.errors import GenrefineError
from tiny_models import tiny_text_encoder

WORDS = ["a", "red", "blue", "heart", "dog", "rocket", "flag", "of", "japan", "thumbs", "up", "pizza"]


def t5_tokenizer():
    """Cut words at spaces, as umT5 does, and close with an end token."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)] + [("▁" + word, -2.0) for word in WORDS]
    pieces += [(letter, -6.0) for letter in "▁abcdefghijklmnopqrstuvwxyz"]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


def bert_tokenizer():
    vocabulary = {word: i for i, word in enumerate(["[PAD]", "[CLS]", "[SEP]", "[UNK]", *WORDS, "##s", "##et"])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")


UMT5 = {"vocab_size": 48, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
BERT = {"vocab_size": 32, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}


def build(model_class, config):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return model_class(config)


@pytest.fixture(scope="module")
def umt5():
    return TextEncoder(build(UMT5EncoderModel, UMT5Config(**UMT5)), t5_tokenizer())


@pytest.fixture
def fresh():
    return TextEncoder(build(UMT5EncoderModel, UMT5Config(**UMT5)), t5_tokenizer(), max_tokens=6, cache_size=2)


def count_runs(encoder):
    runs = []
    encoder.model.register_forward_pre_hook(
        lambda _model, _arguments, named: runs.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    return runs


def test_one_embedding_per_token_and_none_for_padding(umt5):
    heart, flag = umt5.encode(["a red heart", "flag of japan up"], batch_size=2)
    assert heart.shape == (4, 16) == (4, umt5.channels)  # three words and the end
    assert flag.shape == (5, 16)
    assert not heart.requires_grad


def test_embeddings_are_the_last_hidden_states_of_the_encoder(umt5):
    ids = torch.tensor([t5_tokenizer()("red heart")["input_ids"]])
    with torch.no_grad():
        expected = umt5.model(input_ids=ids).last_hidden_state[0]
    assert torch.equal(umt5.encode(["red heart"])[0], expected)


def test_a_batch_gives_the_same_embeddings_up_to_rounding(umt5):
    prompts = ["red", "a blue dog", "thumbs up pizza flag of japan", ""]
    alone = [TextEncoder(umt5.model, umt5.tokenizer).encode([prompt])[0] for prompt in prompts]
    together = TextEncoder(umt5.model, umt5.tokenizer).encode(prompts, batch_size=4)
    one_by_one = TextEncoder(umt5.model, umt5.tokenizer).encode(prompts)
    for single, batched, listed in zip(alone, together, one_by_one, strict=True):
        torch.testing.assert_close(batched, single, atol=1e-5, rtol=1e-5)
        assert torch.equal(listed, single)


def test_the_empty_prompt_is_null_whatever_the_spaces(umt5):
    condition = umt5.condition(["red heart", "", "  \n"])
    assert condition.rows[1:] == condition.null_rows[1:] == (condition.null_rows[0],) * 2
    assert condition.lengths == (3, 1, 1)


def test_negative_prompts_stand_in_for_null(umt5):
    shared = umt5.condition(["red heart", "dog"], "blue")
    single = umt5.condition(["red heart", "dog"], ["blue", "pizza up"])
    assert shared.null().lengths == (2, 2)
    assert single.null().lengths == (2, 3)
    assert torch.equal(single.prompts.tokens(single.null_rows[1]), umt5.encode(["pizza up"])[0])


def test_first_frames_go_into_the_condition(umt5):
    frames = torch.zeros(1, 4, 1, 2, 2, dtype=torch.int32)
    assert umt5.condition(["dog"], first_frames=frames).first_frames[0].shape == (4, 1, 2, 2)


def test_a_known_prompt_is_not_encoded_again_until_newer_ones_push_it_out(fresh):
    runs = count_runs(fresh)
    first = fresh.encode(["red", "blue", "red"])
    assert first[0] is first[2]
    assert len(runs) == 2
    assert fresh.encode(["red"])[0] is first[0]
    fresh.encode(["dog"])  # blue is the oldest now
    assert fresh.encode(["red"])[0] is first[0]
    assert len(runs) == 3
    assert fresh.encode(["blue"])[0] is not first[1]
    assert len(runs) == 4


def test_a_cast_encoder_does_not_answer_from_its_old_memory(fresh):
    before = fresh.encode(["red"])[0]
    fresh.model.to(torch.bfloat16)
    after = fresh.encode(["red"])[0]
    assert after.dtype == torch.float32
    assert not torch.equal(before, after)


def test_no_cache_keeps_nothing(umt5):
    encoder = TextEncoder(umt5.model, umt5.tokenizer, cache_size=0)
    assert torch.equal(encoder.encode(["red"])[0], encoder.encode(["red"])[0])
    assert not encoder._cache


def test_words_beyond_the_limit_are_dropped_and_named(fresh):
    with pytest.warns(UserWarning, match=r"up to 6 tokens; got 10; dropped 4 words: japan thumbs up pizza$"):
        long = fresh.encode(["a red heart flag of japan thumbs up pizza"])[0]
    assert torch.equal(long, fresh.encode(["a red heart flag of"])[0])


def test_a_word_cut_in_half_counts_as_dropped(fresh):
    with pytest.warns(UserWarning, match="dropped 1 words: xyz$"):
        fresh.encode(["a red heart xyz"])


def test_ten_thousand_words_give_one_line(fresh):
    with pytest.warns(UserWarning, match="dropped 9995 words") as caught:
        assert len(fresh.encode(["dog " * 10_000])[0]) == 6
    assert len(caught) == 1
    message = str(caught[0].message)
    assert message.endswith(" ...")
    assert len(message) < 220


def test_a_tokenizer_without_offsets_names_what_it_drops():
    class Slow:
        def __init__(self):
            self.inner = CanineTokenizer()
            self.is_fast, self.model_max_length = False, 2048
            self.all_special_ids, self.pad_token_id = self.inner.all_special_ids, 0

        def __call__(self, text, **options):
            return self.inner(text, **options)

        def num_special_tokens_to_add(self):
            return self.inner.num_special_tokens_to_add()

        def decode(self, ids):
            return "".join(map(chr, ids))

    encoder = TextEncoder(build(BertModel, BertConfig(**{**BERT, "vocab_size": 60_000})), Slow(), max_tokens=8)
    with pytest.warns(UserWarning, match="got 12; dropped 2 words: ar t$"):
        assert len(encoder.encode(["red hear t"])[0]) == 8


def test_the_limit_is_never_more_than_the_encoder_can_read():
    model = build(BertModel, BertConfig(**BERT, max_position_embeddings=10))
    encoder = TextEncoder(model, bert_tokenizer())
    assert encoder.max_tokens == 10
    with pytest.warns(UserWarning, match="up to 10 tokens; got 14"):
        assert len(encoder.encode([" ".join(WORDS)])[0]) == 10


@pytest.mark.parametrize("kind", ["umt5", "whole umt5", "bert"])
def test_any_encoder_loads_from_its_folder(kind, tmp_path):
    if kind == "bert":
        model, tokenizer = build(BertModel, BertConfig(**BERT)), bert_tokenizer()
    else:
        model_class = UMT5EncoderModel if kind == "umt5" else UMT5Whole
        model, tokenizer = build(model_class, UMT5Config(**UMT5)), t5_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded = TextEncoder.from_pretrained(str(tmp_path), local_files_only=True)
    encoder = model.encoder if kind == "whole umt5" else model
    ids = torch.tensor([tokenizer("red rocket")["input_ids"]])
    with torch.no_grad():
        expected = encoder.eval()(input_ids=ids).last_hidden_state[0]
    torch.testing.assert_close(loaded.encode(["red rocket"])[0], expected, atol=1e-6, rtol=1e-6)
    assert loaded.channels == expected.shape[1]
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())


def test_an_encoder_with_missing_weights_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    build(UMT5EncoderModel, UMT5Config(**UMT5)).save_pretrained(tmp_path)
    t5_tokenizer().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("encoder.block.1.layer.1.DenseReluDense.wo.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(GenrefineError, match=r"missing: encoder\.block\.1\.layer\.1\.DenseReluDense\.wo"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_a_missing_encoder_is_one_line(tmp_path):
    with pytest.raises(GenrefineError, match="no text encoder at") as error:
        TextEncoder.from_pretrained(str(tmp_path / "nowhere"), local_files_only=True)
    assert "\n" not in str(error.value)


def test_an_encoder_of_endless_layers_is_refused_before_it_is_built(tmp_path):
    encoder, tokenizer = tiny_text_encoder()
    for part in (encoder, tokenizer):
        part.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 10**30}))
    with pytest.raises(GenrefineError, match=r"num_hidden_layers must be at most 1024, got 1e\+30"):
        TextEncoder.from_pretrained(str(tmp_path))


def test_what_is_no_prompt_is_refused(umt5):
    with pytest.raises(GenrefineError, match=r"control character U\+0007 at position 3"):
        umt5.encode(["red\x07"])
    with pytest.raises(GenrefineError, match=r"U\+D800"):
        readable_prompt("\ud800")
    with pytest.raises(GenrefineError, match="put it into a list"):
        umt5.encode("red")
    with pytest.raises(GenrefineError, match="one negative prompt per prompt; got 2 for 1"):
        umt5.condition(["red"], ["a", "b"])
    for limits in ({"max_tokens": 0}, {"cache_size": -1}):
        with pytest.raises(GenrefineError, match="max_tokens must be at least 1"):
            TextEncoder(umt5.model, umt5.tokenizer, **limits)
    assert readable_prompt(" tabs\tand\nlines ") == "tabs\tand\nlines"


def test_ordinary_prompts_warn_about_nothing(umt5):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        umt5.encode(["thumbs up", "flag of japan", "🚀 ракета"])
