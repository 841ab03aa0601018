import numpy as np
import pytest
from PIL import Image

from segmentation.config import DataConfig
from segmentation.data import open_split
from segmentation.errors import InputError
from tests.conftest import CAMVID, needs_camvid

pytestmark = needs_camvid
CONFIG = DataConfig(dataset="camvid", data_dir=str(CAMVID))


def test_masks_have_eleven_classes_and_void() -> None:
    source = open_split(CONFIG, "val")
    assert (len(source.names), len(source.labels)) == (101, 11)
    stored = np.asarray(Image.open(CAMVID / "valannot" / f"{source.names[0]}.png"))
    np.testing.assert_array_equal(source.read(0).mask, np.where(stored == 11, 255, stored))


def test_an_unknown_split_is_reported_with_the_known_ones() -> None:
    with pytest.raises(InputError, match="split='vall' is not known. Did you mean 'val'\\? Known: train, val"):
        open_split(CONFIG, "vall")
