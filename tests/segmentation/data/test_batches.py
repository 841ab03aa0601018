import numpy as np
import pytest
import torch

from segmentation.config import DataConfig
from segmentation.data import load_split
from segmentation.data.batches import in_order, index_batches


@pytest.mark.parametrize(
    ("images", "size", "shards", "sizes"),
    [
        (10, 4, 1, [4, 4, 2]), (9, 4, 1, [4, 5]), (8, 4, 1, [4, 4]), (1, 4, 1, [1]), (5, 1, 1, [1] * 5),
        (4, 64, 1, [4]), (10, 4, 2, [4, 6]), (12, 4, 2, [4, 4, 4]), (10, 4, 3, [4, 6]), (11, 4, 4, [4, 7]),
        (5, 2, 2, [2, 3]), (3, 4, 4, [3]), (13, 8, 4, [13]), (20, 16, 2, [16, 4]),
    ],
)  # fmt: skip
def test_a_small_last_batch_joins_the_previous_one(images: int, size: int, shards: int, sizes: list[int]) -> None:
    batches = index_batches(np.arange(images), size, shards)
    assert [len(batch) for batch in batches] == sizes
    assert np.concatenate(batches).tolist() == list(range(images))


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [2, 5, 8, 16])
def test_each_shard_of_a_batch_has_two_images_if_the_size_allows(size: int, shards: int) -> None:
    for images in range(2 * shards, 60):
        batches = index_batches(np.arange(images), size, shards)
        assert np.concatenate(batches).tolist() == list(range(images))
        smallest = min(len(batch[rank::shards]) for batch in batches for rank in range(shards))
        assert smallest >= min(2, size // shards)


def test_in_order_yields_each_image_once_in_order(config: DataConfig) -> None:
    split = load_split(config, "val")
    batches = list(in_order(split, 2, torch.device("cpu")))
    np.testing.assert_array_equal(torch.cat([masks for _, masks in batches]).numpy(), split.masks)
    np.testing.assert_array_equal(torch.cat([images for images, _ in batches]).permute(0, 2, 3, 1), split.images)
