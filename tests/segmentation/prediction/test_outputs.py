import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.kinds import ENDINGS, read_kinds
from segmentation.prediction.outputs import PredictedFolder, earlier_files, output_names
from segmentation.prediction.predictor import Prediction
from tests.conftest import write_blank
from tests.segmentation.prediction.test_predictor import random_image


def certain(classes: np.ndarray) -> Prediction:
    """A prediction with a confidence of 1."""
    return Prediction(classes, np.ones(classes.shape, np.float32))


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    folder = PredictedFolder(tmp_path / "out", Classes.named("a", "b"))
    (tmp_path / "out/masks").write_text("in the way")
    image, prediction = Image.new("RGB", (4, 4)), certain(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"masks.a\.png cannot be written: File exists"):
        folder.add("a.png", "a", image, prediction)


def predicted(output: Path, *paths: str, earlier: list[Path] | None = None) -> PredictedFolder:
    """Write predictions of black images."""
    folder = PredictedFolder(output, Classes.named("a", "b"), earlier or [])
    for path, name in output_names(list(paths)).items():
        folder.add(path, name, Image.new("RGB", (4, 4)), certain(np.zeros((4, 4), np.uint8)))
    folder.write_table()
    return folder


def test_predictions_of_other_images_are_not_mixed_with_new_ones(tmp_path: Path) -> None:
    predicted(tmp_path, "a.png", "b.png")
    with pytest.raises(InputError, match=r"not among these: confidence/b.png, masks/b.png, overlays/b.jpg\."):
        earlier_files(tmp_path, ["a.png", "c.png"])
    with pytest.raises(InputError, match=r"masks/a.png"):  # its new name is a.png.png, beside a.jpg
        earlier_files(tmp_path, ["a.png", "a.jpg", "b.png"])
    assert len(earlier_files(tmp_path, ["a.png", "b.png", "c.png"])) == 6
    assert earlier_files(tmp_path / "new", ["a.png"]) == []


def test_files_that_no_prediction_has_written_are_left_alone(tmp_path: Path) -> None:
    write_blank(tmp_path, "masks/a.png")
    with pytest.raises(InputError, match="no prediction has written: masks/a.png"):
        earlier_files(tmp_path, ["a.png"])


def test_an_interrupted_prediction_leaves_no_older_masks(tmp_path: Path) -> None:
    predicted(tmp_path, "a.png", "b.png")
    predicted(tmp_path, "a.png", earlier=earlier_files(tmp_path, ["a.png", "b.png"]))
    assert [file.name for file in (tmp_path / "masks").iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["a.jpg", "b.png", "c/a.jpg"], ["a", "b", "c/a"]),
        (["a.jpg", "a.png", "b.png"], ["a.jpg", "a.png", "b"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["A.jpg", "a.png"], ["A.jpg", "a.png"]),
        (["A.jpg", "a.jpg"], ["A.jpg", "a.jpg"]),
        (["v1.0/x", "y"], ["v1.0/x", "y"]),
    ],
)
def test_output_names_are_unique(paths: list[str], names: list[str]) -> None:
    assert list(output_names(paths).values()) == names


def test_one_class_everywhere_is_noticed(tmp_path: Path) -> None:
    assert predicted(tmp_path / "one", "a.png").only_class() is None, "one image may hold one class"
    folder = predicted(tmp_path / "two", "a.png", "b.png")
    assert folder.only_class() == "a"
    other = np.array([[1, 0, 0, 0]] * 4, np.uint8)
    folder.add("c.png", "c", Image.new("RGB", (4, 4)), certain(other))
    assert folder.only_class() is None


def test_only_the_chosen_kinds_are_written(tmp_path: Path) -> None:
    image, prediction = random_image((20, 12), 0), random_prediction((12, 20))
    for kinds in (("masks",), ("confidence", "probabilities"), ("overlays",)):
        folder = PredictedFolder(tmp_path / kinds[0], Classes.named("a", "b", "c"), kinds=kinds)
        folder.add("x/y.png", "x/y", image, prediction)
        folder.write_table()
        found = {path.relative_to(folder.folder).as_posix() for path in folder.folder.rglob("*") if path.is_file()}
        files = {f"{kind}/x/y{ENDINGS[kind]}" for kind in kinds}
        assert found == files | {"classes.txt", "legend.png", "predictions.csv"}
    with np.load(tmp_path / "confidence/probabilities/x/y.npz") as arrays:
        assert set(arrays) == {"probabilities"}
        assert arrays["probabilities"].dtype == np.float16
        np.testing.assert_allclose(arrays["probabilities"], prediction.probabilities, atol=2**-11)
    with pytest.raises(ValueError, match="outputs='masks,all' holds 'all'; possible are masks, confidence"):
        read_kinds("masks,all")
    assert read_kinds("overlays, masks") == ("masks", "overlays")


def random_prediction(size: tuple[int, int]) -> Prediction:
    chances = np.random.default_rng(0).dirichlet((1, 1, 1), size).transpose(2, 0, 1).astype(np.float32)
    return Prediction(chances.argmax(0).astype(np.uint8), chances.max(0), chances)


def test_pixels_below_the_least_confidence_are_void(tmp_path: Path) -> None:
    prediction = random_prediction((12, 20))
    folder = PredictedFolder(tmp_path, Classes.named("a", "b", "c"), min_confidence=0.6)
    folder.add("y.png", "y", random_image((20, 12), 0), prediction)
    folder.write_table()
    below = prediction.confidence < 0.6
    assert 0.1 < below.mean() < 0.9
    with Image.open(tmp_path / "masks/y.png") as mask:
        np.testing.assert_array_equal(np.array(mask), np.where(below, 255, prediction.classes))
    with (tmp_path / "predictions.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["below_min_confidence"]) == pytest.approx(below.mean(), abs=5.1e-7)
    for index, name in enumerate("abc"):
        fraction = ((prediction.classes == index) & ~below).mean()
        assert float(row[name]) == pytest.approx(fraction, abs=5.1e-7)
        assert folder.class_fractions()[name] == pytest.approx(fraction)
    assert folder.fraction_below() == pytest.approx(below.mean())
    assert float(row["mean_confidence"]) == pytest.approx(prediction.confidence.mean(), abs=1e-6), "of all pixels"


@pytest.mark.parametrize("rows", [1, 5, 12, 31])
def test_files_written_in_bands_are_those_written_at_once(rows: int, tmp_path: Path) -> None:
    image, prediction = random_image((20, 31), 0), random_prediction((31, 20))
    classes = Classes.named("background", "b", "c")
    whole = PredictedFolder(tmp_path / "whole", classes, kinds=ENDINGS)
    whole.add("y.png", "y", image, prediction)
    banded = PredictedFolder(tmp_path / "bands", classes, kinds=ENDINGS)
    with banded.writing("y.png", "y", image.size) as files:
        for top in range(0, 31, rows):
            files.add(image.crop((0, top, 20, min(top + rows, 31))), prediction.rows(top, top + rows))
    assert banded.rows["y.png"].mean_confidence == pytest.approx(whole.rows["y.png"].mean_confidence)
    np.testing.assert_array_equal(banded.rows["y.png"].pixels, whole.rows["y.png"].pixels)
    for kind in ("masks", "confidence", "overlays"):
        with (
            Image.open(whole.folder / kind / f"y{ENDINGS[kind]}") as one,
            Image.open(banded.folder / kind / f"y{ENDINGS[kind]}") as other,
        ):
            np.testing.assert_array_equal(np.array(one), np.array(other))
    with np.load(whole.folder / "probabilities/y.npz") as one, np.load(banded.folder / "probabilities/y.npz") as other:
        np.testing.assert_array_equal(one["probabilities"], other["probabilities"])
    assert not list(tmp_path.rglob("*.part"))


def test_an_error_in_the_middle_of_an_image_leaves_no_file(tmp_path: Path) -> None:
    folder = PredictedFolder(tmp_path, Classes.named("a", "b", "c"), kinds=ENDINGS)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    prediction = random_prediction((12, 20))

    def failing() -> None:
        with folder.writing("y.png", "y", (20, 12)) as files:
            files.add(random_image((20, 5), 0), prediction.rows(0, 5))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not folder.rows
