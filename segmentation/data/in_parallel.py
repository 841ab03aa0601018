"""Works on the images of a split with all cores, in order, within a limit on memory."""

import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from segmentation.config import RGB
from segmentation.data.source import Source
from segmentation.errors import InputError

MAX_BYTES_IN_FLIGHT = 512 * 2**20
"""Limit on the memory of all images that are being worked on. An image above the limit is worked on alone."""
BYTES_PER_PIXEL = 12
"""Peak memory of an image: 4 bytes per decoded pixel, 3 for a copy, and the mask several times."""
BYTES_PER_CHANNEL = 6
"""Peak memory of each channel beyond three: up to 2 bytes per pixel, in up to three copies."""
MAX_IMAGES_IN_FLIGHT = 256
"""Limit on the number of images that are being worked on."""

Result = TypeVar("Result")


def each_image(source: Source, work: Callable[[int], Result]) -> Iterator[Result | InputError]:
    """Yield `work(index)` for every image of a split, in order; instead of raising an `InputError`, yield it."""

    def result(index: int) -> Result | InputError:
        try:
            return work(index)
        except InputError as error:
            return error.with_traceback(None)  # frames would keep the pixels in memory

    pending: deque[tuple[Future[Result | InputError], int]] = deque()
    bytes_in_flight = 0
    further = max(0, getattr(source, "channels", RGB) - RGB)
    bytes_per_pixel = BYTES_PER_PIXEL + BYTES_PER_CHANNEL * further
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for index in range(len(source.names)):
                size = bytes_per_pixel * source.pixels(index)
                while pending and (
                    bytes_in_flight + size > MAX_BYTES_IN_FLIGHT or len(pending) == MAX_IMAGES_IN_FLIGHT
                ):
                    bytes_in_flight -= pending[0][1]
                    yield pending.popleft()[0].result()
                pending.append((pool.submit(result, index), size))
                bytes_in_flight += size
            while pending:
                yield pending.popleft()[0].result()
        finally:
            for future, _ in pending:
                future.cancel()
