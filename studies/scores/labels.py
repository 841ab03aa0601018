"""Short labels of runs: the parameters in which they differ."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from studies.scores.stored import StoredScores

SHORT = {"learning_rate": "lr", "weight_decay": "wd"}
"""Names of fields in labels, where they differ from the field's own."""
PLAIN = ("model", "dataset", "calibrated")
"""Fields whose value says what it is."""
FIRST = ("model", "weights", "dataset", "learning_rate", "weight_decay")
"""Fields that come first in labels."""
IMPLIED = {"calibrated_on": "calibrated", "normalization": "weights"}
"""Fields that labels leave out if another one differs, from which they follow."""
MADE = " · "
"""Part of every name that `models` makes; such a name repeats parameters that do not differ."""
LONGEST = 5
"""Most parameters in a label, unless more are needed to distinguish two runs."""


def labels_of(stored: Sequence[StoredScores]) -> list[str]:
    """Return a label for each run: the name that its user gave it, or else the parameters that differ.

    Runs of equal parameters keep their names. Equal labels are extended by the kept epoch, the split and the run's ID.
    """
    every = differing_parameters(stored)
    differing = {name: values for name, values in every.items() if IMPLIED.get(name) not in every}
    given = [str(each.origin["config"].get("run_name") or "") for each in stored]
    labels = [
        name if name and MADE not in name and given.count(name) == 1 else _label(differing, index) or each.name
        for index, (name, each) in enumerate(zip(given, stored, strict=True))
    ]
    for addition in (lambda each: f"epoch {each.origin['epoch']}", lambda each: each.run_id[:8]):
        extended = [f"{label} · {addition(each)}" for label, each in zip(labels, stored, strict=True)]
        labels = [
            longer if labels.count(label) > 1 and extended.count(longer) < labels.count(label) else label
            for label, longer in zip(labels, extended, strict=True)
        ]
    return labels


def differing_parameters(stored: Sequence[StoredScores]) -> dict[str, list[Any]]:
    """Return the value of each run for every field that differs between runs, with the most important fields first."""
    settings = [dict(each.setting()) | {"seed": each.seed} for each in stored]
    names = sorted(dict.fromkeys(name for each in settings for name in each), key=_rank)
    values = {name: [each.get(name) for each in settings] for name in names}
    return {name: found for name, found in values.items() if any(value != found[0] for value in found)}


def _rank(name: str) -> int:
    """Return the position of a field: first those of `FIRST`, then others, the calibration and the seed last."""
    last = ("calibrated", "seed")
    return FIRST.index(name) if name in FIRST else len(FIRST) + (1 + last.index(name) if name in last else 0)


def _label(differing: Mapping[str, Sequence[Any]], index: int) -> str:
    """Return the parameters of one run: the first `LONGEST`, and those that distinguish it from runs equal in these."""
    shown = list(differing)[:LONGEST]
    for name in list(differing)[LONGEST:]:
        equal = _equal_in(differing, shown, index)
        if len(_equal_in(differing, [*shown, name], index)) < len(equal):
            shown.append(name)
    label = " · ".join(text for name in shown if (text := parameter(name, differing[name][index])))
    return f"{label} · …" if len(shown) < len(differing) else label


def _equal_in(differing: Mapping[str, Sequence[Any]], names: Sequence[str], index: int) -> list[int]:
    """Return the runs that have the same values as one run in some fields."""
    count = len(next(iter(differing.values()), ()))
    return [
        other for other in range(count) if all(differing[name][other] == differing[name][index] for name in names)
    ]  # fmt: skip


def parameter(name: str, value: Any) -> str:
    """Return a field and its value in a few letters, such as `lr 0.01`."""
    if name == "calibrated":
        return f"calibrated by {value}" if value else "not calibrated"
    text = f"{value:g}" if isinstance(value, float) else _shortened(str(value))
    return text if name in PLAIN else f"{SHORT.get(name, name)} {text}"


def _shortened(text: str) -> str:
    """Return a value without the folder of a path and with the beginning of a run's ID."""
    scheme, separator, rest = text.partition("runs:/")
    if separator and not scheme:
        return f"from {rest[:8]}"
    return PurePath(text).name if PurePath(text).is_absolute() else text
