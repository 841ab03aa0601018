"""A small training run as one MLflow run: what it records, and whether the stored values are right."""

import csv
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from segmentation.data import load_split
from segmentation.data.batches import in_order
from segmentation.errors import InputError
from segmentation.metrics import METRICS
from segmentation.scoring.evaluate import score
from segmentation.scoring.reliability import Reliability
from segmentation.scoring.scores import load_scores
from segmentation.training import checkpoints
from studies.config import EvaluateConfig, TrainConfig
from studies.models import loading as model_store
from studies.models.starting_weights import resolve_normalization
from studies.runs.evaluation import run_evaluation
from studies.runs.names import run_name
from studies.runs.training import TrainingResult, metrics_of_model, run_training
from studies.scores.comparison import check_protocols
from studies.scores.figures import reliability_figures
from studies.scores.stored import StoredScores
from tests import tiny_network
from tests.conftest import last_run, write_own_data
from tests.studies.conftest import drawn_plots

pytestmark = pytest.mark.slow


def settings(root: Path, **more: Any) -> TrainConfig:
    values: dict[str, Any] = {
        "dataset": "folder", "data_dir": str(root), "resize": 32, "crop": 32, "device": "cpu", "epochs": 3,
        "batch_size": 4, "learning_rate": 0.02, "model": "lraspp_mobilenet_v3_large", "plot_every": 2, "examples": 2,
    }  # fmt: skip
    return TrainConfig(**values | more)


def plain(root: Path, **more: Any) -> TrainConfig:
    """Settings without plots and logged model, which take time and are tested elsewhere."""
    return settings(root, **{"plot_every": 0, "log_model": False, "model": tiny_network.NAME} | more)


class Finished(NamedTuple):
    """One training run that many tests look at."""

    config: TrainConfig
    result: TrainingResult
    printed: str

    def checkpoint(self, which: str) -> str:
        return str(Path(self.config.checkpoint_dir) / self.result.run_id / f"{which}.pt")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, store: str) -> Finished:
    folder = tmp_path_factory.mktemp("finished")
    config = settings(
        write_own_data(folder), register_as="shapes-model", alias="champion",
        cache_dir=str(folder / "cache"), checkpoint_dir=str(folder / "checkpoints"),
    )  # fmt: skip
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed), drawn_plots():
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        result = run_training(config)
    return Finished(config, result, printed.getvalue())


def text(run_id: str, path: str) -> str:
    return mlflow.artifacts.load_text(f"runs:/{run_id}/{path}")


def stored_warnings(run_id: str, split: str) -> list[str]:
    return list(json.loads(text(run_id, f"reliability/{split}.json"))["warnings"])


def artifacts(run_id: str, folder: str | None = None) -> set[str]:
    found = set()
    for file in MlflowClient().list_artifacts(run_id, folder):
        found |= artifacts(run_id, file.path) if file.is_dir else {file.path}
    return found


def test_metrics_are_printed_before_the_plots_are_drawn(finished: Finished) -> None:
    """Drawing takes most of the end of a run."""
    metrics, drawing, where = (
        finished.printed.index(text) for text in ("  ECE   ", "Drawing plots ...", "All 23 metr")
    )
    assert metrics < drawing < where


def test_a_run_records_metrics_plots_and_provenance(finished: Finished) -> None:
    config, result, printed = finished
    run = MlflowClient().get_run(result.run_id)
    assert run.info.status == "FINISHED"

    # configuration and provenance
    assert json.loads(text(result.run_id, "config.json")) == {**vars(config)}
    assert run.data.params["learning_rate"] == "0.02"
    assert run.data.params.keys() == vars(config).keys()
    tags = run.data.tags
    train = load_split(config, "train")
    assert tags["dataset_fingerprint"] == train.fingerprint
    assert len(tags["git_commit"].removesuffix("-dirty")) == 40 or tags["git_commit"] == "unknown"
    assert tags["device"].startswith("cpu (")
    assert tags["version.torch"] == torch.__version__.partition("+")[0]
    assert run.info.run_name == run_name(config)
    assert run.info.run_name.startswith("lr 0.02 · wd 0 · ")
    inputs = {entry.dataset.name: entry for entry in run.inputs.dataset_inputs}
    assert set(inputs) == {"own/train", "own/val"}
    assert train.fingerprint.startswith(inputs["own/train"].dataset.digest)
    assert json.loads(inputs["own/train"].dataset.profile)["images"] == 6

    # metrics of every epoch
    client = MlflowClient()
    for name in ("train/loss", "train/pixel_accuracy", "learning_rate", "epoch_seconds", "images_per_second",
                 *(f"val/{metric}" for metric in METRICS), "val/iou/red"):  # fmt: skip
        assert [point.step for point in client.get_metric_history(result.run_id, name)] == [1, 2, 3], name
    assert run.data.metrics["val_model/epoch"] == result.best_epoch == result.kept_epoch
    assert not [name for name in run.data.metrics if name.startswith("best/")]
    best = next(p for p in client.get_metric_history(result.run_id, "val/ece") if p.step == result.best_epoch)
    assert run.data.metrics["val_model/ece"] == best.value
    ious = [point.value for point in client.get_metric_history(result.run_id, "val/mean_iou")]
    assert ious.index(max(ious)) + 1 == result.best_epoch

    # plots
    files = artifacts(result.run_id)
    assert files >= {
        "config.json", "curves/loss.png", "curves/accuracy.png", "curves/ece.png", "reliability/val.png",
        "reliability/val.json", "reliability/val_histograms.npz", "confusion/val.png", "confusion/val.csv",
        "examples/val_0.png", "examples/val_1.png", "examples/val_worst_0.png", "examples/val.npz",
        "reliability/val_classes.png", "reliability/val_predicted.png", "reliability/val_boundary.png",
        "reliability/val_risk_coverage.png", "reliability/val_images.csv", "reliability/val_classes.csv",
    }  # fmt: skip
    steps = {
        file.split("+step+")[1].split("+")[0]
        for file in files
        if file.startswith("images/val_epochs~reliability+step+")
    }
    assert steps == {"1", "2", "3"}
    assert any(file.startswith("images/val_epochs~example_0+step+2") for file in files)
    assert "best val/mean_iou" in tags["mlflow.note.content"]
    in_crop = "84.2 % of the pixels of val"  # 32 of 38 columns
    assert in_crop in tags["mlflow.note.content"]
    assert printed.count("in the crop") + printed.count("the crop keeps") == 1
    assert in_crop in printed
    assert json.loads(text(result.run_id, "reliability/val.json"))["protocol"]["in_crop"] == pytest.approx(32 / 38)

    # terminal: few lines after those of the epochs, and where to look
    lines = printed.splitlines()
    last_epoch = max(number for number, line in enumerate(lines) if line.startswith("epoch "))
    assert len(lines) - last_epoch - 1 <= 25
    block = printed[printed.rindex("Brackets:") :]
    words = (
        "  loss ", "  pixel accuracy ", "  mean IoU ", "  ECE ", "  class ", "  red ", "  green ", "  blue ",
        "Warning: only 3 images", "on 3 images (accuracy minus confidence", f"All {len(METRICS)} metrics",
        "All runs with", "See run ",
    )  # fmt: skip
    assert sorted(words, key=block.index) == list(words), "the most important first"
    described = tags["mlflow.note.content"]
    assert described.index("ECE ") < described.index("**Warning:** only 3 images") < described.index("| class")
    scored = json.loads(text(result.run_id, "reliability/val.json"))
    assert [each["name"] for each in scored["classes"]] == ["red", "green", "blue"]
    for name in ("iou", "dice", "precision", "recall", "boundary_iou"):
        assert np.mean([each[name] for each in scored["classes"]]) == pytest.approx(scored["metrics"][f"mean_{name}"])
        assert all(len(each["intervals"][name]) == 2 for each in scored["classes"])
    rows = list(csv.DictReader(io.StringIO(text(result.run_id, "reliability/val_classes.csv"))))
    assert [float(row["boundary_iou"]) for row in rows] == pytest.approx(
        [each["boundary_iou"] for each in scored["classes"]], abs=1e-6
    )
    assert "boundary IoU" in described
    assert "reliability/val.json" in "".join(lines[-5:-1])
    assert "mlflow ui --backend-store-uri" in printed.splitlines()[-1]
    assert result.run_id in printed.splitlines()[-1]


def test_stored_metrics_are_those_of_the_logged_model(finished: Finished) -> None:
    """Load the logged model, score it by itself, and compare with every number that the run holds."""
    config, result, _ = finished
    val = load_split(config, "val")
    network = mlflow.pyfunc.load_model(f"runs:/{result.run_id}/model").get_raw_model().predictor.model
    reliability = Reliability()
    with torch.no_grad():
        for images, masks in in_order(val, 2, torch.device("cpu")):
            reliability.update(network(images), masks)
    record = json.loads(text(result.run_id, "reliability/val.json"))
    assert record["metrics"]["ece"] == pytest.approx(reliability.ece(), abs=1e-6)
    assert record["intervals"].keys() == METRICS.keys()
    assert 0 < record["noise_floor"]["mean"] <= record["noise_floor"]["highest"]
    assert record["ece_by_bins"]["15"] == pytest.approx(reliability.ece(15), abs=1e-6)
    low, high = record["intervals"]["pixel_accuracy"]
    assert low <= record["metrics"]["pixel_accuracy"] <= high
    assert record["count"] == reliability.bins().count.tolist()
    assert record["protocol"]["pixels"] == int((val.masks != 255).sum())
    assert mlflow.get_run(result.run_id).data.metrics["val_model/ece"] == pytest.approx(
        record["metrics"]["ece"], abs=1e-12
    )

    file = mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/reliability/val_histograms.npz")
    histograms = np.load(file, allow_pickle=False)
    assert histograms["name"].tolist() == list(val.names)
    np.testing.assert_array_equal(histograms["count"].sum(0).reshape(10, 60).sum(1), record["count"])

    rows = list(csv.reader(io.StringIO(text(result.run_id, "confusion/val.csv"))))
    counts = np.array([row[1:] for row in rows[1:]], dtype=int)
    accuracy = counts.trace() / counts.sum()
    assert mlflow.get_run(result.run_id).data.metrics["val_model/pixel_accuracy"] == pytest.approx(accuracy)

    with Image.open(mlflow.artifacts.download_artifacts(f"runs:/{result.run_id}/reliability/val.png")) as plot:
        assert min(plot.size) > 400


def test_the_bars_that_are_drawn_are_the_numbers_that_are_stored(finished: Finished) -> None:
    """Plot from the stored histograms, and compare the bars with the stored values."""
    record = json.loads(text(finished.result.run_id, "reliability/val.json"))
    file = mlflow.artifacts.download_artifacts(f"runs:/{finished.result.run_id}/reliability/val_histograms.npz")
    scores, _ = load_scores(Path(file), load_split(finished.config, "val").labels)
    groups = scores.groups()
    figures = dict(reliability_figures(scores, groups, scores.intervals(), "t", "n"))
    top, bottom = figures[""].axes
    filled = np.array(record["count"]) > 0
    bars = [patch.get_height() for patch in top.patches if patch.get_hatch() is None]
    assert bars == [value for value in record["accuracy"] if value is not None]
    shares = [patch.get_height() for patch in bottom.patches]
    np.testing.assert_allclose(shares, np.array(record["count"])[filled] / record["protocol"]["pixels"])
    for stored, (group, found) in zip(record["groups"], groups.items(), strict=True):
        assert (stored["kind"], stored["name"]) == group
        assert stored["count"] == found.bins.count.tolist()
        assert stored["ece"] == (None if not sum(stored["count"]) else found.bins.ece())


def test_images_are_listed_worst_first(finished: Finished) -> None:
    rows = list(csv.DictReader(io.StringIO(text(finished.result.run_id, "reliability/val_images.csv"))))
    errors = [float(row["ece"]) for row in rows]
    assert errors == sorted(errors, reverse=True)
    record = json.loads(text(finished.result.run_id, "reliability/val.json"))
    assert np.mean(errors) == pytest.approx(record["metrics"]["image_ece"], abs=1e-6)
    pixels = np.array([int(row["pixels"]) for row in rows])
    accuracies = np.array([float(row["pixel_accuracy"]) for row in rows])
    assert (pixels * accuracies).sum() / pixels.sum() == pytest.approx(record["metrics"]["pixel_accuracy"], abs=1e-6)


def test_scores_at_original_size_are_those_of_resized_logits_on_whole_masks(finished: Finished) -> None:
    config, result, _ = finished
    metrics = run_evaluation(EvaluateConfig(model_uri=result.run_id, score_at="original", examples=1))
    network = model_store.load(result.run_id).network()
    logits, masks = [], []
    for index in range(3):
        folder = Path(config.data_dir) / "val"
        image = Image.open(folder / f"images/{index}.jpg")
        small = torch.from_numpy(np.array(image.resize((38, 32), Image.Resampling.BILINEAR)))  # of 48 x 40
        with torch.no_grad():
            found = network(small.permute(2, 0, 1)[None])
        logits.append(torch.nn.functional.interpolate(found, (40, 48), mode="bilinear"))
        masks.append(torch.from_numpy(np.array(Image.open(folder / f"masks/{index}.png")))[None])
    expected = Reliability()
    expected.update(torch.cat(logits), torch.cat(masks))
    assert metrics["val/ece"] == pytest.approx(expected.ece(), abs=2e-3)  # torchvision resizes a little differently
    run = last_run()
    protocol = json.loads(text(run.info.run_id, "reliability/val.json"))["protocol"]
    assert (protocol["score_at"], protocol["in_crop"]) == ("original", 1.0)
    assert "of the pixels of val" not in run.data.tags["mlflow.note.content"]
    assert protocol["pixels"] == sum(int((mask != 255).sum()) for mask in masks)
    with Image.open(mlflow.artifacts.download_artifacts(f"runs:/{run.info.run_id}/examples/val_0.png")) as plot:
        assert plot.size[0] > 1000


def test_the_model_is_registered_and_takes_images_of_any_size(finished: Finished) -> None:
    _, result, printed = finished
    version = MlflowClient().get_model_version_by_alias("shapes-model", "champion")
    assert version.run_id == result.run_id
    assert f"Registered as models:/shapes-model/{version.version}, alias champion" in printed
    network = mlflow.pyfunc.load_model("models:/shapes-model@champion").get_raw_model().predictor.model
    for shape in ((1, 3, 40, 64), (3, 3, 32, 32)):
        assert network(torch.zeros(shape, dtype=torch.uint8)).shape == (shape[0], 3, *shape[2:])
    info = mlflow.models.get_model_info("models:/shapes-model@champion")
    assert info.signature is not None
    assert {"classes", "confidence"} <= set(info.signature.outputs.input_names())
    assert info.saved_input_example_info is not None
    answer = mlflow.pyfunc.load_model("models:/shapes-model@champion").predict(
        [{"image": image} for image in np.zeros((2, 24, 40, 3), np.uint8)]
    )
    assert [each["classes"].shape for each in answer] == [(24, 40)] * 2


def test_checkpoint_run_and_registered_model_hold_the_same_model(
    finished: Finished,
) -> None:
    config, result, _ = finished
    val = load_split(config, "val")
    images, _ = val.gather(np.arange(3))
    names = finished.checkpoint("best"), f"runs:/{result.run_id}", "models:/shapes-model@champion"
    stored = [model_store.load(name) for name in names]
    with torch.no_grad():
        logits = [each.network()(images) for each in stored]
    for other in logits[1:]:
        torch.testing.assert_close(other, logits[0], rtol=1e-4, atol=1e-5)
    assert [each.run_id for each in stored[1:]] == [result.run_id] * 2


def test_evaluation_gives_the_metrics_of_the_training_run(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    _, result, _ = finished
    metrics = run_evaluation(EvaluateConfig(model_uri=result.run_id, batch_size=1, examples=1))
    trained, evaluated = mlflow.get_run(result.run_id), last_run()
    assert evaluated.info.run_id != result.run_id
    assert evaluated.data.tags["trained_in_run"] == result.run_id
    assert evaluated.info.status == "FINISHED"
    for name in METRICS:
        assert evaluated.data.metrics[f"val/{name}"] == metrics[f"val/{name}"]
        assert metrics[f"val/{name}"] == pytest.approx(trained.data.metrics[f"val_model/{name}"], abs=1e-5)
    assert artifacts(evaluated.info.run_id) >= {"reliability/val.png", "confusion/val.csv", "examples/val_0.png"}
    assert evaluated.info.run_id in capsys.readouterr().out.splitlines()[-1]
    assert not any("was trained on" in each for each in stored_warnings(evaluated.info.run_id, "val"))
    on_train = run_evaluation(EvaluateConfig(model_uri=finished.checkpoint("best"), split="train"))
    assert "train/ece" in on_train
    trained_on = "the model was trained on these 6 images (split=train)"
    assert any(each.startswith(trained_on) for each in stored_warnings(last_run().info.run_id, "train"))
    assert f"Warning: {trained_on}" in capsys.readouterr().out


def test_a_best_epoch_that_is_the_first_is_a_warning_everywhere(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation.training.loop.is_better", lambda *_: False)
    result = run_training(plain(own_data, epochs=2))
    warning = "the best epoch is the first of 2: val/mean_iou never improved"
    tags = mlflow.get_run(result.run_id).data.tags
    assert result.kept_epoch == 1
    assert any(each.startswith(warning) for each in stored_warnings(result.run_id, "val"))
    assert tags["warning.best_epoch"].startswith(warning)
    assert warning in tags["mlflow.note.content"]
    assert f"Warning: {warning}" in capsys.readouterr().out


def test_the_model_and_its_registered_version_are_described(finished: Finished) -> None:
    client = MlflowClient()
    run = client.get_run(finished.result.run_id)
    version = client.get_model_version_by_alias("shapes-model", "champion")
    (logged,) = (client.get_logged_model(output.model_id) for output in run.outputs.model_outputs)
    assert client.get_registered_model("shapes-model").description
    scored = finished.result.kept
    for description, tags in (
        (version.description, version.tags), (logged.tags["mlflow.note.content"], logged.tags),
    ):  # fmt: skip
        assert f"{scored['val/mean_iou']:.4f}" in description
        assert "**Classes** (3): red, green, blue." in description
        assert "shorter side resized to 32 pixels" in description
        assert "mlflow models serve -m models:/shapes-model@champion" in description
        assert tags["val/mean_iou"] == f"{scored['val/mean_iou']:.4f}"
        assert (tags["classes"], tags["calibration"]) == ("red, green, blue", "none")
    found = {metric.key: metric.value for metric in logged.metrics}
    assert found["val_model/ece"] == pytest.approx(scored["val/ece"])


def test_a_finished_run_keeps_the_checkpoint_of_its_model_only(finished: Finished) -> None:
    folder = Path(finished.checkpoint("best")).parent
    assert [file.name for file in folder.iterdir()] == ["best.pt"]


def test_a_run_can_start_from_another_run_s_weights(
    finished: Finished, own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = finished.result.run_id
    again = run_training(
        plain(own_data, model=finished.config.model, epochs=1, learning_rate=0.0, weights=weights, keep="last")
    )
    taken = json.loads(text(again.run_id, "starting_weights.json"))
    assert not taken["fresh"]
    assert not taken["left"]
    kept = checkpoints.load(Path(finished.checkpoint("best"))).network
    start = checkpoints.load(Path(f"checkpoints/{again.run_id}/last.pt")).network
    assert torch.equal(
        start["network.classifier.low_classifier.weight"], kept["network.classifier.low_classifier.weight"]
    )

    (own_data / "classes.txt").write_text("other\nnames\nhere\n")
    other = run_training(plain(own_data, model=finished.config.model, epochs=1, weights=finished.checkpoint("best")))
    fresh = json.loads(text(other.run_id, "starting_weights.json"))["fresh"]
    assert fresh
    assert all("low_classifier" in name or "high_classifier" in name for name in fresh)
    assert "start at random (network.classifier.low_classifier.weight" in capsys.readouterr().out


def test_normalization_follows_the_starting_weights_and_a_contradiction_is_printed(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = run_training(plain(own_data, epochs=1, normalization="imagenet", keep="last", log_model=True))
    file = f"checkpoints/{first.run_id}/last.pt"
    for weights in (first.run_id, f"runs:/{first.run_id}", file):
        assert resolve_normalization(plain(own_data, weights=weights)).normalization == "imagenet", weights
    capsys.readouterr()
    second = run_training(plain(own_data, epochs=1, weights=first.run_id, log_model=True))
    assert "Warning: normalization" not in capsys.readouterr().out
    run = mlflow.get_run(second.run_id)
    assert run.data.params["normalization"] == run.data.tags["normalization"] == "imagenet"
    assert json.loads(text(second.run_id, "config.json"))["normalization"] == "imagenet"
    assert checkpoints.load(Path(f"checkpoints/{second.run_id}/best.pt")).config["normalization"] == "imagenet"
    assert model_store.load(second.run_id).network().mean.flatten()[0] == pytest.approx(123.675)
    assert run.data.tags["precision"] == "float32"

    third = run_training(plain(own_data, epochs=1, weights=file, normalization="signed_unit"))
    message = f"normalization=signed_unit, but weights={file} were trained with normalization=imagenet"
    assert f"Warning: {message}" in capsys.readouterr().out
    assert message in mlflow.get_run(third.run_id).data.tags["warning"]
    assert resolve_normalization(plain(own_data)).normalization == "signed_unit"
    with pytest.raises(InputError, match="weights='imagenett' is not known. Did you mean 'imagenet'"):
        resolve_normalization(plain(own_data, weights="imagenett"))

    state = checkpoints.load(Path(file)).network
    torch.save({name.removeprefix("network."): tensor for name, tensor in state.items()}, "plain.pth")
    fourth = run_training(plain(own_data, epochs=1, weights="plain.pth"))
    assert "plain.pth does not record its normalization; normalization=imagenet is used" in capsys.readouterr().out
    taken = json.loads(text(fourth.run_id, "starting_weights.json"))
    assert (taken["fresh"], taken["left"], taken["normalization"]) == ([], {}, None)


def test_a_training_in_bfloat16_is_compared_with_its_evaluation_in_float32(own_data: Path) -> None:
    trained = run_training(plain(own_data, precision="bfloat16", epochs=1))
    metrics = run_evaluation(EvaluateConfig(model_uri=f"checkpoints/{trained.run_id}/best.pt", examples=0))
    stored = [StoredScores(run, "val") for run in (mlflow.get_run(trained.run_id), last_run())]
    check_protocols(stored)
    assert [(each.protocol["precision"], each.protocol["tf32"]) for each in stored] == [("float32", False)] * 2
    for name in METRICS:
        assert metrics[f"val/{name}"] == pytest.approx(trained.best[f"val/{name}"], rel=1e-6, abs=1e-9), name


def test_keep_last_shows_the_last_epoch(own_data: Path) -> None:
    result = run_training(plain(own_data, keep="last", monitor="val/ece", epochs=4, log_model=True))
    run = mlflow.get_run(result.run_id)
    assert run.data.tags["model_epoch"] == "4"
    assert run.data.metrics["val_model/epoch"] == 4
    assert run.data.metrics["val_model/ece"] == run.data.metrics["val/ece"] != result.best["val/ece"]
    assert json.loads(text(result.run_id, "reliability/val.json"))["metrics"]["ece"] == run.data.metrics["val/ece"]
    stored = model_store.load(result.run_id)
    val = load_split(stored.config, "val")
    scores = score(stored.network(), in_order(val, 4, torch.device("cpu")), val.labels)
    assert scores.metrics()["ece"] == pytest.approx(run.data.metrics["val/ece"], abs=1e-5)


def test_the_same_configuration_logs_identical_numbers(own_data: Path) -> None:
    config = plain(own_data, epochs=2)
    first, second = (mlflow.get_run(run_training(config).run_id).data.metrics for _ in range(2))
    timed = ("epoch_seconds", "images_per_second")
    ours = {name: v for name, v in first.items() if name not in timed and not name.startswith("system/")}
    assert ours == {name: second[name] for name in ours}
    assert len(ours) > 15


def test_system_metrics_are_on(finished: Finished) -> None:
    assert any(name.startswith("system/cpu") for name in mlflow.get_run(finished.result.run_id).data.metrics)


def test_class_names_may_hold_any_character(own_data: Path) -> None:
    (own_data / "classes.txt").write_text("road: left (50%) #1\nsigns & lights, too\nрека/été\n")
    result = run_training(plain(own_data, epochs=1))
    run = mlflow.get_run(result.run_id)
    assert {"val/iou/road: left _50__ _1", "val/iou/signs _ lights_ too", "val/iou/река/été"} <= set(run.data.metrics)
    assert "signs & lights, too" in text(result.run_id, "confusion/val.csv")
    stored = model_store.load(f"checkpoints/{result.run_id}/best.pt")
    assert stored.labels.names[0] == "road: left (50%) #1"


def test_without_plots_all_numbers_are_stored_and_an_evaluation_can_plot_them(own_data: Path) -> None:
    result = run_training(plain(own_data, epochs=1, checkpoint_dir="kept"))
    files = artifacts(result.run_id)
    assert not [file for file in files if file.endswith((".png", ".jpg", ".webp"))]
    assert files >= {
        "config.json", "reliability/val.json", "reliability/val_histograms.npz", "reliability/val_images.csv",
        "confusion/val.csv",
    }  # fmt: skip
    run = mlflow.get_run(result.run_id)
    assert "val/ece" in run.data.metrics
    assert "| ece |" in run.data.tags["mlflow.note.content"].replace("\u2003\u200b", "")
    run_evaluation(EvaluateConfig(model_uri=f"kept/{result.run_id}/best.pt", examples=1))
    assert artifacts(last_run().info.run_id) >= {"reliability/val.png", "confusion/val.png", "examples/val_0.png"}


def test_a_class_without_pixels_is_mentioned(own_data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (own_data / "classes.txt").write_text("red\ngreen\nblue\nnever\n")
    result = run_training(plain(own_data, epochs=1))
    assert not [path for path in artifacts(result.run_id) if path.startswith("model/")]
    assert not mlflow.get_run(result.run_id).outputs.model_outputs
    assert "no pixel of own/train is of class never" in capsys.readouterr().out


def test_a_resumed_run_may_keep_an_epoch_of_an_earlier_version_with_fewer_metrics() -> None:
    assert metrics_of_model({"val/loss": 0.5, "val/ece_low": 0.1, "train/loss": 0.4}) == {"val_model/loss": 0.5}
    assert list(metrics_of_model({f"val/{name}": 0.5 for name in METRICS})) == [f"val_model/{name}" for name in METRICS]
