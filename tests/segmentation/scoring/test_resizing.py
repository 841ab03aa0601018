"""Logits of some rows equal those rows of the resized logits, and counting by rows gives the counts of the whole."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmentation.classes import Classes
from segmentation.scoring import resizing
from segmentation.scoring.resizing import resized, rows_at_size
from segmentation.scoring.scores import Scores

SIZES = [(5, 7), (8, 8), (31, 40), (3, 90)]


@pytest.mark.parametrize("size", SIZES)
def test_rows_are_those_of_torchs_bilinear_resizing(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    torch.testing.assert_close(resized(logits, size), expected)
    assert [rows for rows, _ in rows_at_size(logits, size)] == [slice(0, size[0])]
    monkeypatch.setattr(resizing, "AT_ONCE", 0)
    monkeypatch.setattr(resizing, "IN_ROWS", 4 * 6 * size[1])  # four rows of two images with three classes
    parts = {rows.start: (rows, part) for rows, part in rows_at_size(logits, size)}
    assert list(parts) == list(range(0, size[0], 4))
    for rows, part in parts.values():
        torch.testing.assert_close(part, expected[:, :, rows], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("size", [(8, 8), (31, 40)])
def test_scores_by_rows_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], dtype: torch.dtype
) -> None:
    random = torch.Generator().manual_seed(1)
    logits = (3 * torch.randn(2, 3, 8, 8, generator=random)).to(dtype)
    masks = torch.randint(0, 4, (2, *size), generator=random)
    masks = torch.where(masks == 3, 255, masks).to(torch.uint8)
    whole, by_rows = Scores(Classes.named(*"abc")), Scores(Classes.named(*"abc"))
    whole.update(resized(logits, size), masks)
    monkeypatch.setattr(resizing, "AT_ONCE", 0)
    monkeypatch.setattr(resizing, "IN_ROWS", 500)
    by_rows.update(logits, masks)
    np.testing.assert_array_equal(by_rows.confusion.counts, whole.confusion.counts)
    np.testing.assert_array_equal(by_rows.by_class().boundary_iou, whole.by_class().boundary_iou)
    assert by_rows.metrics() == pytest.approx(whole.metrics(), rel=1e-5, abs=1e-5)
