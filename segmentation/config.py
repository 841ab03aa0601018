"""Configuration fields of data, augmentation, model, optimization and scoring.

A field `name` is `--name` on the command line and `-P name=` for `mlflow run`. This module does not import torch, so
that `--help` is fast.
"""

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, Literal

from segmentation.errors import InputError, Mistakes, one_of
from segmentation.fields import at_least, check_choices, configuration, within
from segmentation.metrics import METRICS

DATASETS = {
    "shapes": "segmentation.data.shapes:open_shapes",
    "voc2007": "segmentation.data.voc:open_voc",
    "voc2012": "segmentation.data.voc:open_voc",
    "camvid": "segmentation.data.camvid:open_camvid",
    "folder": "segmentation.data.folder:open_folder",
    "coco": "segmentation.data.coco:open_coco",
    "labelme": "segmentation.data.labelme:open_labelme",
    "cityscapes": "segmentation.data.cityscapes:open_cityscapes",
    "ade20k": "segmentation.data.ade20k:open_ade20k",
}
"""Registry of data sets: each name with the function that opens a split, as text, so that `--help` imports no torch.
To add a data set, write its file in `segmentation/data` and add a line here."""
if TYPE_CHECKING:
    Dataset = str
else:
    Dataset = Literal[tuple(DATASETS)]
NETWORKS = (
    "fcn_resnet50", "fcn_resnet101", "deeplabv3_resnet50", "deeplabv3_resnet101", "lraspp_mobilenet_v3_large",
)  # fmt: skip
"""Names of torchvision's networks. Another value of `model` names a user's own: `PACKAGE.MODULE:FUNCTION`."""


@configuration(frozen=True, kw_only=True)
class DataConfig:
    """Data set, splits and preparation of the images."""

    dataset: Dataset = "voc2007"
    """Data set; `shapes` is generated, `folder` reads images and masks, `coco` and `labelme` read annotation files."""
    data_dir: str = "."
    """Folder with the data set; for voc2007 and voc2012, the folder with VOCdevkit."""
    image_suffix: str = ""
    """End of the image files' names that their masks do not have, such as _leftImg8bit; for dataset=folder."""
    mask_suffix: str = ""
    """End of the mask files' names that their images do not have, such as _mask; for dataset=folder."""
    empty: Literal["refuse", "background"] = "refuse"
    """Images without a mask or labelme file: an error, or images that show only the class `background`."""
    download: bool = False
    """Download voc2007 or voc2012 into data_dir if it is missing."""
    dataset_seed: int = 0
    """Seed of the generated data set `shapes`."""
    train_split: str = "train"
    """Split to train on."""
    val_split: str = "val"
    """Split to validate on after every epoch."""
    val_fraction: float = 0.0
    """Fraction of the training images held out as val_split if there is none, the same images for every seed."""
    folds: int | None = None
    """Number of parts of the training images for cross-validation; each is the validation split of one run."""
    fold: int | None = None
    """Part that is the validation split, from 0 to folds - 1; `models` and `tune` train all folds without it."""
    group_by: str | None = None
    """Regular expression; images whose names have the same match (or first group) stay in one part."""
    calibration_fraction: float = 0.0
    """Fraction of the training images held out for `calibrate` as split `held_out`, the same images for every seed."""
    channels: int = 3
    """Channels of each image, of 8 or 16 bits: 3 is RGB, 1 is grey, other numbers need TIFF; see docs/your-data.md."""
    resize: int | None = 128
    """Length of the shorter side after resizing, in pixels; None keeps the original size."""
    crop: int | None = 128
    """Side of the square crop, in pixels; None keeps the whole image. See crop_at and score_crop."""
    crop_at: Literal["center", "random", "class"] = "center"
    """Position of the crop in training: center, random, or random around a pixel of a class drawn evenly."""
    score_crop: Literal["center", "whole"] = "center"
    """What is scored of a validation image: the center crop, or the whole resized image."""
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"
    """Interpolation for resizing images; masks always use the nearest pixel."""
    cache_dir: str | None = None
    """Folder for prepared images; None is mlproject/ in the user's cache folder."""


def check_parts(config: DataConfig) -> None:
    """Raise an `InputError` if the fields that divide the training split are wrong or contradict each other."""
    mistakes = Mistakes()
    mistakes.check(within, config, "val_fraction", 0.0, 0.9)
    if config.folds is None:
        if config.fold is not None:
            mistakes.add(f"fold={config.fold} needs folds, the number of parts, as in folds=5")
    else:
        mistakes.check(at_least, config, "folds", 2)
        if config.val_fraction:
            mistakes.add(
                f"val_fraction={config.val_fraction} and folds={config.folds} are given together: each decides which "
                f"images are the validation split; leave one of them out"
            )
        if config.fold is not None and not 0 <= config.fold < config.folds:
            mistakes.add(f"fold={config.fold} is out of range; with folds={config.folds} it is 0 to {config.folds - 1}")
    if config.group_by is not None:
        try:
            re.compile(config.group_by)
        except re.error as error:
            mistakes.add(f"group_by={config.group_by!r} is not a regular expression: {error}")
        if not (config.val_fraction or config.folds is not None or config.calibration_fraction):
            mistakes.add(
                f"group_by={config.group_by!r} has no effect: give val_fraction, folds or calibration_fraction, too"
            )
    mistakes.raise_all()


def check_crops(config: DataConfig) -> None:
    """Raise an `InputError` for fields that say where to crop if `crop` is none."""
    mistakes = Mistakes()
    for name in ("crop_at", "score_crop"):
        value = getattr(config, name)
        if value != "center" and config.crop is None:
            mistakes.add(f"{name}={value} has no effect with crop=none: set crop to the side of the crop in pixels")
    mistakes.raise_all()


@configuration(frozen=True, kw_only=True)
class AugmentationConfig:
    """Sampling and random augmentation of training images; by default each image once per epoch, unchanged."""

    sampling: Literal["uniform", "class_balanced"] = "uniform"
    """Images of an epoch: each once, or as many drawn so that each class is equally frequent. See docs/imbalance.md."""
    flip: float = 0.0
    """Probability of a horizontal flip."""
    vertical_flip: float = 0.0
    """Probability of a vertical flip."""
    scale_min: float = 1.0
    """Smallest scale factor of the random zoom; below 1 the border is filled with void."""
    scale_max: float = 1.0
    """Largest scale factor of the random zoom; above 1 a random part is cropped."""
    rotation: float = 0.0
    """Largest angle of the random rotation in either direction, in degrees; the corners are filled with void."""
    color_jitter: float = 0.0
    """Largest relative change of brightness, contrast and saturation, from 0 to 1."""
    grayscale: float = 0.0
    """Probability of removing the color."""
    autocontrast: float = 0.0
    """Probability of stretching each channel to the whole range of brightness."""
    blur: float = 0.0
    """Probability of a Gaussian blur, whose standard deviation is drawn from 0.1 to 2 pixels."""


@configuration(frozen=True, kw_only=True)
class ModelConfig:
    """Model, starting weights and fine-tuning."""

    model: str = "fcn_resnet50"
    """fcn_resnet50 or 101, deeplabv3_resnet50 or 101, lraspp_mobilenet_v3_large, or yours: PACKAGE.MODULE:FUNCTION."""
    normalization: Literal["auto", "signed_unit", "imagenet", "measured"] = "auto"
    """Input scale: [-1, 1], or mean and std of ImageNet or the training split; auto follows weights and data."""
    weights: str = "none"
    """Starting weights: none, imagenet (backbone), coco, runs:/ID, models:/NAME/1, a checkpoint or state dict file."""
    batch_norm_momentum: float | None = None
    """Momentum of batch norm's running statistics, from 0 to 1; None is 0.1, or 0.01 for mobilenet."""
    recipe: Literal["none", "head_first", "slow_backbone", "frozen_batch_norm", "careful"] = "none"
    """Fine-tuning recipe: a preset for the freeze_ and backbone_ fields that are not set; see docs/fine-tuning.md."""
    freeze_backbone: int | None = None
    """Epochs at the start in which the backbone and its batch norm are frozen; None is the recipe's value, or 0."""
    freeze_batch_norm: bool | None = None
    """Freeze statistics, scale and bias of the backbone's batch norm; None is the recipe's value, or false."""
    auxiliary_loss: float = 0.0
    """Weight of the auxiliary head's loss (not for lraspp_mobilenet_v3_large); 0 builds no auxiliary head."""

    def known_normalization(self) -> str:
        """Normalization of the input; `auto` is that of the starting weights.

        Raises:
            InputError: it is `auto`, and the starting weights come from a run, the registry or a file.
        """
        found: str = self.normalization
        if found == "auto":
            found = published_normalization(self.weights, getattr(self, "channels", RGB))
        if found == "auto":
            raise InputError(
                f"normalization=auto: the normalization of weights={self.weights} is unknown; "
                f"set normalization to one of {', '.join(dict.fromkeys(NORMALIZATIONS.values()))}, {MEASURED}"
            )
        return found


def check_model(config: ModelConfig) -> None:
    """Raise an `InputError` if `model` is neither a known name nor of the form of an own model, without importing it.

    `weights=imagenet` and `weights=coco` are refused for an own model.
    """
    if ":" not in config.model:
        try:
            one_of("model", config.model, NETWORKS)
        except InputError as error:
            raise InputError(f"{error} Or name your own as PACKAGE.MODULE:FUNCTION, such as my_models:net.") from None
    elif not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", config.model):
        raise InputError(
            f"model={config.model!r} is not of the form PACKAGE.MODULE:FUNCTION, such as my_models:net for the "
            f"function net in my_models.py"
        )
    elif config.weights in ("imagenet", "coco"):
        raise InputError(
            f"weights={config.weights} are for torchvision's networks, not for model={config.model}: leave weights "
            f"out, and load them in its function"
        )


@configuration(frozen=True, kw_only=True)
class OptimizationConfig:
    """Optimizer, schedule and hardware of training."""

    epochs: int = 50
    """Number of passes over the training split."""
    batch_size: int = 64
    """Images per optimizer step, over all processes."""
    micro_batch: int | Literal["auto"] | None = None
    """Images per forward pass; gradients accumulate, batch norm sees each pass alone; None is all, auto what fits."""
    loss: Literal["cross_entropy", "focal", "dice", "lovasz", "cross_entropy+dice"] = "cross_entropy"
    """Loss that is minimized; scores and train/loss are always the cross-entropy. See docs/imbalance.md."""
    class_weights: str = "none"
    """Weights of the classes in the loss: none, inverse, median_frequency, or a JSON file with a weight by name."""
    label_smoothing: float = 0.0
    """Fraction of the target that cross_entropy spreads over all classes, from 0 to 1."""
    focal_gamma: float = 2.0
    """Exponent of loss=focal; 0 is the cross-entropy."""
    optimizer: Literal["sgd", "adamw"] = "sgd"
    """Optimizer."""
    learning_rate: float = 0.01
    """Learning rate of the optimizer."""
    momentum: float = 0.9
    """Momentum of sgd; the first beta of adamw is always 0.9."""
    weight_decay: float = 0.0
    """Weight decay of every parameter."""
    head_learning_rate_factor: float = 1.0
    """Learning rate of all layers except the backbone, as a multiple of learning_rate."""
    backbone_learning_rate_factor: float | None = None
    """Learning rate of the backbone, as a multiple of learning_rate; None is the recipe's value, or 1."""
    schedule: Literal["constant", "polynomial", "cosine"] = "constant"
    """Learning rate schedule: constant, or decay to 0, polynomial with power 0.9 or along half a cosine."""
    warmup_epochs: int = 0
    """Epochs of linear warm-up of the learning rate from 0."""
    gradient_clip: float | None = None
    """Largest Euclidean norm of the gradient of all parameters; larger gradients are scaled down; None never does."""
    ema: float | None = None
    """Decay of a moving average of the weights, such as 0.999, which is scored and kept; None keeps no average."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of training; auto is bfloat16 on GPUs that support it, else float32; validation is always float32."""
    channels_last: bool = True
    """Memory format channels last (B, H, W, C): convolutions are 10 to 20 % faster on the measured CPUs."""
    compile: Literal["false", "true", "auto"] = "false"
    """Compile the network with torch.compile; auto does if more than 57 minutes are left after the first epoch."""
    device: str = "auto"
    """Device: cpu, cuda, cuda:1, mps, or auto, which is a GPU if there is one."""
    processes: int = 1
    """Processes on this machine that train one model, each on a shard of every batch; torchrun spans machines."""
    sync_batch_norm: bool = False
    """Compute batch norm over the batch of all processes instead of the shard of each; needs GPUs."""
    seed: int = 0
    """Seed of random starting weights, image order and augmentation."""
    deterministic: bool = False
    """Use only deterministic kernels, which are slower on GPUs; CPUs always do."""


@configuration(frozen=True, kw_only=True)
class ScoringConfig:
    """Validation metrics, best epoch and early stopping."""

    monitor: str = "val/mean_iou"
    """Metric that selects the best epoch: the lowest val/loss can be that of an early epoch that predicts one class."""
    patience: int | None = None
    """Epochs without improvement of monitor before training stops; None never stops early."""
    boundary_width: int = 3
    """Width of the boundary band on either side of a class boundary, in pixels of the scored size."""


RECIPES: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "head_first": {"freeze_backbone": 3},
    "slow_backbone": {"backbone_learning_rate_factor": 0.1},
    # with frozen batch norm, runs at the full learning rate diverged
    "frozen_batch_norm": {"freeze_batch_norm": True, "backbone_learning_rate_factor": 0.1},
    "careful": {"freeze_backbone": 3, "backbone_learning_rate_factor": 0.1, "freeze_batch_norm": True},
}
"""Values that a recipe sets for fields that are not set by the user."""
WITHOUT_RECIPE: Mapping[str, Any] = {
    "freeze_backbone": 0, "backbone_learning_rate_factor": 1.0, "freeze_batch_norm": False,
}  # fmt: skip
"""Values of these fields without a recipe."""
NORMALIZATIONS: Mapping[str, str] = {"none": "signed_unit", "imagenet": "imagenet", "coco": "imagenet"}
"""Normalization that the starting weights were trained with; `none` uses that of the original report."""
MEASURED: Final = "measured"
"""Normalization by the mean and standard deviation of each channel over the pixels of the training split."""
RGB = 3
"""Channels of the images that the published weights and normalizations are for."""
MAX_CHANNELS = 1024
"""Most channels of an image. Hyperspectral cameras have a few hundred."""


def published_normalization(weights: str, channels: int) -> str:
    """Return what `normalization=auto` stands for, of images of 8 bits; `auto` for weights of a run, registry or file.

    The published mean and standard deviations are those of RGB, so images of other channels are measured.
    """
    return NORMALIZATIONS.get(weights, "auto") if channels == RGB else MEASURED


def derived(recipe: str, weights: str, channels: int = RGB) -> dict[str, Any]:
    """Values of the fields that are derived from `recipe`, `weights` and `channels` unless the user sets them.

    The normalization stays `auto` for weights of a run, registry or file, until they are loaded.
    """
    return {**WITHOUT_RECIPE, **RECIPES[recipe], "normalization": published_normalization(weights, channels)}


@configuration(frozen=True, kw_only=True)
class TrainingConfig(ScoringConfig, OptimizationConfig, ModelConfig, AugmentationConfig, DataConfig):
    """All fields that determine the result of a run. The defaults are the original report's protocol."""

    def __post_init__(self) -> None:
        mistakes = Mistakes()
        mistakes.check(check_choices, self)
        mistakes.check(check_model, self)
        if self.recipe in RECIPES and not self.stays_open():
            self._settle()
        for name in ("epochs", "batch_size", "processes"):
            mistakes.check(at_least, self, name, 1)
        for name in ("resize", "crop", "micro_batch", "patience"):
            if getattr(self, name) not in (None, "auto"):
                mistakes.check(at_least, self, name, 1)
        for name in ("freeze_backbone", "warmup_epochs", "seed", "dataset_seed"):
            if getattr(self, name) is not None:
                mistakes.check(at_least, self, name, 0)
        mistakes.check(at_least, self, "boundary_width", 0)
        mistakes.check(within, self, "channels", 1, MAX_CHANNELS)
        if self.channels != RGB and self.normalization not in ("auto", MEASURED):
            mistakes.add(
                f"normalization={self.normalization} is for channels=3, not channels={self.channels}: leave it out, "
                f"or set normalization={MEASURED}"
            )
        for name in ("color_jitter", "grayscale"):
            if self.channels != RGB and getattr(self, name):
                mistakes.add(
                    f"{name}={getattr(self, name)} needs RGB images, not channels={self.channels}: set it to 0"
                )
        mistakes.check(within, self, "calibration_fraction", 0.0, 0.9)
        mistakes.check(check_parts, self)
        mistakes.check(within, self, "focal_gamma", 0.0, 10.0)
        if self.label_smoothing and not self.loss.startswith("cross_entropy"):
            mistakes.add(
                f"label_smoothing={self.label_smoothing} has no effect with loss={self.loss}: set it to 0, or loss to "
                f"cross_entropy or cross_entropy+dice"
            )
        if self.focal_gamma != type(self).focal_gamma and self.loss != "focal":
            mistakes.add(f"focal_gamma={self.focal_gamma} has no effect with loss={self.loss}: set loss=focal")
        for name in (
            "learning_rate",
            "weight_decay",
            "auxiliary_loss",
            "head_learning_rate_factor",
            "backbone_learning_rate_factor",
        ):
            if getattr(self, name) is not None:
                mistakes.check(within, self, name, 0.0, math.inf)
        mistakes.check(check_crops, self)
        for name in ("flip", "vertical_flip", "color_jitter", "grayscale", "autocontrast", "blur"):
            mistakes.check(within, self, name, 0.0, 1.0)
        mistakes.check(within, self, "rotation", 0.0, 180.0)
        for name in ("momentum", "label_smoothing"):
            mistakes.check(within, self, name, 0.0, 1.0)
        if self.batch_norm_momentum is not None:
            mistakes.check(within, self, "batch_norm_momentum", 0.0, 1.0)
        if self.gradient_clip is not None and not 0 < self.gradient_clip < math.inf:
            mistakes.add(f"gradient_clip={self.gradient_clip}: it must be larger than 0; leave it out for no limit")
        if self.ema is not None and not 0 <= self.ema < 1:
            mistakes.add(f"ema={self.ema}: the decay must be at least 0 and less than 1; 0.999 is usual")
        for name in ("scale_min", "scale_max"):
            mistakes.check(within, self, name, 0.1, 10.0)
        if self.scale_min > self.scale_max:
            mistakes.add(f"scale_min={self.scale_min} is larger than scale_max={self.scale_max}: exchange them")
        if self.resize is not None and self.crop is not None and self.crop > self.resize >= 1:
            mistakes.add(f"crop={self.crop} is larger than resize={self.resize}: set crop to at most {self.resize}")
        if self.processes > self.batch_size >= 1:
            mistakes.add(
                f"batch_size={self.batch_size} is smaller than processes={self.processes}: set it to at least "
                f"{self.processes}, one image for each process"
            )
        if self.warmup_epochs > self.epochs >= 1:
            mistakes.add(
                f"warmup_epochs={self.warmup_epochs} is more than epochs={self.epochs}: set it to at most {self.epochs}"
            )
        if self.auxiliary_loss and self.model == "lraspp_mobilenet_v3_large":
            mistakes.add(f"auxiliary_loss={self.auxiliary_loss}: {self.model} has no auxiliary head; set it to 0")
        split, slash, metric = self.monitor.partition("/")
        known = [name for name, about in METRICS.items() if about.higher_is_better is not None]
        if split != "val" or not slash or metric not in known:
            mistakes.check(one_of, "monitor", self.monitor, [f"val/{name}" for name in known])
        mistakes.raise_all()

    def stays_open(self) -> bool:
        """Whether fields that the user has not set stay unset; otherwise they get the values of `derived`."""
        return False

    def _settle(self) -> None:
        """Set the fields of `derived` that still have their default."""
        for name, value in derived(self.recipe, self.weights, self.channels).items():
            if getattr(self, name) == type(self).__dataclass_fields__[name].default:
                object.__setattr__(self, name, value)
