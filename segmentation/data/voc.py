"""Pascal VOC 2007 and 2012 segmentation, in the folders that torchvision's `VOCSegmentation` makes.

Everingham et al., "The Pascal Visual Object Classes (VOC) Challenge", IJCV 2010.
"""

import tarfile
import unicodedata
from pathlib import Path

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs
from segmentation.data.source import MissingDataError
from segmentation.errors import InputError, counted, listed, one_of
from segmentation.io.text_lists import image_names

CLASSES = Classes.named(
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
SPLITS = {"2007": ("train", "val", "trainval", "test"), "2012": ("train", "val", "trainval")}


def open_voc(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of VOC in `config.data_dir`. Downloads a missing split if `config.download` is set."""
    year = config.dataset.removeprefix("voc")
    one_of("split", split, SPLITS[year])
    folder = Path(config.data_dir) / "VOCdevkit" / f"VOC{year}"
    split_file = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not split_file.is_file() and not config.download:
        raise MissingDataError(
            f"data_dir={config.data_dir} has no file {split_file.relative_to(config.data_dir)}: add "
            f"`-P download=true` to download {config.dataset}, or set data_dir to the folder that holds VOCdevkit"
        )
    if not split_file.is_file():
        _download(config, year, split, split_file)
    files = {
        name: (
            _in_any_form(folder / "JPEGImages" / f"{name}.jpg"),
            _in_any_form(folder / "SegmentationClass" / f"{name}.png"),
        )
        for name in image_names(split_file)
    }
    missing = [str(path) for pair in files.values() for path in pair if not _is_file(path)]
    faults = []
    if missing:
        faults.append(f"{split_file} lists {counted(len(missing), 'missing file')}: {listed(missing, 20)}")
        files = {name: pair for name, pair in files.items() if all(map(_is_file, pair))}
    class_of_value = {index: index for index in range(len(CLASSES))} | {VOID: VOID}
    return ImagePairs(CLASSES, str(folder.resolve()), files, class_of_value, faults=tuple(faults))


def _download(config: DataConfig, year: str, split: str, split_file: Path) -> None:
    from torchvision.datasets import VOCSegmentation

    try:
        VOCSegmentation(config.data_dir, year=year, image_set=split, download=True)
    except (OSError, RuntimeError, tarfile.TarError) as error:
        raise InputError(
            f"{config.dataset} could not be downloaded into data_dir={config.data_dir}: {error}. Check the network "
            f"connection, or unpack the archive there yourself so that {split_file} exists"
        ) from error


def _in_any_form(path: Path) -> Path:
    """The path of an existing file whose name differs in its Unicode form at most; otherwise `path`."""
    if not _is_file(path):
        for form in ("NFC", "NFD"):
            other = path.with_name(unicodedata.normalize(form, path.name))
            if _is_file(other):
                return other
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # for example, the name is too long
        return False
