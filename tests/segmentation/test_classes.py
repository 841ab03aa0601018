import numpy as np
import pytest

from segmentation.classes import VOID, Classes, voc_palette
from segmentation.errors import InputError


def test_voc_palette_starts_as_published() -> None:
    assert voc_palette(6) == ((0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128))
    assert voc_palette(21)[20] == (0, 64, 128)
    assert len(set(voc_palette(VOID))) == VOID


def test_colours_paint_classes_and_void() -> None:
    classes = Classes(("a", "b"), ((1, 2, 3), (4, 5, 6)))
    assert classes.colours(np.array([[0, 1, VOID]], np.uint8)).tolist() == [[[1, 2, 3], [4, 5, 6], [224, 224, 224]]]


def test_a_black_background_is_light_in_plots() -> None:
    mask = np.array([0, 1, VOID], np.uint8)
    voc = Classes.named("background", "aeroplane")
    assert voc.in_plots(mask).tolist() == [[242, 242, 242], [128, 0, 0], [176, 176, 176]]
    assert voc.colours(mask)[0].tolist() == [0, 0, 0], "as in files of masks"
    for others in (Classes(("background", "b"), ((9, 9, 9), (4, 5, 6))), Classes.named("road", "car")):
        assert (others.in_plots(mask)[:2] == others.colours(mask)[:2]).all()


@pytest.mark.parametrize(("names", "message"), [(["only"], "this one has 1"), (["a", "b", "a"], "repeated: a")])
def test_classes_must_be_two_and_differ(names: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classes.named(*names)


def test_the_background_is_the_class_of_that_name() -> None:
    assert Classes.named("road", "background").background == 1
    assert Classes.named("road", "car").background is None
