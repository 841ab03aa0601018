"""Images with the annotation files of labelme: `a.json` beside `a.jpg`, in one folder for each split.

The classes are the labels of all annotation files in `data_dir`, in alphabetical order after `background`, or the lines
of `classes.txt`. Polygons, rectangles and circles are filled as labelme fills them; a later shape covers an earlier
one. Pixels without a shape are `background`; the label `__ignore__` is void.
"""

from pathlib import Path
from typing import Any

from segmentation.classes import VOID, Classes
from segmentation.config import DataConfig
from segmentation.data.class_files import class_names
from segmentation.data.drawn import Drawn, DrawnImages, Outline, stated_size
from segmentation.data.folder import require_background
from segmentation.data.pairs import files_by_stem
from segmentation.data.source import MissingDataError, known_split
from segmentation.errors import InputError, counted, listed
from segmentation.io.documents import read_json
from segmentation.io.folders import is_skipped, walk
from segmentation.io.names import composed

MAX_BYTES = 2**28
"""Limit on an annotation file, which may hold the image too."""
BACKGROUND = "background"
IGNORED = "__ignore__"
OWN_BACKGROUND = "_background_"
"""Name of the background in the lists of classes of labelme's examples."""


def open_labelme(config: DataConfig, split: str) -> DrawnImages:
    """Return one split of the images and labelme files in `config.data_dir`."""
    root = Path(config.data_dir)
    folders = [path for path in sorted(root.iterdir()) if path.is_dir() and not is_skipped(path.name)]
    files = {
        folder.name: found
        for folder in folders
        if (found := annotation_files(folder)) and found.keys() & files_by_stem(folder).keys()
    }
    if not files:
        raise MissingDataError(
            f"data_dir={config.data_dir} has no labelme files: it needs a folder for each split, such as {split}/a.jpg "
            f"with {split}/a.json"
        )
    split = known_split(config, split, files)
    contents = {file: _shapes(file) for of_split in files.values() for file in of_split.values()}
    labels = _classes(root, contents)
    return _source(config, root, split, files[split], contents, labels)


def annotation_files(folder: Path) -> dict[str, Path]:
    """Return the JSON files below a folder by relative path without the ending."""
    paths = sorted(parent / name for parent, _, names in walk(folder) for name in names if name.endswith(".json"))
    return {composed(path.relative_to(folder).with_suffix("").as_posix()): path for path in paths}


def _source(
    config: DataConfig,
    root: Path,
    split: str,
    annotations: dict[str, Path],
    contents: "dict[Path, _Content | str]",
    labels: Classes,
) -> DrawnImages:
    images = files_by_stem(root / split)
    faults = [content for file in annotations.values() if isinstance(content := contents[file], str)]
    lonely = [str(file) for name, file in annotations.items() if name not in images]
    if lonely:
        faults.append(
            f"no image beside {counted(len(lonely), 'labelme file')}: {listed(lonely, 20)}; they need the same name"
        )
    unlabelled = [str(file) for name, file in images.items() if name not in annotations]
    if config.empty == "background":
        require_background(labels)
    elif unlabelled:
        faults.append(
            f"no labelme file beside {counted(len(unlabelled), 'image')}: {listed(unlabelled, 20)}; annotate them, or "
            f"add empty=background if they show only background"
        )
    index_of = {name: index for index, name in enumerate(labels.names)} | {IGNORED: VOID}
    index_of[OWN_BACKGROUND] = index_of[BACKGROUND]
    found = {}
    for name, file in images.items():
        content = contents.get(annotations.get(name, Path()), ((), None))
        if isinstance(content, str) or (name not in annotations and config.empty == "refuse"):
            continue
        outlines = []
        for number, shape in enumerate(content[0]):
            where = f"{annotations[name]}, shapes[{number}]"
            if shape["label"] in index_of:
                outlines.append(Outline(index_of[shape["label"]], f"{where} ({shape['label']:.80})", shape))
            else:
                faults.append(f"{where}: label {shape['label']!r:.80} is not in {root / 'classes.txt'}")
        found[name] = Drawn(file, content[1], tuple(outlines), annotations.get(name, file))
    return DrawnImages(labels, str(root.resolve()), found, tuple(faults))


_Content = tuple[tuple[dict[str, Any], ...], tuple[int, int] | None]
"""Shapes of a file, and width and height of the image."""


def _shapes(file: Path) -> _Content | str:
    """The shapes in a labelme file, or what is wrong with it."""
    try:
        content = read_json(file, MAX_BYTES)
        if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
            raise InputError(f"{file} is not a labelme file: it has no list of shapes")
        size = stated_size(content.get("imageWidth"), content.get("imageHeight"), f"{file}: imageWidth and imageHeight")
        for number, shape in enumerate(content["shapes"]):
            if not isinstance(shape, dict) or not isinstance(shape.get("label"), str):
                raise InputError(f"{file}, shapes[{number}] has no label")
    except InputError as error:
        return str(error)
    kept = ("label", "points", "shape_type")
    return tuple({key: shape.get(key) for key in kept} for shape in content["shapes"]), size


def _classes(root: Path, contents: "dict[Path, _Content | str]") -> Classes:
    """The classes of `classes.txt`, or of all labels in the annotation files."""
    file = root / "classes.txt"
    if file.is_file():
        names = [BACKGROUND if name == OWN_BACKGROUND else name for name in class_names(file) if name != IGNORED]
    else:
        file = root
        labels = {
            shape["label"] for content in contents.values() if not isinstance(content, str) for shape in content[0]
        }
        names = sorted(labels - {IGNORED, BACKGROUND, OWN_BACKGROUND})
    if BACKGROUND not in names:
        names.insert(0, BACKGROUND)
    try:
        return Classes.named(*names)
    except InputError as error:
        raise InputError(f"labels of {file}: {error}") from error
