"""Results of the original report, for comparison with runs on the same data."""

from collections import defaultdict
from collections.abc import Mapping
from typing import Any, NamedTuple


class GridCell(NamedTuple):
    """One run of its grid: FCN-ResNet-50 from scratch, VOC 2007, 50 epochs, batch size 64, SGD with momentum 0.9."""

    weight_decay: float
    learning_rate: float
    train_loss: float
    val_loss: float
    val_accuracy: float


class PublishedModel(NamedTuple):
    """One of its four models, trained with the grid's protocol."""

    model: str
    pretrained: bool
    """True if fine-tuned from pretrained weights, false if trained from scratch."""
    ece: float


DATASET, GRID_MODEL = "voc2007", "fcn_resnet50"
TRAINING_IMAGES, VALIDATION_IMAGES = 209, 213
SCORED = {"dataset": DATASET, "split": "val", "resize": 128, "crop": 128, "images": VALIDATION_IMAGES}
"""What all its results were scored on, as a protocol of scores has it."""
GRID = (
    GridCell(0.0, 0.01, 0.098, 0.679, 0.817),
    GridCell(0.0, 0.05, 0.040, 0.727, 0.819),
    GridCell(0.0, 0.001, 0.034, 0.766, 0.819),
    GridCell(0.0, 0.0001, 0.869, 1.410, 0.695),
    GridCell(0.01, 0.01, 0.037, 0.733, 0.811),
    GridCell(0.01, 0.05, 0.503, 1.417, 0.678),
    GridCell(0.01, 0.001, 0.191, 1.101, 0.740),
    GridCell(0.01, 0.0001, 0.860, 1.406, 0.693),
    GridCell(0.05, 0.01, 0.215, 1.481, 0.708),
    GridCell(0.05, 0.05, 1.306, 1.666, 0.504),
    GridCell(0.05, 0.001, 1.212, 1.338, 0.698),
    GridCell(0.05, 0.0001, 1.201, 1.331, 0.704),
    GridCell(0.001, 0.01, 1.031, 1.446, 0.693),
    GridCell(0.001, 0.05, 1.003, 1.503, 0.619),
    GridCell(0.001, 0.001, 0.869, 1.409, 0.697),
    GridCell(0.001, 0.0001, 0.865, 1.409, 0.695),
)


def scored_the_same(protocol: Mapping[str, Any]) -> bool:
    """Whether scores with this protocol are of all images that the report scored, at its size.

    Published values stand next to ours only then: a part of the images, or another size, gives other values.
    """
    return all(protocol.get(name) == value for name, value in SCORED.items())


def why_left_out(protocol: Mapping[str, Any]) -> str:
    """Return why the published values are not next to scores with this protocol."""
    return (
        f"The original report's values are left out, since they are not comparable: it scored all {_scored(SCORED)}, "
        f"this page {_scored(protocol)}."
    )


def _scored(protocol: Mapping[str, Any]) -> str:
    known = defaultdict(lambda: "?", protocol)
    return "{images} images of {dataset}/{split} (resize {resize}, crop {crop})".format_map(known)


def grid_cell(learning_rate: float, weight_decay: float) -> GridCell | None:
    """Return the report's results for one setting; None if the grid lacks it."""
    cells = {(cell.learning_rate, cell.weight_decay): cell for cell in GRID}
    return cells.get((learning_rate, weight_decay))


MODELS = (
    PublishedModel("fcn_resnet50", False, 0.0733),
    PublishedModel("fcn_resnet50", True, 0.0543),
    PublishedModel("fcn_resnet101", False, 0.0741),
    PublishedModel("fcn_resnet101", True, 0.0685),
)
"""Trained on VOC 2007 and scored on its validation split, with 10 bins."""
FINAL_ACCURACY = 0.817
"""Pixel accuracy on the validation split of its FCN-ResNet-50 trained from scratch."""


def trained_like(config: Mapping[str, Any]) -> PublishedModel | None:
    """Return the report's model of the same architecture and kind of starting weights; None if there is none."""
    wanted = config.get("model"), config.get("weights", "none") != "none"
    return next((each for each in MODELS if (each.model, each.pretrained) == wanted), None)
