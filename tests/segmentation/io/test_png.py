import io

import numpy as np
import pytest
from PIL import Image

from segmentation.io.png import PngRows


@pytest.mark.parametrize("palette", [None, bytes(range(256)) * 3])
@pytest.mark.parametrize("bands", [[40], [1, 7, 32], [39, 1]])
def test_pillow_reads_what_was_written_in_bands(palette: bytes | None, bands: list[int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 33), dtype=np.uint8)
    file = io.BytesIO()
    writer = PngRows(file, 33, 40, palette)
    top = 0
    for rows in bands:
        writer.write(pixels[top : top + rows])
        top += rows
    with Image.open(io.BytesIO(file.getvalue())) as image:
        image.verify()
    with Image.open(file) as image:
        np.testing.assert_array_equal(np.array(image), pixels)
        assert image.mode == ("L" if palette is None else "P")
        assert palette is None or bytes(image.getpalette() or []) == palette
