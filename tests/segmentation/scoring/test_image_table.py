import tempfile
from pathlib import Path

import numpy as np
import pytest

from segmentation.errors import InputError
from segmentation.scoring import image_table
from segmentation.scoring.image_table import ImageTable


def table() -> ImageTable:
    return ImageTable({"a": ("u4", (3,)), "b": ("f8", ())})


def rows(first: int, count: int) -> dict[str, np.ndarray]:
    number = np.arange(first, first + count)
    return {"a": number[:, None] + [0, 100, 200], "b": number / 7}


def test_rows_are_read_in_the_order_of_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_table, "BLOCK", 4)
    found = table()
    found.append(rows(5, 5), range(5, 10))
    found.append(rows(0, 5), [0, 1, 2, 3, 4])
    assert len(found) == 10
    assert found.images.tolist() == list(range(10))
    np.testing.assert_array_equal(found.column("a"), rows(0, 10)["a"])
    np.testing.assert_array_equal(found.column("b"), rows(0, 10)["b"])
    assert [len(block["b"]) for block in found.blocks()] == [4, 4, 2]


def test_images_without_numbers_are_numbered_from_0() -> None:
    found = table()
    found.append(rows(0, 2))
    found.append(rows(2, 3))
    assert found.images.tolist() == [0, 1, 2, 3, 4]


def test_a_repeated_image_is_ignored_also_in_the_totals() -> None:
    found = table()
    found.append(rows(0, 3), [0, 1, 1])
    other = table()
    other.append(rows(0, 4), [0, 1, 2, 3])
    found.extend(other)
    assert found.images.tolist() == [0, 1, 2, 3]
    assert found.totals["a"].tolist() == rows(0, 4)["a"].sum(0).tolist()
    assert found.totals["a"].dtype == np.int64
    assert found.totals["b"] == pytest.approx(rows(0, 4)["b"].sum())


def test_images_without_numbers_all_count_also_when_merged() -> None:
    found, other = table(), table()
    found.append(rows(0, 2))
    other.append(rows(2, 3))
    found.extend(other)
    np.testing.assert_array_equal(found.column("b"), rows(0, 5)["b"])
    with pytest.raises(ValueError, match="number all images or none"):
        found.append(rows(5, 1), [5])


def test_totals_do_not_overflow_the_type_of_a_row() -> None:
    found = table()
    for _ in range(3):
        found.append({"a": np.full((1, 3), 2**32 - 1), "b": np.zeros(1)})
    assert found.totals["a"].tolist() == [3 * (2**32 - 1)] * 3


def test_an_empty_table_has_empty_columns() -> None:
    assert table().column("a").shape == (0, 3)
    assert list(table().blocks()) == []


def test_a_full_disk_raises_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda: Path("/dev/full").open("w+b", buffering=0))  # noqa: SIM115
    full = table()
    with pytest.raises(InputError, match="No space left on device.*TMPDIR"):
        full.append(rows(0, 1))
