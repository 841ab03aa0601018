"""Images of every kind, predicted through the command line: what is written, recorded, skipped and printed."""

import csv
import re
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from PIL import Image

import mlproject
from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.predictor import Prediction, Predictor
from segmentation.prediction.views import Views
from segmentation.training.checkpoints import Checkpoint, save
from studies.config import EvaluateConfig, PredictConfig, TrainConfig
from studies.models import loading as model_store
from studies.runs.evaluation import run_evaluation
from studies.runs.prediction import run_prediction
from tests.conftest import last_run
from tests.segmentation.prediction.test_predictor import random_image as blobs
from tests.segmentation.prediction.test_predictor import random_model as random_network

pytestmark = pytest.mark.slow

LABELS = Classes(("background", "road", "sky"), ((0, 0, 0), (128, 64, 128), (70, 130, 180)))
RESIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Checkpoint of a model with random weights."""
    file = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    config = TrainConfig(model="lraspp_mobilenet_v3_large", dataset="folder", resize=RESIZE, crop=None)
    save(
        Checkpoint(
            config=asdict(config), class_names=list(LABELS.names), palette=[list(each) for each in LABELS.palette],
            fingerprint="f", epoch=3, best_epoch=3, best_value=0.5, network=random_network().state_dict(),
            optimizer={}, scaler={},
        ),
        file,
    )  # fmt: skip
    return str(file)


def called(checkpoint: str, *more: str) -> int:
    return mlproject.main(["predict", "--model_uri", checkpoint, "--images", "in", "--device", "cpu", *more])


def expected(checkpoint: str, image: Image.Image) -> Prediction:
    (prediction,) = Predictor(model_store.load(checkpoint).network(), RESIZE, "bilinear")([image])
    return prediction


def pixels(path: str | Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def table(output: str = "predictions") -> dict[str, dict[str, str]]:
    with Path(output, "predictions.csv").open(encoding="utf-8", newline="") as file:
        return {row["image"]: row for row in csv.DictReader(file)}


def write_images(**images: Image.Image) -> None:
    Path("in").mkdir()
    for name, image in images.items():
        image.save(Path("in", f"{name}.png"))


def check(checkpoint: str, name: str, image: Image.Image) -> None:
    """Check that the files `name` hold what the predictor returns for an image."""
    prediction = expected(checkpoint, image)
    assert (pixels(f"predictions/masks/{name}.png") != prediction.classes).mean() < 1e-3
    confidence = pixels(f"predictions/confidence/{name}.png")
    assert confidence.dtype == np.uint8
    np.testing.assert_allclose(confidence / 255, prediction.confidence, atol=1 / 255)


def test_every_file_and_figure_of_a_run(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    first, second, third = blobs((61, 45), 0), blobs((45, 80), 1), blobs((61, 45), 2)
    write_images(first=first, third=third)
    Path("in/deep").mkdir()
    second.save("in/deep/second.bmp")
    Path("in/notes.txt").write_text("not an image")
    Path("in/.hidden.png").write_text("not an image")
    metrics = run_prediction(PredictConfig(model_uri=checkpoint, images="in", device="cpu"))

    counted, rows = np.zeros(3, int), table()
    assert list(rows) == ["deep/second.bmp", "first.png", "third.png"]
    total = 0.0
    for name, image in {"first": first, "deep/second": second, "third": third}.items():
        check(checkpoint, name, image)
        row = rows[f"{name}.{'bmp' if 'deep' in name else 'png'}"]
        assert (int(row["width"]), int(row["height"])) == image.size
        with Image.open(f"predictions/masks/{name}.png") as mask:
            assert (mask.mode, mask.size) == ("P", image.size)
            palette = np.array(mask.getpalette()).reshape(-1, 3)
            np.testing.assert_array_equal(palette[:3], LABELS.palette)
            assert palette[255].tolist() == [224, 224, 224]
            counts = np.bincount(np.array(mask).ravel(), minlength=3)
        np.testing.assert_allclose([float(row[each]) for each in LABELS.names], counts / counts.sum(), atol=5.1e-7)
        mean = expected(checkpoint, image).confidence.mean(dtype=np.float64)
        assert float(row["mean_confidence"]) == pytest.approx(mean, abs=1e-5)
        counted, total = counted + counts, total + mean * counts.sum()

        overlay, classes = pixels(f"predictions/overlays/{name}.jpg"), pixels(f"predictions/masks/{name}.png")
        wanted = (np.array(image) + np.array(LABELS.palette)[classes]) / 2
        wanted[classes == 0] = np.array(image)[classes == 0]
        assert abs(overlay - wanted).mean() < 6  # JPEG smears the edges of small pictures
    assert (counted > 0).sum() > 1
    assert Path("predictions/classes.txt").read_text().split() == list(LABELS.names)

    run = last_run()
    assert run.info.status == "FINISHED"
    cells = re.findall(r"^\| (\w+)\W* \| ([\d.]+%) \|$", run.data.tags["mlflow.note.content"], re.MULTILINE)
    for name, fraction in zip(LABELS.names, counted / counted.sum(), strict=True):
        assert metrics[f"predict/share/{name}"] == pytest.approx(fraction)
        assert (name, f"{fraction:.2%}") in cells
    assert metrics["predict/mean_confidence"] == pytest.approx(total / counted.sum(), abs=1e-5)
    assert (metrics["predict/images"], metrics["predict/skipped"]) == (3, 0)
    assert metrics["predict/images_per_second"] > 0
    assert run.data.metrics == pytest.approx(run.data.metrics | metrics)
    tags = {"kind": "predict", "predicted_with": checkpoint, "model": "lraspp_mobilenet_v3_large", "dataset": "folder"}
    assert tags.items() <= run.data.tags.items()
    logged = mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/predictions.csv")
    assert logged == Path("predictions/predictions.csv").read_text()
    assert {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "examples")} == {
        f"examples/{index}.png" for index in range(3)
    }
    said = capsys.readouterr().out
    assert f"Files: {Path('predictions').absolute()}" in said
    assert "Not read: 1 .txt file" in said
    assert "Not read: 1 .txt file" in run.data.tags["mlflow.note.content"]
    assert run.info.run_id in said.splitlines()[-1]


def test_images_that_cannot_be_predicted_are_skipped_and_named(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    good = blobs((40, 40), 0)
    write_images(
        good=good, long=Image.new("RGB", (30_000, 1)), deep=Image.new("I;16", (9, 9)), bomb=Image.new("1", (210, 210))
    )
    good.save("in/several.tif", save_all=True, append_images=[good])
    good.save("in/cut.jpg")
    Path("in/cut.jpg").write_bytes(Path("in/cut.jpg").read_bytes()[:600])
    Path("in/empty.png").write_bytes(b"")
    Path("in/gone.png").symlink_to("nowhere.png")
    assert called(checkpoint, "--max_pixels", "40000") == 1
    said = capsys.readouterr()
    reasons = {
        "bomb.png": "it is too large: more than 40,000 pixels (44,100); max_pixels allows more",
        "cut.jpg": "damaged or cut off",
        "deep.png": "1 channel of 16 bits", "empty.png": "of no known format", "gone.png": "No such file",
        "several.tif": "it holds several images",
        "long.png": "30000 x 1 pixels, 30,720,000 after resizing",
    }  # fmt: skip
    skipped = mlflow.artifacts.load_text(f"runs:/{last_run().info.run_id}/skipped.txt")
    for name, reason in reasons.items():
        (line,) = [line for line in said.err.splitlines() if line.startswith(f"skipped {name}: ")]
        assert reason in line
        assert f"{name}: {line.partition(': ')[2]}" in skipped
    assert "error: 7 of 8 images could not be predicted" in said.err
    assert said.err.count("holds several images") == 1, "each reason is printed once"
    assert "1 of 8 images predicted" in said.out
    assert list(table()) == ["good.png"]
    check(checkpoint, "good", good)
    run = last_run()
    assert run.info.status == "FAILED"
    assert "7 of 8 images" in run.data.tags["status_reason"]
    assert (run.data.metrics["predict/images"], run.data.metrics["predict/skipped"]) == (1, 7)
    assert not [action for action in warnings.filters if action[2] is Image.DecompressionBombWarning]


def test_images_of_every_mode_are_converted_to_rgb(checkpoint: str) -> None:
    colour = blobs((50, 34), 4)
    kinds = {
        "grey": colour.convert("L"), "grey_alpha": colour.convert("LA"), "alpha": colour.convert("RGBA"),
        "palette": colour.quantize(64), "black": colour.convert("1"),
    }  # fmt: skip
    kinds["alpha"].putalpha(128)
    write_images(**kinds)
    transparent = colour.quantize(16)
    transparent.save("in/transparent.png", transparency=bytes(range(16)))
    colour.convert("CMYK").save("in/cmyk.jpg", quality=95)
    colour.save("in/web.webp", lossless=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # EXIF: rotate right by 90 degrees
    colour.transpose(Image.Transpose.ROTATE_90).save("in/turned.png", exif=turned)
    assert called(checkpoint) == 0
    with Image.open("in/cmyk.jpg") as cmyk:
        kinds |= {"cmyk": cmyk.convert("RGB"), "web": colour, "turned": colour}
    kinds |= {"alpha": colour, "transparent": transparent}
    for name, image in kinds.items():
        check(checkpoint, name, image.convert("RGB"))
    assert len(table()) == len(kinds) == 9


def test_names_that_collide_and_what_was_predicted_before(checkpoint: str) -> None:
    first, second = blobs((40, 40), 0), blobs((44, 40), 1)
    write_images(same=first)
    second.save("in/same.webp", lossless=True)
    for output in ("in/results", "in/results", "in", "in/again"):
        assert called(checkpoint, "--output", output) == 0
        assert list(table(output)) == ["same.png", "same.webp"]
        assert pixels(f"{output}/masks/same.png.png").shape == (40, 40)
        assert pixels(f"{output}/masks/same.webp.png").shape == (40, 44)


def test_flip_averages_with_the_mirror_image(checkpoint: str) -> None:
    image = blobs((40, 40), 0)
    write_images(one=image)
    config = PredictConfig(model_uri=checkpoint, images="in/one.png", device="cpu", flip=True, run_name="mine")
    run_prediction(config)
    network = model_store.load(checkpoint).network()
    (prediction,) = Predictor(network, RESIZE, "bilinear", flip=True)([image])
    np.testing.assert_array_equal(pixels("predictions/masks/one.png"), prediction.classes)
    assert abs(pixels("predictions/confidence/one.png") / 255 - prediction.confidence).max() < 1 / 255
    assert abs(prediction.confidence - expected(checkpoint, image).confidence).max() > 0.01
    assert last_run().data.tags["mlflow.runName"] == "mine"


def test_windows_least_confidence_and_chosen_files(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    image = blobs((100, 80), 0)
    write_images(one=image)
    views = ["--tile", "48", "--overlap", "0.5", "--scales", "0.75,1", "--flip", "true", "--min_confidence", "0.6"]
    assert called(checkpoint, *views, "--outputs", "masks,confidence,probabilities") == 0
    network = model_store.load(checkpoint).network()
    seen = Views(True, (0.75, 1.0), 48, 0.5)
    (prediction,) = Predictor(network, RESIZE, "bilinear", views=seen)([image], probabilities=True)
    below = prediction.confidence < 0.6
    np.testing.assert_array_equal(pixels("predictions/masks/one.png"), np.where(below, 255, prediction.classes))
    assert abs(pixels("predictions/confidence/one.png") / 255 - prediction.confidence).max() < 1 / 255
    with np.load("predictions/probabilities/one.npz") as arrays:
        np.testing.assert_allclose(arrays["probabilities"], prediction.probabilities, atol=1e-3)
    assert not Path("predictions/overlays").exists()
    assert 0 < below.mean() < 1
    run, said = last_run(), capsys.readouterr().out
    assert run.data.metrics["predict/below_min_confidence"] == pytest.approx(below.mean())
    assert f"{below.mean():.2%} of all pixels have a confidence below 0.6: void (255) in the masks" in said
    assert f"tile_resize={RESIZE} shows them as in training" in said
    assert "tile=48, overlap=0.5, scales=0.75,1, flip=true" in run.data.tags["mlflow.note.content"]


def test_images_that_shrink_much_are_warned_of(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(large=blobs((300, RESIZE * 9), 0), small=blobs((40, 40), 1))
    assert called(checkpoint, "--outputs", "masks") == 0
    sentence = (
        f"Warning: 1 of 2 images shrink by more than 8 times before the model sees them, one from 300 x {RESIZE * 9}"
    )
    assert capsys.readouterr().out.count(sentence) == 1
    assert "shrink by more than 8 times" in last_run().data.tags["mlflow.note.content"]
    assert called(checkpoint, "--outputs", "masks", "--tile", "64") == 0
    assert "Warning" not in capsys.readouterr().out


def test_evaluation_scores_what_prediction_in_windows_writes(checkpoint: str, own_data: Path) -> None:
    views: dict[str, Any] = {"tile": 32, "overlap": 0.5, "scales": "0.75,1", "flip": True}
    (own_data / "classes.txt").write_text("background\nroad\nsky\n")
    metrics = run_evaluation(
        EvaluateConfig(
            model_uri=checkpoint, dataset="folder", data_dir=str(own_data), score_at="original", examples=1,
            device="cpu", **views,
        )
    )  # fmt: skip
    run = last_run()
    run_prediction(PredictConfig(model_uri=checkpoint, images=str(own_data / "val/images"), device="cpu",
                                 outputs="masks,probabilities", **views))  # fmt: skip
    right = count = 0
    loss = 0.0
    for file in sorted((own_data / "val/masks").iterdir()):
        truth, predicted = pixels(file), pixels(f"predictions/masks/{file.stem}.png")
        with np.load(f"predictions/probabilities/{file.stem}.npz") as arrays:
            chances = arrays["probabilities"].astype(np.float64)
        counted = truth != 255
        right, count = right + (predicted == truth)[counted].sum(), count + counted.sum()
        loss -= np.log(np.take_along_axis(chances, np.where(counted, truth, 0)[None], 0)[0][counted]).sum()
    assert metrics["val/pixel_accuracy"] == pytest.approx(right / count, abs=1e-6)
    assert metrics["val/loss"] == pytest.approx(loss / count, rel=1e-3), "probabilities are stored as float16"
    assert "with tile=32, overlap=0.5, scales=0.75,1, flip=true" in run.data.tags["mlflow.runName"]
    record = mlflow.artifacts.load_dict(f"runs:/{run.info.run_id}/reliability/val.json")
    assert record["protocol"]["views"] == "tile=32, overlap=0.5, scales=0.75,1, flip=true"
    with pytest.raises(InputError, match="tile=32, overlap=0.25 needs score_at=original"):
        EvaluateConfig(model_uri=checkpoint, tile=32)


def test_an_image_in_windows_that_cannot_be_predicted_is_skipped(
    checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(good=blobs((60, 50), 0), large=blobs((90, 80), 1))
    Path("in/bad.png").write_bytes(b"no image")
    assert called(checkpoint, "--tile", "32", "--max_pixels", "5000") == 1
    said = capsys.readouterr().err
    assert "skipped bad.png: it cannot be read as an image" in said
    assert "skipped large.png: it is too large: more than 5,000 pixels (7,200); max_pixels allows more" in said
    assert list(table()) == ["good.png"]
    assert not list(Path("predictions").rglob("*.part"))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tile", "16", "tile=16 is out of range"),
        ("overlap", "0.5", "overlap=0.5 has no effect without tile"),
        ("scales", "1,x", "scales='1,x' is not a list of numbers"),
        ("outputs", "masks,all", "outputs='masks,all' holds 'all'"),
        ("outputs", "", "outputs='' holds ''"),
        ("min_confidence", "1.5", "min_confidence=1.5 is out of range"),
        ("max_pixels", "0", "max_pixels=0 is too small"),
    ],
)
def test_wrong_values_are_refused(field: str, value: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert called("nowhere", f"--{field}={value}") == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("images", "output", "message"),
    [
        ("nowhere", "out", "images=nowhere does not exist"),
        ("empty", "out", "images=empty"),
        ("in", "file", "file/classes.txt cannot be written"),
    ],
)
def test_wrong_paths_are_reported(
    images: str, output: str, message: str, checkpoint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_images(one=Image.new("RGB", (9, 9)))
    Path("empty").mkdir()
    Path("file").write_text("in the way")
    assert called(checkpoint, "--images", images, "--output", output) == 1
    assert message in capsys.readouterr().err


def test_a_folder_without_a_readable_image_is_reported(checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("in").mkdir()
    Path("in/bad.png").write_text("not an image")
    assert called(checkpoint) == 1
    errors = capsys.readouterr().err
    assert "error: 1 of 1 images could not be predicted" in errors
    assert "skipped bad.png: " in errors
    assert table() == {}
