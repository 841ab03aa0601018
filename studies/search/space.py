"""What a study may change, and between which values."""

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

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
    "color_jitter": "0..0.5",
}
"""Where a field is searched when `search` names it alone."""
GRID = {"learning_rate": "0.01|0.05|0.001|0.0001", "weight_decay": "0|0.01|0.05|0.001"}
"""The values of the original report's grid."""
LOGARITHMIC = {"learning_rate", "weight_decay", "head_learning_rate_factor"}
"""Fields of which equal ratios count alike, not equal differences."""
NOT_SEARCHED = {"epochs", "dataset", "train_split", "val_split", "keep", "monitor", "seed"}
"""Fields that trainings must share to be compared; budgets count epochs, and further seeds confirm the best."""
ZERO_DECADE = 10
"""A range that may be 0, too, is prolonged by this factor downwards, and all that lies there is 0."""
CORNERS_TRIED = 1000
"""So many combinations of the values and ends are checked before anything is trained."""
DIGITS = 3
"""Significant digits of a drawn value, so that it can be read and typed."""


@dataclass(frozen=True)
class Choices:
    """A closed list of values."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        return "|".join(map(typed, self.values))

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it."""
        return CategoricalDistribution(self.values)

    def drawn(self, value: Any) -> Any:
        """The field's value for one that Optuna has drawn."""
        return value

    def holds(self, value: Any) -> bool:
        """Whether a field's value is among them."""
        return value in self.values

    def encoded(self, value: Any) -> Any:
        """What Optuna would have drawn for a field's value."""
        return value


@dataclass(frozen=True)
class Range:
    """All values between two, and perhaps 0."""

    low: float
    high: float
    whole: bool = False
    logarithmic: bool = False
    or_zero: bool = False

    def __str__(self) -> str:
        return f"{'0|' if self.or_zero else ''}{self.low:g}..{self.high:g}"

    @property
    def values(self) -> tuple[Any, ...]:
        """Its ends."""
        kind = int if self.whole else float
        return tuple(kind(end) for end in ((0, self.low, self.high) if self.or_zero else (self.low, self.high)))

    def distribution(self) -> BaseDistribution:
        """As Optuna knows it; 0 has no logarithm, so a stretch below the low end stands for it."""
        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.logarithmic)
        low = self.low / ZERO_DECADE if self.or_zero else self.low
        return FloatDistribution(low, self.high, log=self.logarithmic)

    def drawn(self, value: float) -> float:
        """The field's value for one that Optuna has drawn."""
        if self.whole:
            return int(value)
        if self.or_zero and value < self.low:
            return 0.0
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def holds(self, value: Any) -> bool:
        """Whether a field's value lies in it."""
        return value is not None and (self.low <= value <= self.high or (self.or_zero and value == 0))

    def encoded(self, value: float) -> float:
        """What Optuna would have drawn for a field's value."""
        return self.low / ZERO_DECADE if self.or_zero and value == 0 else value


Space = Mapping[str, Choices | Range]
"""Every field that is searched, with its values."""


def parse(search: str, base: TrainConfig, grid: bool) -> Space:
    """Read `search`, which names fields with their values or ranges.

    Args:
        search: as `TuneConfig.search` explains it.
        base: the configuration that is varied; the ends of every range must fit it.
        grid: whether all values are to be combined, so that each field needs a list of them.

    Raises:
        InputError: what is not understood, or not possible.
    """
    space = {}
    for part in filter(None, (part.strip() for part in search.split(","))):
        name, equals, text = (each.strip() for each in part.partition("="))
        if name in NOT_SEARCHED:
            raise InputError(f"search={name}: all trainings of a study must share {name}")
        name = one_of("search", name, sorted(set(decisive(asdict(base))) - NOT_SEARCHED))
        if name in space:
            raise InputError(f"search={search} names {name} twice")
        if not equals:
            known = GRID if grid else RANGES
            if name not in known:
                raise InputError(
                    f"search={name}: say which values, as {name}={'A|B|C' if grid else 'LOW..HIGH or A|B|C'} "
                    f"(known by name alone: {', '.join(known)})"
                )
            text = known[name]
        space[name] = _dimension(name, text)
        if grid and isinstance(space[name], Range):
            raise InputError(f"search={name}={text}: sampler=grid needs a list of values, such as {name}=A|B|C")
        given = getattr(base, name)
        if given not in (TrainConfig.__dataclass_fields__[name].default, getattr(TrainConfig(), name)):
            raise InputError(
                f"{name}={given} is given, and {name} is searched, too: leave it out of search, or do not give it"
            )
    if not space:
        raise InputError(f"search={search!r} names no field, such as learning_rate")
    corners = itertools.product(*(dimension.values for dimension in space.values()))
    for corner in itertools.islice(corners, CORNERS_TRIED):
        varied(base, dict(zip(space, corner, strict=True)))
    return space


def varied(base: TrainConfig, values: Mapping[str, Any]) -> TrainConfig:
    """The configuration with other values.

    Raises:
        InputError: they are not possible together.
    """
    try:
        return settled(base, values)
    except InputError as error:
        raise InputError(f"search: {described(values)} is not possible: {error}") from None


def points(space: Space) -> list[dict[str, Any]]:
    """Every combination of the values, the first field's changing fastest."""
    combinations = itertools.product(*(dimension.values for dimension in reversed(list(space.values()))))
    return [dict(zip(space, reversed(combination), strict=True)) for combination in combinations]


def first_guess(space: Space) -> dict[str, Any]:
    """The defaults of `train`, as Optuna knows them, as far as they lie in the space."""
    guess = {}
    for name, dimension in space.items():
        default = getattr(TrainConfig(), name)
        if dimension.holds(default):
            guess[name] = dimension.encoded(default)
    return guess


def suggest(trial: Trial, space: Space) -> dict[str, Any]:
    """The values of the fields for a trial."""
    return {name: dimension.drawn(_suggested(trial, name, dimension)) for name, dimension in space.items()}


def values_of(params: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The values of the fields for what Optuna has recorded of a trial."""
    return {name: dimension.drawn(params[name]) for name, dimension in space.items() if name in params}


def described(values: Mapping[str, Any]) -> str:
    """Values in one line, spelled as they are typed."""
    return listed((f"{name}={typed(value)}" for name, value in values.items()), 20)


def typed(value: Any) -> str:
    """A value as it is typed."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _suggested(trial: Trial, name: str, dimension: Choices | Range) -> Any:
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
            raise InputError(f"search={name}={text} lists a value twice")
        return Choices(values)
    or_zero = len(parts) == 2 and read_value(TrainConfig, name, parts[0], "search=") == 0
    low, high = (read_value(TrainConfig, name, end.strip(), "search=") for end in ([*parts[-1].split(".."), ""])[:2])
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in (low, high))
    if (len(parts) > 1 and not or_zero) or not numbers:
        raise InputError(f"search={name}={text} is not understood; write LOW..HIGH, 0|LOW..HIGH or A|B|C")
    logarithmic = name in LOGARITHMIC
    if not low < high:
        raise InputError(f"search={name}={text}: the low end must be below the high end")
    if logarithmic and low <= 0:
        raise InputError(
            f"search={name}={text}: {name} is searched by ratios, so the low end must be above 0; write 0|LOW..HIGH if "
            f"0 is to be tried, too"
        )
    if or_zero and not logarithmic:
        raise InputError(f"search={name}={text}: write 0..{high:g}, which holds 0 anyway")
    return Range(low, high, isinstance(low, int), logarithmic, or_zero)
