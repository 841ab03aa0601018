"""The data sets that `dataset=` knows: one file each, listed here."""

from collections.abc import Callable

from segmentation.config import DataConfig
from segmentation.datasets.cache import Split, load
from segmentation.datasets.camvid import open_camvid
from segmentation.datasets.folder import open_folder
from segmentation.datasets.shapes import open_shapes
from segmentation.datasets.source import Source
from segmentation.datasets.voc import open_voc
from segmentation.errors import InputError, one_of

DATASETS: dict[str, Callable[[DataConfig, str], Source]] = {
    "shapes": open_shapes,
    "voc2007": open_voc,
    "voc2012": open_voc,
    "camvid": open_camvid,
    "folder": open_folder,
}

__all__ = ["DATASETS", "Split", "load_split"]


def load_split(config: DataConfig, split: str) -> Split:
    """Open one split of `config.dataset`, check it, and prepare it or find it prepared.

    Raises:
        InputError: what is wrong with the data, in which file.
    """
    one_of("dataset", config.dataset, DATASETS)
    if config.download and not config.dataset.startswith("voc"):
        raise InputError(f"download=True: only voc2007 and voc2012 can be fetched, not dataset={config.dataset}")
    return load(DATASETS[config.dataset](config, split), config, split)
