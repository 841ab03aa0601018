"""Which normalization a run gets from its weights and the bits of its images."""

from typing import Any

import numpy as np
import pytest

from segmentation.errors import InputError
from studies.config import TrainConfig
from studies.models.starting_weights import resolve_normalization
from tests.segmentation.data.test_channels import made

DEEP = made(np.zeros((2, 4, 4, 3), np.uint16))
FLAT = made(np.zeros((2, 4, 4, 3), np.uint8))


@pytest.mark.parametrize(
    ("fields", "flat", "deep"),
    [
        ({}, "signed_unit", "measured"),
        ({"weights": "imagenet"}, "imagenet", "measured"),
        ({"weights": "coco", "normalization": "measured"}, "measured", "measured"),
        ({"channels": 5, "weights": "imagenet"}, "measured", "measured"),
        ({"channels": 1}, "measured", "measured"),
    ],
)
def test_images_of_16_bits_are_measured(fields: dict[str, Any], flat: str, deep: str) -> None:
    config = TrainConfig(**fields)
    assert resolve_normalization(config).normalization == flat
    assert resolve_normalization(config, FLAT).normalization == flat
    assert resolve_normalization(config, DEEP).normalization == deep


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"normalization": "imagenet"}, "normalization=imagenet is for images of 8 bits, and these have 16"),
        ({"color_jitter": 0.2}, "color_jitter=0.2 needs RGB images of 8 bits, and these have 16: set color_jitter=0"),
    ],
)
def test_what_is_for_8_bits_is_refused_for_16(fields: dict[str, Any], reason: str) -> None:
    config = TrainConfig(**fields)
    assert resolve_normalization(config, FLAT) == config
    with pytest.raises(InputError, match=reason):
        resolve_normalization(config, DEEP)
