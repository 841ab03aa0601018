"""The same real images through five doors: VOC's layout, index masks, colour masks of CVAT, COCO and labelme."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.data.voc import CLASSES
from studies.config import TrainConfig
from tests.segmentation.data import doors
from tests.segmentation.training.models import TIMED, prepared

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not doors.VOC.is_dir(), reason=f"the real images are not at {doors.VOC}"),
]

EXACT = {"indices": doors.write_indices, "colors": doors.write_colors, "coco": doors.write_coco}
TOLERANCE = 0.012
"""Fraction of pixels that polygons may change: which pixels on an outline are inside depends on the tool."""


@pytest.fixture(scope="module")
def voc(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("voc")
    return doors.write_voc(root) | {"data_dir": str(root)}


def masks(values: dict[str, str]) -> list[np.ndarray]:
    found = []
    for split in doors.NAMES:
        source = open_split(DataConfig(**values), split)  # type: ignore[arg-type]
        assert source.labels.names == CLASSES.names
        found += [source.read(index).mask for index in range(len(source.names))]
    return found


def metrics(values: dict[str, str], cache: Path) -> list[dict[str, float]]:
    from segmentation.training.loop import train

    config = TrainConfig(
        **values, cache_dir=str(cache), resize=32, crop=32, model="lraspp_mobilenet_v3_large", epochs=1, batch_size=2,
        device="cpu",
    )  # type: ignore[arg-type]  # fmt: skip
    model, data = prepared(config)
    return [{k: v for k, v in epoch.metrics().items() if k not in TIMED} for epoch in train(model, data, config)]


@pytest.fixture(scope="module")
def expected(voc: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, float]]:
    return metrics(voc, tmp_path_factory.mktemp("cache"))


@pytest.mark.parametrize("door", EXACT)
def test_lossless_formats_hold_the_same_pixels_and_train_alike(
    door: str, voc: dict[str, str], expected: list[dict[str, float]], tmp_path: Path
) -> None:
    root = tmp_path / "data"
    root.mkdir()
    values = EXACT[door](root) | {"data_dir": str(root)}
    for found, right in zip(masks(values), masks(voc), strict=True):
        np.testing.assert_array_equal(
            np.bincount(found.ravel(), minlength=256), np.bincount(right.ravel(), minlength=256)
        )
        np.testing.assert_array_equal(found, right)
    assert metrics(values, tmp_path / "cache") == expected


def write_coco_polygons(root: Path) -> dict[str, str]:
    return doors.write_coco(root, polygons=True)


@pytest.mark.parametrize("write", [doors.write_labelme, write_coco_polygons])
def test_polygons_hold_nearly_the_same_pixels(
    write: Callable[[Path], dict[str, str]], voc: dict[str, str], tmp_path: Path
) -> None:
    values = write(tmp_path) | {"data_dir": str(tmp_path)}
    found, right = (np.concatenate([mask.ravel() for mask in masks(each)]) for each in (values, voc))
    assert (found != right).mean() < TOLERANCE
