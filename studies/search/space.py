"""The search space of a study: which fields are searched, and over which values."""

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from segmentation.errors import InputError, listed, one_of
from segmentation.fields import read_value
from studies.config import TrainConfig, decisive, settled

RANGES = {
    "learning_rate": "0.0001..0.1",
    "weight_decay": "0|0.0001..0.05",
    "momentum": "0.8..0.99",
    "batch_size": "16|32|64",
    "model": "fcn_resnet50|fcn_resnet101|deeplabv3_resnet50|deeplabv3_resnet101",
    "optimizer": "sgd|adamw",
    "schedule": "constant|polynomial",
    "warmup_epochs": "0..3",
    "head_learning_rate_factor": "1..10",
    "auxiliary_loss": "0..0.5",
    "flip": "0..0.5",
    "scale_max": "1..2",
    "rotation": "0..30",
    "crop_at": "center|random|class",
    "sampling": "uniform|class_balanced",
    "color_jitter": "0..0.5",
}
"""Ranges of the fields that `search` can name without a range."""
GRID = {"learning_rate": "0.01|0.05|0.001|0.0001", "weight_decay": "0|0.01|0.05|0.001"}
"""The values of the original report's grid."""
LOGARITHMIC = {"learning_rate", "weight_decay", "head_learning_rate_factor"}
"""Fields that are searched on a logarithmic scale."""
NOT_SEARCHED = {"epochs", "dataset", "train_split", "val_split", "keep", "monitor", "seed"} | {
    "val_fraction", "folds", "fold", "group_by", "score_crop",
}  # fmt: skip
"""Fields that all trials must share to be comparable. Budgets count epochs; `confirm_seeds` varies the seed."""
ZERO_DECADE = 10
"""A logarithmic range that includes 0 is extended downwards by this factor; draws from the extension are 0."""
CORNERS_CHECKED = 1000
"""Number of combinations of values and range ends that are validated before the first trial."""
DIGITS = 3
"""Significant digits of drawn values, so that they are easy to read and type."""


@dataclass(frozen=True)
class Choices:
    """A list of values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return "|".join(map(format_value, self.values))

    def distribution(self) -> BaseDistribution:
        """The Optuna distribution."""
        return CategoricalDistribution(self.values)

    def decode(self, value: Any) -> Any:
        """The field's value for a value drawn by Optuna."""
        return value

    def contains(self, value: Any) -> bool:
        """Whether a field's value is in the list."""
        return value in self.values

    def encode(self, value: Any) -> Any:
        """The value that Optuna draws for a field's value."""
        return value


@dataclass(frozen=True)
class Range:
    """All values from `low` to `high`, and 0 if `or_zero`."""

    low: float
    high: float
    whole: bool = False
    logarithmic: bool = False
    or_zero: bool = False
    stored_below: bool = False
    """Whether a value below the range is stored for 0, as in studies of earlier versions."""

    def __str__(self) -> str:
        return f"{'0|' if self.or_zero else ''}{self.low:g}..{self.high:g}"

    @property
    def values(self) -> tuple[Any, ...]:
        """The ends of the range."""
        kind = int if self.whole else float
        return tuple(kind(end) for end in ((0, self.low, self.high) if self.or_zero else (self.low, self.high)))

    def distribution(self) -> BaseDistribution:
        """The Optuna distribution, as it is stored and shown.

        0 has no logarithm, so a range that includes 0 is stored as a linear one. `SeededByTrial` samples it on a
        logarithmic scale, as `sampled` describes.
        """
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.logarithmic)
        if self.or_zero and not self.stored_below:
            return FloatDistribution(0.0, self.high)
        return self.sampled()

    def sampled(self) -> FloatDistribution:
        """The distribution that is sampled: an extension below `low` stands for 0."""
        low = self.low / ZERO_DECADE if self.or_zero else self.low
        return FloatDistribution(low, self.high, log=self.logarithmic)

    def decode(self, value: float) -> float:
        """The field's value for a value drawn by Optuna."""
        if self.whole:
            return int(value)
        if self.or_zero and value < self.low:
            return 0.0
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def contains(self, value: Any) -> bool:
        """Whether a field's value lies in the range."""
        return value is not None and (self.low <= value <= self.high or (self.or_zero and value == 0))

    def encode(self, value: float) -> float:
        """The value that Optuna draws for a field's value."""
        return self.low / ZERO_DECADE if self.or_zero and self.stored_below and value == 0 else value


Space = Mapping[str, Choices | Range]
"""The searched fields with their values."""


def as_stored(space: Space, trials: Iterable[FrozenTrial]) -> Space:
    """The same space, with 0 stored as the trials of a study of an earlier version have stored it."""
    logarithmic = {
        name
        for trial in trials
        for name, distribution in trial.distributions.items()
        if isinstance(distribution, FloatDistribution) and distribution.log
    }
    return {
        name: replace(dimension, stored_below=True)
        if isinstance(dimension, Range) and dimension.or_zero and name in logarithmic
        else dimension
        for name, dimension in space.items()
    }


def parse_space(search: str, base: TrainConfig, grid: bool) -> Space:
    """Read `search`, which names fields with their values or ranges.

    Args:
        search: see `TuneConfig.search`.
        base: the configuration of all trials; every value and range end must be valid in it.
        grid: whether all combinations are tried, so that each field needs a list of values.

    Raises:
        InputError: `search` cannot be read, or names values that are not valid.
    """
    space: dict[str, Choices | Range] = {}
    for part in filter(None, (part.strip() for part in search.split(","))):
        name, equals, text = (each.strip() for each in part.partition("="))
        if name in NOT_SEARCHED:
            raise InputError(f"search={name}: {name} cannot be searched, since all trials of a study must share it")
        name = one_of("search", name, sorted(set(decisive(asdict(base))) - NOT_SEARCHED))
        if name in space:
            raise InputError(f"search={search} names {name} twice")
        if not equals:
            known = GRID if grid else RANGES
            if name not in known:
                raise InputError(
                    f"search={name}: give its values, as in {name}={'A|B|C' if grid else 'LOW..HIGH or A|B|C'} "
                    f"(only these need none: {', '.join(known)})"
                )
            text = known[name]
        space[name] = _dimension(name, text)
        if grid and isinstance(space[name], Range):
            raise InputError(f"search={name}={text}: sampler=grid needs a list of values, such as {name}=A|B|C")
        given = getattr(base, name)
        if given not in (TrainConfig.__dataclass_fields__[name].default, getattr(TrainConfig(), name)):
            raise InputError(
                f"{name}={given} is set, but {name} is searched, too: remove it from search, or do not set it"
            )
    if not space:
        raise InputError(f"search={search!r} names no field; name one, such as learning_rate")
    corners = itertools.product(*(dimension.values for dimension in space.values()))
    for corner in itertools.islice(corners, CORNERS_CHECKED):
        with_values(base, dict(zip(space, corner, strict=True)))
    return space


def with_values(base: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a trial: the shared one with the trial's values.

    Raises:
        InputError: the values are not valid together.
    """
    try:
        return settled(base, values)
    except InputError as error:
        raise InputError(f"search: {describe_values(values)} is not valid: {error}") from None


def grid_points(space: Space) -> list[dict[str, Any]]:
    """All combinations of the values. The first field varies fastest."""
    combinations = itertools.product(*(dimension.values for dimension in reversed(list(space.values()))))
    return [dict(zip(space, reversed(combination), strict=True)) for combination in combinations]


def first_guess(space: Space) -> dict[str, Any]:
    """The defaults of `train` that lie in the space, encoded for Optuna."""
    guess = {}
    for name, dimension in space.items():
        default = getattr(TrainConfig(), name)
        if dimension.contains(default):
            guess[name] = dimension.encode(default)
    return guess


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """Draw the values of the searched fields for a trial."""
    return {name: dimension.decode(_suggest_one(trial, name, dimension)) for name, dimension in space.items()}


def values_of(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The values of the searched fields for the parameters that Optuna stores."""
    return {name: dimension.decode(params[name]) for name, dimension in space.items() if name in params}


def describe_values(values: Mapping[str, Any]) -> str:
    """Values in one line, as they are typed on the command line."""
    return listed((f"{name}={format_value(value)}" for name, value in values.items()), 20)


def format_value(value: Any) -> str:
    """A value as it is typed on the command line."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _suggest_one(trial: Trial, name: str, dimension: Choices | Range) -> Any:
    distribution = dimension.distribution()
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, CategoricalDistribution)
    return trial.suggest_categorical(name, distribution.choices)


def _dimension(name: str, text: str) -> Choices | Range:
    parts = [part.strip() for part in text.split("|")]
    if ".." not in text:
        values = tuple(read_value(TrainConfig, name, part, "search=") for part in parts)
        if len(set(values)) < len(values):
            raise InputError(f"search={name}={text} lists a value twice; list each once")
        return Choices(values)
    or_zero = len(parts) == 2 and read_value(TrainConfig, name, parts[0], "search=") == 0
    low, high = (read_value(TrainConfig, name, end.strip(), "search=") for end in ([*parts[-1].split(".."), ""])[:2])
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if (len(parts) > 1 and not or_zero) or not numbers:
        raise InputError(f"search={name}={text} is not valid; write LOW..HIGH, 0|LOW..HIGH or A|B|C")
    logarithmic = name in LOGARITHMIC
    if not low < high:
        raise InputError(f"search={name}={text}: the low end must be below the high end")
    if logarithmic and low <= 0:
        raise InputError(
            f"search={name}={text}: {name} is searched on a logarithmic scale, so the low end must be above 0; write "
            f"0|LOW..HIGH to include 0"
        )
    if or_zero and not logarithmic:
        raise InputError(f"search={name}={text}: write 0..{high:g}, which includes 0")
    return Range(low, high, isinstance(low, int), logarithmic, or_zero)
