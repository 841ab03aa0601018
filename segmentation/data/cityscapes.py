"""Cityscapes with fine annotation, in the folders of its archives: `leftImg8bit/train/CITY/`, `gtFine/train/CITY/`.

Cordts et al., "The Cityscapes Dataset for Semantic Urban Scene Understanding", CVPR 2016.
"""

from pathlib import Path

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, matched
from segmentation.data.source import MissingDataError
from segmentation.errors import one_of

CLASSES = Classes(
    (
        "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation",
        "terrain", "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
    ),
    (
        (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153), (153, 153, 153),
        (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152), (70, 130, 180), (220, 20, 60), (255, 0, 0),
        (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100), (0, 0, 230), (119, 11, 32),
    ),
)  # fmt: skip
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
"""Value of each class in the files `*_labelIds.png`."""
MAX_LABEL_ID = 33
"""All other values up to this one are classes that Cityscapes does not score."""


def open_cityscapes(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of Cityscapes in `config.data_dir`, with the 19 classes that are scored; all others are void."""
    root = Path(config.data_dir)
    images, masks = root / "leftImg8bit", root / "gtFine"
    missing = [folder.name for folder in (images, masks) if not folder.is_dir()]
    if missing:
        raise MissingDataError(
            f"data_dir={config.data_dir} does not hold Cityscapes: it has no folder {' and no folder '.join(missing)}; "
            f"unpack leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip there"
        )
    one_of("split", split, sorted(folder.name for folder in masks.iterdir() if folder.is_dir()))
    class_of_value = dict.fromkeys([*range(MAX_LABEL_ID + 1), VOID], VOID)
    class_of_value |= {value: index for index, value in enumerate(LABEL_IDS)}
    files, faults = matched(images / split, masks / split, suffixes=("_leftImg8bit", "_gtFine_labelIds"))
    return ImagePairs(CLASSES, str(root.resolve()), files, class_of_value, faults=faults)
