"""How an image is presented to a model: scales, mirror image, and windows. Does not import torch, so `--help` is fast.

Every logged model carries a copy of this module (`studies.models.flavor.SHIPPED`), so it imports only modules of this
project that are copied as well.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

OVERLAP = 0.25
"""Default fraction of a window that it shares with the next one."""
LARGEST_OVERLAP = 0.9
SMALLEST_TILE, LARGEST_TILE = 32, 4096
"""Limits on the side of a window: below the first, networks see next to nothing; above the second, memory runs out."""
SMALLEST_SCALE, LARGEST_SCALE, MOST_SCALES = 0.1, 4.0, 8
MUCH_SMALLER = 8
"""An image that shrinks by more than this loses objects that a person sees easily."""


@dataclass(frozen=True)
class Views:
    """What the model sees of an image. The probabilities of all views are averaged.

    Without `tile`, a view is the image with its shorter side resized as in training. With `tile`, it is the image at
    its own size, or with its shorter side resized to `tile_resize`, in overlapping windows.
    """

    flip: bool = False
    """Also the mirror image of each view."""
    scales: tuple[float, ...] = (1.0,)
    """Sizes of the views, as multiples of the size above."""
    tile: int | None = None
    """Side of a window in pixels of the view; None shows the model the whole image at once."""
    overlap: float = OVERLAP
    """Smallest fraction of a window that it shares with the next one."""
    tile_resize: int | None = None
    """Length of the shorter side, in pixels, from which windows are cut; None is the image's own."""

    def __post_init__(self) -> None:
        assert self.scales, "no scale"

    @property
    def is_plain(self) -> bool:
        """Whether the model sees each image once, as in training."""
        return not self.flip and self.scales == (1.0,) and self.tile is None

    def mistakes(self) -> list[str]:
        """Return what is wrong with the values, each with the field and its value."""
        found = []
        if self.tile is not None and not SMALLEST_TILE <= self.tile <= LARGEST_TILE:
            found.append(
                f"tile={self.tile} is out of range; it must be between {SMALLEST_TILE} and {LARGEST_TILE} pixels, or "
                f"none"
            )
        if not 0 <= self.overlap <= LARGEST_OVERLAP:
            found.append(f"overlap={self.overlap} is out of range; it must be between 0 and {LARGEST_OVERLAP}")
        elif self.tile is None and self.overlap != OVERLAP:
            found.append(f"overlap={self.overlap} has no effect without tile: set tile, as in tile=512")
        if self.tile_resize is not None:
            if self.tile is None:
                found.append(f"tile_resize={self.tile_resize} has no effect without tile: set tile, as in tile=512")
            elif self.tile_resize < 1:
                found.append(f"tile_resize={self.tile_resize} is too small; it must be at least 1 pixel, or none")
        if len(self.scales) > MOST_SCALES:
            found.append(f"scales={written(self.scales)} are too many; at most {MOST_SCALES} are possible")
        if not all(SMALLEST_SCALE <= scale <= LARGEST_SCALE for scale in self.scales):
            found.append(
                f"scales={written(self.scales)} are out of range; each must be between {SMALLEST_SCALE} and "
                f"{LARGEST_SCALE:g}"
            )
        elif len(set(self.scales)) < len(self.scales):
            found.append(f"scales={written(self.scales)} holds a scale twice; leave one out")
        return found

    def sizes(self, width: int, height: int, resize: int | None) -> list[tuple[int, int]]:
        """Return the width and height of each view, one for every scale.

        Args:
            width: of the image in pixels.
            height: of the image in pixels.
            resize: length of the shorter side in training; None is the image's own.
        """
        side = self.tile_resize if self.tile is not None else resize
        return [_resized(width, height, side, scale) for scale in self.scales]

    def model_pixels(self, width: int, height: int, resize: int | None) -> int:
        """Return how many pixels the model sees in all views of an image."""
        sizes = self.sizes(width, height, resize)
        if self.tile is not None:
            sizes = [(covered(w, self.tile, self.overlap), covered(h, self.tile, self.overlap)) for w, h in sizes]
        return sum(w * h for w, h in sizes) * (2 if self.flip else 1)

    def held_pixels(self, width: int, height: int, resize: int | None) -> int:
        """Return of how many pixels memory holds the probabilities at a time: those of whole views, or of windows."""
        sizes = self.sizes(width, height, resize)
        return sum(w * (h if self.tile is None else min(self.tile, h)) for w, h in sizes)

    def shrinkage(self, width: int, height: int, resize: int | None) -> float:
        """Return how many times smaller the largest view is than the image."""
        return min(width, height) / max(min(size) for size in self.sizes(width, height, resize))

    def described(self) -> str:
        """Return the values that differ from a single view, such as `tile=512, overlap=0.25`; empty for one."""
        parts = []
        if self.tile is not None:
            parts += [f"tile={self.tile}", f"overlap={self.overlap:g}"]
        if self.tile_resize is not None:
            parts.append(f"tile_resize={self.tile_resize}")
        if self.scales != (1.0,):
            parts.append(f"scales={written(self.scales)}")
        if self.flip:
            parts.append("flip=true")
        return ", ".join(parts)


def read_scales(text: str) -> tuple[float, ...]:
    """Return the numbers in a text such as `0.75,1,1.25`.

    Raises:
        ValueError: something else than numbers stands there.
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"scales={text[:40]!r} is not a list of numbers, such as 0.75,1,1.25") from None


def written(scales: tuple[float, ...]) -> str:
    """Return scales as `read_scales` reads them."""
    return ",".join(f"{scale:g}" for scale in scales)


def starts(length: int, tile: int, overlap: float) -> list[int]:
    """Return the first pixel of each window along one side of an image.

    The windows are spread evenly from one end to the other, as in nnU-Net (Isensee et al., Nature Methods 18, 2021).
    Neighbours share at least the fraction `overlap` of `tile` pixels. An image shorter than `tile` is one window.
    """
    free = length - tile
    if free <= 0:
        return [0]
    steps = math.ceil(free / max(1, int(tile * (1 - overlap))))
    return [round(free * step / steps) for step in range(steps + 1)]


def covered(length: int, tile: int, overlap: float) -> int:
    """Return the sum of the lengths of all windows along one side of an image."""
    return len(starts(length, tile, overlap)) * min(tile, length)


def shrinking(sizes: Sequence[tuple[int, int]], views: Views, resize: int | None) -> str | None:
    """Return a sentence about images that the model sees much smaller than they are; None if there is none.

    Args:
        sizes: width and height of every image.
        views: what the model sees of an image.
        resize: length of the shorter side in training, in pixels.
    """
    shrunk = {size: views.shrinkage(*size, resize) for size in sizes}
    much = [size for size in sizes if shrunk[size] > MUCH_SMALLER]
    if not much:
        return None
    width, height = max(much, key=lambda size: shrunk[size])
    seen = max(views.sizes(width, height, resize))
    remedy = "tile=512 predicts windows at the images' own size"
    if views.tile_resize is not None:
        remedy = "A larger tile_resize shows more detail"
    return (
        f"{len(much)} of {len(sizes)} images shrink by more than {MUCH_SMALLER} times before the model sees them, one "
        f"from {width} x {height} to {seen[0]} x {seen[1]} pixels: small objects are lost. {remedy}"
    )


def scale_note(views: Views, resize: int | None) -> str | None:
    """Return a sentence about windows that show objects at another size than training did; None if they do not."""
    if views.tile is None or resize is None or views.tile_resize is not None:
        return None
    return (
        f"Note: the model was trained on images whose shorter side was {resize} pixels. With tile={views.tile} it sees "
        f"images at their own size, in which objects may be larger; tile_resize={resize} shows them as in training."
    )


def _resized(width: int, height: int, side: int | None, scale: float) -> tuple[int, int]:
    """Return a width and height with the shorter one equal to `side`, times `scale`; rounded as torchvision does."""
    short, long = sorted((width, height))
    target = short if side is None else side
    if scale != 1:
        target = max(1, round(target * scale))
    other = long if target == short else int(target * long / short)
    return (target, other) if width <= height else (other, target)
