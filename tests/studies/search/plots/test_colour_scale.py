"""Text on every colour of the scale is readable."""

import matplotlib
import numpy as np
from matplotlib.colors import to_rgb

from studies.search.plots.colour_scale import text_colour


def test_text_can_be_read_on_every_colour() -> None:
    def luminance(colour: tuple[float, ...]) -> float:
        """Of WCAG 2.1, section 1.4.3."""
        channels = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in colour[:3]]
        return float(np.dot(channels, (0.2126, 0.7152, 0.0722)))

    for shade in matplotlib.colormaps["viridis"](np.linspace(0, 1, 256)):
        dark, bright = sorted([luminance(tuple(shade)), luminance(to_rgb(text_colour(shade)))])
        assert (bright + 0.05) / (dark + 0.05) >= 4.5
