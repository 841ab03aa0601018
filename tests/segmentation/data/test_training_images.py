"""Order and crops of training images, compared with enumerations and hand calculations."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.classes import VOID, Classes
from segmentation.config import TrainingConfig
from segmentation.data import Split, building, cache, load_split, load_splits, load_training_split, open_split
from segmentation.data.preparation import prepare
from segmentation.data.ragged import Ragged
from segmentation.data.source import LabelledImage
from segmentation.data.training_images import TrainingImages, class_balanced, held_classes
from segmentation.errors import InputError
from segmentation.io.channels import ChannelImage


@pytest.fixture
def config(voc: Path) -> TrainingConfig:
    """Images whose shorter side is 24, of four shapes."""
    return TrainingConfig(dataset="voc2007", data_dir=str(voc), resize=24, crop=20, crop_at="random")


def split_of(*masks: Any, classes: int = 3) -> Split:
    """A split of whole images; each pixel of an image is its number, row and column."""
    arrays = [np.array(mask, np.uint8) for mask in masks]
    images = [
        np.stack(np.broadcast_arrays(number, *np.ogrid[: mask.shape[0], : mask.shape[1]]), -1).astype(np.uint8)
        for number, mask in enumerate(arrays)
    ]
    sizes = np.array([mask.shape for mask in arrays])
    flat = [
        Ragged(np.concatenate([each.reshape(-1, *each.shape[2:]) for each in part]), sizes) for part in (images, arrays)
    ]
    labels = Classes.named(*"abcdefg"[:classes])
    names = tuple(map(str, range(len(arrays))))
    return Split("folder", "train", "here", labels, names, *flat, "f", names)


def images_of(split: Split, **values: Any) -> TrainingImages:
    return TrainingImages(TrainingConfig(resize=None, **values), split)


def test_whole_images_are_the_resized_ones_without_a_crop(config: TrainingConfig) -> None:
    source = open_split(config, "train")
    for _ in range(2):  # newly prepared, then cached
        split = load_training_split(config)
        assert split.in_crop == 1
        assert split.size is None
        total = np.zeros(256, int)
        for index, original in enumerate(map(source.read, range(4))):
            image, mask = prepare(original.image, original.mask, config, "x", whole=True)
            assert min(mask.shape) == 24
            np.testing.assert_array_equal(split.images[index], image)
            np.testing.assert_array_equal(split.masks[index], mask)
            images, masks = split.gather(np.array([index]))
            np.testing.assert_array_equal(images[0].permute(1, 2, 0), image)
            np.testing.assert_array_equal(masks[0], mask)
            total += np.bincount(mask.ravel(), minlength=256)
        assert split.pixels_by_value() == tuple(total)
    with pytest.raises(ValueError, match="same shape"):
        split.gather(np.arange(4))


def test_the_center_of_a_whole_image_is_the_center_crop(config: TrainingConfig) -> None:
    cropped, whole = load_split(config, "train"), load_training_split(config)
    corners = np.round((whole.sizes - 20) / 2).astype(int)
    for part, ragged in ((cropped.images, whole.images), (cropped.masks, whole.masks)):
        assert isinstance(ragged, Ragged)
        np.testing.assert_array_equal(ragged.cropped(np.arange(4), corners, 20), part)
    assert cropped.fingerprint == whole.fingerprint


def test_training_and_validation_images_are_whole_where_their_field_says_so(config: TrainingConfig) -> None:
    for crop_at, score_crop in (("center", "center"), ("class", "center"), ("center", "whole"), ("random", "whole")):
        train, val = load_splits(replace(config, crop_at=crop_at, score_crop=score_crop))
        assert isinstance(train.images, Ragged) == (crop_at != "center")
        assert isinstance(val.images, Ragged) == (score_crop == "whole")


def test_a_whole_training_image_that_is_smaller_than_the_crop_is_refused_with_its_name(config: TrainingConfig) -> None:
    with pytest.raises(InputError, match=r"train_000000 .*less than crop=34") as refusal:
        load_splits(replace(config, resize=None, crop=34, score_crop="whole"))
    assert "2 faults" in str(refusal.value)


def test_a_random_crop_is_at_every_position_equally_often() -> None:
    images = images_of(split_of(np.zeros((5, 4))), crop=3, crop_at="random")
    draws = (np.mgrid[:30, :30].reshape(2, -1).T + 0.5) / 30  # evenly over both random numbers
    found = Counter(images.corner(images.split.masks[0], row) for row in draws)
    assert found == {(top, left): 900 // 6 for top in range(3) for left in range(2)}
    assert images.corner(images.split.masks[0], np.array([0.999999999, 0.999999999])) == (2, 1)


def test_crops_around_classes_have_the_frequencies_of_an_enumeration() -> None:
    """Of every class, every pixel of it and every crop with this pixel, each evenly."""
    mask = np.zeros((5, 6), np.uint8)
    mask[0], mask[4, 5], mask[2, 1:3] = VOID, 2, 1
    side, expected = 3, Counter()
    for value in (0, 1, 2):
        pixels = np.argwhere(mask == value)
        for row, column in pixels:
            tops = [top for top in range(3) if top <= row < top + side]
            lefts = [left for left in range(4) if left <= column < left + side]
            for top in tops:
                for left in lefts:
                    expected[top, left] += 1 / 3 / len(pixels) / len(tops) / len(lefts)
    images = images_of(split_of(mask), crop=side, crop_at="class")
    draws = images.draw(20_000, np.random.default_rng(0))
    found = Counter(images.corner(images.split.masks[0], row) for row in draws)
    assert found.keys() == expected.keys()
    for corner, probability in expected.items():
        error = np.sqrt(probability * (1 - probability) / len(draws))
        assert found[corner] / len(draws) == pytest.approx(probability, abs=4 * error)


def test_a_class_crop_holds_the_class_that_was_drawn_and_void_is_no_class() -> None:
    random = np.random.default_rng(1)
    masks = [random.choice([0, 1, 2, VOID], size, p=[0.9, 0.02, 0.02, 0.06]) for size in ((9, 12), (20, 8), (8, 8))]
    images = images_of(split_of(*masks, np.full((8, 9), VOID)), crop=8, crop_at="class")
    for index, mask in enumerate(masks):
        held = [value for value in np.unique(mask) if value != VOID]
        for position, value in enumerate(held):
            for row in random.random((50, 4)):
                row[0] = (position + row[0]) / len(held)
                top, left = images.corner(images.split.masks[index], row)
                assert 0 <= top <= mask.shape[0] - 8
                assert 0 <= left <= mask.shape[1] - 8
                assert value in mask[top : top + 8, left : left + 8]
    assert {images.corner(images.split.masks[3], row) for row in random.random((50, 4))} == {(0, 0), (0, 1)}


@pytest.mark.parametrize("crop_at", ["random", "class"])
def test_a_batch_holds_the_drawn_parts_of_images_and_masks(crop_at: str) -> None:
    random = np.random.default_rng(2)
    split = split_of(*(random.integers(0, 3, (height, 9)) for height in (7, 12, 8)))
    images = images_of(split, crop=5, crop_at=crop_at)
    indices = np.array([2, 0, 1, 1])
    draws = images.draw(4, random)
    found, masks = images.gather(indices, draws)
    assert (found.shape, masks.shape) == ((4, 3, 5, 5), (4, 5, 5))
    for image, mask, index, row in zip(found.numpy(), masks.numpy(), indices, draws, strict=True):
        top, left = images.corner(split.masks[index], row)
        assert (image[0] == index).all()
        np.testing.assert_array_equal(image[1:], np.mgrid[top : top + 5, left : left + 5])
        np.testing.assert_array_equal(mask, split.masks[index][top : top + 5, left : left + 5])


def test_center_crops_draw_no_random_numbers(config: TrainingConfig) -> None:
    centered = replace(config, crop_at="center")
    images = TrainingImages(centered, load_training_split(centered))
    random = np.random.default_rng(3)
    np.testing.assert_array_equal(images.order(random), np.random.default_rng(3).permutation(4))
    before = random.bit_generator.state
    draws = images.draw(2, random)
    assert random.bit_generator.state == before
    for ours, theirs in zip(images.gather(np.array([1, 3]), draws), images.split.gather(np.array([1, 3])), strict=True):
        np.testing.assert_array_equal(ours, theirs)


HELD = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [1, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], bool)
"""Of 5 images, 4 hold the first class, 1 the second, 1 the third; no image holds the fourth, and one holds none."""
EXPECTED = np.array([1 / 4 + 1, 1 / 4, 1 / 4 + 1, 1 / 4, 0]) / 3 * 5


def test_class_balanced_sampling_draws_classes_evenly_and_then_their_images() -> None:
    np.testing.assert_allclose(class_balanced(HELD), EXPECTED)
    random, drawn = np.random.default_rng(0), np.zeros(5)
    for _ in range(5 * 4000):  # the paper's procedure, one image at a time
        drawn[random.choice(np.flatnonzero(HELD[:, random.integers(3)]))] += 1 / 4000
    np.testing.assert_allclose(drawn, EXPECTED, atol=0.05)


def test_epochs_with_class_balanced_sampling_have_the_expected_images() -> None:
    masks = [[[0, 1]], [[0, VOID]], [[2, 0]], [[0, 0]], [[VOID, VOID]]]
    split = split_of(*masks, classes=4)
    np.testing.assert_array_equal(held_classes(split), HELD)
    images = images_of(split, crop=1, crop_at="random", sampling="class_balanced")
    random, total = np.random.default_rng(0), np.zeros(5)
    orders = [images.order(random) for _ in range(4000)]
    for order in orders:
        copies = np.bincount(order, minlength=5)
        assert len(order) == 5
        assert (copies >= np.floor(EXPECTED)).all()
        assert (copies <= np.ceil(EXPECTED)).all()
        total += copies / len(orders)
    np.testing.assert_allclose(total, EXPECTED, atol=0.04)
    assert len({tuple(order) for order in orders}) > 20
    np.testing.assert_array_equal(images.order(np.random.default_rng(7)), images.order(np.random.default_rng(7)))


def test_whole_images_have_a_cache_of_their_own_for_all_crops(config: TrainingConfig, tmp_path: Path) -> None:
    folder = tmp_path / "prepared"
    for values in ({}, {"crop_at": "class"}, {"crop": 12}, {"crop_at": "center"}, {"score_crop": "whole"}):
        load_splits(replace(config, cache_dir=str(folder), **values))
    folders = [len(list(each.glob("*"))) for each in folder.glob("*/*/")]
    assert folders == [3] * 5  # train whole and cropped; val cropped to 20 and 12, and whole


def test_the_fields_of_crops_are_in_no_key_and_whole_images_are_in_another_folder(config: TrainingConfig) -> None:
    """Splits that an earlier version prepared are still found."""
    names = {name for name, _ in cache._key_fields(config, "val")}
    assert "crop" in names
    assert not {"crop_at", "score_crop"} & names
    source = open_split(config, "val")
    cropped = cache.split_folder(source, config, "val")
    assert cropped == cache.split_folder(source, replace(config, crop_at="center"), "val")
    whole = cache.split_folder(source, config, "val", whole=True)
    assert whole != cropped
    assert whole == cache.split_folder(source, replace(config, crop=8), "val", whole=True)


class Channels:
    """Two images of 16 bits and five channels, of different sizes."""

    labels, location, names = Classes.named("a", "b"), "here", ("0", "1")

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.images = [random.integers(0, 2**16, (*size, 5), np.uint16) for size in ((9, 12), (14, 9))]
        self.masks = [(image[..., 0] > 30_000).astype(np.uint8) for image in self.images]

    def identity(self) -> str:
        return "x"

    def pixels(self, index: int) -> int:
        return 0

    def read(self, index: int) -> LabelledImage:
        return LabelledImage(ChannelImage(self.images[index]), self.masks[index], bytes([index]))


def test_whole_images_of_16_bits_and_five_channels_are_cached_and_cropped_exactly(tmp_path: Path) -> None:
    config = TrainingConfig(resize=None, crop=8, crop_at="class", cache_dir=str(tmp_path))
    source = Channels()
    for _ in range(2):  # newly prepared, then cached
        split = building.load(source, config, "train", whole=True)
        assert (split.channels, split.bits) == (5, 16)
        images = TrainingImages(config, split)
        draws = images.draw(2, np.random.default_rng(1))
        found, masks = images.gather(np.arange(2), draws)
        for index in range(2):
            np.testing.assert_array_equal(split.images[index], source.images[index])
            top, left = images.corner(source.masks[index], draws[index])
            inside = slice(top, top + 8), slice(left, left + 8)
            np.testing.assert_array_equal(found[index].permute(1, 2, 0).numpy(), source.images[index][inside])
            np.testing.assert_array_equal(masks[index].numpy(), source.masks[index][inside])
