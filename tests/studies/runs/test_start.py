"""Starting weights from files; those from runs and the registry are tested in `test_training.py`."""

from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.config import ModelConfig
from segmentation.data import load_split
from segmentation.errors import InputError
from segmentation.models.segmenter import build
from studies.config import TrainConfig
from studies.runs.start import starting_model
from tests.segmentation.models.test_state_dicts import safetensors

LRASPP: Any = "lraspp_mobilenet_v3_large"


def config(own_data: Path, **more: Any) -> TrainConfig:
    values = {"dataset": "folder", "data_dir": str(own_data), "resize": 32, "crop": 32, "model": LRASPP}
    return TrainConfig(**values | more)


@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.ckpt", "w.safetensors"])
def test_weights_may_be_a_plain_state_dict(name: str, own_data: Path) -> None:
    torch.manual_seed(5)
    state = build(ModelConfig(model=LRASPP), 3).network.state_dict()
    if name == "w.safetensors":
        safetensors(state, Path(name))
    else:
        torch.save({"state_dict": state}, name)
    given = config(own_data, weights=name)
    model, loaded = starting_model(given, load_split(given, "train"))
    assert loaded is not None
    assert not loaded.fresh
    assert all(torch.equal(tensor, state[each]) for each, tensor in model.network.state_dict().items())


def test_a_file_without_weights_is_refused(own_data: Path) -> None:
    Path("w.pth").write_bytes(b"no weights")
    given = config(own_data, weights="w.pth")
    with pytest.raises(InputError, match=r"weights=w\.pth cannot be read"):
        starting_model(given, load_split(given, "train"))
