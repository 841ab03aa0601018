from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.outputs import PredictedFolder, earlier_files, output_names
from segmentation.prediction.predictor import Prediction
from tests.conftest import write_blank


def certain(classes: np.ndarray) -> Prediction:
    """A prediction with a confidence of 1."""
    return Prediction(classes, np.ones(classes.shape, np.float32))


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    folder = PredictedFolder(tmp_path / "out", Classes.named("a", "b"))
    (tmp_path / "out/masks").write_text("in the way")
    image, prediction = Image.new("RGB", (4, 4)), certain(np.zeros((4, 4), np.uint8))
    with pytest.raises(InputError, match=r"masks.a\.png cannot be written: .*choose another output"):
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
    with pytest.raises(InputError, match=r"other images: confidence/b.png, masks/b.png, overlays/b.jpg\."):
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
