"""Compares runs on the images that all were scored on: differences, intervals, p-values, spread over seeds."""

import itertools
import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segmentation.errors import InputError, counted, listed
from segmentation.metrics import COMPARED, METRICS
from segmentation.scoring.bootstrap import LEVEL, Interval, holm, holm_levels, interval, p_value
from segmentation.scoring.scores import Scores, common_classes
from studies.scores.labels import labels_of
from studies.scores.stored import StoredScores
from studies.scores.wording import learned_nothing

MAY_DIFFER = ("images", "pixels", "fingerprint", "in_crop", "views")
"""Parts of the protocol that may differ: only shared images are compared, and windows or scales belong to the model."""
ADDED_LATER = "tf32", "contour_width"
"""Parts that earlier versions did not record; they count only if both runs have them."""


@dataclass(frozen=True)
class Contestant:
    """One run in the comparison."""

    letter: str
    stored: StoredScores
    title: str
    scores: Scores
    metrics: dict[str, float]
    resampled: dict[str, np.ndarray]

    @property
    def label(self) -> str:
        """Letter and title, for legends."""
        return f"{self.letter} · {self.title}"

    def interval(self, metric: str) -> Interval:
        """Return the 95 % interval of a metric over images."""
        return interval(self.resampled[metric], self.metrics[metric])


class Difference(NamedTuple):
    """First minus second, on the same images."""

    value: float
    interval: Interval
    """95 % interval, adjusted for the number of pairs so that it agrees with `p_value`, see `holm_levels`."""
    p_value: float
    """p-value of no difference, adjusted for the number of pairs by Holm's method."""
    interval_alone: Interval
    """95 % interval of this pair alone."""
    p_value_alone: float
    """p-value of this pair alone."""

    @property
    def shown(self) -> bool:
        """Whether the difference is significant at the 5 % level."""
        return self.p_value < 1 - LEVEL

    @property
    def shown_alone(self) -> bool:
        """Whether the difference would be significant if only this pair were compared."""
        return self.p_value_alone < 1 - LEVEL

    def __str__(self) -> str:
        return f"{self.value:+.4f}, 95 % {self.interval}, p = {self.p_value:.4f}"

    def verdict(self, metric: str, pairs: int) -> str:
        """Return whether the first run is better or worse, or what is known otherwise."""
        if not self.shown_alone:
            return "no difference shown"
        better = "better" if (self.value > 0) is METRICS[metric].higher_is_better else "worse"
        return better if self.shown else f"{better} in this pair alone, not after correcting for {pairs} pairs"

    def numbers(self) -> str:
        """Return size, interval and p-value, and those of this pair alone where only they show a difference."""
        if self.shown or not self.shown_alone:
            return str(self)
        return f"{self}; alone 95 % {self.interval_alone}, p = {self.p_value_alone:.4f}"


class Pair(NamedTuple):
    """Two runs and their differences by metric."""

    first: Contestant
    second: Contestant
    differences: dict[str, Difference]
    pairs: int = 1
    """Number of pairs in the comparison."""

    def sentence(self, spreads: Sequence["SeedSpread"] = ()) -> str:
        """Return which run is better in what, and whether the difference is larger than that between seeds.

        Runs that have learned no segmentation are named first.
        """
        a, b, ece = self.first.letter, self.second.letter, self.differences["ece"]
        warnings = "".join(
            f"{each.letter} has learned no segmentation: it {reason}. "
            for each in (self.first, self.second)
            if (reason := learned_nothing(each.scores))
        )
        if ece.shown_alone:
            better, space, condition = ece.verdict("ece", self.pairs).partition(" ")
            calibration = f"{a} is {better} calibrated than {b}{space}{condition}"
        else:
            calibration = f"{a} and {b}: no difference in calibration shown on {len(self.first.scores)} images"
        rest = [
            f"{difference.verdict(metric, self.pairs)} in {METRICS[metric].label} ({difference.numbers()})"
            for metric, difference in self.differences.items()
            if metric != "ece"
        ]
        text = f"{warnings}{calibration}: ECE {ece.numbers()}. {a} against {b}: {'; '.join(rest)}."
        if self.first.stored.model_key() == self.second.stored.model_key():
            return f"{text} They are the same model."
        for spread in spreads:
            if {a, b} <= set(spread.letters):
                return f"{text} They differ only in the seed."
            if ece.shown and {a, b} & set(spread.letters) and spread.largest["ece"] >= abs(ece.value):
                return (
                    f"{text} But {_and(spread.letters)}, which differ only in the seed, differ by "
                    f"{spread.largest['ece']:.4f}: the result holds for these two models, not for their settings."
                )
        return text


class SeedSpread(NamedTuple):
    """Spread of the metrics of runs that differ only in the seed."""

    letters: list[str]
    mean: dict[str, float]
    deviation: dict[str, float]
    """Standard deviation over the seeds, by metric."""
    largest: dict[str, float]
    """Largest difference between two of the runs, by metric."""
    half_width: dict[str, float]
    """Half the mean width of the runs' 95 % intervals over images, by metric."""

    def sentence(self) -> str:
        """Return mean and standard deviation over seeds, compared with the interval over images."""
        parts = [
            f"{METRICS[metric].label} {self.mean[metric]:.4f} ± {self.deviation[metric]:.4f} (images ± "
            f"{self.half_width[metric]:.4f})"
            for metric in COMPARED
        ]
        return (
            f"{_and(self.letters)} differ only in the seed. Mean ± standard deviation over {len(self.letters)} seeds "
            f"(images: half of a run's 95 % interval): {'; '.join(parts)}."
        )


def between_settings(spreads: Sequence[SeedSpread]) -> Iterator[str]:
    """Yield one sentence on the difference of the means for every two settings trained with several seeds."""
    for first, second in itertools.combinations(spreads, 2):
        parts = []
        for metric in COMPARED:
            errors = (each.deviation[metric] / math.sqrt(len(each.letters)) for each in (first, second))
            difference = first.mean[metric] - second.mean[metric]
            parts.append(f"{METRICS[metric].label} {difference:+.4f} ± {math.hypot(*errors):.4f}")
        yield (
            f"Setting of {_and(first.letters)} against setting of {_and(second.letters)}, difference of the means over "
            f"seeds ± standard error: {'; '.join(parts)}."
        )


def check_protocols(stored: Sequence[StoredScores]) -> None:
    """Raise an `InputError` if runs were scored by different rules, or images with equal names differ in content."""
    first = stored[0]
    found = [
        f"{difference} ({first.name}, {first.run_id}, against {other.name}, {other.run_id})"
        for other in stored[1:]
        for difference in differences(first, other)
    ]
    if found:
        raise InputError(
            "these runs cannot be compared, because they were scored differently: " + "; ".join(found)
            + ". Score all models in the same way with the entry point evaluate, and compare those runs"
        )  # fmt: skip


def differences(first: StoredScores, other: StoredScores) -> list[str]:
    """Return why two runs cannot be compared: other rules, or other content of images with equal names."""
    keys = [
        key for key in {**first.protocol, **other.protocol}
        if key not in MAY_DIFFER
        and not (key in ADDED_LATER and not (key in first.protocol and key in other.protocol))
    ]  # fmt: skip
    found = [
        f"{key}: {first.protocol.get(key)} and {other.protocol.get(key)}"
        for key in keys
        if first.protocol.get(key) != other.protocol.get(key)
    ]
    shared = first.digests.keys() & other.digests.keys()
    if len(shared) < 2:
        found.append(f"images: {len(shared)} of the {len(other.digests)} scored images are the same")
    changed = sorted(name for name in shared if first.digests[name] != other.digests[name])
    if changed:
        found.append(f"contents of {len(changed)} of {len(shared)} images or masks, such as {listed(changed, 3)}")
    return found


def comparable(
    stored: Sequence[StoredScores], required: Collection[str]
) -> tuple[list[StoredScores], list[tuple[StoredScores, str]]]:
    """Split runs into those that were scored like most of them, and the others with the reason.

    Args:
        stored: the runs.
        required: IDs of runs that are never skipped.

    Returns:
        Runs to compare, and runs to skip; all runs and none if fewer than two would remain.
    """
    candidates = [each for each in stored if each.run_id in required] or list(stored)
    reference = max(candidates, key=lambda each: sum(not differences(each, other) for other in stored))
    reasons = {each.run_id: "; ".join(differences(reference, each)) for each in stored}
    kept = [each for each in stored if each.run_id in required or not reasons[each.run_id]]
    if len(kept) < 2:
        return list(stored), []
    return kept, [(each, reasons[each.run_id]) for each in stored if each not in kept]


def shared_images(stored: Sequence[StoredScores]) -> list[str]:
    """Return the names of the images that all runs were scored on, in the first run's order.

    Raises:
        InputError: there are fewer than two.
    """
    names = [name for name in stored[0].digests if all(name in other.digests for other in stored)]
    if len(names) < 2:
        raise InputError(
            f"the runs share {counted(len(names), 'scored image')}; a comparison needs at least two. Runs: "
            f"{listed(f'{each.name} ({each.run_id[:8]}, {len(each.digests)} images)' for each in stored)}"
        )
    return names


def compare(contestants: Sequence[Contestant]) -> list[Pair]:
    """Return the differences of every pair; p-values and intervals are adjusted per metric for the number of pairs."""
    pairs = list(itertools.combinations(contestants, 2))
    differences = {
        metric: [first.resampled[metric] - second.resampled[metric] for first, second in pairs] for metric in COMPARED
    }
    values = {
        metric: [first.metrics[metric] - second.metrics[metric] for first, second in pairs] for metric in COMPARED
    }
    found: dict[str, list[Difference]] = {}
    for metric in COMPARED:
        alone = list(map(p_value, differences[metric], values[metric]))
        found[metric] = [
            Difference(value, interval(resampled, value, level), adjusted, interval(resampled, value), p)
            for value, resampled, level, adjusted, p in zip(
                values[metric], differences[metric], holm_levels(alone), holm(alone), alone, strict=True
            )
        ]
    return [
        Pair(first, second, {metric: found[metric][index] for metric in COMPARED}, len(pairs))
        for index, (first, second) in enumerate(pairs)
    ]


def adjusted_for(pairs: int) -> str:
    """Return how p-values and intervals of differences are adjusted, in a sentence."""
    if pairs == 1:
        return ""
    return f"95 % intervals and p-values of differences are adjusted per metric for {pairs} pairs by Holm's method."


def seed_spreads(contestants: Sequence[Contestant]) -> list[SeedSpread]:
    """Return the spread over seeds of every setting that was trained with more than one seed."""
    settings: dict[str, dict[object, Contestant]] = {}
    for each in contestants:
        by_model = settings.setdefault(json.dumps(each.stored.setting(), sort_keys=True), {})
        by_model.setdefault(each.stored.model_key(), each)  # a model may have been scored twice
    found = []
    for by_model in settings.values():
        group = list(by_model.values())
        if len({each.stored.seed for each in group}) < 2:
            continue
        values = {metric: np.array([each.metrics[metric] for each in group]) for metric in COMPARED}
        widths = {
            metric: [end.high - end.low for end in (each.interval(metric) for each in group)] for metric in COMPARED
        }
        found.append(
            SeedSpread(
                [each.letter for each in group],
                {metric: float(value.mean()) for metric, value in values.items()},
                {metric: float(value.std(ddof=1)) for metric, value in values.items()},
                {metric: float(np.ptp(value)) for metric, value in values.items()},
                {metric: float(np.mean(width)) / 2 for metric, width in widths.items()},
            )
        )
    return found


def contestants_of(stored: Sequence[StoredScores], names: Sequence[str]) -> Iterator[Contestant]:
    """Yield every run with its metrics on these images. Means over classes use the same classes for all runs."""
    found = [each.scores(names) for each in stored]
    classes = common_classes(found)
    for index, (each, title, scores) in enumerate(zip(stored, labels_of(stored), found, strict=True)):
        yield Contestant(_letter(index), each, title, scores, scores.metrics(classes), scores.resampled(classes))


def _letter(index: int) -> str:
    """Return A, B, …, Z, AA, AB, …"""
    return (_letter(index // 26 - 1) if index >= 26 else "") + chr(ord("A") + index % 26)


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
