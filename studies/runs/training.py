"""One training run as one MLflow run: data, model, epochs, plots, logged model. `train` and every trial call it."""

import math
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple

import torch

from segmentation import plots
from segmentation.config import MEASURED
from segmentation.data import Split, overlap_warning, report_coverage
from segmentation.data.batches import in_order
from segmentation.devices import resolve_device, resolve_precision
from segmentation.errors import DivergedError, InputError, counted, listed
from segmentation.metrics import METRICS, of_model
from segmentation.models.model_code import ModelCode, local_code, stored_code
from segmentation.models.segmenter import Segmenter, build
from segmentation.models.starting_weights import LoadedWeights
from segmentation.scoring.evaluate import score
from segmentation.scoring.scores import Scores
from segmentation.training import checkpoints, launch
from segmentation.training.batch_norm import unsettled_note
from segmentation.training.checkpoints import Checkpoint
from segmentation.training.class_weights import class_weights, extreme
from segmentation.training.loop import Data, Epoch, train, train_rank
from segmentation.training.micro_batch import choose_micro_batch
from studies import tracking
from studies.base.checksum import MODEL_CODE
from studies.base.rerun import here
from studies.config import TrainConfig, decisive
from studies.models.card import model_card
from studies.models.logging import log_model
from studies.models.starting_weights import resolve_normalization
from studies.models.stored import StoredModel
from studies.runs import resume as resumption
from studies.runs.names import run_name
from studies.runs.resume import last_checkpoint
from studies.runs.start import IDENTITY, check_start, identity, load_data, starting_model, training_size
from studies.scores.figures import example_plots
from studies.scores.recording import log_scores, protocol
from studies.scores.wording import crop_note, first_epoch_warning

EVERY_EPOCH = "epoch_seconds"
"""A metric that every epoch has."""
OF_EPOCHS = "val_epochs"
"""Section of the UI with the plots of single epochs. The UI sorts sections by name: these are below the curves."""
WHOLE_RUN = 0
"""Step of metrics that belong to no epoch."""


class TrainingResult(NamedTuple):
    """Result of a finished training run."""

    run_id: str
    epochs: int
    best_epoch: int
    best: dict[str, float]
    """Metrics of the best epoch, by the names they are logged under."""
    kept_epoch: int
    kept: dict[str, float]
    """Metrics of the epoch whose weights became the run's model."""


def run_training(
    config: TrainConfig,
    run_id: str | None = None,
    data: Data | None = None,
    watch: Callable[[int, dict[str, float]], None] | None = None,
    epochs_afterwards: int = 0,
) -> TrainingResult:
    """Train as configured, record everything in one MLflow run, and print where to look.

    Under `torchrun`, rank 0 records; the other ranks train with it and exit here.

    Args:
        config: the configuration.
        run_id: an MLflow run to use; if it has a checkpoint, training resumes from it.
        data: the splits of the configuration, if they are loaded already.
        watch: called with the number and metrics of each epoch, including those before a resumption; it may raise
            `tracking.Stopped`.
        epochs_afterwards: epochs of later runs of the same command, for the time left that is printed.

    Raises:
        InputError: a mistake of the user. A run that is open by then ends as FAILED, with the reason in a tag.
        tracking.Stopped: raised by `watch`; the run ends as KILLED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    if launch.launched_rank() > 0:
        launch.run_launched_rank(config, train_rank)
        raise SystemExit(0)
    opened_by_mlflow = None
    if config.resume is not None:
        config, run_id, data = resumption.find(config)
        if run_id is not None:
            opened_by_mlflow = os.environ.pop("MLFLOW_RUN_ID", None)
    resumes, model = run_id is not None, None
    if not resumes:  # a mistake in the data or the starting weights opens no run
        tracking.check_store()
        config = check_start(config)
        data = data or load_data(config)
        config = resolve_normalization(config, data.train)
        report_coverage(data.train, to_train=True)
        model, loaded = starting_model(config, data.train)
    name = config.run_name or run_name(config)
    tags = {"kind": "train", "dataset": config.dataset, "model": config.model, "weights": config.weights}
    run = tracking.tracked_run(
        config.experiment, name, tags, run_id,
        remedy=lambda opened: how_to_resume(config, opened) if watch is None else "",
    )  # fmt: skip
    with run as run_id, ExitStack() as on_exit:
        if watch is None:  # a trial is resumed by its study
            on_exit.enter_context(_printing_how_to_resume(run_id, config))
        if opened_by_mlflow is not None:
            tracking.leave_run(opened_by_mlflow, run_id)
        print(f"Run {run_id}: {name}")
        device = resolve_device(config.device)
        data = data or load_data(config)
        config = resolve_normalization(config, data.train)
        if model is None and not last_checkpoint(run_id, Path(config.checkpoint_dir)).is_file():
            model, loaded = starting_model(config, data.train)
        asked = config
        if config.micro_batch == "auto":
            config = _with_micro_batch(config, run_id, model, data.train, device)
        tracking.log_config(config)
        _print_warnings(data, config)
        tracking.log_split(data.train, "training")
        tracking.log_split(data.val, "validation")
        tracking.log_tags({
            "device": _description(device),
            "precision": str(resolve_precision(config.precision, device)).removeprefix("torch."),
            "normalization": config.normalization, "dataset_fingerprint": data.train.fingerprint,
            "val_fingerprint": data.val.fingerprint,
        })  # fmt: skip
        start = _checkpoint(config, run_id, data.train) if resumes else None
        if start is None:
            assert model is not None
            tracking.log_tags({IDENTITY: identity(asked, data, model)})
            _print_start(model, loaded, config, data.train)
            if model.code is not None:
                _log_code(model.code)
        else:
            model = build(config, len(data.val.labels), _code_of(start, run_id))
        recorded = set()
        if resumes:
            recorded = tracking.logged_steps(run_id, EVERY_EPOCH) | tracking.logged_steps(run_id, of_model("epoch"))
        result = _train_and_record(model, data, config, run_id, device, start, recorded, watch, epochs_afterwards)
    _print_checkpoint(Path(config.checkpoint_dir) / run_id, config.keep, tracking.is_sent(run_id))
    print(tracking.where_to_look(run_id))
    return result


def _with_micro_batch(
    config: TrainConfig, run_id: str, model: Segmenter | None, split: Split, device: torch.device
) -> TrainConfig:
    """Replace `micro_batch=auto` by the number that a run was started with, or else by the largest that fits.

    Args:
        config: the configuration.
        run_id: the run.
        model: before the first step; None if the run has a checkpoint.
        split: the training split.
        device: where the model is trained.
    """
    if model is None:
        started = checkpoints.load(last_checkpoint(run_id, Path(config.checkpoint_dir))).config
        return replace(config, micro_batch=started.get("micro_batch"))
    choice = choose_micro_batch(model, config, device, len(split.labels), training_size(config, split))
    print(choice.line)
    return replace(config, micro_batch=choice.images)


def _print_checkpoint(folder: Path, keep: str, is_sent: bool) -> None:
    """Print where the checkpoint of a finished run is. Remove the other one if MLflow has accepted the whole run."""
    removed = checkpoints.remove_unneeded(folder, keep) if is_sent else 0
    files = [file for name in checkpoints.NAMES if (file := folder / name).is_file()]
    names = " and ".join(file.name for file in files)
    other = " and ".join(name for name in checkpoints.NAMES if name not in names)
    note = f"; removed {other}, {checkpoints.shown_size(removed)}" if removed else ""
    if files:
        print(f"Checkpoint: {folder}/{names}, {checkpoints.shown_size(checkpoints.size_of(files))}{note}")


@contextmanager
def _printing_how_to_resume(run_id: str, config: TrainConfig) -> Iterator[None]:
    """Print the command that resumes a run which ends too early, if there is a checkpoint."""
    try:
        yield
    except (DivergedError, tracking.Stopped):
        raise
    except BaseException:
        if how := how_to_resume(config, run_id):
            print(how, flush=True)
        raise


def how_to_resume(config: TrainConfig, run_id: str) -> str:
    """Return the command that resumes a run from its last checkpoint; empty if there is none, or it has diverged."""
    error = sys.exception()
    if isinstance(error, DivergedError) or not last_checkpoint(run_id, Path(config.checkpoint_dir)).is_file():
        return ""
    return f"To resume it:\n  {here('train', {'resume': run_id, 'checkpoint_dir': config.checkpoint_dir})}"


def _checkpoint(config: TrainConfig, run_id: str, split: Split) -> Checkpoint | None:
    """Return the last checkpoint of a run, or None if there is none.

    Raises:
        InputError: the run was started with another configuration or other images.
    """
    file = last_checkpoint(run_id, Path(config.checkpoint_dir))
    checkpoints.remove_unfinished(file.parent)
    if not file.is_file():
        return None
    checkpoint = checkpoints.load(file)
    before = asdict(type(config)()) | checkpoint.config
    changed = [
        f"{name}={before[name]!r}, now {value!r}"
        for name, value in decisive(asdict(config)).items()
        if before[name] != value
    ]
    if checkpoint.fingerprint != split.fingerprint:
        changed.append("other training images")
    if changed:
        raise InputError(f"run {run_id} was started with {listed(changed)}: it cannot be resumed with other values")
    print(f"Resuming after epoch {checkpoint.epoch} of {config.epochs}.")
    return checkpoint


def _print_start(model: Segmenter, loaded: LoadedWeights | None, config: TrainConfig, split: Split) -> None:
    if loaded is not None:
        print(f"Starting weights {config.weights}: {loaded}.")
        tracking.log_json(loaded._asdict(), "starting_weights.json")
        _check_normalization(loaded.normalization, config)
    weights = class_weights(config, split)
    if weights is not None:
        by_name = dict(zip(split.labels.names, weights.tolist(), strict=True))
        print(f"Class weights: {listed((f'{name} {weight:.3g}' for name, weight in by_name.items()), 25)}.")
        tracking.log_json(by_name, "class_weights.json")
        if heavy := extreme(weights):
            shown = listed(f"{split.labels.names[each]} {weights[each]:.3g}" for each in heavy)
            print(
                f"Warning: class_weights={config.class_weights} gives a few pixels extreme weights ({shown}), which "
                f"may spoil the training. class_weights=median_frequency or a JSON file can give smaller ones."
            )
    if (measured := model.measured()) is not None:
        shown = listed((f"{mean:.1f} and {std:.1f}" for mean, std in zip(*measured, strict=True)), 10)
        print(f"Measured mean and standard deviation of each channel of {split.bits} bits: {shown}.")
        mean, std = measured
        tracking.log_json({"mean": mean, "std": std, "bits": split.bits}, "normalization.json")
    steps = config.epochs * math.ceil(len(split) / config.batch_size)
    if loaded is None and (note := unsettled_note(model, steps)):
        print(f"Note: {note}.")
    count = sum(parameter.numel() for parameter in model.parameters())
    size = f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count:,}"
    print(f"{config.model}: {size} parameters, {len(split.labels)} classes, {len(split)} training images.")


def _log_code(code: ModelCode) -> None:
    """Log the code of an own model: its checksum as a tag, its files as artifacts."""
    about = f", {listed(code.requirements)}" if code.files and code.requirements else ""
    print(f"Code of the model, stored with it: {code.described()}{about}.")
    if code.divisor > 1:
        print(f"Its images need sides that are multiples of {code.divisor}: others are padded.")
    tracking.log_tags({MODEL_CODE: code.checksum})
    for path, text in code.files.items():
        tracking.log_table(text, f"{MODEL_CODE}/{path}")


def _code_of(checkpoint: Checkpoint, run_id: str) -> ModelCode | None:
    """Return the code of an own model with which a run was started; None for torchvision's models.

    Raises:
        InputError: the checkpoint holds other code than the run was started with.
    """
    if checkpoint.code is None:
        return None
    try:
        code = stored_code(checkpoint.code)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the checkpoint of run {run_id} is damaged: {error}") from error
    run = tracking.find_run(run_id)
    if run is not None and run.model_code not in ("", code.checksum):
        raise InputError(f"the checkpoint of run {run_id} holds other code of the model than the run was started with")
    with suppress(InputError):
        if code.is_same(local_code(code.function)):
            return code
    print(f"The code of model={code.function} here is not that of run {run_id}: the stored code is used.")
    return code


def _check_normalization(of_weights: str | None, config: TrainConfig) -> None:
    """Print a warning if the starting weights were trained with another normalization, or if that is unknown."""
    if config.normalization == MEASURED:
        return
    if of_weights is None:
        print(
            f"Note: {config.weights} does not record its normalization; normalization={config.normalization} is used. "
            f"Most published weights use normalization=imagenet."
        )
    elif of_weights != config.normalization:
        message = (
            f"normalization={config.normalization}, but weights={config.weights} were trained with "
            f"normalization={of_weights}; leave normalization out to use that of the weights"
        )
        print(f"Warning: {message}.")
        tracking.log_tags({"warning": message})


def _train_and_record(
    model: Segmenter,
    data: Data,
    config: TrainConfig,
    run_id: str,
    device: torch.device,
    start: Checkpoint | None,
    recorded: Collection[int],
    watch: Callable[[int, dict[str, float]], None] | None,
    epochs_afterwards: int,
) -> TrainingResult:
    folder = Path(config.checkpoint_dir) / run_id
    history: list[dict[str, float]] = []
    best_epoch = 0
    if start is not None:
        history = start.history or tracking.logged_epochs(run_id)[: start.epoch]
        best_epoch = start.best_epoch
        for number, metrics in enumerate(history, 1):
            if number not in recorded:
                tracking.log_metrics(metrics, step=number)
    kept: Scores | None = None
    epochs, writer = train(model, data, config, start), checkpoints.Writer(folder)
    try:
        for number, metrics in enumerate(history, 1):
            if watch is not None:  # a killed process may have saved the last epoch before `watch` saw it
                watch(number, metrics)
        for epoch in epochs:
            history.append(epoch.metrics())
            if epoch.number not in recorded:
                tracking.log_metrics(history[-1], step=epoch.number)
            writer.save(replace(epoch.checkpoint, history=history), epoch.is_best)
            if epoch.is_best:
                best_epoch = epoch.number
            if epoch.is_best or config.keep == "last":
                kept = epoch.val
            _print_epoch(epoch, history[-1], config, epochs_afterwards)
            if config.plot_every and (epoch.number % config.plot_every == 0 or epoch.number in (1, config.epochs)):
                log_epoch_plots(model, epoch, data.val, config, device)
            if watch is not None:
                watch(epoch.number, history[-1])
    finally:
        epochs.close()  # at once, or other ranks would wait for the next epoch
        writer.close()
        if best_epoch:
            if sys.exception() is not None:
                _print_checkpoints(folder)
            if config.plot_every:
                _log_curves(history, best_epoch)
    writer.check()
    if config.patience is not None and len(history) < config.epochs:
        print(
            f"Stopped early: {config.monitor} has not improved for {counted(config.patience, 'epoch')} since epoch "
            f"{best_epoch}."
        )
    kept_epoch = len(history) if config.keep == "last" else best_epoch
    of_kept = history[kept_epoch - 1]
    if WHOLE_RUN not in recorded:
        tracking.log_metrics({of_model("epoch"): kept_epoch} | metrics_of_model(of_kept), WHOLE_RUN)
    if kept_epoch != len(history):
        model.load_state_dict(checkpoints.load(folder / "best.pt").network)
    if kept is None:  # scored before the run was interrupted
        batches = in_order(data.val, config.batch_size, device)
        model.to(device)
        kept = score(model, batches, data.val.labels, config.boundary_width)
    _log_kept(model, data, kept, config, run_id, device, kept_epoch, best_epoch, len(history))
    tracking.log_tags({"model_epoch": str(kept_epoch)})
    return TrainingResult(run_id, len(history), best_epoch, history[best_epoch - 1], kept_epoch, of_kept)


def metrics_of_model(of_epoch: Mapping[str, float]) -> dict[str, float]:
    """Return the validation metrics of an epoch under the names of the kept model's.

    An epoch that an earlier version trained lacks the metrics that were added since.
    """
    return {of_model(name): of_epoch[f"val/{name}"] for name in METRICS if f"val/{name}" in of_epoch}


def complete_run(config: TrainConfig, run_id: str, data: Data) -> None:
    """Score, draw and log the model of a finished run from its checkpoint, without training. The run ends as FINISHED.

    Args:
        config: the configuration; `plot_every`, `log_model` and `register_as` may differ from those of the run.
        run_id: the run.
        data: the splits of the configuration.

    Raises:
        InputError: the checkpoint is not in `checkpoint_dir`, or the run was deleted.
    """
    found = tracking.find_run(run_id)
    if found is None:
        raise InputError(f"run {run_id} does not exist in MLflow: it was deleted, or MLFLOW_TRACKING_URI has changed")
    folder = Path(config.checkpoint_dir) / run_id
    file = folder / "last.pt" if config.keep == "last" else folder / "best.pt"
    checkpoint = checkpoints.load(file)
    config = resolve_normalization(config, data.train)
    if config.micro_batch == "auto":
        config = replace(config, micro_batch=checkpoint.config.get("micro_batch"))
    device = resolve_device(config.device)
    model = build(config, len(data.val.labels), _code_of(checkpoint, run_id))
    model.load_state_dict(checkpoint.network)
    model.to(device)
    history = checkpoint.history if config.keep == "last" else tracking.logged_epochs(run_id)
    with tracking.tracked_run(config.experiment, found.name, {}, run_id):
        tracking.log_config(config)
        if config.plot_every and history:
            _log_curves(history, checkpoint.best_epoch)
        kept = score(model, in_order(data.val, config.batch_size, device), data.val.labels, config.boundary_width)
        epochs = len(history) or config.epochs
        _log_kept(model, data, kept, config, run_id, device, checkpoint.epoch, checkpoint.best_epoch, epochs)


def _log_kept(
    model: Segmenter,
    data: Data,
    kept: Scores,
    config: TrainConfig,
    run_id: str,
    device: torch.device,
    kept_epoch: int,
    best_epoch: int,
    epochs: int,
) -> None:
    """Log the scores, plots and model of the epoch that is kept; register the model if a name is given."""
    state = f"{config.model}, epoch {kept_epoch} of {config.epochs}"
    if kept_epoch == best_epoch:
        state += f", best {config.monitor}"
    warnings = first_epoch_warning(kept_epoch, epochs, config.monitor)
    if warnings:
        tracking.log_tags({"warning.best_epoch": warnings[0]})
    rules = protocol(config, data.val, kept)
    trained = StoredModel(config, data.val.labels, model.state_dict(), kept_epoch, run_id, None, code=model.code)
    log_scores(
        model, data.val, kept, rules, trained.origin(), device, config.examples, state, draw=config.plot_every > 0,
        warnings=warnings,
    )  # fmt: skip
    if config.log_model:
        model_uri = log_model(model, data.val, trained.metadata(), config.register_as, config.alias)
        named = f"models:/{config.register_as}@{config.alias}" if config.register_as else f"runs:/{run_id}/model"
        metrics = kept.metrics()
        card, card_tags = model_card(trained, metrics, data.val, named)
        by_logged_name = {of_model(name): value for name, value in metrics.items()}
        tracking.log_model_card(card, card_tags, by_logged_name, config.register_as)
        if model_uri:
            print(f"Registered as {model_uri}, alias {config.alias}.")


def _print_checkpoints(folder: Path) -> None:
    """Print the epochs of the files themselves: an interrupted epoch may be in the history without being saved."""
    with suppress(InputError):  # an error of its own has been raised, or will be
        best, last = (checkpoints.load(folder / name).epoch for name in ("best.pt", "last.pt"))
        print(f"Checkpoints: {folder}/best.pt (epoch {best}) and last.pt (epoch {last})")


def log_epoch_plots(model: Segmenter, epoch: Epoch, val: Split, config: TrainConfig, device: torch.device) -> None:
    """Log the reliability diagram and some examples of one epoch, for the image stepper of the UI."""
    title = f"{val.title}, epoch {epoch.number}"
    diagram = plots.reliability(epoch.val.reliability.bins(), title)
    tracking.log_figure_at(diagram, f"{OF_EPOCHS}/reliability", epoch.number)
    for name, figure in example_plots(model, val, device, min(config.examples, 2), f"epoch {epoch.number}"):
        tracking.log_figure_at(figure, f"{OF_EPOCHS}/example_{name}", epoch.number)


def _log_curves(history: list[dict[str, float]], best_epoch: int) -> None:
    for name, title, ylabel, metrics in (
        ("loss", "Loss", "cross-entropy, nats per pixel", ("train/loss", "val/loss")),
        ("accuracy", "Pixel accuracy", "fraction of pixels", ("train/pixel_accuracy", "val/pixel_accuracy")),
        ("ece", "Expected calibration error", "ECE, 10 bins", ("val/ece",)),
    ):
        series = {metric.partition("/")[0]: [epoch[metric] for epoch in history] for metric in metrics}
        ends = tuple([epoch[f"val/ece_{end}"] for epoch in history] for end in ("low", "high"))
        bands = {"val": (ends[0], ends[1])} if name == "ece" else None
        tracking.log_figure(plots.curves(title, ylabel, series, best_epoch, bands), f"curves/{name}.png")


def _print_warnings(data: Data, config: TrainConfig) -> None:
    """Print what is allowed but rarely intended: splits of different sizes, pixels, classes or layers left out."""
    if (config.freeze_backbone or 0) >= config.epochs:
        print(f"Note: freeze_backbone={config.freeze_backbone} of epochs={config.epochs}: the backbone is not trained.")
    if config.crop_at == config.score_crop == "center" and data.train.size != data.val.size:
        sizes = [f"{split.name} {split.sizes[0, 1]} x {split.sizes[0, 0]}" for split in (data.train, data.val)]
        print(f"Note: the splits have images of different sizes: {', '.join(sizes)}.")
    cropped = {split.name: split.in_crop for split in (data.train, data.val) if split.in_crop != 1}
    if cropped and config.crop_at == "center":
        print(f"Note: {crop_note(cropped)}")
    report_coverage(data.train, to_train=True)
    report_coverage(data.val)
    if warning := overlap_warning(data.train, data.val):
        print(f"Warning: {warning}", flush=True)
        tracking.log_tags({"warning.data": warning})


def _description(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)"


def _print_epoch(epoch: Epoch, values: Mapping[str, float], config: TrainConfig, epochs_afterwards: int) -> None:
    seconds, epochs = epoch.seconds - epoch.compile_seconds, config.epochs - epoch.number
    left = f"{_duration(epochs * seconds)} left"
    if epochs_afterwards:
        left += f", {_duration((epochs + epochs_afterwards) * seconds)} for all runs at this speed"
    print(
        f"epoch {epoch.number}/{config.epochs}: train loss {values['train/loss']:.3f}, "
        f"val loss {values['val/loss']:.3f}, accuracy {values['val/pixel_accuracy']:.3f}, "
        f"mIoU {values['val/mean_iou']:.3f}, ECE {values['val/ece']:.4f}; "
        f"{epoch.images_per_second:.1f} images/s, {left}{' (best)' if epoch.is_best else ''}",
        flush=True,
    )
    if epoch.compile_seconds:
        print(f"Compiling the network took {epoch.compile_seconds:.0f} of the {epoch.seconds:.0f} s.", flush=True)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"
