"""The Pareto front separates dominated trials, and its names are readable."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.text import Annotation

from studies.search import plots
from tests.segmentation.plots.drawn import RUNS, assert_fits, legend, texts
from tests.studies.search.plots.drawn import ends


def dominated(x: np.ndarray, y: np.ndarray, higher: tuple[bool, bool]) -> np.ndarray:
    points = np.stack([x, y], axis=1) * np.where(higher, 1, -1)
    return np.array([any((other >= point).all() and (other > point).any() for other in points) for point in points])


@pytest.mark.parametrize("higher", [(True, True), (True, False), (False, True), (False, False)])
def test_the_staircase_separates_dominated_trials(higher: tuple[bool, bool]) -> None:
    x, y = np.random.default_rng(5).random((2, 25))
    front = ~dominated(x, y, higher)
    names = [f"lr {place}" for place in range(25)]
    figure = plots.pareto_front(x, y, front, names, "mIoU", "ECE", "t", higher)
    (axes,) = figure.axes
    stairs, others = axes.lines
    assert ends(others) == (x[~front].tolist(), y[~front].tolist())
    assert sorted(ends(stairs)[0]) == ends(stairs)[0] == sorted(x[front])
    assert stairs.get_drawstyle() in ("steps-pre", "steps-post")
    for (left, first), (right, second) in pairwise(zip(*ends(stairs), strict=True)):
        # The corner of a step is dominated by both its ends.
        corner = (left, second) if stairs.get_drawstyle() == "steps-pre" else (right, first)
        assert dominated(np.array([left, right, corner[0]]), np.array([first, second, corner[1]]), higher)[2]
    assert axes.get_xlabel() == f"mIoU ({'higher' if higher[0] else 'lower'} is better)"
    assert axes.get_ylabel() == f"ECE ({'higher' if higher[1] else 'lower'} is better)"
    assert sorted(texts(figure).split("\n")) == sorted(name for name, kept in zip(names, front, strict=True) if kept)
    assert legend(figure) == [f"on the Pareto front ({front.sum()})", f"dominated ({(~front).sum()})"]
    assert_fits(figure)


@pytest.mark.parametrize(("higher", "count"), [((True, True), 8), ((False, True), 12)])
def test_names_on_the_front_overlap_neither_each_other_nor_points(higher: tuple[bool, bool], count: int) -> None:
    turn = np.linspace(0.1, 1.4, count)
    x, y = np.cos(turn) * (1 if higher[0] else -1), np.sin(turn)
    names = [RUNS[place % 8] if count < 12 else f"trial {place} · lr 0.00123 · wd 1e-05" for place in range(count)]
    figure = plots.pareto_front(x, y, np.ones(count, bool), names, "a", "b", "t", higher)
    assert_fits(figure)
    (axes,) = figure.axes
    # Without the lines to the points.
    boxes = [super(Annotation, text).get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert len(boxes) == count
    for place, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:place])
        assert not any(box.contains(*spot) for spot in axes.transData.transform(np.stack([x, y], axis=1)))
        assert box.x0 > 0
        assert box.x1 < figure.bbox.width


@pytest.mark.parametrize("count", [0, 1])
def test_a_front_of_few_trials_fits(count: int) -> None:
    some = np.ones(count)
    assert_fits(plots.pareto_front(some, some, some == 1, RUNS[:count], "a", "b", "t", (True, False)))
    none = plots.pareto_front(
        np.ones(2), np.arange(2.0), np.zeros(2, bool), ["a", "b"], RUNS[0], RUNS[1], "t", (True, False)
    )
    assert texts(none) == ""
    assert_fits(none)
