"""Bars of hyperparameter importance."""

from collections.abc import Mapping

from matplotlib.figure import Figure

from segmentation.plots.style import BLUE, LABEL, LINE, figure_with_axes, head, in_percent, wrapped


def importances(fractions: Mapping[str, float], title: str) -> Figure:
    """Draw one bar per hyperparameter, the most important on top.

    Args:
        fractions: importance of each hyperparameter, in [0, 1]; they sum to 1.
        title: title of the figure.
    """
    ranked = sorted(fractions.items(), key=lambda item: item[1])
    names = [wrapped(name, 2.2, LABEL) for name, _ in ranked]
    tallest = max((name.count("\n") + 1 for name in names), default=1)
    figure, axes = figure_with_axes(6.4, 0.7 + max(2, len(names)) * (tallest * LABEL * LINE + 0.16))
    for index, (_, fraction) in enumerate(ranked):
        axes.barh(index, fraction, 0.7, color=BLUE)
        axes.annotate(
            f"{fraction:.0%}" if fraction >= 0.01 or fraction == 0 else "<1%", (fraction, index), (4, 0),
            textcoords="offset points", va="center", fontsize=LABEL,
        )  # fmt: skip
    axes.set_yticks(range(len(names)), names, fontsize=LABEL)
    axes.set(xlabel="importance (PED-ANOVA)", xlim=(0, 1.12 * max(fractions.values(), default=0) or 1))
    axes.tick_params(axis="y", length=0)
    in_percent(axes.xaxis)
    head(figure, title)
    return figure
