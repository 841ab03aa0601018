"""Mangled and generated lists of images and of classes."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data.camvid import open_camvid
from segmentation.data.folder import open_folder
from segmentation.data.voc import open_voc
from segmentation.io.names import is_plain
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up
from tests.fuzz.mutation import mutated

NAMES = ("a", "b.c", "sub/d", "sub/e f", "é")
HOSTILE = (
    "../outside/secret", "../../etc/passwd", "/etc/passwd", "sub/../../outside/secret", "..\\outside\\secret", "C:\\a",
    "a\0b", "a\x1b[31m", "", " ", ".", "..", "./a", "a.png", "sub//d", "x" * 300, "x/" * 3000, "\ufeffa", "\u2028",
    "~/a",
)  # fmt: skip


def tree(folder: Path, images: str, masks: str, ending: str) -> None:
    """Write images named `NAMES`, and one outside the folder, which no list may reach."""
    blank = Image.fromarray(np.zeros((4, 4), np.uint8))
    for name in NAMES:
        for kind, suffix in ((images, ending), (masks, ".png")):
            file = folder / kind / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            blank.save(file, "PNG")
    outside = folder.parent / "outside"
    outside.mkdir(exist_ok=True)
    for suffix in (ending, ".png"):
        blank.save(outside / f"secret{suffix}", "PNG")


def test_split_lists(door: Callable[[str], Door]) -> None:
    door = door("split lists")
    voc, own = door.folder / "VOCdevkit/VOC2012", door.folder / "own"
    tree(voc, "JPEGImages", "SegmentationClass", ".jpg")
    tree(own, "images", "masks", ".png")
    (own / "classes.txt").write_text("a\nb\n")
    lists = voc / "ImageSets/Segmentation/train.txt", own / "train.txt"
    lists[0].parent.mkdir(parents=True)
    good = [("\n".join(NAMES) + "\n").encode(), "\r\n".join(NAMES).encode(), "a".encode("utf-16")]
    config = {"voc2012": DataConfig(dataset="voc2012", data_dir=str(door.folder)),
              "folder": DataConfig(dataset="folder", data_dir=str(own))}  # fmt: skip

    def check(content: bytes, dataset: str) -> None:
        lists[0].write_bytes(content)
        lists[1].write_bytes(content)
        opener = {"voc2012": open_voc, "folder": open_folder}[dataset]
        root = voc if dataset == "voc2012" else own
        found = door(
            lambda: opener(config[dataset], "train"),
            ("train.txt", "listed name"),
            forbidden=door.folder.parent / "outside",
        )
        if found is not None:
            lines = {line.strip() for line in content.decode("utf-8-sig").splitlines()} - {""}
            assert len(found.files) <= len(lines)
            for pair in found.files.values():
                assert all(file.resolve().is_relative_to(root.resolve()) and file.is_file() for file in pair)

    for random in door.randoms():
        content = mutated(random.choice(good), random, [*good, *(name.encode() for name in HOSTILE)])
        check(content, random.choice(list(config)))

    line = st.one_of(st.sampled_from(NAMES), st.sampled_from(HOSTILE), st.text(max_size=12))

    @made_up(door.name)
    @given(st.lists(line, max_size=5), st.sampled_from(list(config)))
    def one(lines: list[str], which: str) -> None:
        check("\n".join(lines).encode("utf-8", "surrogatepass"), which)

    one()
    for name in HOSTILE[:5]:
        before = door.refused
        check(f"a\n{name}\n".encode(), "voc2012")
        check(f"a\n{name}\n".encode(), "folder")
        assert door.refused == before + 2, name
    assert door.right


def test_class_files(door: Callable[[str], Door]) -> None:
    door = door("class files")
    for kind in ("images/train", "masks/train"):
        (door.folder / kind).mkdir(parents=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(door.folder / kind / "a.png")
    config = DataConfig(dataset="folder", data_dir=str(door.folder))
    good = {
        "classes.txt": [b"red\ngreen\nblue\n", "\ufeffroad\r\nlane (left)\r\nß\r\n".encode()],
        "classes.json": [
            b'["red", "green"]', b'{"ground": 0, "object": 255, "sky": 7}',
            b'{"ground": 0, "road": [7, 8], "car": {"colors": ["#00008e", [1, 2, 3]], "values": 9}, "void": [255, 1]}',
        ],
        "classes.yaml": [
            b"[red, green]", b"ground: 0\nroad: [7, 8]\ncar:\n  colors: ['#00008e']\n  values: 9\nvoid: 255\n"
        ],
        "labelmap.txt": [b"# label:color_rgb:parts:actions\nbackground:0,0,0::\ncar:128,0,0:a,b:\n"],
    }  # fmt: skip

    def check(name: str, content: bytes) -> None:
        for each in good:
            (door.folder / each).unlink(missing_ok=True)
        (door.folder / name).write_bytes(content)
        found = door(lambda: open_folder(config, "train"), (name, "class", "metrics"))
        if found is None:
            return
        assert all(map(is_plain, found.labels.names))
        if name == "labelmap.txt":
            assert len(found.labels) + 1 >= len(found.class_of_color) >= len(found.labels)
            return
        if name == "classes.txt":
            stated = [line.strip() for line in content.decode("utf-8-sig").splitlines() if line.strip()]
        else:
            stated = (json.loads if name == "classes.json" else yaml.safe_load)(content.decode("utf-8-sig"))
        values = {each: [at] for at, each in enumerate(stated)}
        if isinstance(stated, dict):
            values = {each: whole_numbers(described) for each, described in stated.items()}
        names = [each for each in values if each != "void" or isinstance(stated, list)]
        assert list(found.labels.names) == names
        expected = {value: names.index(each) for each in names for value in values[each]}
        expected |= dict.fromkeys(values.get("void", []) if isinstance(stated, dict) else [], VOID)
        if expected and not (isinstance(stated, dict) and "void" in stated):
            expected.setdefault(VOID, VOID)
        assert dict(found.class_of_value) == expected

    for random in door.randoms():
        name = random.choice(list(good))
        check(name, mutated(random.choice(good[name]), random, good[name]))

    scalar = st.one_of(
        st.none(), st.booleans(), st.integers(-2, 70_000), st.floats(), st.text(max_size=6), st.just("../x")
    )
    content_of_json = st.recursive(
        scalar, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner), max_leaves=8
    )
    forms = st.one_of(st.integers(0, 300), st.lists(st.integers(0, 9), max_size=3), st.just("#00ff00"), content_of_json)
    classes = st.one_of(
        content_of_json,
        st.dictionaries(st.sampled_from(["a", "b", "c", "void"]), forms, min_size=2),
        st.dictionaries(st.sampled_from("ab"), st.dictionaries(st.sampled_from(["values", "colors"]), forms)),
        st.dictionaries(st.text(max_size=5), st.integers(0, 300)),
        st.lists(st.text(max_size=5), max_size=6),
    )

    @made_up(door.name)
    @given(st.one_of(classes.map(lambda each: ("classes.json", json.dumps(each))),
                     st.lists(st.text(max_size=8)).map(lambda each: ("classes.txt", "\n".join(each)))))  # fmt: skip
    def one(file: tuple[str, str]) -> None:
        check(file[0], file[1].encode("utf-8", "surrogatepass"))

    one()
    for content in ("[" * 100_000, "1" * 5000, '{"a": 0, "a": 1, "b": 2}', '["a", "b\\u001b[31m"]', '["a", "../b"]'):
        before = door.refused
        check("classes.json", content.encode())
        assert door.refused == before + 1, content[:20]


def whole_numbers(described: object) -> list[int]:
    """The mask values in the description of a class."""
    if isinstance(described, dict):
        described = described.get("values", [])
    listed = described if isinstance(described, list) else [described]
    return [value for value in listed if not isinstance(value, str)]


def test_file_names_of_camvid_are_checked(door: Callable[[str], Door]) -> None:
    door = door("split lists")
    for kind in ("train", "trainannot"):
        (door.folder / kind).mkdir()
        for name in ("a", "b\x1b[2Jc", "d\udcff"):
            Image.fromarray(np.zeros((4, 4), np.uint8)).save(door.folder / kind / f"{name}.png")
    config = DataConfig(dataset="camvid", data_dir=str(door.folder))
    assert door(lambda: open_camvid(config, "train"), "rename it") is None
