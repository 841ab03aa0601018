"""Predictions of images with odd names: no file is written outside the output folder."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from segmentation.classes import Classes
from segmentation.io.names import is_plain
from segmentation.prediction.inputs import find_images
from segmentation.prediction.outputs import PredictedFolder
from segmentation.prediction.pipeline import predict_images
from segmentation.prediction.predictor import Predictor
from tests.fuzz.door import Door
from tests.fuzz.mutation import mutated

ODD = (
    b"\xff",
    b"..",
    b"a\nb",
    b"\x1b[2J",
    b"a..",
    b"...",
    b"-",
    b"~",
    b"$(touch x)",
    b"con",
    b" ",
    "é".encode(),
    b"C:\\x",
    b"x" * 200,
)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_folders_of_predictions(door: Callable[[str], Door], capsys: pytest.CaptureFixture[str]) -> None:
    door = door("folders of predictions")
    file = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)).save(file, "PNG")
    predictor = Predictor(lambda images: images.float(), None, "bilinear")
    classes = Classes.named("red", "green", "blue")
    for number, random in enumerate(door.randoms()):
        source, output = door.folder / f"in{number}", door.folder / f"out{number}"
        source.mkdir()
        for _ in range(3):
            name = b"".join(random.choice(ODD) for _ in range(random.choice((1, 2)))) + b".png"
            content = file.getvalue() if random.random() < 0.7 else mutated(file.getvalue(), random, [file.getvalue()])
            with open(bytes(source) + b"/" + name[-250:], "wb") as stream:  # noqa: PTH123 - `Path` takes no bytes
                stream.write(content)

        def predict(source=source, output=output) -> PredictedFolder:
            images = find_images(source, output).images
            folder = PredictedFolder(output, classes)
            predict_images(predictor, images, folder, 2)
            assert len(folder.rows) + len(folder.skipped) == len(images)
            return folder

        folder = door(predict, ("has no image", "print as the same path", "cannot be written"))
        if folder is not None:
            assert all(map(is_plain, [*folder.rows, *folder.skipped]))
            written = {path for path in output.rglob("*") if path.is_file()}
            assert len(written) == 3 + 3 * len(folder.rows)
            assert all(path.resolve().is_relative_to(output) for path in written)
    capsys.readouterr()
