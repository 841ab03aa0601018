"""The plot of class frequencies shows each number."""

import numpy as np

from segmentation import plots


def test_each_class_has_a_dot_in_each_split_that_holds_it() -> None:
    train, val = np.array([0.7, 0.25, 0.05, 0.0]), np.array([0.9, 0.0, np.nan, 0.1])
    figure = plots.class_frequency(["sky", "road", "car", "sign"], {"train": train, "val": val})
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names[-1] == "sky"
    drawn = [
        {names[int(y)]: float(x) for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True)}
        for line in axes.lines
    ]  # fmt: skip
    assert drawn == [{"sky": 0.7, "road": 0.25, "car": 0.05}, {"sky": 0.9, "sign": 0.1}]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["train", "val"]
    plots.pixels(figure)
    assert not [tick.get_text() for tick in axes.get_xticklabels(minor=True) if tick.get_text()]
