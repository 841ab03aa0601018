"""Logits on disk compared with the added tensors, and a real limit on file sizes."""

import gc
import resource
import weakref
from pathlib import Path

import pytest
import torch

from segmentation.calibration.stored_logits import StoredLogits
from segmentation.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def batch(seed: int, images: int = 2, classes: int = 4, height: int = 5, width: int = 7) -> Batch:
    random = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, classes, height, width, generator=random)
    pictures = torch.randint(0, 256, (images, height, width, 3), dtype=torch.uint8, generator=random).permute(
        0, 3, 1, 2
    )
    labels = torch.randint(0, classes, (images, height, width), dtype=torch.uint8, generator=random)
    labels[0, 0] = 255
    return logits, pictures, labels


def assert_equal(found: Batch, expected: Batch) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype
        assert torch.equal(one, other)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def test_every_pass_yields_the_added_batches_of_any_size() -> None:
    given = [batch(0), batch(1, images=1, height=9, width=3), batch(2, images=3)]
    with StoredLogits() as stored:
        for one in given:
            stored.add(*one)
        assert len(stored) == 6
        for _ in range(3):
            for found, expected in zip(stored.batches(), given, strict=True):
                assert_equal(found, expected)


def test_passes_may_overlap_and_batches_may_be_added_between_them() -> None:
    given = [batch(0), batch(1), batch(2)]
    with StoredLogits() as stored:
        stored.add(*given[0])
        stored.add(*given[1])
        first = stored.batches()
        assert_equal(next(first), given[0])
        stored.add(*given[2])
        assert_equal(next(stored.batches()), given[0])
        assert_equal(next(first), given[1])
        assert_equal(list(stored.batches())[2], given[2])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_stored_exactly_as_float32(dtype: torch.dtype) -> None:
    logits, images, labels = batch(0)
    with StoredLogits() as stored:
        stored.add(logits.to(dtype), images, labels)
        ((found, _, _),) = stored.batches()
    assert found.dtype == torch.float32
    assert torch.equal(found, logits.to(dtype).float())


def test_labels_of_any_integer_type_and_inference_tensors_are_accepted() -> None:
    logits, images, labels = batch(0)
    with StoredLogits() as stored:
        with torch.inference_mode():
            stored.add(logits * 1, images, labels.long())
        (found,) = stored.batches()
    assert_equal(found, (logits, images, labels))
    assert not found[0].is_inference()


def test_nothing_is_left_on_disk_even_after_an_error(folder: Path) -> None:
    stored = StoredLogits()

    def use() -> None:
        with stored:
            stored.add(*batch(0))
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        use()
    assert not list(folder.iterdir())
    with pytest.raises(ValueError, match="closed file"):
        list(stored.batches())


def test_no_batch_is_kept_in_memory() -> None:
    with StoredLogits() as stored:
        logits, images, labels = batch(0)
        stored.add(logits, images, labels)
        watched = [weakref.ref(tensor) for tensor in (logits, images, labels)]
        del logits, images, labels
        for one in stored.batches():
            watched += [weakref.ref(tensor) for tensor in one]
        del one
        gc.collect()
        assert [reference() for reference in watched] == [None] * 6


def test_a_full_disk_raises_an_input_error(folder: Path) -> None:
    """A limit on file sizes acts like a full disk: both stop a write half-way."""
    given = batch(0)
    one = 2 * 5 * 7 * (4 * 4 + 3 + 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoredLogits() as stored:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2 * one + 100, limits[1]))
        try:
            stored.add(*given)
            stored.add(*given)
            with pytest.raises(InputError) as told:
                stored.add(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert str(folder) in str(told.value)
        assert "after 4 images" in str(told.value)
        assert "set TMPDIR to a folder on a larger disk" in str(told.value)
        assert len(stored) == 4
        for found in stored.batches():
            assert_equal(found, given)
    assert not list(folder.iterdir())


def test_a_missing_folder_raises_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/nowhere/at/all")
    with pytest.raises(InputError, match="could not be stored in /nowhere/at/all: No such file.*set TMPDIR"):
        StoredLogits()


def test_wrong_shapes_and_types_are_refused() -> None:
    logits, images, labels = batch(0)
    with StoredLogits() as stored:
        with pytest.raises(ValueError, match=r"images must be torch.uint8 .*\(2, 4, 5, 7\), not torch.float32"):
            stored.add(logits, images.float(), labels)
        with pytest.raises(ValueError, match=r"labels must have the shape"):
            stored.add(logits, images, labels[:, 1:])
        assert len(stored) == 0
        assert list(stored.batches()) == []


def test_images_of_five_channels_of_16_bits_are_stored() -> None:
    logits, _, labels = batch(0)
    images = torch.randint(0, 2**16, (2, 5, 5, 7)).to(torch.uint16)
    with StoredLogits() as stored:
        stored.add(logits, images, labels)
        (found,) = stored.batches()
        assert_equal(found, (logits, images, labels))
