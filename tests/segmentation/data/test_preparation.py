import numpy as np
import pytest
from PIL import Image
from torchvision import transforms as torchvision_v1

from segmentation.config import DataConfig
from segmentation.data.preparation import fraction_in_crop, prepare
from segmentation.errors import InputError


def image_and_mask(width: int, height: int) -> tuple[Image.Image, np.ndarray]:
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), np.uint8)), random.integers(
        0, 5, (height, width), np.uint8
    )


@pytest.mark.parametrize("size", [(200, 150), (150, 201), (64, 64), (500, 64)])
def test_preparation_is_the_resize_and_center_crop_of_the_original_report(size: tuple[int, int]) -> None:
    image, mask = image_and_mask(*size)
    ours, our_mask = prepare(image, mask, DataConfig(resize=64, crop=64), "x")
    expected = torchvision_v1.Compose([torchvision_v1.Resize(64), torchvision_v1.CenterCrop(64)])(image)
    nearest = torchvision_v1.InterpolationMode.NEAREST
    expected_mask = torchvision_v1.Compose([torchvision_v1.Resize(64, nearest), torchvision_v1.CenterCrop(64)])(
        Image.fromarray(mask)
    )
    np.testing.assert_array_equal(ours, np.asarray(expected))
    np.testing.assert_array_equal(our_mask, np.asarray(expected_mask))


def test_resize_and_crop_are_optional() -> None:
    image, mask = image_and_mask(50, 40)
    assert prepare(image, mask, DataConfig(resize=None, crop=None), "x")[0].shape == (40, 50, 3)
    assert prepare(image, mask, DataConfig(resize=20, crop=None), "x")[1].shape == (20, 25)
    cropped, _ = prepare(image, mask, DataConfig(resize=None, crop=30), "x")
    np.testing.assert_array_equal(cropped, np.asarray(image)[5:35, 10:40])


@pytest.mark.parametrize("size", [(50, 40), (41, 67), (200, 151), (64, 64), (500, 65)])
@pytest.mark.parametrize(("resize", "crop"), [(33, 33), (32, 20), (None, 30), (40, None), (None, None)])
def test_the_fraction_in_the_crop_is_that_of_the_resized_image(
    size: tuple[int, int], resize: int | None, crop: int | None
) -> None:
    whole, _ = prepare(*image_and_mask(*size), DataConfig(resize=resize, crop=None), "x")
    cropped, _ = prepare(*image_and_mask(*size), DataConfig(resize=resize, crop=crop), "x")
    assert fraction_in_crop(*size, DataConfig(resize=resize, crop=crop)) == cropped.size / whole.size


def test_an_image_smaller_than_the_crop_is_refused() -> None:
    with pytest.raises(InputError, match="small has 50 x 40 pixels, less than crop=64"):
        prepare(*image_and_mask(50, 40), DataConfig(resize=None, crop=64), "small")
