"""Pictures: numbers in, `Figure` out. Nothing is computed here, and pyplot's global state is never touched."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator, PercentFormatter

from segmentation.calibration import Bins
from segmentation.labels import VOID, Labels
from segmentation.resampling import Interval

BLUE, ORANGE, RED, GREY = "#2b6cb0", "#dd6b20", "#c53030", "#718096"
TRAIN_AND_VAL = {"train": BLUE, "val": ORANGE}


def curves(title: str, ylabel: str, series: Mapping[str, Sequence[float]], best_epoch: int | None = None) -> Figure:
    """Draw one line a series over epochs 1, 2, ..., with the best epoch marked.

    Args:
        title: above the plot.
        ylabel: what is drawn, with its unit.
        series: values by name; `train` and `val` have their colours.
        best_epoch: where to draw a dotted line, if anywhere.
    """
    figure, axes = _figure(6.4, 4.0)
    for name, values in series.items():
        epochs = np.arange(1, len(values) + 1)
        axes.plot(epochs, values, "o-", ms=3, lw=1.6, color=TRAIN_AND_VAL.get(name), label=name)
    if best_epoch is not None:
        axes.axvline(best_epoch, color=GREY, ls=":", lw=1.2, label=f"best epoch ({best_epoch})")
    axes.set(title=title, xlabel="epoch", ylabel=ylabel)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    return figure


def reliability(bins: Bins, title: str, ece: Interval | None = None) -> Figure:
    """Draw accuracy against confidence for each bin, the gap between them, and the share of pixels per bin.

    Args:
        bins: the numbers; drawn as they are.
        title: above the plot; say which split and which epoch.
        ece: 95 % interval of the expected calibration error, to be written beside it.
    """
    figure = Figure(figsize=(6.0, 6.4), layout="constrained", dpi=120)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    edges, filled = bins.edges, bins.count > 0
    left, width = edges[:-1][filled], 1 / len(bins.count)
    accuracy, confidence = bins.accuracy[filled], bins.confidence[filled]

    top.plot([0, 1], [0, 1], color=GREY, ls="--", lw=1, label="perfect calibration")
    top.bar(left, accuracy, width, align="edge", color=BLUE, alpha=0.75, edgecolor="white", label="accuracy")
    top.bar(
        left, confidence - accuracy, width, accuracy, align="edge", facecolor="none", edgecolor=RED, hatch="///",
        lw=0.8, label="gap",
    )  # fmt: skip
    top.plot(confidence, accuracy, "o", ms=4.5, color="black", label="at the bin's mean confidence")
    top.set(title=title, ylabel="accuracy of the pixels", xlim=(0, 1), ylim=(0, 1), aspect="auto")
    top.legend(loc="upper left", frameon=False, fontsize=9)
    top.text(
        0.98,
        0.04,
        f"ECE {bins.ece():.4f}{f' {ece}' if ece else ''}\nMCE {bins.mce():.4f}\n{_leaning(bins)}",
        transform=top.transAxes,
        ha="right",
        va="bottom",
        fontsize=10,
        bbox={"facecolor": "white", "edgecolor": "0.8", "alpha": 0.9},
    )

    bottom.bar(left, bins.share[filled], width, align="edge", color=GREY, edgecolor="white")
    for x, share in zip(left + width / 2, bins.share[filled], strict=True):
        bottom.annotate(
            f"{share:.0%}" if share >= 0.01 else "<1%", (x, share), (0, 2), textcoords="offset points", ha="center",
            fontsize=8,
        )  # fmt: skip
    bottom.set(xlabel="confidence", ylabel="share of pixels", ylim=(0, min(1.0, 1.25 * np.nanmax(bins.share)) or 1))
    bottom.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    bottom.set_xticks(np.linspace(0, 1, 11))
    for axes in (top, bottom):
        _clean(axes)
    return figure


def _leaning(bins: Bins) -> str:
    gap = bins.signed_gap()
    return f"{'over' if gap < 0 else 'under'}-confident by {abs(gap):.4f}"


def confusion(counts: np.ndarray, labels: Labels, title: str) -> Figure:
    """Draw a confusion matrix `(C, C)`, each row as shares of the true class's pixels.

    Args:
        counts: row true class, column predicted class.
        labels: names of the classes.
        title: above the plot.
    """
    classes = len(labels)
    longest = max(len(name) for name in labels.names)
    side = max(4.5, 0.42 * classes + 1.2) + 0.07 * longest
    figure, axes = _figure(side + 1.2, side)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(shares >= 0.005):
        share = shares[row, column]
        axes.text(
            column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8,
            color="white" if share > 0.55 else "black",
        )  # fmt: skip
    ticks = np.arange(classes)
    axes.set_xticks(ticks, labels.names, rotation=90 if classes > 6 or longest > 8 else 0, fontsize=9)
    axes.set_yticks(ticks, labels.names, fontsize=9)
    axes.set(title=title, xlabel="predicted class", ylabel="true class")
    figure.colorbar(image, ax=axes, fraction=0.046, format=PercentFormatter(1), label="share of the true class")
    return figure


def example(
    image: np.ndarray, truth: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, labels: Labels, title: str
) -> Figure:
    """Show one image, its true and predicted classes, the confidence, and where the prediction was wrong.

    Args:
        image: `(H, W, 3)` uint8.
        truth: `(H, W)` class indices, 255 is void.
        predicted: `(H, W)` class indices.
        confidence: `(H, W)` in [0, 1].
        labels: names and colours; the legend lists the classes that are present.
        title: above the panels.
    """
    height, width = truth.shape
    panel = 2.5
    figure = Figure(figsize=(5 * panel + 0.7, panel * height / width + 1.15), layout="constrained", dpi=110)
    panels = figure.subplots(1, 5)
    valid = truth != VOID
    wrong = valid & (predicted != truth)
    errors = (0.35 * image + 0.65 * 255).astype(np.uint8)
    errors[wrong] = (197, 48, 48)
    errors[~valid] = (224, 224, 224)
    share = wrong.sum() / valid.sum() if valid.any() else 0.0
    panels[0].imshow(image)
    panels[1].imshow(labels.colours(truth))
    panels[2].imshow(labels.colours(predicted))
    drawn = panels[3].imshow(confidence, vmin=0, vmax=1, cmap="viridis")
    panels[4].imshow(errors)
    names = ("image", "truth", "prediction", "confidence", f"wrong: {share:.1%} of pixels")
    for axes, name in zip(panels, names, strict=True):
        axes.set_title(name, fontsize=10)
        axes.set_axis_off()
    figure.colorbar(drawn, ax=panels[3], fraction=0.046, pad=0.03)
    present = sorted(set(np.unique(truth)) | set(np.unique(predicted)))
    handles = [
        Patch(
            facecolor=to_hex(tuple(labels.colours(np.array(index)) / 255)), edgecolor="0.5",
            label="void" if index == VOID else labels.names[index],
        )
        for index in present
    ]  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=min(len(handles), 12), frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def pixels(figure: Figure) -> np.ndarray:
    """A figure as an image `(H, W, 3)` uint8."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained", dpi=120)
    axes = figure.subplots()
    _clean(axes)
    return figure, axes


def _clean(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
