"""Save a model as an MLflow model: tensors, configuration, and the code that builds the model and serves images.

Layout of the folder:

- `MLmodel`: flavor `python_function` (images to classes and confidence), and as metadata what `StoredModel.metadata`
  returns;
- `weights.safetensors`: the tensors, which `models.loading` reads without running anything;
- `code/`: the modules of flavor `python_function`, which need nothing else of this project, and the modules of a
  user's own model, in a folder `own_model_...`.

There is no exported program: `torch.export` takes longer than the rest of a short run, and its files hold no more than
the tensors, the configuration and the code do.
"""

import base64
import hashlib
import logging
import re
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import mlflow
import torch
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
from mlflow.types.schema import AnyType, Array
from safetensors.torch import save_file

from segmentation import errors
from segmentation.calibration import calibrators
from segmentation.io import channels, pixels
from segmentation.io.channels import bits_of, encoded
from segmentation.models import model_code, network_outputs, networks, segmenter
from segmentation.models.model_code import plain_version, write_code
from segmentation.models.segmenter import Segmenter
from segmentation.prediction import blending, image_rows, predictor, views
from segmentation.system import full_precision
from studies.base import checksum as checksums
from studies.base.checksum import CHECKSUM, MODEL_CODE, WEIGHTS, checksum
from studies.models import request, served

PACKAGE = "served_segmenter"
"""Prefix of the package name of the copied code. A hash of the code follows, so that models with different code can be
loaded in one process."""
SHIPPED = (
    blending, calibrators, channels, checksums, errors, full_precision, image_rows, model_code, network_outputs,
    networks, pixels, predictor, request, segmenter, served, views,
)  # fmt: skip
"""Modules copied into every logged model. They import each other, and nothing else of the project."""
REQUIRED = ("mlflow", "numpy", "pillow", "safetensors", "torch", "torchvision")
READERS = ("imagecodecs", "tifffile")
"""Required, too, by models of images that Pillow does not read."""

SIGNATURE = ModelSignature(
    # AnyType: MLflow has no type for base64 text or pixels of any size.
    # Not required: a request without it then reaches `ServedModel`, which refuses it with a shorter message.
    inputs=Schema([ColSpec(AnyType(), request.COLUMN, required=False)]),
    outputs=Schema([
        ColSpec(DataType.long, "height"),
        ColSpec(DataType.long, "width"),
        ColSpec(Array(DataType.string), "class_names"),
        ColSpec(DataType.string, "calibration", required=False),
        ColSpec(Array(Array(DataType.long)), "classes", required=False),
        ColSpec(Array(Array(DataType.double)), "confidence", required=False),
        ColSpec(DataType.string, "classes_png", required=False),
        ColSpec(DataType.string, "confidence_png", required=False),
    ]),
    params=ParamSchema([
        ParamSpec("encoding", DataType.string, served.ENCODINGS[0]),
        ParamSpec("tile", DataType.long, None),
        ParamSpec("overlap", DataType.double, views.OVERLAP),
        ParamSpec("tile_resize", DataType.long, None),
        ParamSpec("scales", DataType.double, [1.0], (-1,)),
        ParamSpec("flip", DataType.boolean, False),
        ParamSpec("min_confidence", DataType.double, None),
    ]),
)  # fmt: skip


def save_model(folder: Path, network: Segmenter, image: torch.Tensor, metadata: dict[str, Any]) -> None:
    """Save a model into a new folder.

    Args:
        folder: created here.
        network: on the CPU.
        image: `(N, H, W)` uint8 or uint16, stored as an example of a request.
        metadata: configuration, class names, palette, epoch and calibration, see `StoredModel.metadata`.
    """
    example = image.permute(1, 2, 0).numpy()
    readers = () if (network.channels, bits_of(example)) == (3, 8) else READERS
    requirements = [required(package, version(package)) for package in (*REQUIRED, *readers)]
    model = Model(metadata=metadata)
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)  # it prints that it validates the input example
    with tempfile.TemporaryDirectory() as temporary:
        package = _copy_code(Path(temporary))
        code_paths = [str(Path(temporary) / package)]
        if network.code is not None:
            metadata = {**metadata, MODEL_CODE: write_code(network.code, Path(temporary))}
            code_paths.append(str(Path(temporary) / metadata[MODEL_CODE]["folder"]))
            requirements += [each for each in network.code.requirements if each not in requirements]
        mlflow.pyfunc.save_model(
            str(folder),
            loader_module=f"{package}.served",
            code_paths=code_paths,
            mlflow_model=model,
            signature=SIGNATURE,
            input_example=[{request.COLUMN: base64.b64encode(encoded(example)).decode()}],
            pip_requirements=requirements,
        )
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / WEIGHTS)
    model.metadata = {**metadata, CHECKSUM: checksum(folder / WEIGHTS)}
    model.save(str(folder / "MLmodel"))


def required(package: str, installed: str) -> str:
    """Return the requirement of exactly the installed version."""
    return f"{package}=={plain_version(installed)}"


def _copy_code(folder: Path) -> str:
    """Copy the modules of `SHIPPED` into a package in a folder, and let them import each other from there.

    Returns:
        The name of the package.
    """
    sources = [Path(str(module.__file__)) for module in SHIPPED]
    texts = {source.name: source.read_text(encoding="utf-8") for source in sources}
    packages = "|".join(re.escape(module.__name__.rpartition(".")[0]) for module in SHIPPED)
    package = f"{PACKAGE}_{hashlib.sha256(''.join(texts.values()).encode()).hexdigest()[:12]}"
    (folder / package).mkdir()
    for name, text in {"__init__.py": "", **texts}.items():
        moved = re.sub(rf"^from (?:{packages})(?=\.\w+ import )", f"from {package}", text, flags=re.MULTILINE)
        (folder / package / name).write_text(moved, encoding="utf-8")
    return package
