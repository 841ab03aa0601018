"""Runs compared on the images that all were scored on: which differences are real?"""

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from segmentation.errors import InputError, listed
from segmentation.metrics import COMPARED, METRICS
from segmentation.scoring.bootstrap import LEVEL, Interval, holm, interval, p_value
from segmentation.scoring.scores import Scores, common_classes
from studies.scores.stored import StoredScores

WORDS = {name: METRICS[name].label for name in COMPARED if name != "ece"}
MAY_DIFFER = ("images", "pixels", "fingerprint", "in_crop")
"""Parts of the protocol that may differ, since only shared images are compared."""
ADDED_LATER = ("tf32",)
"""Parts that earlier versions did not record; where one is missing it cannot be compared."""


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
        """For legends."""
        return f"{self.letter} · {self.title}"

    def interval(self, metric: str) -> Interval:
        """95 % interval over images of one of its metrics."""
        return interval(self.resampled[metric], self.metrics[metric])


class Difference(NamedTuple):
    """First minus second, on the same images."""

    value: float
    interval: Interval
    p_value: float
    """Of "no difference", adjusted for the number of pairs."""

    @property
    def shown(self) -> bool:
        """Whether chance in the choice of images is an unlikely reason for it."""
        return self.p_value < 1 - LEVEL

    def __str__(self) -> str:
        return f"{self.value:+.4f}, 95 % {self.interval}, p = {self.p_value:.4f}"


class Pair(NamedTuple):
    """Two runs and their differences by metric."""

    first: Contestant
    second: Contestant
    differences: dict[str, Difference]

    def sentence(self, spreads: Sequence["SeedSpread"] = ()) -> str:
        """What the images show of the two, and whether other seeds might have shown something else."""
        a, b, ece = self.first.letter, self.second.letter, self.differences["ece"]
        if ece.shown:
            told = f"{a} is {'better' if ece.value < 0 else 'worse'} calibrated than {b}: {ece}"
        else:
            images = len(self.first.scores)
            told = f"{a} and {b}: no difference in calibration can be shown on {images} images: {ece}"
        verdicts: dict[str, list[str]] = {"better": [], "worse": [], "no difference shown": []}
        for metric, words in WORDS.items():
            difference = self.differences[metric]
            better = (difference.value > 0) is METRICS[metric].higher_is_better
            verdict = ("better" if better else "worse") if difference.shown else "no difference shown"
            verdicts[verdict].append(words)
        rest = [f"{verdict} in {_and(words)}" for verdict, words in verdicts.items() if words]
        told = f"{told}; {a} against {b}: {', '.join(rest)}."
        if self.first.stored.network() == self.second.stored.network():
            return f"{told} They are the same network."
        for spread in spreads:
            if {a, b} <= set(spread.letters):
                return f"{told} They differ in nothing but the seed."
            if ece.shown and {a, b} & set(spread.letters) and spread.largest["ece"] >= abs(ece.value):
                return (
                    f"{told} But seeds alone make {_and(spread.letters)} differ by {spread.largest['ece']:.4f}: this "
                    f"says something about these two networks, and nothing about their settings."
                )
        return told


class SeedSpread(NamedTuple):
    """How much runs differ that share everything but the seed."""

    letters: list[str]
    mean: dict[str, float]
    deviation: dict[str, float]
    """Standard deviation over the seeds, by metric."""
    largest: dict[str, float]
    """Largest difference between two of the runs, by metric."""
    half_width: dict[str, float]
    """Half the mean width of the runs' own 95 % intervals over images, by metric."""

    def sentence(self) -> str:
        """Whose seeds differ how much, beside the images."""
        parts = [
            f"{metric} {self.mean[metric]:.4f} ± {self.deviation[metric]:.4f} (images: ± {self.half_width[metric]:.4f})"
            for metric in COMPARED
        ]
        return (
            f"{_and(self.letters)} share everything but the seed. Mean ± standard deviation over {len(self.letters)} "
            f"seeds, beside half of a run's 95 % interval over images: {'; '.join(parts)}."
        )


def between_settings(spreads: Sequence[SeedSpread]) -> Iterator[str]:
    """Of every two settings that were trained with several seeds, one sentence on the difference of their means."""
    for first, second in itertools.combinations(spreads, 2):
        parts = []
        for metric in COMPARED:
            errors = (each.deviation[metric] / math.sqrt(len(each.letters)) for each in (first, second))
            difference = first.mean[metric] - second.mean[metric]
            parts.append(f"{metric} {difference:+.4f} ± {math.hypot(*errors):.4f}")
        yield (
            f"The setting of {_and(first.letters)} against that of {_and(second.letters)}, difference of their means "
            f"over seeds ± its standard error: {'; '.join(parts)}."
        )


def check_protocols(stored: Sequence[StoredScores]) -> None:
    """Refuse runs that were scored by different rules, or whose images of one name are not the same.

    Raises:
        InputError: what differs, between which runs.
    """
    first = stored[0]
    found = []
    for other in stored[1:]:
        keys = [
            key for key in {**first.protocol, **other.protocol}
            if key not in MAY_DIFFER
            and not (key in ADDED_LATER and not (key in first.protocol and key in other.protocol))
        ]  # fmt: skip
        found += [
            f"{key}: {first.protocol.get(key)} in {first.name} ({first.run_id}) but {other.protocol.get(key)} in "
            f"{other.name} ({other.run_id})"
            for key in keys
            if first.protocol.get(key) != other.protocol.get(key)
        ]
        shared = first.digests.keys() & other.digests.keys()
        changed = sorted(name for name in shared if first.digests[name] != other.digests[name])
        if changed:
            found.append(
                f"the contents of {len(changed)} of {len(shared)} images or masks, such as {listed(changed, 3)}, "
                f"between {first.name} ({first.run_id}) and {other.name} ({other.run_id})"
            )
    if found:
        raise InputError(
            "these runs cannot be compared, because they were not scored alike. What differs: " + "; ".join(found)
            + ". Score them alike with the entry point evaluate, and compare those runs"
        )  # fmt: skip


def shared_images(stored: Sequence[StoredScores]) -> list[str]:
    """Names of the images that all runs were scored on, in the first run's order.

    Raises:
        InputError: there are fewer than two.
    """
    names = [name for name in stored[0].digests if all(name in other.digests for other in stored)]
    if len(names) < 2:
        raise InputError(f"these runs share {len(names)} scored image(s); a comparison needs at least two")
    return names


def compare(contestants: Sequence[Contestant]) -> list[Pair]:
    """Every pair's differences, with p-values that are adjusted, for each metric, for the number of pairs."""
    pairs = list(itertools.combinations(contestants, 2))
    differences = {
        metric: [first.resampled[metric] - second.resampled[metric] for first, second in pairs] for metric in COMPARED
    }
    values = {
        metric: [first.metrics[metric] - second.metrics[metric] for first, second in pairs] for metric in COMPARED
    }
    ends = {metric: list(map(interval, differences[metric], values[metric])) for metric in COMPARED}
    adjusted = {metric: holm(list(map(p_value, differences[metric], values[metric]))) for metric in COMPARED}
    return [
        Pair(first, second, {
            metric: Difference(values[metric][place], ends[metric][place], adjusted[metric][place])
            for metric in COMPARED
        })
        for place, (first, second) in enumerate(pairs)
    ]  # fmt: skip


def seed_spreads(contestants: Sequence[Contestant]) -> list[SeedSpread]:
    """Of every setting that was trained with more than one seed, how much the seeds differ."""
    settings: dict[str, dict[object, Contestant]] = {}
    for each in contestants:
        by_network = settings.setdefault(json.dumps(each.stored.setting(), sort_keys=True), {})
        by_network.setdefault(each.stored.network(), each)  # the same network may have been scored twice
    found = []
    for by_network in settings.values():
        group = list(by_network.values())
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
    """Every run with its metrics on these images, means over classes taken over one set of classes for all runs."""
    found = [each.scores(names) for each in stored]
    classes = common_classes(found)
    for place, (each, title, scores) in enumerate(zip(stored, _titles(stored), found, strict=True)):
        yield Contestant(_letter(place), each, title, scores, scores.metrics(classes), scores.resampled(classes))


def _titles(stored: Sequence[StoredScores]) -> list[str]:
    """The runs' names, told apart by their seed or, if need be, by their ID."""
    titles = [each.name for each in stored]
    for addition in (lambda each: f"seed {each.seed}", lambda each: each.run_id[:8]):
        titles = [
            f"{title} · {addition(each)}" if titles.count(title) > 1 else title
            for title, each in zip(titles, stored, strict=True)
        ]
    return titles


def _letter(place: int) -> str:
    """A, B, …, Z, AA, AB, …"""
    return (_letter(place // 26 - 1) if place >= 26 else "") + chr(ord("A") + place % 26)


def _and(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
