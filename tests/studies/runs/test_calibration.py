"""A trained model calibrated on held-out images: content of the run, and whether the served model is calibrated."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch

from segmentation.calibration.calibrators import METHODS
from segmentation.calibration.fitting import Fit
from segmentation.calibration.fitting import fit as fit_calibrator
from segmentation.classes import Classes
from segmentation.data import load_split
from segmentation.data.batches import in_order
from segmentation.errors import InputError
from segmentation.scoring.bootstrap import interval
from segmentation.scoring.evaluate import score
from segmentation.scoring.scores import Scores
from studies.config import CalibrateConfig, CompareConfig, EvaluateConfig
from studies.models import loading as model_store
from studies.runs.calibration import REFITS, changed, run_calibration
from studies.runs.comparison import run_comparison
from studies.runs.evaluation import run_evaluation
from tests.conftest import last_run
from tests.studies.conftest import Trained

pytestmark = pytest.mark.slow


class Calibrated(NamedTuple):
    """One finished calibration."""

    fit: Fit
    run_id: str
    printed: str

    @property
    def metrics(self) -> dict[str, float]:
        return dict(mlflow.get_run(self.run_id).data.metrics)

    def artifact(self, path: str) -> Any:
        return json.loads(mlflow.artifacts.load_text(f"runs:/{self.run_id}/{path}"))


@pytest.fixture(scope="module")
def calibrated(two_seeds: Trained, store: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Calibrated]:
    """The same model calibrated by every method."""
    found = {}
    for method in METHODS:
        printed = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
            patch.setenv("MLFLOW_TRACKING_URI", store)
            patch.chdir(tmp_path_factory.mktemp(method))
            fit = run_calibration(
                CalibrateConfig(run_id=two_seeds.run_ids[0], method=method, register_as=f"fit-{method}", examples=1)
            )
            found[method] = Calibrated(fit, last_run().info.run_id, printed.getvalue())
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_calibration_run_holds_before_and_after(
    method: str, two_seeds: Trained, calibrated: dict[str, Calibrated]
) -> None:
    this = calibrated[method]
    assert mlflow.get_run(this.run_id).info.status == "FINISHED"
    assert this.fit.nll_after <= this.fit.nll_before
    metrics, before = this.metrics, mlflow.get_run(two_seeds.run_ids[0]).data.metrics
    assert metrics["fit/loss_after"] <= metrics["fit/loss_before"]
    for name in ("ece", "loss", "pixel_accuracy", "mean_iou"):
        assert metrics[f"val_before/{name}"] == pytest.approx(before[f"val/{name}"], abs=1e-5)
    if method != "vector":
        assert metrics["val_after/pixel_accuracy"] == metrics["val_before/pixel_accuracy"]
        assert metrics["val_after/mean_iou"] == metrics["val_before/mean_iou"]
    fitted = this.artifact("calibration/fit.json")
    assert (fitted["method"], fitted["split"], fitted["images"]) == (method, "held_out", 3)
    loss = this.artifact("calibration/changes.json")["changes"]["loss"]
    low, high = loss["interval"]
    assert low <= loss["after"] - loss["before"] <= high
    changes = this.artifact("calibration/changes.json")
    assert changes["interval_includes_fit"] is (method == "temperature")
    assert ("and the 3 fitting images" in changes["interval"]) is (method == "temperature")
    assert ("do not include the randomness of the fit on 3 images" in changes["interval"]) is (method != "temperature")
    assert changes["interval"] in this.printed
    assert this.artifact("calibration/before.json")["metrics"]["ece"] == metrics["val_before/ece"]
    folder = {file.path for file in mlflow.MlflowClient().list_artifacts(this.run_id, "calibration")}
    assert "calibration/before_and_after.png" in folder
    tags = mlflow.get_run(this.run_id).data.tags
    assert tags["mlflow.runName"].startswith(f"calibrate {method} · lr 0.05 · wd 0 · ")
    described = tags["mlflow.note.content"].replace("\u2003\u200b", "")
    assert changes["interval"] in described
    assert f"| ece | {metrics['val_before/ece']:.4f} | {metrics['val_after/ece']:.4f} |" in described
    assert described.index("description/0.png") < described.index("| metric |")
    lines = [line for line in this.printed.splitlines() if line]
    verdict = lines[lines.index(f"Fitting {method} to 3 images ...") + 1]
    assert verdict.startswith("Calibration (ECE)")
    assert verdict in described.splitlines()[0]
    assert "Warning: only 3 images to fit to (split=held_out)" in this.printed
    assert "Warning: only 12 images scored" in this.printed
    assert "Before -> after" in this.printed
    assert f"model_uri=runs:/{this.run_id}" in this.printed
    assert this.run_id in this.printed.splitlines()[-1]


@pytest.mark.parametrize("method", METHODS)
def test_what_is_served_is_calibrated(method: str, two_seeds: Trained, calibrated: dict[str, Calibrated]) -> None:
    val = load_split(two_seeds.configs[0], "val")
    stored = model_store.load(f"models:/fit-{method}@latest-run")
    assert stored.run_id == two_seeds.run_ids[0]
    scores = score(stored.network(), in_order(val, 5, torch.device("cpu")), val.labels)
    assert scores.metrics()["ece"] == pytest.approx(calibrated[method].metrics["val_after/ece"], abs=1e-5)
    images, _ = val.gather(np.arange(2))
    served = mlflow.pyfunc.load_model(f"models:/fit-{method}@latest-run")
    answers = served.predict([{"image": np.ascontiguousarray(image)} for image in images.permute(0, 2, 3, 1).numpy()])
    with torch.no_grad():
        confidence, label = stored.network()(images).softmax(1).max(1)
        plain = model_store.load(two_seeds.checkpoint).network()(images)
    for index, answer in enumerate(answers):
        np.testing.assert_allclose(answer["confidence"], confidence[index], atol=2e-4)
        np.testing.assert_array_equal(answer["classes"], label[index])
        assert answer["calibration"] == method
    if method != "vector":
        assert (plain.max(1).indices == label).all()


def test_a_calibrated_run_can_be_evaluated_compared_and_calibrated_anew(
    two_seeds: Trained, calibrated: dict[str, Calibrated], capsys: pytest.CaptureFixture[str]
) -> None:
    first = calibrated["temperature"]
    again = run_calibration(CalibrateConfig(run_id=first.run_id, examples=0))
    assert again.temperature == pytest.approx(first.fit.temperature, rel=1e-3)
    assert "is already calibrated" in capsys.readouterr().out
    metrics = run_evaluation(EvaluateConfig(model_uri=first.run_id, examples=0))
    assert metrics["val/ece"] == pytest.approx(first.metrics["val_after/ece"], abs=1e-5)
    (pair,) = run_comparison(CompareConfig(run_ids=f"{two_seeds.run_ids[0]},{first.run_id}"))
    assert pair.differences["pixel_accuracy"].value == 0
    change = first.metrics["val_before/loss"] - first.metrics["val_after/loss"]
    assert pair.differences["loss"].value == pytest.approx(change, abs=1e-5)


def test_fitting_on_what_was_trained_on_is_refused(two_seeds: Trained) -> None:
    with pytest.raises(InputError, match="calibration_split=train is the split"):
        run_calibration(CalibrateConfig(run_id=two_seeds.checkpoint, calibration_split="train"))
    with pytest.raises(InputError, match="calibration_split=val is also"):
        CalibrateConfig(run_id=two_seeds.run_ids[0], calibration_split="val")


def test_images_that_were_trained_or_are_scored_on_under_another_name_are_found(
    two_seeds: Trained, tmp_path: Path
) -> None:
    """The split has a new name but contains a copy of a training image, or of a scored one."""
    for copied_from, message in (("train", "the model is also trained on"), ("val", "the model is also scored on")):
        own = tmp_path / copied_from
        shutil.copytree(two_seeds.configs[0].data_dir, own)
        names = [
            name for name in load_split(two_seeds.configs[0], copied_from).names
            if name not in load_split(two_seeds.configs[0], "held_out").names
        ]  # fmt: skip
        for kind, suffix in (("images", "jpg"), ("masks", "png")):
            (own / "extra" / kind).mkdir(parents=True)
            shutil.copy(own / copied_from / kind / f"{names[0]}.{suffix}", own / "extra" / kind / f"new.{suffix}")
        with pytest.raises(InputError, match=message):
            run_calibration(CalibrateConfig(run_id=two_seeds.checkpoint, data_dir=str(own), calibration_split="extra"))


def test_without_held_out_images_the_message_says_what_to_do(two_seeds: Trained, tmp_path: Path) -> None:
    checkpoint = torch.load(two_seeds.checkpoint, weights_only=True)
    checkpoint["config"]["calibration_fraction"] = 0.0
    torch.save(checkpoint, tmp_path / "none.pt")
    with pytest.raises(InputError, match="calibration_fraction=0"):
        run_calibration(CalibrateConfig(run_id=str(tmp_path / "none.pt")))


def scored(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    scores = Scores(Classes.named("a", "b", "c"))
    scores.update(logits, labels)
    return scores


def random_split(images: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits that are twice as sure as they should be, in images that differ in how much, and labels of two classes."""
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, 3, 12, 12, generator=random)
    logits[:, 2] -= 15
    temperatures = 1 + 2 * torch.rand(images, 1, 1, 1, generator=random)
    probabilities = (logits / temperatures).movedim(1, -1).reshape(-1, 3).softmax(-1)
    labels = torch.multinomial(probabilities, 1, generator=random).reshape(images, 12, 12)
    return logits, labels.clamp(max=1)


def test_changes_of_means_over_classes_are_over_the_classes_that_both_have() -> None:
    """Before the calibration an absent class is predicted in a few pixels, and its IoU is 0; afterwards it is not."""
    logits, labels = random_split(20, seed=0)
    strange = logits.clone()
    strange[3, 2, 0, :2] = 50
    before, after = scored(strange, labels), scored(logits, labels)
    assert before.confusion.iou()[2] == 0
    change = changed(before, after)["mean_iou"]
    expected = [scores.confusion.iou()[:2].mean() for scores in (before, after)]
    assert [change.before, change.after] == pytest.approx(expected)
    assert change.interval.low <= change.after - change.before <= change.interval.high < 0.05


def test_intervals_of_changes_are_those_of_fitting_anew_and_scoring_anew() -> None:
    """The brute-force twin: draw fitting images and scored images, fit, score both ways, and subtract."""
    fitting, scored_split = random_split(8, seed=1), random_split(40, seed=2)
    images = torch.zeros(8, 3, 12, 12, dtype=torch.uint8)

    def refit(chosen: np.ndarray) -> Fit:
        batch = fitting[0][chosen], images, fitting[1][chosen]
        return fit_calibrator("temperature", lambda: [batch], 3)

    def at(temperature: float) -> torch.Tensor:
        return scored_split[0] / temperature

    fit, labels = refit(np.arange(8)), scored_split[1]
    assert fit.refitted is not None
    assert fit.temperature is not None
    temperature = fit.temperature[1]
    before, after = scored(at(1), labels), scored(at(temperature), labels)
    nodes = np.quantile(fit.refitted, REFITS).tolist()
    changes = changed(before, after, {node: scored(at(node), labels) for node in nodes}, fit.refitted)
    narrow = changed(before, after)

    random, found = np.random.default_rng(0), []
    for _ in range(120):
        again = refit(random.integers(0, 8, 8)).temperature
        assert again is not None
        drawn = random.integers(0, 40, 40)
        both = [scored(at(value)[drawn], labels[drawn]).metrics() for value in (1, again[1])]
        found.append({name: both[1][name] - both[0][name] for name in ("ece", "loss", "brier", "confidence_gap")})
    for name in found[0]:
        low, high = interval(np.array([each[name] for each in found]), changes[name].after - changes[name].before)
        ours, width = changes[name].interval, high - low
        assert ours.low == pytest.approx(low, abs=0.2 * width), name
        assert ours.high == pytest.approx(high, abs=0.2 * width), name
    assert narrow["ece"].interval.high - narrow["ece"].interval.low < 0.7 * (
        changes["ece"].interval.high - changes["ece"].interval.low
    )
