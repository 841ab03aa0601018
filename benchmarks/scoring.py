"""Time and memory of scoring a split, beside torchmetrics and netcal: `python benchmarks/scoring.py`.

Every row is a process of its own, which scores random logits of 11 classes at 128 x 128, 101 images (the validation
split of CamVid) and 10 and 100 times as many. Memory is the process's peak beyond what it took with everything imported
and one batch in place. Times are ratios to the softmax over the classes alone, which nobody can do without.
"""

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

IMAGES, BATCH, CLASSES, SIDE = 101, 16, 11, 128
TOOLS = ("softmax alone", "this project", "this project, with intervals", "torchmetrics ECE", "netcal ECE")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, nargs="+", default=[1, 10, 100], help="multiples of 101 images")
    parser.add_argument("--tool", choices=TOOLS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.tool:
        print(*_measure(arguments.tool, IMAGES * arguments.times[0]))
        return
    print("| tool | images | time a pixel, softmax alone = 1 | memory, MB | ECE |\n| --- | --- | --- | --- | --- |")
    for times in arguments.times:
        alone = None
        for tool in TOOLS:
            command = [sys.executable, __file__, "--times", str(times), "--tool", tool]
            done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent)
            if done.returncode:
                sys.exit(f"{tool} failed: {done.stderr}")
            seconds, megabytes, ece = map(float, done.stdout.split())
            alone = alone or seconds
            print(f"| {tool} | {IMAGES * times} | {seconds / alone:.1f} | {megabytes:.0f} | {ece:.5f} |", flush=True)


def _measure(tool: str, images: int) -> tuple[float, float, float]:
    """Seconds, megabytes and ECE."""
    import numpy as np
    import torch
    from netcal.metrics import ECE
    from torchmetrics.classification import MulticlassCalibrationError

    from segmentation.labels import Labels
    from segmentation.scoring import Scores

    torch.manual_seed(0)
    logits = 3 * torch.randn(BATCH, CLASSES, SIDE, SIDE)
    labels = torch.distributions.Categorical(logits=0.7 * logits.movedim(1, -1)).sample()
    labels[:, :4] = 255
    sizes = [min(BATCH, images - start) for start in range(0, images, BATCH)]
    labels_of_classes = Labels.named(*(f"class {index}" for index in range(CLASSES)))

    def softmax_alone() -> float:
        for size in sizes:
            logits[:size].softmax(1).max(1)
        return float("nan")

    def ours(with_intervals: bool) -> float:
        scores = Scores(labels_of_classes)
        for size in sizes:
            scores.update(logits[:size], labels[:size])
        if with_intervals:
            scores.intervals()
            scores.groups()
        return scores.metrics()["ece"]

    def torchmetrics() -> float:
        metric = MulticlassCalibrationError(CLASSES, n_bins=10, ignore_index=255)
        for size in sizes:
            metric.update(logits[:size].softmax(1), labels[:size])
        return float(metric.compute())

    def netcal() -> float:
        confidences, rights = [], []
        for size in sizes:
            confidence, label = logits[:size].softmax(1).max(1)
            valid = labels[:size] != 255
            confidences.append(confidence[valid].numpy())
            rights.append((label == labels[:size])[valid].numpy())
        return float(ECE(bins=10).measure(np.concatenate(confidences), np.concatenate(rights)))

    run: dict[str, Callable[[], float]] = {
        TOOLS[0]: softmax_alone, TOOLS[1]: lambda: ours(False), TOOLS[2]: lambda: ours(True),
        TOOLS[3]: torchmetrics, TOOLS[4]: netcal,
    }  # fmt: skip
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    ece = run[tool]()
    seconds = time.perf_counter() - started
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024, ece


if __name__ == "__main__":
    main()
