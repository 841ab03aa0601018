"""The data sets that `dataset=` knows: one file each, listed here."""

from collections.abc import Callable

from segmentation.config import DataConfig
from segmentation.data.cache import Split, data_fields, load
from segmentation.data.camvid import open_camvid
from segmentation.data.coverage import report_coverage
from segmentation.data.folder import open_folder
from segmentation.data.held_out import HELD_OUT, held_out
from segmentation.data.originals import Originals
from segmentation.data.shapes import open_shapes
from segmentation.data.source import Source
from segmentation.data.voc import open_voc
from segmentation.errors import InputError, one_of

DATASETS: dict[str, Callable[[DataConfig, str], Source]] = {
    "shapes": open_shapes,
    "voc2007": open_voc,
    "voc2012": open_voc,
    "camvid": open_camvid,
    "folder": open_folder,
}

__all__ = [
    "DATASETS", "HELD_OUT", "Originals", "Split", "data_fields", "load_split", "open_split", "report_coverage",
]  # fmt: skip


def load_split(config: DataConfig, split: str) -> Split:
    """Open one split of `config.dataset`, check it, and prepare it or find it prepared.

    With `config.calibration_fraction`, the training split comes without the images that are held out, and the split
    `held_out` is these.

    Raises:
        InputError: what is wrong with the data, in which file.
    """
    return load(open_split(config, split), config, split)


def open_split(config: DataConfig, split: str) -> Source:
    """The pictures of one split as they were found, see `load_split`."""
    one_of("dataset", config.dataset, DATASETS)
    if config.download and not config.dataset.startswith("voc"):
        raise InputError(f"download=True: only voc2007 and voc2012 can be fetched, not dataset={config.dataset}")
    if split == HELD_OUT and not config.calibration_fraction:
        raise InputError(
            f"split={HELD_OUT}: no training images were held out; train with calibration_fraction=0.15, say, or name "
            f"another split"
        )
    found = DATASETS[config.dataset](config, config.train_split if split == HELD_OUT else split)
    if config.calibration_fraction and split in (HELD_OUT, config.train_split):
        return held_out(found, config.calibration_fraction, split == HELD_OUT)
    return found
