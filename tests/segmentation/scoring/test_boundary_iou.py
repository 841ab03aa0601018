"""Boundary IoU compared with the program of its paper, with loops over pixels where a mask has void, and by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segmentation.classes import Classes
from segmentation.scoring.boundary_iou import _by_torch, contour_counts, contour_width, near_contour
from segmentation.scoring.scores import Scores


def blobs(height: int, width: int, classes: int, seed: int, void: float = 0.0) -> np.ndarray:
    """Two images of square blobs, with this fraction of void pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (2, -(-height // 5), -(-width // 5)))
    labels = np.kron(coarse, np.ones((1, 5, 5), int))[:, :height, :width].astype(np.uint8)
    labels[random.random(labels.shape) < void] = 255
    return labels


def counted(masks: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Counts `(B, 2, C)` by numba, which are also those by torch."""
    labels = torch.from_numpy(masks), torch.from_numpy(np.where(masks == 255, 255, predicted).astype(np.uint8))
    found = contour_counts(*labels, classes)
    width = contour_width(*masks.shape[1:])
    assert torch.equal(found, _by_torch(*labels, *(near_contour(each, width) for each in labels), classes))
    return found.numpy()


def band_of_the_paper(mask: np.ndarray) -> np.ndarray:
    """`mask_to_boundary` of github.com/bowenc0221/boundary-iou-api, with scipy's erosion instead of OpenCV's."""
    height, width = mask.shape
    dilation = max(1, round(0.02 * np.sqrt(height**2 + width**2)))
    padded = np.pad(mask, 1)
    eroded = ndimage.binary_erosion(padded, np.ones((3, 3)), iterations=dilation, border_value=1)
    return mask & ~eroded[1:-1, 1:-1]


@pytest.mark.parametrize("size", [(1, 1), (2, 9), (20, 30), (97, 111), (160, 120)])
@pytest.mark.parametrize("classes", [2, 5])
def test_without_void_the_counts_are_those_of_the_papers_program(size: tuple[int, int], classes: int) -> None:
    masks, predicted = blobs(*size, classes, 0), blobs(*size, classes, 1)
    predicted[:, size[0] // 2 :] = masks[:, size[0] // 2 :]
    found = counted(masks, predicted, classes)
    for image in range(2):
        for index in range(classes):
            true, guess = (band_of_the_paper(each[image] == index) for each in (masks, predicted))
            assert found[image, :, index].tolist() == [(true & guess).sum(), (true | guess).sum()]


def band_by_loops(labels: np.ndarray, width: int) -> np.ndarray:
    """A pixel is in the band if another class, not void, or the outside of the image is within `width` of it."""
    band = np.zeros(labels.shape, bool)
    for y, x in np.argwhere(labels != 255):
        near = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
        is_cut = near.shape != (2 * width + 1, 2 * width + 1)
        band[y, x] = is_cut or ((near != labels[y, x]) & (near != 255)).any()
    return band


def test_void_pixels_are_neither_counted_nor_a_contour() -> None:
    masks, predicted = blobs(60, 90, 4, 2, void=0.3), blobs(60, 90, 4, 3)
    masks[0, 20:40, 20:60] = 255
    found = counted(masks, predicted, 4)
    for image in range(2):
        guess = np.where(masks[image] == 255, 255, predicted[image])
        bands = band_by_loops(masks[image], 2), band_by_loops(guess, 2)
        for index in range(4):
            true, guessed = (masks[image] == index) & bands[0], (guess == index) & bands[1]
            assert found[image, :, index].tolist() == [(true & guessed).sum(), (true | guessed).sum()]


def test_a_perfect_prediction_has_1_and_a_class_next_to_void_alone_has_no_value() -> None:
    masks = np.zeros((1, 50, 50), np.uint8)
    masks[0, 10:40, 10:40] = 255
    masks[0, 24:26, 24:26] = 1  # farther than two pixels from every other class
    intersection, union = counted(masks, masks, 3)[0]
    assert intersection.tolist() == union.tolist() == [4 * 49, 0, 0]  # class 0: the edge of the image, one pixel wide
    assert contour_width(50, 50) == 1


def test_a_shifted_square_by_hand() -> None:
    """A square of 10 x 10 in 20 x 20 pixels, predicted one pixel to the right; the bands are one pixel wide."""
    masks, predicted = np.zeros((2, 1, 20, 20), np.uint8)
    masks[0, 5:15, 5:15] = predicted[0, 5:15, 6:16] = 1
    scores = Scores(Classes.named("rest", "square", "absent"))
    logits = torch.nn.functional.one_hot(torch.from_numpy(predicted).long(), 3).movedim(-1, 1).float()
    scores.update(logits, torch.from_numpy(masks))
    # rings of 36 pixels that share 9 at the top and 9 at the bottom
    assert counted(masks, predicted, 3)[0, :, 1].tolist() == [18, 72 - 18]
    # around the square: rings of 44 pixels that share 11 twice; the edge of the image: 76
    assert counted(masks, predicted, 3)[0, :, 0].tolist() == [22 + 76, 88 - 22 + 76]
    found = scores.by_class().boundary_iou
    assert found[:2] == pytest.approx([98 / 142, 18 / 54])
    assert np.isnan(found[2])
    assert scores.metrics()["mean_boundary_iou"] == pytest.approx((98 / 142 + 18 / 54) / 2)
    assert scores.by_class().iou[1] == pytest.approx(90 / 110)


@pytest.mark.parametrize(("size", "width"), [((128, 128), 4), ((1024, 2048), 46), ((10, 10), 1), ((1, 1), 1)])
def test_the_width_is_2_percent_of_the_diagonal(size: tuple[int, int], width: int) -> None:
    assert contour_width(*size) == width


def test_images_are_counted_each_and_added_up() -> None:
    masks, predicted = blobs(40, 40, 3, 4), blobs(40, 40, 3, 5)
    both = counted(masks, predicted, 3)
    alone = [counted(masks[index : index + 1], predicted[index : index + 1], 3)[0] for index in (0, 1)]
    np.testing.assert_array_equal(both, alone)
