"""Pascal VOC 2007 and 2012 segmentation, as torchvision keeps it.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

import tarfile
import unicodedata
from pathlib import Path

from torchvision.datasets import VOCSegmentation

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs
from segmentation.errors import InputError, listed, one_of
from segmentation.io.text_lists import image_names

LABELS = Classes.named(
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}


def open_voc(config: DataConfig, split: str) -> ImagePairs:
    """Open one split of VOC below `config.data_dir`, fetching it first if that was asked for and is needed."""
    year = config.dataset.removeprefix("voc")
    one_of("split", split, SPLITS[year])
    folder = Path(config.data_dir) / "VOCdevkit" / f"VOC{year}"
    split_file = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not split_file.is_file() and not config.download:
        raise InputError(
            f"data_dir={config.data_dir} holds no {split_file.relative_to(config.data_dir)}: give "
            f"`-P download=true` to fetch {config.dataset}, or point data_dir at the folder that holds VOCdevkit"
        )
    if not split_file.is_file():
        _fetch(config, year, split, split_file)
    files = {
        name: (_found(folder / "JPEGImages" / f"{name}.jpg"), _found(folder / "SegmentationClass" / f"{name}.png"))
        for name in image_names(split_file)
    }
    missing = [str(path) for pair in files.values() for path in pair if not _is_file(path)]
    if missing:
        raise InputError(f"{split_file} names {len(missing)} file(s) that are not there: {listed(missing)}")
    classes = {index: index for index in range(len(LABELS))} | {VOID: VOID}
    return ImagePairs(LABELS, str(folder.resolve()), files, classes)


def _fetch(config: DataConfig, year: str, split: str, split_file: Path) -> None:
    try:
        VOCSegmentation(config.data_dir, year=year, image_set=split, download=True)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise InputError(
            f"{config.dataset} could not be fetched into data_dir={config.data_dir}: {error}. Check the network, "
            f"or unpack the archive there by hand so that {split_file} exists"
        ) from error


def _found(path: Path) -> Path:
    """A file as it is called, or by another Unicode form of its name if there is only that."""
    if not _is_file(path):
        for form in ("NFC", "NFD"):
            other = path.with_name(unicodedata.normalize(form, path.name))
            if _is_file(other):
                return other
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long, say
        return False
