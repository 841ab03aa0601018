"""Predicts many images: threads read images ahead of the model and write results behind it, in bounded memory."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch

from segmentation.errors import InputError
from segmentation.io.bands import Raster
from segmentation.io.decoding import read_image
from segmentation.prediction.outputs import PredictedFolder, output_names
from segmentation.prediction.predictor import Predictor, at_size
from segmentation.system.progress import progress

MAX_MODEL_PIXELS = 2**24
"""Images that have more pixels after preparation are skipped, because the model's memory grows with them."""
MAX_SIDE = 65_500
"""Longest side of a JPEG in pixels, and so of an overlay."""
MAX_BATCH_PIXELS = 2**24
"""Limit on the pixels, at original size, of a batch. It also bounds the images read ahead and waiting to be written."""
MAX_WORKERS = 8
"""Limit on the threads that read and write; there is one per core."""


class _Read(NamedTuple):
    """An image that is ready for the model."""

    path: str
    image: Raster
    prepared: torch.Tensor


def predict_images(predictor: Predictor, images: Mapping[str, Path], output: PredictedFolder, batch_size: int) -> None:
    """Predict images and write the results, with a progress bar.

    Prints each image that cannot be predicted, and adds it to `output.skipped` with the reason. On an interrupt, the
    images that are being written are finished, and the table lists all written images.

    Args:
        predictor: the model with its preparation.
        images: image files by their path as it is printed.
        output: folder for the results.
        batch_size: maximal number of images per forward pass.

    Raises:
        InputError: a file cannot be written.
    """
    workers = min(MAX_WORKERS, os.cpu_count() or 1)
    names, unread = output_names(list(images)), iter(images.items())
    reading: deque[tuple[str, Future[_Read]]] = deque()
    writing: deque[Future[None]] = deque()
    size, batch = 1, list[_Read]()  # the number of images per batch follows the largest image of the last batch

    def read_ahead() -> None:
        while len(reading) < max(size, workers) and (item := next(unread, None)) is not None:
            reading.append((item[0], pool.submit(_read, predictor, *item)))

    with _threads(workers) as pool, progress("predicting", len(images)) as bar:

        def skip(path: str, reason: object) -> None:
            output.skipped[path] = str(reason)
            bar.write(f"skipped {path}: {reason}", file=sys.stderr)

        def write(read: _Read, logits: Sequence[torch.Tensor]) -> None:
            try:
                prediction = at_size(logits, (read.image.height, read.image.width))
            except (RuntimeError, ValueError) as error:
                skip(read.path, f"it could not be predicted: {error}")
            else:
                output.add(read.path, names[read.path], read.image, *prediction)
            bar.update()

        try:
            read_ahead()
            while reading:
                batch.clear()
                while reading and len(batch) < size:
                    path, future = reading.popleft()
                    try:
                        batch.append(future.result())
                        size = max(1, min(batch_size, MAX_BATCH_PIXELS // max(_pixels(read) for read in batch)))
                    except InputError as error:
                        skip(path, error)
                        bar.update()
                    read_ahead()
                for read, logits in _logits(predictor, batch):
                    if isinstance(logits, str):
                        skip(read.path, logits)
                        bar.update()
                    else:
                        writing.append(pool.submit(write, read, logits))
                while len(writing) > size:
                    writing.popleft().result()
            while writing:
                writing.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            output.write_table()


def _read(predictor: Predictor, path: str, file: Path) -> _Read:
    image = read_image(file, channels=predictor.channels, bits=predictor.bits)
    width, height = image.size
    pixels = width * height
    if predictor.resize is not None:
        pixels = predictor.resize**2 * max(width, height) // min(width, height)
    if pixels > MAX_MODEL_PIXELS or max(width, height) > MAX_SIDE:
        raise InputError(
            f"it is too large: {width} x {height} pixels, {pixels:,} after resizing for the model; at most "
            f"{MAX_MODEL_PIXELS:,} pixels and {MAX_SIDE:,} per side are possible"
        )
    return _Read(path, image, predictor.prepare(image))


def _logits(predictor: Predictor, batch: Sequence[_Read]) -> Iterator[tuple[_Read, list[torch.Tensor] | str]]:
    """Yield each image with its logits or an error message. If the batch fails, retries its images one by one."""
    try:
        found = predictor.logits([read.prepared for read in batch])
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


@contextmanager
def _threads(workers: int) -> Iterator[ThreadPoolExecutor]:
    """A thread pool in which torch uses one core per thread; the calling thread keeps its number of cores."""
    before = torch.get_num_threads()  # this call also fixes the number for the calling thread
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)  # new threads would inherit the last number set
