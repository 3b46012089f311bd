"""A code store gives back exactly what the tokenizer made, fast, and never from damaged files."""

import hashlib
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader

from genrefine.data import CodeStore, ImageSource
from genrefine.data import code_store as module
from genrefine.errors import GenrefineError
from genrefine.hbq import HBQ, pack_bits
from tiny_models import tiny_tokenizer


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> ImageSource:
    root = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(7):
        place = root / "ab"[number % 2] / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (8, 12, 3), dtype=np.uint8)).save(place)
    return ImageSource(root)


@pytest.fixture
def store(tmp_path: Path, source: ImageSource) -> CodeStore:
    # 3 bytes an item: two items in each file of codes but the last
    return CodeStore.create(tmp_path / "store", tiny_tokenizer(), source, batch_size=3, shard_bytes=7)


def pixels_of(source: ImageSource) -> torch.Tensor:
    return torch.stack([pixels for pixels, _ in source])


def test_items_are_the_tokenizers_codes_of_each_picture_and_its_mirror_image(store: CodeStore, source: ImageSource):
    tokenizer, pixels = tiny_tokenizer(), pixels_of(source)
    codes, labels = store.batch(range(len(store)))
    assert codes.dtype == torch.int32
    assert torch.equal(codes[0::2], tokenizer.encode(pixels))
    assert torch.equal(codes[1::2], tokenizer.encode(pixels.flip(-1)))
    assert labels.tolist() == [label for label in source.labels for _ in range(2)] == store.labels.tolist()
    assert store.names == source.names
    assert store.class_names == ("a", "b")


@pytest.mark.parametrize(("layout", "bits"), [("bit", 1), ("index", 2)])
def test_without_flips_an_item_is_a_picture_in_both_layouts(
    tmp_path: Path, source: ImageSource, layout: str, bits: int
):
    tokenizer = tiny_tokenizer(layout=layout)
    store = CodeStore.create(tmp_path / "store", tokenizer, source, flips=False)
    assert len(store) == len(source)
    assert torch.equal(store.batch(range(7))[0], tokenizer.encode(pixels_of(source)))
    assert (store.layout, store.rounds, store.bits_per_code, store.views) == (layout, 2, bits, 1)
    assert store.code_shape == (2 * 2 // bits, 1, 2, 3)
    assert store.bytes_per_item == 2 * 2 * 2 * 3 // 8
    assert store.tokenizer_fingerprint == tokenizer.fingerprint()


@settings(max_examples=40, deadline=None)
@given(
    rounds=st.integers(1, 16),
    layout=st.sampled_from(["bit", "index"]),
    shape=st.tuples(*[st.integers(1, 3)] * 3),
    num_items=st.integers(1, 9),
    shard_bytes=st.integers(1, 60),
    seed=st.integers(0, 2**31),
)
def test_any_codes_come_back_from_any_shards(rounds, layout, shape, num_items, shard_bytes, seed):
    hbq = HBQ(rounds, layout)
    generator = torch.Generator().manual_seed(seed)
    shape = (hbq.code_channels(2), *shape)
    codes = torch.randint(hbq.code_classes, (num_items, *shape), generator=generator, dtype=torch.int32)
    with tempfile.TemporaryDirectory() as folder:
        with module.new_store(Path(folder) / "store", shard_bytes) as writer:
            writer.add(pack_bits(codes[:2], hbq.bits_per_code).numpy())
            if num_items > 2:
                writer.add(pack_bits(codes[2:], hbq.bits_per_code).numpy())
            writer.finish(
                list(range(num_items)),
                ["x"] * num_items,
                tokenizer_fingerprint="f",
                rounds=rounds,
                layout=layout,
                code_shape=shape,
                views=1,
                class_names=["c"],
            )
        store = CodeStore.open(Path(folder) / "store")
        order = torch.randint(num_items, (13,), generator=generator)
        assert torch.equal(store.batch(order)[0], codes[order])
        assert store.batch(order)[1].tolist() == order.tolist()


def test_one_item_many_items_and_a_loader_agree(store: CodeStore):
    codes, labels = store.batch(range(len(store)))
    for i in (0, 5, 13, -1):
        assert torch.equal(store[i][0], codes[i])
        assert store[i][1] == labels[i]
    loaded = list(DataLoader(store, batch_size=4))
    assert torch.equal(torch.cat([c for c, _ in loaded]), codes)
    assert torch.equal(torch.cat([n for _, n in loaded]), labels)


def test_an_index_outside_is_refused(store: CodeStore):
    for index in (14, -15):
        with pytest.raises(IndexError, match=r"-14\.\.13"):
            store[index]
    assert len(list(store)) == 14


def test_a_pickled_store_reads_the_same_and_carries_no_codes(store: CodeStore):
    store[0]
    content = pickle.dumps(store)
    assert len(content) < 4000
    assert torch.equal(pickle.loads(content)[3][0], store[3][0])


def test_workers_share_a_store(store: CodeStore):
    serial = torch.cat([codes for codes, _ in DataLoader(store, batch_size=4)])
    workers = DataLoader(store, batch_size=4, num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([codes for codes, _ in workers]), serial)


def test_creating_draws_nothing_from_the_global_generator(tmp_path: Path, source: ImageSource):
    before = torch.random.get_rng_state()
    CodeStore.create(tmp_path / "store", tiny_tokenizer(), source)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_two_creations_write_the_same_bytes(tmp_path: Path, source: ImageSource):
    for name in ("one", "two"):
        CodeStore.create(tmp_path / name, tiny_tokenizer(), source, shard_bytes=9)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()


def test_a_store_of_another_tokenizer_is_refused_naming_both(store: CodeStore):
    mine, other = tiny_tokenizer().fingerprint(), tiny_tokenizer(seed=1).fingerprint()
    assert len(CodeStore.open(store.path, mine)) == 14
    with pytest.raises(GenrefineError, match=f"{mine[:12]}.*{other[:12]}"):
        CodeStore.open(store.path, other)


FILES = ["codes-00000.bin", "codes-00006.bin", "labels.bin", "names.json", "index.json"]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncated", "grown", "altered", "missing"])
def test_a_damaged_store_is_refused_in_one_line(store: CodeStore, file: str, damage: str):
    path = store.path / file
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[:-1])
    elif damage == "grown":
        path.write_bytes(content + b"x")
    else:
        # In the index a digit of a size is altered, so that the JSON stays valid.
        place = content.index(b'"num_pictures": 7') + 16 if file == "index.json" else len(content) // 2
        content[place] ^= 1
        path.write_bytes(content)
    with pytest.raises(GenrefineError) as error:
        CodeStore.open(store.path)
    assert "\n" not in str(error.value)
    assert file in str(error.value)


def test_a_large_store_is_checked_by_size_on_opening_and_wholly_by_verify(
    store: CodeStore, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "HASHED_ON_OPEN", 10)
    store.verify()
    path = store.path / "codes-00001.bin"
    path.write_bytes(bytes(b ^ 1 for b in path.read_bytes()))
    opened = CodeStore.open(store.path)
    with pytest.raises(GenrefineError, match=r"codes-00001\.bin' was altered"):
        opened.verify()
    path.write_bytes(b"")
    with pytest.raises(GenrefineError, match="must have 6 bytes; got 0"):
        CodeStore.open(store.path)


def test_verify_reports_progress(store: CodeStore):
    seen: list[tuple[int, int]] = []
    store.verify(lambda done, total: seen.append((done, total)))
    assert seen[-1][0] == seen[-1][1] == sum(file.num_bytes for file in store.index.files)


def test_a_store_of_another_version_is_refused(store: CodeStore):
    path = store.path / "index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": 99}))
    with pytest.raises(GenrefineError, match="must have version 1; got 99"):
        CodeStore.open(store.path)


@pytest.mark.parametrize("changes", [{"shard_items": 10**30}, {"views": 3}, {"rounds": 0}])
def test_numbers_of_no_sense_are_refused_although_their_digest_fits(store: CodeStore, changes: dict[str, int]):
    path = store.path / "index.json"
    content = json.loads(path.read_text())
    content["index"] |= changes
    content["sha256"] = hashlib.sha256(json.dumps(content["index"], sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(content))
    with pytest.raises(GenrefineError, match=r"makes no sense \(its numbers are no counts"):
        CodeStore.open(store.path)


def test_a_folder_that_is_no_store_is_refused(tmp_path: Path):
    with pytest.raises(GenrefineError, match="is no code store"):
        CodeStore.open(tmp_path)
    (tmp_path / "index.json").write_text('{"format": "something else"}')
    with pytest.raises(GenrefineError, match="cannot be read"):
        CodeStore.open(tmp_path)


class StoppedError(Exception):
    pass


def test_an_interrupted_creation_leaves_nothing(tmp_path: Path, source: ImageSource):
    def interrupt(done: int, total: int) -> None:
        if done == 6:
            raise StoppedError

    with pytest.raises(StoppedError):
        CodeStore.create(tmp_path / "store", tiny_tokenizer(), source, batch_size=3, progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# A process of its own: a fork of this one could wait for ever for the threads that torch has started here.
DIE_WHILE_CREATING = """
import os, sys
from genrefine.data import CodeStore, ImageSource
from tiny_models import tiny_tokenizer

CodeStore.create(sys.argv[2], tiny_tokenizer(), ImageSource(sys.argv[1]), batch_size=3, progress=lambda *_: os._exit(9))
"""


def test_a_killed_creation_leaves_no_store_that_opens_and_does_not_block_the_next(tmp_path: Path, source: ImageSource):
    command = [sys.executable, "-c", DIE_WHILE_CREATING, source.path, str(tmp_path / "store")]
    tests = str(Path(__file__).parents[1])
    died = subprocess.run(command, env={**os.environ, "PYTHONPATH": tests}, capture_output=True, text=True, timeout=300)
    assert died.returncode == 9, died.stderr
    (leftover,) = tmp_path.iterdir()
    for folder in (tmp_path / "store", leftover):
        with pytest.raises(GenrefineError, match="is no code store"):
            CodeStore.open(folder)
    strangers = leftover.with_name(".store.another-machine-1-abcd")
    strangers.mkdir()
    at_work = leftover.with_name(f"{leftover.name.rpartition('-')[0].rpartition('-')[0]}-{os.getpid()}-abcd")
    at_work.mkdir()
    assert len(CodeStore.create(tmp_path / "store", tiny_tokenizer(), source)) == 14
    # What the killed process left is gone; what may belong to somebody at work is not.
    assert sorted(tmp_path.iterdir()) == sorted([tmp_path / "store", strangers, at_work])


@pytest.mark.parametrize("failing_write", [1, 8, 10])
def test_a_full_disk_leaves_nothing_and_says_so(
    tmp_path: Path, source: ImageSource, monkeypatch: pytest.MonkeyPatch, failing_write: int
):
    count = 0

    def full(descriptor: int) -> None:
        nonlocal count
        count += 1
        if count == failing_write:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(GenrefineError, match=r"cannot write the code store .*No space left"):
        CodeStore.create(tmp_path / "store", tiny_tokenizer(), source, shard_bytes=7)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_flushed_leaves_nothing_either(tmp_path: Path, source: ImageSource):
    # A real limit of the system: the first codes stay in Python's buffer, and closing the file fails once more.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2, before[1]))
    try:
        with pytest.raises(GenrefineError, match=r"cannot write the code store .*large"):
            CodeStore.create(tmp_path / "store", tiny_tokenizer(), source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(store: CodeStore, source: ImageSource, tmp_path: Path):
    with pytest.raises(GenrefineError, match="exists already"):
        CodeStore.create(store.path, tiny_tokenizer(), source)
    store.verify()
    (tmp_path / "empty").mkdir()
    assert len(CodeStore.create(tmp_path / "empty", tiny_tokenizer(), source)) == 14


def test_a_path_below_a_file_is_refused(tmp_path: Path, source: ImageSource):
    (tmp_path / "file").write_text("")
    with pytest.raises(GenrefineError, match="cannot write the code store"):
        CodeStore.create(tmp_path / "file" / "store", tiny_tokenizer(), source)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_pictures_of_different_sizes_are_refused(tmp_path: Path, batch_size: int):
    for width in (4, 8):
        Image.new("RGB", (width, 4)).save(tmp_path / f"{width}.png")
    with pytest.raises(GenrefineError, match="must have one size"):
        CodeStore.create(tmp_path / "s", tiny_tokenizer(), ImageSource(tmp_path), batch_size=batch_size)
    assert not (tmp_path / "s").exists()


def test_a_corrupt_picture_is_named_and_no_store_remains(tmp_path: Path):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    (tmp_path / "good.png").write_bytes(stream.getvalue())
    (tmp_path / "torn.png").write_bytes(stream.getvalue()[:40])
    with pytest.raises(GenrefineError, match=r"torn\.png"):
        CodeStore.create(tmp_path / "s", tiny_tokenizer(), ImageSource(tmp_path))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("option", ["batch_size", "shard_bytes"])
def test_sizes_below_one_are_refused(tmp_path: Path, source: ImageSource, option: str):
    with pytest.raises(GenrefineError, match="at least 1"):
        CodeStore.create(tmp_path / "s", tiny_tokenizer(), source, **{option: 0})


def test_another_dtype_of_the_tokenizer_is_respected(tmp_path: Path, source: ImageSource):
    tokenizer = tiny_tokenizer().to(torch.bfloat16)
    store = CodeStore.create(tmp_path / "s", tokenizer, source, flips=False)
    assert torch.equal(store.batch(range(7))[0], tokenizer.encode(pixels_of(source).bfloat16()))
