"""Writes predictions: masks, confidence maps, overlays, probabilities and a table."""

import csv
import io
import threading
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image

from segmentation import plots
from segmentation.classes import VOID, Classes
from segmentation.errors import InputError, listed
from segmentation.io.channels import Raster
from segmentation.io.png import PngRows
from segmentation.prediction.kinds import ENDINGS, USUAL
from segmentation.prediction.overlays import Overlay
from segmentation.prediction.predictor import Prediction

TABLE, LEGEND = "predictions.csv", "legend.png"
"""Files in every output folder."""
PART = ".part"
"""Ending of files that are being written."""
WRITTEN = (*ENDINGS, LEGEND)
"""Folders of images, and images, in every output folder."""
BELOW = "below_min_confidence"
"""Column of the table: fraction of the pixels that are void because of their confidence."""


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
    - `probabilities/NAME.npz`: float16 array `probabilities` `(C, H, W)`.
    - `predictions.csv`: one row per image: size, mean confidence and the fraction of each class.
    - `classes.txt`: one class name per line, for mask values 0, 1, 2, ...; `legend.png`: their colours.
    """

    def __init__(
        self,
        folder: Path,
        classes: Classes,
        earlier: Iterable[Path] = (),
        kinds: Collection[str] = USUAL,
        min_confidence: float | None = None,
    ) -> None:
        """Create the folder, `classes.txt`, `legend.png` and an empty table.

        Args:
            folder: the folder, which may exist.
            classes: names and colours.
            earlier: files of an earlier prediction, which are deleted: old masks would stay if this one is interrupted.
            kinds: the files to write for each image, some of `ENDINGS`.
            min_confidence: pixels of less confidence are void in the mask and the overlay; None keeps all.

        Raises:
            InputError: the folder cannot be created or written.
        """
        self.folder = folder
        self.classes = classes
        self.kinds = frozenset(kinds)
        self.min_confidence = min_confidence
        self.rows: dict[str, Row] = {}
        """Statistics of each image whose files are written, by its path."""
        self.skipped: dict[str, str] = {}
        """Reason why an image could not be predicted, by its path."""
        self.palette = classes.colours(np.arange(256)).tobytes()
        self._write("classes.txt", "".join(f"{name}\n" for name in classes.names).encode())
        with self._replacing(LEGEND) as stream:
            Image.fromarray(plots.pixels(plots.legend(classes))).save(stream, "PNG")
        self.write_table()
        for file in earlier:
            file.unlink(missing_ok=True)

    def add(self, path: str, name: str, image: Raster, prediction: Prediction) -> None:
        """Write the files of one image. Thread-safe.

        Args:
            path: path of the image, for the table.
            name: name of its files, without ending.
            image: image of `W` x `H` pixels; the overlay shows what `channels.displayed` shows of it.
            prediction: for the whole image.

        Raises:
            InputError: a file cannot be written.
        """
        with self.writing(path, name, image.size) as files:
            files.add(image, prediction)

    @contextmanager
    def writing(self, path: str, name: str, size: tuple[int, int], reduce: int = 1) -> "Iterator[ImageFiles]":
        """Write the files of one image in bands; at the end of the block they get their names. Thread-safe.

        Args:
            path: path of the image, for the table.
            name: name of its files, without ending.
            size: width and height.
            reduce: the overlay is smaller by this whole number.

        Raises:
            InputError: a file cannot be written.
        """
        kinds = [kind for kind in ENDINGS if kind in self.kinds]
        parts = {kind: _Part(self.folder / kind / f"{name}{ENDINGS[kind]}") for kind in kinds}
        files = ImageFiles(self, parts, size, reduce)
        try:
            files.open()
            yield files
            row = files.close()
            for part in parts.values():
                part.keep()
        finally:
            for part in parts.values():
                part.discard()
            files.discard()
        self.rows[path] = row

    def write_table(self) -> None:
        """Write the table of all images so far."""
        below = [BELOW] if self.min_confidence is not None else []
        lines = [["image", "width", "height", "mean_confidence", *below, *self.classes.names]]
        for path, row in sorted(self.rows.items()):
            size = row.width * row.height
            fractions = row.pixels / size
            void = [(size - row.pixels.sum()) / size] if below else []
            values = [f"{value:.6f}" for value in (row.mean_confidence, *void, *fractions)]
            lines.append([path, str(row.width), str(row.height), *values])
        text = io.StringIO(newline="")
        csv.writer(text).writerows(lines)
        self._write(TABLE, text.getvalue().encode())

    def class_fractions(self) -> dict[str, float]:
        """Return the fraction of all predicted pixels for each class name."""
        pixels = np.sum([row.pixels for row in self.rows.values()], 0)
        fractions = (pixels / self._size()).tolist()
        return dict(zip(self.classes.names, fractions, strict=True))

    def fraction_below(self) -> float:
        """Return the fraction of all predicted pixels that are void because of their confidence."""
        return 1 - float(np.sum([row.pixels for row in self.rows.values()])) / self._size()

    def only_class(self) -> str | None:
        """Return the class of all pixels of several images, if the model knows others; None if there is none."""
        found = [name for name, fraction in self.class_fractions().items() if fraction] if len(self.rows) > 1 else []
        return found[0] if len(found) == 1 < len(self.classes) else None

    def mean_confidence(self) -> float:
        """Return the mean confidence of all predicted pixels."""
        sizes = [row.width * row.height for row in self.rows.values()]
        return float(np.average([row.mean_confidence for row in self.rows.values()], weights=sizes))

    def _size(self) -> int:
        return sum(row.width * row.height for row in self.rows.values())

    def _write(self, path: str, content: bytes) -> None:
        with self._replacing(path) as stream:
            stream.write(content)

    @contextmanager
    def _replacing(self, path: str) -> Iterator[BinaryIO]:
        """Yield a temporary file, which is renamed to `path` when the block ends without an error."""
        part = _Part(self.folder / path)
        try:
            stream = part.open()
            with part.errors():
                yield stream
            part.keep()
        finally:
            part.discard()


class ImageFiles:
    """The files of one image, which are written in bands from top to bottom."""

    def __init__(self, folder: PredictedFolder, parts: "dict[str, _Part]", size: tuple[int, int], reduce: int) -> None:
        """Write into the given files, by the name of their folder. See `PredictedFolder.writing`."""
        self._folder, self._parts = folder, parts
        self._width, self._height = size
        self._top = 0
        self._pixels = np.zeros(256, np.int64)
        self._confidence = 0.0
        self._png: dict[str, PngRows] = {}
        self._overlay = Overlay(size, reduce, folder.classes) if "overlays" in parts else None
        self._chances: np.ndarray | None = None

    def open(self) -> None:
        """Create the files."""
        for kind, part in self._parts.items():
            stream = part.open()
            if kind in ("masks", "confidence"):
                with part.errors():
                    palette = self._folder.palette if kind == "masks" else None
                    self._png[kind] = PngRows(stream, self._width, self._height, palette)

    def add(self, image: Raster | None, prediction: Prediction) -> None:
        """Write some rows.

        Args:
            image: these rows of the image; only overlays need them.
            prediction: for these rows.
        """
        classes, confidence = prediction.classes, prediction.confidence
        self._confidence += float(confidence.sum(dtype=np.float64))
        if self._folder.min_confidence is not None:
            classes = np.where(confidence < self._folder.min_confidence, np.uint8(VOID), classes)
        self._pixels += np.bincount(classes.ravel(), minlength=256)
        if "masks" in self._parts:
            with self._parts["masks"].errors():
                self._png["masks"].write(classes)
        if "confidence" in self._parts:
            with self._parts["confidence"].errors():
                self._png["confidence"].write(np.rint(255 * confidence).astype(np.uint8))
        if "overlays" in self._parts:
            assert image is not None
            assert self._overlay is not None
            self._overlay.add(image, classes)
        if "probabilities" in self._parts:
            assert prediction.probabilities is not None
            self._add_probabilities(prediction.probabilities)
        self._top += len(classes)

    def close(self) -> Row:
        """Complete the files."""
        assert self._top == self._height, "rows are missing"
        if self._overlay is not None:
            with self._parts["overlays"].errors():
                self._overlay.image().save(self._parts["overlays"].stream, "JPEG", quality=90)
        if self._chances is not None:
            with self._parts["probabilities"].errors():
                self._save_probabilities(self._parts["probabilities"], self._chances)
        mean = self._confidence / (self._width * self._height)
        return Row(self._width, self._height, mean, self._pixels[: len(self._folder.classes)])

    def discard(self) -> None:
        """Delete what is left of the array of probabilities, if it was a file."""
        if isinstance(self._chances, np.memmap):
            self._chances = None
            with suppress(OSError):
                self._array_file().unlink(missing_ok=True)

    def _add_probabilities(self, chances: np.ndarray) -> None:
        _, rows, width = chances.shape
        if rows == self._height:
            self._chances = chances.astype(np.float16)
            return
        with self._parts["probabilities"].errors():
            if self._chances is None:
                shape = (len(chances), self._height, width)
                self._chances = np.lib.format.open_memmap(self._array_file(), "w+", np.float16, shape)
            self._chances[:, self._top : self._top + rows] = chances

    def _save_probabilities(self, part: "_Part", chances: np.ndarray) -> None:
        if isinstance(chances, np.memmap):
            chances.flush()
            with zipfile.ZipFile(part.stream, "w") as archive:
                archive.write(self._array_file(), "probabilities.npy")
        else:
            np.savez(part.stream, probabilities=chances)

    def _array_file(self) -> Path:
        """The file of an array that is filled in bands, beside the archive that it goes into."""
        return self._parts["probabilities"].part.with_suffix(f".npy{PART}")


class _Part:
    """A file that gets its name when it is complete."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.part = file.with_name(f".{threading.get_ident()}{PART}")
        self.stream: Any = None

    def open(self) -> BinaryIO:
        with self.errors():
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.stream = self.part.open("wb")
        stream: BinaryIO = self.stream
        return stream

    def keep(self) -> None:
        with self.errors():
            self.stream.close()
            self.part.replace(self.file)
        self.stream = None

    def discard(self) -> None:
        if self.stream is not None:
            with suppress(OSError):
                self.stream.close()
            with suppress(OSError):
                self.part.unlink(missing_ok=True)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise an `InputError` for what the system refuses inside the block."""
        try:
            yield
        except OSError as error:
            raise InputError(
                f"{self.file} cannot be written: {error.strerror or error}. Choose another output, a folder with room; "
                f"the files written so far are complete"
            ) from error


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
            f"output={folder} holds predictions of images that are not among these: {listed(others)}. Set output to "
            f"another folder, or delete this one"
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
