"""What a comparison stores: its record as JSON, and its plots."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from segmentation import plots
from segmentation.config import RGB
from segmentation.data.source import split_title
from segmentation.io.channels import display_note
from segmentation.metrics import COMPARED, METRICS
from studies.scores.comparison import (
    Contestant,
    Pair,
    SeedSpread,
    check_protocols,
    compare,
    contestants_of,
    seed_spreads,
    shared_images,
)
from studies.scores.labels import differing_parameters
from studies.scores.stored import StoredScores
from studies.scores.wording import protocol_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Compared(NamedTuple):
    """Runs with their differences, on the images that all share."""

    contestants: Sequence[Contestant]
    pairs: Sequence[Pair]
    spreads: Sequence[SeedSpread]
    names: Sequence[str]
    """Names of the shared images."""


def compared(stored: Sequence[StoredScores]) -> Compared:
    """Return the comparison of at least two runs on the images that all share.

    Raises:
        InputError: the runs were not scored by the same rules, or share fewer than two images.
    """
    check_protocols(stored)
    names = shared_images(stored)
    contestants = list(contestants_of(stored, names))
    return Compared(contestants, compare(contestants), seed_spreads(contestants), names)


def comparison_record(found: Compared) -> dict[str, Any]:
    """Return everything about a comparison as plain values."""
    return {
        "runs": [
            {
                "letter": each.letter, "run_id": each.stored.run_id, "name": each.title, "run_name": each.stored.name,
                "seed": each.stored.seed, "metrics": each.metrics,
                "intervals": {name: each.interval(name) for name in each.metrics},
            }
            for each in found.contestants
        ],
        "parameters": differing_parameters([each.stored for each in found.contestants]),
        "pairs": [
            {
                "first": pair.first.letter, "second": pair.second.letter, "sentence": pair.sentence(found.spreads),
                "differences": {metric: difference._asdict() for metric, difference in pair.differences.items()},
            }
            for pair in found.pairs
        ],
        "seeds": [spread._asdict() for spread in found.spreads],
        "protocol": found.contestants[0].stored.protocol,
        "images": list(found.names),
    }  # fmt: skip


def comparison_plots(found: Compared) -> Iterator[tuple[str, "Figure"]]:
    """Yield reliability diagrams in one plot, the differences of each metric, and curves, each with its name."""
    contestants = found.contestants
    protocol = contestants[0].stored.protocol
    config = contestants[0].stored.origin["config"]
    data = split_title(protocol["dataset"], str(config.get("data_dir", "")), protocol["split"])
    title = f"{data}, {len(contestants[0].scores)} shared images"
    pixels = int(contestants[0].scores.reliability.bins().count.sum())
    note = protocol_line(protocol | {"images": len(contestants[0].scores), "pixels": pixels})
    bins = {each.label: each.scores.reliability.bins() for each in contestants}
    bands = {each.label: each.scores.accuracy_band() for each in contestants}
    yield "reliability", plots.reliability_lines(bins, title, bands if len(contestants) <= 4 else None, note)
    for metric in COMPARED:
        rows = [
            (f"{pair.first.letter} − {pair.second.letter}", difference.value, difference.interval, difference.shown)
            for pair in found.pairs
            for difference in [pair.differences[metric]]
        ]
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        heading = f"difference of {METRICS[metric].label} ({better} is better)"
        adjusted = f" · intervals adjusted for {len(found.pairs)} pairs" if len(found.pairs) > 1 else ""
        yield f"difference_{metric}", plots.differences(rows, title, heading, f"{note}{adjusted}")
    # one curve for each training run, however often its model was scored
    first_of = {each.stored.origin["trained_in_run"]: each for each in reversed(contestants)}
    curves = {each.label: each.stored.curves() for each in contestants if each in first_of.values()}
    for name, heading, ylabel, metric in (
        ("loss", "Loss", "cross-entropy, nats per pixel", "loss"),
        ("accuracy", "Pixel accuracy", "fraction of pixels", "pixel_accuracy"),
    ):
        runs = {
            label: {split: curve[f"{split}/{metric}"] for split in ("train", "val")}
            for label, curve in curves.items()
            if curve
        }
        if runs:
            yield name, plots.curves_of_runs(heading, ylabel, runs)


def comparison_examples(found: Compared, count: int) -> Iterator[tuple[str, "Figure"]]:
    """Yield images that all runs have stored with the prediction of each, and the name of each plot."""
    examples = [each.stored.examples() for each in found.contestants]
    origin = found.contestants[0].stored.origin
    note = display_note(origin["config"].get("channels", RGB), origin.get("bits", 8))
    names = [name for name in examples[0] if all(name in other for other in examples)]
    chosen = [names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]
    for number, name in enumerate(chosen):
        pairs = zip(found.contestants, examples, strict=True)
        predictions = {each.label: stored[name].predicted for each, stored in pairs}
        first, labels = examples[0][name], found.contestants[0].stored.labels
        title = f"{name}\n{note}" if note else name
        yield f"example_{number}", plots.side_by_side(first.image, first.truth, predictions, labels, title)
