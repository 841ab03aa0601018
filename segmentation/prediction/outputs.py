"""What is written of predicted pictures: masks, confidence maps, overlays, and a table."""

import csv
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segmentation import plots
from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.inputs import LEGEND, TABLE


class Row(NamedTuple):
    """What is known of one predicted picture."""

    width: int
    height: int
    mean_confidence: float
    pixels: np.ndarray
    """`(C,)` pixels of each class, int64."""


class PredictedFolder:
    """Masks, confidence maps, overlays and a table of predicted pictures, each file whole or not there.

    - `masks/NAME.png`: palette PNG whose values are class indices, in the data set's colours.
    - `confidence/NAME.png`: greyscale PNG, 255 times the probability of the predicted class, rounded.
    - `overlays/NAME.jpg`: the picture, half covered with the colours of all classes but `background`.
    - `predictions.csv`: size, mean confidence and share of each class, a line a picture.
    - `classes.txt`: the classes' names, a line each, from mask value 0 on; `legend.png`: their colours.
    """

    def __init__(self, folder: Path, labels: Classes) -> None:
        """Make the folder.

        Raises:
            InputError: it cannot be made or written to.
        """
        self.folder = folder
        self.labels = labels
        self.rows: dict[str, Row] = {}
        """Of each picture that is written, by its path."""
        self.skipped: dict[str, str] = {}
        """Why a picture could not be predicted, by its path."""
        self._palette = labels.colours(np.arange(256)).tobytes()
        self._write_text("classes.txt", "".join(f"{name}\n" for name in labels.names))
        self._save(Image.fromarray(plots.pixels(plots.legend(labels))), LEGEND)
        self.write_table()

    def add(self, picture: str, name: str, image: Image.Image, classes: np.ndarray, confidence: np.ndarray) -> None:
        """Write one picture's files; may be called from several threads.

        Args:
            picture: its path, for the table.
            name: what its files are called, without ending.
            image: the picture, RGB, `W` x `H` pixels.
            classes: `(H, W)` uint8.
            confidence: `(H, W)` float32.

        Raises:
            InputError: a file cannot be written.
        """
        mask = Image.fromarray(classes)
        mask.putpalette(self._palette)
        overlay = Image.blend(image, mask.convert("RGB"), 0.5)
        if self.labels.background is not None:
            overlay.paste(image, mask=Image.fromarray(classes == self.labels.background))
        grey = Image.fromarray(np.rint(255 * confidence).astype(np.uint8))
        # runs are all that masks have to compress; anything more took longer and saved little
        for kind, made in (("masks", mask), ("confidence", grey)):
            self._save(made, f"{kind}/{name}.png", compress_level=1, compress_type=zlib.Z_RLE)
        self._save(overlay, f"overlays/{name}.jpg", quality=90)
        pixels = np.bincount(classes.ravel(), minlength=len(self.labels))
        self.rows[picture] = Row(image.width, image.height, float(confidence.mean(dtype=np.float64)), pixels)

    def write_table(self) -> None:
        """Write the table of what is there so far."""
        with self._whole(TABLE) as file, file.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["image", "width", "height", "mean_confidence", *self.labels.names])
            for picture, row in sorted(self.rows.items()):
                shares = [f"{share:.6f}" for share in row.pixels / row.pixels.sum()]
                table.writerow([picture, row.width, row.height, f"{row.mean_confidence:.6f}", *shares])

    def shares(self) -> dict[str, float]:
        """Share of each class among all pixels written."""
        pixels = np.sum([row.pixels for row in self.rows.values()], 0)
        return {name: float(share) for name, share in zip(self.labels.names, pixels / pixels.sum(), strict=True)}

    def mean_confidence(self) -> float:
        """Mean over all pixels written."""
        sizes = [row.width * row.height for row in self.rows.values()]
        return float(np.average([row.mean_confidence for row in self.rows.values()], weights=sizes))

    def _save(self, picture: Image.Image, path: str, **options: Any) -> None:
        with self._whole(path) as file:
            picture.save(file, "JPEG" if path.endswith(".jpg") else "PNG", **options)

    def _write_text(self, path: str, text: str) -> None:
        with self._whole(path) as file:
            file.write_text(text, encoding="utf-8")

    @contextmanager
    def _whole(self, path: str) -> Iterator[Path]:
        """A file to write, which takes its place when it is whole."""
        file = self.folder / path
        part = file.with_name(f".{threading.get_ident()}.part")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.replace(file)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written: {error.strerror or error}. Make room there or choose another output; "
                f"what was written before is whole"
            ) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)
