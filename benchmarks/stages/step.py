"""Alternatives for a training step on a CPU: memory, threads, memory format, precision and compilation."""

import os
import shutil
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from benchmarks.case import Case
from benchmarks.machine import machine
from benchmarks.rounds import Contestant

TITLE = "Alternatives for a training step"
CLASSES, SIDE, BATCH = 11, 128, 16


class Way(NamedTuple):
    """Options of a step."""

    memory_kept: bool = True
    """Whether the process keeps freed memory, as our commands do, or returns it, as glibc does by default."""
    brief_waits: bool = True
    """Whether threads sleep soon after a loop, as in our commands, or wait for milliseconds."""
    channels_last: bool = True
    precision: str = "float32"
    compiled: bool = False


OURS = "this project"
WAYS = {
    OURS: Way(),
    "freed memory returned": Way(memory_kept=False),
    "long thread waits": Way(brief_waits=False),
    "channels first": Way(channels_last=False),
    "bfloat16": Way(precision="bfloat16"),
    "torch.compile": Way(compiled=True),
}


def cases(quick: bool) -> list[Case]:
    """Both models; `torch.compile` where there is a C++ compiler, its own time not counted.

    bfloat16 is tried on the large network only if the CPU has instructions for it: others take minutes for a step.
    """
    models = {"lraspp_mobilenet_v3_large": 1} if quick else {"fcn_resnet50": 1, "lraspp_mobilenet_v3_large": 2}
    has_bfloat16 = bool({"avx512_bf16", "amx"} & set(machine().get("features", ())))
    ways = {name: way for name, way in WAYS.items() if _is_tried(way, quick)}
    return [
        Case(
            f"{model}, batches of {BATCH} at {SIDE} x {SIDE}",
            "images",
            steps * BATCH,
            [Contestant(name, "ours" if name == OURS else "peer", prepare, (model, steps, way))
             for name, way in ways.items() if model != "fcn_resnet50" or way.precision == "float32" or has_bfloat16],
            same,
            rounds=4,
        )
        for model, steps in models.items()
    ]  # fmt: skip


def _is_tried(way: Way, quick: bool) -> bool:
    if quick:
        return way.precision == "float32" and not way.compiled
    return not way.compiled or shutil.which("c++") is not None


def same(values: Mapping[str, Any]) -> str:
    """Check that the loss of the first step is the same for all."""
    ours = values[OURS]["loss"]
    apart = max(abs(each["loss"] / ours - 1) for each in values.values())
    assert apart < 0.02, values
    notes = f"The loss of the first step is the same to {apart:.1e}; dropout draws differently in other memory formats."
    if "torch.compile" in values:
        notes += f" Compiling took {values['torch.compile']['compiling']:.0f} s before the first round."
    return notes


def prepare(model: str, steps: int, way: Way) -> Callable[[], dict[str, float]]:
    """Forward, backward, step on the same batch."""
    from segmentation.system.runtime import keep_freed_memory, wait_briefly

    if way.memory_kept:
        keep_freed_memory()
    if way.brief_waits:
        wait_briefly()
    import time

    import torch
    from torch.nn import functional as F

    from segmentation.config import ModelConfig
    from segmentation.models.segmenter import build

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(0)
    layout = torch.channels_last if way.channels_last else torch.contiguous_format
    network = build(ModelConfig(model=model), CLASSES).network.to(memory_format=layout)  # type: ignore[arg-type]
    images = torch.randn(BATCH, 3, SIDE, SIDE).contiguous(memory_format=layout)
    masks = torch.randint(0, CLASSES, (BATCH, SIDE, SIDE))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
    network.train()
    forward = torch.compile(network) if way.compiled else network
    precision = torch.autocast("cpu", torch.bfloat16, enabled=way.precision == "bfloat16")

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        with precision:
            logits = forward(images)["out"]
        loss = F.cross_entropy(logits.float(), masks)
        loss.backward()
        optimizer.step()
        return loss.item()

    started = time.perf_counter()
    first = {"loss": step()}
    if way.compiled:
        first["compiling"] = time.perf_counter() - started

    def run() -> dict[str, float]:
        for _ in range(steps):
            step()
        return first

    return run
