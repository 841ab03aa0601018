"""COCO's annotation format, one JSON file for each split, as COCO itself and the exports of many tools have it.

Three layouts are supported. `train` may be followed by digits: `instances_train2017.json`, `train2017/`.

    annotations/instances_train.json     train/_annotations.coco.json     train.json
    train/ or images/train/ or images/   train/  (Roboflow)               images/ or train/

Annotations are polygons and run-length encodings. A later annotation covers an earlier one, crowds are void, and pixels
without an annotation are `background`. Lin et al., "Microsoft COCO: Common Objects in Context", ECCV 2014.
"""

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.drawn import Drawn, DrawnImages, Outline, stated_size
from segmentation.data.source import MissingDataError, known_split
from segmentation.errors import InputError, counted, listed
from segmentation.io.documents import read_json
from segmentation.io.names import composed, is_plain, stays_inside
from segmentation.io.text_lists import MAX_NAME_LENGTH

MAX_BYTES = 2**31
"""Limit on an annotation file; that of COCO's own 118,000 training images has 0.45 GB."""
BACKGROUND = "background"


def open_coco(config: DataConfig, split: str) -> DrawnImages:
    """Return one split of the COCO data in `config.data_dir`."""
    root = Path(config.data_dir)
    files = annotation_files(root)
    if not files:
        raise MissingDataError(
            f"data_dir={config.data_dir} has no COCO annotations: it needs annotations/instances_{split}.json, "
            f"{split}/_annotations.coco.json or {split}.json"
        )
    name = known_split(config, split, files)
    return _Reader(files[name], root, name).source()


def annotation_files(root: Path) -> dict[str, Path]:
    """Return the annotation file of each split in a folder."""
    found = {file.parent.name: file for file in sorted(root.glob("*/_annotations.coco.json"))}
    if not found:
        for file in sorted(root.glob("annotations/*.json")):
            kind, _, name = file.stem.rpartition("_")
            if kind in ("", "instances"):
                found[name] = file
    if not found:
        found = {file.stem.removeprefix("instances_"): file for file in sorted(root.glob("*.json"))}
    for name in list(found):  # train2017 is also train
        plain = re.sub(r"\d+$", "", name)
        if plain and [re.sub(r"\d+$", "", each) for each in found].count(plain) == 1:
            found.setdefault(plain, found[name])
    return found


class _Reader:
    """Checks the content of an annotation file, and collects what is wrong with it."""

    def __init__(self, file: Path, root: Path, split: str) -> None:
        self.file, self.root, self.split = file, root, split
        self.faults: list[str] = []
        self._file_names: dict[str | None, str] = {}
        self._faulty: set[str | None] = set()  # ids of images with a fault, whose annotations are not reported too
        content = read_json(file, MAX_BYTES)
        if not isinstance(content, dict):
            raise InputError(f"{file} is not a COCO file: it must be an object with images, annotations, categories")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise InputError(f"{file} is not a COCO file: {key} must be a list")
            for number, each in enumerate(content[key]):
                if not isinstance(each, dict):
                    raise InputError(f"{file}, {key}[{number}] is {each!r:.80}; it must be an object")
        self.content: dict[str, list[dict[str, Any]]] = content

    def source(self) -> DrawnImages:
        """Return the images with their annotations."""
        labels, index_of_category = self._classes()
        images = self._images()
        self._faulty -= images.keys()  # an id that two images have
        outlines: dict[str | None, list[Outline]] = {identifier: [] for identifier in images}
        for number, annotation in enumerate(self.content["annotations"]):
            if _key(annotation.get("image_id")) in self._faulty:
                continue
            try:
                outline = self._outline(annotation, f"{self.file}, annotations[{number}]", images, index_of_category)
                outlines[_key(annotation["image_id"])].append(outline)
            except InputError as error:
                self.faults.append(str(error))
        files: dict[str, Drawn] = {}
        for identifier, image in images.items():
            name = composed(Path(str(self._file_names[identifier])).with_suffix("").as_posix())
            if name in files:
                self.faults.append(f"{self.file}: images {files[name].file} and {image.file} have the same name")
            files[name] = image._replace(outlines=tuple(outlines[identifier]))
        return DrawnImages(labels, str(self.root.resolve()), files, tuple(self.faults))

    def _classes(self) -> tuple[Classes, dict[str | None, int]]:
        """The classes in the order of their category ids, with background first, and the class index of each id."""
        names: dict[int, str] = {}
        for number, category in enumerate(self.content["categories"]):
            where = f"{self.file}, categories[{number}]"
            identifier, name = category.get("id"), category.get("name")
            if type(identifier) is not int:
                raise InputError(f"{where}: id is {identifier!r:.80}; it must be a whole number")
            if not isinstance(name, str):
                raise InputError(f"{where}: name is {name!r:.80}; it must be text")
            if identifier in names:
                raise InputError(f"{where}: id {identifier} is that of category {names[identifier]!r:.80} too")
            names[identifier] = name
        container = self._container()
        ordered = [identifier for identifier in sorted(names) if identifier != container]
        labels = [names[identifier] for identifier in ordered]
        if BACKGROUND not in labels:
            labels.insert(0, BACKGROUND)
        try:
            classes = Classes.named(*labels)
        except InputError as error:
            raise InputError(f"{self.file}, categories: {error}") from error
        return classes, {str(identifier): labels.index(names[identifier]) for identifier in ordered}

    def _container(self) -> int | None:
        """Id of the category that Roboflow adds as the parent of all others, without annotations; or None."""
        categories = self.content["categories"]
        for category in categories:
            others = [each for each in categories if each is not category]
            is_parent = bool(others) and all(each.get("supercategory") == category["name"] for each in others)
            if category["id"] == 0 and category.get("supercategory") == "none" and is_parent:
                return 0
        return None

    def _images(self) -> dict[str | None, Drawn]:
        """The images by their ids, without annotations."""
        images: dict[str | None, Drawn] = {}
        missing = []
        for number, image in enumerate(self.content["images"]):
            try:
                size = self._checked_size(image, f"{self.file}, images[{number}]")
            except InputError as error:
                self.faults.append(str(error))
                if (key := _key(image.get("id"))) is not None:
                    self._faulty.add(key)
                continue
            name, key = image["file_name"], str(image["id"])
            file = next((folder / name for folder in self._folders if _is_file(folder / name)), None)
            self._file_names[key] = name
            if file is None:
                missing.append(name)
                self._faulty.add(key)
            else:
                images[key] = Drawn(file, size, (), self.file)
        if missing:
            self.faults.append(
                f"{self.file} names {counted(len(missing), 'image')} in none of the folders "
                f"{', '.join(map(str, self._folders))}: {listed(missing, 20)}"
            )
        return images

    def _checked_size(self, image: dict[str, Any], where: str) -> tuple[int, int] | None:
        """The stated size of an image. Raises an `InputError` if its id, name or size is wrong."""
        identifier, name = image.get("id"), image.get("file_name")
        if _key(identifier) is None:
            raise InputError(f"{where}: id is {identifier!r:.80}; it must be a whole number or text")
        if _key(identifier) in self._file_names:
            raise InputError(f"{where}: id {identifier!r:.80} is that of another image too")
        if not isinstance(name, str) or not name.strip("./") or not is_plain(name) or len(name) > MAX_NAME_LENGTH:
            raise InputError(f"{where}: file_name is {name!r:.80}; it must be the path of the image")
        if not stays_inside(name):
            raise InputError(f"{where}: file_name {name!r:.80} leads out of the image folder")
        return stated_size(image.get("width"), image.get("height"), f"{where}: width and height")

    def _outline(
        self,
        annotation: dict[str, Any],
        where: str,
        images: dict[str | None, Drawn],
        index_of_category: dict[str | None, int],
    ) -> Outline:
        """An annotation with its class. Raises an `InputError` if a field is missing or wrong."""
        image = images.get(_key(annotation.get("image_id")))
        if image is None:
            raise InputError(f"{where}: image_id {annotation.get('image_id')!r:.80} is the id of no image")
        class_index = index_of_category.get(_key(annotation.get("category_id")))
        if class_index is None:
            raise InputError(f"{where}: category_id {annotation.get('category_id')!r:.80} is the id of no category")
        crowd, shape = annotation.get("iscrowd", 0), annotation.get("segmentation")
        if crowd not in (0, 1):
            raise InputError(f"{where}: iscrowd is {crowd!r:.80}; it must be 0 or 1")
        if not isinstance(shape, list | dict) or not shape:
            raise InputError(f"{where} has no segmentation (only a box?); export polygons or masks")
        return Outline(VOID if crowd else class_index, f"{where}.segmentation (image {image.file.name})", shape)

    @cached_property
    def _folders(self) -> list[Path]:
        """Folders in which the images may be."""
        if self.file.name == "_annotations.coco.json":
            return [self.file.parent]
        named = self.file.stem.removeprefix("instances_")
        names = (f"{named}", f"images/{named}", f"images/{self.split}", self.split, "images", ".")
        return [self.root / name for name in dict.fromkeys(names) if (self.root / name).is_dir()]


def _key(identifier: object) -> str | None:
    """An id as text, or None if it is none. Some tools write the same id as a number and as text."""
    if type(identifier) is int:
        return str(identifier)
    return identifier if isinstance(identifier, str) else None


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
