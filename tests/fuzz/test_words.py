"""What is typed: command lines, single values, and the small languages of `variants`, `search` and `constraint`."""

import math
from collections.abc import Callable
from dataclasses import fields
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

import mlproject
from segmentation.fields import read_value
from studies.config import ModelsConfig, TrainConfig, TuneConfig
from studies.runs.variants import run_configs
from studies.search import objectives
from studies.search.space import parse_space
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up

FIELDS = [field.name for field in fields(TrainConfig)]
WORDS = st.one_of(
    st.sampled_from(["true", "False", "none", "0", "-1", "1e999", "nan", "inf", "-inf", "1_0", "٣", "9" * 5000, "0x10",
                     "",
                     " ", "fcn_resnet50", "0.1", "16", "coco", "adamw", "val/loss", "../../x"]),
    st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=12),
    st.integers().map(str), st.floats().map(str),
)  # fmt: skip


def parsed(arguments: list[str]) -> Any:
    return mlproject.parse(TrainConfig, arguments, "mlproject.py train")


def test_command_lines(door: Callable[[str], Door]) -> None:
    door = door("command lines")

    @made_up(door.name)
    @given(st.dictionaries(st.sampled_from(FIELDS), WORDS, min_size=1, max_size=3))
    def one(values: dict[str, str]) -> None:
        arguments = [part for name, value in values.items() for part in (f"--{name}", value)]
        found = door(lambda: parsed(arguments), (*values, "scale_m", "warmup", "crop"), typed=True)
        assert found is None or isinstance(found, TrainConfig)

    one()


def test_values(door: Callable[[str], Door]) -> None:
    door = door("values")

    @made_up(door.name)
    @given(st.sampled_from(FIELDS), WORDS)
    def one(name: str, text: str) -> None:
        found = door(lambda: [read_value(TrainConfig, name, text)], name, typed=True)
        if found is not None and isinstance(found[0], int) and not isinstance(found[0], bool):
            assert found[0] == int(text)

    one()


def test_small_languages(door: Callable[[str], Door]) -> None:
    door = door("variants, search and limits")
    pieces = st.one_of(
        WORDS, st.sampled_from(["|", "..", "=", "<=", ">=", ",", "0|", "learning_rate", "momentum", "val/ece", *FIELDS])
    )
    text = st.lists(pieces, max_size=6).map("".join)
    fitting = st.tuples(
        st.sampled_from(["learning_rate", "momentum", "batch_size", "model"]),
        st.sampled_from(["0.1..0.2", "0.1|0.5", "8|16", "8..16"]),
    ).map("=".join)

    @made_up(door.name)
    @given(st.sampled_from(["variants", "search", "constraint"]), st.one_of(text, fitting))
    def one(language: str, text: str) -> None:
        if language == "variants":
            found = door(
                lambda: list(run_configs(ModelsConfig(variants=text))), ("variants", "named", "name"), typed=True
            )
            assert found is None or len(found) > 1
        elif language == "search":
            space = door(lambda: parse_space(text, TrainConfig(), grid=False), "search", typed=True)
            for dimension in (space or {}).values():
                assert all(dimension.contains(value) for value in dimension.values)
        else:
            limit = door(lambda: objectives.read_constraint(TuneConfig(constraint=text)), "constraint", typed=True)
            assert limit is None or not math.isnan(limit.bound)

    one()
