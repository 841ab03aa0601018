"""Fields of every entry point; those of data, model, optimisation and scoring are in `segmentation.config`.

A field `name` is `--name` on the command line and `-P name=` for `mlflow run`. The string below a field is its help
text. This module imports neither torch nor MLflow, so that `--help` is fast.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from segmentation.config import MAX_CHANNELS, DataConfig, Dataset, TrainingConfig, check_crops, check_parts
from segmentation.errors import InputError, Mistakes
from segmentation.fields import at_least, check_choices, configuration, within
from segmentation.io.limits import MAX_PIXELS
from segmentation.prediction.kinds import USUAL, read_kinds
from segmentation.prediction.views import OVERLAP, Views, read_scales


@configuration(frozen=True, kw_only=True)
class RecordConfig:
    """What a run records, and where."""

    resume: str | None = None
    """Run to resume: its ID, or auto for the newest stopped run of the same configuration."""
    keep: Literal["best", "last"] = "best"
    """Epoch whose weights become the run's model and are scored at the end."""
    plot_every: int = 10
    """Epochs between two logs of the reliability and example plots; 0 draws no plot in the whole run."""
    examples: int = 6
    """Number of validation images to plot."""
    log_model: bool = True
    """Log the model to MLflow; if false, only the checkpoints hold it."""
    experiment: str = "training"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from model, weights, data, learning rate and weight decay."""
    register_as: str | None = None
    """Name in the model registry; None does not register the model."""
    alias: str = "latest-run"
    """Alias of the version that this run registers."""
    checkpoint_dir: str = "checkpoints"
    """Folder for checkpoints: CHECKPOINT_DIR/RUN_ID/best.pt and last.pt; a finished run has one of them."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""


@configuration(frozen=True, kw_only=True)
class TrainConfig(RecordConfig, TrainingConfig):
    """Train one model and record it as an MLflow run. Defaults: the original report's protocol, but keep=best."""

    IS_TEMPLATE: ClassVar[bool] = False
    """Whether `settled` makes the configurations of runs from it; fields that were not given then stay open."""
    typed: ClassVar[frozenset[str] | None] = None
    """Names of the fields typed on the command line; None if unknown."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_names, self)
        mistakes.check(super().__post_init__)
        for name in ("plot_every", "examples"):
            mistakes.check(at_least, self, name, 0)
        mistakes.raise_all()

    def stays_open(self) -> bool:
        """Return whether fields that were not given stay open: in a template, and when resuming a run by its ID."""
        return self.IS_TEMPLATE or self.resume not in (None, "auto")


@configuration(frozen=True, kw_only=True)
class TemplateConfig(TrainConfig):
    """Fields that several runs share."""

    IS_TEMPLATE: ClassVar[bool] = True


def settled(template: TrainConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> TrainConfig:
    """Return the configuration of one run: that of a template with some values changed.

    Raises:
        InputError: a value is not allowed.
    """
    values = {field.name: getattr(template, field.name) for field in fields(TrainConfig)}
    return TrainConfig(**values | dict(changes))


@configuration(frozen=True, kw_only=True)
class QuickStartConfig(TrainConfig):
    """Quick start: train a small model on generated images, in about a minute on two cores."""

    dataset: Dataset = "shapes"
    """Data set; `shapes` is generated, `folder` is any pair of image and mask folders."""
    resize: int | None = 64
    """Length of the shorter side after resizing, in pixels; None does not resize."""
    crop: int | None = 64
    """Side of the square cut from the centre of each image, in pixels; None does not crop."""
    model: str = "lraspp_mobilenet_v3_large"
    """Model: one of torchvision's, or your function PACKAGE.MODULE:FUNCTION."""
    batch_norm_momentum: float | None = 0.1
    """Weight of a batch in batch norm's running statistics, 0 to 1; None is the model's own value."""
    epochs: int = 16
    """Passes over the training split."""
    batch_size: int = 16
    """Images per optimiser step."""
    learning_rate: float = 0.1
    """Step size of the optimiser."""
    schedule: Literal["constant", "polynomial"] = "polynomial"
    """Learning rate over time: constant, or decaying to 0 as (1 - progress) ** 0.9."""
    warmup_epochs: int = 1
    """Epochs in which the learning rate rises linearly from 0 at the start."""


@configuration(frozen=True, kw_only=True)
class ModelsConfig(TrainConfig):
    """Train several models, and compare them with intervals and tests."""

    IS_TEMPLATE: ClassVar[bool] = True

    variants: str = "fcn_resnet50, fcn_resnet50 weights=coco, fcn_resnet101, fcn_resnet101 weights=coco"
    """Settings, separated by commas: a model, then changed fields, as in fcn_resnet50 weights=coco epochs=20."""
    seeds: int = 1
    """Runs per setting: with seed, seed + 1 and so on."""
    retrain: bool = False
    """Train again even if a finished run has the same configuration, data and code."""
    experiment: str = "models"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(super().__post_init__)
        mistakes.check(at_least, self, "seeds", 1)
        mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class StudyConfig:
    """A study and its storage."""

    study_name: str | None = None
    """Name of the study; None builds it from model, data and sampler."""
    storage: str = "studies.journal"
    """Storage of studies: FILE.journal, postgresql://HOST/NAME (several machines), sqlite:///FILE (one worker)."""


@configuration(frozen=True, kw_only=True)
class TuneConfig(StudyConfig, TrainConfig):
    """Search hyperparameters with Optuna: many runs, one study."""

    IS_TEMPLATE: ClassVar[bool] = True

    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"
    """Sampler of settings; grid is the original report's 4 x 4 grid, or all combinations of the values in search."""
    pruner: Literal["auto", "halving", "median", "none"] = "auto"
    """Rule to stop poor trials early; auto is halving for tpe and random with one objective, else none."""
    search: str = "learning_rate,weight_decay"
    """Fields to search, separated by commas: NAME, NAME=LOW..HIGH, NAME=A|B|C, or NAME=0|LOW..HIGH."""
    objective: str = "val/loss"
    """Metric to optimise; whether higher is better follows from its name."""
    objectives: str | None = None
    """Several metrics to optimise instead of objective, separated by commas; trials are then not pruned."""
    constraint: str | None = None
    """Limit on a metric, such as val/ece<=0.08: a setting that breaks it ranks below all that keep it."""
    n_trials: int | None = None
    """Trials in the whole study, pruned ones included; None is no limit."""
    max_epochs_total: int | None = None
    """Epochs in the whole study; None is no limit, or half of 16 full runs without n_trials and timeout."""
    timeout: float | None = None
    """Seconds after which this command stops; interrupted trials resume with the study."""
    trial_outputs: Literal["best", "all"] = "best"
    """Trials that draw plots and log their model: only the best one, at the end of the study, or all."""
    workers: int = 1
    """Worker processes to start on this machine."""
    experiment: str = "search"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    confirm_seeds: int = 0
    """Number of further seeds to train the best setting with after the search."""
    max_failures: int = 3
    """Failed trials in a row after which a worker stops."""
    heartbeat: int = 60
    """Seconds between heartbeats in a database; a worker silent for twice as long is presumed dead."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(super().__post_init__)
        for name in ("n_trials", "max_epochs_total"):
            if getattr(self, name) is not None:
                mistakes.check(at_least, self, name, 1)
        for name in ("workers", "max_failures", "heartbeat"):
            mistakes.check(at_least, self, name, 1)
        mistakes.check(at_least, self, "confirm_seeds", 0)
        if self.timeout is not None:
            mistakes.check(within, self, "timeout", 0.0, math.inf)
        mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class StatusConfig(StudyConfig):
    """Print the progress of studies."""

    study_name: str | None = None
    """Name of a study; None prints all studies."""


@configuration(frozen=True, kw_only=True)
class ViewsConfig:
    """What a model sees of an image when it predicts."""

    tile: int | None = None
    """Side of the windows in which images are predicted at their own size, in pixels; None resizes as in training."""
    overlap: float = OVERLAP
    """Smallest fraction of a window that it shares with the next one; their probabilities are blended."""
    tile_resize: int | None = None
    """Shorter side, in pixels, to which images are resized before windows are cut; None keeps their own size."""
    scales: str = "1"
    """Sizes at which each image is predicted, as multiples, such as 0.75,1,1.25; their probabilities are averaged."""
    flip: bool = False
    """Average the predictions of each image and its mirror image: somewhat better, twice the time."""

    def views(self) -> Views:
        """Return the fields as a model needs them.

        Raises:
            InputError: a value is not allowed, or has no effect.
        """
        try:
            scales = read_scales(self.scales)
        except ValueError as error:
            raise InputError(str(error)) from error
        views = Views(self.flip, scales, self.tile, self.overlap, self.tile_resize)
        mistakes = Mistakes()
        mistakes.add(*views.mistakes())
        mistakes.raise_all()
        return views


@configuration(frozen=True, kw_only=True)
class EvaluateConfig(ViewsConfig):
    """Score a trained model on any split. Images are prepared as they were for training."""

    model_uri: str
    """Model: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a checkpoint."""
    dataset: Dataset | None = None
    """Data set; None is the one the model was trained on."""
    data_dir: str | None = None
    """Folder of the data set; None is the folder used for training."""
    download: bool = False
    """Download voc2007 or voc2012 into data_dir if it is missing."""
    split: str = "val"
    """Split to score; `held_out` is the part that calibration_fraction excluded from training."""
    score_at: Literal["training", "original"] = "training"
    """Size to score at: as prepared for training, or each whole image at its own size (logits are resized)."""
    boundary_width: int = 3
    """Width of the boundary region on either side of a boundary, in pixels of the scored size."""
    batch_size: int = 16
    """Images per forward pass, 1 with score_at=original; windows per forward pass with tile."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto is a GPU if there is one."""
    examples: int = 6
    """Number of images to plot."""
    cache_dir: str | None = None
    """Folder for prepared images; None is mlproject/ in the user's cache folder."""
    experiment: str = "evaluation"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from model and split."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_choices, self)
        mistakes.check(check_names, self)
        mistakes.check(at_least, self, "batch_size", 1)
        for name in ("examples", "boundary_width"):
            mistakes.check(at_least, self, name, 0)
        mistakes.check(self._check_views)
        mistakes.raise_all()

    def _check_views(self) -> None:
        views = self.views()
        if self.score_at == "training" and not views.is_plain:
            raise InputError(f"{views.described()} needs score_at=original, which scores whole images")


@configuration(frozen=True, kw_only=True)
class CalibrateConfig:
    """Calibrate a trained model on held-out images, and log the calibrated model."""

    run_id: str
    """Model to calibrate: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a file."""
    method: Literal["temperature", "vector", "local"] = "temperature"
    """Method: one temperature, a scale and bias per class (vector), or a temperature per pixel (local)."""
    calibration_split: str = "held_out"
    """Split to fit on; `held_out` is the part that calibration_fraction excluded from training."""
    split: str = "val"
    """Split to score before and after calibration."""
    data_dir: str | None = None
    """Folder of the data set; None is the folder used for training."""
    batch_size: int = 16
    """Images per forward pass."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto is a GPU if there is one."""
    seed: int = 0
    """Seed of the fit of method=local."""
    boundary_width: int = 3
    """Width of the boundary region on either side of a boundary, in pixels of the scored size."""
    examples: int = 6
    """Number of images to plot."""
    cache_dir: str | None = None
    """Folder for prepared images; None is mlproject/ in the user's cache folder."""
    experiment: str = "calibration"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from method and model."""
    register_as: str | None = None
    """Name of the calibrated model in the registry; None does not register it."""
    alias: str = "latest-run"
    """Alias of the version that this run registers."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_choices, self)
        mistakes.check(check_names, self)
        mistakes.check(at_least, self, "batch_size", 1)
        for name in ("seed", "examples", "boundary_width"):
            mistakes.check(at_least, self, name, 0)
        if self.calibration_split == self.split:
            mistakes.add(
                f"calibration_split={self.calibration_split} is also the split to score, which would make the "
                f"calibration look better than it is: choose two different splits"
            )
        mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trained models on the images that all were scored on, with intervals and tests."""

    run_ids: str
    """Runs to compare, separated by commas: run IDs, models:/NAME/1, models:/NAME@ALIAS, or names of experiments."""
    split: str = "val"
    """Split whose stored scores to compare."""
    examples: int = 4
    """Number of images to plot with the prediction of every model."""
    experiment: str = "comparison"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from the number of runs and the split."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_names, self)
        mistakes.check(at_least, self, "examples", 0)
        mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class ReportConfig:
    """Write a report on an experiment, runs or a study as one page, in HTML and Markdown."""

    experiment: str | None = None
    """Experiment to report on; the report is also recorded in it."""
    run_ids: str | None = None
    """Runs to report on instead, separated by commas: of train, evaluate, compare, models or tune."""
    study_name: str | None = None
    """Study to report on, alone or in addition."""
    split: str = "val"
    """Split whose scores to report."""
    output: str = "report"
    """Folder for report.html, report.md and its plots."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from what is reported."""

    def __post_init__(self) -> None:
        check_names(self)
        if not (self.experiment or self.run_ids or self.study_name):
            raise InputError("nothing to report on: give experiment=NAME, run_ids=ID,ID or study_name=NAME")


@configuration(frozen=True, kw_only=True)
class InspectConfig(DataConfig):
    """Inspect a data set before training: its classes, faults, equal images, and what to set, on one page."""

    splits: str | None = None
    """Splits to inspect, separated by commas; None is train_split, val_split, and test if the data set has it."""
    strict: bool = False
    """End with exit code 1 if there is an error or a warning."""
    output: str = "inspect"
    """Folder for the page index.html and its tables."""
    examples: int = 4
    """Images of each class in the gallery; fewer where a data set has more than 25 classes."""
    experiment: str = "inspection"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None is the name of the data set."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_choices, self)
        mistakes.check(check_names, self)
        mistakes.check(within, self, "channels", 1, MAX_CHANNELS)
        for name in ("resize", "crop"):
            if getattr(self, name) is not None:
                mistakes.check(at_least, self, name, 1)
        mistakes.check(at_least, self, "examples", 0)
        mistakes.check(within, self, "calibration_fraction", 0.0, 0.9)
        mistakes.check(check_crops, self)
        mistakes.check(check_parts, self)
        mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class DoctorConfig:
    """Find what dead processes left behind (open runs, damaged files, unsent records), and close their runs."""

    checkpoint_dir: str = "checkpoints"
    """Folder of the checkpoints to check."""
    cache_dir: str | None = None
    """Folder of the prepared images to check; None is mlproject/ in the user's cache folder."""
    records: str = "unsent"
    """Folder of records that MLflow has not accepted yet."""
    storage: str = "studies.journal"
    """Storage of the studies to check: FILE.journal, postgresql://HOST/NAME, sqlite:///FILE."""
    close: bool = True
    """Close the runs of dead processes and delete damaged prepared images; false only lists them."""
    prune: bool = False
    """Delete the checkpoints that finished runs no longer need; false only lists them with their sizes."""


@configuration(frozen=True, kw_only=True)
class SyncConfig:
    """Send records that MLflow did not accept during a run."""

    records: str = "unsent"
    """Folder of the records to send."""
    run_id: str | None = None
    """Run whose records to send; None sends those of all runs."""
    again: bool = False
    """Send records again that MLflow has refused before."""


@configuration(frozen=True, kw_only=True)
class PredictConfig(ViewsConfig):
    """Predict images: write a mask, a confidence map and an overlay of each at its own size, and a table."""

    model_uri: str
    """Model: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a checkpoint."""
    images: str
    """An image file, or a folder of images with all its subfolders."""
    output: str = "predictions"
    """Folder for the masks, confidence maps, overlays and predictions.csv."""
    outputs: str = ",".join(USUAL)
    """Files to write for each image, separated by commas: masks, confidence, overlays, probabilities (float16 .npz)."""
    min_confidence: float | None = None
    """Pixels of less confidence, from 0 to 1, are void (255) in masks and overlays; None keeps all."""
    max_pixels: int = MAX_PIXELS
    """Largest number of pixels of an image file; larger ones are skipped."""
    batch_size: int = 16
    """Most images, or windows, per forward pass; a batch holds images of one size only."""
    device: str = "auto"
    """Device: auto, cpu, cuda, cuda:1, mps; auto is a GPU if there is one."""
    experiment: str = "predictions"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from model and images."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_names, self)
        for name in ("batch_size", "max_pixels"):
            mistakes.check(at_least, self, name, 1)
        if self.min_confidence is not None:
            mistakes.check(within, self, "min_confidence", 0.0, 1.0)
        mistakes.check(self.views)
        mistakes.check(self.kinds)
        mistakes.raise_all()

    def kinds(self) -> tuple[str, ...]:
        """Return the kinds of files to write.

        Raises:
            InputError: one is unknown.
        """
        try:
            return read_kinds(self.outputs)
        except ValueError as error:
            raise InputError(str(error)) from error


@configuration(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model as an ONNX file, which runs without torch and this project."""

    model_uri: str
    """Model: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a checkpoint."""
    format: Literal["onnx"] = "onnx"
    """Format of the file."""
    output: str = "model.onnx"
    """File to write; its name ends in .onnx."""
    experiment: str = "exports"
    """MLflow experiment; MLFLOW_EXPERIMENT_NAME replaces the default; with `mlflow run`, use its --experiment-name."""
    records: str = "unsent"
    """Folder for records that MLflow has not accepted yet; `sync` sends them."""
    run_name: str | None = None
    """Name of the MLflow run; None builds it from the model."""

    def __post_init__(self) -> None:
        check_names(self)
        check_choices(self)


def folds_trained(config: TrainConfig) -> int:
    """Return the number of runs of a setting: the number of folds if all are trained, else 1."""
    return config.folds if config.folds is not None and config.fold is None else 1


def trains_all_folds(config: TrainConfig) -> bool:
    """Return whether `folds` is given without `fold`."""
    return folds_trained(config) > 1


def decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a run's configuration that its result depends on, including the seed."""
    other = {
        "device", "data_dir", "download", "cache_dir", "plot_every", "examples", "log_model", "experiment", "run_name",
        "register_as", "alias", "checkpoint_dir", "records", "boundary_width", "recipe", "resume",
    }  # fmt: skip
    return {name: value for name, value in values.items() if name not in other}


LONGEST_NAME = 250
"""Most characters of a name that every database of MLflow can store."""
LONGEST_STUDY = 200
"""Most characters of a study's name; other names begin with it."""


def check_names(config: Any) -> None:
    """Raise an `InputError` for names that MLflow would refuse later, perhaps after hours."""
    mistakes = Mistakes()
    longest = {"register_as": LONGEST_NAME, "alias": LONGEST_NAME, "experiment": LONGEST_NAME,
               "run_name": LONGEST_NAME, "study_name": LONGEST_STUDY}  # fmt: skip
    given = {name: getattr(config, name, None) for name in longest}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("register_as", "alias", "experiment") and not value.strip():
            mistakes.add(f"{name}={value!r} is empty: give a name")
        if len(value) > longest[name]:
            mistakes.add(f"{name}={value[:40]}… has {len(value)} characters; at most {longest[name]} are allowed")
    model, alias = given["register_as"], given["alias"]
    if model is not None and not getattr(config, "log_model", True):
        mistakes.add(f"register_as={model!r} needs log_model=true: with log_model=false there is no model to register")
    if model is not None and (re.search("[/:]", model) or model in (".", "..")):
        mistakes.add(f"register_as={model!r} is not allowed: a name must not contain / or :")
    if alias and not re.fullmatch(r"[\w-]+", alias):
        mistakes.add(f"alias={alias!r} is not allowed: use letters, digits, _ and - only")
    if alias is not None and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        mistakes.add(f"alias={alias!r} is not allowed: MLflow reserves `latest` and v1, v2, …")
    mistakes.raise_all()
