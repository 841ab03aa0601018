"""CamVid in the layout of the SegNet tutorial: images in `train/`, masks in `trainannot/`; other splits likewise.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from pathlib import Path

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, matched
from segmentation.data.source import MissingDataError
from segmentation.errors import one_of

CLASSES = Classes(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
UNLABELLED = 11
"""Mask value of pixels without a class."""


def open_camvid(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of the CamVid folder `config.data_dir`."""
    root = Path(config.data_dir)
    splits = [folder.name.removesuffix("annot") for folder in sorted(root.glob("*annot")) if folder.is_dir()]
    if not splits:
        raise MissingDataError(
            f"data_dir={config.data_dir} does not hold CamVid: it needs the folders train, trainannot, val and valannot"
        )
    one_of("split", split, splits)
    class_of_value = {index: index for index in range(len(CLASSES))} | {UNLABELLED: VOID, VOID: VOID}
    files, faults = matched(root / split, root / f"{split}annot")
    return ImagePairs(CLASSES, str(root.resolve()), files, class_of_value, faults=faults)
