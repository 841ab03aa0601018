"""A user's own data: images, masks with the same names, and a description of the classes.

Five layouts are supported. In a folder with several of them, the first one takes precedence:

    train/images  train/masks         images/train  masks/train         images  masks
    val/images    val/masks           images/val    masks/val           train.txt  val.txt  (one name per line)

    JPEGImages  SegmentationClass                               train/a.jpg  train/a_mask.png
    ImageSets/Segmentation/train.txt  labelmap.txt  (CVAT)      val/b.jpg    val/b_mask.png  (with mask_suffix=_mask)

`images` and `masks` without lists are the training split alone; `val_fraction` holds validation images out of it.
The list of a split is the text file with the name of the split. Other text files are ignored.
`segmentation.data.class_files` describes the classes.
"""

from pathlib import Path

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data.class_files import NAMES, ClassCode, of_roboflow, read_classes
from segmentation.data.pairs import ImagePairs, Matched, files_by_stem, matched, stem_of
from segmentation.data.source import MissingDataError, known_split
from segmentation.errors import InputError, listed
from segmentation.io.folders import is_skipped
from segmentation.io.text_lists import image_names

MAX_CHECKED_LINES = 100
"""Lines of a text file that are read to decide whether it lists images."""


def open_folder(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of the data in `config.data_dir`."""
    root = Path(config.data_dir)
    code = _classes(root)
    files, faults = _files(config, root, split)
    if config.empty == "background":
        require_background(code.labels)
    return ImagePairs(
        code.labels, str(root.resolve()), files, code.class_of_value, code.class_of_color, faults=faults
    )  # fmt: skip


def require_background(labels: Classes) -> None:
    """Raise an `InputError` if no class is called `background`, which images without a mask would show."""
    if labels.background is None:
        raise InputError(f"empty=background needs a class named background; the classes are {', '.join(labels.names)}")


def _classes(root: Path) -> ClassCode:
    of_splits = sorted(file for file in root.glob("*/_classes.csv") if not is_skipped(file.parent.name))
    if of_splits and not any((root / name).is_file() for name in NAMES):
        return of_roboflow(of_splits)
    return read_classes(root)


def _files(config: DataConfig, root: Path, split: str) -> Matched:
    """The files of a split, in the first layout that the folder has."""
    suffixes = (config.image_suffix, config.mask_suffix)
    may_miss = config.empty == "background"
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not is_skipped(path.name))
    nested = [folder.name for folder in folders if (folder / "images").is_dir()]
    grouped = [
        path.name
        for path in sorted(root.glob("images/*"))
        if path.is_dir() and (root / "masks" / path.name).is_dir() and not is_skipped(path.name)
    ]
    split_list = root / f"{split}.txt"
    if nested:
        folder = root / known_split(config, split, nested)
        masks = folder / "masks"
        if config.mask_suffix and not masks.is_dir():
            masks = folder / "images"
        return matched(folder / "images", masks, None, suffixes, may_miss)
    if (root / "images").is_dir() and split != "classes" and split_list.is_file():
        return matched(root / "images", root / "masks", image_names(split_list), suffixes, may_miss)
    if grouped or (lists := _lists(root, config.image_suffix)):
        split = known_split(config, split, grouped or lists)
        return matched(root / "images" / split, root / "masks" / split, None, suffixes, may_miss)
    voc_lists = root / "ImageSets" / "Segmentation"
    if voc_lists.is_dir() and (root / "SegmentationClass").is_dir():
        if not (root / "JPEGImages").is_dir():
            raise InputError(
                f"data_dir={root} has masks but no folder JPEGImages: export again with the images (in CVAT, tick "
                f'"Save images"), or copy the images to {root / "JPEGImages"}'
            )
        known = sorted(file.stem for file in voc_lists.glob("*.txt"))
        names = image_names(voc_lists / f"{known_split(config, split, known)}.txt")
        return matched(root / "JPEGImages", root / "SegmentationClass", names, suffixes, may_miss)
    beside = [folder.name for folder in folders if config.mask_suffix and files_by_stem(folder, config.mask_suffix)]
    if beside:
        folder = root / known_split(config, split, beside)
        return matched(folder, folder, None, suffixes, may_miss)
    if (root / "images").is_dir() and (root / "masks").is_dir():
        known_split(config, split, [config.train_split])
        return matched(root / "images", root / "masks", None, suffixes, may_miss)
    found = sorted(folder.name for folder in root.iterdir() if folder.is_dir()) if root.is_dir() else []
    here = (
        f". It has the folders {listed(found, 8)}: images must be in a folder images, masks in masks" if found else ""
    )
    raise MissingDataError(
        f"data_dir={config.data_dir} has none of the layouts of dataset=folder: images and masks (with "
        f"val_fraction=0.2, which makes a validation split); {split}/images and {split}/masks; images/{split} and "
        f"masks/{split}; images, masks and {split}.txt with one name per line; or images and masks in one folder "
        f"{split}, with mask_suffix=_mask{here}"
    )


def _lists(root: Path, suffix: str) -> list[str]:
    """The splits listed by text files beside `images/`: those that name at least one image in it."""
    if not (root / "images").is_dir():
        return []
    images = files_by_stem(root / "images", suffix)
    found = []
    for file in sorted(root.glob("*.txt")):
        try:
            names = image_names(file)[:MAX_CHECKED_LINES]
        except InputError:  # some other text
            continue
        may_be_list = file.name not in NAMES and not is_skipped(file.name)
        if may_be_list and any(stem_of(name, images, suffix) in images for name in names):
            found.append(file.stem)
    return found
