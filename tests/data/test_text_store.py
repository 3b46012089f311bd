"""Captions encoded once: what comes out is what the encoder says, and only of this encoder and these captions."""

from pathlib import Path

import pytest
import torch

from genrefine import GenrefineError
from genrefine.conditioning.text_encoder import TextEncoder
from genrefine.data.text_store import FILE, TextStore, encoder_fingerprint, table_of
from tiny_models import tiny_text_encoder

CAPTIONS = ["a red heart", "dog", "a red heart", "flag of japan", "  dog ", "thumbs up"]


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(*tiny_text_encoder())


@pytest.fixture(scope="module")
def folder(encoder: TextEncoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("texts") / "store"
    TextStore.create(folder, encoder, CAPTIONS, batch_size=2)
    return folder


def test_every_caption_has_the_embeddings_of_the_encoder_up_to_half_precision(
    encoder: TextEncoder, folder: Path
) -> None:
    store = TextStore.open(folder, encoder, CAPTIONS)
    assert store.channels == encoder.channels == 24
    for caption in ("", *CAPTIONS):
        expected = encoder.encode([caption])[0]
        found = store[store.row(caption)]
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=2e-3)


def test_the_first_row_is_the_empty_caption_and_equal_captions_share_a_row(encoder: TextEncoder, folder: Path) -> None:
    store = TextStore.open(folder, encoder, CAPTIONS)
    assert store.row("") == 0
    assert len(store) == len(table_of(CAPTIONS)) == len({store.row(caption) for caption in CAPTIONS}) + 1
    assert store.row(CAPTIONS[0]) == store.row(CAPTIONS[2]) == 1


def test_progress_ends_with_all_captions(encoder: TextEncoder, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    store = TextStore.create(
        tmp_path / "s", encoder, CAPTIONS, batch_size=3, progress=lambda done, total: calls.append((done, total))
    )
    assert calls[-1] == (len(store), len(store))
    assert [path.name for path in (tmp_path / "s").iterdir()] == [FILE]


def test_a_store_of_another_encoder_or_of_other_captions_is_refused(encoder: TextEncoder, folder: Path) -> None:
    other = TextEncoder(*tiny_text_encoder(seed=1))
    with pytest.raises(GenrefineError, match="made with another encoder: expected"):
        TextStore.open(folder, other, CAPTIONS)
    with pytest.raises(GenrefineError, match="made with another captions: expected"):
        TextStore.open(folder, encoder, [*CAPTIONS, "pizza"])
    with pytest.raises(GenrefineError, match="made with another captions"):
        TextStore.open(folder, encoder, list(reversed(CAPTIONS)))


def test_the_fingerprint_names_weights_vocabulary_and_limit_and_nothing_else() -> None:
    model, words = tiny_text_encoder()
    known = encoder_fingerprint(TextEncoder(model, words))
    words("a dog", padding="max_length", max_length=9, truncation=True)  # which the tokenizer remembers
    assert encoder_fingerprint(TextEncoder(model, words)) == known
    assert encoder_fingerprint(TextEncoder(model, words, max_tokens=7)) != known
    words.add_tokens(["moon"])
    assert encoder_fingerprint(TextEncoder(model, words)) != known
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert encoder_fingerprint(TextEncoder(model, tiny_text_encoder()[1])) != known


@pytest.mark.parametrize("kind", ["bert", "umt5"])
def test_every_kind_of_encoder_has_a_store(kind: str, tmp_path: Path) -> None:
    encoder = TextEncoder(*tiny_text_encoder(kind))
    store = TextStore.create(tmp_path / "s", encoder, ["a dog"])
    torch.testing.assert_close(store[store.row("a dog")], encoder.encode(["a dog"])[0], rtol=1e-3, atol=2e-3)


def test_missing_and_broken_stores_are_one_line(encoder: TextEncoder, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(GenrefineError, match="cannot read text store"):
        TextStore.open(tmp_path / "nowhere", encoder, CAPTIONS)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_bytes((folder / FILE).read_bytes()[:200])
    with pytest.raises(GenrefineError, match="remove it to encode anew"):
        TextStore.open(tmp_path / "broken", encoder, CAPTIONS)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GenrefineError, match="cannot write to"):
        TextStore.create(tmp_path / "file", encoder, CAPTIONS)


def test_embeddings_beyond_half_precision_are_refused(tmp_path: Path) -> None:
    model, words = tiny_text_encoder()
    with torch.no_grad():
        model.encoder.layer[-1].output.LayerNorm.bias.fill_(1e6)
    with pytest.raises(GenrefineError, match="float16's range"):
        TextStore.create(tmp_path / "s", TextEncoder(model, words), ["dog"])
    assert not (tmp_path / "s").exists()


def test_an_encoder_saved_without_its_pooler_is_the_same_one_every_time(tmp_path: Path) -> None:
    model, tokenizer = tiny_text_encoder()
    model.pooler = None  # nobody reads it; transformers would fill it with new random numbers at every start
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    first, second = (encoder_fingerprint(TextEncoder.from_pretrained(str(tmp_path))) for _ in range(2))
    assert first == second
