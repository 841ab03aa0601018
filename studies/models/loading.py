"""From the name of a trained network, wherever it is, to the network itself. Nothing in it is unpickled."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch

from segmentation.calibration import calibrators as recalibration
from segmentation.classes import Classes
from segmentation.config import ModelConfig
from segmentation.errors import InputError, one_of
from segmentation.models import segmenter as models
from segmentation.models.exported_weights import read_weights
from segmentation.models.segmenter import LoadedWeights, Segmenter
from segmentation.models.state_dicts import is_plain_tensor, take_state_dict
from segmentation.training import checkpoints
from studies.base.errors import reason
from studies.config import TrainConfig
from studies.tracking.artifact_folders import missing_files
from studies.tracking.queries import quoted

PROGRAM = "data/model.pt2"
"""Where a logged model keeps the network."""
LONGEST_SIDE = 13_377
"""Pixels that a stored configuration may resize or crop pictures to: more could not be read, see `picture_files`."""


class Stored(NamedTuple):
    """A trained network's tensors, and what is needed to use them."""

    config: TrainConfig
    labels: Classes
    state: dict[str, torch.Tensor]
    epoch: int
    run_id: str | None
    """The MLflow run that trained it, if it is known."""
    calibration: dict[str, Any] | None
    """How its confidence was mended: `method`, and on what; None if it was not."""
    name: str = ""
    """What it was loaded by; of a registered model the version, which an alias does not say."""
    model_id: str | None = None
    """MLflow's ID of the logged model, if this tracking server knows it."""

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
        try:
            missing = network.load_state_dict(self.state, strict=False).missing_keys
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(
                f"the stored tensors do not fit model={self.config.model} with {len(self.labels)} classes: "
                f"{str(error).splitlines()[-1].strip()}"
            ) from error
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
        return _stored(vars(checkpoint), checkpoint.network, None, name)._replace(name=name)
    uri = _mlflow_uri(name)
    if uri is None:
        raise InputError(
            f"{name!r} is no file, no MLflow run (32 hexadecimal digits, or runs:/ID) and no registered model "
            f"(models:/NAME/1 or models:/NAME@ALIAS)"
        )
    if not uri.startswith("models:/"):
        return _from_mlflow(uri)._replace(name=name)
    version = _version(uri)
    return _from_mlflow(version)._replace(name=version)


def start_from(network: Segmenter, config: ModelConfig, labels: Classes) -> LoadedWeights | None:
    """Give a new network the starting weights that `config.weights` names; None if they stay random.

    Raises:
        InputError: there are no such weights, or they are of another network.
    """
    if config.weights == "none":
        return None
    if config.weights in ("imagenet", "coco"):
        return models.load_hub_weights(network, config, labels.names)
    _check_name(config.weights)
    stored = _checkpoint(config.weights) if Path(config.weights).is_file() else load(config.weights)
    if stored is None:
        return take_state_dict(network, Path(config.weights), labels)
    found = models.take(network, stored.state, same_classes=stored.labels.names == labels.names)
    return found._replace(normalization=stored.config.normalization)


def with_normalization(config: TrainConfig) -> TrainConfig:
    """The configuration with `normalization=auto` made what the starting weights were trained with.

    A state dict does not say; it is taken to be like torchvision's, whose backbones are ImageNet's.

    Raises:
        InputError: there are no such weights.
    """
    if config.normalization != "auto":
        return config
    _check_name(config.weights)
    if Path(config.weights).is_file():
        stored = _checkpoint(config.weights)
        return replace(config, normalization=stored.config.normalization if stored else "imagenet")
    import mlflow

    with suppress(Exception):  # whatever is wrong with the model is found, and told, when it is loaded
        about = mlflow.models.get_model_info(str(_mlflow_uri(config.weights))).metadata or {}
        return replace(config, normalization=about["config"]["normalization"])
    return replace(config, normalization=load(config.weights).config.normalization)


def _checkpoint(name: str) -> Stored | None:
    """What a file holds if it is a checkpoint, or None."""
    try:
        checkpoint = checkpoints.load(Path(name))
    except InputError:
        return None
    return _stored(vars(checkpoint), checkpoint.network, None, name)


def _check_name(weights: str) -> None:
    if not Path(weights).is_file() and _mlflow_uri(weights) is None:
        known = ["none", "imagenet", "coco", "a file", "runs:/ID", "models:/NAME/1", "models:/NAME@ALIAS"]
        one_of("weights", weights, known)


def _mlflow_uri(name: str) -> str | None:
    if re.fullmatch("[0-9a-f]{32}", name):
        return f"runs:/{name}/model"
    if re.fullmatch("runs:/[0-9a-f]{32}", name):
        return f"{name}/model"
    return name if re.match("runs:/[0-9a-f]{32}/|models:/", name) else None


def _version(uri: str) -> str:
    """The version of a registered model that an alias, or `latest`, stands for now; any other address as it is.

    Raises:
        InputError: there is no such model or alias.
    """
    import mlflow
    from mlflow.exceptions import MlflowException

    found = re.fullmatch("models:/([^/@]+)(?:@(.+)|/latest)", uri)
    if found is None:
        return uri
    name, alias = found.groups()
    client = mlflow.MlflowClient()
    try:
        if alias is not None:
            return f"models:/{name}/{client.get_model_version_by_alias(name, alias).version}"
        versions = client.search_model_versions(f"name={quoted(name)}")
    except MlflowException as error:
        raise InputError(f"{uri} cannot be loaded: {reason(error)}") from error
    if not versions:
        raise InputError(f"{uri} cannot be loaded: there is no version of a model called {name!r}")
    return f"models:/{name}/{max(int(each.version) for each in versions)}"


def _from_mlflow(uri: str) -> Stored:
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        folder = Path(mlflow.artifacts.download_artifacts(uri))
    except (MlflowException, OSError) as error:
        told = reason(error).rstrip(".")
        if where := missing_files(uri):
            told = where
        elif checkpoint := _kept_instead(uri):
            told = f"that run logged no model (log_model=false); name its checkpoint instead, {checkpoint}"
        elif uri.startswith("runs:/"):
            told += ". Only a run that trained or calibrated a network, with log_model=true, holds one"
        raise InputError(f"{uri} cannot be loaded: {told}") from error
    try:
        model = mlflow.models.Model.load(str(folder))
        about, flavors = model.metadata, model.flavors
        code = flavors.get("pytorch", {}).get("code")
    except Exception as error:  # damaged YAML makes MLflow raise nearly anything
        raise InputError(f"{uri} cannot be loaded: its file MLmodel is missing or damaged") from error
    if not isinstance(about, dict) or "class_names" not in about:
        raise InputError(f"{uri} was not made by this program: its metadata holds no classes")
    if code:
        raise InputError(f"{uri} was not made by this program: its network comes with code, which is not run here")
    if not (folder / PROGRAM).is_file():
        raise InputError(f"{uri} was not made by this program: it holds no {PROGRAM}")
    stored = _stored(about, read_weights(folder / PROGRAM), about.get("trained_in_run") or model.run_id, uri)
    return stored._replace(model_id=_known(model.model_id))


def _kept_instead(uri: str) -> Path | None:
    """The checkpoint of a run that was not to log its model; None for all else."""
    import mlflow
    from mlflow.exceptions import MlflowException

    run_id = uri.removeprefix("runs:/").partition("/")[0]
    try:
        params = mlflow.get_run(run_id).data.params if uri.startswith("runs:/") else {}
    except MlflowException:
        return None
    if params.get("log_model", "").lower() != "false":
        return None
    return Path(params.get("checkpoint_dir", "checkpoints")) / run_id / "best.pt"


def _known(model_id: str | None) -> str | None:
    """The ID of a logged model if the tracking server knows it: a copy from another server bears an ID, too."""
    import mlflow
    from mlflow.exceptions import MlflowException

    if model_id is None:
        return None
    try:
        return str(mlflow.MlflowClient().get_logged_model(model_id).model_id)
    except MlflowException:
        return None


def _stored(about: Mapping[str, Any], state: Mapping[str, torch.Tensor], run_id: str | None, name: str) -> Stored:
    try:
        labels = Classes(tuple(about["class_names"]), tuple(checked_colour(colour) for colour in about["palette"]))
        calibration, epoch = about.get("calibration"), about["epoch"]
        if calibration is not None:
            one_of("calibration", calibration["method"], recalibration.METHODS)
        if type(epoch) is not int or epoch < 0:
            raise InputError(f"epoch={epoch!r:.40} is no number of an epoch")
        if not (run_id is None or isinstance(run_id, str)):
            raise InputError(f"trained_in_run={run_id!r:.40} is no run")
        if not all(isinstance(key, str) and is_plain_tensor(value) for key, value in state.items()):
            raise InputError("its tensors are none")
        return Stored(recorded_config(about["config"]), labels, dict(state), epoch, run_id, calibration)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(f"{name} is damaged or of another version: {error}") from error


def recorded_config(values: Mapping[str, Any]) -> TrainConfig:
    """The configuration of a training from what was recorded of it; fields of other versions are left out.

    Raises:
        InputError: a value is not of its field's type, or not possible.
    """
    hints = get_type_hints(TrainConfig)
    known = {name: value for name, value in values.items() if name in hints}
    for name, value in known.items():
        kinds = _types(hints[name])
        if type(value) not in kinds and not (type(value) is int and float in kinds):
            raise InputError(f"{name}={value!r:.40} is of no type that {name} can have")
        if name in ("resize", "crop") and value is not None and value > LONGEST_SIDE:
            raise InputError(f"{name}={value!r:.40} is absurd: the most is {LONGEST_SIDE}")
    return TrainConfig(**{"normalization": "signed_unit"} | known)  # what the first versions had, and did not record


def _types(hint: Any) -> set[type]:
    """Of the values that a field may have; those of a closed list are texts."""
    parts = get_args(hint) if NoneType in get_args(hint) else (hint,)
    return {str if get_origin(part) is Literal else part for part in parts}


def checked_colour(values: Sequence[int]) -> tuple[int, int, int]:
    """Red, green and blue, 0 to 255; an `InputError` or `ValueError` for anything else."""
    red, green, blue = values
    if not all(type(value) is int and 0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{values!r:.40} is no colour")
    return red, green, blue
