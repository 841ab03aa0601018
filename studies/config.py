"""Fields of the entry points, but for those of the science. Imports no torch and no MLflow, so `--help` is instant.

A field `name` is the command line's `--name` and MLflow's `-P name=`. `Optional[int]`, not `int | None`: for the latter
tyro loads a type checker, which doubles the time of `--help`.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from segmentation.config import Dataset, Network, TrainingConfig
from segmentation.errors import InputError
from segmentation.fields import at_least, check_choices, within


@dataclass(frozen=True, kw_only=True)
class RecordConfig:
    """What is kept of a run, and under which names."""

    resume: str | None = None
    """Run to go on with: its ID, or auto for the newest stopped one of this configuration, if there is any."""
    keep: Literal["best", "last"] = "best"
    """Epoch whose weights become the run's model, final pictures and calibration figures."""
    plot_every: int = 10
    """Log reliability and example pictures every this many epochs; 0 draws none in the whole run, as for a search."""
    examples: int = 6
    """Number of validation images to show."""
    log_model: bool = True
    """Log the network as an MLflow model; without it only the checkpoints hold it."""
    experiment: str = "training"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    run_name: str | None = None
    """Name of the MLflow run; None says model, weights, data, learning rate and weight decay."""
    register_as: str | None = None
    """Name to register the model under; None does not register it."""
    alias: str = "latest-run"
    """Alias that points to the version registered by this run."""
    checkpoint_dir: str = "checkpoints"
    """Folder for best.pt and last.pt, in a subfolder named by the run's id."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RecordConfig, TrainingConfig):
    """Train a network and record it. The defaults are the original report's protocol."""

    IS_TEMPLATE: ClassVar[bool] = False
    """Whether training runs are made from it by `settled`, with other values: what was not given then stays open."""
    typed: ClassVar[frozenset[str] | None] = None
    """Names of the fields that were typed, set on a configuration of the command line; None if that is not known."""

    def __post_init__(self) -> None:
        check_names(self)
        super().__post_init__()
        for name in ("plot_every", "examples"):
            at_least(self, name, 0)

    def stays_open(self) -> bool:
        """Whether fields that were not given stay open: in templates, and where a stored configuration decides."""
        return self.IS_TEMPLATE or self.resume not in (None, "auto")


@dataclass(frozen=True, kw_only=True)
class TemplateConfig(TrainConfig):
    """What several training runs share."""

    IS_TEMPLATE: ClassVar[bool] = True


def settled(template: TrainConfig, changes: Mapping[str, Any] = MappingProxyType({})) -> TrainConfig:
    """The configuration of one training run: a template's, but for some values.

    Raises:
        InputError: the values are not possible.
    """
    values = {field.name: getattr(template, field.name) for field in fields(TrainConfig)}
    return TrainConfig(**values | dict(changes))


@dataclass(frozen=True, kw_only=True)
class QuickStartConfig(TrainConfig):
    """Train a small network on the generated `shapes` data: done in one to two minutes on two cores."""

    dataset: Dataset = "shapes"
    """Data set; `shapes` is generated, `folder` is any pair of image and mask folders."""
    resize: int | None = 64
    """Length that the shorter side is resized to, in pixels; None keeps the original size."""
    crop: int | None = 64
    """Side of the square cut from the centre, in pixels; None keeps the whole picture."""
    model: Network = "lraspp_mobilenet_v3_large"
    """Network, one of torchvision's."""
    batch_norm_momentum: float | None = 0.1
    """Share of a batch in batch norm's running statistics; None is the network's own."""
    epochs: int = 16
    """Number of passes over the training split."""
    batch_size: int = 16
    """Images per optimiser step."""
    learning_rate: float = 0.1
    """Step size of the optimiser."""
    schedule: Literal["constant", "polynomial"] = "polynomial"
    """Learning rate over time: constant, or falling to 0 as (1 - progress) ** 0.9."""
    warmup_epochs: int = 1
    """Epochs over which the learning rate first rises linearly from 0."""


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(TrainConfig):
    """Train several settings side by side, and tell which differences are real."""

    IS_TEMPLATE: ClassVar[bool] = True

    variants: str = "fcn_resnet50, fcn_resnet50 weights=coco, fcn_resnet101, fcn_resnet101 weights=coco"
    """Settings, with commas between: a network, then fields that differ, as in fcn_resnet50 weights=coco epochs=20."""
    seeds: int = 1
    """Trainings of each setting: with seed, seed + 1 and so on."""
    retrain: bool = False
    """Train anew even what a finished run has trained with the same configuration, data and code."""
    experiment: str = "models"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, "seeds", 1)


@dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """Which study, and where it is kept."""

    study_name: str | None = None
    """Name of the study; None says model, data and sampler."""
    storage: str = "studies.journal"
    """Where studies are kept: FILE.journal, postgresql://HOST/NAME (several machines), sqlite:///FILE (one worker)."""


@dataclass(frozen=True, kw_only=True)
class TuneConfig(StudyConfig, TrainConfig):
    """Search for the best learning rate, weight decay and whatever else: many trainings, one study."""

    IS_TEMPLATE: ClassVar[bool] = True

    sampler: Literal["tpe", "gp", "random", "grid"] = "tpe"
    """How settings are chosen; grid is the original report's 4 x 4, or all combinations of the values in search."""
    pruner: Literal["auto", "halving", "median", "none"] = "auto"
    """When poor trainings are stopped early; auto is halving for tpe and random with one objective, else none."""
    search: str = "learning_rate,weight_decay"
    """Fields to search, with commas between: NAME, NAME=LOW..HIGH, NAME=A|B|C, or NAME=0|LOW..HIGH."""
    objective: str = "val/loss"
    """Metric to make as good as possible; its direction is known."""
    objectives: str | None = None
    """Several such metrics, with commas between, instead of objective; nothing is pruned then."""
    constraint: str | None = None
    """Limit on a metric, such as val/ece<=0.08: settings beyond it lose to all within."""
    n_trials: int | None = None
    """Number of trainings in the whole study, pruned ones included; None is no limit."""
    max_epochs_total: int | None = None
    """Training epochs in the whole study; None, with no n_trials and no timeout, is half of what 16 trainings take."""
    timeout: float | None = None
    """Seconds after which this call stops; what it interrupts goes on when the study is resumed."""
    workers: int = 1
    """Processes to start here."""
    experiment: str = "search"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    confirm_seeds: int = 0
    """Further seeds to train the best setting with when the search is over."""
    max_failures: int = 3
    """A worker stops after this many failed trainings in a row."""
    heartbeat: int = 60
    """Seconds between signs of life in a database; a worker silent for twice as long is taken for dead."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("n_trials", "max_epochs_total"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        for name in ("workers", "max_failures", "heartbeat"):
            at_least(self, name, 1)
        at_least(self, "confirm_seeds", 0)
        if self.timeout is not None:
            within(self, "timeout", 0.0, math.inf)


@dataclass(frozen=True, kw_only=True)
class StatusConfig(StudyConfig):
    """Tell how far studies have come."""

    study_name: str | None = None
    """Name of a study; None tells of every one."""


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Score a trained model on any split; pictures are prepared as they were for its training."""

    model_uri: str
    """What to score: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a checkpoint."""
    dataset: Dataset | None = None
    """Data set; None is the one that the model was trained on."""
    data_dir: str | None = None
    """Folder that holds the data set; None is where the training found it."""
    download: bool = False
    """Fetch voc2007 or voc2012 into data_dir if it is not there."""
    split: str = "val"
    """Split to score; `held_out` is what calibration_fraction kept from training."""
    score_at: Literal["training", "original"] = "training"
    """Size to score at: as prepared for training, or each whole image at its own size (logits are resized to it)."""
    boundary_width: int = 3
    """Pixels on either side of a boundary that are reported apart from the interior, at the size they are scored at."""
    batch_size: int = 16
    """Images per forward pass; with score_at=original it is 1."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."""
    examples: int = 6
    """Number of images to show."""
    cache_dir: str | None = None
    """Folder for prepared pictures; None is mlproject/ in the user's cache folder."""
    experiment: str = "evaluation"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""
    run_name: str | None = None
    """Name of the MLflow run; None says what was scored on which split."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_names(self)
        at_least(self, "batch_size", 1)
        for name in ("examples", "boundary_width"):
            at_least(self, name, 0)


@dataclass(frozen=True, kw_only=True)
class CalibrateConfig:
    """Mend a trained model's confidence on images that it was neither trained on nor is scored on."""

    run_id: str
    """What to calibrate: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a file."""
    method: Literal["temperature", "vector", "local"] = "temperature"
    """One temperature, a factor and a summand for each class, or a temperature for every pixel from a small network."""
    calibration_split: str = "held_out"
    """Split to fit on; `held_out` is what calibration_fraction kept from training."""
    split: str = "val"
    """Split to score before and after."""
    data_dir: str | None = None
    """Folder that holds the data set; None is where the training found it."""
    batch_size: int = 16
    """Images per forward pass."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."""
    seed: int = 0
    """Seed of the small network of method=local."""
    boundary_width: int = 3
    """Pixels on either side of a boundary that are reported apart from the interior."""
    examples: int = 6
    """Number of images to show."""
    cache_dir: str | None = None
    """Folder for prepared pictures; None is mlproject/ in the user's cache folder."""
    experiment: str = "calibration"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""
    run_name: str | None = None
    """Name of the MLflow run; None says what was calibrated, and how."""
    register_as: str | None = None
    """Name to register the calibrated model under; None does not register it."""
    alias: str = "latest-run"
    """Alias that points to the version registered by this run."""

    def __post_init__(self) -> None:
        check_choices(self)
        check_names(self)
        at_least(self, "batch_size", 1)
        for name in ("seed", "examples", "boundary_width"):
            at_least(self, name, 0)
        if self.calibration_split == self.split:
            raise InputError(
                f"calibration_split={self.calibration_split} is the split that is scored: a calibration that was "
                f"fitted on it would look better than it is; name another split for one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """Compare trained models on the images that all were scored on: which differences are real?"""

    run_ids: str
    """What to compare, with commas between: run IDs, models:/NAME/1, models:/NAME@ALIAS, or names of experiments."""
    split: str = "val"
    """Split whose scores to compare, as the runs stored them."""
    examples: int = 4
    """Number of images to show, segmented by every model."""
    experiment: str = "comparison"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""
    run_name: str | None = None
    """Name of the MLflow run; None lists what is compared."""

    def __post_init__(self) -> None:
        check_names(self)
        at_least(self, "examples", 0)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Write what MLflow holds of an experiment, of runs or of a study as one page, HTML and Markdown."""

    experiment: str | None = None
    """Experiment whose runs to report; the page is recorded in it, too."""
    run_ids: str | None = None
    """Runs to report instead, with commas between: of trainings, evaluations, comparisons, studies."""
    study_name: str | None = None
    """Study to report, instead or besides."""
    split: str = "val"
    """Split whose scores to show."""
    output: str = "report"
    """Folder for report.html, report.md and its pictures."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""
    run_name: str | None = None
    """Name of the MLflow run; None says what is reported."""

    def __post_init__(self) -> None:
        check_names(self)
        if not (self.experiment or self.run_ids or self.study_name):
            raise InputError("name what to report: experiment=NAME, run_ids=ID,ID or study_name=NAME")


@dataclass(frozen=True, kw_only=True)
class DoctorConfig:
    """Find what dead processes have left: runs that look alive, damaged files, figures not sent; close such runs."""

    checkpoint_dir: str = "checkpoints"
    """Folder of the checkpoints to check."""
    cache_dir: str | None = None
    """Folder of the prepared pictures to check; None is mlproject/ in the user's cache folder."""
    records: str = "unsent"
    """Folder of what could not be sent to MLflow."""
    storage: str = "studies.journal"
    """Where studies are kept: FILE.journal, postgresql://HOST/NAME, sqlite:///FILE."""
    close: bool = True
    """Close the runs whose process is dead, and discard damaged prepared pictures; false only lists them."""


@dataclass(frozen=True, kw_only=True)
class SyncConfig:
    """Send to MLflow what it did not take while runs were under way."""

    records: str = "unsent"
    """Folder of what could not be sent to MLflow."""
    run_id: str | None = None
    """The one run to send; None sends all."""
    again: bool = False
    """Send once more what MLflow has refused before and was set aside."""


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Predict pictures: a mask, a confidence map and an overlay of each, at its own size, and a table."""

    model_uri: str
    """What predicts: a run (ID or runs:/ID), a registered model (models:/NAME/1, models:/NAME@ALIAS), a checkpoint."""
    images: str
    """A picture, or a folder of pictures, with all folders in it."""
    output: str = "predictions"
    """Folder for the masks, confidence maps, overlays and predictions.csv."""
    flip: bool = False
    """Predict each picture's mirror image, too, and average both: somewhat better, at twice the time."""
    batch_size: int = 16
    """Most pictures per forward pass; only pictures of equal size go together."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."""
    experiment: str = "predictions"
    """MLflow experiment, when not started by `mlflow run` (which has --experiment-name)."""
    records: str = "unsent"
    """Folder for what MLflow has not taken yet; `sync` sends it."""
    run_name: str | None = None
    """Name of the MLflow run; None says what predicted which pictures."""

    def __post_init__(self) -> None:
        check_names(self)
        at_least(self, "batch_size", 1)


def decisive(values: Mapping[str, Any]) -> dict[str, Any]:
    """Those values of a training's configuration that what it learns depends on, the seed among them."""
    beside = {
        "device", "data_dir", "download", "cache_dir", "plot_every", "examples", "log_model", "experiment", "run_name",
        "register_as", "alias", "checkpoint_dir", "records", "boundary_width", "recipe", "resume",
    }  # fmt: skip
    return {name: value for name, value in values.items() if name not in beside}


LONGEST_NAME = 250
"""Characters of a name that every database of MLflow holds."""
LONGEST_STUDY = 200
"""Characters of a study's name, which other names begin with."""


def check_names(config: Any) -> None:
    """Raise an `InputError` for a name that MLflow would refuse, perhaps after hours of training."""
    longest = {"register_as": LONGEST_NAME, "alias": LONGEST_NAME, "experiment": LONGEST_NAME,
               "run_name": LONGEST_NAME, "study_name": LONGEST_STUDY}  # fmt: skip
    given = {name: getattr(config, name, None) for name in longest}
    for name, value in given.items():
        if value is None:
            continue
        if name in ("register_as", "alias", "experiment") and not value.strip():
            raise InputError(f"{name}={value!r} is no name: it is empty")
        if len(value) > longest[name]:
            raise InputError(f"{name}={value[:40]}… has {len(value)} characters; it may have {longest[name]}")
    model, alias = given["register_as"], given["alias"]
    if model is not None and not getattr(config, "log_model", True):
        raise InputError(
            f"register_as={model!r} needs log_model=true: with log_model=false there is no model to register"
        )
    if model is not None and (re.search("[/:]", model) or model in (".", "..")):
        raise InputError(f"register_as={model!r} is no name of a registered model: it may not hold / or :")
    if alias is not None and not re.fullmatch(r"[\w-]+", alias):
        raise InputError(f"alias={alias!r} is not possible: it may hold letters, digits, _ and - only")
    if alias is not None and re.fullmatch(r"latest|v\d+", alias, re.IGNORECASE):
        raise InputError(f"alias={alias!r} is not possible: MLflow keeps `latest` and v1, v2, … for itself")
