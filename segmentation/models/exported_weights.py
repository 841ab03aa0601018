"""The tensors of a network that was exported as a program (`.pt2`), without building, let alone running, the program.

To load the program itself would run what is in the file: torch 2.14 hands the expressions of its dynamic sizes to
`sympy.sympify`, which evaluates them as Python, and unpickles whatever the file says is pickled.

The file is a zip of records. Of those in `data/weights/`, `model_weights_config.json` says of every tensor in which one
it is, its type, sizes and strides; and that one holds the bytes of the values, little-endian.
"""

import json
import math
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from segmentation.errors import InputError
from segmentation.io.archives import opened

CONFIG = "data/weights/model_weights_config.json"
TYPES = {1: torch.uint8, 5: torch.int64, 6: torch.float16, 7: torch.float32, 8: torch.float64, 12: torch.bool,
         13: torch.bfloat16}  # fmt: skip
"""Numbers of the types of tensors that networks have."""
RECORDS = (
    r"data/weights/(weight_\d+|model_weights_config\.json)", r"models/model\.json",
    r"data/constants/(tensor_\d+|model_constants_config\.json)", r"data/sample_inputs/model\.pt",
    r"archive_format", r"archive_version", r"byteorder",
    r"\.data/(version|serialization_id|alignment)", r"\.format_version", r"\.storage_alignment",
)  # fmt: skip
"""What a program of ours consists of."""


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of an exported program by their names in the network's `state_dict()`.

    Raises:
        InputError: the file is not there or damaged, or holds what a network of ours does not.
    """
    with opened(file) as archive:
        root = archive.namelist()[0].partition("/")[0]
        for name in archive.namelist():
            if not re.fullmatch(f"{re.escape(root)}/({'|'.join(RECORDS)})", name):
                raise InputError(
                    f"{file} is not made by this program: its record {name!r:.80} is unknown, perhaps a pickle, and "
                    f"not read"
                )
        if archive.read(f"{root}/byteorder") != b"little":
            raise InputError(f"{file} was written by a machine of the other byte order")
        entries = json.loads(archive.read(f"{root}/{CONFIG}"))["config"]
        named = [about["path_name"] for about in entries.values()]
        if len(set(named)) < len(named):
            raise InputError(f"{file} is not made by this program: several of its tensors are in one record")
        return {str(name): _tensor(archive, root, about) for name, about in entries.items()}


def _tensor(archive: zipfile.ZipFile, root: str, about: dict[str, Any]) -> torch.Tensor:
    meta = about["tensor_meta"]
    if about["use_pickle"] is not False or meta is None:
        raise InputError(f"{archive.filename} is not made by this program: a tensor of it is pickled, and not read")
    dtype = TYPES[meta["dtype"]]
    sizes, strides = ([_whole(number) for number in meta[name]] for name in ("sizes", "strides"))
    offset = _whole(meta["storage_offset"])
    content = bytearray(archive.read(f"{root}/data/weights/{about['path_name']}"))
    if math.prod(sizes) * dtype.itemsize > len(content):  # strides of 0 would make much of nothing
        raise InputError(f"{archive.filename} is damaged: a tensor is larger than its record")
    if not content:
        return torch.empty(sizes, dtype=dtype)
    flat = torch.frombuffer(content, dtype=dtype)
    return torch.as_strided(flat, sizes, strides, offset).contiguous()


def _whole(number: dict[str, int]) -> int:
    value = number["as_int"]
    if type(value) is not int or value < 0:
        raise InputError(f"a size or stride is {value!r:.40}, which it cannot be")
    return value
