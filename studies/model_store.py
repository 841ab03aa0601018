"""From the name of a trained network, wherever it is, to the network itself. Nothing in it is unpickled."""

import os
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import torch

from segmentation import checkpoints, models, recalibration
from segmentation.config import ModelConfig, TrainConfig
from segmentation.errors import InputError, one_of
from segmentation.labels import Labels
from segmentation.models import Segmenter, WeightsTaken


class Stored(NamedTuple):
    """A trained network's tensors, and what is needed to use them."""

    config: TrainConfig
    labels: Labels
    state: dict[str, torch.Tensor]
    epoch: int
    run_id: str | None
    """The MLflow run that trained it, if it is known."""
    calibration: dict[str, Any] | None
    """How its confidence was mended: `method`, and on what; None if it was not."""

    def described(self) -> str:
        """Which state of which network, for titles."""
        mended = f", calibrated by {self.calibration['method']}" if self.calibration else ""
        return f"{self.config.model}, epoch {self.epoch}{mended}"

    def origin(self) -> dict[str, Any]:
        """Where it comes from, as runs record it."""
        return {
            "config": asdict(self.config), "epoch": self.epoch, "trained_in_run": self.run_id,
            "calibration": self.calibration,
        }  # fmt: skip

    def metadata(self) -> dict[str, Any]:
        """What a logged model carries with it."""
        return {
            "config": asdict(self.config), "class_names": list(self.labels.names),
            "palette": [list(colour) for colour in self.labels.palette], "epoch": self.epoch,
            "trained_in_run": self.run_id, "calibration": self.calibration,
        }  # fmt: skip

    def network(self) -> Segmenter:
        """The network itself, on the CPU, in evaluation mode."""
        network = models.build(self.config, len(self.labels))
        if self.calibration:
            network.calibrator = recalibration.build(self.calibration["method"], len(self.labels))
        missing = network.load_state_dict(self.state, strict=False).missing_keys
        if any("aux_classifier" not in name for name in missing):  # the auxiliary head is not part of a logged model
            raise InputError(f"the stored network lacks {len(missing)} tensors of model={self.config.model}")
        return network.eval()


def load(name: str) -> Stored:
    """Load a checkpoint file, an MLflow run (its id or `runs:/ID`) or a registered model (`models:/...`).

    Raises:
        InputError: it is not there, or not made by this program.
    """
    if Path(name).is_file():
        checkpoint = checkpoints.load(Path(name))
        return _stored(vars(checkpoint), checkpoint.network, None, name)
    uri = _mlflow_uri(name)
    if uri is None:
        raise InputError(
            f"{name!r} is no file, no MLflow run (32 hexadecimal digits, or runs:/ID) and no registered model "
            f"(models:/NAME/1 or models:/NAME@ALIAS)"
        )
    return _from_mlflow(uri)


def start_from(network: Segmenter, config: ModelConfig, labels: Labels) -> WeightsTaken | None:
    """Give a new network the starting weights that `config.weights` names; None if they stay random.

    Raises:
        InputError: there are no such weights, or they are of another network.
    """
    if config.weights == "none":
        return None
    if config.weights in ("imagenet", "coco"):
        return models.load_hub_weights(network, config, labels.names)
    if not Path(config.weights).is_file() and _mlflow_uri(config.weights) is None:
        known = ["none", "imagenet", "coco", "a checkpoint file", "runs:/ID", "models:/NAME/1", "models:/NAME@ALIAS"]
        one_of("weights", config.weights, known)
    stored = load(config.weights)
    return models.take(network, stored.state, same_classes=stored.labels.names == labels.names)


def _mlflow_uri(name: str) -> str | None:
    if re.fullmatch("[0-9a-f]{32}", name):
        return f"runs:/{name}/model"
    if re.fullmatch("runs:/[0-9a-f]{32}", name):
        return f"{name}/model"
    return name if re.match("runs:/[0-9a-f]{32}/|models:/", name) else None


def _from_mlflow(uri: str) -> Stored:
    import mlflow
    from mlflow.exceptions import MlflowException

    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
    try:
        folder = mlflow.artifacts.download_artifacts(uri)
        model = mlflow.models.Model.load(folder)
        if model.metadata is None or "class_names" not in model.metadata:
            raise InputError(f"{uri} was not made by this program: its metadata holds no classes")
        if model.flavors.get("pytorch", {}).get("code"):
            raise InputError(f"{uri} was not made by this program: its network comes with code, which is not run here")
        program = mlflow.pytorch.load_model(folder)
    except (MlflowException, OSError) as error:
        told = str(error).splitlines()[0].rstrip(".")
        if uri.startswith("runs:/"):
            told += ". Only a run that trained or calibrated a network, with log_model=true, holds one"
        raise InputError(f"{uri} cannot be loaded: {told}") from error
    return _stored(model.metadata, program.state_dict(), model.metadata.get("trained_in_run") or model.run_id, uri)


def _stored(about: dict[str, Any], state: dict[str, torch.Tensor], run_id: str | None, name: str) -> Stored:
    known = {field.name for field in fields(TrainConfig)}
    try:
        config = TrainConfig(**{key: value for key, value in about["config"].items() if key in known})
        labels = Labels(tuple(about["class_names"]), tuple((r, g, b) for r, g, b in about["palette"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{name} is damaged or of another version: {error}") from error
    return Stored(config, labels, state, int(about["epoch"]), run_id, about.get("calibration"))
