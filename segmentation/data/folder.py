"""A user's own data: a folder of images, a folder of masks with the same names, and a list of classes.

Three layouts are supported. In a folder with several of them, the left one takes
precedence, then the right one:

    train/images  train/masks         images/train  masks/train         images  masks
    val/images    val/masks           images/val    masks/val           train.txt  val.txt  (one name per line)

The list of a split is the text file with the name of the split. Other text files are ignored.

`classes.txt` has one class name per line, for mask values 0, 1, 2, ... `classes.json` has a list of names, or an object
from class name to mask value, such as {"background": 0, "object": 255}. Value 255 is void unless a class has it.
"""

import json
from pathlib import Path
from typing import Any

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, files_by_stem, match, stem_of
from segmentation.errors import InputError, one_of
from segmentation.io.folders import is_skipped
from segmentation.io.text_lists import image_names, read_text

MAX_CHECKED_LINES = 100
"""Lines of a text file that are read to decide whether it lists images."""


def open_folder(config: DataConfig, split: str) -> ImagePairs:
    """Return one split of the data in `config.data_dir`."""
    root = Path(config.data_dir)
    if not root.is_dir():
        raise InputError(f"data_dir={config.data_dir} does not exist")
    names, class_of_value = _classes(root)
    nested = sorted(
        path.parent.name for path in root.glob("*/images") if path.is_dir() and not is_skipped(path.parent.name)
    )
    grouped = sorted(
        path.name
        for path in root.glob("images/*")
        if path.is_dir() and (root / "masks" / path.name).is_dir() and not is_skipped(path.name)
    )
    split_list = root / f"{split}.txt"
    if nested:
        folder = root / one_of("split", split, nested)
        files = match(folder / "images", folder / "masks")
    elif (root / "images").is_dir() and split != "classes" and split_list.is_file():
        files = match(root / "images", root / "masks", image_names(split_list))
    elif grouped or (lists := _lists(root)):
        one_of("split", split, grouped or lists)
        files = match(root / "images" / split, root / "masks" / split)
    else:
        raise InputError(
            f"data_dir={config.data_dir} has none of the layouts of dataset=folder: {split}/images and {split}/masks; "
            f"images/{split} and masks/{split}; or images, masks and {split}.txt with one name per line"
        )
    return ImagePairs(Classes.named(*names), str(root.resolve()), files, class_of_value)


def _lists(root: Path) -> list[str]:
    """The splits listed by text files beside `images/`: those that name at least one image in it."""
    if not (root / "images").is_dir():
        return []
    images = files_by_stem(root / "images")
    found = []
    for file in sorted(root.glob("*.txt")):
        try:
            names = image_names(file)[:MAX_CHECKED_LINES]
        except InputError:  # some other text
            continue
        may_be_list = file.name != "classes.txt" and not is_skipped(file.name)
        if may_be_list and any(stem_of(name, images) in images for name in names):
            found.append(file.stem)
    return found


def _classes(root: Path) -> tuple[list[str], dict[int, int]]:
    """Class names, and the class index for each mask value."""
    if (root / "classes.json").is_file():
        file = root / "classes.json"
        content = _json(file)
        if isinstance(content, list):
            if not all(isinstance(name, str) for name in content) or len(set(content)) < len(content):
                raise InputError(f"{file} must be a list of unique names")
            content = {name: value for value, name in enumerate(content)}
        if not (
            isinstance(content, dict)
            and all(type(value) is int and 0 <= value <= 65535 for value in content.values())
            and len(set(content.values())) == len(content)
        ):
            raise InputError(f"{file} must be a list of names, or an object from class names to unique mask values")
    elif (root / "classes.txt").is_file():
        file = root / "classes.txt"
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        if len(set(lines)) < len(lines):
            raise InputError(f"{file} lists a class twice; class names must be unique")
        content = {name: value for value, name in enumerate(lines)}
    else:
        raise InputError(
            f"data_dir={root} has no classes.txt: write one, with one class name per line, for mask values 0, 1, ..."
        )
    if not 2 <= len(content) <= VOID:
        raise InputError(f"{file} lists {len(content)} classes; it must list 2 to {VOID}")
    class_of_value = {value: index for index, value in enumerate(content.values())}
    class_of_value.setdefault(VOID, VOID)
    return list(content), class_of_value


def _json(file: Path) -> Any:
    """Content of a JSON file. A repeated name is an error; Python's parser would keep the last one."""
    try:
        return json.loads(read_text(file), object_pairs_hook=_without_repetition)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not a JSON list of classes: {error}") from error


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is repeated")
    return dict(pairs)
