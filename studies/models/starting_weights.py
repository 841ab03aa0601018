"""Resolve `weights` of a configuration: torchvision's weights, a file, an MLflow run or a registered model."""

from dataclasses import replace
from pathlib import Path

from segmentation.classes import Classes
from segmentation.config import MEASURED, ModelConfig, published_normalization
from segmentation.data import Split
from segmentation.errors import InputError, one_of
from segmentation.models.segmenter import MEASURED_TENSORS, Segmenter
from segmentation.models.starting_weights import LoadedWeights, load_hub_weights, load_matching
from segmentation.models.state_dicts import load_weights_file
from studies.config import TrainConfig
from studies.models.loading import load, load_checkpoint, logged_normalization, mlflow_uri
from studies.models.stored import StoredModel


def load_starting_weights(model: Segmenter, config: ModelConfig, labels: Classes) -> LoadedWeights | None:
    """Load the starting weights that `config.weights` names into a new model; None if it stays random.

    Raises:
        InputError: there are no such weights, or they belong to another architecture.
    """
    if config.weights == "none":
        return None
    if config.weights in ("imagenet", "coco"):
        return load_hub_weights(model, config, labels.names)
    _check_name(config.weights)
    stored = _checkpoint(config.weights) if Path(config.weights).is_file() else load(config.weights)
    if stored is None:
        return load_weights_file(model, Path(config.weights), labels)
    loaded = load_matching(model, stored.state, same_classes=stored.labels.names == labels.names)
    if model.measured() is not None and _fits(model, stored):
        model.load_state_dict({name: stored.state[name] for name in MEASURED_TENSORS}, strict=False)
    return loaded._replace(normalization=stored.config.normalization)


def _fits(model: Segmenter, stored: StoredModel) -> bool:
    """Return whether a model can take over the measured normalization of a stored one: same channels and bits."""
    own = model.state_dict()
    if stored.config.normalization != MEASURED or not all(name in stored.state for name in MEASURED_TENSORS):
        return False
    return stored.state["mean"].shape == own["mean"].shape and bool(stored.state["bits"] == own["bits"])


def resolve_normalization(config: TrainConfig, split: Split | None = None) -> TrainConfig:
    """Replace `normalization=auto` by the normalization that the starting weights were trained with.

    A state dict does not record it; ImageNet's is assumed, as for torchvision's backbones. For images of 16 bits, the
    normalization is measured.

    Args:
        config: the configuration.
        split: the training split; None if it is not loaded yet.

    Raises:
        InputError: there are no such weights, or the normalization or augmentation is not for the images' bits.
    """
    if split is not None and split.bits > 8:
        return _for_16_bits(config)
    if config.normalization != "auto":
        return config
    _check_name(config.weights)
    if Path(config.weights).is_file():
        stored = _checkpoint(config.weights)
        return replace(config, normalization=stored.config.normalization if stored else "imagenet")
    normalization = logged_normalization(config.weights) or load(config.weights).config.normalization
    return replace(config, normalization=normalization)


def _for_16_bits(config: TrainConfig) -> TrainConfig:
    """Return the configuration with measured normalization: the published mean and std are those of 8 bits."""
    if config.color_jitter:
        raise InputError(
            f"color_jitter={config.color_jitter} needs RGB images of 8 bits, and these have 16: set color_jitter=0"
        )
    if config.normalization == MEASURED:
        return config
    published = published_normalization(config.weights, config.channels)
    if published != "auto" and config.normalization not in ("auto", published):
        raise InputError(
            f"normalization={config.normalization} is for images of 8 bits, and these have 16: leave it out, or set "
            f"normalization={MEASURED}"
        )
    return replace(config, normalization=MEASURED)


def _checkpoint(file: str) -> StoredModel | None:
    """Load a checkpoint; None if the file is not a checkpoint but perhaps a state dict."""
    try:
        return load_checkpoint(file)
    except InputError:
        return None


def _check_name(weights: str) -> None:
    if not Path(weights).is_file() and mlflow_uri(weights) is None:
        known = ["none", "imagenet", "coco", "a file", "runs:/ID", "models:/NAME/1", "models:/NAME@ALIAS"]
        one_of("weights", weights, known)
