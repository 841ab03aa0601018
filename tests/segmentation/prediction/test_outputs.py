from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.outputs import PredictedFolder, output_names


def test_a_file_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    folder = PredictedFolder(tmp_path / "out", Classes.named("a", "b"))
    (tmp_path / "out/masks").write_text("in the way")
    image, mask = Image.new("RGB", (4, 4)), np.zeros((4, 4), np.uint8)
    with pytest.raises(InputError, match=r"masks.a\.png cannot be written: .*choose another output"):
        folder.add("a.png", "a", image, mask, np.ones((4, 4), np.float32))


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
