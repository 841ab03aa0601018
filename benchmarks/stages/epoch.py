"""What a run costs beyond its steps, as on a GPU: the host's work between the steps, and the end of an epoch.

The work of the device is replaced by a stub. In the first case a step is a wait of 5 ms that runs beside the host, as a
queued step on a GPU does. In the second case steps and forward passes cost nothing.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.case import Case, Goal
from benchmarks.rounds import Contestant
from benchmarks.stages.training import QUIET, Run, use_all_cores
from benchmarks.stages.training import _own_place as own_place
from segmentation.system.runtime import prepare_process

if TYPE_CHECKING:
    import torch

    from segmentation.data import Split
    from studies.config import TrainConfig

TITLE = "Beyond the steps of an epoch, as on a GPU"
SIDE, BATCH, CLASSES = 128, 64, 21
STEP = 0.005
"""Seconds of a step on the stub of a GPU."""
EPOCH_STEPS = 50
"""Steps of an epoch in the first case."""
EPOCH_SECONDS = 0.3
"""Goal for an epoch beyond its steps and forward passes."""
OURS, STUB = "this project", "the stub alone"
COUNTING, INSIDE = "counting the pixels alone", "the same, checkpoint written inside the epoch"


def cases(quick: bool) -> list[Case]:
    """Both cases; the checkpoint is that of FCN-ResNet-50, and the validation split has the size of VOC 2007's."""
    steps, images, epochs = (4, 32, 1) if quick else (100, 213, 5)
    name = "lraspp_mobilenet_v3_large" if quick else "fcn_resnet50"
    return [
        Case(
            f"Steps of {1000 * STEP:.0f} ms, batches of {BATCH} at {SIDE} x {SIDE}, flips, zooms and color jitter",
            "steps",
            steps,
            [
                Contestant(OURS, "ours", steps_of_this_project, (steps,)),
                Contestant(STUB, "limit", stub_alone, (steps,)),
            ],
            _same_steps,
            [Goal(STUB, 0.95)],
        ),
        Case(
            f"Epochs of {name} without steps and forward passes, {images} validation images",
            "epochs",
            epochs,
            [
                Contestant(OURS, "ours", epochs_of_this_project, (name, images, epochs, True), QUIET),
                Contestant(COUNTING, "limit", counting_alone, (images, epochs)),
                Contestant(INSIDE, "peer", epochs_of_this_project, (name, images, epochs, False), QUIET),
            ],
            _same_epochs,
            rounds=3,
        ),
    ]


def _same_steps(returned: Mapping[str, Any]) -> str:
    steps = {name: each["steps"] for name, each in returned.items()}
    assert len(set(steps.values())) == 1, steps
    return (
        f"Both wait for {steps[OURS]} steps. This project draws, gathers and hands over each batch; augmentation is "
        f"work of the device and replaced with it, as are the calls that queue the layers. An epoch has at most "
        f"{EPOCH_STEPS} steps; its start, where the first batch is gathered, counts."
    )


def _same_epochs(returned: Mapping[str, Any]) -> str:
    ours, inside = returned[OURS], returned[INSIDE]
    assert ours["metrics"] == inside["metrics"], (ours["metrics"], inside["metrics"])
    found, counting = ours["seconds"], returned[COUNTING]["seconds"]
    verdict = "within" if found <= EPOCH_SECONDS else "beyond"
    return (
        f"Both log the same metrics, and leave the same checkpoints of {ours['megabytes']:.0f} MB. An epoch of this "
        f"project takes {found:.2f} s, {verdict} the goal of {EPOCH_SECONDS} s; {counting:.2f} s of it are the "
        f"counting of pixels, which a GPU does itself. Each epoch scores, computes 1,000 resamples for the interval, "
        f"logs, and saves; one of five draws plots."
    )


def _split(images: int) -> "Split":
    """Noise, with masks in large blocks."""
    import numpy as np

    from segmentation.classes import Classes
    from segmentation.data import Split

    random = np.random.default_rng(0)
    masks = random.integers(0, CLASSES, (images, SIDE // 32, SIDE // 32), np.uint8).repeat(32, 1).repeat(32, 2)
    names = tuple(f"{number}" for number in range(images))
    labels = Classes.named(*(f"class {number}" for number in range(CLASSES)))
    pixels = random.integers(0, 256, (images, SIDE, SIDE, 3), np.uint8)
    return Split("noise", "val", "", labels, names, pixels, masks, "", names)


def _config(**values: Any) -> "TrainConfig":
    from studies.config import TrainConfig

    return TrainConfig(**{"batch_size": BATCH, "device": "cpu"} | values)


class Gpu:
    """A stub that only waits: work that is queued ends one step after the work before it."""

    def __init__(self) -> None:
        self.end = 0.0

    def queue(self) -> float:
        """Queue a step; returns when it will end."""
        self.end = max(self.end, time.perf_counter()) + STEP
        return self.end

    @staticmethod
    def wait(until: float) -> None:
        """Wait for the end of a step."""
        while (left := until - time.perf_counter()) > 0:
            time.sleep(left)


def stub_alone(steps: int) -> Run:
    """Queue each step while the one before it runs."""
    gpu = Gpu()

    def run() -> dict[str, Any]:
        before = 0.0
        for _ in range(steps):
            end = gpu.queue()
            gpu.wait(before)
            before = end
        gpu.wait(before)
        return {"steps": steps}

    return run


AUGMENTED = {"flip": 0.5, "scale_min": 0.8, "scale_max": 1.25, "color_jitter": 0.3}


def steps_of_this_project(steps: int) -> Run:
    """The loop of an epoch, with a step that is queued on the stub and a loss that is known when it ends."""
    prepare_process()
    use_all_cores()
    import torch

    from segmentation.data.training_images import TrainingImages
    from segmentation.models.segmenter import build
    from segmentation.training import loop
    from segmentation.training.augmentation import Augmentation
    from segmentation.training.process_group import ProcessGroup
    from segmentation.training.step import StepResult, TrainingStep

    config, gpu = _config(model="lraspp_mobilenet_v3_large", **AUGMENTED), Gpu()
    split, done = _split(min(EPOCH_STEPS, steps) * BATCH), []
    zero = torch.zeros((), dtype=torch.float64)

    class Step(TrainingStep):
        def __call__(self, images: torch.Tensor, *rest: Any) -> StepResult:
            loss = torch.zeros(())
            loss.end = gpu.queue()  # type: ignore[attr-defined]
            done.append(len(images))
            return StepResult(zero, zero.long(), zero.long() + 1, loss)

    def copied(loss: torch.Tensor) -> Callable[[], float]:
        def read() -> float:
            gpu.wait(loss.end)  # type: ignore[attr-defined]
            return 0.0

        return read

    loop.copied_to_host = copied  # type: ignore[attr-defined]
    Augmentation.apply = lambda self, images, masks, draws: (images, masks)  # type: ignore[method-assign]
    step = Step(build(config, CLASSES), config, torch.device("cpu"), ProcessGroup())

    def run() -> dict[str, Any]:
        done.clear()
        for number in range(steps * BATCH // len(split)):
            loop._train_epoch(step, TrainingImages(config, split), config, ProcessGroup(), number + 1, None)
        return {"steps": len(done)}

    return run


def _logits(images: int) -> "torch.Tensor":
    """Logits in smooth patches, as a network that resizes its output gives them."""
    import torch
    from torch.nn import functional as F

    small = 3 * torch.randn(images, CLASSES, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    return F.interpolate(small, (SIDE, SIDE), mode="bilinear")


def counting_alone(images: int, epochs: int) -> Run:
    """Count the pixels of the validation split, batch by batch."""
    prepare_process()
    use_all_cores()
    import numpy as np

    from segmentation.data.batches import index_batches
    from segmentation.scoring.scores import Scores

    split, logits = _split(images), _logits(2 * BATCH)

    def run() -> dict[str, Any]:
        started = time.perf_counter()
        for _ in range(epochs):
            scores = Scores(split.labels)
            for indices in index_batches(np.arange(images), BATCH):
                _, masks = split.gather(indices)
                scores.update(logits[: len(indices)], masks)
        return {"seconds": (time.perf_counter() - started) / epochs}

    return run


@contextmanager
def _without_steps(model: Any, logits: "torch.Tensor") -> Iterator[None]:
    """Inside the `with`, a training epoch does nothing, and a forward pass returns these logits."""
    from segmentation.training import loop

    train_epoch = loop._train_epoch
    loop._train_epoch = lambda *_: (1.0, 0.5, 0.01)
    model.forward = lambda images: logits[: len(images)]
    try:
        yield
    finally:
        loop._train_epoch = train_epoch
        del model.forward


def epochs_of_this_project(name: str, images: int, epochs: int, by_thread: bool) -> Run:
    """Epochs of `train` with their records in MLflow, their checkpoints and their plots."""
    prepare_process()
    use_all_cores()
    place = own_place()
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{place / 'mlflow.db'}"
    import torch

    from segmentation.models.segmenter import build
    from segmentation.training import checkpoints, optimizers
    from segmentation.training.loop import Data, train
    from studies import tracking
    from studies.runs.training import log_epoch_plots

    config = _config(model=name, epochs=10**6, precision="float32", plot_every=0)
    split, logits, model = _split(images), _logits(2 * BATCH), build(config, CLASSES)
    build_optimizer = optimizers.build_optimizer

    def with_momentum(*of_model: Any) -> torch.optim.Optimizer:
        optimizer = build_optimizer(*of_model)
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        return optimizer

    optimizers.build_optimizer = with_momentum
    stack = ExitStack()
    atexit.register(stack.close)
    run_id = stack.enter_context(tracking.tracked_run(config.experiment, "benchmark", {}))
    stack.enter_context(_without_steps(model, logits))
    trained, folder = train(model, Data(split, split), config), place / run_id
    writer = checkpoints.Writer(folder)

    def run() -> dict[str, Any]:
        started, metrics = time.perf_counter(), {}
        for number in range(epochs):
            epoch = next(trained)
            metrics = epoch.metrics()
            tracking.log_metrics(metrics, step=epoch.number)
            if by_thread:
                writer.save(epoch.checkpoint, epoch.is_best)
            else:
                checkpoints.save(epoch.checkpoint, folder / "last.pt")
            if number == 0:
                log_epoch_plots(model, epoch, split, config, torch.device("cpu"))
        return {
            "seconds": (time.perf_counter() - started) / epochs, "megabytes": _size(folder) / 1e6,
            "metrics": {key: value for key, value in metrics.items() if key.startswith("val/") and value == value},
        }  # fmt: skip

    return run


def _size(folder: Path) -> int:
    return max((file.stat().st_size for file in folder.glob("*.pt")), default=0)
