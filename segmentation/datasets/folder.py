"""Anybody's own data: a tree of images and a tree of masks with the same names, and a list of classes.

Three layouts are understood, looked for in this order:

    train/images  train/masks         images/train  masks/train         images  masks
    val/images    val/masks           images/val    masks/val           train.txt  val.txt  (one name a line)

`classes.txt` holds one class name a line, for mask values 0, 1, 2, ... `classes.json` holds a list of names, or an
object from class name to mask value, such as {"background": 0, "object": 255}. A value of 255 that no class claims
is void.
"""

import json
from pathlib import Path
from typing import Any

from segmentation.config import DataConfig
from segmentation.datasets.lists import picture_names, read_text
from segmentation.datasets.pairs import PicturePairs, match
from segmentation.errors import InputError, one_of
from segmentation.labels import VOID, Labels


def open_folder(config: DataConfig, split: str) -> PicturePairs:
    """Open one split of the data in `config.data_dir`."""
    root = Path(config.data_dir)
    if not root.is_dir():
        raise InputError(f"data_dir={config.data_dir} does not exist")
    names, classes = _classes(root)
    nested = sorted(path.parent.name for path in root.glob("*/images") if path.is_dir())
    grouped = sorted(
        path.name for path in root.glob("images/*") if path.is_dir() and (root / "masks" / path.name).is_dir()
    )
    listed_in = sorted(path.stem for path in root.glob("*.txt") if path.name != "classes.txt")
    if nested:
        folder = root / one_of("split", split, nested)
        files = match(folder / "images", folder / "masks")
    elif grouped and not listed_in:
        one_of("split", split, grouped)
        files = match(root / "images" / split, root / "masks" / split)
    elif (root / "images").is_dir() and listed_in:
        names_in_split = picture_names(root / f"{one_of('split', split, listed_in)}.txt")
        files = match(root / "images", root / "masks", names_in_split)
    else:
        raise InputError(
            f"data_dir={config.data_dir} has none of the layouts of dataset=folder: {split}/images and {split}/masks; "
            f"images/{split} and masks/{split}; or images, masks and {split}.txt with one name a line"
        )
    return PicturePairs(Labels.named(*names), str(root.resolve()), files, classes)


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
