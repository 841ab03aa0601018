"""Real images: counts against numpy on the raw masks, and no image in two splits."""

import numpy as np
from PIL import Image

from segmentation.classes import VOID
from segmentation.config import DataConfig
from segmentation.data.camvid import CLASSES, UNLABELLED
from segmentation.inspection.problems import find_problems, is_wrong
from segmentation.inspection.split import inspect_splits
from tests.conftest import CAMVID, needs_camvid


@needs_camvid
def test_camvid_has_the_pixels_of_its_masks_and_nothing_wrong() -> None:
    config = DataConfig(dataset="camvid", data_dir=str(CAMVID))
    splits = inspect_splits(config)
    for split in splits:
        expected = np.zeros(256, int)
        for file in sorted((CAMVID / f"{split.name}annot").glob("*.png")):
            with Image.open(file) as mask:
                expected += np.bincount(np.asarray(mask).ravel(), minlength=256)
        assert split.pixels[0, : len(CLASSES)].tolist() == expected[: len(CLASSES)].tolist()
        assert split.pixels[0, VOID] == expected[UNLABELLED]
    problems = find_problems(splits, config)
    assert not is_wrong(problems)
    assert {problem.kind for problem in problems} == {"similar_within"}
