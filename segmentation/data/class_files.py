"""Reads which mask values or colours stand for which class: classes.txt, classes.json, classes.yaml, labelmap.txt.

`classes.txt` has one class name per line, for mask values 0, 1, 2, ... `classes.json` and `classes.yaml` hold a list of
names, or an object from class name to mask values or colours:

    {"background": 0, "road": [7, 8], "car": {"colors": ["#00008e"]}, "void": 255}

`values` is a number or a list; `colors` is `"#rrggbb"`, `[r, g, b]`, or a list of them. `void` is no class. Without
`void`, value 255 is void unless a class has it. `labelmap.txt` is CVAT's: `name:r,g,b:parts:actions`.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from segmentation.classes import VOID, Classes, voc_palette
from segmentation.errors import InputError, one_of
from segmentation.io.documents import read_json, read_yaml
from segmentation.io.text_lists import read_text

NAMES = ("classes.json", "classes.yaml", "classes.yml", "classes.txt", "labelmap.txt")
"""Files that describe the classes; the first one that exists is read."""
MAX_VALUE = 65535
"""Largest mask value that a class can have."""
VOID_NAME = "void"
VOID_LABELS = (VOID_NAME, "ignored")
"""Labels of CVAT's labelmap.txt for pixels that are no class."""


@dataclass(frozen=True)
class ClassCode:
    """Names of the classes, and the class index for mask values and for colours; void is 255."""

    labels: Classes
    class_of_value: dict[int, int]
    class_of_color: dict[int, int] = field(default_factory=dict)
    """By `0xRRGGBB`."""


def read_classes(root: Path) -> ClassCode:
    """Return the description of the classes in a folder.

    Raises:
        InputError: there is none, or it is wrong; the message names the file and the key.
    """
    for name in NAMES:
        file = root / name
        if not file.is_file():
            continue
        if name == "classes.txt":
            return _of_list(class_names(file), file)
        if name == "labelmap.txt":
            return _of_labelmap(file)
        content = read_json(file) if file.suffix == ".json" else read_yaml(file)
        if isinstance(content, list):
            return _of_list(content, file)
        if isinstance(content, dict):
            return _of_object(content, file)
        raise InputError(f"{file} must be a list of class names, or an object from class names to mask values")
    above = root.resolve().parent
    if any((above / name).is_file() for name in NAMES):
        raise InputError(f"data_dir={root} has no classes.txt, but the folder above has one: set data_dir={above}")
    raise InputError(
        f"data_dir={root} has no classes.txt: write one, with one class name per line, for mask values 0, 1, ...; or "
        f"classes.json, with the values or colours of each class: {json.dumps({'background': 0, 'road': [7, 8]})}"
    )


def class_names(file: Path) -> list[str]:
    """Return the class names in a text file, one per line, without blank lines."""
    return [line.strip() for line in read_text(file).splitlines() if line.strip()]


def _of_list(names: list[Any], file: Path) -> ClassCode:
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{file} must be a list of names, all of them text")
    labels = _labels(names, {}, file)
    class_of_value = {index: index for index in range(len(labels))}
    class_of_value.setdefault(VOID, VOID)
    return ClassCode(labels, class_of_value)


def _of_object(content: dict[Any, Any], file: Path) -> ClassCode:
    for name in content:
        if not isinstance(name, str):
            raise InputError(f"{file}: the class name {name!r:.80} is not text; write it in quotes")
    names = [name for name in content if name != VOID_NAME]
    code = _Code(file)
    for name, described in content.items():
        code.add(name, described, VOID if name == VOID_NAME else names.index(name))
    if VOID_NAME not in content and code.class_of_value:
        code.class_of_value.setdefault(VOID, VOID)
    return ClassCode(_labels(names, code.class_of_color, file), code.class_of_value, code.class_of_color)


def _of_labelmap(file: Path) -> ClassCode:
    """The description in CVAT's labelmap.txt."""
    code, names = _Code(file), []
    for number, line in enumerate(read_text(file).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, *fields = line.strip().rsplit(":", 3)
        color = re.fullmatch(r"\s*(\d{1,3})\s*,\s*(\d{1,3})\s*,\s*(\d{1,3})\s*", fields[0]) if fields else None
        if color is None:
            raise InputError(f"{file}, line {number}: {line!r:.80} is not name:r,g,b:parts:actions")
        is_void = name in VOID_LABELS
        if not is_void:
            names.append(name)
        code.add(name, {"colors": [[int(band) for band in color.groups()]]}, VOID if is_void else len(names) - 1)
    return ClassCode(_labels(names, code.class_of_color, file), {}, code.class_of_color)


def of_roboflow(files: Sequence[Path]) -> ClassCode:
    """Return the description in Roboflow's `_classes.csv`, one file for each split: `Pixel Value, Class`.

    Raises:
        InputError: a file is wrong, or the files differ.
    """
    texts = {file: [line.strip() for line in read_text(file).splitlines() if line.strip()] for file in files}
    for file in files:
        if texts[file] != texts[files[0]]:
            raise InputError(f"{files[0]} and {file} differ; all splits need the same classes")
    code, names = _Code(files[0]), []
    for number, line in enumerate(texts[files[0]][1:], 2):
        value, comma, name = (part.strip() for part in line.partition(","))
        if not comma or not re.fullmatch(r"\d{1,5}", value):
            raise InputError(f"{files[0]}, line {number}: {line!r:.80} is not a mask value, a comma and a class name")
        names.append(name)
        code.add(name, int(value), len(names) - 1)
    code.class_of_value.setdefault(VOID, VOID)
    return ClassCode(_labels(names, {}, files[0]), code.class_of_value)


class _Code:
    """Mask values and colours of the classes read so far."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.class_of_value: dict[int, int] = {}
        self.class_of_color: dict[int, int] = {}
        self._owners: dict[str, str] = {}

    def add(self, name: str, described: Any, index: int) -> None:
        """Add the values and colours of one class.

        Raises:
            InputError: the description has a wrong type, or a value or colour of another class.
        """
        where = f"{self.file}, key {name!r:.80}"
        if not isinstance(described, dict):
            is_color = isinstance(described, str) or (
                isinstance(described, list) and described and all(isinstance(each, str) for each in described)
            )
            described = {"colors" if is_color else "values": described}
        for key in described:
            one_of(f"{where}: the key", str(key), ("values", "colors"))
        values = described.get("values", [])
        if isinstance(values, list) and len(set(map(str, values))) < len(values):
            raise InputError(
                f"{where}: {values!r:.80} states a mask value twice. A list is of mask values; a colour is "
                f'"#rrggbb" or {{"colors": [r, g, b]}}'
            )
        for value in values if isinstance(values, list) else [values]:
            if type(value) is not int or not 0 <= value <= MAX_VALUE:
                raise InputError(f"{where}: the value {value!r:.80} is not a whole number from 0 to {MAX_VALUE}")
            self._claim(f"value {value}", name)
            self.class_of_value[value] = index
        for color in _colors(described.get("colors", []), where):
            self._claim(f"colour {hexadecimal(color)}", name)
            self.class_of_color[color] = index
        if index != VOID and not any(name == owner for owner in self._owners.values()):
            raise InputError(f"{where} has no values and no colours; state at least one")

    def _claim(self, what: str, name: str) -> None:
        owner = self._owners.setdefault(what, name)
        if owner != name:
            raise InputError(f"{self.file}: {what} is stated for {owner!r:.80} and for {name!r:.80}; keep one")


def _colors(stated: Any, where: str) -> list[int]:
    """Colours as `0xRRGGBB`, from one colour or a list of them."""
    is_one = not isinstance(stated, list) or (len(stated) == 3 and all(type(band) is int for band in stated))
    found = []
    for color in [stated] if is_one else stated:
        if isinstance(color, str) and re.fullmatch("#[0-9a-fA-F]{6}", color):
            found.append(int(color[1:], 16))
        elif isinstance(color, list) and len(color) == 3 and all(type(b) is int and 0 <= b <= 255 for b in color):
            found.append(color[0] << 16 | color[1] << 8 | color[2])
        else:
            raise InputError(f'{where}: the colour {color!r:.80} is neither "#rrggbb" nor [r, g, b] from 0 to 255')
    return found


def _labels(names: list[str], class_of_color: dict[int, int], file: Path) -> Classes:
    """The classes, with their stated colours, or those of Pascal VOC where some class has none."""
    if not 2 <= len(names) <= VOID:
        raise InputError(f"{file} lists {len(names)} class(es); it must list 2 to {VOID}")
    if len(set(names)) < len(names):
        repeated = next(name for name in names if names.count(name) > 1)
        raise InputError(f"{file} lists {repeated!r:.80} twice; class names must be unique")
    palette = dict(enumerate(voc_palette(len(names))))
    stated = {index: color for color, index in reversed(class_of_color.items()) if index != VOID}
    if len(stated) == len(names):
        palette = {index: (color >> 16, color >> 8 & 255, color & 255) for index, color in stated.items()}
    try:
        return Classes(tuple(names), tuple(palette[index] for index in range(len(names))))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def hexadecimal(color: int) -> str:
    """Return a colour `0xRRGGBB` as `#rrggbb`."""
    return f"#{color:06x}"


def ranges(values: Iterable[int]) -> str:
    """Format integers as ranges, such as `0-20, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)
