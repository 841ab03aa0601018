"""`StoredModel`: the tensors of a trained model with its configuration, classes and calibration, validated."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import torch

from segmentation.calibration import calibrators
from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data import Split
from segmentation.errors import InputError, one_of
from segmentation.models.model_code import ModelCode, is_own, stored_code
from segmentation.models.segmenter import Segmenter, build
from segmentation.models.state_dicts import is_plain_tensor
from studies.config import TrainConfig

LONGEST_SIDE = 13_377
"""Largest `resize` and `crop` of a stored configuration, in pixels: larger images cannot be read, see `io.pixels`."""


class StoredModel(NamedTuple):
    """The tensors of a trained model, and everything needed to use them."""

    config: TrainConfig
    labels: Classes
    state: dict[str, torch.Tensor]
    """By the names of `Segmenter.state_dict()`."""
    epoch: int
    run_id: str | None
    """The MLflow run that trained it; None if unknown."""
    calibration: dict[str, Any] | None
    """Method and data of the post-hoc calibration; None if the model is not calibrated."""
    name: str = ""
    """The name it was loaded by. For an alias of a registered model, the version that it pointed to."""
    model_id: str | None = None
    """MLflow's ID of the logged model; None if this tracking server does not know it."""
    code: ModelCode | None = None
    """The code of a user's own model; None for torchvision's."""

    def trained_on(self, data: DataConfig) -> bool:
        """Return whether a data set is the one that the model was trained on, by its name and folder."""
        same_folder = Path(data.data_dir).resolve() == Path(self.config.data_dir).resolve()
        return data.dataset == self.config.dataset and same_folder

    @property
    def bits(self) -> int:
        """Bits per channel of the images that the model takes, 8 or 16."""
        return int(self.state.get("bits", torch.tensor(8)))

    def check_images(self, split: Split) -> None:
        """Raise an `InputError` if a split has images of other bits than those that the model was trained on."""
        if split.bits != self.bits:
            raise InputError(
                f"{split.title} in {split.location} has images of {split.bits} bits per channel, and "
                f"{self.name or 'the model'} was trained on {self.bits} bits: convert the images to {self.bits} bits"
            )

    def described(self) -> str:
        """Return model, epoch and calibration as a title."""
        calibrated = f", calibrated by {self.calibration['method']}" if self.calibration else ""
        return f"{self.config.model}, epoch {self.epoch}{calibrated}"

    def origin(self) -> dict[str, Any]:
        """Return how the model was trained and calibrated, as runs record it."""
        code = {} if self.code is None else {"model_code": self.code.checksum}
        return {
            "config": asdict(self.config), "epoch": self.epoch, "trained_in_run": self.run_id,
            "calibration": self.calibration, "bits": self.bits, **code,
        }  # fmt: skip

    def metadata(self) -> dict[str, Any]:
        """Return the metadata of a logged model: `origin()` with class names and palette."""
        return {
            "config": asdict(self.config), "class_names": list(self.labels.names),
            "palette": [list(colour) for colour in self.labels.palette], "epoch": self.epoch,
            "trained_in_run": self.run_id, "calibration": self.calibration,
        }  # fmt: skip

    def uncalibrated(self) -> "StoredModel":
        """The same model without its post-hoc calibration."""
        state = {name: tensor for name, tensor in self.state.items() if not name.startswith("calibrator.")}
        return self._replace(state=state, calibration=None)

    def network(self) -> Segmenter:
        """Build the model on the CPU, in evaluation mode. This runs the code of a user's own model, and says so.

        Raises:
            InputError: the tensors do not fit the configured architecture, or the code of an own model does not run.
        """
        if self.code is not None:
            where = "stored with it" if self.code.files else "installed"
            print(f"{self.name} runs code of its model: {self.code.described()} ({where}).")
        model = build(self.config, len(self.labels), self.code)
        if self.calibration:
            model.calibrator = calibrators.build(self.calibration["method"], len(self.labels), model.measured())
        try:
            model.load_state_dict(self.state)
        except (RuntimeError, TypeError, AttributeError) as error:
            raise InputError(
                f"the tensors of {self.name} do not fit model={self.config.model} with {len(self.labels)} classes: "
                f"{str(error).splitlines()[-1].strip():.200}"
            ) from error
        return model.eval()


def stored_model(
    metadata: Mapping[str, Any],
    state: Mapping[str, torch.Tensor],
    run_id: str | None,
    name: str,
    code: ModelCode | None = None,
) -> StoredModel:
    """Validate what was stored of a model.

    Args:
        metadata: as returned by `StoredModel.metadata`, read from a file.
        state: the tensors.
        run_id: the MLflow run that trained it, if known.
        name: where it was stored, for messages.
        code: the code of a user's own model; None takes it from the metadata of a checkpoint, if there is any.

    Raises:
        InputError: a value is missing, of the wrong type or impossible.
    """
    try:
        labels = Classes(
            tuple(metadata["class_names"]), tuple(checked_colour(colour) for colour in metadata["palette"])
        )
        calibration, epoch = metadata.get("calibration"), metadata["epoch"]
        if calibration is not None:
            one_of("calibration", calibration["method"], calibrators.METHODS)
        if type(epoch) is not int or epoch < 0:
            raise InputError(f"epoch={epoch!r:.40} must be an integer, 0 or more")
        if not (run_id is None or isinstance(run_id, str)):
            raise InputError(f"trained_in_run={run_id!r:.40} is not a run ID")
        if not all(isinstance(key, str) and is_plain_tensor(value) for key, value in state.items()):
            raise InputError("its weights are not plain tensors by name")
        if "bits" in state and not (state["bits"].numel() == 1 and state["bits"].item() in (8, 16)):
            raise InputError("bits must be 8 or 16")
        config = recorded_config(metadata["config"])
        if code is None and metadata.get("code") is not None:
            code = stored_code(metadata["code"])
        if (code.function if code else None) != (config.model if is_own(config.model) else None):
            raise InputError(f"its code is not that of model={config.model!r:.80}")
        return StoredModel(config, labels, dict(state), epoch, run_id, calibration, code=code)
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise InputError(f"{name} is damaged or was stored by another version: {error}") from error


def recorded_config(values: Mapping[str, Any]) -> TrainConfig:
    """Return the configuration of a run from its recorded values. Fields unknown to this version are ignored.

    Raises:
        InputError: a value has the wrong type or is impossible.
    """
    hints = get_type_hints(TrainConfig)
    known = {name: value for name, value in values.items() if name in hints}
    for name, value in known.items():
        types = _value_types(hints[name])
        if type(value) not in types and not (type(value) is int and float in types):
            raise InputError(f"{name}={value!r:.40} has the wrong type for {name}")
        if name in ("resize", "crop") and value is not None and value > LONGEST_SIDE:
            raise InputError(f"{name}={value!r:.40} is too large: at most {LONGEST_SIDE}")
    if known.get("log_model") is False:
        known["register_as"] = None  # earlier versions accepted both fields, and ignored register_as
    return TrainConfig(**{"normalization": "signed_unit"} | known)  # the first versions did not record it


def checked_colour(values: Sequence[int]) -> tuple[int, int, int]:
    """Return a colour as three integers from 0 to 255; raises `InputError` or `ValueError` for anything else."""
    red, green, blue = values
    if not all(type(value) is int and 0 <= value <= 255 for value in (red, green, blue)):
        raise InputError(f"{values!r:.40} is not a colour: it must be three integers from 0 to 255")
    return red, green, blue


def _value_types(hint: Any) -> set[type]:
    """Return the types of the values that a field accepts; the choices of a `Literal` are strings."""
    parts = get_args(hint) if NoneType in get_args(hint) else (hint,)
    return {str if get_origin(part) is Literal else part for part in parts}
