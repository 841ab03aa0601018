"""Anybody's own data: a tree of images and a tree of masks with the same names, and a list of classes.

Three layouts are understood, looked for in this order:

    train/images  train/masks         images/train  masks/train         images  masks
    val/images    val/masks           images/val    masks/val           train.txt  val.txt  (one name a line)

The file called after the split is its list; other texts beside it are not looked at.

`classes.txt` holds one class name a line, for mask values 0, 1, 2, ... `classes.json` holds a list of names, or an
object from class name to mask value, such as {"background": 0, "object": 255}. A value of 255 that no class claims
is void.
"""

import json
from pathlib import Path
from typing import Any

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.pairs import ImagePairs, files_by_stem, match, stem_of
from segmentation.errors import InputError, one_of
from segmentation.io.image_files import is_clutter
from segmentation.io.text_lists import image_names, read_text

LINES = 100
"""Lines of a text that are looked at to see whether it lists images."""


def open_folder(config: DataConfig, split: str) -> ImagePairs:
    """Open one split of the data in `config.data_dir`."""
    root = Path(config.data_dir)
    if not root.is_dir():
        raise InputError(f"data_dir={config.data_dir} does not exist")
    names, classes = _classes(root)
    nested = sorted(
        path.parent.name for path in root.glob("*/images") if path.is_dir() and not is_clutter(path.parent.name)
    )
    grouped = sorted(
        path.name
        for path in root.glob("images/*")
        if path.is_dir() and (root / "masks" / path.name).is_dir() and not is_clutter(path.name)
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
            f"images/{split} and masks/{split}; or images, masks and {split}.txt with one name a line"
        )
    return ImagePairs(Classes.named(*names), str(root.resolve()), files, classes)


def _lists(root: Path) -> list[str]:
    """The splits that texts beside `images/` list, whichever they are: those that name an image in it."""
    if not (root / "images").is_dir():
        return []
    images = files_by_stem(root / "images")
    found = []
    for file in sorted(root.glob("*.txt")):
        try:
            names = image_names(file)[:LINES]
        except InputError:  # another text, then
            continue
        known = file.name != "classes.txt" and not is_clutter(file.name)
        if known and any(stem_of(name, images) in images for name in names):
            found.append(file.stem)
    return found


def _classes(root: Path) -> tuple[list[str], dict[int, int]]:
    """The class names, and the class index of each mask value."""
    if (root / "classes.json").is_file():
        file = root / "classes.json"
        content = _json(file)
        if isinstance(content, list):
            if not all(isinstance(name, str) for name in content) or len(set(content)) < len(content):
                raise InputError(f"{file} must be a list of names, each there once")
            content = {name: value for value, name in enumerate(content)}
        if not (
            isinstance(content, dict)
            and all(type(value) is int and 0 <= value <= 65535 for value in content.values())
            and len(set(content.values())) == len(content)
        ):
            raise InputError(f"{file} must be a list of names, or an object from class name to its own mask value")
    elif (root / "classes.txt").is_file():
        file = root / "classes.txt"
        lines = [line.strip() for line in read_text(file).splitlines() if line.strip()]
        if len(set(lines)) < len(lines):
            raise InputError(f"{file} names a class twice")
        content = {name: value for value, name in enumerate(lines)}
    else:
        raise InputError(
            f"data_dir={root} has no classes.txt: write one, with one class name a line, for values 0, 1, ..."
        )
    if not 2 <= len(content) <= VOID:
        raise InputError(f"{file} names {len(content)} classes; it must name 2 to {VOID}")
    classes = {value: index for index, value in enumerate(content.values())}
    classes.setdefault(VOID, VOID)
    return list(content), classes


def _json(file: Path) -> Any:
    """What a JSON file holds; a name that is there twice is an error, and not the last of both."""
    try:
        return json.loads(read_text(file), object_pairs_hook=_object)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON, or no list of classes: {error}") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("a name is there twice")
    return dict(pairs)
