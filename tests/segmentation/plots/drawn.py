"""Numbers to plot, and readers of the drawn figures."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from segmentation import plots
from segmentation.scoring.reliability import Bins

NO_PIXELS = Bins(np.zeros(10, np.int64), np.zeros(10), np.zeros(10, np.int64))
RUNS = [
    f"{model} · {weights} · camvid · lr {rate:g} · wd {decay:g}"
    for model, weights in (
        ("lraspp_mobilenet_v3_large", "none"),
        ("deeplabv3_mobilenet_v3_large", "…/runs/0123456789abcdef"),
    )
    for rate, decay in ((0.1, 0.0), (0.01, 1e-4), (0.003, 1e-5), (3e-5, 0.01))
]
"""Eight names as long as those of real runs."""
NOTE = (
    "101 images, 1,543,221 pixels · 10 bins (a, b] · 128 × 128, bilinear · void not counted · softmax of float32 logits"
)


def bins(scale: int = 1) -> Bins:
    """Ten bins, five of them empty."""
    count = scale * np.array([0, 0, 0, 4, 10, 0, 20, 0, 30, 936])
    confidence = np.array([0, 0, 0, 0.35, 0.45, 0, 0.66, 0, 0.84, 0.98])
    accuracy = np.array([0, 0, 0, 0.5, 0.4, 0, 0.5, 0, 0.9, 0.95])
    return Bins(count, confidence * count, np.round(accuracy * count).astype(np.int64))


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for axes in figure.axes for text in axes.texts)


def legend(figure: Figure) -> list[str]:
    """Entries of the legend below the plots, each in one line."""
    return [text.get_text().replace("\n", " ") for text in figure.legends[0].get_texts()]


def strokes(axes: Axes) -> list[list[list[float]]]:
    """Both ends of each stroke of an interval, without those that are NaN."""
    return [
        segment.tolist()
        for collection in axes.collections
        if isinstance(collection, LineCollection)
        for segment in collection.get_segments()
        if len(segment)
    ]


def assert_fits(figure: Figure) -> None:
    """No text is outside the figure, and legend and note overlap neither the plots nor each other."""
    plots.pixels(figure)
    width, height = figure.bbox.size
    above = [box for axes in figure.axes if (box := axes.get_tightbbox()) is not None]
    below = [text.get_window_extent() for text in figure.texts if text is not title(figure)]
    below += [legend.get_window_extent() for legend in figure.legends]
    for box in above + below:
        assert box.x0 > -2, box
        assert box.y0 > -2, box
        assert box.x1 < width + 2, box
        assert box.y1 < height + 2, box
    for index, box in enumerate(below):
        assert all(box.y1 <= other.y0 + 2 for other in above)
        assert not any(box.shrunk(0.98, 0.98).overlaps(other) for other in below[:index])


def title(figure: Figure) -> object:
    return figure._suptitle
