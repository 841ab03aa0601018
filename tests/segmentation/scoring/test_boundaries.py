import numpy as np
import pytest
import torch
from scipy import ndimage

from segmentation.scoring.boundaries import boundary_band


def brute_force(labels: np.ndarray, width: int) -> np.ndarray:
    height, columns = labels.shape
    band = np.zeros(labels.shape, bool)
    for y in range(height):
        for x in range(columns):
            near = labels[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            band[y, x] = (near != labels[y, x]).any()
    return band


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_the_band_is_the_definition_pixel_by_pixel(width: int) -> None:
    random = np.random.default_rng(width)
    labels = np.stack([np.kron(random.integers(0, 3, (4, 5)), np.ones((5, 5), int)) for _ in range(3)])
    labels[0, 3:6, 3:9] = 255
    band = boundary_band(torch.from_numpy(labels.astype(np.uint8)), width)
    assert band.dtype == torch.bool
    for found, image in zip(band.numpy(), labels, strict=True):
        np.testing.assert_array_equal(found, brute_force(image, width))


def test_the_band_of_a_disk_equals_scipy_s_chessboard_distance() -> None:
    y, x = np.mgrid[:60, :80]
    disk = np.hypot(y - 30, x - 40) < 15
    inside, outside = (ndimage.distance_transform_cdt(part, "chessboard") for part in (disk, ~disk))
    expected = np.where(disk, inside, outside) <= 4
    np.testing.assert_array_equal(boundary_band(torch.from_numpy(disk.astype(np.uint8))[None], 4)[0], expected)


def test_the_image_border_is_no_boundary_and_width_0_gives_no_band() -> None:
    assert not boundary_band(torch.full((1, 9, 9), 4, dtype=torch.uint8), 3).any()
    labels = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    assert not boundary_band(labels, 0).any()
    assert boundary_band(labels, 1).tolist() == [[[False, True, True, False]]]
