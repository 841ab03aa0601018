"""Starting weights from files; those from runs and the registry are tested in `test_training.py`."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.config import ModelConfig
from segmentation.data import load_split
from segmentation.errors import InputError
from segmentation.models.segmenter import build
from segmentation.training.loop import Data
from studies.config import TrainConfig
from studies.runs.start import check_start, identity, starting_model
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


def test_class_weights_count_by_their_values(own_data: Path) -> None:
    contents = {"a.json": "1, 2, 3", "b.json": "1, 2, 3", "c.json": "1, 2, 4"}
    found = {}
    for name, values in contents.items():
        names = load_split(config(own_data), "train").labels.names
        Path(name).write_text(json.dumps(dict(zip(names, map(float, values.split(", ")), strict=True))))
        given = config(own_data, class_weights=name)
        data = Data(load_split(given, "train"), load_split(given, "val"))
        found[name] = identity(given, data, starting_model(given, data.train)[0])
    assert found["a.json"] == found["b.json"] != found["c.json"]


def test_a_file_of_class_weights_is_checked_before_a_run_is_opened(own_data: Path) -> None:
    with pytest.raises(InputError, match=r"class_weights=gone\.json cannot be read"):
        check_start(config(own_data, class_weights="gone.json"))


@pytest.mark.parametrize("name", ["classes.txt", "classes.txt/within"])
def test_a_folder_for_checkpoints_is_checked_before_a_run_is_opened(name: str, own_data: Path) -> None:
    with pytest.raises(InputError, match=r"checkpoint_dir=.*: .*classes\.txt is a file; name a folder"):
        check_start(config(own_data, checkpoint_dir=str(own_data / name)))
    assert check_start(config(own_data, checkpoint_dir=str(own_data / "new" / "one")))
    assert not (own_data / "new").exists()
