"""The same real images through the formats of annotation tools: the inspection counts the same pixels."""

from pathlib import Path

import numpy as np
import pytest

from segmentation.config import DataConfig
from segmentation.inspection.problems import find_problems
from segmentation.inspection.split import InspectedSplit, inspect_splits
from tests.segmentation.data import doors

needs_voc = pytest.mark.skipif(not doors.VOC.is_dir(), reason=f"the real images are not at {doors.VOC}")


def inspected(root: Path, values: dict[str, str]) -> list[InspectedSplit]:
    config = DataConfig(data_dir=str(root), **values)  # type: ignore[arg-type]
    splits = inspect_splits(config)
    assert [problem.what for problem in find_problems(splits, config) if problem.level == "error"] == []
    return splits


@needs_voc
@pytest.mark.parametrize("write", [doors.write_indices, doors.write_colors, doors.write_coco, doors.write_labelme])
def test_every_format_is_inspected_with_the_pixels_of_the_masks(write: object, tmp_path: Path) -> None:
    splits = inspected(tmp_path, write(tmp_path))  # type: ignore[operator]
    for split in splits:
        expected = np.zeros(256, int)
        for name, _, _, mask in doors.pairs():
            if name == split.name:
                expected += np.bincount(mask.ravel(), minlength=256)
        assert split.labels is not None
        assert abs(split.pixels[0] - expected).sum() <= 0.02 * expected.sum()
        assert all(image.image_kind is not None for image in split.images)
