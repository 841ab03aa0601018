"""Writes predictions: masks, confidence maps, overlays and a table."""

import csv
import threading
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from segmentation import plots
from segmentation.classes import Classes
from segmentation.errors import InputError, listed
from segmentation.io.bands import Raster, as_rgb

TABLE, LEGEND = "predictions.csv", "legend.png"
"""Files in every output folder."""
ENDINGS = {"masks": ".png", "confidence": ".png", "overlays": ".jpg"}
"""Ending of the files in each folder that is written."""
PART = ".part"
"""Ending of files that are being written."""
WRITTEN = (*ENDINGS, LEGEND)
"""Folders of images, and images, in every output folder."""


class Row(NamedTuple):
    """Statistics of one predicted image."""

    width: int
    height: int
    mean_confidence: float
    pixels: np.ndarray
    """`(C,)` int64, number of pixels of each class."""


class PredictedFolder:
    """The output folder of a prediction. Every file is written atomically.

    - `masks/NAME.png`: palette PNG; the values are class indices, shown in the colours of the classes.
    - `confidence/NAME.png`: greyscale PNG; 255 times the probability of the predicted class, rounded.
    - `overlays/NAME.jpg`: the image, half covered with the colours of all classes except `background`.
    - `predictions.csv`: one row per image: size, mean confidence and the fraction of each class.
    - `classes.txt`: one class name per line, for mask values 0, 1, 2, ...; `legend.png`: their colours.
    """

    def __init__(self, folder: Path, classes: Classes, earlier: Iterable[Path] = ()) -> None:
        """Create the folder, `classes.txt`, `legend.png` and an empty table.

        Args:
            folder: the folder, which may exist.
            classes: names and colours.
            earlier: files of an earlier prediction, which are deleted: old masks would stay if this one is interrupted.

        Raises:
            InputError: the folder cannot be created or written.
        """
        self.folder = folder
        self.classes = classes
        self.rows: dict[str, Row] = {}
        """Statistics of each image whose files are written, by its path."""
        self.skipped: dict[str, str] = {}
        """Reason why an image could not be predicted, by its path."""
        self._palette = classes.colours(np.arange(256)).tobytes()
        self._write_text("classes.txt", "".join(f"{name}\n" for name in classes.names))
        self._save(Image.fromarray(plots.pixels(plots.legend(classes))), LEGEND)
        self.write_table()
        for file in earlier:
            file.unlink(missing_ok=True)

    def add(self, path: str, name: str, image: Raster, predicted: np.ndarray, confidence: np.ndarray) -> None:
        """Write the files of one image. Thread-safe.

        Args:
            path: path of the image, for the table.
            name: name of its files, without ending.
            image: image of `W` x `H` pixels; the overlay shows what `bands.displayed` shows of it.
            predicted: `(H, W)` uint8 class indices.
            confidence: `(H, W)` float32.

        Raises:
            InputError: a file cannot be written.
        """
        mask = Image.fromarray(predicted)
        mask.putpalette(self._palette)
        shown = as_rgb(image)
        overlay = Image.blend(shown, mask.convert("RGB"), 0.5)
        if self.classes.background is not None:
            overlay.paste(shown, mask=Image.fromarray(predicted == self.classes.background))
        grey = Image.fromarray(np.rint(255 * confidence).astype(np.uint8))
        # run-length encoding compresses masks well; stronger compression was slower and saved little
        for kind, content in (("masks", mask), ("confidence", grey)):
            self._save(content, f"{kind}/{name}{ENDINGS[kind]}", compress_level=1, compress_type=zlib.Z_RLE)
        self._save(overlay, f"overlays/{name}{ENDINGS['overlays']}", quality=90)
        pixels = np.bincount(predicted.ravel(), minlength=len(self.classes))
        self.rows[path] = Row(image.width, image.height, float(confidence.mean(dtype=np.float64)), pixels)

    def write_table(self) -> None:
        """Write the table of all images so far."""
        with self._replacing(TABLE) as file, file.open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(["image", "width", "height", "mean_confidence", *self.classes.names])
            for path, row in sorted(self.rows.items()):
                fractions = [f"{fraction:.6f}" for fraction in row.pixels / row.pixels.sum()]
                table.writerow([path, row.width, row.height, f"{row.mean_confidence:.6f}", *fractions])

    def class_fractions(self) -> dict[str, float]:
        """Return the fraction of all predicted pixels for each class name."""
        pixels = np.sum([row.pixels for row in self.rows.values()], 0)
        fractions = (pixels / pixels.sum()).tolist()
        return dict(zip(self.classes.names, fractions, strict=True))

    def only_class(self) -> str | None:
        """Return the class of all pixels of several images, if the model knows others; None if there is none."""
        found = [name for name, fraction in self.class_fractions().items() if fraction] if len(self.rows) > 1 else []
        return found[0] if len(found) == 1 < len(self.classes) else None

    def mean_confidence(self) -> float:
        """Return the mean confidence of all predicted pixels."""
        sizes = [row.width * row.height for row in self.rows.values()]
        return float(np.average([row.mean_confidence for row in self.rows.values()], weights=sizes))

    def _save(self, image: Image.Image, path: str, **options: Any) -> None:
        with self._replacing(path) as file:
            image.save(file, "JPEG" if path.endswith(".jpg") else "PNG", **options)

    def _write_text(self, path: str, text: str) -> None:
        with self._replacing(path) as file:
            file.write_text(text, encoding="utf-8")

    @contextmanager
    def _replacing(self, path: str) -> Iterator[Path]:
        """Yield a temporary file, which is renamed to `path` when the block ends without an error."""
        file = self.folder / path
        part = file.with_name(f".{threading.get_ident()}{PART}")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            yield part
            part.replace(file)
        except OSError as error:
            raise InputError(
                f"{file} cannot be written: {error.strerror or error}. Make room there or choose another output; "
                f"the files written so far are complete"
            ) from error
        finally:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def earlier_files(folder: Path, paths: list[str]) -> list[Path]:
    """Return the files that an earlier prediction of the same images has written.

    Args:
        folder: the output folder, which need not exist.
        paths: of the images that will be predicted.

    Raises:
        InputError: the folder holds files of other images, or files that no prediction has written.
    """
    expected = {f"{kind}/{name}{ending}" for kind, ending in ENDINGS.items() for name in output_names(paths).values()}
    present = {
        file.relative_to(folder).as_posix(): file
        for kind in ENDINGS
        for file in (folder / kind).rglob("*")
        if file.is_file() and not file.name.endswith(PART)
    }
    if present and not (folder / TABLE).is_file():
        raise InputError(
            f"output={folder} holds files that no prediction has written: {listed(sorted(present))}. Choose another "
            f"folder"
        )
    if others := sorted(present.keys() - expected):
        raise InputError(
            f"output={folder} holds predictions of other images: {listed(others)}. Choose another folder, or delete "
            f"this one"
        )
    return list(present.values())


def output_names(paths: list[str]) -> dict[str, str]:
    """Return the name of each image's output files: its path without the ending, if that is unique.

    Other images keep the ending: `a.jpg` and `a.png` become `a.jpg` and `a.png`, `b.jpg` becomes `b`.
    """
    names = {path: PurePosixPath(path).with_suffix("").as_posix() for path in paths}
    while True:
        users: dict[str, list[str]] = {}
        for path, name in names.items():
            users.setdefault(name.casefold(), []).append(path)
        colliding = [path for group in users.values() if len(group) > 1 for path in group if names[path] != path]
        if not colliding:
            return names
        names |= {path: path for path in colliding}
