import pytest

from segmentation.prediction.views import Views, covered, read_scales, scale_note, shrinking, starts, written


@pytest.mark.parametrize(
    ("length", "tile", "overlap", "expected"),
    [
        (10, 32, 0.25, [0]),
        (32, 32, 0.25, [0]),
        (33, 32, 0.25, [0, 1]),
        (64, 32, 0.0, [0, 32]),
        (65, 32, 0.0, [0, 16, 33]),
        (100, 40, 0.5, [0, 20, 40, 60]),
    ],
)
def test_windows_are_spread_evenly_from_end_to_end(length: int, tile: int, overlap: float, expected: list[int]) -> None:
    found = starts(length, tile, overlap)
    assert len(found) == len(expected)
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 1
    assert found[-1] == max(0, length - tile)
    assert covered(length, tile, overlap) == len(found) * min(length, tile)


@pytest.mark.parametrize(
    ("views", "message"),
    [
        (Views(tile=31), "tile=31 is out of range"),
        (Views(tile=4097), "tile=4097 is out of range"),
        (Views(tile=64, overlap=0.95), "overlap=0.95 is out of range"),
        (Views(tile=64, overlap=float("nan")), "overlap=nan is out of range"),
        (Views(overlap=0.5), "overlap=0.5 has no effect without tile"),
        (Views(tile_resize=64), "tile_resize=64 has no effect without tile"),
        (Views(tile=64, tile_resize=0), "tile_resize=0 is too small"),
        (Views(scales=(0.05,)), "scales=0.05 are out of range"),
        (Views(scales=(1.0, float("inf"))), "scales=1,inf are out of range"),
        (Views(scales=(1.0, 1.0)), "scales=1,1 holds a scale twice"),
        (Views(scales=tuple(1 + i / 10 for i in range(9))), "are too many; at most 8"),
    ],
)
def test_wrong_values_are_named(views: Views, message: str) -> None:
    (mistake,) = views.mistakes()
    assert message in mistake


def test_scales_are_read_as_they_are_written() -> None:
    assert read_scales("0.75, 1,1.25") == (0.75, 1.0, 1.25)
    assert read_scales(written((0.75, 1.0, 1.25))) == (0.75, 1.0, 1.25)
    with pytest.raises(ValueError, match="scales='big' is not a list of numbers"):
        read_scales("big")


def test_the_pixels_that_a_model_sees() -> None:
    assert Views().model_pixels(400, 200, 100) == 200 * 100
    assert Views(flip=True).model_pixels(400, 200, None) == 2 * 400 * 200
    assert Views(scales=(0.5, 1.0)).model_pixels(400, 200, 100) == 100 * 50 + 200 * 100
    assert Views(tile=100, overlap=0).model_pixels(400, 200, 100) == 400 * 200
    assert Views(tile=100, overlap=0.5).model_pixels(400, 200, 100) == 7 * 3 * 100**2
    assert Views(tile=100, overlap=0, tile_resize=100).model_pixels(400, 200, 50) == 200 * 100


def test_images_that_shrink_much_are_named() -> None:
    assert shrinking([(1600, 1200), (480, 360)], Views(), 150) is None
    sentence = shrinking([(1600, 1208), (480, 360)], Views(), 150)
    assert sentence is not None
    assert "1 of 2 images shrink by more than 8 times" in sentence
    assert "from 1600 x 1208 to 198 x 150 pixels" in sentence
    assert shrinking([(1600, 1208)], Views(scales=(1.0, 1.5)), 150) is None, "the largest view counts"
    assert shrinking([(1600, 1208)], Views(tile=512), 150) is None
    assert shrinking([(9000, 9000)], Views(), None) is None
    in_windows = shrinking([(1600, 1208)], Views(tile=512, tile_resize=150), 128)
    assert in_windows is not None
    assert "to 198 x 150 pixels" in in_windows
    assert "tile_resize" in in_windows
    assert "tile=512" not in in_windows


def test_windows_at_another_scale_than_in_training_are_noted() -> None:
    assert scale_note(Views(), 128) is None
    assert scale_note(Views(tile=512), None) is None
    assert scale_note(Views(tile=512, tile_resize=128), 128) is None
    note = scale_note(Views(tile=512), 128)
    assert note is not None
    assert "tile_resize=128" in note
