"""Published files are read without running their code; what is damaged, hostile or ambiguous is refused in one line."""

import argparse
import datetime
import json
import os
import struct
import zipfile
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

from genrefine.convert.checkpoint import pick_weights, read_checkpoint, weight_sets
from genrefine.convert.translation import build_exactly, translate
from genrefine.errors import GenrefineError
from genrefine.refiner import ClassRefiner

TINY = {"code_channels": 1, "code_classes": 2, "grid": (1, 1), "num_classes": 1, "width": 8, "depth": 1, "num_heads": 1}
TINY |= {"bottleneck": 2, "in_context_tokens": 0}


class Hostile:
    """Run a command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("as_archive", [True, False])
def test_a_hostile_pickle_is_refused_before_it_runs(tmp_path, as_archive):
    marker = tmp_path / "marker"
    arguments = argparse.Namespace(hidden=[Hostile(marker)])
    content = {"model": {"a": torch.ones(1)}, "args": arguments}
    torch.save(content, tmp_path / "a.pth", _use_new_zipfile_serialization=as_archive)
    with pytest.raises(GenrefineError, match=r"tensors and plain values only; a\.pth holds \w+\.system") as error:
        read_checkpoint(tmp_path / "a.pth")
    assert "\n" not in str(error.value)
    assert not marker.exists()
    torch.load(tmp_path / "a.pth", weights_only=False)
    assert marker.exists(), "the file must be hostile for the test to mean something"


def test_the_training_arguments_of_published_files_are_read(tmp_path):
    torch.save({"args": argparse.Namespace(method="GRN_bit")}, tmp_path / "a.pth")
    assert read_checkpoint(tmp_path / "a.pth")["args"].method == "GRN_bit"


def test_a_file_with_a_foreign_object_is_refused(tmp_path):
    torch.save({"model": {}, "when": datetime.timedelta(1)}, tmp_path / "a.pth")
    with pytest.raises(GenrefineError, match=r"tensors and plain values only; a\.pth holds datetime\.timedelta"):
        read_checkpoint(tmp_path / "a.pth")


def test_damaged_missing_and_other_files_are_refused(tmp_path):
    torch.save({"model": {"a": torch.ones(1000)}}, tmp_path / "whole.pth")
    torch.save([torch.ones(3)], tmp_path / "list.pth")
    whole = (tmp_path / "whole.pth").read_bytes()
    for size in (100, 900, len(whole) - 40):
        (tmp_path / f"cut{size}.pth").write_bytes(whole[:size])
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("not found")
    names = [path.stem for path in tmp_path.glob("cut*")] + ["empty", "text"]
    told = {name: f"{name}.pth is not or is damaged" for name in names}
    for name, message in (told | {"list": "list.pth holds a list", "absent": "checkpoint must be a file; got"}).items():
        with pytest.raises(GenrefineError, match=message) as error:
            read_checkpoint(tmp_path / f"{name}.pth")
        assert "\n" not in str(error.value)
    assert read_checkpoint(tmp_path / "whole.pth")["model"]["a"].sum() == 1000


@pytest.mark.parametrize(
    ("name", "message"),
    [("archive/data.pkl", "2 times"), ("/etc/data", "leaves it"), ("archive/../../data", "leaves it")],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_names_that_repeat_or_leave_it_is_refused(tmp_path, name, message):
    torch.save({"a": torch.ones(3)}, tmp_path / "archive.pth")
    with zipfile.ZipFile(tmp_path / "archive.pth", "a") as archive:
        archive.writestr(name, b"anything")
    with pytest.raises(GenrefineError, match=message):
        read_checkpoint(tmp_path / "archive.pth")


def test_a_key_that_was_given_twice_is_refused(tmp_path):
    """A pickle may set one key twice and the last one wins; the first one's tensor is then reached by no key."""

    class Twice(OrderedDict):
        def __reduce_ex__(self, protocol):
            return OrderedDict, (), None, None, iter([("a", torch.ones(3)), ("a", torch.zeros(3))])

    torch.save({"model": Twice(), "args": argparse.Namespace(kept=torch.ones(2))}, tmp_path / "a.pth")
    with pytest.raises(GenrefineError, match=r"stores 3 tensors but its keys lead to 2: a key was given twice"):
        read_checkpoint(tmp_path / "a.pth")
    shared = torch.ones(4)
    torch.save({"a": shared, "b": [shared[:2], {"c": torch.zeros(0)}], "d": (torch.ones(1),)}, tmp_path / "b.pth")
    assert set(read_checkpoint(tmp_path / "b.pth")) == {"a", "b", "d"}


def write_safetensors(path, header, data=b""):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)


def test_safetensors_are_read_too_and_damaged_ones_refused(tmp_path):
    save_file({"a": torch.ones(3), "b": torch.zeros(2, 2)}, tmp_path / "whole.safetensors")
    assert torch.equal(read_checkpoint(tmp_path / "whole.safetensors")["a"], torch.ones(3))
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "whole.safetensors").read_bytes()[:-4])
    entry = b'{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    write_safetensors(tmp_path / "twice.safetensors", b'{"a":' + entry + b',"a":' + entry + b"}", b"\0" * 4)
    write_safetensors(tmp_path / "list.safetensors", [1])
    (tmp_path / "long.safetensors").write_bytes(struct.pack("<Q", 1 << 60))
    for name, message in {"cut": "no whole", "twice": "key 'a' twice", "list": "no whole", "long": "no whole"}.items():
        with pytest.raises(GenrefineError, match=message):
            read_checkpoint(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.int64, torch.bool, torch.complex64])
def test_weights_of_another_number_format_are_refused(dtype):
    with pytest.raises(GenrefineError, match=f"'b' is {str(dtype).removeprefix('torch.')}"):
        pick_weights({"model": {"a": torch.ones(1), "b": torch.ones(1).to(dtype)}}, "model")
    assert pick_weights({"ema": {"a": torch.ones(1).half()}})[0] == "ema"


def test_the_weights_of_the_authors_are_taken_unless_others_are_named():
    a, b, c = ({"a": torch.full((1,), float(i))} for i in range(3))
    for content, expected in (
        ({"model": a, "model_ema1": b, "model_ema2": c}, "model_ema1"),
        ({"vae": a, "ema": b}, "ema"),
        ({"vae": a}, "vae"),
        ({"trainer": {"gpt_fsdp": a, "gpt_ema_fsdp": b, "gpt_fsdp_opt": None}}, "gpt_ema_fsdp"),
        ({"trainer": {"gpt_fsdp": a, "gpt_ema_fsdp": None}}, "gpt_fsdp"),
        (a, ""),
    ):
        assert pick_weights(content)[0] == expected
    assert pick_weights({"model": a, "model_ema1": b}, "model")[1] is a
    with pytest.raises(GenrefineError, match="under 'vae'; it has model_ema1, model; choose one of these"):
        pick_weights({"model": a, "model_ema1": b}, "vae")
    with pytest.raises(GenrefineError, match="under 'model_ema1'; it has model; choose"):
        pick_weights({"model": a})


def test_a_file_without_weights_is_refused_naming_what_it_has():
    with pytest.raises(GenrefineError, match="this one has epoch, model"):
        weight_sets({"model": 3, "epoch": 1})
    for state, message in (({"a": 1}, "'a' is none"), ({}, "it is empty"), ({3: torch.ones(1)}, "'3' is none")):
        with pytest.raises(GenrefineError, match=message):
            weight_sets({"model": state})


def test_two_names_for_one_weight_are_refused():
    with pytest.raises(GenrefineError, match="two keys for one weight, 'a' and 'b'"):
        translate({"a": torch.ones(1), "b": torch.ones(1)}, lambda key: "same")


def test_long_lists_of_missing_weights_are_cut():
    with pytest.raises(GenrefineError, match=r"missing: .*weight and \d+ more; unexpected: none"):
        build_exactly(ClassRefiner, TINY, {})
