"""A trained network as a model that MLflow can serve: an exported program, and the code that feeds it pictures.

A flavor in MLflow's sense: `tracking.log_model` hands it to `Model.log`, which calls `save_model`.
"""

import base64
import hashlib
import re
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import torch
from mlflow.models import Model, ModelSignature
from mlflow.models.model import MLMODEL_FILE_NAME
from mlflow.models.utils import _save_example
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
from mlflow.types.schema import AnyType, Array
from PIL import Image

from segmentation.io import pixels
from segmentation.models.segmenter import Segmenter
from segmentation.prediction import predictor
from segmentation.system import full_precision
from studies.models import served

PACKAGE = "served_segmenter"
"""How the package begins in which the code is shipped; the rest is its hash, so that two models of different code can
be loaded side by side."""
CODE = "code"
SHIPPED = (full_precision, pixels, predictor, served)
"""Modules that go along with every logged model; they import each other and nothing else of the project."""
REQUIRED = ("mlflow", "numpy", "pillow", "torch", "torchvision")

SIGNATURE = ModelSignature(
    # any type: MLflow has none for base64 text or pixels of any size
    inputs=Schema([ColSpec(AnyType(), served.COLUMN)]),
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
    params=ParamSchema([ParamSpec("encoding", DataType.string, served.ENCODINGS[0])]),
)  # fmt: skip


def save_model(path: str, mlflow_model: Model, network: Segmenter, images: torch.Tensor, **_: Any) -> None:
    """Write a model into a folder: flavor `pytorch`, which gives logits, and `python_function`, which takes pictures.

    Args:
        path: the folder.
        mlflow_model: what is known of the model; its metadata holds configuration, class names, palette, calibration.
        network: on the CPU, in evaluation mode.
        images: `(B, 3, H, W)` uint8, at least two, since a dimension of size 1 would be fixed by the export.
        _: what `Model.log` alone needs.
    """
    classes = len((mlflow_model.metadata or {})["class_names"])
    mlflow.pytorch.save_model(
        network,
        path,
        mlflow_model=mlflow_model,
        signature=ModelSignature(
            Schema([TensorSpec(np.dtype("uint8"), (-1, 3, -1, -1))]),
            Schema([TensorSpec(np.dtype("float32"), (-1, classes, -1, -1))]),
        ),
        input_example=images,
        pip_requirements=[required(package, version(package)) for package in REQUIRED],
        serialization_format="pt2",
    )
    package = _ship_code(Path(path) / CODE)
    # the code goes to this flavor alone: whoever takes the network from the other one gets none of it on sys.path
    mlflow.pyfunc.add_to_model(
        mlflow_model,
        loader_module=f"{package}.served",
        code=CODE,
        conda_env="conda.yaml",
        python_env="python_env.yaml",
    )
    mlflow_model.signature = SIGNATURE
    _save_example(mlflow_model, [{served.COLUMN: _png(images[0])}], path)
    mlflow_model.save(str(Path(path) / MLMODEL_FILE_NAME))


def required(package: str, installed: str) -> str:
    """The requirement of a package: exactly its version, but not the build (`+cpu`, `+cu128`), which PyPI lacks."""
    return f"{package}=={installed.partition('+')[0]}"


def _ship_code(folder: Path) -> str:
    """Copy the modules that a server needs, which then import each other and nothing else of the project.

    Returns:
        The name of the package that holds them.
    """
    sources = [Path(str(module.__file__)) for module in SHIPPED]
    texts = {source.name: source.read_text(encoding="utf-8") for source in sources}
    packages = "|".join(re.escape(module.__name__.rpartition(".")[0]) for module in SHIPPED)
    package = f"{PACKAGE}_{hashlib.sha256(''.join(texts.values()).encode()).hexdigest()[:12]}"
    (folder / package).mkdir(parents=True)
    for name, text in {"__init__.py": "", **texts}.items():
        moved = re.sub(rf"^from (?:{packages})(?=\.\w+ import )", f"from {package}", text, flags=re.MULTILINE)
        (folder / package / name).write_text(moved, encoding="utf-8")
    return package


def _png(image: torch.Tensor) -> str:
    """Base64 of a PNG of an image `(3, H, W)`."""
    file = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()
