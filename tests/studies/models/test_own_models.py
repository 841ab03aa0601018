"""Own models from training to the served answer: a network of ten lines, and a U-Net of segmentation_models_pytorch."""

import contextlib
import io
import shutil
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from PIL import Image

import mlproject
from segmentation.errors import InputError
from segmentation.models.model_code import _local_code
from segmentation.prediction.predictor import Predictor
from segmentation.training import checkpoints
from studies import tracking
from studies.config import CalibrateConfig, EvaluateConfig, ModelsConfig, TrainConfig, TuneConfig
from studies.models import loading
from studies.runs import training
from studies.runs.calibration import run_calibration
from studies.runs.evaluation import run_evaluation
from studies.runs.models import run_models
from studies.runs.training import run_training
from studies.scores.labels import labels_of
from studies.scores.stored import StoredScores, find_runs
from studies.search.study import run_study
from tests.conftest import last_run, write_own_data
from tests.segmentation.models.own import TEN_LINES

pytestmark = pytest.mark.slow

SMP = """
import segmentation_models_pytorch as smp


def net(classes, channels, pretrained=True):
    return smp.Unet(
        "mobilenet_v2",
        encoder_weights=None,  # "imagenet" if pretrained else None, where the weights can be downloaded
        encoder_depth=3,
        decoder_channels=(16, 8, 8),
        in_channels=channels,
        classes=classes,
    )
"""
OTHER = TEN_LINES.replace("16", "8")


class Own(NamedTuple):
    """A trained own model, whose module has changed since."""

    config: TrainConfig
    run_id: str
    """Stopped after the first epoch, and resumed when the module had changed."""
    whole: str
    """A run of the same configuration that was not stopped."""
    printed: str
    """What the resumption printed."""


def interrupt(epoch: int, metrics: dict[str, float]) -> None:
    raise KeyboardInterrupt


def change(text: str) -> None:
    """Change the module as between two commands."""
    Path("my_models.py").write_text(text)
    _local_code.cache_clear()


def quietly_trained(config: TrainConfig, **more: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()):
        return run_training(config, **more).run_id


@pytest.fixture(scope="module", params=["ten lines", "smp"])
def own(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, store: str) -> Iterator[Own]:
    if request.param == "smp" and find_spec("segmentation_models_pytorch") is None:
        pytest.skip("segmentation_models_pytorch is not installed")
    folder = tmp_path_factory.mktemp("own")
    more = {"freeze_backbone": 1, "backbone_learning_rate_factor": 0.5} if request.param == "smp" else {}
    config = TrainConfig(
        dataset="folder", data_dir=str(write_own_data(folder, train=9, val=4)), resize=32, crop=32, device="cpu",
        epochs=2, batch_size=4, learning_rate=0.05, model="my_models:net", micro_batch="auto", keep="last",
        calibration_fraction=0.34, examples=1, plot_every=0, cache_dir=str(folder / "cache"), experiment="own models",
        checkpoint_dir=str(folder / "checkpoints"), **more,
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        change(SMP if request.param == "smp" else TEN_LINES)
        whole = quietly_trained(replace(config, log_model=False))
        with pytest.raises(KeyboardInterrupt):
            quietly_trained(config, watch=interrupt)
        run_id = last_run().info.run_id
        change(OTHER)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            run_training(replace(config, resume=run_id))
        path = list(sys.path)
        yield Own(config, run_id, whole, printed.getvalue())
        sys.path[:] = path


def tensors(own: Own, run_id: str) -> dict[str, torch.Tensor]:
    return checkpoints.load(Path(own.config.checkpoint_dir) / run_id / "last.pt").network


def test_a_resumed_run_uses_its_own_code_and_gets_the_same_weights(own: Own) -> None:
    assert f"The code of model=my_models:net here is not that of run {own.run_id}" in own.printed
    whole = tensors(own, own.whole)
    assert all(torch.equal(value, whole[name]) for name, value in tensors(own, own.run_id).items())
    runs = [mlflow.get_run(each) for each in (own.run_id, own.whole)]
    assert [run.data.params["micro_batch"] for run in runs] == ["4", "4"]
    codes = {run.data.tags["model_code"] for run in runs}
    assert len(codes) == 1
    text = mlflow.artifacts.load_text(f"runs:/{own.run_id}/model_code/my_models.py")
    assert text != OTHER
    assert "def net(classes, channels" in text


def test_the_stored_model_answers_alike_everywhere(
    own: Own, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_models.py").write_text(OTHER)  # in the current folder, but not the code of the model
    metrics = run_evaluation(EvaluateConfig(model_uri=own.run_id, examples=0, device="cpu"))
    logged = mlflow.get_run(own.run_id).data.metrics
    assert metrics["val/loss"] == pytest.approx(logged["val/loss"], rel=1e-5)
    assert f"{own.run_id} runs code of its model: my_models.py (stored with it)." in capsys.readouterr().out

    name = f"own-{own.run_id[:8]}"
    config = CalibrateConfig(run_id=own.run_id, register_as=name, device="cpu", records="unsent", examples=0)
    with contextlib.redirect_stdout(io.StringIO()):
        run_calibration(config)
    stored = loading.load(f"models:/{name}/1")
    assert stored.calibration is not None

    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (45, 67, 3), dtype=np.uint8))
    (expected,) = Predictor(stored.network(), 32, "bilinear")([photo])
    served = mlflow.pyfunc.load_model(f"models:/{name}/1").get_raw_model()
    assert "my_models.py (my_models:net)" in capsys.readouterr().err
    (answer,) = served.predict([photo])
    assert np.array_equal(answer["classes"], expected.classes)
    np.testing.assert_allclose(answer["confidence"], expected.confidence, atol=1e-4)

    photo.save(tmp_path / "photo.png")
    words = ["--model_uri", f"models:/{name}/1", "--images", "photo.png", "--device", "cpu"]
    assert mlproject.main(["predict", *words]) == 0
    (mask,) = Path("predictions/masks").glob("*.png")
    with Image.open(mask) as image:
        assert np.array_equal(np.array(image), expected.classes)

    assert mlproject.main(["export", "--model_uri", f"models:/{name}/1"]) == 0
    import onnxruntime

    images = np.random.default_rng(1).integers(0, 256, (1, 3, 40, 56), dtype=np.uint8)
    (found,) = onnxruntime.InferenceSession("model.onnx").run(["probabilities"], {"images": images})
    with torch.no_grad():
        np.testing.assert_allclose(found, stored.network()(torch.from_numpy(images)).softmax(1), atol=1e-4)


@pytest.fixture
def ten_lines(own_data: Path) -> TrainConfig:
    """One epoch of the ten-line network, from the current folder."""
    change(TEN_LINES)
    return TrainConfig(
        dataset="folder", data_dir=str(own_data), resize=32, crop=32, device="cpu", epochs=1, batch_size=4,
        learning_rate=0.05, model="my_models:net", examples=0, plot_every=0, log_model=False, experiment="ten lines",
    )  # fmt: skip


def test_a_checkpoint_runs_its_code_only_if_its_origin_is_known(ten_lines: TrainConfig) -> None:
    run_id = quietly_trained(ten_lines)
    file = str(Path("checkpoints") / run_id / "best.pt")
    shutil.copyfile(file, "elsewhere.pt")
    change(OTHER)
    assert loading.load("elsewhere.pt").code.files == {"my_models.py": TEN_LINES}  # type: ignore[union-attr]
    stranger = checkpoints.load(Path(file))
    assert stranger.code is not None
    text = TEN_LINES + "\nprint('stranger')\n"
    checkpoints.save(replace(stranger, code=stranger.code | {"files": {"my_models.py": text}}), Path("elsewhere.pt"))
    with pytest.raises(InputError, match=r"elsewhere\.pt holds code of its model \(my_models\.py\).*does not run"):
        loading.load("elsewhere.pt")
    change(text)
    assert loading.load("elsewhere.pt").code is not None
    checkpoints.save(replace(stranger, code=None), Path("elsewhere.pt"))
    with pytest.raises(InputError, match=r"elsewhere\.pt is damaged.*model='my_models:net'"):
        loading.load("elsewhere.pt")


def test_a_changed_function_starts_a_new_run(ten_lines: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        quietly_trained(replace(ten_lines, epochs=2), watch=interrupt)
    stopped = last_run().info.run_id
    change(OTHER)
    result = run_training(replace(ten_lines, epochs=2, resume="auto"))
    printed = capsys.readouterr().out
    assert result.run_id != stopped
    assert f"Run {stopped} " in printed
    assert f"resume={stopped} resumes it with its own code" in printed
    change(TEN_LINES)
    assert run_training(replace(ten_lines, epochs=2, resume="auto")).run_id == stopped


def test_the_chosen_micro_batch_is_kept(ten_lines: TrainConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    from segmentation.training.micro_batch import Choice

    config = replace(ten_lines, epochs=2, micro_batch="auto")
    monkeypatch.setattr(training, "choose_micro_batch", lambda *_: Choice(3, "micro_batch=auto: 3"))
    with pytest.raises(KeyboardInterrupt):
        quietly_trained(config, watch=interrupt)
    stopped = last_run().info.run_id
    monkeypatch.setattr(training, "choose_micro_batch", lambda *_: Choice(1, "micro_batch=auto: 1"))
    assert quietly_trained(replace(config, resume="auto")) == stopped
    assert mlflow.get_run(stopped).data.params["micro_batch"] == "3"
    assert tracking.stored_config(stopped)["micro_batch"] == 3
    assert checkpoints.load(Path("checkpoints") / stopped / "best.pt").config["micro_batch"] == 3


def test_weights_of_an_own_model_start_another_run(ten_lines: TrainConfig, capsys: pytest.CaptureFixture[str]) -> None:
    first = quietly_trained(ten_lines)
    file = str(Path("checkpoints") / first / "best.pt")
    run_training(replace(ten_lines, weights=file, normalization="signed_unit", epochs=1))
    assert f"Starting weights {file}: 4 tensors loaded." in capsys.readouterr().out
    change(TEN_LINES.replace("3, padding=1", "5, padding=2"))
    with pytest.raises(InputError, match=r"no_such\.pt"):
        quietly_trained(replace(ten_lines, weights="no_such.pt"))
    run_training(replace(ten_lines, weights=file, normalization="signed_unit"))
    assert "3 tensors loaded; 1 start at random (network.0.weight)" in capsys.readouterr().out


def test_models_compares_own_networks_by_name_and_by_code(ten_lines: TrainConfig) -> None:
    change(TEN_LINES + "\n\ndef wide(classes, channels):\n    return nn.Conv2d(channels, classes, 5, padding=2)\n")
    more = {"variants": "my_models:net, my_models:wide", "experiment": "own compared"}
    with contextlib.redirect_stdout(io.StringIO()):
        run_ids = run_models(ModelsConfig(**asdict(ten_lines) | more))
    change(OTHER)
    run_ids.append(quietly_trained(ten_lines))
    labels = labels_of([StoredScores(run, "val") for run in find_runs(",".join(run_ids), "val")])
    assert [label.partition(" ")[0] for label in labels] == ["my_models:net", "my_models:wide", "my_models:net"]
    assert len(set(labels)) == 3
    assert all("code " in label for label in labels)


def test_a_study_keeps_to_the_code_that_it_was_started_with(ten_lines: TrainConfig) -> None:
    more = {"study_name": "own", "sampler": "grid", "search": "learning_rate=0.1|0.01", "learning_rate": 0.01}
    config = TuneConfig(**asdict(ten_lines) | more)
    with contextlib.redirect_stdout(io.StringIO()):
        run_study(config)
        change(OTHER)
        with pytest.raises(InputError, match=r"study_name=own was started with model_code=.*my_models:net"):
            run_study(config)


@pytest.mark.parametrize(
    ("text", "words", "parts"),
    [
        (None, [], ["model=my_models:net", "no module my_models"]),
        (TEN_LINES, ["--freeze_backbone", "1"], ["freeze_backbone=1", "backbone or encoder"]),
        (TEN_LINES, ["--auxiliary_loss", "0.4"], ["auxiliary_loss=0.4", "`aux`"]),
        (TEN_LINES.replace("classes, 1)", "7, 1)"), [], ["7 channels", "3 classes"]),
    ],
)
def test_a_model_that_does_not_work_opens_no_run(
    text: str | None, words: list[str], parts: list[str], own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _local_code.cache_clear()
    if text is not None:
        change(text)
    before = {experiment.name for experiment in mlflow.MlflowClient().search_experiments()}
    fields = ["--model", "my_models:net", "--dataset", "folder", "--data_dir", str(own_data), "--experiment", "refused"]
    assert mlproject.main(["train", *fields, "--resize", "32", "--crop", "32", *words]) == 1
    error = capsys.readouterr().err
    assert all(part in error for part in parts), error
    assert {experiment.name for experiment in mlflow.MlflowClient().search_experiments()} == before
