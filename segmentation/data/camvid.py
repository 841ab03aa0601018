"""CamVid in the layout of the SegNet tutorial: `train/` beside `trainannot/`, and so on for each split.

Brostow, Fauqueur and Cipolla, "Semantic object classes in video", Pattern Recognition Letters 2009.
"""

from pathlib import Path

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, match
from segmentation.errors import InputError, one_of

LABELS = Classes(
    ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"),
    (
        (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
        (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
    ),
)  # fmt: skip
UNLABELLED = 11


def open_camvid(config: DataConfig, split: str) -> ImagePairs:
    """Open one split of the CamVid folder `config.data_dir`."""
    root = Path(config.data_dir)
    splits = [folder.name.removesuffix("annot") for folder in sorted(root.glob("*annot")) if folder.is_dir()]
    if not splits:
        raise InputError(
            f"data_dir={config.data_dir} holds no CamVid: it needs folders train/, trainannot/, val/, valannot/"
        )
    one_of("split", split, splits)
    classes = {index: index for index in range(len(LABELS))} | {UNLABELLED: VOID, VOID: VOID}
    return ImagePairs(LABELS, str(root.resolve()), match(root / split, root / f"{split}annot"), classes)
