"""Fields of data, augmentation, model, optimisation and scoring. Imports no torch, so that `--help` is instant.

A field `name` is the command line's `--name` and MLflow's `-P name=`. `Optional[int]`, not `int | None`: for the latter
tyro loads a type checker, which doubles the time of `--help`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Optional

from segmentation.errors import InputError, one_of
from segmentation.fields import at_least, check_choices, within
from segmentation.metrics import METRICS

DATASETS = {
    "shapes": "segmentation.data.shapes:open_shapes",
    "voc2007": "segmentation.data.voc:open_voc",
    "voc2012": "segmentation.data.voc:open_voc",
    "camvid": "segmentation.data.camvid:open_camvid",
    "folder": "segmentation.data.folder:open_folder",
}
"""Registry of data sets: each name with the function that opens a split, as text, so that `--help` imports no torch.
To add a data set, write its file in `segmentation/data` and add a line here."""
if TYPE_CHECKING:
    Dataset = str
else:
    Dataset = Literal[tuple(DATASETS)]
Network = Literal[
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "lraspp_mobilenet_v3_large"
]


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which pictures, and how they are prepared."""

    dataset: Dataset = "voc2007"
    """Data set; `shapes` is generated, `folder` is any pair of image and mask folders."""
    data_dir: str = "."
    """Folder that holds the data set (for voc2007 and voc2012, the one that holds VOCdevkit)."""
    download: bool = False
    """Fetch voc2007 or voc2012 into data_dir if it is not there."""
    dataset_seed: int = 0
    """Seed that the `shapes` data set is generated from."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to score after every epoch."""
    calibration_fraction: float = 0.0
    """Share of the training images held out to calibrate on later, the same ones for every seed: split `held_out`."""
    resize: Optional[int] = 128
    """Length that the shorter side is resized to, in pixels; None keeps the original size."""
    crop: Optional[int] = 128
    """Side of the square cut from the centre, in pixels; None keeps the whole picture."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """How images are resized (masks always take the nearest pixel)."""
    cache_dir: Optional[str] = None
    """Folder for prepared pictures; None is mlproject/ in the user's cache folder."""


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random changes to training pictures; all off by default."""

    flip: float = 0.0
    """Probability of mirroring a training picture left to right."""
    scale_min: float = 1.0
    """Smallest random zoom of a training picture; below 1 its border is filled with void."""
    scale_max: float = 1.0
    """Largest random zoom of a training picture; above 1 a random part of it is cut out."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, 0 to 1."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Which network, and where its weights start."""

    model: Network = "fcn_resnet50"
    """Network, one of torchvision's."""
    normalization: Literal["auto", "signed_unit", "imagenet"] = "auto"
    """Scale of the input: signed_unit is [-1, 1], imagenet its mean and std; auto is what weights were trained with."""
    weights: str = "none"
    """Starting weights: none, imagenet (backbone), coco, runs:/ID, models:/NAME/1, a checkpoint or state dict file."""
    batch_norm_momentum: Optional[float] = None
    """Share of a batch in batch norm's running statistics; None is the network's own: 0.1, but 0.01 for mobilenet."""
    recipe: Literal["none", "head_first", "slow_backbone", "frozen_batch_norm", "careful"] = "none"
    """How to fine-tune: values for those of the fields below that are not given themselves; see docs/fine-tuning.md."""
    freeze_backbone: Optional[int] = None
    """Number of first epochs in which the backbone, batch norm included, is held; None: the recipe's, or 0."""
    freeze_batch_norm: Optional[bool] = None
    """Keep the backbone's batch norm as it starts: statistics, scales and shifts; None: the recipe's, or false."""
    auxiliary_loss: float = 0.0
    """Weight of the loss on an auxiliary head (not for lraspp_mobilenet_v3_large); 0 builds no such head."""


@dataclass(frozen=True, kw_only=True)
class OptimizationConfig:
    """How the weights are trained."""

    epochs: int = 50
    """Number of passes over the training split."""
    batch_size: int = 64
    """Images per optimiser step."""
    micro_batch: Optional[int] = None
    """Images per forward pass, to save memory: gradients add up, batch norm sees each pass alone; None is the batch."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimiser."""
    learning_rate: float = 0.01
    """Step size of the optimiser."""
    momentum: float = 0.9
    """Momentum of sgd (adamw's first beta stays 0.9)."""
    weight_decay: float = 0.0
    """Weight decay, applied to every parameter."""
    head_learning_rate_factor: float = 1.0
    """Learning rate of everything but the backbone, as a multiple of learning_rate."""
    backbone_learning_rate_factor: Optional[float] = None
    """Learning rate of the backbone, as a multiple of learning_rate; None: the recipe's, or 1."""
    schedule: Literal["constant", "polynomial"] = "constant"
    """Learning rate over time: constant, or falling to 0 as (1 - progress) ** 0.9."""
    warmup_epochs: int = 0
    """Epochs over which the learning rate first rises linearly from 0."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision in training; auto is bfloat16 on a GPU that has it, else float32. Scores are in float32 always."""
    channels_last: bool = True
    """Keep tensors as (B, H, W, C) in memory, which convolutions like (10 to 20 % faster on the CPUs tried)."""
    device: str = "auto"
    """Where to compute: auto, cpu, cuda, cuda:1, mps; auto takes a GPU if there is one."""
    processes: int = 1
    """Processes on this machine that train together, each on its share of every batch; torchrun joins more machines."""
    sync_batch_norm: bool = False
    """Batch norm over the batch of all processes together, not over the share of each."""
    seed: int = 0
    """Seed of the starting weights, the order of the images and every random change to them."""
    deterministic: bool = False
    """Only kernels that give the same result each time, for GPUs (slower there); the CPU's do so anyway."""


@dataclass(frozen=True, kw_only=True)
class ScoringConfig:
    """How an epoch is scored, and which one is best."""

    monitor: str = "val/loss"
    """Metric that decides which epoch is best."""
    patience: Optional[int] = None
    """Stop after this many epochs without a better monitor; None never stops early."""
    boundary_width: int = 3
    """Pixels on either side of a boundary that are reported apart from the interior, at the size they are scored at."""


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "head_first": {"freeze_backbone": 3},
    "slow_backbone": {"backbone_learning_rate_factor": 0.1},
    # slow, too: without batch norm's help a full rate has diverged
    "frozen_batch_norm": {"freeze_batch_norm": True, "backbone_learning_rate_factor": 0.1},
    "careful": {"freeze_backbone": 3, "backbone_learning_rate_factor": 0.1, "freeze_batch_norm": True},
}
"""What a recipe sets; a field that was given keeps its value."""
WITHOUT_RECIPE: Mapping[str, Any] = {
    "freeze_backbone": 0, "backbone_learning_rate_factor": 1.0, "freeze_batch_norm": False,
}  # fmt: skip
"""What the fields of recipes are when neither they nor a recipe are given."""
NORMALIZATIONS: Mapping[str, str] = {"none": "signed_unit", "imagenet": "imagenet", "coco": "imagenet"}
"""What starting weights were trained with; without any, the original report's."""


def derived(recipe: str, weights: str) -> dict[str, Any]:
    """Values of the fields that follow from others where they are not given themselves.

    How images are to be scaled is known of weights by name alone; of weights that are elsewhere, once they are found.
    """
    return {**WITHOUT_RECIPE, **RECIPES[recipe], "normalization": NORMALIZATIONS.get(weights, "auto")}


@dataclass(frozen=True, kw_only=True)
class TrainingConfig(ScoringConfig, OptimizationConfig, ModelConfig, AugmentationConfig, DataConfig):
    """All that a training run's result depends on. The defaults are the original report's protocol."""

    def __post_init__(self) -> None:
        check_choices(self)
        if not self.stays_open():
            self._settle()
        for name in ("epochs", "batch_size", "processes"):
            at_least(self, name, 1)
        for name in ("resize", "crop", "micro_batch", "patience"):
            if getattr(self, name) is not None:
                at_least(self, name, 1)
        for name in ("freeze_backbone", "warmup_epochs", "seed", "dataset_seed"):
            if getattr(self, name) is not None:
                at_least(self, name, 0)
        at_least(self, "boundary_width", 0)
        within(self, "calibration_fraction", 0.0, 0.9)
        for name in (
            "learning_rate",
            "weight_decay",
            "auxiliary_loss",
            "head_learning_rate_factor",
            "backbone_learning_rate_factor",
        ):
            if getattr(self, name) is not None:
                within(self, name, 0.0, math.inf)
        for name in ("flip", "color_jitter", "momentum"):
            within(self, name, 0.0, 1.0)
        if self.batch_norm_momentum is not None:
            within(self, "batch_norm_momentum", 0.0, 1.0)
        for name in ("scale_min", "scale_max"):
            within(self, name, 0.1, 10.0)
        if self.scale_min > self.scale_max:
            raise InputError(f"scale_min={self.scale_min} is larger than scale_max={self.scale_max}")
        if self.resize is not None and self.crop is not None and self.crop > self.resize:
            raise InputError(
                f"crop={self.crop} is larger than resize={self.resize}: the shorter side has only {self.resize} pixels"
            )
        if self.batch_size < self.processes:
            raise InputError(
                f"batch_size={self.batch_size} has no image for each of processes={self.processes}: it is shared out "
                f"among them, so make it at least {self.processes}"
            )
        if self.warmup_epochs > self.epochs:
            raise InputError(f"warmup_epochs={self.warmup_epochs} is more than epochs={self.epochs}")
        if self.auxiliary_loss and self.model == "lraspp_mobilenet_v3_large":
            raise InputError(f"auxiliary_loss={self.auxiliary_loss}: {self.model} has no auxiliary head; set it to 0")
        split, slash, metric = self.monitor.partition("/")
        known = [name for name, about in METRICS.items() if about.higher_is_better is not None]
        if split != "val" or not slash or metric not in known:
            one_of("monitor", self.monitor, [f"val/{name}" for name in known])

    def stays_open(self) -> bool:
        """Whether fields that were not given stay open; otherwise they get the values that follow from others."""
        return False

    def _settle(self) -> None:
        """Give the fields that follow from others their values, where they were not given themselves."""
        for name, value in derived(self.recipe, self.weights).items():
            if getattr(self, name) == type(self).__dataclass_fields__[name].default:
                object.__setattr__(self, name, value)
