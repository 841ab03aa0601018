"""ADE20K's scene parsing benchmark with 150 classes (ADEChallengeData2016), in the folders of its archive.

Zhou et al., "Scene Parsing through ADE20K Dataset", CVPR 2017. The values are those of `objectInfo150.txt`: 1 to 150,
and 0 for pixels without a class.
"""

from pathlib import Path

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, matched
from segmentation.data.source import MissingDataError
from segmentation.errors import one_of

CLASSES = Classes.named(
    "wall", "building", "sky", "floor", "tree", "ceiling", "road", "bed", "windowpane", "grass", "cabinet", "sidewalk",
    "person", "earth", "door", "table", "mountain", "plant", "curtain", "chair", "car", "water", "painting", "sofa",
    "shelf", "house", "sea", "mirror", "rug", "field", "armchair", "seat", "fence", "desk", "rock", "wardrobe", "lamp",
    "bathtub", "railing", "cushion", "base", "box", "column", "signboard", "chest of drawers", "counter", "sand",
    "sink", "skyscraper", "fireplace", "refrigerator", "grandstand", "path", "stairs", "runway", "case", "pool table",
    "pillow", "screen door", "stairway", "river", "bridge", "bookcase", "blind", "coffee table", "toilet", "flower",
    "book", "hill", "bench", "countertop", "stove", "palm", "kitchen island", "computer", "swivel chair", "boat", "bar",
    "arcade machine", "hovel", "bus", "towel", "light", "truck", "tower", "chandelier", "awning", "streetlight",
    "booth", "television receiver", "airplane", "dirt track", "apparel", "pole", "land", "bannister", "escalator",
    "ottoman", "bottle", "buffet", "poster", "stage", "van", "ship", "fountain", "conveyer belt", "canopy", "washer",
    "plaything", "swimming pool", "stool", "barrel", "basket", "waterfall", "tent", "bag", "minibike", "cradle", "oven",
    "ball", "food", "step", "tank", "trade name", "microwave", "pot", "animal", "bicycle", "lake", "dishwasher",
    "screen", "blanket", "sculpture", "hood", "sconce", "vase", "traffic light", "tray", "ashcan", "fan", "pier",
    "crt screen", "plate", "monitor", "bulletin board", "shower", "radiator", "glass", "clock", "flag",
)  # fmt: skip
FOLDERS = {"train": "training", "val": "validation"}


def open_ade20k(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of ADE20K in `config.data_dir`, which holds ADEChallengeData2016 or is that folder."""
    root = Path(config.data_dir)
    if (root / "ADEChallengeData2016").is_dir():
        root /= "ADEChallengeData2016"
    folder = FOLDERS[one_of("split", split, FOLDERS)]
    images, masks = root / "images" / folder, root / "annotations" / folder
    if not (images.is_dir() and masks.is_dir()):
        raise MissingDataError(
            f"data_dir={config.data_dir} does not hold ADE20K: it has no folders images/{folder} and "
            f"annotations/{folder}; unpack ADEChallengeData2016.zip there"
        )
    class_of_value = {0: VOID} | {index + 1: index for index in range(len(CLASSES))}
    files, faults = matched(images, masks)
    return ImagePairs(CLASSES, str(root.resolve()), files, class_of_value, faults=faults)
