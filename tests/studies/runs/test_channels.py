"""Images of five channels of 16 bits, from training to the served model."""

from base64 import b64encode
from pathlib import Path

import mlflow
import numpy as np
import pytest
import tifffile
from PIL import Image

import mlproject
from segmentation.errors import InputError
from segmentation.metrics import of_model
from studies.config import EvaluateConfig, PredictConfig, TrainConfig
from studies.models import loading
from studies.runs.evaluation import run_evaluation
from studies.runs.prediction import run_prediction
from studies.runs.training import run_training
from tests import tiny_network
from tests.segmentation.io.test_channels import write_tiff

pytestmark = pytest.mark.slow
CHANNELS = 5
SIDE = 32


def write_data(root: Path, channels: int = CHANNELS, dtype: type = np.uint16, splits: str = "train val") -> Path:
    """Write TIFF images whose left half has other values than the right one, and their masks."""
    limit = np.iinfo(dtype).max
    for split in splits.split():
        for index in range(4):
            random = np.random.default_rng([index, split == "val"])
            mask = np.zeros((SIDE, SIDE), np.uint8)
            mask[:, SIDE // 2 + index :] = 1
            image = random.normal(0.3 * limit, 0.02 * limit, (SIDE, SIDE, channels)) + 0.2 * limit * mask[..., None]
            image[..., -1] /= 50
            for folder in ("images", "masks"):
                (root / split / folder).mkdir(parents=True, exist_ok=True)
            write_tiff(root / split / f"images/{index}.tif", image.clip(0, limit).astype(dtype))
            Image.fromarray(mask).save(root / split / f"masks/{index}.png")
    (root / "classes.txt").write_text("left\nright\n")
    return root


def config(data: Path, **more: object) -> TrainConfig:
    values = {
        "dataset": "folder", "data_dir": str(data), "channels": CHANNELS, "resize": SIDE, "crop": SIDE, "epochs": 2,
        "batch_size": 4, "model": tiny_network.LRASPP, "plot_every": 2, "examples": 1, "flip": 0.5,
        "device": "cpu", "learning_rate": 0.05,
    }  # fmt: skip
    return TrainConfig(**values | more)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, store: str) -> tuple[str, Path]:
    """A run trained on such images, and their folder."""
    folder = tmp_path_factory.mktemp("channels")
    data = write_data(folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("MLFLOW_TRACKING_URI", store)
        run_id = run_training(config(data, checkpoint_dir=str(folder / "checkpoints"))).run_id
    return run_id, data


def test_the_model_keeps_the_training_split_s_mean_and_std(trained: tuple[str, Path]) -> None:
    run_id, data = trained
    pixels = np.stack([tifffile.imread(file) for file in sorted((data / "train/images").iterdir())]).astype(np.float64)
    stored = loading.load(run_id)
    network = stored.network()
    assert (stored.config.normalization, stored.config.channels, stored.bits) == ("measured", CHANNELS, 16)
    np.testing.assert_allclose(network.mean.flatten(), pixels.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(network.std.flatten(), pixels.std((0, 1, 2)), rtol=1e-6)


def test_evaluation_scores_what_training_scored(trained: tuple[str, Path]) -> None:
    run_id, _ = trained
    found = run_evaluation(EvaluateConfig(model_uri=run_id, split="val", device="cpu", examples=1))
    metrics = mlflow.get_run(run_id).data.metrics
    for name in ("loss", "pixel_accuracy", "ece"):
        assert found[f"val/{name}"] == pytest.approx(metrics[of_model(name)], abs=1e-6)


def test_prediction_and_the_served_model_agree(trained: tuple[str, Path]) -> None:
    run_id, data = trained
    run_prediction(PredictConfig(model_uri=run_id, images=str(data / "val/images"), output="out", device="cpu"))
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    files = sorted((data / "val/images").iterdir())
    texts = [b64encode(file.read_bytes()).decode() for file in files]
    of_files = served.predict([{"image": text} for text in texts])
    of_pixels = served.get_raw_model().predict(np.stack([tifffile.imread(file) for file in files]))
    for file, one, other in zip(files, of_files, of_pixels, strict=True):
        with Image.open(f"out/masks/{file.stem}.png") as mask:
            np.testing.assert_array_equal(mask, one["classes"])
        np.testing.assert_array_equal(one["classes"], other["classes"])
        np.testing.assert_array_equal(one["confidence"], other["confidence"])
    requirements = mlflow.artifacts.load_text(f"runs:/{run_id}/model/requirements.txt")
    assert {"tifffile", "imagecodecs"} <= {line.partition("==")[0] for line in requirements.splitlines()}


def test_other_channels_and_bits_are_refused(trained: tuple[str, Path], tmp_path: Path) -> None:
    run_id, _ = trained
    three, eight = write_data(tmp_path / "three", 3), write_data(tmp_path / "eight", dtype=np.uint8)
    for data, reason in (
        (three, r"images/0.tif has 3 channels of 16 bits; expected 5 channels"),
        (eight, "8 bits.*16"),
    ):
        with pytest.raises(InputError, match=reason):
            run_evaluation(EvaluateConfig(model_uri=run_id, data_dir=str(data), split="val", device="cpu"))
    served = mlflow.pyfunc.load_model(f"runs:/{run_id}/model").get_raw_model()
    for data, reason in (
        (three, "has 3 channels of 16 bits; expected 5 channels of 16 bits"),
        (eight, "has 5 channels of 8 bits; expected 5 channels of 16 bits"),
    ):
        file = data / "val/images/0.tif"
        with pytest.raises(Exception, match=f"image 1 of 1: it {reason}"):
            served.predict([file.read_bytes()])
        assert mlproject.main(["predict", "--model_uri", run_id, "--images", str(file), "--output", data.name]) == 1
        (run,) = mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")
        assert reason in mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/skipped.txt")
    with pytest.raises(Exception, match=r"the pixels are uint8, and the model takes pixels \(H, W, 5\) uint16"):
        served.predict(np.zeros((4, 4, 5), np.uint8))


def test_a_run_that_starts_from_it_keeps_all_weights_and_the_normalization(
    trained: tuple[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    run_id, data = trained
    fewer = write_data(data.parent / "fewer", splits="val")
    write_data(fewer)
    (fewer / "train/images/3.tif").unlink()
    (fewer / "train/masks/3.png").unlink()
    found = run_training(config(fewer, weights=f"runs:/{run_id}", epochs=1, learning_rate=0.0, log_model=False))
    before = loading.load(run_id)
    after = loading.load(f"checkpoints/{found.run_id}/best.pt")
    for name in ("network.backbone.low.0.weight", "mean", "std", "bits"):
        np.testing.assert_array_equal(before.state[name], after.state[name])
    assert "tensors loaded.\n" in capsys.readouterr().out


def test_a_stopped_run_resumes_with_its_normalization(trained: tuple[str, Path]) -> None:
    _, data = trained

    class StoppedError(Exception):
        pass

    def stop(number: int, metrics: dict[str, float]) -> None:
        if number == 1:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_training(config(data, seed=1, log_model=False, keep="last"), watch=stop)
    (run,) = mlflow.search_runs(search_all_experiments=True, max_results=1, output_format="list")
    resumed = run_training(TrainConfig(resume=run.info.run_id))
    whole = run_training(config(data, seed=1, log_model=False, keep="last"))
    one, other = (loading.load(f"checkpoints/{each.run_id}/last.pt").state for each in (resumed, whole))
    assert all(bool((one[name] == other[name]).all()) for name in one)
