"""Difference hashes and similar images, against brute force."""

import io
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from segmentation.inspection import hashes
from segmentation.inspection.hashes import MAX_DISTANCE, MIN_CORRELATION, Prints, difference_hash, grey_copy, nearest


def smooth(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """Return a grey image of a few large blobs, as photos reduced to 9 x 8 pixels have."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 7)).astype(np.uint8)
    return Image.fromarray(blocks).resize((width, height), Image.Resampling.BICUBIC)


def prints(images: list[Image.Image]) -> Prints:
    return Prints.of([difference_hash(image) for image in images], [grey_copy(image) for image in images])


def test_a_hash_has_a_bit_for_each_pair_of_neighbours_that_gets_darker_to_the_right() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 9)).astype(np.uint8)
    bits = ""
    for row in pixels.tolist():
        for left, right in pairwise(row):
            bits += "1" if left > right else "0"
    assert difference_hash(Image.fromarray(pixels)) == int(bits, 2)


def test_a_hash_of_a_larger_image_is_that_of_its_mean_over_blocks() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (8 * 5, 9 * 3)).astype(np.uint8)
    means = pixels.reshape(8, 5, 9, 3).mean(axis=(1, 3))
    assert difference_hash(Image.fromarray(pixels)) == difference_hash(Image.fromarray(means.round().astype(np.uint8)))


def saved_anew(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file).convert("L")


@pytest.mark.parametrize(
    "change",
    [
        lambda image: saved_anew(image, 30),
        lambda image: image.resize((45, 35)),
        lambda image: image.resize((64, 64)),
        lambda image: image.point(lambda value: 20 + 0.8 * value),
    ],
    ids=["compressed", "smaller", "squeezed", "paler"],
)
def test_a_changed_copy_is_found_and_other_images_are_not(change: object) -> None:
    images = [smooth(seed) for seed in range(40)]
    copies = [change(image) for image in images]  # type: ignore[operator]
    found, alike = nearest(prints(copies), prints(images))
    assert found.tolist() == list(range(40))
    assert (alike >= MIN_CORRELATION).all()
    assert (nearest(prints([smooth(seed) for seed in range(100, 140)]), prints(images))[0] == -1).all()


def brute_force(images: Prints, others: Prints, same: bool) -> list[int]:
    """Return what `nearest` returns, pair by pair."""
    found = []
    for row, (first, copy) in enumerate(zip(images.hashes.tolist(), images.copies, strict=True)):
        best, best_alike = -1, MIN_CORRELATION
        for column, (second, other) in enumerate(zip(others.hashes.tolist(), others.copies, strict=True)):
            if same and column >= row:
                continue
            alike = float(sum(a * b for a, b in zip(copy.tolist(), other.tolist(), strict=True)))
            if (first ^ second).bit_count() <= MAX_DISTANCE and alike > best_alike:
                best, best_alike = column, alike
        found.append(best)
    return found


@pytest.mark.parametrize("block", [2**21, 64], ids=["at once", "in blocks"])
def test_the_most_similar_image_is_that_of_a_brute_force_search(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashes, "BLOCK", block)
    random = np.random.default_rng(2)
    images = [smooth(seed) for seed in range(12)]
    images += [Image.fromarray(np.uint8(np.clip(np.array(each) + random.normal(0, 30, (70, 90)), 0, 255)))
               for each in images[:8]]  # fmt: skip
    first, second = prints(images[5:]), prints(images[:9])
    assert nearest(first, second)[0].tolist() == brute_force(first, second, same=False)
    assert nearest(first)[0].tolist() == brute_force(first, first, same=True)
    assert (nearest(first)[0] >= 0).any()


def test_images_of_one_value_are_like_none() -> None:
    blank = prints([Image.new("L", (20, 20), 7), Image.new("L", (30, 20), 200)])
    assert nearest(blank)[0].tolist() == [-1, -1]
    assert nearest(blank, prints([]))[0].tolist() == [-1, -1]
