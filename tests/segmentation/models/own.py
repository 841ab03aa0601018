"""Own models for the tests: source texts, and functions that write and read them."""

from pathlib import Path

from segmentation.models import model_code
from segmentation.models.model_code import ModelCode, local_code

TEN_LINES = """
from torch import nn


def net(classes, channels):
    return nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, classes, 1),
    )
"""
U_NET = """
import torch
from torch import nn


class UNet(nn.Module):
    def __init__(self, classes, channels):
        super().__init__()
        self.encoder = nn.ModuleList([block(channels, 4), block(4, 8), block(8, 8)])
        self.up = nn.ModuleList([nn.ConvTranspose2d(8, 8, 2, 2), nn.ConvTranspose2d(16, 4, 2, 2)])
        self.head = nn.Conv2d(8, classes, 1)

    def forward(self, images):
        fine = self.encoder[0](images)
        middle = self.encoder[1](nn.functional.max_pool2d(fine, 2))
        coarse = self.encoder[2](nn.functional.max_pool2d(middle, 2))
        middle = torch.cat([self.up[0](coarse), middle], 1)
        return self.head(torch.cat([self.up[1](middle), fine], 1))


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU())


def unet(classes, channels):
    return UNet(classes, channels)
"""


def written(files: dict[str, str], function: str, folder: Path | None = None) -> ModelCode:
    """Write source files into a folder, by default the current one, and read the code of a function in them."""
    for path, text in files.items():
        file = (folder or Path.cwd()) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    model_code._local_code.cache_clear()
    return local_code(function)
