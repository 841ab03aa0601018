"""Names of runs. What differs between runs comes first, since lists cut long names."""

import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, fields
from pathlib import Path

from segmentation.config import derived
from segmentation.data.source import data_name
from studies.config import LONGEST_NAME, TrainConfig, decisive

SHORT: Mapping[str, str] = {
    "learning_rate": "lr {:g}", "weight_decay": "wd {:g}", "seed": "seed {}", "batch_size": "batch {}",
    "epochs": "{} epochs", "recipe": "{}", "optimizer": "{}", "schedule": "{}", "warmup_epochs": "warm-up {}",
    "flip": "flip {:g}", "color_jitter": "jitter {:g}", "scale_min": "zoom from {:g}", "scale_max": "zoom to {:g}",
    "resize": "resize {}", "crop": "crop {}", "auxiliary_loss": "auxiliary loss {:g}", "keep": "keep {}",
    "freeze_backbone": "backbone frozen {} epochs", "freeze_batch_norm": "frozen batch norm {}",
    "backbone_learning_rate_factor": "backbone lr x{:g}", "head_learning_rate_factor": "head lr x{:g}",
    "calibration_fraction": "held out {:g}", "batch_norm_momentum": "bn momentum {:g}",
}  # fmt: skip
"""How a field's value is written, in the order of the name. Other fields follow as field and value."""
ALWAYS = ("learning_rate", "weight_decay")
"""Fields that every name contains; others only where they differ from the command's defaults."""
LAST = ("model", "weights", "dataset")
"""Fields at the end of a name."""


def run_name(config: TrainConfig, always: Collection[str] = ()) -> str:
    """Return the name of a training run: `lr 0.1 · wd 0 · seed 1 · lraspp_mobilenet_v3_large · animals`.

    Args:
        config: the configuration. Of a fine-tuning recipe only the name counts, not the values that it sets.
        always: fields to name first, even at their default: those that differ within a group of runs.
    """
    values = {name: getattr(config, name) for name in decisive(asdict(config))} | {"recipe": config.recipe}
    usual = {field.name: field.default for field in fields(config)}
    for name, value in derived(config.recipe, config.weights, config.channels).items():
        if value in (values[name], "auto"):
            usual[name] = values[name]

    def written(name: str) -> str:
        if name == "dataset":
            return data_name(config.dataset, config.data_dir)
        return _short(config.weights) if name == "weights" else _shown(name, values[name])

    order = [*SHORT, *(name for name in values if name not in (*SHORT, *LAST)), *LAST]
    first = [name for name in order if name in always and name != "dataset"]
    then = [name for name in order if name in (*ALWAYS, "model", "dataset") or values[name] != usual[name]]
    return " · ".join(map(written, dict.fromkeys([*first, *then])))[:LONGEST_NAME]


def model_name(config: TrainConfig, calibration: dict[str, str] | None) -> str:
    """Return the name of the run that trained a model, after the method if the model is calibrated."""
    return f"calibrated by {calibration['method']} · {run_name(config)}" if calibration else run_name(config)


def _shown(name: str, value: object) -> str:
    if value is None:
        return f"{name} none"
    if name == "model":
        return str(value)
    if name == "recipe" and value == "none":
        return "no recipe"
    if name not in SHORT:
        return f"{name} {value}"
    shown = SHORT[name].format(value)
    return shown.removesuffix("s") if value == 1 and shown.endswith("epochs") else shown


def _short(weights: str) -> str:
    """Return starting weights in short: the first digits of a run's ID, or a file's name without its folder."""
    run_id = re.search("[0-9a-f]{32}", weights)
    if run_id is not None:
        return f"from {run_id[0][:8]}"
    if weights.startswith("models:/"):
        return f"from {weights.removeprefix('models:/')}"
    if weights == "none":
        return "weights none"
    return f"from {Path(weights).name}" if Path(weights).name != weights or Path(weights).suffix else weights
