"""Many pictures predicted: read ahead of the network and written behind it, in threads, while memory stays flat."""

import os
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from segmentation.errors import InputError
from segmentation.prediction.inputs import output_names, read_image
from segmentation.prediction.outputs import PredictedFolder
from segmentation.prediction.predictor import Predictor, at_size
from segmentation.system.progress import progress

MOST_SEEN = 2**24
"""Pixels of a prepared picture beyond which it is refused, since a network's memory grows with them."""
LONGEST_SIDE = 65_500
"""Pixels that a side of an overlay, a JPEG, can have."""
IN_HAND = 2**24
"""Pixels, at their own size, of the pictures in a batch, of those read ahead of it and of those yet to be written."""
MOST_WORKERS = 8
"""Threads that read and write, at most one a core."""


class _Read(NamedTuple):
    """A picture that is ready for the network."""

    path: str
    image: Image.Image
    prepared: torch.Tensor


def predict_images(
    predictor: Predictor, pictures: Mapping[str, Path], output: PredictedFolder, batch_size: int
) -> None:
    """Predict pictures and write what was predicted, with a progress bar.

    A picture that cannot be predicted is told, and kept in `output.skipped` with the reason. When interrupted, pictures
    in hand are finished, and the table lists all that is there.

    Args:
        predictor: predicts.
        pictures: files by their path, as they are told.
        output: written to.
        batch_size: most pictures per forward pass.

    Raises:
        InputError: something cannot be written.
    """
    workers = min(MOST_WORKERS, os.cpu_count() or 1)
    names, waiting = output_names(list(pictures)), iter(pictures.items())
    reading: deque[tuple[str, Future[_Read]]] = deque()
    writing: deque[Future[None]] = deque()
    together, batch = 1, list[_Read]()

    def read_ahead() -> None:
        while len(reading) < max(together, workers) and (picture := next(waiting, None)) is not None:
            reading.append((picture[0], pool.submit(_read, predictor, *picture)))

    with _threads(workers) as pool, progress("predicting", len(pictures)) as bar:

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
                while reading and len(batch) < together:
                    path, future = reading.popleft()
                    try:
                        batch.append(future.result())
                        together = max(1, min(batch_size, IN_HAND // max(_pixels(read) for read in batch)))
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
                while len(writing) > together:
                    writing.popleft().result()
            while writing:
                writing.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
            output.write_table()


def _read(predictor: Predictor, path: str, file: Path) -> _Read:
    image = read_image(file)
    width, height = image.size
    seen = width * height
    if predictor.resize is not None:
        seen = predictor.resize**2 * max(width, height) // min(width, height)
    if seen > MOST_SEEN or max(width, height) > LONGEST_SIDE:
        raise InputError(
            f"it has {width} x {height} pixels, of which the network would see {seen:,}; the most are {MOST_SEEN:,}, "
            f"and {LONGEST_SIDE:,} a side"
        )
    return _Read(path, image, predictor.prepare(image))


def _logits(predictor: Predictor, batch: Sequence[_Read]) -> Iterator[tuple[_Read, list[torch.Tensor] | str]]:
    """The logits of each picture, or why there are none; one by one where there is no memory for all."""
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
    """Threads in which torch computes on one core each, beside the network, which has all of them."""
    own = torch.get_num_threads()  # asked for first, a thread keeps its number when others set theirs
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield pool
    finally:
        torch.set_num_threads(own)  # for threads made later, which would take what was set last
