"""Search spaces: parsed, validated and drawn from."""

import itertools
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import create_trial

from segmentation.errors import InputError
from studies.base import original_report
from studies.config import TemplateConfig, TrainConfig
from studies.search.samplers import SeededByTrial
from studies.search.space import (
    GRID,
    RANGES,
    Choices,
    Range,
    as_stored,
    first_guess,
    grid_points,
    parse_space,
    suggest,
    values_of,
    with_values,
)

BASE = TrainConfig()


def test_the_grid_is_that_of_the_original_report() -> None:
    found = grid_points(parse_space("learning_rate,weight_decay", BASE, grid=True))
    assert len(found) == 16
    expected = itertools.product((0.0, 0.01, 0.05, 0.001), (0.01, 0.05, 0.001, 0.0001))
    assert [(point["weight_decay"], point["learning_rate"]) for point in found] == list(expected)
    assert {(cell.weight_decay, cell.learning_rate) for cell in original_report.GRID} == {
        (point["weight_decay"], point["learning_rate"]) for point in found
    }


def test_the_default_ranges_contain_the_grid() -> None:
    space = parse_space("learning_rate,weight_decay", BASE, grid=False)
    for name, text in GRID.items():
        dimension = space[name]
        assert isinstance(dimension, Range)
        for value in map(float, text.split("|")):
            assert dimension.low <= value <= dimension.high or (value == 0 and dimension.or_zero)


@pytest.mark.parametrize("name", RANGES)
def test_every_field_with_a_known_range_can_be_searched(name: str) -> None:
    assert list(parse_space(name, TrainConfig(schedule="constant"), grid=False)) == [name]


@pytest.mark.parametrize(
    ("search", "expected"),
    [
        ("learning_rate=0.001..0.5", {"learning_rate": Range(0.001, 0.5, logarithmic=True)}),
        ("weight_decay = 0 | 1e-5..1e-2", {"weight_decay": Range(1e-5, 1e-2, logarithmic=True, or_zero=True)}),
        (
            "momentum=0..0.9, warmup_epochs=0..4",
            {"momentum": Range(0.0, 0.9), "warmup_epochs": Range(0, 4, whole=True)},
        ),
        ("batch_size=8|16", {"batch_size": Choices((8, 16))}),
        ("channels_last=true|False", {"channels_last": Choices((True, False))}),
        ("crop=64|none", {"crop": Choices((64, None))}),
        ("model=fcn_resnet50|deeplabv3_resnet50", {"model": Choices(("fcn_resnet50", "deeplabv3_resnet50"))}),
        ("batch_norm_momentum=0.01..0.1", {"batch_norm_momentum": Range(0.01, 0.1)}),
    ],
)
def test_ranges_and_lists_are_read(search: str, expected: dict[str, Any]) -> None:
    assert parse_space(search, BASE, grid=False) == expected


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ("learning_rat", "search='learning_rat' is not known. Did you mean 'learning_rate'?"),
        ("epochs=10|20", "search=epochs: "),
        ("learning_rate,learning_rate", "names learning_rate twice"),
        ("interpolation", "search=interpolation: "),
        ("learning_rate=0..0.1", "logarithmic scale, so the low end must be above 0; write 0|LOW..HIGH"),
        ("momentum=0.9..0.1", "the low end must be below the high end"),
        ("momentum=0|0.1..0.9", "write 0..0.9, which includes 0"),
        ("momentum=0.1..x", "'x' is not a number"),
        ("warmup_epochs=0..2.5", "'2.5' is not a whole number"),
        ("freeze_batch_norm=false..true", "freeze_batch_norm=false..true is not valid; write LOW..HIGH"),
        ("momentum=nan..0.9", "the low end must be below the high end"),
        ("batch_size=8|8", "lists a value twice"),
        ("momentum=0.5..2", "search: momentum=2 is not valid: momentum=2.0"),
        ("model=fcn_resnet50|fcn_resnet5", "model='fcn_resnet5' is not known. Did you mean 'fcn_resnet50'?"),
        ("model=lraspp_mobilenet_v3_large,auxiliary_loss=0..1", "has no auxiliary head"),
        ("", "names no field"),
    ],
)
def test_wrong_searches_are_refused(search: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_space(search, BASE, grid=False)
    assert message in str(caught.value)


def test_a_grid_needs_lists() -> None:
    with pytest.raises(InputError, match="sampler=grid needs a list of values"):
        parse_space("learning_rate=0.001..0.1", BASE, grid=True)
    with pytest.raises(InputError, match="momentum=A|B|C"):
        parse_space("momentum", BASE, grid=True)


def test_a_field_that_is_set_cannot_be_searched() -> None:
    with pytest.raises(InputError, match="learning_rate=0.5 is set, but learning_rate is searched"):
        parse_space("learning_rate", TrainConfig(learning_rate=0.5), grid=False)


def test_a_logarithmic_range_can_include_0() -> None:
    """One decade of 2.7 + 1 stands for 0, so 27 % of random draws are 0; the others are uniform in the logarithm."""
    space = parse_space("weight_decay", BASE, grid=False)
    study = optuna.create_study(sampler=SeededByTrial("random", 0, space))
    drawn = []
    for _ in range(300):
        trial = study.ask()
        drawn.append(suggest(trial, space)["weight_decay"])
        study.tell(trial, 0.0)
    values = np.array(drawn)
    assert 0.2 < (values == 0).mean() < 0.35
    positive = values[values > 0]
    assert positive.min() >= 0.0001
    assert positive.max() <= 0.05
    assert 0.3 < (positive < 0.0001 * np.sqrt(500)).mean() < 0.7
    recorded = [values_of(trial.params, space)["weight_decay"] for trial in study.trials]
    assert recorded == drawn
    assert [trial.params["weight_decay"] == 0 for trial in study.trials] == [value == 0 for value in drawn]  # as shown


def test_a_study_that_stores_0_below_the_range_is_resumed() -> None:
    """As earlier versions stored it: 1e-05 for 0, on a logarithmic scale."""
    space = parse_space("weight_decay=0|0.0001..0.01", BASE, grid=False)
    study = optuna.create_study(sampler=SeededByTrial("tpe", 0, space))
    earlier = {"weight_decay": FloatDistribution(1e-5, 0.01, log=True)}
    for value in (1e-5, 1e-3, 5e-3, 1e-2):
        study.add_trial(create_trial(value=value, params={"weight_decay": value}, distributions=earlier))
    resumed = as_stored(space, study.trials)
    assert [values_of(trial.params, resumed)["weight_decay"] for trial in study.trials] == [0.0, 1e-3, 5e-3, 1e-2]
    assert 0 <= suggest(study.ask(), resumed)["weight_decay"] <= 0.01
    assert study.trials[-1].distributions == earlier
    assert as_stored(space, []) == space


def test_the_first_trial_has_the_defaults_that_lie_in_the_space() -> None:
    space = parse_space("learning_rate,weight_decay,momentum=0.5..0.8,batch_size=32|64,crop=64|96", BASE, grid=False)
    guess = first_guess(space)
    assert values_of(guess, space) == {"learning_rate": 0.01, "weight_decay": 0.0, "batch_size": 64}
    for name, value in guess.items():
        assert space[name].distribution()._contains(space[name].distribution().to_internal_repr(value))


def test_drawn_values_can_be_typed() -> None:
    assert Range(0.0001, 0.1, logarithmic=True).decode(0.012345678) == 0.0123
    assert Range(0.0001, 0.0999, logarithmic=True).decode(0.09996) == 0.0999


def test_a_field_of_a_recipe_can_be_searched() -> None:
    base = TemplateConfig(recipe="careful")
    space = parse_space(
        "backbone_learning_rate_factor=0.1|1, freeze_backbone=0|2, weights=none|imagenet", base, grid=True
    )
    for values in grid_points(space):
        config = with_values(base, values)
        assert {name: getattr(config, name) for name in values} == values
        assert config.freeze_batch_norm
        assert config.normalization == {"none": "signed_unit", "imagenet": "imagenet"}[config.weights]
    with pytest.raises(InputError, match="backbone_learning_rate_factor=0.5 is set, but .* is searched"):
        parse_space("backbone_learning_rate_factor=0.1|1", TemplateConfig(backbone_learning_rate_factor=0.5), grid=True)
