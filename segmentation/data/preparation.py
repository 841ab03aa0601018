"""Prepares an image and its mask for training: resize and centre crop. The result is cached.

torchvision is imported by the functions that use it, so that mistakes in data are found before it is loaded.
"""

import numpy as np
from PIL import Image

from segmentation.config import DataConfig
from segmentation.errors import InputError
from segmentation.io.channels import ChannelImage, Raster, as_array, resized


def prepare(
    image: Raster, mask: np.ndarray, config: DataConfig, name: str, whole: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Resize the shorter side and crop the centre.

    Args:
        image: image of `W` x `H` pixels.
        mask: class indices `(H, W)` uint8.
        config: supplies `resize`, `crop` and `interpolation`.
        name: name of the image in error messages.
        whole: leave the crop out.

    Returns:
        The image `(h, w, C)` uint8 or uint16 and its mask `(h, w)` uint8.

    Raises:
        InputError: the image is smaller than the crop.
    """
    from torchvision.transforms.v2 import functional as F

    mask_image = resized_mask(mask, config)
    image = resize_image(image, config)
    if config.crop is not None and not whole:
        if refusal := too_small(image.size, config, name):
            raise InputError(refusal)
        mask_image = F.center_crop(mask_image, [config.crop])
        image = _cropped(image, config.crop) if isinstance(image, ChannelImage) else F.center_crop(image, [config.crop])
    return as_array(image), np.asarray(mask_image)


def _cropped(image: ChannelImage, side: int) -> ChannelImage:
    """Return the centre of an image, as torchvision crops it."""
    top, left = (round((length - side) / 2) for length in (image.height, image.width))
    return ChannelImage(image.values[top : top + side, left : left + side])


def too_small(size: tuple[int, int], config: DataConfig, name: str) -> str:
    """Return why a resized image of this width and height cannot be cropped; empty if it can."""
    if config.crop is None or min(size) >= config.crop:
        return ""
    return f"{name} has {size[0]} x {size[1]} pixels, less than crop={config.crop}: reduce crop or set resize"


def takes_whole_images(config: DataConfig, split: str) -> bool:
    """Return whether training crops the images of a split anew in every epoch, or scoring does not crop them."""
    return (config.crop_at if split == config.train_split else config.score_crop) != "center"


def fraction_in_crop(width: int, height: int, config: DataConfig) -> float:
    """Return the fraction of the resized image's pixels that lies inside the crop."""
    if config.crop is None:
        return 1.0
    if config.resize is not None:  # torchvision rounds the longer side down
        short, long = sorted((width, height))
        width, height = config.resize, int(config.resize * long / short)
    return config.crop**2 / (width * height)


def resize_image(image: Raster, config: DataConfig) -> Raster:
    """Return the image with its shorter side resized to `config.resize`."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    if config.resize is None:
        return image
    if isinstance(image, ChannelImage):
        return resized(image, config.resize, config.interpolation)
    found: Image.Image = F.resize(image, [config.resize], InterpolationMode(config.interpolation))
    return found


def resized_mask(mask: np.ndarray, config: DataConfig) -> Image.Image:
    """Return a mask `(H, W)` uint8 with its shorter side resized to `config.resize`, by the nearest pixel."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as F

    image = Image.fromarray(mask)
    if config.resize is None:
        return image
    resized: Image.Image = F.resize(image, [config.resize], InterpolationMode.NEAREST)  # equals torch's NEAREST_EXACT
    return resized
