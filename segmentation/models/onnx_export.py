"""Writes a model as an ONNX file, and checks the file against the model with onnxruntime.

Input `images`: `(B, N, H, W)` uint8 or uint16, of the channels that the model takes; any `B`, `H` and `W`. Outputs
`logits` and `probabilities`, float32 `(B, C, H, W)`, calibrated if the model is.
The file's metadata holds the class names and how images are prepared.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from segmentation.errors import InputError
from segmentation.models.segmenter import Segmenter

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4
"""Largest difference of a probability between the file and the model."""
CHECKED_SIZES = ((1, 96, 64), (3, 65, 130))
"""Images, height and width of the random inputs on which the file is checked."""


class _WithProbabilities(nn.Module):
    def __init__(self, model: Segmenter) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.model(images)
        return logits, logits.softmax(1)


def check_packages() -> None:
    """Raise an `InputError` if a package that the export needs is not installed."""
    from importlib.util import find_spec

    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise InputError(f"format=onnx needs the packages {', '.join(missing)}: pip install {' '.join(missing)}")


def export_onnx(model: Segmenter, file: Path, metadata: Mapping[str, object]) -> float:
    """Write a model to an ONNX file, which appears only if it agrees with the model.

    Args:
        model: on the CPU, in evaluation mode.
        file: its folder must exist.
        metadata: stored in the file as JSON texts, by name.

    Returns:
        The largest difference of a probability between the file and the model on `CHECKED_SIZES`.

    Raises:
        InputError: the file cannot be written, or its probabilities differ by more than `TOLERANCE`.
    """
    import onnxruntime

    both = _WithProbabilities(model).eval()
    free = torch.export.Dim.DYNAMIC
    dtype = torch.uint8 if model.bits == 8 else torch.uint16
    example = torch.zeros(2, model.channels, 96, 64, dtype=dtype)  # a dimension of size 1 would be fixed
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, on its own operators
        try:
            program = torch.onnx.export(
                both, (example,), dynamo=True, dynamic_shapes=({0: free, 2: free, 3: free},), input_names=["images"],
                output_names=["logits", "probabilities"], verbose=False,
            )  # fmt: skip
        except Exception as error:  # torch cannot trace every module
            if model.code is None:
                raise
            reason = (str(error.__cause__ or error).strip().splitlines() or [type(error).__name__])[0]
            raise InputError(
                f"format=onnx: torch cannot export the network of model={model.code.function}: {reason:.300}"
            ) from error
    assert program is not None
    program.model.metadata_props.update({name: json.dumps(value) for name, value in metadata.items()})
    part = file.with_name(f".{file.name}.part")
    try:
        program.save(part)
        session = onnxruntime.InferenceSession(str(part), providers=["CPUExecutionProvider"])
        difference = max(_difference(both, session, size, model.channels, dtype) for size in CHECKED_SIZES)
        if not difference <= TOLERANCE:
            raise InputError(
                f"the ONNX file differs from the model by {difference:.2g} in a probability; at most {TOLERANCE:g} is "
                f"allowed. Report this with the model's configuration"
            )
        part.replace(file)
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror or error}; choose another output") from error
    finally:
        part.unlink(missing_ok=True)
    return difference


def _difference(both: nn.Module, session: Any, size: tuple[int, int, int], channels: int, dtype: torch.dtype) -> float:
    """Return the largest difference of a probability on random images, in a session of onnxruntime."""
    count, height, width = size
    kind, limit = (np.uint8, 2**8) if dtype == torch.uint8 else (np.uint16, 2**16)
    images = np.random.default_rng(0).integers(0, limit, (count, channels, height, width), dtype=kind)
    with torch.no_grad():
        _, expected = both(torch.from_numpy(images))
    (found,) = session.run(["probabilities"], {"images": images})
    return float(np.abs(found - expected.numpy()).max())
