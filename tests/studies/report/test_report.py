"""The page against MLflow: metrics, plots, commands and missing parts."""

import contextlib
import copy
import io
import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure

import mlproject
from segmentation.errors import InputError
from segmentation.metrics import CALIBRATION, HEADLINE, METRICS
from studies import tracking
from studies.base import original_report
from studies.base.rerun import RUN, command
from studies.config import CalibrateConfig, CompareConfig, EvaluateConfig, ReportConfig, TrainConfig, TuneConfig
from studies.entry_points import entry_point
from studies.report.collect import collect, kind_of
from studies.report.content import Comparison, ReportContent
from studies.report.html import to_html
from studies.report.markup import Page
from studies.report.page import write
from studies.runs.comparison import run_comparison
from studies.runs.report import run_report
from tests.studies.base.test_rerun import arguments
from tests.studies.conftest import Trained
from tests.studies.report.read import Read, pixels

pytestmark = pytest.mark.slow

NASTY = "<script>alert(1)</script> | **x** [a](javascript:alert(1)) `b`"


@pytest.fixture(scope="module")
def comparison(two_seeds: Trained, store: str) -> str:
    """The run that compares the two seeds."""
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        patch.setenv("MLFLOW_TRACKING_URI", store)
        run_comparison(
            CompareConfig(run_ids=",".join(two_seeds.run_ids), examples=1, experiment="comparisons to report")
        )
        return newest("comparisons to report")


@pytest.fixture(scope="module")
def study(two_seeds: Trained, store: str) -> str:
    """The run of a study whose best trial is the second seed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        return study_run("a small study", two_seeds.run_ids[1], two_seeds.configs[1].dataset)


class Written(NamedTuple):
    """The content of a report, its page, and the parsed HTML."""

    content: ReportContent
    page: Page
    read: Read


@pytest.fixture(scope="module")
def report(two_seeds: Trained, comparison: str, study: str, store: str) -> Written:
    """A report of both runs, their comparison and the study."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        return written(run_ids=",".join([*two_seeds.run_ids, comparison]), study_name="a small study")


def newest(experiment: str) -> str:
    (run,) = mlflow.search_runs(experiment_names=[experiment], max_results=1, output_format="list")
    return str(run.info.run_id)


def plot() -> Figure:
    figure = Figure(figsize=(1, 1))
    figure.add_axes((0, 0, 1, 1))
    return figure


def study_run(name: str, best: str, dataset: str, model: str = "fcn_resnet50") -> str:
    tags = {"kind": "tune", "role": "study", "study": name, "best_trial": "1", "best_run": best}
    with tracking.tracked_run("studies to report", f"study · {name}", tags) as run_id:
        config: Any = {"dataset": dataset, "model": model, "sampler": "grid", "study_name": name}
        tracking.log_config(TuneConfig(**config), leave_out=("learning_rate", "weight_decay"))
        tracking.log_text(
            "trial,state,reason,learning_rate,weight_decay,epoch,epochs,train/loss,val/loss,val/pixel_accuracy,"
            "val/mean_iou,val/ece,val/ece_low,val/ece_high,run_id\n"
            f"0,pruned,poor,0.0001,0.01,2,2,1.2,1.31,0.5,0.25,0.2,0.15,0.26,{'0' * 32}\n"
            f"1,complete,,0.05,0.0,4,4,0.61,0.6789,0.7123,0.41,0.0519,0.0401,0.0605,{best}\n",
            "study/trials.csv",
        )
        tracking.log_figure(plot(), "study/loss.png")
        tracking.log_figure(plot(), "study/ece.png")
    return run_id


def voc_run(two_seeds: Trained, name: str, ece: tuple[float, float, float], images: int = 213, **values: Any) -> str:
    """Record a training run with scores on the original report's data."""
    record = scores_of(two_seeds.run_ids[0])
    record["protocol"] |= {"dataset": "voc2007", "split": "val", "images": images, "resize": 128, "crop": 128}
    record["metrics"] |= {"ece": ece[0], "pixel_accuracy": 0.8}
    record["intervals"] |= {"ece": ece[1:], "pixel_accuracy": [0.79, 0.81]}
    with tracking.tracked_run("voc", name, {"kind": "train", "dataset": "voc2007", "device": "<b>cpu"}) as run_id:
        tracking.log_config(TrainConfig(**values))
        tracking.log_metrics({"train/loss": 0.5, "val/loss": 0.9}, step=1)
        tracking.log_metrics({"val_model/loss": 0.9})
        tracking.log_json(record, "reliability/val.json")
    return run_id


def scores_of(run_id: str, split: str = "val") -> dict[str, Any]:
    return json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/reliability/{split}.json"))


def written(**values: Any) -> Written:
    config = ReportConfig(**values)
    content = collect(config)
    page = write(content, command("report", asdict(config)), {"mlflow": "3"})
    return Written(content, page, Read(to_html("\n".join(page.lines), page.images, content.title)))


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"[-+]?\d+\.\d{4}\b", text)]


def rounded(*values: float) -> list[float]:
    return [float(f"{value:.4f}") for value in values]


def of(record: dict[str, Any], metric: str) -> list[float]:
    return rounded(record["metrics"][metric], *record["intervals"][metric])


def first_of_kind(kind: str, commands: list[str]) -> str:
    return next(each for each in commands if f" -e {kind} " in each)


def kinds_of(commands: list[str]) -> Iterator[str]:
    """Yield the entry points of commands, each of which must parse."""
    for each in commands:
        words = shlex.split(each.removeprefix(f"{RUN} -e "))
        mlproject.parse(entry_point(words[0]).Config, arguments(each), "test")
        yield words[0]


def test_every_metric_equals_the_one_in_mlflow(two_seeds: Trained, comparison: str, report: Written) -> None:
    content, page, read = report
    first = two_seeds.run_ids[0]
    assert content.main is not None
    assert content.main.run_id == first
    record, client = scores_of(first), mlflow.MlflowClient()

    for name in ("loss", "pixel_accuracy", "ece", "mean_iou"):
        assert set(of(record, name)) <= set(numbers("".join(read.text).split("Protocol")[0])), name
    assert of(record, "pixel_accuracy") == numbers(read.sections["Pixel accuracy"].split("of the kept epoch:")[1])[:3]
    assert of(record, "ece") == numbers(read.sections["Expected calibration error"])[:3]
    assert of(record, "mean_iou") == numbers(read.sections["Metrics"].split("mean IoU")[1])[:3]
    (classes,) = [table for table in read.tables if table[0][:2] == ["class", "IoU"]]
    run = client.get_run(first)
    for name, iou, _, _ in classes[1:]:
        logged = sorted(client.get_metric_history(first, f"val/iou/{name}"), key=lambda point: point.step)
        assert iou == f"{logged[-1].value:.4f}"  # keep=last
    assert run.info.run_id in read.sections["Runs"]
    rows = [row for table in read.tables if table[0][:2] == ["", "value [95 %]"] for row in table[1:]]
    labels = {about.label: name for name, about in METRICS.items()}
    assert len(rows) == len(HEADLINE) + len(CALIBRATION)
    for name, value, _ in rows:
        assert numbers(value) == of(record, labels.get(name, name))
    bins = read.table("confidence", "pixels")
    assert len(bins) == 10
    for index, row in enumerate(bins):
        assert int(row["pixels"].split(" ")[0].replace(",", "")) == record["count"][index]
        for column, key in (("mean confidence", "confidence"), ("accuracy", "accuracy")):
            held = record[key][index]
            assert row[column] == ("–" if held is None else f"{held:.4f}")

    epochs = read.table("epoch", "train/loss")
    assert [int(row["epoch"]) for row in epochs] == [1, 2, 3, 4]
    for name in ("train/loss", "val/loss", "train/pixel_accuracy", "val/pixel_accuracy", "val/mean_iou", "val/ece"):
        history = sorted(client.get_metric_history(first, name), key=lambda point: point.step)
        assert [numbers(row[name])[0] for row in epochs] == rounded(*(point.value for point in history)), name
    assert [row["val/loss"] for row in read.table("epoch", "", "train/loss")] == [epochs[-1]["val/loss"]]

    table = json.loads(mlflow.artifacts.load_text(f"runs:/{comparison}/comparison/table.json"))
    rows = read.table("", "model")
    assert [row[""] for row in rows] == ["A", "B"]
    for row, held in zip(rows, table["runs"], strict=True):
        for name in ("ece", "loss", "pixel_accuracy", "mean_iou"):
            assert numbers(row[METRICS[name].label]) == of(held, name)
    sentences = " ".join(read.sections["Models side by side"].split())
    assert all(pair["sentence"] in sentences for pair in table["pairs"])
    assert "differ only in the seed" in sentences

    trials = read.table("trial", "learning_rate", "weight_decay")
    assert [row["state"] for row in trials] == ["pruned", "complete"]
    assert (trials[1]["learning_rate"], trials[1]["weight_decay"], trials[1]["val/loss"]) == ("0.05", "0", "0.6789")
    assert numbers(trials[1]["val/ece"]) == [0.0519, 0.0401, 0.0605]
    assert (
        f"pixel accuracy {of(scores_of(two_seeds.run_ids[1]), 'pixel_accuracy')[0]:.4f}"
        in read.sections["Hyperparameters"]
    )
    assert not page.missing


def test_every_plot_is_embedded_unchanged(two_seeds: Trained, comparison: str, study: str, report: Written) -> None:
    _, page, read = report
    first = two_seeds.run_ids[0]
    shown = [
        (first, "confusion/val.png"), (first, "curves/loss.png"), (first, "curves/accuracy.png"),
        (first, "examples/val_1.png"),
        (first, "examples/val_worst_0.png"), (first, "reliability/val.png"), (comparison, "comparison/reliability.png"),
        (comparison, "comparison/loss.png"), (comparison, "comparison/accuracy.png"),
        (comparison, "comparison/difference_ece.png"), (comparison, "comparison/example_0.png"),
        (study, "study/loss.png"), (study, "study/ece.png"),
    ]  # fmt: skip
    # other tests may have calibrated these models
    parts = zip(page.images, read.images(), strict=True)
    embedded = [png for name, png in parts if "before-and-after" not in name]
    for png, (run_id, path) in zip(embedded, shown, strict=True):
        held = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/{path}")).read_bytes()
        assert np.array_equal(pixels(png), pixels(held)), path
    assert all(read.attributes("alt"))


def test_every_section_links_its_run_and_every_run_has_its_command_and_origin(
    two_seeds: Trained, comparison: str, study: str, report: Written
) -> None:
    _, page, read = report
    parts = "\n".join(page.lines).split("\n## ")
    titles = ("Metrics", "Loss", "Pixel accuracy", "Image, labels and prediction", "Expected calibration error")
    for title in titles:
        (part,) = [part for part in parts if part.startswith(f"{title}\n")]
        assert f"](#run-{two_seeds.run_ids[0][:8]})" in part
    assert len(set(read.commands)) == len(read.commands)
    assert f"mlflow run . --env-manager local -e compare -P run_ids={','.join(two_seeds.run_ids)}" in "\n".join(
        page.lines
    )
    config = mlproject.parse(TrainConfig, arguments(first_of_kind("train", read.commands)), "test")
    not_repeated = {"experiment": "training", "run_name": None}
    assert config == TrainConfig(**(vars(two_seeds.configs[0]) | not_repeated))
    assert len(list(kinds_of(read.commands))) == len(read.commands)
    runs = read.sections["Runs"]
    for run_id in (*two_seeds.run_ids, comparison, study):
        run = mlflow.get_run(run_id)
        for known in (run_id, run.data.tags["git_commit"], f"torch {run.data.tags['version.torch']}"):
            assert known in runs
    for key in ("dataset_fingerprint", "val_fingerprint", "device"):
        assert mlflow.get_run(two_seeds.run_ids[0]).data.tags[key] in runs
    assert "seed 1" in runs
    assert {link.removeprefix("#") for link in read.attributes("href")} <= set(read.attributes("id"))


def test_missing_parts_are_named_with_the_command_that_creates_them(two_seeds: Trained) -> None:
    _, page, _ = written(run_ids=two_seeds.run_ids[0])
    assert list(kinds_of([part.command for part in page.missing])) == ["models", "tune"]
    _, page, read = written(run_ids=two_seeds.run_ids[0], split="elsewhere")
    assert list(kinds_of([part.command for part in page.missing])) == ["evaluate"] * 5 + ["models", "tune"]
    wanted = mlproject.parse(EvaluateConfig, arguments(page.missing[0].command), "test")
    assert (wanted.model_uri, wanted.split) == (two_seeds.run_ids[0], "elsewhere")
    assert read.commands.count(page.missing[0].command + "\n") == 1
    assert "final accuracy on split elsewhere" in "".join(read.text).split("Protocol")[0]


def test_runs_without_a_comparison_ask_for_it(two_seeds: Trained, tmp_path: Path) -> None:
    ids = [voc_run(two_seeds, name, (0.05, 0.04, 0.06)) for name in ("one", "other")]
    _, page, read = written(run_ids=",".join(ids))
    (asked,) = [part for part in page.missing if "comparison" in part.what]
    assert asked.command == f"mlflow run . --env-manager local -e compare -P run_ids={','.join(ids)}"
    assert [row["model"] for row in read.table("model", "loss")] == ["one", "other"]


def test_the_original_metrics_are_shown_for_their_data_only(two_seeds: Trained) -> None:
    scratch = voc_run(two_seeds, "scratch", (0.0610, 0.0520, 0.0700))
    tuned = voc_run(two_seeds, "tuned", (0.0540, 0.0500, 0.0580), weights="imagenet")
    best = study_run("their grid", scratch, "voc2007")
    _, _, read = written(run_ids=f"{scratch},{tuned},{best}")
    accuracy, ece = read.sections["(c) Pixel accuracy"], read.sections["(f) Expected calibration error"]
    assert (
        "Pixel accuracy of the original report: 0.817; ours: 0.8000 [0.7900, 0.8100]. Its value is outside" in accuracy
    )
    assert "ours is worse" in accuracy
    assert "ECE of the original report: 0.0733; ours: 0.0610 [0.0520, 0.0700]. Its value is outside" in ece
    assert "ours is better" in ece
    theirs = read.table("model", "trained")
    assert [float(row["its ECE"]) for row in theirs] == [0.0733, 0.0543, 0.0741, 0.0685]
    assert [numbers(row["our ECE"]) for row in theirs] == [[0.0610, 0.0520, 0.0700], [0.0540, 0.0500, 0.0580], [], []]
    # 0.0733, 0.0741 and 0.0685: within 0.009 of each other
    assert "Half of our interval's width is 0.0090: 3 of its 6 differences are smaller" in "".join(read.text)
    rows = read.table("trial", "learning_rate", "weight_decay")
    assert [(row["its val/loss"], row["its val/pixel_accuracy"]) for row in rows] == [
        ("1.406", "0.693"),
        ("0.727", "0.819"),
    ]
    assert "0.05 with weight decay 0 and 0.001 with weight decay 0" in read.sections["(h) Hyperparameters"]
    _, _, read = written(run_ids=tuned)
    assert "ECE of the original report: 0.0543; ours: 0.0540" in "".join(read.text)
    assert "these images show no difference" in "".join(read.text)
    assert "0.817" not in "".join(read.text)

    part = voc_run(two_seeds, "part", (0.0610, 0.0520, 0.0700), images=66)
    _, _, read = written(run_ids=f"{part},{study_run('grid of a part', part, 'voc2007')}")
    text = "".join(read.text)
    for theirs in ("0.817", "0.0733", "0.0543", "its val/loss"):
        assert theirs not in text
    why = "it scored all 213 images of voc2007/val (resize 128, crop 128), this page 66 images of voc2007/val"
    assert text.count(why) == 2  # for the models, and for the grid

    _, _, read = written(run_ids=two_seeds.run_ids[0])
    text = "".join(read.text)
    assert "original report" not in text
    assert not [model.ece for model in original_report.MODELS if f"{model.ece:.4f}" in text]


def test_names_from_outside_cannot_become_html(two_seeds: Trained) -> None:
    run_id = voc_run(two_seeds, NASTY, (0.05, 0.04, 0.06), data_dir=f"/{NASTY}")
    content, page, read = written(run_ids=run_id)
    assert read.names.isdisjoint({"script", "img", "b"})
    assert NASTY in read.sections["Runs"]
    assert NASTY in "".join(read.text).split("Protocol")[0]
    assert "<b>cpu" in read.sections["Runs"]
    assert not [link for link in read.attributes("href") if not link.startswith("#")]
    made = arguments(first_of_kind("train", read.commands))
    assert mlproject.parse(TrainConfig, made, "test").data_dir == f"/{NASTY}"
    assert content.title == f"Report on {NASTY}"
    assert page.missing


def test_the_best_of_an_experiment_is_shown_and_reports_are_not(two_seeds: Trained, comparison: str) -> None:
    content, _, read = written(experiment=two_seeds.experiment)
    best = max(two_seeds.run_ids, key=lambda run_id: mlflow.get_run(run_id).data.metrics["val_model/mean_iou"])
    assert content.main is not None
    assert content.main.run_id == best
    assert "highest val/mean_iou of 2 finished training runs" in "".join(read.text)
    assert {each.run_id for each in content.training_runs} == set(two_seeds.run_ids)
    assert content.comparison is not None
    assert content.comparison.table is not None
    assert {each["run_id"] for each in content.comparison.table["runs"]} == set(two_seeds.run_ids)
    assert content.experiment == two_seeds.experiment


def test_a_study_or_a_comparison_brings_its_runs(two_seeds: Trained, comparison: str, study: str) -> None:
    content, page, _ = written(study_name="a small study")
    assert content.main is not None
    assert content.main.run_id == two_seeds.run_ids[1]
    assert content.experiment == "studies to report"
    assert list(kinds_of([part.command for part in page.missing])) == ["models"]
    content, page, _ = written(run_ids=comparison)
    assert [each.run_id for each in content.training_runs] == list(two_seeds.run_ids)
    assert content.comparison is not None
    assert content.comparison.run is not None
    assert content.comparison.run.run_id == comparison


def test_a_comparison_with_other_runs_is_made_anew(two_seeds: Trained, store: str) -> None:
    """Of three scored runs a comparison is stored; a report of two of them compares these two."""
    ids = [*two_seeds.run_ids, copy_of(two_seeds.run_ids[0])]
    with tracking.tracked_run("of three", "compare", {"kind": "compare", "compared_runs": ",".join(ids)}):
        tracking.log_json({"runs": [], "pairs": [], "seeds": [], "images": []}, "comparison/table.json")
    content, page, read = written(run_ids=f"{ids[1]},{ids[2]}")
    assert content.comparison is not None
    assert content.comparison.run is None
    assert [row["model"] for row in read.table("", "model", "loss")] == ["seed 1", "seed 0"]
    assert [numbers(row["loss"])[0] for row in read.table("", "model", "loss")] == rounded(
        *(scores_of(run_id)["metrics"]["loss"] for run_id in ids[1:])
    )
    assert any("reliability" in path and "compared" in path for path in page.images)
    assert f"mlflow run . --env-manager local -e compare -P run_ids={ids[1]},{ids[2]}\n" in read.commands
    # requested by itself, the stored one is shown
    assert run_of(written(run_ids=newest("of three")).content.comparison) == newest("of three")


def run_of(comparison: Comparison | None) -> str:
    assert comparison is not None
    assert comparison.run is not None
    return comparison.run.run_id


def copy_of(run_id: str) -> str:
    """Record a run with the scores of another."""
    folder = Path(mlflow.artifacts.download_artifacts(f"runs:/{run_id}/reliability"))
    with tracking.tracked_run("copies", "a copy", {"kind": "train"}) as copied:
        tracking.log_json(mlflow.artifacts.load_dict(f"runs:/{run_id}/config.json"), "config.json")
        tracking.log_folder(folder, "reliability")
    return copied


def test_a_calibration_is_shown_if_there_is_one(two_seeds: Trained) -> None:
    run_id = voc_run(two_seeds, "over-confident", (0.05, 0.04, 0.06))
    assert "Post-hoc calibration" not in written(run_ids=run_id)[2].sections
    tags = {"kind": "calibrate", "calibrated": run_id, "trained_in_run": run_id}
    with tracking.tracked_run("voc", "calibrated", tags):
        tracking.log_config(CalibrateConfig(run_id=run_id))
        change = {"before": 0.0512, "after": 0.0123, "interval": [-0.0421, -0.0333]}
        tracking.log_json({"changes": {"ece": change}, "protocol": {}}, "calibration/changes.json")
        tracking.log_json({"split": "held_out", "images": 7}, "calibration/fit.json")
    (row,) = written(run_ids=run_id)[2].table("method", "of run")
    assert row["method"] == "temperature"
    assert row["fitted on"] == "held_out, 7 images"
    assert numbers(row["ece"]) == [0.0512, 0.0123]
    assert numbers(row["change of ece"]) == [-0.0421, -0.0333]
    assert row["change of loss"] == "–"


def test_the_run_holds_the_page_and_the_folder_is_replaced(
    two_seeds: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "to hand in"
    config = ReportConfig(run_ids=two_seeds.run_ids[1], output=str(output))
    (output / "images").mkdir(parents=True)
    (output / "images" / "mine.png").write_bytes(b"mine")
    (output / "report.md").write_text("![old](images/old.png) ![mine](../mine.png)")
    (output / "images" / "old.png").write_bytes(b"old")
    (tmp_path / "mine.png").write_bytes(b"mine, too")
    assert run_report(config) == output / "report.html"
    printed = capsys.readouterr().out
    assert str(output / "report.html") in printed
    assert "Not here: a study" in printed
    assert "See run " in printed.splitlines()[-1]
    assert (output / "images" / "mine.png").read_bytes() == b"mine"
    assert (tmp_path / "mine.png").is_file()
    assert not (output / "images" / "old.png").exists()

    (run,) = mlflow.search_runs(
        experiment_names=[two_seeds.experiment], filter_string="tags.kind = 'report'", output_format="list"
    )
    assert run.info.status == "FINISHED"
    held = Path(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/report"))
    names = {path.relative_to(held).as_posix() for path in held.rglob("*") if path.is_file()}
    linked = set(re.findall(r"\]\((images/[^)]+)\)", (held / "report.md").read_text()))
    assert names == {"report.html", "report.md"} | linked
    for name in names:
        assert (held / name).read_bytes() == (output / name).read_bytes()
    read = Read((held / "report.html").read_text())
    assert {bytes(png) for png in read.images()} == {(held / name).read_bytes() for name in linked}
    assert of(scores_of(two_seeds.run_ids[1]), "ece") == numbers(
        re.search(r"ECE [^.]*\.\d{4}[^\]]*\]", run.data.tags["mlflow.note.content"].replace("\u00a0", " "))[0]  # type: ignore[index]
    )
    # the report is not itself reported
    assert {each.kind for each in collect(ReportConfig(experiment=two_seeds.experiment)).training_runs} == {"train"}
    with pytest.raises(InputError, match="nothing to report"):
        collect(ReportConfig(run_ids=run.info.run_id))


def test_wrong_names_are_reported(two_seeds: Trained, study: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="experiment='two sedes' is not known. Did you mean 'two seeds'"):
        collect(ReportConfig(experiment="two sedes"))
    with pytest.raises(InputError, match="study_name='a smal study' is not known. Did you mean 'a small study'"):
        collect(ReportConfig(study_name="a smal study"))
    with pytest.raises(InputError, match=f"'{'0' * 32}' was not found"):
        collect(ReportConfig(run_ids="0" * 32))
    with tracking.tracked_run("nothing done", "still at it", {"kind": "train"}) as run_id:
        with pytest.raises(InputError, match="'nothing done' has no finished run to report"):
            collect(ReportConfig(experiment="nothing done"))
        with pytest.raises(InputError, match=f"{run_id} .* is still running"):
            collect(ReportConfig(run_ids=run_id))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="output=.*file/report.*name another folder"):
        run_report(ReportConfig(run_ids=two_seeds.run_ids[0], output=str(tmp_path / "file" / "report")))


def test_the_kind_of_a_run_without_the_tag_is_inferred(two_seeds: Trained, study: str) -> None:
    client = mlflow.MlflowClient()
    first = two_seeds.run_ids[0]
    for run_id, tags, kind in (
        (first, {}, "train"),
        (study, {}, "tune"),
        (first, {"compared": "x"}, "compare"),
        (first, {"calibrated": "x"}, "calibrate"),
        (first, {"evaluated": "x"}, "evaluate"),
    ):
        run = copy.deepcopy(client.get_run(run_id))
        del run.data.tags["kind"]
        run.data.tags.update(tags)
        assert kind_of(run) == kind


def test_several_studies_of_one_name_are_refused(two_seeds: Trained) -> None:
    tags = {"kind": "tune", "role": "study", "study": "a common name"}
    run_ids = []
    for experiment in ("here", "there"):
        run_ids.append(tracking.create_run(experiment, "study · a common name", tags))
        tracking.end_run(run_ids[-1], "FINISHED")
    with pytest.raises(InputError, match="study_name='a common name': 2 studies") as error:
        collect(ReportConfig(study_name="a common name"))
    for run_id, experiment in zip(run_ids, ("here", "there"), strict=True):
        assert f"{run_id} in experiment '{experiment}'" in str(error.value)
        found = collect(ReportConfig(study_name="a common name", experiment=experiment))
        assert [study.run.run_id for study in found.studies] == [run_id]
        assert [study.run.run_id for study in collect(ReportConfig(run_ids=run_id)).studies] == [run_id]
