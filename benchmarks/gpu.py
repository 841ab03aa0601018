"""Training and scoring on a GPU: speed, share of the bare step, memory, and the same results as on the CPU.

`python -m benchmarks gpu` is one script for a bare machine with CUDA: after `--seconds` no part starts, and those that
are left out are named. The default leaves two minutes of eight for the part that is running. `--device cpu --quick`
runs all of it at a tiny size, to check that it works.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from benchmarks.machine import machine, versions
from segmentation.classes import Classes
from segmentation.config import TrainingConfig
from segmentation.data import Split, load_split
from segmentation.devices import autocast, memory_format
from segmentation.models.segmenter import Segmenter, build
from segmentation.scoring.evaluate import evaluating
from segmentation.system.runtime import prepare_process
from segmentation.training import compilation
from segmentation.training.loop import Data, Epoch, train

CLASSES, SECONDS = 21, 360.0
TOLERANCE = {"val/loss": 2e-3, "val/pixel_accuracy": 2e-3, "val/mean_iou": 5e-3, "val/ece": 2e-3, "train/loss": 2e-3}
"""Largest absolute difference of a metric after an epoch from that of the CPU in float32."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table, and write `gpu.json`; returns 1 if a check failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 or cpu (cuda)")
    parser.add_argument("--quick", action="store_true", help="a tiny network and tiny images, to check that it runs")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help=f"no part starts after this time ({SECONDS:.0f})"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu.json"), metavar="FILE", help="result (gpu.json)")
    given = parser.parse_args(arguments)
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        print("This machine has no CUDA device: use --device cpu --quick to check the script.", file=sys.stderr)
        return 2
    prepare_process()
    if given.quick:
        compilation.BACKEND = "aot_eager"  # all but machine code, which takes a minute for each row
    bench = Bench(torch.device(given.device), given.quick, time.monotonic() + given.seconds)
    bench.run()
    given.output.write_text(json.dumps(bench.record(), indent=1) + "\n")
    print(f"{bench.table()}\n\nWritten: {given.output}")
    return 1 if bench.failures else 0


class Bench:
    """Rows of the table, checks and what was left out."""

    def __init__(self, device: torch.device, quick: bool, until: float) -> None:
        self.device, self.quick, self.until = device, quick, until
        self.rows: list[dict[str, Any]] = []
        self.checks: dict[str, Any] = {}
        self.failures: list[str] = []
        self.left_out: list[str] = []

    def run(self) -> None:
        """Checks first, then every size and precision, then compilation, which takes longest."""
        for about, check in (
            ("metrics of the CPU", self.same_as_cpu),
            ("deterministic=true twice", self.twice),
            ("two processes", self.two_processes),
        ):
            self.attempt(about, check)
        sides = (32, 48) if self.quick else (128, 512)
        for compiled in ("false", "true"):
            for side in sides:
                for precision in ("float32", "TF32", "bfloat16"):
                    about = f"{side} x {side}, {precision}{', compiled' if compiled == 'true' else ''}"
                    self.attempt(about, lambda side=side, precision=precision, c=compiled: self.row(side, precision, c))

    def attempt(self, about: str, work: Callable[[], object]) -> None:
        """Run one part if there is time; an error of one does not end the others."""
        if time.monotonic() > self.until:
            self.left_out.append(about)
            return
        print(f"{about} …", file=sys.stderr, flush=True)
        try:
            work()
        except Exception as error:
            self.failures.append(f"{about}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def config(self, **values: Any) -> TrainingConfig:
        """FCN-ResNet-50 with batches of 64; a small network in quick mode."""
        small = {"model": "lraspp_mobilenet_v3_large", "batch_size": 4}
        return TrainingConfig(**{"device": str(self.device)} | (small if self.quick else {}) | values)

    def row(self, side: int, precision: str, compiled: str) -> None:
        """Train and score at one size: images per second, beside bare steps and bare forward passes."""
        batches = 2 if self.quick else (24 if side == 128 else 4)
        config = self.config(precision="bfloat16" if precision == "bfloat16" else "float32", compile=compiled, epochs=3)
        data = Data(noise(batches * config.batch_size, side, "train"), noise(batches * config.batch_size, side, "val"))
        tf32(precision == "TF32")
        reset_memory(self.device)
        model = started(config)
        epochs = list(train(model, data, config))
        memory = peak_memory(self.device)
        seconds = statistics.median(epoch.seconds for epoch in epochs[1:])
        rate = statistics.median(epoch.images_per_second for epoch in epochs[1:])
        bare = bare_steps(started(config), data.train, config, self.device)
        forward = bare_forward(model, data.val, config, self.device)
        scoring = len(data.val) / (seconds - len(data.train) / rate)
        self.rows.append({
            "side": side, "precision": precision, "compiled": compiled == "true",
            "images_per_second": rate, "bare_images_per_second": bare, "share_of_bare": rate / bare,
            "scored_per_second": scoring, "forward_per_second": forward, "share_of_forward": scoring / forward,
            "memory_mb": memory, "compile_seconds": epochs[0].compile_seconds, "train_loss": epochs[-1].train_loss,
        })  # fmt: skip

    def same_as_cpu(self) -> None:
        """One epoch on a few images, on the CPU and here; each precision has the same metrics to the tolerance."""
        side, images = (32, 8) if self.quick else (64, 16)
        data = Data(noise(images, side, "train"), noise(images, side, "val"))
        base = self.config(epochs=1, batch_size=images // 2, learning_rate=0.001, deterministic=True)
        expected = metrics_of(base, data, device="cpu", precision="float32")
        differences = {}
        tf32(False)
        for precision in ("float32",) if self.device.type == "cpu" else ("float32", "bfloat16"):
            found = metrics_of(base, data, precision=precision)
            differences[precision] = {name: abs(found[name] - expected[name]) for name in TOLERANCE}
        self.checks["difference_from_cpu"] = differences
        for precision, each in differences.items():
            factor = 10 if precision == "bfloat16" else 1
            for name, difference in each.items():
                if not difference <= factor * TOLERANCE[name]:
                    self.failures.append(f"{name} in {precision} is {difference:.2g} from that of the CPU")

    def twice(self) -> None:
        """Two epochs, twice, with `deterministic=true`: equal to the last digit."""
        side, images = (32, 8) if self.quick else (128, 128)
        data = Data(noise(images, side, "train"), noise(images, side, "val"))
        config = self.config(epochs=2, deterministic=True, flip=0.5, **({} if self.quick else {"batch_size": 32}))
        first, second = (metrics_of(config, data) for _ in range(2))
        equal = {name: value == second[name] or math.isnan(value) for name, value in first.items()}
        self.checks["deterministic"] = all(equal.values())
        if not all(equal.values()):
            self.failures.append(f"deterministic=true: {[name for name in equal if not equal[name]]} differ")

    def two_processes(self) -> None:
        """Two ranks beside one process; needs two GPUs, or the CPU."""
        if self.device.type == "cuda" and torch.cuda.device_count() < 2:
            self.left_out.append("two processes: there is one GPU")
            return
        images, side = (8, 32) if self.quick else (128, 64)
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), noise(images, side, "train"), noise(images, side, "val"))
            values = {
                "dataset": "folder", "data_dir": folder, "cache_dir": f"{folder}/cache", "epochs": 1,
                "device": self.device.type, "resize": side, "crop": side, "batch_size": images // 2,
                "freeze_batch_norm": True, "precision": "float32", "learning_rate": 0.001,
            }  # fmt: skip
            config = self.config(**values)
            data = Data(load_split(config, "train"), load_split(config, "val"))
            one, two = (metrics_of(replace(config, processes=processes), data) for processes in (1, 2))
        self.checks["two_processes"] = {name: abs(two[name] - one[name]) for name in ("train/loss", "val/loss")}
        if not max(self.checks["two_processes"].values()) < 0.05:  # batch norm of the head sees half of the batch
            self.failures.append(f"two processes differ from one: {self.checks['two_processes']}")

    def record(self) -> dict[str, Any]:
        """Everything that was measured, as JSON data."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "CPU"
        return {
            "device": name, "quick": self.quick, "machine": machine(), "versions": versions(), "rows": self.rows,
            "checks": self.checks, "failures": self.failures, "left_out": self.left_out,
        }  # fmt: skip

    def table(self) -> str:
        """The rows as Markdown, then the checks."""
        head = "| size | precision | compiled | images/s | of bare steps | scored/s | of forward | memory | compiling |"
        lines = [head, "|" + " --- |" * head.count(" | ") + " --- |"]
        for row in self.rows:
            lines.append(
                f"| {row['side']} | {row['precision']} | {'yes' if row['compiled'] else 'no'} | "
                f"{row['images_per_second']:.4g} | {row['share_of_bare']:.3f} | {row['scored_per_second']:.4g} | "
                f"{row['share_of_forward']:.3f} | {row['memory_mb']:,.0f} MB | {row['compile_seconds']:.0f} s |"
            )
        lines += ["", *(f"- {name}: {json.dumps(value)}" for name, value in self.checks.items())]
        lines += [f"- left out: {each}" for each in self.left_out] + [f"- FAILED: {each}" for each in self.failures]
        return "\n".join(lines)


def noise(images: int, side: int, name: str) -> Split:
    """Images whose color follows their class, with noise, and a tenth of the pixels void."""
    random = np.random.default_rng(len(name))
    masks = random.integers(0, CLASSES, (images, 4, 4), np.uint8).repeat(side // 4, 1).repeat(side // 4, 2)
    colors = random.integers(0, 200, (CLASSES, 3), np.uint8)
    pixels = colors[masks] + random.integers(0, 56, (images, side, side, 3), np.uint8)
    masks[random.random(masks.shape) < 0.1] = 255
    names = tuple(map(str, range(images)))
    labels = Classes.named(*(f"class {number}" for number in range(CLASSES)))
    return Split("noise", name, "", labels, names, pixels, masks, name, names)


def write(folder: Path, *splits: Split) -> None:
    """Write splits as PNG files, so that another process can read them."""
    for split in splits:
        for kind, arrays in (("images", split.images), ("masks", split.masks)):
            (folder / split.name / kind).mkdir(parents=True)
            for name, array in zip(split.names, arrays, strict=True):
                Image.fromarray(array).save(folder / split.name / kind / f"{name}.png")
    (folder / "classes.txt").write_text("\n".join(splits[0].labels.names))


def started(config: TrainingConfig) -> Segmenter:
    """A model with the random weights of the seed."""
    torch.manual_seed(config.seed)
    return build(config, CLASSES)


def metrics_of(config: TrainingConfig, data: Data, **values: Any) -> dict[str, float]:
    """Metrics of the last epoch of a run, with some fields replaced."""
    config = replace(config, **values)
    torch.manual_seed(config.seed)
    last: Epoch = list(train(build(config, len(data.train.labels)), data, config))[-1]
    return {name: value for name, value in last.metrics().items() if name not in ("epoch_seconds", "images_per_second")}


def tf32(enabled: bool) -> None:
    """Compute float32 convolutions and matrix products in TF32, or not."""
    precision = "tf32" if enabled else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]


def bare_steps(model: Segmenter, split: Split, config: TrainingConfig, device: torch.device) -> float:
    """Images per second of forward, backward and update on one batch that stays on the device."""
    network = model.to(device).to(memory_format=memory_format(device, config.channels_last)).train()
    images, masks = (each.to(device) for each in split.gather(np.arange(config.batch_size)))
    precision = torch.bfloat16 if config.precision == "bfloat16" else torch.float32
    optimizer = torch.optim.SGD(network.parameters(), 1e-4, 0.9, fused=device.type == "cuda")
    call = torch.compile(network.outputs, backend=compilation.BACKEND) if config.compile == "true" else network.outputs

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(device, precision):
            logits = call(images)["out"]
        F.cross_entropy(logits.float(), masks.long(), ignore_index=255).backward()
        optimizer.step()

    return rate_of(step, len(split) // config.batch_size, config.batch_size, device)


def bare_forward(model: Segmenter, split: Split, config: TrainingConfig, device: torch.device) -> float:
    """Images per second of forward passes in float32 on one batch that stays on the device."""
    images, _ = (each.to(device) for each in split.gather(np.arange(config.batch_size)))
    with evaluating(model):
        return rate_of(lambda: model(images), len(split) // config.batch_size, config.batch_size, device)


def rate_of(work: Callable[[], object], times: int, images: int, device: torch.device) -> float:
    """Images per second, the median of three rounds of `times` calls, after a warm-up."""
    cudnn = torch.backends.cudnn
    before, cudnn.benchmark, rates = cudnn.benchmark, True, []
    for number in range(4):
        synchronize(device)
        begun = time.perf_counter()
        for _ in range(2 if number == 0 else times):
            work()
        synchronize(device)
        rates.append(times * images / (time.perf_counter() - begun))
    cudnn.benchmark = before
    return statistics.median(rates[1:])


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def reset_memory(device: torch.device) -> None:
    """Forget the peak."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> float:
    """Peak memory of tensors on the device in MB; 0 on the CPU."""
    return torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else 0.0
