"""Descriptions of classes by values and colours, in JSON, YAML and CVAT's labelmap.txt."""

import json
from pathlib import Path

import pytest
import yaml

from segmentation.classes import VOID, voc_palette
from segmentation.data.class_files import of_roboflow, read_classes
from segmentation.errors import InputError

DESCRIPTION = {
    "background": 0, "road": [7, 8], "car": {"colors": ["#00008e", [1, 2, 3]]},
    "tree": {"values": 9, "colors": [0, 255, 0]}, "sign": "#ffff00", "void": [255, 10],
}  # fmt: skip


def written(folder: Path, name: str, content: object) -> Path:
    text = content if isinstance(content, str) else json.dumps(content)
    if name.endswith(".yaml") and not isinstance(content, str):
        text = yaml.safe_dump(content, sort_keys=False)
    (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("name", ["classes.json", "classes.yaml", "classes.yml"])
def test_each_form_of_values_and_colours(name: str, tmp_path: Path) -> None:
    content: object = DESCRIPTION if name != "classes.yml" else yaml.safe_dump(DESCRIPTION, sort_keys=False)
    code = read_classes(written(tmp_path, name, content))
    assert code.labels.names == ("background", "road", "car", "tree", "sign")
    assert code.class_of_value == {0: 0, 7: 1, 8: 1, 9: 3, 255: VOID, 10: VOID}
    assert code.class_of_color == {0x00008E: 2, 0x010203: 2, 0x00FF00: 3, 0xFFFF00: 4}
    assert code.labels.palette == voc_palette(5)  # not every class has a colour


def test_colours_of_all_classes_are_those_of_the_plots_and_255_is_void_only_beside_values(tmp_path: Path) -> None:
    code = read_classes(written(tmp_path, "classes.json", {"a": "#0a0b0c", "b": ["#ff0000", "#00ff00"]}))
    assert code.labels.palette == ((10, 11, 12), (255, 0, 0))
    assert code.class_of_value == {}
    assert read_classes(written(tmp_path, "classes.json", {"a": 0, "b": 1})).class_of_value == {0: 0, 1: 1, 255: VOID}
    assert read_classes(written(tmp_path, "classes.json", {"a": 0, "b": 255})).class_of_value == {0: 0, 255: 1}
    code = read_classes(written(tmp_path, "classes.json", {"a": 0, "b": 1, "void": 2}))
    assert code.class_of_value == {0: 0, 1: 1, 2: VOID}


def test_the_labelmap_of_cvat(tmp_path: Path) -> None:
    text = (
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\n\ncar: front:128,0,64:wheel,door:drives\nvoid:9,9,9::\n"
    )
    code = read_classes(written(tmp_path, "labelmap.txt", text))
    assert code.labels.names == ("background", "car: front")
    assert code.labels.palette == ((0, 0, 0), (128, 0, 64))
    assert code.class_of_color == {0: 0, 0x800040: 1, 0x090909: VOID}
    assert code.class_of_value == {}


def test_the_classes_of_roboflow_are_the_same_in_all_splits(tmp_path: Path) -> None:
    files = [tmp_path / f"{split}.csv" for split in ("train", "valid")]
    for file in files:
        file.write_text("Pixel Value, Class\n0, background\n1, cat, black\n")
    code = of_roboflow(files)
    assert code.labels.names == ("background", "cat, black")
    assert code.class_of_value == {0: 0, 1: 1, 255: VOID}
    files[1].write_text("Pixel Value, Class\n0, background\n1, dog\n")
    with pytest.raises(InputError, match=r"train\.csv and .*valid\.csv differ"):
        of_roboflow(files)


WRONG = {
    "twice a value": ({"a": 0, "b": [1, 0]}, "value 0 .*'a'.*'b'"),
    "void and a class": ({"a": 0, "b": 1, "void": [1]}, "value 1 .*'b'.*'void'"),
    "twice a colour": ({"a": "#000001", "b": {"colors": [[0, 0, 1]]}}, "colour #000001 .*'a'.*'b'"),
    "no values": ({"a": 0, "b": []}, "key 'b' has no values"),
    "empty object": ({"a": 0, "b": {}}, "key 'b' has no values"),
    "negative": ({"a": 0, "b": -1}, "key 'b': the value -1"),
    "fraction": ({"a": 0, "b": 1.5}, "key 'b': the value 1.5"),
    "true": ({"a": 0, "b": True}, "key 'b': the value True"),
    "null": ({"a": 0, "b": None}, "key 'b': the value None"),
    "too large": ({"a": 0, "b": 70000}, "key 'b': the value 70000"),
    "short colour": ({"a": 0, "b": "#fff"}, "key 'b': the colour '#fff'"),
    "colour above 255": ({"a": 0, "b": {"colors": [[0, 0, 256]]}}, r"key 'b': the colour \[0, 0, 256\]"),
    "unknown key": ({"a": 0, "b": {"value": 1}}, "key 'b'.*'value'.*Did you mean 'values'"),
    "one class": ({"a": 0, "void": 255}, r"lists 1 class\(es\)"),
    "no class": ({}, r"lists 0 class\(es\)"),
    "a number": (7, "must be a list of class names"),
    "numbers": ([1, 2], "list of names"),
    "repeated in a list": (["a", "a"], "lists 'a' twice"),
    "repeated key": ('{"a": 0, "a": 1}', "key 'a' is repeated"),
    "a colour as values": ({"a": "#000001", "b": [0, 200, 0]}, r"key 'b': \[0, 200, 0\] .*twice.*colors"),
    "not finite": ('{"a": NaN}', "NaN is not a number"),
}


@pytest.mark.parametrize(("content", "message"), WRONG.values(), ids=list(WRONG))
def test_a_contradiction_is_an_error_with_file_and_key(content: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_classes(written(tmp_path, "classes.json", content))
    assert str(tmp_path / "classes.json") in str(refusal.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: 0\na: 1\n", "key 'a' is repeated"),
        ("a: {values: 0, values: 1}\nb: 2", "key 'values' is repeated"),
        ("a: 0\nno: 1\n", "the class name False is not text; write it in quotes"),
        ("a: &x [0]\nb: *x\n", "alias"),
        ("a: [", "cannot be read as YAML"),
        ("a: !!python/object/apply:os.getcwd []", "cannot be read as YAML"),
        ("", "must be a list of class names"),
    ],
)
def test_yaml_that_is_ambiguous_or_hostile_is_refused(content: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message) as refusal:
        read_classes(written(tmp_path, "classes.yaml", content))
    assert str(tmp_path / "classes.yaml") in str(refusal.value)


@pytest.mark.parametrize("line", ["car", "car:1,2::", "car:1,2,300::", "car:red::", "car:1,2,3::\ncar:1,2,4::"])
def test_a_wrong_line_of_a_labelmap_is_an_error_with_its_number(line: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labelmap\.txt(, line 2|, key 'car'| lists 'car' twice)"):
        read_classes(written(tmp_path, "labelmap.txt", f"background:0,0,0::\n{line}\n"))
