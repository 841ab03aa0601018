"""Checks the data of a run before torch and MLflow are imported, so that a mistake is reported within a second."""

from segmentation.data import open_split
from segmentation.errors import Mistakes
from studies.config import TrainConfig


def check_data(config: TrainConfig) -> None:
    """Raise an `InputError` with everything that is wrong with the files of both splits; images are not decoded.

    A run that is resumed by its ID has its data in its stored configuration, and a download is left to the run.
    """
    downloads = config.download and config.dataset.startswith("voc")
    if downloads or config.resume not in (None, "auto"):
        return
    mistakes = Mistakes()
    for split in dict.fromkeys((config.train_split, config.val_split)):
        mistakes.check(open_split, config, split)
    mistakes.raise_all()
