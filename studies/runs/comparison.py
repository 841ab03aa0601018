"""Compares runs, as one MLflow run: tables, sentences, and plots with all of them."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from segmentation import plots
from segmentation.errors import InputError
from segmentation.metrics import COMPARED, METRICS
from studies import tracking
from studies.base import original_report as published
from studies.base.markdown import code, escaped
from studies.base.tables import csv_text, table
from studies.config import CompareConfig
from studies.runs.names import SHORT, data_name
from studies.scores.comparison import (
    Contestant,
    Pair,
    SeedSpread,
    adjusted_for,
    between_settings,
    check_protocols,
    comparable,
    compare,
    contestants_of,
    seed_spreads,
    shared_images,
)
from studies.scores.stored import StoredScores, find_runs, named_alone
from studies.scores.wording import protocol_line


def run_comparison(config: CompareConfig) -> list[Pair]:
    """Compare as configured, record the comparison in one MLflow run, and print one sentence per pair.

    Of an experiment, runs that were scored by other rules than the rest are skipped, if two others remain.

    Returns:
        The pairs.

    Raises:
        InputError: a mistake of the user. A run that is open by then ends as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    stored = [StoredScores(run, config.split) for run in find_runs(config.run_ids, config.split)]
    if len(stored) < 2:
        raise InputError(f"run_ids={config.run_ids} names {len(stored)} run(s); give at least two different ones")
    stored, skipped = comparable(stored, named_alone(config.run_ids, stored))
    check_protocols(stored)
    tags = {"kind": "compare", "compared": config.run_ids}
    with tracking.tracked_run(config.experiment, config.run_name or "compare", tags) as run_id:
        tracking.log_config(config)
        for each, reason in skipped:
            print(f"Skipped {each.name} ({each.run_id}), which was scored differently: {reason}.")
        pairs = record_comparison(stored, config.examples)
        if config.run_name is None:
            tracking.log_tags({"mlflow.runName": _name(stored, config.split)})
    print(tracking.where_to_look(run_id))
    return pairs


def _name(stored: Sequence[StoredScores], split: str) -> str:
    """Return the name of a comparison: number of runs, split, and the fields that differ."""
    configs = [each.origin["config"] for each in stored]
    differing = [name for name in configs[0] if name in SHORT and len({str(each.get(name)) for each in configs}) > 1]
    about = f"{', '.join(differing[:4])} · " if differing else ""
    data = data_name(str(configs[0].get("dataset")), str(configs[0].get("data_dir")))
    return f"compare {about}{len(stored)} runs · {split} · {data}"


def record_comparison(stored: Sequence[StoredScores], examples: int) -> list[Pair]:
    """Compare runs, record the comparison in the open MLflow run, and print it.

    Args:
        stored: scores of at least two runs on the same split.
        examples: number of images to plot with the prediction of every model.

    Raises:
        InputError: the runs were not scored by the same rules.
    """
    check_protocols(stored)
    names = shared_images(stored)
    contestants = list(contestants_of(stored, names))
    pairs, spreads = compare(contestants), seed_spreads(contestants)
    tracking.log_tags({"compared_runs": ",".join(each.stored.run_id for each in contestants)})
    markdown = "\n".join(_markdown(contestants, pairs, spreads))
    tracking.log_table(markdown, "comparison/table.md")
    tracking.log_table(_table_csv(contestants, pairs), "comparison/table.csv")
    tracking.log_json(_record(contestants, pairs, spreads, names), "comparison/table.json")
    for name, figure in _figures(contestants, pairs):
        drawn = tracking.log_figure(figure, f"comparison/{name}.png")
        if name == "reliability":
            tracking.log_note(markdown, [drawn])
    shown = _log_side_by_side(contestants, examples)
    _print_result(contestants, pairs, spreads)
    if not shown and examples:
        print("No example images are plotted: the runs share none.")
    return pairs


def _figures(contestants: Sequence[Contestant], pairs: Sequence[Pair]) -> Iterator[tuple[str, Figure]]:
    protocol = contestants[0].stored.protocol
    images = len(contestants[0].scores)
    title = f"{protocol['dataset']}/{protocol['split']}, {images} shared images"
    pixels = int(contestants[0].scores.reliability.bins().count.sum())
    note = protocol_line(protocol | {"images": images, "pixels": pixels})
    bins = {each.label: each.scores.reliability.bins() for each in contestants}
    bands = {each.label: each.scores.accuracy_band() for each in contestants}
    yield "reliability", plots.reliability_lines(bins, title, bands if len(contestants) <= 4 else None, note)
    for metric in COMPARED:
        rows = [
            (f"{pair.first.letter} − {pair.second.letter}", difference.value, difference.interval, difference.shown)
            for pair in pairs
            for difference in [pair.differences[metric]]
        ]
        better = "higher" if METRICS[metric].higher_is_better else "lower"
        adjusted = f" · intervals adjusted for {len(pairs)} pairs" if len(pairs) > 1 else ""
        yield (
            f"difference_{metric}",
            plots.differences(
                rows, title, f"difference of {METRICS[metric].label} ({better} is better)", f"{note}{adjusted}"
            ),
        )
    # one curve for each training run, however often its model was scored
    first_of = {each.stored.origin["trained_in_run"]: each for each in reversed(contestants)}
    curves = {each.label: each.stored.curves() for each in contestants if each in first_of.values()}
    for name, heading, ylabel, metric in (
        ("loss", "Loss", "cross-entropy, nats per pixel", "loss"),
        ("accuracy", "Pixel accuracy", "fraction of pixels", "pixel_accuracy"),
    ):
        runs = {
            label: {split: found[f"{split}/{metric}"] for split in ("train", "val")}
            for label, found in curves.items()
            if found
        }
        if runs:
            yield name, plots.curves_of_runs(heading, ylabel, runs)


def _log_side_by_side(contestants: Sequence[Contestant], count: int) -> int:
    """Plot images that all runs have stored, with the prediction of each; return how many."""
    examples = [each.stored.examples() for each in contestants]
    names = [name for name in examples[0] if all(name in other for other in examples)]
    chosen = [names[index] for index in np.unique(np.linspace(0, len(names) - 1, min(count, len(names))).astype(int))]
    for number, name in enumerate(chosen):
        predictions = {each.label: stored[name].predicted for each, stored in zip(contestants, examples, strict=True)}
        first = examples[0][name]
        figure = plots.side_by_side(first.image, first.truth, predictions, contestants[0].stored.labels, name)
        tracking.log_figure(figure, f"comparison/example_{number}.png")
    return len(chosen)


def _markdown(contestants: Sequence[Contestant], pairs: Sequence[Pair], spreads: Sequence[SeedSpread]) -> Iterator[str]:
    runs = [
        [
            each.letter, f"{escaped(each.title)} ({code(each.stored.run_id)})",
            *(f"{each.metrics[metric]:.4f} {each.interval(metric)}" for metric in COMPARED),
        ]
        for each in contestants
    ]  # fmt: skip
    yield from table(["", "run", *COMPARED], runs)
    yield from ("", *(f"- {pair.sentence(spreads)}" for pair in pairs), "")
    differences = [
        [f"{pair.first.letter} − {pair.second.letter}", *(str(pair.differences[metric]) for metric in COMPARED)]
        for pair in pairs
    ]
    yield from table(["pair", *COMPARED], differences)
    if lines := list(published_ece_table(contestants)):
        yield from ("", *lines)
    for sentence in (*(spread.sentence() for spread in spreads), *between_settings(spreads)):
        yield from ("", sentence)
    images = len(contestants[0].scores)
    yield from (
        "",
        f"On the {images} images that all runs share. Intervals: 95 %, from paired resamples of the images. p-values: "
        f"of no difference. {adjusted_for(len(pairs))}",
    )


def published_ece_table(contestants: Sequence[Contestant]) -> Iterator[str]:
    """Yield a table of our ECEs and those of the original report if data and protocol are the same, else nothing."""
    protocol = contestants[0].stored.protocol
    if (protocol["dataset"], protocol["split"], protocol["resolution"]) != published.PROTOCOL:
        return
    rows = []
    for each in contestants:
        theirs = published.trained_like(each.stored.origin["config"])
        shown = "–" if theirs is None else f"{theirs.ece:.4f}"
        rows.append([escaped(each.label), f"{each.metrics['ece']:.4f} {each.interval('ece')}", shown])
    yield from table(["run", "ECE", "the original report's"], rows)


def _table_csv(contestants: Sequence[Contestant], pairs: Sequence[Pair]) -> str:
    header = [
        "what", "run", "second_run", "metric", "value", "low", "high", "p_value", "adjusted_low", "adjusted_high",
        "adjusted_p_value",
    ]  # fmt: skip
    rows: list[list[object]] = []
    for each in contestants:
        for metric in METRICS:
            ends = each.interval(metric)
            rows.append(["run", each.stored.run_id, "", metric, each.metrics[metric], *ends, "", "", "", ""])
    for pair in pairs:
        ids = pair.first.stored.run_id, pair.second.stored.run_id
        for metric, found in pair.differences.items():
            alone, adjusted = (*found.interval_alone, found.p_value_alone), (*found.interval, found.p_value)
            rows.append(["difference", *ids, metric, found.value, *alone, *adjusted])
    return csv_text(header, rows)


def _record(
    contestants: Sequence[Contestant], pairs: Sequence[Pair], spreads: Sequence[SeedSpread], names: Sequence[str]
) -> Mapping[str, object]:
    return {
        "runs": [
            {
                "letter": each.letter, "run_id": each.stored.run_id, "name": each.title, "seed": each.stored.seed,
                "metrics": each.metrics,
                "intervals": {name: each.interval(name) for name in each.metrics},
            }
            for each in contestants
        ],
        "pairs": [
            {
                "first": pair.first.letter, "second": pair.second.letter, "sentence": pair.sentence(spreads),
                "differences": {metric: found._asdict() for metric, found in pair.differences.items()},
            }
            for pair in pairs
        ],
        "seeds": [spread._asdict() for spread in spreads],
        "protocol": contestants[0].stored.protocol,
        "images": list(names),
    }  # fmt: skip


def _print_result(contestants: Sequence[Contestant], pairs: Sequence[Pair], spreads: Sequence[SeedSpread]) -> None:
    print(f"\nOn {len(contestants[0].scores)} images that all runs share. Brackets: 95 % intervals over images.")
    for each in contestants:
        print(f"  {each.label} ({each.stored.run_id})")
        for metric in COMPARED:
            print(f"      {metric:15} {each.metrics[metric]:.4f} {each.interval(metric)}")
    print(f"\nFirst minus second. {adjusted_for(len(pairs))}")
    for pair in pairs:
        print(pair.sentence(spreads))
    for sentence in (*(spread.sentence() for spread in spreads), *between_settings(spreads)):
        print(sentence)
    for line in published_ece_table(contestants):
        print(line)
