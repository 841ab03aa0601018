"""Point (h) of the original report, first half: several models side by side."""

import itertools
from typing import Any

from segmentation.metrics import COMPARED
from studies.base import original_report
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.content import ReportContent, ReportedRun
from studies.report.markup import Page, measured
from studies.report.one_model import add_sources, is_original_data
from studies.scores.comparison import SeedSpread, between_settings

PLOTS = {
    "reliability": "Reliability of all models",
    "loss": "Loss of all models by epoch",
    "accuracy": "Pixel accuracy of all models by epoch",
    "difference_ece": "Differences of ECE between the models, with intervals",
    "example_0": "One image, its labels, and the prediction of each model",
    "example_1": "Another image, its labels, and the prediction of each model",
}
"""Plots of a comparison in the order of the page, with their alternative texts."""


def models(page: Page, content: ReportContent) -> None:
    """Add the comparison, or the command that creates one."""
    page.heading("(h) Models side by side")
    table = content.comparison.json("comparison/table.json") if content.comparison else None
    if content.comparison is None or table is None:
        _without_comparison(page, content)
    else:
        _comparison(page, content, content.comparison, table)
    _original_models(page, content)


def _comparison(page: Page, content: ReportContent, run: ReportedRun, table: dict[str, Any]) -> None:
    anchors = {each.run_id: each.anchor for each in content.training_runs}
    rows = []
    for each in table["runs"]:
        name = escaped(each["name"])
        linked = f"[{name}](#{anchors[each['run_id']]})" if each["run_id"] in anchors else name
        rows.append([each["letter"], linked, *(measured(each, metric) for metric in COMPARED)])
    page.text(f"On the {len(table['images'])} images that all models were scored on. Brackets are 95 % intervals.")
    page.table(["", "model", *COMPARED], rows)
    page.items(escaped(pair["sentence"]) for pair in table["pairs"])
    spreads = [SeedSpread(**spread) for spread in table["seeds"]]
    page.text(*(escaped(spread.sentence()) for spread in spreads))
    page.text(*(escaped(sentence) for sentence in between_settings(spreads)))
    if len(table["pairs"]) > 1:
        page.text(f"p-values are adjusted for {len(table['pairs'])} pairs by Holm's method.")
    found = run.images("comparison")
    for name, alt in PLOTS.items():
        if name in found:
            page.image(f"{run.run_id[:8]}-{name}.png", found[name], alt)
    add_sources(page, run)
    compared = {each["run_id"] for each in table["runs"]}
    others = [each for each in content.training_runs if each.run_id not in compared]
    if others:
        ids = ",".join([each["run_id"] for each in table["runs"]] + [each.run_id for each in others])
        names = ", ".join(f"[{escaped(each.name)}](#{each.anchor})" for each in others)
        values = {"run_ids": ids, "split": content.split}
        page.add_missing(f"the comparison with {names}", command("compare", values))


def _without_comparison(page: Page, content: ReportContent) -> None:
    path = f"reliability/{content.split}.json"
    scored = [(each, each.json(path)) for each in content.training_runs if path in each.files]
    if len(content.training_runs) > 1:
        if scored:
            page.table(
                ["model", *COMPARED],
                [
                    [f"[{escaped(each.name)}](#{each.anchor})", *(measured(scores, name) for name in COMPARED)]
                    for each, scores in scored
                ],
            )
        page.text("Each interval is of one model. Whether two models differ, only their comparison shows.")
        add_sources(page, *(each for each, _ in scored))
        ids = ",".join(each.run_id for each in content.training_runs)
        values = {"run_ids": ids, "split": content.split}
        page.add_missing(f"the comparison of these {len(content.training_runs)} models", command("compare", values))
        return
    config = content.main.config if content.main else {}
    same = {name: value for name, value in config.items() if name not in ("model", "weights")}
    if config.get("model") not in {each.model for each in original_report.MODELS}:
        same["variants"] = f"{config.get('model')}, {config.get('model')} weights=imagenet"
    page.add_missing("other models to compare with (the original report has four)", command("models", same))


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
