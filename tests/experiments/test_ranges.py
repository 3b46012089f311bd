"""Numbers of settings: each has a range, and nonsense is refused before anything is built."""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_type_hints

import pytest

from genrefine import GenrefineError, presets
from genrefine.training.ranges import NUMBERS, Range, check_ranges

NONSENSE = ("nan", "inf", "-inf", "1e30", "-1e30", "-1", "0", "1" + "0" * 30)


def numbers_of(settings: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield name and field of every setting that is a number or a tuple of numbers."""
    hints = get_type_hints(type(settings))
    for declared in fields(settings):
        value = getattr(settings, declared.name)
        if is_dataclass(value):
            yield from numbers_of(value, f"{declared.name}.")
            continue
        kinds = {hints[declared.name], *get_args(hints[declared.name])}
        if kinds & {int, float}:
            yield path + declared.name, declared


@pytest.mark.parametrize("name", ["small-tokenizer", "small-class", "small-text"])
def test_every_number_of_every_run_takes_what_its_range_holds_and_nothing_else(name):
    run = presets.get(name).settings
    found = list(numbers_of(run))
    assert len(found) > 20
    for setting, declared in found:
        numbers: Range = declared.metadata[NUMBERS]
        is_tuple = isinstance(declared.default, tuple)
        for text in NONSENSE:
            given = ",".join([text] * len(declared.default)) if is_tuple else text
            try:
                value: Any = presets.get(name, {setting: given}).settings
            except GenrefineError:
                continue
            for part in setting.split("."):
                value = getattr(value, part)
            assert all(one in numbers for one in (value if is_tuple else (value,))), (setting, text)
        assert float("nan") not in numbers
        assert float("inf") not in numbers


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("training.clip_norm", "nan"), ("training.learning_rate", "inf"), ("training.weight_decay", "-1"),
        ("training.betas", "1,1"), ("training.seed", "-1"), ("training.num_workers", "-1"), ("refiner.num_heads", "0"),
        ("refiner.depth", "0"), ("refiner.depth", "100000000"), ("refiner.mlp_ratio", "nan"),
        ("loss.label_dropout", "nan"), ("training.betas", "-" * 3000 + "1"), ("training.num_steps", "-" * 3000 + "1"),
    ],
)  # fmt: skip
def test_settings_without_sense_are_refused_by_name(setting, value):
    with pytest.raises(GenrefineError, match=setting):
        presets.get("small-class", {setting: value})


def test_a_range_says_what_it_holds():
    assert str(Range(above=0, at_most=1)) == "above 0 and at most 1"
    assert str(Range(at_least=0, below=1)) == "at least 0 and below 1"
    assert [one in Range(above=0, below=1) for one in (0, 0.5, 1)] == [False, True, False]


def test_presets_themselves_are_in_range():
    for name in presets.names():
        settings = presets.get(name).settings
        for declared in fields(settings):
            if is_dataclass(part := getattr(settings, declared.name)):
                check_ranges(part, declared.name)
