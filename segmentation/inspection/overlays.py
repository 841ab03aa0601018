"""Small images with their masks drawn over them, for a gallery."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from segmentation.classes import Classes
from segmentation.config import RGB
from segmentation.data.source import Source
from segmentation.errors import InputError
from segmentation.inspection.image import files_of
from segmentation.inspection.split import InspectedSplit
from segmentation.io.channels import Raster, as_rgb
from segmentation.io.decoding import read_image

SIDE = 240
"""Longer side of a small image in pixels."""
QUALITY = 60
"""Quality of WebP."""
OPACITY = 0.5
"""Of the colours over an image."""
DARKENED = 0.6
"""Factor of the borders between the colours."""
PALE = 0.35
"""Contrast of what does not belong to the class that is shown."""
OUTLINE = np.array((213, 20, 40), np.float32)
"""Colour of the outline of the class that is shown."""


def with_class(source: Source, index: int, value: int) -> bytes:
    """Return an image as WebP in which one class keeps its colours and has an outline, and all else is pale grey."""
    image, mask = _small(source, index)
    chosen = mask == value
    pale = PALE * image.mean(axis=2, keepdims=True) + (1 - PALE) * 255
    return _webp(np.where(_outline(chosen)[..., None], OUTLINE, np.where(chosen[..., None], image, pale)))


def with_mask(source: Source, index: int, labels: Classes) -> bytes | None:
    """Return image and coloured mask beside each other as WebP; the image alone if there is no mask for it.

    Returns None if the image cannot be read either.
    """
    try:
        image, mask = _small(source, index)
    except InputError:
        files = files_of(source, index)
        try:
            channels = getattr(source, "channels", RGB)
            return _webp(_reduced(read_image(files[0], channels=channels))) if files else None
        except InputError:
            return None
    colours = labels.colours(mask).astype(np.float32)
    overlay = (1 - OPACITY) * image + OPACITY * colours
    for value in np.unique(mask):
        overlay = np.where(_outline(mask == value)[..., None], DARKENED * overlay, overlay)
    return _webp(np.concatenate([image, np.full((len(image), 4, 3), 255.0), overlay], axis=1))


def _small(source: Source, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an image `(h, w, 3)` float32 and its mask `(h, w)`, reduced to `SIDE`."""
    found = source.read(index)
    image = _reduced(found.image)
    mask = Image.fromarray(found.mask).resize(image.shape[1::-1], Image.Resampling.NEAREST)
    return image, np.asarray(mask)


def _reduced(raster: Raster) -> np.ndarray:
    image = as_rgb(raster)
    scale = min(1.0, SIDE / max(image.size))
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)


def _outline(region: np.ndarray) -> np.ndarray:
    """Return the outermost pixels of a region; the image's border is no outline."""
    padded = np.pad(region, 1, mode="edge")
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return region & ~inner


def _webp(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(file, "WEBP", quality=QUALITY)
    return file.getvalue()


def typical(split: InspectedSplit, value: int, count: int) -> Sequence[int]:
    """Return the indices of up to `count` images that hold a class: with much of it, less of it, little of it.

    The images are evenly spaced in the order of the fraction of pixels that the class has.
    """
    fractions = []
    for index, image in enumerate(split.images):
        own, _, _ = image.pixels_of(value)
        if own and not image.faults:
            fractions.append((-own / image.total, index))
    fractions.sort()
    chosen = np.linspace(0, len(fractions) - 1, min(count, len(fractions))).round().astype(int)
    return [fractions[position][1] for position in chosen]
