"""Mangled and generated annotation files of COCO and labelme."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data.coco import open_coco
from segmentation.data.drawn import DrawnImages
from segmentation.data.faults import refuse
from segmentation.data.labelme import open_labelme
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up
from tests.fuzz.mutation import mutated
from tests.segmentation.data.annotated import SIZE, coco, labelme, square, write_image

RUNS = {"size": [16, 20], "counts": [7, 100, 213]}
SQUEEZED = {"size": [16, 20], "counts": "U11m05]O0000000000000000000]2"}
COCO = [
    coco(["a.png", "b.png"], {}, {"image_id": 1, "segmentation": RUNS}),
    coco(["b.png"], {"category_id": 3, "segmentation": [*square(1, 1), *square(9, 9)]}, {"iscrowd": 1}),
    coco(["a.png"], {"segmentation": SQUEEZED}),
]
LABELME = [
    labelme(
        {}, {"shape_type": "circle"}, {"label": "dog", "shape_type": "polygon", "points": [[1, 1], [9, 1], [4, 8]]}
    ),
    labelme({}, {"label": "__ignore__"}),
]


class Files:
    """Images beside one file of each kind, whose content is untrusted."""

    def __init__(self, door: Door) -> None:
        self.door = door
        self.coco, self.labelme = door.folder / "coco", door.folder / "labelme"
        for name in ("a", "b"):
            write_image(self.coco / f"train/{name}.png")
        write_image(self.labelme / "train/a.png")
        write_image(door.folder.parent / "outside/secret.png")

    def check(self, kind: str, content: bytes) -> None:
        """Read all images, or be refused with the file's name; no file elsewhere may be read."""
        file = self.coco / "train/_annotations.coco.json" if kind == "coco" else self.labelme / "train/a.json"
        file.write_bytes(content)
        opener: Callable[[DataConfig, str], DrawnImages] = open_coco if kind == "coco" else open_labelme
        config = DataConfig(dataset=kind, data_dir=str(self.coco if kind == "coco" else self.labelme))

        def masks() -> list[np.ndarray]:
            source = opener(config, "train")
            refuse(source.faults[:3], source.location)
            assert all(each.file.resolve().is_relative_to(self.door.folder) for each in source.files.values())
            found = [source.read(index).mask for index in range(len(source.names))]
            for mask in found:
                assert mask.shape == SIZE[::-1]
                assert set(np.unique(mask)) <= {VOID, *range(len(source.labels))}
            return found

        self.door(masks, (file.name, "labels of"), forbidden=self.door.folder.parent / "outside")


def test_mangled_annotation_files(door: Callable[[str], Door]) -> None:
    door = door("annotation files")
    files = Files(door)
    good = {kind: [json.dumps(each).encode() for each in of_kind] for kind, of_kind in
            (("coco", COCO), ("labelme", LABELME))}  # fmt: skip
    for kind, contents in good.items():
        for content in contents:
            files.check(kind, content)
    assert door.refused == 0
    for random in door.randoms():
        kind = random.choice(list(good))
        files.check(kind, mutated(random.choice(good[kind]), random, good[kind]))
    assert door.refused > door.tried // 4


def test_generated_annotations(door: Callable[[str], Door]) -> None:
    door = door("annotations made up")
    files = Files(door)
    number = st.one_of(
        st.integers(-3, 25), st.floats(), st.sampled_from([10**9, 2**63, 10**400, 1e308, None, True, "1", []])
    )
    name = st.sampled_from(["a.png", "../../outside/secret.png", "/etc/passwd", "C:\\a.png", "", ".", "a\x1b", None, 7])
    counts = st.one_of(st.lists(number, max_size=5), st.text(max_size=12), st.text("0123PQRo", max_size=30))
    runs = st.fixed_dictionaries({"size": st.sampled_from([[16, 20], [10**9, 10**9], [0, 0], None]), "counts": counts})
    shape = st.one_of(st.lists(st.lists(number, max_size=9), max_size=3), runs, st.none(), st.text(max_size=3))
    annotation = st.fixed_dictionaries(
        {}, optional={"segmentation": shape, "image_id": number, "category_id": number, "iscrowd": number}
    )
    image = st.fixed_dictionaries({}, optional={"id": number, "file_name": name, "width": number, "height": number})
    points = st.lists(st.lists(number, min_size=1, max_size=3), max_size=5)
    kinds = st.sampled_from(["polygon", "rectangle", "circle", "line", "mask", None, 7])
    labels = st.one_of(st.sampled_from(["cat", "../x", "", "a\nb", "__ignore__"]), st.text(max_size=4), st.none())

    @made_up(door.name)
    @given(annotation, image, st.lists(st.tuples(labels, points, kinds), max_size=3), number)
    def one(changed: dict[str, Any], stated: dict[str, Any], shapes: list[tuple[Any, Any, Any]], width: Any) -> None:
        content = coco(["b.png"], changed)
        content["images"][0] |= stated
        files.check("coco", json.dumps(content).encode("utf-8", "surrogatepass"))
        drawn = [{"label": label, "points": where, "shape_type": kind} for label, where, kind in shapes]
        content = labelme(*drawn, imageWidth=width)
        files.check("labelme", json.dumps(content).encode("utf-8", "surrogatepass"))

    one()
