"""What a plot shows, read back from its axes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

RATES, DECAYS = np.array([1e-4, 1e-3, 1e-2, 5e-2]), np.array([0, 1e-3, 1e-2, 5e-2])
GRID = np.arange(16.0).reshape(4, 4)


def ends(line: Line2D) -> tuple[list[float], list[float]]:
    return np.asarray(line.get_xdata(), float).tolist(), np.asarray(line.get_ydata(), float).tolist()


def marked(axes: Axes, marker: str) -> list[Line2D]:
    return [line for line in axes.lines if line.get_marker() == marker]
