"""One training run as one MLflow run: data, network, epochs, pictures, model. What `train` and every trial call."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from segmentation import checkpoints, models, plots
from segmentation.config import TrainConfig
from segmentation.datasets import Split, load_split
from segmentation.devices import resolve_device, resolve_precision
from segmentation.errors import listed
from segmentation.metrics import METRICS
from segmentation.models import Segmenter
from segmentation.scoring import Scores
from segmentation.training import Data, Epoch, train
from studies import model_store, tracking
from studies.model_store import Stored
from studies.run_names import run_name
from studies.split_report import example_figures, log_scores, protocol


class TrainingResult(NamedTuple):
    """What a finished training run leaves."""

    run_id: str
    epochs: int
    best_epoch: int
    best: dict[str, float]
    """Metrics of the best epoch, by the names they are logged under."""


def run_training(config: TrainConfig) -> TrainingResult:
    """Train as configured, record everything in one MLflow run, and print where to look.

    Raises:
        InputError: what the user can mend; the run has then ended as FAILED, with the reason in a tag.
    """
    name = config.run_name or run_name(config)
    with tracking.tracked_run(config.experiment, name, {"dataset": config.dataset, "model": config.model}) as run_id:
        print(f"Run {run_id}: {name}")
        tracking.log_config(config)
        device = resolve_device(config.device)
        data = Data(load_split(config, config.train_split), load_split(config, config.val_split))
        _mention_oddities(data)
        tracking.log_split(data.train, "training")
        tracking.log_split(data.val, "validation")
        tracking.log_tags({
            "device": _described(device), "dataset_fingerprint": data.train.fingerprint,
            "val_fingerprint": data.val.fingerprint,
        })  # fmt: skip
        network = _starting_network(config, data.train)
        result = _train_and_record(network, data, config, run_id, device)
    print(tracking.where_to_look(run_id))
    return result


def _starting_network(config: TrainConfig, split: Split) -> Segmenter:
    torch.manual_seed(config.seed)
    network = models.build(config, len(split.labels))
    taken = model_store.start_from(network, config, split.labels)
    if taken is not None:
        print(f"Starting weights {config.weights}: {taken}.")
        tracking.log_json(taken._asdict(), "starting_weights.json")
    size = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    print(f"{config.model}: {size:.1f} million parameters, {len(split.labels)} classes, {len(split)} training images.")
    return network


def _train_and_record(
    network: Segmenter, data: Data, config: TrainConfig, run_id: str, device: torch.device
) -> TrainingResult:
    folder = Path(config.checkpoint_dir) / run_id
    history: list[dict[str, float]] = []
    best_epoch, kept, kept_epoch = 0, Scores(data.val.labels), 0
    try:
        for epoch in train(network, data, config):
            history.append(epoch.metrics())
            tracking.log_metrics(history[-1], step=epoch.number)
            checkpoints.save(epoch.checkpoint, folder / "last.pt")
            if epoch.is_best:
                checkpoints.save(epoch.checkpoint, folder / "best.pt")
                best_epoch = epoch.number
            if epoch.is_best or config.keep == "last":
                kept, kept_epoch = epoch.val, epoch.number
            _print_epoch(epoch, history[-1], config)
            if epoch.number % config.plot_every == 0 or epoch.number in (1, config.epochs):
                _log_progress_pictures(network, epoch, data.val, config, device)
    finally:
        if best_epoch:
            print(f"Checkpoints: {folder}/best.pt (epoch {best_epoch}) and last.pt (epoch {len(history)})")
            _log_curves(history, best_epoch)
    if len(history) < config.epochs:
        print(f"Stopped early: no better {config.monitor} than epoch {best_epoch}'s for {config.patience} epoch(s).")
    best = history[best_epoch - 1]
    tracking.log_metrics({"best/epoch": best_epoch} | {f"best/{name}": best[f"val/{name}"] for name in METRICS})
    if kept_epoch != len(history):
        network.load_state_dict(checkpoints.load(folder / "best.pt").network)
    which = f"{config.model}, epoch {kept_epoch} of {config.epochs}"
    if kept_epoch == best_epoch:
        which += f", best {config.monitor}"
    rules = protocol(config, data.val, kept, str(resolve_precision(config.precision, device)).removeprefix("torch."))
    trained = Stored(config, data.val.labels, network.state_dict(), kept_epoch, run_id, calibration=None)
    log_scores(network, data.val, kept, rules, trained.origin(), device, config.examples, which)
    model_uri = tracking.log_network(network, data.val, trained.metadata(), config.register_as, config.alias)
    tracking.log_tags({"model_epoch": str(kept_epoch)})
    if model_uri:
        print(f"Registered as {model_uri}, alias {config.alias}.")
    return TrainingResult(run_id, len(history), best_epoch, best)


def _log_progress_pictures(
    network: Segmenter, epoch: Epoch, val: Split, config: TrainConfig, device: torch.device
) -> None:
    title = f"{val.dataset}/{val.name}, epoch {epoch.number}"
    tracking.log_figure_at(plots.reliability(epoch.val.reliability.bins(), title), "reliability/val", epoch.number)
    for name, figure in example_figures(network, val, device, min(config.examples, 2), f"epoch {epoch.number}"):
        tracking.log_figure_at(figure, f"examples/val_{name}", epoch.number)


def _log_curves(history: list[dict[str, float]], best_epoch: int) -> None:
    for name, title, ylabel, metrics in (
        ("loss", "Loss", "cross-entropy, nats per pixel", ("train/loss", "val/loss")),
        ("accuracy", "Pixel accuracy", "share of pixels", ("train/pixel_accuracy", "val/pixel_accuracy")),
        ("ece", "Expected calibration error", "ECE, 10 bins", ("val/ece",)),
    ):
        series = {metric.partition("/")[0]: [epoch[metric] for epoch in history] for metric in metrics}
        ends = tuple([epoch[f"val/ece_{end}"] for epoch in history] for end in ("low", "high"))
        bands = {"val": (ends[0], ends[1])} if name == "ece" else None
        tracking.log_figure(plots.curves(title, ylabel, series, best_epoch, bands), f"curves/{name}.png")


def _mention_oddities(data: Data) -> None:
    """Tell what is allowed but seldom meant: splits of different size, classes that cannot be learnt."""
    if data.train.images.shape[1:] != data.val.images.shape[1:]:
        sizes = [f"{split.name} {split.images.shape[2]} x {split.images.shape[1]}" for split in (data.train, data.val)]
        print(f"Note: pictures differ in size between the splits: {', '.join(sizes)}.")
    present = np.unique(data.train.masks)
    absent = [name for index, name in enumerate(data.train.labels.names) if index not in present]
    if absent:
        print(f"Note: no pixel of {data.train.dataset}/{data.train.name} is of class {listed(absent)}.")


def _described(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def _print_epoch(epoch: Epoch, values: Mapping[str, float], config: TrainConfig) -> None:
    left = (config.epochs - epoch.number) * epoch.seconds
    print(
        f"epoch {epoch.number}/{config.epochs}: train loss {values['train/loss']:.3f}, "
        f"val loss {values['val/loss']:.3f}, accuracy {values['val/pixel_accuracy']:.3f}, "
        f"mIoU {values['val/mean_iou']:.3f}, ECE {values['val/ece']:.4f}; "
        f"{epoch.images_per_second:.1f} images/s, {_duration(left)} left{' (best)' if epoch.is_best else ''}",
        flush=True,
    )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
