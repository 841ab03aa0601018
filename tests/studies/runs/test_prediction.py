"""Images of every kind, predicted through the command line: what is written, recorded, skipped and printed."""

import csv
import re
import warnings
from dataclasses import asdict
from pathlib import Path

import mlflow
import numpy as np
import pytest
from PIL import Image

import mlproject
from segmentation.classes import Classes
from segmentation.prediction.predictor import Prediction, Predictor
from segmentation.training.checkpoints import Checkpoint, save
from studies.config import PredictConfig, TrainConfig
from studies.models import loading as model_store
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
        "deep.png": "more than 8 bits per channel", "empty.png": "of no known format", "gone.png": "No such file",
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
