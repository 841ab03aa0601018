"""Which run a report leads with, and what its confusion matrix shows: against scikit-learn and by hand."""

import io
import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import jaccard_score, recall_score

from segmentation.errors import InputError
from studies.base.tables import csv_text
from studies.report.content import Comparison, ReportContent, ReportedRun, ReportedStudy
from studies.report.headline import best_of, first_of
from studies.report.markup import Page
from studies.report.page import summary, write
from studies.report.predictions import counts_of, learned_nothing, warnings_of
from studies.report.search import maps, objectives_of

NAMES = ["background", "cat", "dog"]
GOOD = [[60, 5, 5], [5, 10, 0], [5, 0, 10]]
BLIND = [[70, 0, 0], [15, 0, 0], [15, 0, 0]]
"""Predicts background everywhere: mean IoU 0.7 / 3."""


def record(metrics: dict[str, float], **more: Any) -> dict[str, Any]:
    ends = {name: [value - 0.01, value + 0.01] for name, value in metrics.items()}
    protocol = {
        "dataset": "animals", "split": "val", "images": 24, "pixels": 100, "bins": 10, "resolution": [10, 10],
        "interpolation": "bilinear", "precision": "float32", "confidence": "top label", "intervals": "95 %",
        "fingerprint": "abc",
    }  # fmt: skip
    bins: dict[str, Any] = {"edges": [0, 1], "count": [100], "confidence": [0.5], "accuracy": [0.5]}
    return {"metrics": metrics, "intervals": ends, "protocol": protocol, **bins, **more}


def run(
    name: str,
    counts: list[list[int]] | None = None,
    stored: dict[str, Any] | None = None,
    logged: dict[str, float] | None = None,
    tags: dict[str, str] | None = None,
    files: dict[str, bytes] | None = None,
    **config: Any,
) -> ReportedRun:
    found = dict(files or {})
    if counts is not None:
        rows = ([name, *row] for name, row in zip(NAMES, counts, strict=True))
        found["confusion/val.csv"] = csv_text(["true class \\ predicted class", *NAMES], rows).encode()
    if stored is not None:
        found["reliability/val.json"] = json.dumps(stored).encode()
    values = {"dataset": "folder", "monitor": "val/mean_iou"} | config
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return ReportedRun(
        name.ljust(32, "0"), name, "train", "FINISHED", "animals", start, 1.0, tags or {}, logged or {}, values, found
    )


def page_of(main: ReportedRun | None, **parts: Any) -> tuple[ReportContent, Page]:
    values: dict[str, Any] = {
        "title": "a report", "split": "val", "experiment": "animals", "main": main, "why_main": "", "scored": main,
        "history": {}, "training_runs": [main] if main else [], "comparison": None, "calibrations": [], "studies": [],
    }  # fmt: skip
    content = ReportContent(**values | parts)
    return content, write(content, "mlflow run . -e report", {})


def test_runs_are_ranked_by_their_own_monitor() -> None:
    few = run("few", logged={"val_model/mean_iou": 0.3, "val_model/loss": 0.2})
    many = run("many", logged={"val_model/mean_iou": 0.5, "val_model/loss": 0.9})
    assert best_of([few, many], "val", "runs") == (many, "highest val/mean_iou of 2 runs")
    by_loss = [run(each.name, logged=dict(each.metrics), monitor="val/loss") for each in (few, many)]
    assert best_of(by_loss, "val", "runs") == (by_loss[0], "lowest val/loss of 2 runs")
    # monitors that differ: mean IoU
    assert best_of([by_loss[0], many], "val", "runs") == (many, "highest val/mean_iou of 2 runs")


def test_the_scores_of_the_kept_model_count_before_metrics_of_earlier_versions() -> None:
    first = run("first", stored=record({"mean_iou": 0.2}), logged={"best/mean_iou": 0.9})
    second = run("second", logged={"best/mean_iou": 0.3})
    unknown = run("unknown")
    assert best_of([unknown, first, second], "val", "runs").run is second


def test_ties_are_broken_by_loss_then_ece() -> None:
    equal = [
        run(name, stored=record({"mean_iou": 0.3, "loss": loss, "ece": ece}))
        for name, loss, ece in (("a", 0.5, 0.1), ("b", 0.4, 0.3), ("c", 0.4, 0.2))
    ]
    assert best_of(equal, "val", "runs").run is equal[2]


def test_a_degenerate_run_leads_only_if_all_are_and_this_is_said() -> None:
    blind = run("blind", BLIND, record({"loss": 0.1}), monitor="val/loss")
    good = run("good", GOOD, record({"loss": 0.9}), monitor="val/loss")
    choice = best_of([blind, good], "val", "runs")
    assert choice.run is good
    assert "lowest val/loss of 2 runs" in choice.why
    assert "blind (blind000) predicts only background" in choice.why
    choice = best_of([blind, run("other", BLIND, record({"loss": 0.3}), monitor="val/loss")], "val", "runs")
    assert choice.run is blind
    assert "none of which has learned" in choice.why
    assert first_of([blind, good], "val").run is good
    assert "blind (blind000) predicts only background" in first_of([blind, good], "val").why
    assert first_of([good, blind], "val") == (good, "the first in run_ids")
    assert first_of([blind], "val").run is blind


def test_warnings_are_the_stored_ones_or_those_of_the_counts() -> None:
    assert warnings_of(run("new", BLIND, record({}, warnings=["stored"])), "val") == ["stored"]
    (of_counts,) = warnings_of(run("old", BLIND, record({})), "val")
    assert "predicts only background" in of_counts
    assert "cat, dog" in of_counts
    assert warnings_of(run("good", GOOD, record({})), "val") == []
    text = "the model predicts only background (never predicted: cat): it has learned no segmentation"
    assert learned_nothing(run("no counts", tags={"warning.predictions": text}), "val").startswith("predicts only")
    assert learned_nothing(run("no counts", stored=record({}, warnings=[text])), "val").startswith("predicts only")
    one_missing = "never predicted, although the labels hold them: cat"
    assert learned_nothing(run("no counts", stored=record({}, warnings=[one_missing])), "val") == ""
    # predicts two classes, but no better than background everywhere: (0.66 + 0 + 0) / 3 < 0.7 / 3
    useless = run("useless", [[66, 4, 0], [15, 0, 0], [15, 0, 0]])
    assert "not above that of predicting background everywhere (0.2333)" in learned_nothing(useless, "val")


def test_iou_and_accuracy_of_each_class_are_scikit_learn_s() -> None:
    counts = counts_of(run("good", GOOD), "val")
    assert counts is not None
    truth = np.repeat(np.repeat(np.arange(3), 3), np.ravel(GOOD))
    predicted = np.repeat(np.tile(np.arange(3), 3), np.ravel(GOOD))
    assert counts.iou() == pytest.approx(jaccard_score(truth, predicted, average=None))
    assert counts.accuracy() == pytest.approx(recall_score(truth, predicted, average=None))


@pytest.mark.parametrize("content", [b"", b"a,b\nx,1\n", b"t,b\nb,x\n", b"t,b\nb,-1\n", b"t,b\nb,1,2\n", b"\xff"])
def test_a_damaged_confusion_matrix_is_reported(content: bytes) -> None:
    with pytest.raises(InputError, match=r"confusion/val.csv of run .* is damaged"):
        counts_of(run("damaged", files={"confusion/val.csv": content}), "val")


@pytest.mark.parametrize("content", [b"not json", b"[]", b"{}", b'{"metrics": {}}', b'{"metrics": {}, "intervals": 1}'])
def test_damaged_scores_are_reported(content: bytes) -> None:
    with pytest.raises(InputError, match=r"reliability/val.json of run .* is damaged"):
        run("damaged", files={"reliability/val.json": content}).json("reliability/val.json")


def test_a_page_on_own_data_leads_with_metrics_and_classes_and_has_no_letters() -> None:
    metrics = {"loss": 0.5, "pixel_accuracy": 0.8, "mean_iou": 0.6, "ece": 0.1}
    content, page = page_of(run("good", GOOD, record(metrics)))
    text = "\n".join(page.lines)
    assert page.headings[0] == "Metrics"
    assert not [title for title in page.headings if title.startswith("(")]
    assert "original report" not in text
    (line,) = [line for line in summary(content, page) if "24 images" in line]
    assert [line.index(label) for label in ("loss", "accuracy", "IoU", "ECE")] == sorted(
        line.index(label) for label in ("loss", "accuracy", "IoU", "ECE")
    )
    assert "| cat | 0.5000 | 0.6667 | 15 (15.0%) |" in text
    assert text.index("| cat |") < text.index("## Expected calibration error")
    (confusion,) = [png for path, png in page.images.items() if "confusion" in path]  # drawn: the run has no plots
    assert confusion.startswith(b"\x89PNG")
    commands = [lines for lines in text.split("```")[1::2] if "-e train" in lines]
    assert len(commands) == len(set(commands))


def test_the_form_of_the_original_report_is_kept_for_its_data() -> None:
    _, page = page_of(run("voc", GOOD, record({"loss": 0.5, "pixel_accuracy": 0.8}), dataset="voc2007"))
    assert [title[:3] for title in page.headings if title.startswith("(")] == [
        "(b)", "(c)", "(d)", "(e)", "(f)", "(h)", "(h)",
    ]  # fmt: skip
    assert "| original report |" in "\n".join(page.lines)


def test_the_last_epoch_is_the_protocol_of_the_original_report_and_its_precision_is_unknown() -> None:
    scores = record({"loss": 0.5, "pixel_accuracy": 0.8})
    for keep, row in (("best", "| keep | **best** | last |"), ("last", None)):
        _, page = page_of(run("voc", GOOD, scores, dataset="voc2007", keep=keep, precision="bfloat16"))
        assert [line for line in page.lines if line.startswith("| keep")] == ([row] if row else [])
        assert "| precision | bfloat16 | not reported |" in page.lines


def test_a_degenerate_run_is_flagged_in_the_summary() -> None:
    content, page = page_of(run("blind", BLIND, record({"loss": 0.5})))
    assert any("Warning" in line and "predicts only background" in line for line in summary(content, page))


def test_a_missing_command_is_shown_once() -> None:
    page = Page()
    page.add_missing("this", "mlflow run . -e evaluate")
    page.add_missing("that", "mlflow run . -e evaluate")
    assert "\n".join(page.lines).count("mlflow run . -e evaluate") == 1
    assert [part.what for part in page.missing] == ["this", "that"]


def test_runs_that_cannot_be_compared_say_why() -> None:
    runs = [run(name, GOOD, record({"loss": 0.5})) for name in ("one", "other")]
    why = "these runs cannot be compared, because crop: 96 and 128"
    _, page = page_of(runs[0], training_runs=runs, comparison=Comparison(None, {}, None, why))
    assert any(why in part.what for part in page.missing)


def study_page(objective: dict[str, str]) -> tuple[str, Page]:
    best = run("best", GOOD, record({"loss": 0.6, "mean_iou": 0.4, "pixel_accuracy": 0.8, "ece": 0.1}))
    text = io.BytesIO()
    header = (
        "trial,state,learning_rate,epoch,train/loss,val/loss,val/pixel_accuracy,val/mean_iou,val/ece,val/mce,run_id"
    )
    text.write(f"{header}\n0,complete,0.1,1,1,0.5,0.7,0.2,0.01,0.3,{'0' * 32}\n".encode())
    text.write(f"1,complete,0.2,1,1,0.6,0.8,0.4,0.1,0.2,{best.run_id}\n".encode())
    image = (page_of(best)[1].images)["images/best0000-confusion-val.png"]
    files = {"study/trials.csv": text.getvalue()} | {
        f"study/{name}.png": image for name in ("loss", "ece", "pixel_accuracy", "mean_iou", "mce")
    }
    of_study = run("study", files=files, tags={"best_run": best.run_id, "best_trial": "1"}, **objective)
    _, page = page_of(best, studies=[ReportedStudy(of_study, best)])
    return "\n".join(page.lines).split("## Hyperparameters")[1].split("\n## ")[0], page


@pytest.mark.parametrize(
    ("objective", "value", "direction", "first_map"),
    [("val/mean_iou", "0.4000", "higher", "mean_iou"), ("val/loss", "0.6000", "lower", "loss"),
     ("val/mce", "0.2000", "lower", "mce")],
)  # fmt: skip
def test_a_study_names_its_objective_and_marks_one_best_trial(
    objective: str, value: str, direction: str, first_map: str
) -> None:
    text, page = study_page({"objective": objective})
    assert f"Objective: {objective} ({direction} is better)" in text
    assert f"Best: trial 1, {objective} {value}" in text
    assert [line.split(" | ")[0] for line in text.splitlines() if line.startswith("|") and "★" in line] == ["| **1 ★**"]
    images = [path for path in page.images if path.startswith("images/study000")]
    assert images[0] == f"images/study000-{first_map.replace('_', '-')}.png"
    captions = [line for line in text.splitlines() if line.startswith("![") and "the objective of the study" in line]
    assert [f"({images[0]})" in line for line in captions] == [True]
    if objective == "val/mce":
        assert "| val/mce |" in text


def test_several_objectives_are_all_named() -> None:
    of_study = run("study", objectives="val/mean_iou, val/iou/cat")
    assert objectives_of(of_study) == ["val/mean_iou", "val/iou/cat"]
    assert list(maps(objectives_of(of_study)))[:2] == ["mean_iou", "iou_cat"]
