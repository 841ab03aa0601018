"""Compares runs, as one MLflow run: tables, sentences, and plots with all of them."""

from collections.abc import Iterator, Sequence

from segmentation.data.source import data_name
from segmentation.errors import InputError, counted
from segmentation.metrics import HEADLINE, METRICS
from studies import tracking
from studies.base import original_report as published
from studies.base.markdown import code, escaped, unbroken
from studies.base.tables import csv_text, table
from studies.config import CompareConfig
from studies.runs.names import SHORT
from studies.scores.comparison import (
    Contestant,
    Pair,
    adjusted_for,
    between_settings,
    check_protocols,
    comparable,
)
from studies.scores.comparison_files import (
    Compared,
    compared,
    comparison_examples,
    comparison_plots,
    comparison_record,
)
from studies.scores.labels import differing_parameters
from studies.scores.stored import StoredScores, find_runs, named_alone
from studies.scores.wording import few_images_warning


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
        raise InputError(
            f"run_ids={config.run_ids} names {counted(len(stored), 'run')}; give at least two different ones"
        )
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
    found = compared(stored)
    tracking.log_tags({"compared_runs": ",".join(each.stored.run_id for each in found.contestants)})
    markdown = "\n".join(_markdown(found))
    tracking.log_table(markdown, "comparison/table.md")
    tracking.log_table(_table_csv(found.contestants, found.pairs), "comparison/table.csv")
    tracking.log_json(comparison_record(found), "comparison/table.json")
    for name, figure in comparison_plots(found):
        drawn = tracking.log_figure(figure, f"comparison/{name}.png")
        if name == "reliability":
            tracking.log_note(markdown, [drawn])
    shown = 0
    for name, figure in comparison_examples(found, examples):
        tracking.log_figure(figure, f"comparison/{name}.png")
        shown += 1
    _print_result(found)
    if not shown and examples:
        print("No example images are plotted: the runs share none.")
    return list(found.pairs)


def _markdown(found: Compared) -> Iterator[str]:
    """Yield the description: which differences are real, the runs, and the differences as tables."""
    contestants, pairs, spreads, names = found
    yield from ("## Which differences are real", "")
    yield from (f"- {escaped(pair.sentence(spreads))}" for pair in pairs)
    for sentence in (*(spread.sentence() for spread in spreads), *between_settings(spreads)):
        yield from ("", escaped(sentence))
    yield from ("", f"On the {len(names)} images that all runs share. {adjusted_for(len(pairs))}".rstrip())
    for warning in few_images_warning(len(names)):
        yield from ("", f"**Warning:** {warning}.")
    yield from ("", "## Runs", "")
    yield from table(["", "run", "ID"], [
        [each.letter, escaped(each.title), code(each.stored.run_id)] for each in contestants
    ])  # fmt: skip
    yield from ("", "## Metrics", "")
    yield from table(["", *(each.letter for each in contestants)], [
        [METRICS[name].label, *(unbroken(f"{each.metrics[name]:.4f} {each.interval(name)}") for each in contestants)]
        for name in HEADLINE
    ])  # fmt: skip
    yield from ("", "Brackets: 95 % intervals from paired resamples of the images.")
    if parameters := differing_parameters([each.stored for each in contestants]):
        yield from ("", "## Parameters that differ", "")
        yield from table(["", *(each.letter for each in contestants)], [
            [name, *(escaped(value) for value in values)] for name, values in parameters.items()
        ])  # fmt: skip
    yield from ("", "## Differences", "")
    yield from table(["pair", "metric", "difference", "95 % interval", "p"], [
        [
            unbroken(f"{pair.first.letter} − {pair.second.letter}"), METRICS[metric].label, f"{difference.value:+.4f}",
            unbroken(str(difference.interval)), f"{difference.p_value:.4f}",
        ]
        for pair in pairs
        for metric, difference in pair.differences.items()
    ])  # fmt: skip
    if lines := list(published_ece_table(contestants)):
        yield from ("", "## The original report's ECE", "", *lines)
    yield ""


def published_ece_table(contestants: Sequence[Contestant]) -> Iterator[str]:
    """Yield a table of our ECEs and those of the original report if images and size are the same, else nothing."""
    if not all(published.scored_the_same(each.stored.protocol) for each in contestants):
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


def _print_result(found: Compared) -> None:
    """Print which letter is which run, which differences are real, then the metrics of each run."""
    contestants, pairs, spreads, names = found
    for each in contestants:
        print(f"{each.label} ({each.stored.run_id})")
    print()
    for pair in pairs:
        print(pair.sentence(spreads))
    for sentence in (*(spread.sentence() for spread in spreads), *between_settings(spreads)):
        print(sentence)
    for warning in few_images_warning(len(names)):
        print(f"Warning: {warning}.")
    print(f"Differences: first minus second. {adjusted_for(len(pairs))}".rstrip())
    print(f"\nOn {len(names)} images that all runs share. Brackets: 95 % intervals over images.")
    width = max(len(METRICS[metric].label) for metric in HEADLINE)
    for each in contestants:
        for metric in HEADLINE:
            value = f"{each.metrics[metric]:.4f} {each.interval(metric)}"
            print(f"  {each.letter}  {METRICS[metric].label:{width}}  {value}")
    for line in published_ece_table(contestants):
        print(line)
