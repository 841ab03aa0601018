"""Several models side by side; point (h) of the original report, first half."""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from segmentation.metrics import HEADLINE, METRICS
from studies.base import original_report
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.content import Comparison, ReportContent, ReportedRun
from studies.report.markup import Page, measured, on_one_line
from studies.report.one_model import add_sources, is_original_data
from studies.report.predictions import learned_nothing
from studies.scores.comparison import SeedSpread, between_settings
from studies.scores.folds import Spread, explanation

PLOTS = {
    "reliability": "Reliability of all models",
    "loss": "Loss of all models by epoch",
    "accuracy": "Pixel accuracy of all models by epoch",
    "difference_ece": "Differences of ECE between the models, with intervals",
    "example_0": "One image, its labels, and the prediction of each model",
    "example_1": "Another image, its labels, and the prediction of each model",
}
"""Plots of a comparison in the order of the page, with their captions."""
COLUMNS = tuple(METRICS[name].label for name in HEADLINE)
NAMED = 5
"""Most runs that the page names as missing in a comparison."""


def models(page: Page, content: ReportContent) -> None:
    """Add the comparison, or the command that creates one."""
    page.heading("Models side by side", "h")
    found = content.comparison
    folds = found.run.json("comparison/folds.json") if found is not None and found.run is not None else None
    if found is not None and found.run is not None and folds is not None:
        _folds(page, found.run, folds)
    elif found is None or found.table is None:
        _without_comparison(page, content)
    else:
        _comparison(page, content, found, found.table)
    _original_models(page, content)


def _comparison(page: Page, content: ReportContent, found: Comparison, table: Mapping[str, Any]) -> None:
    anchors = {each.run_id: each.anchor for each in content.training_runs}
    rows = []
    for each in table["runs"]:
        name = escaped(each["name"])
        linked = f"[{name}](#{anchors[each['run_id']]})" if each["run_id"] in anchors else name
        rows.append([each["letter"], linked, *(on_one_line(measured(each, metric)) for metric in HEADLINE)])
    page.items(escaped(pair["sentence"]) for pair in table["pairs"])
    page.text(f"On the {len(table['images'])} images that all models were scored on. Brackets are 95 % intervals.")
    page.table(["", "model", *COLUMNS], rows)
    _warnings(page, content)
    if parameters := table.get("parameters"):
        page.text("Parameters that differ:")
        letters = [each["letter"] for each in table["runs"]]
        page.table(["", *letters], [[name, *map(escaped, values)] for name, values in parameters.items()])
    spreads = [SeedSpread(**spread) for spread in table["seeds"]]
    page.text(*(escaped(spread.sentence()) for spread in spreads))
    page.text(*(escaped(sentence) for sentence in between_settings(spreads)))
    if len(table["pairs"]) > 1:
        page.text(f"p-values are adjusted for {len(table['pairs'])} pairs by Holm's method.")
    prefix = found.run.run_id[:8] if found.run else "compared"
    for name, alt in PLOTS.items():
        if name in found.images:
            page.image(f"{prefix}-{name}.png", found.images[name], alt)
    if found.run:
        add_sources(page, found.run)
    else:
        page.text("These runs were compared for this page. To record the comparison:")
        page.code(_compare_command(content, [each["run_id"] for each in table["runs"]]))
    compared = {each["run_id"] for each in table["runs"]}
    others = [each for each in content.training_runs if each.run_id not in compared]
    if others:
        ids = [each["run_id"] for each in table["runs"]] + [each.run_id for each in others]
        names = ", ".join(f"[{escaped(each.name)}](#{each.anchor})" for each in others[:NAMED])
        more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
        page.add_missing(f"the comparison with {names}{more}", _compare_command(content, ids))


def _folds(page: Page, run: ReportedRun, record: dict[str, Any]) -> None:
    """Add the cross-validation of several settings."""
    rows = [
        [
            escaped(each["name"]), f"{len(each['run_ids'])} of {record['folds']}",
            *(str(Spread(each["metrics"][metric], each["std"][metric])) for metric in HEADLINE),
        ]
        for each in record["settings"]
    ]  # fmt: skip
    page.text(explanation(record["folds"]))
    page.table(["setting", "folds", *COLUMNS], rows)
    page.items(escaped(sentence) for sentence in record["sentences"])
    add_sources(page, run)


def _without_comparison(page: Page, content: ReportContent) -> None:
    path = f"reliability/{content.split}.json"
    scored = [(each, each.json(path)) for each in content.training_runs if path in each.files]
    if len(content.training_runs) > 1:
        if scored:
            page.table(
                ["model", *COLUMNS],
                [
                    [
                        f"[{escaped(each.name)}](#{each.anchor})",
                        *(on_one_line(measured(scores, name)) for name in HEADLINE),
                    ]
                    for each, scores in scored
                ],
            )
            _warnings(page, content)
        page.text("Each interval is of one model. Whether two models differ, only their comparison shows.")
        why_not = f" ({escaped(content.comparison.why_not)})" if content.comparison else ""
        ids = [each.run_id for each in content.training_runs]
        page.add_missing(f"the comparison of these {len(ids)} models{why_not}", _compare_command(content, ids))
        return
    config = content.main.config if content.main else {}
    same = {name: value for name, value in config.items() if name not in ("model", "weights")}
    if config.get("model") not in {each.model for each in original_report.MODELS}:
        same["variants"] = f"{config.get('model')}, {config.get('model')} weights=imagenet"
    four = " (the original report has four)" if content.is_like_original else ""
    page.add_missing(f"other models to compare with{four}", command("models", same))


def _warnings(page: Page, content: ReportContent) -> None:
    """Add which of the models have learned no segmentation."""
    found = [(run, reason) for run in content.training_runs if (reason := learned_nothing(run, content.split))]
    page.items(
        f"**Warning:** [{escaped(run.name)}](#{run.anchor}) has learned no segmentation: it {escaped(reason)}."
        for run, reason in found
    )


def _compare_command(content: ReportContent, run_ids: Iterable[str]) -> str:
    return command("compare", {"run_ids": ",".join(run_ids), "split": content.split})


def _original_models(page: Page, content: ReportContent) -> None:
    """Add the original report's four models next to ours, if the data are the same."""
    if not is_original_data(content):
        return
    path = f"reliability/{content.split}.json"
    rows = []
    for theirs in original_report.MODELS:
        ours = [
            measured(each.json(path), "ece")
            for each in content.training_runs
            if path in each.files and original_report.trained_like(each.config) == theirs
        ]
        start = "pretrained weights" if theirs.pretrained else "from scratch"
        rows.append([theirs.model, start, f"{theirs.ece:.4f}", "; ".join(ours) or "–"])
    page.text("The original report's models, and ours of the same architecture and kind of starting weights:")
    page.table(["model", "trained", "its ECE", "our ECE"], rows)
    low, high = (content.scores or {})["intervals"]["ece"]
    if low is None or high is None:
        return
    half = (high - low) / 2
    pairs = list(itertools.combinations(original_report.MODELS, 2))
    close = [(first, second) for first, second in pairs if abs(first.ece - second.ece) < half]
    text = f"It reports one seed each and no intervals. Half of our interval's width is {half:.4f}: "
    if close:
        differences = "; ".join(f"{first.ece:.4f} and {second.ece:.4f}" for first, second in close)
        text += f"{len(close)} of its {len(pairs)} differences are smaller ({differences}), and may be chance."
    else:
        text += f"all of its {len(pairs)} differences are larger, but other seeds may differ as much."
    page.text(text)
