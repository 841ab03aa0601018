"""What a run shows of a scored split: reliability, examples, confusion, and the numbers behind each picture."""

import csv
import io
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from matplotlib.figure import Figure

from segmentation import batches, plots
from segmentation.calibration import Bins
from segmentation.datasets import Split
from segmentation.metrics import METRICS
from segmentation.models import Segmenter
from segmentation.resampling import RESAMPLES, Interval
from segmentation.scoring import Scores, evaluating
from segmentation.softmax import pixel_predictions
from studies import tracking


def log_scores(
    network: Segmenter, split: Split, scores: Scores, device: torch.device, examples: int, which: str
) -> None:
    """Log every picture of a split and its numbers, set the run's description, and print the figures.

    Args:
        network: the scored network, on the device.
        split: what it was scored on.
        scores: the result.
        device: where to compute the examples.
        examples: number of images to show.
        which: which state of which network, for the titles.
    """
    scored = f"{split.dataset}/{split.name}, {len(split)} images"
    title = f"{scored}\n{which}"
    bins, metrics, intervals = scores.reliability.bins(), scores.metrics(), scores.intervals()
    tracking.log_figure(plots.reliability(bins, title, intervals["ece"]), f"reliability/{split.name}.png")
    record = {"metrics": metrics, "intervals": intervals} | bins_record(bins, split)
    tracking.log_json(record, f"reliability/{split.name}.json")
    with tracking.artifact_file(f"reliability/{split.name}_histograms.npz") as file:
        scores.save_histograms(file, split.names)
    tracking.log_figure(plots.confusion(scores.confusion.counts, split.labels, title), f"confusion/{split.name}.png")
    tracking.log_text(_confusion_csv(scores), f"confusion/{split.name}.csv")
    for name, figure in example_figures(network, split, device, examples, which):
        tracking.log_figure(figure, f"examples/{split.name}_{name}.png")
    tracking.log_note(
        "\n".join([f"**{scored}: {which}**", "", *_metric_table(metrics, intervals), "", *_class_table(scores)])
    )
    print(f"\n{scored}: {which}. In brackets, 95 % intervals over images.")
    for name, metric in METRICS.items():
        print(f"  {name:20} {metrics[name]:.4f} {intervals[name]}   {metric.meaning}")


def bins_record(bins: Bins, split: Split) -> dict[str, object]:
    """The numbers of a reliability diagram, as they are drawn, with the rules that made them."""
    return {
        "accuracy_minus_confidence": bins.signed_gap(),
        "protocol": {
            "bins": len(bins.count), "edges": "(a, b], 0 in the first", "confidence": "top label, softmax in float32",
            "void": "not counted", "dataset": split.dataset, "split": split.name, "fingerprint": split.fingerprint,
            "intervals": f"95 % percentile, {RESAMPLES} resamples of the images",
            "images": len(split), "pixels": int(bins.count.sum()),
            "height": split.masks.shape[1], "width": split.masks.shape[2],
        },
        "edges": bins.edges.tolist(),
        "count": bins.count.tolist(),
        "confidence": bins.confidence.tolist(),
        "accuracy": bins.accuracy.tolist(),
    }  # fmt: skip


def example_figures(
    network: Segmenter, split: Split, device: torch.device, count: int, which: str
) -> Iterator[tuple[str, Figure]]:
    """Show images spread evenly over the split; yields a name and a picture for each."""
    chosen = np.unique(np.linspace(0, len(split) - 1, count).round().astype(int))
    for place, index in enumerate(chosen):
        images, masks = batches.gather(split, np.array([index]))
        with evaluating(network):
            pixels = pixel_predictions(network(images.to(device)), masks.to(device))
        yield f"{place}", plots.example(
            images[0].permute(1, 2, 0).numpy(), masks[0].numpy(), pixels.label[0].cpu().numpy(),
            pixels.confidence[0].cpu().numpy(), split.labels, f"{split.names[index]}, {which}",
        )  # fmt: skip


def _metric_table(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> list[str]:
    rows = [
        f"| {name} | {metrics[name]:.4f} | {intervals[name]} | {metric.meaning} |" for name, metric in METRICS.items()
    ]
    return ["| metric | value | 95 % over images | meaning |", "| --- | --- | --- | --- |", *rows]


def _class_table(scores: Scores) -> list[str]:
    rows = zip(scores.labels.names, scores.confusion.iou(), scores.confusion.class_accuracy(), strict=True)
    return ["| class | IoU | accuracy |", "| --- | --- | --- |"] + [
        f"| {name} | {iou:.3f} | {accuracy:.3f} |" for name, iou, accuracy in rows
    ]


def _confusion_csv(scores: Scores) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["true class \\ predicted class", *scores.labels.names])
    for name, row in zip(scores.labels.names, scores.confusion.counts.tolist(), strict=True):
        writer.writerow([name, *row])
    return text.getvalue()
