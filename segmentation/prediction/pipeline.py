"""Predicts many images: threads read images ahead of the model and write results behind it, in bounded memory."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from segmentation.errors import InputError
from segmentation.io.channels import ChannelImage, Raster
from segmentation.io.decoding import TooLargeError, pixel_limit, read_image
from segmentation.io.limits import MAX_PIXELS
from segmentation.io.row_bands import row_bands
from segmentation.models.segmenter import Segmenter
from segmentation.prediction.outputs import PredictedFolder, output_names
from segmentation.prediction.overlays import MAX_SIDE, reduction
from segmentation.prediction.predictor import WINDOW_PIXELS, Predictor, at_size
from segmentation.system.progress import progress

MAX_MODEL_PIXELS = 2**24
"""Images that have more pixels after preparation are skipped, because the model's memory grows with them."""
MAX_BATCH_PIXELS = 2**24
"""Limit on the pixels, at original size, of a batch. It also bounds the images read ahead and waiting to be written."""
WRITTEN_PIXELS = 2**21
"""Pixels of an image that is predicted in windows that are written at a time."""
MAX_WORKERS = 8
"""Limit on the threads that read and write; there is one per core."""


class _Read(NamedTuple):
    """An image that is ready for the model."""

    path: str
    image: Raster
    inputs: list[torch.Tensor]


def predict_images(
    predictor: Predictor,
    images: Mapping[str, Path],
    output: PredictedFolder,
    batch_size: int,
    max_pixels: int = MAX_PIXELS,
) -> None:
    """Predict images and write the results, with a progress bar.

    Prints each image that cannot be predicted, and adds it to `output.skipped` with the reason. On an interrupt, the
    images that are being written are finished, and the table lists all written images.

    Args:
        predictor: the model with its preparation.
        images: image files by their path as it is printed.
        output: folder for the results.
        batch_size: maximal number of images per forward pass.
        max_pixels: images of more pixels are skipped.

    Raises:
        InputError: a file cannot be written.
    """
    with pixel_limit(max_pixels):
        (_in_batches if predictor.views.tile is None else _in_windows)(predictor, images, output, batch_size)


def _in_windows(predictor: Predictor, images: Mapping[str, Path], output: PredictedFolder, _: int) -> None:
    """Predict one image after the other, each in bands of rows."""
    names = output_names(list(images))
    try:
        with progress("predicting", len(images)) as bar:
            for path, file in images.items():
                left = 1.0
                try:
                    for done in _bands_done(predictor, path, names[path], file, output):
                        bar.update(done)
                        left -= done
                except _UnreadableError as error:
                    output.skipped[path] = str(error)
                    bar.write(f"skipped {path}: {error}", file=sys.stderr)
                    bar.update(left)
    finally:
        output.write_table()


class _UnreadableError(Exception):
    """An image cannot be read or predicted."""


def _bands_done(predictor: Predictor, path: str, name: str, file: Path, output: PredictedFolder) -> Iterator[float]:
    """Predict and write an image, and yield the fraction of its rows that each band holds.

    Raises:
        _UnreadableError: the image cannot be read or predicted.
        InputError: a file cannot be written.
    """
    with ExitStack() as stack:
        with _unreadable():
            source = stack.enter_context(row_bands(file, predictor.channels, predictor.bits))
        size = source.width, source.height
        files = stack.enter_context(output.writing(path, name, size, reduction(*size)))
        bands = predictor.bands(source, "probabilities" in output.kinds)
        while True:
            with _unreadable():
                band = next(bands, None)
            if band is None:
                return
            height = len(band.prediction.classes)
            rows = max(1, WRITTEN_PIXELS // source.width)
            for top in range(0, height, rows):
                part = band.prediction.rows(top, top + rows)
                image = None
                if "overlays" in output.kinds:
                    with _unreadable():
                        image = ChannelImage(source.rows(band.top + top, band.top + min(top + rows, height)))
                files.add(image, part)
            yield height / source.height


@contextmanager
def _unreadable() -> Iterator[None]:
    """Raise an `_UnreadableError` for what is wrong with an image or its prediction inside the block."""
    try:
        yield
    except InputError as error:
        raise _UnreadableError(_reason(error)) from error
    except (RuntimeError, ValueError) as error:
        raise _UnreadableError(f"it could not be predicted: {error}") from error


def _reason(error: InputError) -> str:
    return f"{error}; max_pixels allows more" if isinstance(error, TooLargeError) else str(error)


def _in_batches(predictor: Predictor, images: Mapping[str, Path], output: PredictedFolder, batch_size: int) -> None:
    """Predict images as wholes, those of equal size together.

    If threads may run the model, each predicts a batch of its own on its share of the cores, so that none waits for
    another one. Otherwise the calling thread runs the model on all cores, or on the GPU.
    """
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    parts = workers if _may_run_in_threads(predictor) else 1
    names, unread = output_names(list(images)), iter(images.items())
    reading: deque[tuple[str, Future[_Read]]] = deque()
    working: deque[Future[None]] = deque()
    size, batch = 1, list[_Read]()  # the number of images per batch follows the largest image of the last one

    longest = MAX_SIDE if "overlays" in output.kinds else None
    probabilities = "probabilities" in output.kinds

    def read_ahead() -> None:
        while len(reading) < max(size * parts, workers) and (item := next(unread, None)) is not None:
            reading.append((item[0], pool.submit(_read, predictor, *item, longest)))

    with (
        _threads(workers, max(1, torch.get_num_threads() // parts) if parts > 1 else 1) as pool,
        progress("predicting", len(images)) as bar,
    ):

        def skip(path: str, reason: object) -> None:
            output.skipped[path] = str(reason)
            bar.write(f"skipped {path}: {reason}", file=sys.stderr)

        def write(read: _Read, logits: Sequence[torch.Tensor] | str) -> None:
            if isinstance(logits, str):
                skip(read.path, logits)
            else:
                try:
                    prediction = at_size(logits, (read.image.height, read.image.width), probabilities)
                except (RuntimeError, ValueError) as error:
                    skip(read.path, f"it could not be predicted: {error}")
                else:
                    output.add(read.path, names[read.path], read.image, prediction)
            bar.update()

        def predict(batch: Sequence[_Read]) -> None:
            for read, logits in _logits(predictor, batch):
                write(read, logits)

        try:
            read_ahead()
            while reading:
                batch.clear()
                while reading and len(batch) < size:
                    path, future = reading.popleft()
                    try:
                        batch.append(future.result())
                        fitting = MAX_BATCH_PIXELS // parts // max(_pixels(read) for read in batch)
                        if parts > 1:
                            fitting = min(fitting, WINDOW_PIXELS // max(_model_pixels(read) for read in batch))
                        size = max(1, min(batch_size, fitting))
                    except InputError as error:
                        skip(path, _reason(error))
                        bar.update()
                    read_ahead()
                if parts > 1:
                    working.append(pool.submit(predict, list(batch)))
                else:
                    working += [pool.submit(write, read, logits) for read, logits in _logits(predictor, batch)]
                while len(working) > (workers if parts > 1 else size):
                    working.popleft().result()
            while working:
                working.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            output.write_table()


def _may_run_in_threads(predictor: Predictor) -> bool:
    """Return whether several threads may run the model: on the CPU, and if it keeps no state, as an own model may."""
    model = predictor.model
    return predictor.device.type == "cpu" and isinstance(model, Segmenter) and model.code is None


def _read(predictor: Predictor, path: str, file: Path, longest: int | None) -> _Read:
    """Read an image whose sides are no longer than `longest`."""
    image = read_image(file, channels=predictor.channels, bits=predictor.bits)
    width, height = image.size
    pixels = predictor.views.model_pixels(width, height, predictor.resize)
    if pixels > MAX_MODEL_PIXELS:
        raise InputError(
            f"it is too large: {width} x {height} pixels, {pixels:,} after resizing for the model, in all views; at "
            f"most {MAX_MODEL_PIXELS:,} are possible. tile=512 predicts images of any size in windows"
        )
    if longest is not None and max(width, height) > longest:
        raise InputError(
            f"it is too large: {width} x {height} pixels; an overlay may have {longest:,} per side. tile=512 reduces "
            f"it; outputs=masks,confidence writes none"
        )
    return _Read(path, image, predictor.inputs(image))


def _logits(predictor: Predictor, batch: Sequence[_Read]) -> Iterator[tuple[_Read, list[torch.Tensor] | str]]:
    """Yield each image with its logits or an error message. If the batch fails, retries its images one by one."""
    try:
        found = predictor.logits([read.inputs for read in batch])
    except RuntimeError as error:
        if len(batch) > 1:
            for read in batch:
                yield from _logits(predictor, [read])
        else:
            yield batch[0], f"it could not be predicted: {error}"
    else:
        yield from zip(batch, found, strict=True)


def _pixels(read: _Read) -> int:
    return read.image.width * read.image.height


def _model_pixels(read: _Read) -> int:
    """Return the pixels of the largest input of the model."""
    return max(each.shape[-2] * each.shape[-1] for each in read.inputs)


@contextmanager
def _threads(workers: int, cores: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool in which torch uses some cores per thread; the calling thread keeps its number of cores."""
    before = torch.get_num_threads()  # this call also fixes the number for the calling thread
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(cores,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # new threads would inherit the last number set
