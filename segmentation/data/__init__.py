"""Data sets, one file each, and their preparation. `segmentation.config.DATASETS` lists them."""

import difflib
import pkgutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

from segmentation.config import DATASETS, RGB, DataConfig
from segmentation.data.building import load, reading_faults
from segmentation.data.cache import data_fields
from segmentation.data.coverage import report_coverage
from segmentation.data.drawn import DrawnImages
from segmentation.data.exports import export_hint
from segmentation.data.faults import MAX_LISTED, refuse, together
from segmentation.data.held_out import is_part
from segmentation.data.originals import Originals
from segmentation.data.overlap import overlap_warning
from segmentation.data.pairs import ImagePairs
from segmentation.data.preparation import takes_whole_images, too_small
from segmentation.data.source import HELD_OUT, MissingDataError, Source
from segmentation.data.split import Split, check_same_bits
from segmentation.data.splitting import part
from segmentation.errors import InputError, one_of

__all__ = [
    "DATASETS", "HELD_OUT", "Originals", "Split", "data_fields", "has_own_split", "load_split", "load_splits",
    "load_training_split", "open_split", "open_splits", "overlap_warning", "report_coverage",
]  # fmt: skip

WITHOUT_FILES = ("shapes",)
"""Data sets that are generated."""


def load_split(config: DataConfig, split: str, whole: bool | None = None) -> Split:
    """Return one prepared split of `config.dataset`, from the cache or newly prepared.

    With `config.calibration_fraction`, the training split lacks the held-out images, and the split `held_out` consists
    of them. With `config.val_fraction` or `config.folds`, `config.val_split` is a part of the training split, too.

    Args:
        config: the data set and its preparation.
        split: name of the split.
        whole: whole images instead of center crops; None follows `config.score_crop`.

    Raises:
        InputError: the data are wrong; the message names the file.
    """
    whole = config.score_crop == "whole" if whole is None else whole
    return load(open_split(config, split), config, split, whole)


def load_training_split(config: DataConfig) -> Split:
    """Return the training split, with whole images unless `config.crop_at` is `center`; see `load_split`.

    Raises:
        InputError: the data are wrong, or an image is smaller than the crop.
    """
    split = load_split(config, config.train_split, takes_whole_images(config, config.train_split))
    sizes = zip(split.names, split.sizes.tolist(), strict=True)
    faults = (too_small((width, height), config, name) for name, (height, width) in sizes)
    refuse([fault for fault in faults if fault], split.location)
    return split


def load_splits(config: DataConfig) -> list[Split]:
    """Return the training split and the validation split. One error lists the faults of both."""
    found = together([partial(load_training_split, config), partial(load_split, config, config.val_split)])
    check_same_bits(found)
    return found


def open_splits(config: DataConfig, *splits: str) -> list[Source]:
    """Return several splits before preparation; see `open_split`. One error lists the faults of all."""
    return together(partial(open_split, config, split) for split in splits)


def open_split(config: DataConfig, split: str, with_faults: bool = False) -> Source:
    """Return the images and masks of one split before preparation; see `load_split`.

    Args:
        config: the data set.
        split: its name.
        with_faults: return a split whose `faults` say what is wrong with its files, instead of raising.

    Raises:
        InputError: files are missing or contradict each other. The message states what is wrong with others too.
    """
    one_of("dataset", config.dataset, DATASETS)
    if config.download and not config.dataset.startswith("voc"):
        raise InputError(f"download=True works for voc2007 and voc2012 only, not for dataset={config.dataset}")
    if split == HELD_OUT and not config.calibration_fraction:
        raise InputError(
            f"split={HELD_OUT}: the model was trained without held-out images; train with calibration_fraction=0.15, "
            f"for example, or choose another split"
        )
    if not is_part(config, split):
        return _whole(config, split, with_faults)
    source = _whole(config, config.train_split, with_faults)
    if config.val_fraction and has_own_split(config):
        raise InputError(
            f"val_fraction={config.val_fraction}: {config.dataset} in {source.location} has a split "
            f"{config.val_split!r}. Leave val_fraction out to validate on it, or give the held-out part another name, "
            f"as in val_split=part"
        )
    return part(source, config, split)


def has_own_split(config: DataConfig) -> bool:
    """Return whether a data set has a split `config.val_split`, so that none need be held out."""
    try:
        _opener(config)(replace(config, download=False), config.val_split)
    except InputError:
        return False
    return True


def _whole(config: DataConfig, split: str, with_faults: bool) -> Source:
    """All images of a split that the data set has."""
    if config.dataset not in WITHOUT_FILES and not config.download:
        _check_folder(Path(config.data_dir))
    try:
        source = _with_channels(_opener(config)(config, split), config)
    except MissingDataError as error:
        hint = export_hint(config.data_dir)
        raise InputError(f"{error}. {hint}" if hint else str(error)) from error
    faults = list(getattr(source, "faults", ()))
    if faults and not with_faults:
        if len(faults) < MAX_LISTED:
            faults += reading_faults(source, config)
        refuse(faults, source.location)
    return source


def _check_folder(folder: Path) -> None:
    """Raise an `InputError` for a `data_dir` that does not exist, with a folder of a similar name."""
    if folder.is_dir():
        return
    with suppress(OSError):
        beside = [each.name for each in folder.parent.iterdir() if each.is_dir()]
        if nearest := difflib.get_close_matches(folder.name, beside, n=1):
            raise InputError(f"data_dir={folder} does not exist. Did you mean {folder.parent / nearest[0]}?")
    raise InputError(f"data_dir={folder} does not exist")


def _with_channels(source: Source, config: DataConfig) -> Source:
    """Return a source that expects `config.channels` channels of its image files."""
    if config.channels == RGB:
        return source
    if not isinstance(source, (ImagePairs, DrawnImages)):
        raise InputError(f"channels={config.channels}: dataset={config.dataset} has RGB images; set channels=3")
    return replace(source, channels=config.channels)


def _opener(config: DataConfig) -> Callable[[DataConfig, str], Source]:
    found: Callable[[DataConfig, str], Source] = pkgutil.resolve_name(DATASETS[config.dataset])
    return found
