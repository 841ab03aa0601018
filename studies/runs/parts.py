"""Checks that parts of a training split are still those that a model was trained with."""

import re
from pathlib import Path

from segmentation.config import DataConfig
from segmentation.data import Split
from segmentation.errors import InputError
from studies.models.stored import StoredModel
from studies.tracking.queries import tag_of_run


def check_parts_unchanged(stored: StoredModel, data: DataConfig, split: Split) -> None:
    """Raise an `InputError` if a part of the training split is not the one that the model was trained with.

    Images that are added or removed divide the training split anew: images that the model was trained on would be
    scored as validation images, or held-out images would be among them.

    Args:
        stored: the model.
        data: says how the training split is divided. Data in another folder than in training are not checked.
        split: training or validation split. Others are not checked.
    """
    divided = bool(data.val_fraction) or data.folds is not None
    tags = {data.train_split: "dataset_fingerprint"} if divided or data.calibration_fraction else {}
    if divided:
        tags[data.val_split] = "val_fingerprint"
    folder = Path(stored.name).parent.name  # of a checkpoint, which is CHECKPOINT_DIR/RUN_ID/best.pt
    run_id = stored.run_id or (folder if re.fullmatch("[0-9a-f]{32}", folder) else None)
    if run_id is None or split.name not in tags or not stored.trained_on(data):
        return
    trained_with = tag_of_run(run_id, tags[split.name])
    if trained_with not in (None, split.fingerprint):
        raise InputError(
            f"split={split.name}: the images in {split.location} have changed since run {run_id} was trained on "
            f"them, so that they are divided into other parts. Restore them, or put the images to score into a split "
            f"of their own"
        )
