"""Random changes to the images of a batch and their masks."""

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from segmentation.classes import VOID
from segmentation.config import AugmentationConfig


class Augmentation:
    """Random flips, zooms and colours for a batch; every choice comes from the generator it is given."""

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.zooms = (config.scale_min, config.scale_max) != (1.0, 1.0)

    def __call__(
        self, images: torch.Tensor, masks: torch.Tensor, random: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images `(B, 3, H, W)` uint8 and masks `(B, H, W)` uint8 alike; returns the same shapes."""
        return self.change(images, masks, self.draw(len(images), random))

    def draw(self, images: int, random: torch.Generator) -> torch.Tensor:
        """Random numbers `(B, 7)` in [0, 1), a row for each image of a batch: for its flip, 3 for its zoom, 3 for its
        colours. A process that sees some images of a batch draws for all, so that each changes wherever it is as it
        would alone."""
        draws = torch.zeros(images, 7)
        if self.config.flip:
            draws[:, 0] = torch.rand(images, generator=random)
        if self.zooms:
            draws[:, 1:4] = torch.rand(images, 3, generator=random)
        if self.config.color_jitter:
            draws[:, 4:] = torch.rand(images, 3, generator=random)
        return draws

    def change(
        self, images: torch.Tensor, masks: torch.Tensor, draws: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Change images `(B, 3, H, W)` uint8 and masks `(B, H, W)` uint8 as `draw`'s rows `(B, 7)` for them say."""
        if self.config.flip:
            mirrored = draws[:, 0] < self.config.flip
            images, masks = images.clone(), masks.clone()
            for place in mirrored.nonzero().flatten().tolist():  # five times as fast as torch.where over the batch
                images[place], masks[place] = images[place].flip(-1), masks[place].flip(-1)
        if self.zooms:
            pairs = [self._zoom(*each) for each in zip(images, masks, draws[:, 1:4], strict=True)]
            images, masks = (torch.stack(part) for part in zip(*pairs, strict=True))
        if self.config.color_jitter:
            images = torch.stack([self._jitter(*each) for each in zip(images, draws[:, 4:], strict=True)])
        return images, masks

    def _zoom(self, image: torch.Tensor, mask: torch.Tensor, draws: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Zoom by a factor drawn log-uniformly, then cut or fill back to the size it had."""
        height, width = mask.shape
        u, down, right = draws.tolist()
        factor = self.config.scale_min * (self.config.scale_max / self.config.scale_min) ** u
        size = [max(1, round(height * factor)), max(1, round(width * factor))]
        image = F.resize(image, size, InterpolationMode.BILINEAR, antialias=True)
        # NEAREST would round positions down and shift every edge of the mask by half a pixel against the image
        mask = F.resize(mask[None], size, InterpolationMode.NEAREST_EXACT)
        rows, columns = max(0, height - size[0]), max(0, width - size[1])
        top, left = round(down * rows), round(right * columns)
        border = [left, top, columns - left, rows - top]
        image, mask = F.pad(image, border, fill=[127.0]), F.pad(mask, border, fill=[float(VOID)])
        top, left = round(down * (image.shape[1] - height)), round(right * (image.shape[2] - width))
        return F.crop(image, top, left, height, width), F.crop(mask, top, left, height, width)[0]

    def _jitter(self, image: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        factors = 1 + self.config.color_jitter * (2 * draws - 1)
        for change, factor in zip(
            (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation), factors.tolist(), strict=True
        ):
            image = change(image, factor)
        return image
