"""Boundary IoU: intersection over union of the pixels of each class that are near its contour.

Cheng, Girshick, Dollár, Berg and Kirillov, "Boundary IoU: Improving Object-Centric Image Segmentation Evaluation", CVPR
2021. The mask IoU of a large object hardly notices a wrong contour, because the pixels of its interior outnumber those
of the contour.
"""

import math

import numpy as np
import torch

from segmentation.classes import VOID
from segmentation.scoring.boundaries import extreme_in_windows
from segmentation.scoring.compiled import compiled, on_all_cores

CONTOUR_WIDTH = 0.02
"""Width of the bands along the contours, as a fraction of the image's diagonal.

It is the paper's value for common images. It is no field, because values for different widths are not comparable.
`boundary_width` is another width: it divides the pixels for calibration, in pixels, and does not grow with the image.
"""


def contour_width(height: int, width: int) -> int:
    """Width of the bands in pixels, at least 1, as in the paper's program."""
    return max(1, round(CONTOUR_WIDTH * math.hypot(height, width)))


def near_contour(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Whether a pixel is within `width` rows and columns of another class, or of the outside of the image.

    This is the band inside the contour of the pixel's own class, for all classes at once. The paper obtains it for one
    class by `width` erosions with a 3 x 3 square, and counts the edge of the image as a part of the contour.

    Args:
        labels: `(B, H, W)` uint8 class indices. Void is no class: next to it, there is no contour.
        width: in pixels, at least 1.

    Returns:
        `(B, H, W)` bool; meaningless where the label is void.
    """
    near, window = torch.ones(labels.shape, dtype=torch.bool, device=labels.device), 2 * width + 1
    if min(labels.shape[1:]) < window:
        return near
    # uint8 overflows: void is the highest label here, and 0 there, so that neither extreme is void unless all is
    lowest, highest = labels, labels + 1
    for axis in (1, 2):
        lowest = extreme_in_windows(torch.minimum, lowest, axis, window)
        highest = extreme_in_windows(torch.maximum, highest, axis, window)
    near[:, width:-width, width:-width] = lowest + 1 != highest
    return near


def contour_counts(masks: torch.Tensor, predicted: torch.Tensor, classes: int) -> torch.Tensor:
    """Intersection and union of the bands along the true and the predicted contours, by class.

    Args:
        masks: `(B, H, W)` uint8 class indices, 255 is void.
        predicted: `(B, H, W)` uint8 class indices; void where the mask is. Such a pixel is neither counted nor another
            class next to a contour.
        classes: number of classes.

    Returns:
        `(B, 2, C)` int64, number of pixels, on the device of the masks.
    """
    width = contour_width(*masks.shape[1:])
    near = near_contour(masks, width), near_contour(predicted, width)
    if masks.device.type != "cpu":
        return _by_torch(masks, predicted, *near, classes)
    counts, kernel = np.zeros((len(masks), 2, classes), np.int64), _kernel()
    flat = [each.flatten(1).view(torch.uint8).numpy() for each in (masks, predicted, *near)]

    def count_image(image: int) -> None:
        kernel(*(each[image] for each in flat), counts[image])

    on_all_cores(count_image, len(masks))
    return torch.from_numpy(counts)


@compiled("void(u1[:], u1[:], u1[:], u1[:], i8[:,::1])")
def _kernel(
    masks: np.ndarray, predicted: np.ndarray, near_true: np.ndarray, near_predicted: np.ndarray, counts: np.ndarray
) -> None:
    """Add the pixels `(P,)` of one image to its counts `(2, C)`."""
    for pixel in range(len(masks)):
        true, guess = masks[pixel], predicted[pixel]
        if true == VOID or not (near_true[pixel] | near_predicted[pixel]):
            continue
        if true == guess and near_true[pixel] and near_predicted[pixel]:
            counts[0, true] += 1
            counts[1, true] += 1
        else:
            counts[1, true] += near_true[pixel]
            counts[1, guess] += near_predicted[pixel]


def _by_torch(
    masks: torch.Tensor, predicted: torch.Tensor, near_true: torch.Tensor, near_predicted: torch.Tensor, classes: int
) -> torch.Tensor:
    """Counts of `contour_counts` on any device, without waiting for it."""
    images, valid = len(masks), masks != VOID
    first = classes * torch.arange(images, device=masks.device)[:, None, None]

    def by_class(labels: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        cell, chosen = first + torch.where(valid, labels, 0), chosen & valid
        found = torch.zeros(images * classes, dtype=torch.int64, device=masks.device)
        return found.index_add_(0, cell.flatten(), chosen.flatten().long()).reshape(images, classes)

    intersection = by_class(masks, near_true & near_predicted & (masks == predicted))
    union = by_class(masks, near_true) + by_class(predicted, near_predicted) - intersection
    return torch.stack([intersection, union], 1)
