"""Random augmentation of a batch of images and masks, on the device that they are on.

Shapes: batch `B`, channels `C`, images `(B, C, H, W)` uint8 or uint16, masks `(B, H, W)` uint8. Random numbers stay on
the CPU, so that no operation waits for a GPU.
"""

from collections.abc import Callable

import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segmentation.classes import VOID
from segmentation.config import AugmentationConfig
from segmentation.errors import InputError

COLUMNS = {
    "flip": slice(0, 1), "zoom": slice(1, 4), "color_jitter": slice(4, 7), "vertical_flip": slice(7, 8),
    "rotation": slice(8, 9), "grayscale": slice(9, 10), "autocontrast": slice(10, 11), "blur": slice(11, 13),
}  # fmt: skip
"""Columns of the random numbers of each operation, in the order in which they are drawn."""
BLUR_SIGMA = (0.1, 2.0)
"""Smallest and largest standard deviation of the blur in pixels, those of torchvision's `GaussianBlur`."""
BLUR_RADIUS = 6
"""Pixels on either side that the blur reaches: three times the largest standard deviation."""


class Augmentation:
    """Random flips, zooms, rotations, and changes of color and sharpness. All randomness is from a given generator."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        zooms = (config.scale_min, config.scale_max) != (1.0, 1.0)
        self.active = {name for name in COLUMNS if (zooms if name == "zoom" else getattr(config, name))}

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor, random: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augmented images `(B, C, H, W)` and masks `(B, H, W)`."""
        return self.apply(images, masks, self.draw(len(images), random))

    def draw(self, images: int, random: torch.Generator) -> torch.Tensor:
        """Random numbers `(B, 13)` in [0, 1) on the CPU, one row per image, in the columns of `COLUMNS`.

        Every rank draws for the whole batch, so that the augmentation of an image does not depend on its rank.
        """
        draws = torch.zeros(images, max(columns.stop for columns in COLUMNS.values()))
        for name, columns in COLUMNS.items():
            if name in self.active:
                draws[:, columns] = torch.rand(images, columns.stop - columns.start, generator=random)
        return draws

    def apply(
        self, images: torch.Tensor, masks: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Augment images `(B, C, H, W)` and masks `(B, H, W)` by the rows `(B, 13)` that `draw` returned.

        Runs on the device of the images and does not wait for it. The arguments are not changed.

        Raises:
            InputError: `color_jitter` or `grayscale` is set for images that do not have three channels.
        """
        config, drawn = self.config, {name: draws[:, columns] for name, columns in COLUMNS.items()}
        if images.shape[1] != 3:
            for name in sorted({"color_jitter", "grayscale"} & self.active):
                raise InputError(
                    f"{name}={getattr(config, name)} needs images of three channels (RGB), but these have "
                    f"{images.shape[1]}: set it to 0"
                )
        for name, axis in (("flip", -1), ("vertical_flip", -2)):
            if name in self.active:
                chosen = drawn[name][:, 0] < getattr(config, name)
                images = _changed(images, chosen, lambda some, axis=axis: some.flip(axis))
                masks = _changed(masks, chosen, lambda some, axis=axis: some.flip(axis))
        if "zoom" in self.active:
            images, masks = self._zoomed(images, masks, drawn["zoom"])
        if "rotation" in self.active:
            angles = torch.deg2rad(config.rotation * (2 * drawn["rotation"][:, 0].double() - 1))
            images, masks = _rotated(images, masks, angles)
        if "color_jitter" in self.active:
            factors = 1 + config.color_jitter * (2 * drawn["color_jitter"] - 1)
            images = _changed(images, torch.ones(len(images), dtype=torch.bool), _jittered, factors)
        for name, change in (("grayscale", _gray), ("autocontrast", _autocontrast)):
            if name in self.active:
                images = _changed(images, drawn[name][:, 0] < getattr(config, name), change)
        if "blur" in self.active:
            low, high = BLUR_SIGMA
            sigmas = low + (high - low) * drawn["blur"][:, 1]
            images = _changed(images, drawn["blur"][:, 0] < config.blur, _blurred, sigmas)
        return images, masks

    def _zoomed(
        self, images: torch.Tensor, masks: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Zoom by log-uniform scale factors, then crop or pad to the original size. `draws` is `(B, 3)`."""
        (height, width), low, high = masks.shape[1:], self.config.scale_min, self.config.scale_max
        sizes, offsets = [], []
        for u, *position in draws.tolist():
            factor = low * (high / low) ** u
            size = [max(1, round(side * factor)) for side in (height, width)]
            sizes.append(size)
            # pixels before the image where it is padded, or minus those that are cropped
            offsets.append([
                round(draw * max(0, side - new)) - round(draw * max(0, new - side))
                for draw, side, new in zip(position, (height, width), size, strict=True)
            ])  # fmt: skip
        if images.device.type != "cpu":
            return zoomed_at_once(images, masks, sizes, offsets)
        # torchvision's kernels for uint8 are several times as fast as matrix products on a CPU
        pairs = [_zoomed_image(*each) for each in zip(images, masks, sizes, offsets, strict=True)]
        zoomed, zoomed_masks = zip(*pairs, strict=True)
        return torch.stack(zoomed), torch.stack(zoomed_masks)


def _changed(
    tensor: torch.Tensor, chosen: torch.Tensor, change: Callable[..., torch.Tensor], *values: torch.Tensor
) -> torch.Tensor:
    """Return a batch in which `change` was applied to the chosen images.

    Args:
        tensor: images or masks.
        chosen: which ones to change, `(B,)` on the CPU.
        change: called with some of the images, and with their rows of `values`.
        values: tensors of `B` rows on the CPU.
    """
    index = chosen.nonzero()[:, 0]
    if not len(index):
        return tensor
    bits = tensor.view(torch.int16) if tensor.dtype == torch.uint16 else tensor  # uint16 cannot be indexed everywhere
    changed = bits.clone()
    if tensor.device.type == "cpu":  # one image stays in the CPU's cache
        for row in index.split(1):
            changed[row[0]] = change(bits[row[0]].view(tensor.dtype)[None], *(each[row] for each in values)).view(
                bits.dtype
            )[0]
        return changed.view(tensor.dtype)
    there = index.to(tensor.device, non_blocking=True)
    some = change(
        bits[there].view(tensor.dtype), *(each[index].to(tensor.device, non_blocking=True) for each in values)
    )
    changed[there] = some.view(bits.dtype)
    return changed.view(tensor.dtype)


def _fill(dtype: torch.dtype) -> int:
    """Return the value of image pixels outside the original image: medium gray."""
    return torch.iinfo(dtype).max // 2


def _zoomed_image(
    image: torch.Tensor, mask: torch.Tensor, size: list[int], offset: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Resize one image `(C, H, W)` and its mask `(H, W)`, then crop or pad them to their original size."""
    height, width = mask.shape
    image = F.resize(image, size, InterpolationMode.BILINEAR, antialias=True)
    # NEAREST rounds positions down, which shifts the mask by half a pixel relative to the image
    mask = F.resize(mask[None], size, InterpolationMode.NEAREST_EXACT)
    top, left = (max(0, each) for each in offset)
    border = [left, top, max(0, width - size[1] - left), max(0, height - size[0] - top)]
    image, mask = F.pad(image, border, fill=[float(_fill(image.dtype))]), F.pad(mask, border, fill=[float(VOID)])
    top, left = (max(0, -each) for each in offset)
    return F.crop(image, top, left, height, width), F.crop(mask, top, left, height, width)[0]


def zoomed_at_once(
    images: torch.Tensor, masks: torch.Tensor, sizes: list[list[int]], offsets: list[list[int]]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Zoom a whole batch by matrix products, with the values of `F.resize` up to rounding.

    Args:
        images: `(B, C, H, W)`.
        masks: `(B, H, W)`.
        sizes: height and width of each image after resizing.
        offsets: rows and columns of padding before each resized image; negative where they are cropped.
    """
    axes = torch.tensor([sizes, offsets]).to(images.device, non_blocking=True)
    height, width = masks.shape[1:]
    rows, row, in_rows = _resampling(height, axes[0, :, 0], axes[1, :, 0])
    columns, column, in_columns = _resampling(width, axes[0, :, 1], axes[1, :, 1])
    inside = in_rows[:, :, None] & in_columns[:, None, :]
    zoomed = rows[:, None] @ images.float() @ columns[:, None].mT
    number = torch.arange(len(masks), device=masks.device)[:, None, None]
    nearest = masks[number, row[:, :, None], column[:, None, :]]
    return _filled(zoomed, nearest, inside, images.dtype)


def _resampling(side: int, sizes: torch.Tensor, offsets: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Return the weights of bilinear resizing with antialiasing along one axis, for images that are cropped or padded.

    Args:
        side: pixels before and after.
        sizes: pixels of each image after resizing `(B,)`.
        offsets: position of each resized image `(B,)`.

    Returns:
        Weights `(B, side, side)` of the input pixels (last) for the output pixels, index of the nearest input pixel
        `(B, side)`, and whether the output pixel is inside the image `(B, side)`.
    """
    position = torch.arange(side, device=sizes.device) - offsets[:, None]
    inside = (position >= 0) & (position < sizes[:, None])
    step = (side / sizes.double())[:, None]
    center = (position + 0.5) * step
    distance = (torch.arange(side, device=sizes.device) + 0.5 - center[:, :, None]).abs()
    weights = (1 - distance / step.clamp(min=1)[:, :, None]).clamp(min=0)
    weights /= weights.sum(-1, keepdim=True).clamp(min=1e-12)
    return weights.float(), center.floor().long().clamp(0, side - 1), inside


def _filled(
    images: torch.Tensor, masks: torch.Tensor, inside: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Round images to `dtype`, and fill what is not `inside` `(B, H, W)`: images with gray, masks with void."""
    images = torch.where(inside[:, None], images.round(), float(_fill(dtype)))
    return images.to(dtype), torch.where(inside, masks, VOID).to(torch.uint8)


def _rotated(images: torch.Tensor, masks: torch.Tensor, angles: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate around the center, counterclockwise by `angles` `(B,)` in radians, which are on the CPU."""
    height, width = masks.shape[1:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    theta = torch.stack([cos, -sin * height / width, zero, sin * width / height, cos, zero], 1).view(-1, 2, 3)
    theta = theta.float().to(images.device, non_blocking=True)
    grid = functional.affine_grid(theta, [len(masks), 1, height, width], align_corners=False)
    inside = (grid.abs() <= 1).all(-1)

    def sampled(tensor: torch.Tensor, mode: str) -> torch.Tensor:
        return functional.grid_sample(tensor.float().contiguous(), grid, mode, "border", align_corners=False)

    return _filled(sampled(images, "bilinear"), sampled(masks[:, None], "nearest")[:, 0], inside, images.dtype)


def _jittered(images: torch.Tensor, factors: torch.Tensor) -> torch.Tensor:
    """Multiply brightness, contrast and saturation by factors `(B, 3)`, as torchvision's `adjust_` functions do."""
    brightness, contrast, saturation = factors.T[:, :, None, None, None]
    limit = torch.iinfo(images.dtype).max
    changed = images.float().mul_(brightness).clamp_(0, limit).floor_()
    mean = _luminance(changed).mean((1, 2, 3), keepdim=True)
    changed = changed.mul_(contrast).add_(mean * (1 - contrast)).clamp_(0, limit).floor_()
    gray = _luminance(changed)
    return changed.mul_(saturation).add_(gray * (1 - saturation)).clamp_(0, limit).to(images.dtype)


def _luminance(images: torch.Tensor) -> torch.Tensor:
    """Return the whole-numbered luminance `(B, 1, H, W)` of floating-point RGB images."""
    return F.rgb_to_grayscale(images).floor_()


def _gray(images: torch.Tensor) -> torch.Tensor:
    return _luminance(images.float()).expand(-1, 3, -1, -1).to(images.dtype)


def _autocontrast(images: torch.Tensor) -> torch.Tensor:
    """Stretch each channel of each image to the whole range."""
    limit = torch.iinfo(images.dtype).max
    channels = images.float().flatten(0, 1)[:, None] / limit  # torchvision takes one or three channels
    return (F.autocontrast(channels) * limit).round().view(images.shape).to(images.dtype)


def _blurred(images: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """Blur each image by a Gaussian with its standard deviation `(B,)`, mirrored at the border."""
    count, channels, height, width = images.shape
    blurred = images.float().reshape(1, count * channels, height, width)
    for axis, side in ((2, height), (3, width)):
        radius = min(BLUR_RADIUS, side - 1)
        distance = torch.arange(-radius, radius + 1, device=images.device)
        kernel = torch.exp(-0.5 * (distance / sigmas[:, None]) ** 2)
        kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(channels, 0)
        padding = [0, 0, radius, radius] if axis == 2 else [radius, radius, 0, 0]
        weights = kernel[:, None, :, None] if axis == 2 else kernel[:, None, None, :]
        blurred = functional.conv2d(
            functional.pad(blurred, padding, mode="reflect"), weights, groups=count * channels
        )  # fmt: skip
    return blurred.round().view(images.shape).to(images.dtype)
