import numpy as np
import pytest
import torch

from segmentation.config import DataConfig
from segmentation.data import load_split
from segmentation.data.batches import in_order, index_batches


@pytest.mark.parametrize(
    ("images", "size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (5, 1, [1] * 5), (4, 64, [4])],
)
def test_each_image_is_in_one_batch_and_none_is_left_alone(images: int, size: int, sizes: list[int]) -> None:
    batches = index_batches(np.arange(images), size)
    assert [len(batch) for batch in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(images))


@pytest.mark.parametrize(
    ("images", "size", "shares", "sizes"),
    [
        (10, 4, 2, [4, 6]), (12, 4, 2, [4, 4, 4]), (10, 4, 3, [4, 6]), (11, 4, 4, [4, 7]), (5, 2, 2, [2, 3]),
        (3, 4, 4, [3]), (13, 8, 4, [13]), (20, 16, 2, [16, 4]),
    ],
)  # fmt: skip
def test_what_is_left_over_is_shared_out_or_joins_the_batch_before(
    images: int, size: int, shares: int, sizes: list[int]
) -> None:
    batches = index_batches(np.arange(images), size, shares)
    assert [len(batch) for batch in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(images))


@pytest.mark.parametrize("shares", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [2, 5, 8, 16])
def test_no_share_has_a_single_image_that_need_not(size: int, shares: int) -> None:
    """Shares as `Team.share` takes them; those of a batch that has no two images for each cannot be helped."""
    for images in range(2 * shares, 60):
        batches = index_batches(np.arange(images), size, shares)
        assert np.concatenate(batches).tolist() == list(range(images))
        smallest = min(len(batch[rank::shares]) for batch in batches for rank in range(shares))
        assert smallest >= min(2, size // shares)


def test_a_batch_holds_the_pictures_asked_for_in_the_layout_for_convolutions() -> None:
    split = load_split(DataConfig(dataset="shapes", resize=32, crop=32), "val")
    images, masks = split.gather(np.array([5, 2]))
    assert images.shape == (2, 3, 32, 32)
    assert images.is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(images[0].permute(1, 2, 0).numpy(), split.images[5])
    np.testing.assert_array_equal(masks.numpy(), split.masks[[5, 2]])
    together = torch.cat([masks for _, masks in in_order(split, 10, torch.device("cpu"))])
    np.testing.assert_array_equal(together.numpy(), split.masks)
