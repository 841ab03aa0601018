"""Point (h) of the original report, first half: several models side by side."""

import itertools
from typing import Any

from segmentation.metrics import COMPARED
from studies.base import original_report as published
from studies.base.markdown import escaped
from studies.base.rerun import command
from studies.report.collected import Collected, Held
from studies.report.markup import Page, measured
from studies.report.one_model import made_by, original_data
from studies.scores.comparison import SeedSpread, between_settings

PICTURES = {
    "reliability": "Reliability of all models",
    "loss": "Loss of all models over the epochs",
    "accuracy": "Pixel accuracy of all models over the epochs",
    "difference_ece": "Differences of ECE between the models, with intervals",
    "example_0": "One image, its true classes, and what each model predicts",
    "example_1": "Another image, its true classes, and what each model predicts",
}


def models(page: Page, reported: Collected) -> None:
    """The comparison with its sentences, or what would make it."""
    page.heading("(h) Models side by side")
    table = reported.comparison.record("comparison/table.json") if reported.comparison else None
    if reported.comparison is None or table is None:
        _without_comparison(page, reported)
    else:
        _comparison(page, reported, reported.comparison, table)
    _published(page, reported)


def _comparison(page: Page, reported: Collected, run: Held, table: dict[str, Any]) -> None:
    anchors = {each.run_id: each.anchor for each in reported.trainings}
    rows = []
    for each in table["runs"]:
        name = escaped(each["name"])
        shown = f"[{name}](#{anchors[each['run_id']]})" if each["run_id"] in anchors else name
        rows.append([each["letter"], shown, *(measured(each, metric) for metric in COMPARED)])
    page.text(f"On the {len(table['images'])} images that all were scored on. In brackets, 95 % intervals.")
    page.table(["", "model", *COMPARED], rows)
    page.items(escaped(pair["sentence"]) for pair in table["pairs"])
    spreads = [SeedSpread(**spread) for spread in table["seeds"]]
    page.text(*(escaped(spread.sentence()) for spread in spreads))
    page.text(*(escaped(sentence) for sentence in between_settings(spreads)))
    if len(table["pairs"]) > 1:
        page.text(f"p-values are adjusted for {len(table['pairs'])} pairs, by Holm's method.")
    found = run.pictures("comparison")
    for name in PICTURES:
        if name in found:
            page.picture(f"{run.run_id[:8]}-{name}.png", found[name], PICTURES[name])
    made_by(page, run)
    compared = {each["run_id"] for each in table["runs"]}
    others = [each for each in reported.trainings if each.run_id not in compared]
    if others:
        ids = ",".join([each["run_id"] for each in table["runs"]] + [each.run_id for each in others])
        names = ", ".join(f"[{escaped(each.name)}](#{each.anchor})" for each in others)
        page.lacks(f"the comparison with {names}", command("compare", {"run_ids": ids, "split": reported.split}))


def _without_comparison(page: Page, reported: Collected) -> None:
    path = f"reliability/{reported.split}.json"
    scored = [(each, each.record(path)) for each in reported.trainings if path in each.files]
    if len(reported.trainings) > 1:
        if scored:
            page.table(
                ["model", *COMPARED],
                [
                    [f"[{escaped(each.name)}](#{each.anchor})", *(measured(record, name) for name in COMPARED)]
                    for each, record in scored
                ],
            )
        page.text("Each interval is of one model by itself; whether two differ, only their comparison can tell.")
        made_by(page, *(each for each, _ in scored))
        ids = ",".join(each.run_id for each in reported.trainings)
        values = {"run_ids": ids, "split": reported.split}
        page.lacks(f"the comparison of these {len(reported.trainings)} trainings", command("compare", values))
        return
    config = reported.main.config if reported.main else {}
    alike = {name: value for name, value in config.items() if name not in ("model", "weights")}
    if config.get("model") not in {each.model for each in published.MODELS}:
        alike["variants"] = f"{config.get('model')}, {config.get('model')} weights=imagenet"
    page.lacks("other models to compare with, as the original report has four", command("models", alike))


def _published(page: Page, reported: Collected) -> None:
    """The original report's four models, beside ours where there are such."""
    if not original_data(reported):
        return
    path = f"reliability/{reported.split}.json"
    rows = []
    for theirs in published.MODELS:
        ours = [
            measured(each.record(path), "ece")
            for each in reported.trainings
            if path in each.files and published.trained_like(each.config) == theirs
        ]
        start = "fine-tuned from pretrained weights" if theirs.pretrained else "from scratch"
        rows.append([theirs.model, start, f"{theirs.ece:.4f}", "; ".join(ours) or "–"])
    page.text("The original report's models, and ours of the same network and kind of start:")
    page.table(["model", "trained", "its ECE", "our ECE"], rows)
    low, high = (reported.scores or {})["intervals"]["ece"]
    if low is None or high is None:
        return
    half = (high - low) / 2
    pairs = list(itertools.combinations(published.MODELS, 2))
    close = [(first, second) for first, second in pairs if abs(first.ece - second.ece) < half]
    told = f"It gives no intervals and one seed each. Half of our interval's width is {half:.4f}: "
    if close:
        shown = "; ".join(f"{first.ece:.4f} and {second.ece:.4f}" for first, second in close)
        told += f"of its {len(pairs)} differences, {len(close)} are smaller ({shown}), and may be chance."
    else:
        told += f"all of its {len(pairs)} differences are larger, but other seeds may differ as much."
    page.text(told)
