"""The generated data set `shapes`: overlapping textured shapes on a textured background, drawn from a seed.

A model learns it within a minute, but not perfectly: only the outline determines the class, the colour is a weak hint,
textures are independent of the class, borders are soft, images are noisy, and some outlines are void.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from PIL import Image

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.source import LabelledImage
from segmentation.errors import one_of

CLASSES = Classes(
    ("background", "disk", "square", "triangle", "ring", "cross"),
    ((38, 38, 46), (230, 97, 60), (66, 133, 217), (94, 178, 84), (240, 190, 60), (160, 96, 190)),
)
COUNTS = {"train": 320, "val": 96, "test": 96}
SIDE = 128
"""Width and height of an image in pixels."""
HINT = 0.5
"""Fraction of the class's colour in the colour of a shape."""
VERSION = 1
"""Part of the data's identity. Raise it when the drawing changes."""


@dataclass(frozen=True)
class Shapes:
    """One split of the generated data set; a `Source`."""

    seed: int
    split: str

    @property
    def labels(self) -> Classes:
        return CLASSES

    @property
    def location(self) -> str:
        return f"generated from seed {self.seed}"

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.split}-{index:04d}" for index in range(COUNTS[self.split]))

    def identity(self) -> str:
        return f"shapes {VERSION} {self.seed} {self.split}"

    def pixels(self, index: int) -> int:
        return SIDE * SIDE

    def read(self, index: int) -> LabelledImage:
        image, mask = draw(np.random.default_rng([self.seed, list(COUNTS).index(self.split), index]))
        return LabelledImage(Image.fromarray(image), mask, hashlib.sha256(image.tobytes() + mask.tobytes()).digest())


def open_shapes(config: DataConfig, split: str) -> Shapes:
    """Return one split of the generated data set."""
    return Shapes(config.dataset_seed, one_of("split", split, COUNTS))


def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an image `(128, 128, 3)` uint8 and its mask `(128, 128)` uint8."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    image = _texture(random, x, y, 0)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(random.integers(3, 7)):
        index = int(random.integers(1, len(CLASSES)))
        radius = random.uniform(14, 34)
        centre_x, centre_y = random.uniform(0, SIDE, 2)
        angle = random.uniform(0, 2 * np.pi)
        u = (np.cos(angle) * (x - centre_x) + np.sin(angle) * (y - centre_y)) / radius
        v = (np.cos(angle) * (y - centre_y) - np.sin(angle) * (x - centre_x)) / radius
        distance = radius * _distance(CLASSES.names[index], u, v)
        softness = random.uniform(1, 5)
        opacity = random.uniform(0.6, 1.0) * np.clip(0.5 - distance / softness, 0, 1)[..., None]
        image = image * (1 - opacity) + _texture(random, x, y, index) * opacity
        mask[distance < 0] = index
        if random.random() < 0.3:
            mask[np.abs(distance) < 1.5] = VOID
    image += random.normal(0, random.uniform(4, 22), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask


def _distance(name: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Signed distance to a shape's outline, negative inside; it and the coordinates `u` and `v` are in radii."""
    if name == "disk":
        return np.hypot(u, v) - 1
    if name == "square":
        return np.maximum(np.abs(u), np.abs(v)) - 0.85
    if name == "triangle":
        return np.maximum(np.abs(u) * np.sqrt(3) / 2 + v / 2, -v) - 0.55
    if name == "ring":
        return np.abs(np.hypot(u, v) - 0.75) - 0.25
    assert name == "cross"
    return np.minimum(np.maximum(np.abs(u) - 1, np.abs(v) - 0.32), np.maximum(np.abs(u) - 0.32, np.abs(v) - 1))


def _texture(random: np.random.Generator, x: np.ndarray, y: np.ndarray, index: int) -> np.ndarray:
    """A surface `(128, 128, 3)` float for class `index`: a shaded colour, with stripes, checks or grain of another."""
    colour, other = random.uniform(30, 225, (2, 3))
    colour = (1 - HINT) * colour + HINT * np.array(CLASSES.palette[index])
    angle, wavelength = random.uniform(0, np.pi), random.uniform(5, 18)
    along = (np.cos(angle) * x + np.sin(angle) * y) / wavelength
    across = (np.cos(angle) * y - np.sin(angle) * x) / wavelength
    kind = random.integers(4)
    if kind == 0:
        pattern = np.zeros_like(x)
    elif kind == 1:
        pattern = 0.5 + 0.5 * np.sin(2 * np.pi * along)
    elif kind == 2:
        pattern = ((np.floor(along) + np.floor(across)) % 2).astype(np.float32)
    else:
        pattern = random.random((SIDE, SIDE), np.float32)
    strength = random.uniform(0.2, 0.6)
    shade = 1 + random.uniform(-0.25, 0.25) * (x - SIDE / 2) / SIDE
    return (colour + strength * pattern[..., None] * (other - colour)) * shade[..., None]
