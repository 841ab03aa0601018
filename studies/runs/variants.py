"""The settings that `models` trains. Imports neither torch nor MLflow, so that a mistake is reported at once."""

from collections.abc import Iterator
from dataclasses import fields, replace

from segmentation.config import DataConfig
from segmentation.errors import InputError, one_of
from segmentation.fields import read_value
from studies.config import ModelsConfig, RecordConfig, TrainConfig, folds_trained, settled, trains_all_folds
from studies.runs.names import run_name

MAY_DIFFER = {field.name for field in fields(TrainConfig)} - {
    field.name for group in (DataConfig, RecordConfig) for field in fields(group)
} - {"seed", "device"} | {"patience", "keep", "crop_at"}  # fmt: skip
"""Fields that a variant may change; runs must agree in all others to be comparable."""


def run_configs(config: ModelsConfig) -> Iterator[TrainConfig]:
    """Yield the configuration of every run for `variants` and `seeds`.

    Raises:
        InputError: a variant is invalid, duplicated, or not comparable with the others.
    """
    variants: list[TrainConfig] = []
    named = {"seed"} if config.seeds > 1 else set()
    for text in filter(None, (part.strip() for part in config.variants.split(","))):
        try:
            changes = _differing(text)
            variant = settled(config, changes)
        except InputError as error:
            raise InputError(f"variants: {text!r}: {error}") from None
        if variant in variants:
            raise InputError(f"variants: {text!r} is given twice")
        named |= changes.keys()
        variants.append(variant)
    if len(variants) * config.seeds < 2 and not trains_all_folds(config):
        raise InputError(
            f"variants={config.variants!r} and seeds={config.seeds} are a single run: give at "
            f"least two variants, separated by commas, or seeds=2, or folds=5"
        )
    named = {name for name in named if name == "seed" or len({getattr(each, name) for each in variants}) > 1}
    for variant in variants:
        for seed in range(config.seed, config.seed + config.seeds):
            seeded = replace(variant, seed=seed)
            yield replace(seeded, run_name=run_name(seeded, always=named))


def _differing(text: str) -> dict[str, object]:
    """Return the fields that a variant changes: `fcn_resnet50 weights=coco` is a model, then fields with values."""
    changes: dict[str, object] = {}
    for index, word in enumerate(text.split()):
        name, equals, value = word.partition("=")
        if not equals:
            if index:
                raise InputError(
                    f"{word!r} is not a field; after the model come fields with values, as in weights=coco"
                )
            name, value = "model", word
        if name in changes:
            raise InputError(f"{name} is given twice")
        name = one_of("field", name, sorted(MAY_DIFFER))
        changes[name] = read_value(TrainConfig, name, value)
    return changes


def each_fold(config: TrainConfig) -> Iterator[TrainConfig]:
    """Yield the configuration of every run of a setting: one for each fold, or the setting itself without folds."""
    if not trains_all_folds(config):
        yield config
        return
    for fold in range(folds_trained(config)):
        yield replace(config, fold=fold, run_name=config.run_name and f"fold {fold} · {config.run_name}")
