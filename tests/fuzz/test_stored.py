"""Mangled files that this program stores: prepared images, checkpoints, weights of logged models, scores."""

import json
import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from segmentation.classes import Classes
from segmentation.config import DataConfig
from segmentation.data import load_split
from segmentation.errors import InputError
from segmentation.models.state_dicts import read_safetensors
from segmentation.scoring.scores import Scores, load_scores
from segmentation.training import checkpoints
from segmentation.training.checkpoints import Checkpoint
from studies.base.checksum import WEIGHTS
from studies.config import TrainConfig
from studies.models.loading import load
from studies.models.stored import StoredModel, recorded_config, stored_model
from studies.scores.files import read_digests, read_record
from tests.conftest import write_own_data
from tests.fuzz.door import Door
from tests.fuzz.inputs import made_up
from tests.fuzz.mutation import mutated

# torch warns about a pickle that is not a checkpoint, and refuses it
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
LABELS = Classes.named("red", "green", "blue")
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=8), st.just("../../x"),
    st.lists(st.integers(-1, 300), max_size=4), st.dictionaries(st.text(max_size=4), st.integers(), max_size=2),
)  # fmt: skip


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.file}",)


def repacked(content: bytes, random: Random) -> bytes:
    """Return a zip with one record changed (its checksum is right), left out or compressed."""
    target = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as source, zipfile.ZipFile(target, "w") as archive:
        names = source.namelist()
        chosen = random.choice(names)
        for name in names:
            record = source.read(name)
            if name == chosen:
                kind = random.randrange(4)
                if kind == 0:
                    continue
                if kind == 1:
                    archive.writestr(name, record + b"\0" * 10_000, zipfile.ZIP_DEFLATED)
                    continue
                record = mutated(record, random, [record, b"{}"])
            archive.writestr(name, record)
    return target.getvalue()


def test_cache_folders(door: Callable[[str], Door], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the cache contains, the split is right; a damaged one is built again."""
    door = door("cache folders")
    root = write_own_data(tmp_path / "data", train=2, val=1)
    config = DataConfig(dataset="folder", data_dir=str(root), resize=16, crop=16, cache_dir=str(door.folder))
    right = load_split(config, "train")
    images, masks = np.array(right.images), np.array(right.masks)
    (about,) = door.folder.rglob("about.json")
    files = {name: (about.parent / name).read_bytes() for name in ("about.json", "images.npy", "masks.npy")}
    for random in door.randoms():
        name = random.choice(list(files))
        content = mutated(files[name], random, list(files.values()))
        about.parent.mkdir(exist_ok=True)
        (about.parent / name).unlink(missing_ok=True)  # mapped files are not written over
        (about.parent / name).write_bytes(content)
        found = door(lambda: load_split(config, "train"), "cache")
        assert found is not None
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.masks, masks)
        assert (found.names, found.digests, found.fingerprint) == (right.names, right.digests, right.fingerprint)
    assert "is damaged; it is built again" in capsys.readouterr().out


def checkpoint() -> Checkpoint:
    return Checkpoint(
        config=asdict(TrainConfig(model="lraspp_mobilenet_v3_large")), class_names=list(LABELS.names),
        palette=[list(colour) for colour in LABELS.palette], fingerprint="f", epoch=3, best_epoch=2, best_value=0.5,
        network={"w": torch.arange(60.0).reshape(3, 20), "b": torch.ones(3, dtype=torch.int64)},
        optimizer={"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}, scaler={},
    )  # fmt: skip


def check_stored(found: StoredModel) -> None:
    assert all(isinstance(tensor, torch.Tensor) for tensor in found.state.values())
    assert found.epoch >= 0
    assert 2 <= len(found.labels) <= 255
    assert isinstance(found.config, TrainConfig)


def test_checkpoints(door: Callable[[str], Door]) -> None:
    door = door("checkpoints")
    file = door.folder / "last.pt"
    checkpoints.save(checkpoint(), file)
    good = file.read_bytes()
    for random in door.randoms():
        file.write_bytes(repacked(good, random) if random.random() < 0.4 else mutated(good, random, [good]))
        found = door(lambda: load(str(file)), "last.pt")
        if found is not None:
            check_stored(found)
    assert door.refused > door.tried // 4


def test_made_up_checkpoints(door: Callable[[str], Door]) -> None:
    door = door("checkpoints made up")
    file, trap = door.folder / "last.pt", door.folder / "executed"
    good = {"format": checkpoints.FORMAT} | vars(checkpoint())

    @made_up(door.name)
    @given(st.dictionaries(st.sampled_from(list(good)), SCALARS, max_size=3))
    def one(changes: dict[str, Any]) -> None:
        torch.save(good | changes, file)
        found = door(lambda: load(str(file)), "last.pt")
        if found is not None:
            check_stored(found)

    one()
    torch.save(good, file)
    assert door(lambda: load(str(file)), "last.pt") is not None
    for content in (
        good | {"network": Trap(trap)},
        Trap(trap),
        good | {"network": {"w": torch.zeros(1).expand(2**40)}},
    ):
        torch.save(content, file)
        assert door(lambda: load(str(file)), "last.pt") is None
    file.write_bytes(pickle.dumps(Trap(trap)))
    assert door(lambda: load(str(file)), "last.pt") is None
    assert not trap.exists()


def test_model_weights(door: Callable[[str], Door]) -> None:
    """The safetensors file of a logged model."""
    door = door("model weights")
    file = door.folder / WEIGHTS
    right = {"w": torch.arange(60.0).reshape(3, 20), "b": torch.ones(3)}
    save_file(right, file)
    good = file.read_bytes()

    def check(content: bytes) -> dict[str, torch.Tensor] | None:
        file.write_bytes(content)
        found = door(lambda: stored_model(METADATA, read_safetensors(file), None, WEIGHTS).state, WEIGHTS)
        for tensor in (found or {}).values():
            assert tensor.clone().nbytes <= len(content)  # every value is in the file
        return found

    for random in door.randoms():
        check(mutated(good, random, [good]))
    assert door.refused > door.tried // 4
    header = len(good) - sum(tensor.nbytes for tensor in right.values())
    for change in ("[2, 20]", "[-3, 20]", "[4611686018427387904, 20]", "[3.0, 20]"):
        text = good[8:header].replace(b"[3,20]", change.replace(" ", "").encode())
        assert check(struct.pack("<Q", len(text)) + text + good[header:]) is None, change
    assert check(pickle.dumps(Trap(door.folder / "executed"))) is None
    assert not (door.folder / "executed").exists()
    found = check(good)
    assert found is not None
    assert all(torch.equal(found[name], tensor) for name, tensor in right.items())
    file.unlink()
    with pytest.raises(InputError, match=WEIGHTS):
        read_safetensors(file)


def scores() -> Scores:
    torch.manual_seed(0)
    found = Scores(LABELS)
    masks = torch.randint(0, 3, (4, 6, 7))
    masks[0, 0] = 255
    found.update(torch.randn(4, 3, 6, 7), masks, range(4))
    return found


def test_scores(door: Callable[[str], Door]) -> None:
    door = door("scores")
    file = door.folder / "val_histograms.npz"
    right = scores()
    names = np.array(["a", "b", "c", "d"])
    right.save(file, {"name": names, "digest": np.array(["1", "2", "3", "4"])})
    good, metrics = file.read_bytes(), right.metrics()
    for random in door.randoms():
        packed = random.random() < 0.3
        file.write_bytes(repacked(good, random) if packed else mutated(good, random, [good]))
        found = door(lambda: (load_scores(file, LABELS)[0], read_digests(file)), "val_histograms.npz")
        if found is not None and not packed:
            assert found[0].metrics() == pytest.approx(metrics, nan_ok=True)
            assert list(found[1]) == names.tolist()
    assert door.refused > door.tried // 4


def test_made_up_scores(door: Callable[[str], Door]) -> None:
    door = door("scores made up")
    file, trap = door.folder / "val_histograms.npz", door.folder / "executed"
    scores().save(file, {"name": np.array(["a", "b", "c", "d"]), "digest": np.array(["1", "2", "3", "4"])})
    with np.load(file) as archive:
        good = dict(archive)
    kinds = st.sampled_from(["u1", "i8", "u4", "f8", "f4", "c16", "U3", "S2", "M8[s]", "?"])
    shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
    values = st.sampled_from([0, 1])

    @made_up(door.name)
    @given(st.sampled_from(sorted(good)), kinds, shapes, values)
    def one(name: str, kind: str, shape: tuple[int, ...], value: int) -> None:
        np.savez(file, **(good | {name: np.full(shape, value).astype(kind)}))
        found = door(lambda: (load_scores(file, LABELS)[0], read_digests(file)), "val_histograms.npz")
        assert found is None or len(found[0]) == 4

    one()
    absurd = [good | {"loss": np.array([Trap(trap)] * 4, object)}, good | {"pixels": good["pixels"] + 1},
              good | {"confidence_sum": good["confidence_sum"] * np.nan}, good | {"image": np.zeros(4, np.int64)},
    ]  # fmt: skip
    for arrays in absurd:
        np.savez(file, **arrays)
        assert door(lambda: load_scores(file, LABELS), "val_histograms.npz") is None
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("image.npy", "w", force_zip64=True) as stream,
    ):
        header = {"descr": "<i8", "fortran_order": False, "shape": (10**11,)}
        np.lib.format.write_array_header_1_0(stream, header)
        stream.write(b"\0" * 2**20)
    assert door(lambda: load_scores(file, LABELS), "val_histograms.npz") is None
    assert not trap.exists()


RECORD: dict[str, Any] = {
    "protocol": {
        "bins": 10, "edges": "(a, b]", "resolution": [32, 32], "interpolation": "bilinear", "boundary_width": 3,
        "dataset": "folder", "classes": list(LABELS.names), "split": "val", "images": 4, "pixels": 99,
        "precision": "float32",
    },
    "origin": {"config": asdict(TrainConfig()), "epoch": 3, "trained_in_run": "a" * 32, "calibration": None},
    "palette": [list(colour) for colour in LABELS.palette],
}  # fmt: skip


METADATA: dict[str, Any] = {
    "config": asdict(TrainConfig()), "class_names": list(LABELS.names), "palette": RECORD["palette"], "epoch": 3,
    "calibration": None,
}  # fmt: skip


def test_score_records(door: Callable[[str], Door]) -> None:
    door = door("score records")
    file = door.folder / "val.json"
    good = json.dumps(RECORD).encode()

    def check(content: bytes) -> None:
        file.write_bytes(content)
        found = door(lambda: read_record(file), "val.json")
        if found is not None:
            assert len(found.labels.palette) == len(found.labels)
            assert recorded_config(found.origin["config"])
            assert found.protocol["boundary_width"] >= 0

    check(good)
    assert door.right == 1
    for random in door.randoms():
        check(mutated(good, random, [good]))

    @made_up(door.name)
    @given(st.sampled_from(["protocol", "origin"]), st.data(), SCALARS)
    def one(part: str, data: st.DataObject, value: Any) -> None:
        name = data.draw(st.sampled_from(sorted(RECORD[part])))
        check(json.dumps(RECORD | {part: RECORD[part] | {name: value}}).encode())

    one()
    check(b"[" * 100_000)


def test_model_metadata(door: Callable[[str], Door]) -> None:
    """The metadata of a logged model holds the same configuration as `config.json`."""
    door, good = door("model metadata"), METADATA

    @made_up(door.name)
    @given(st.dictionaries(st.sampled_from(sorted(good)), SCALARS, max_size=1),
           st.dictionaries(st.sampled_from(sorted(good["config"])), SCALARS, max_size=2))  # fmt: skip
    def one(changes: dict[str, Any], fields: dict[str, Any]) -> None:
        about = good | {"config": good["config"] | fields} | changes
        found = door(lambda: stored_model(about, {}, None, "models:/made-up/1"), "models:/made-up/1")
        if found is not None:
            check_stored(found)

    one()
    assert door(lambda: stored_model(good, {}, None, "models:/made-up/1"), "models:/made-up/1") is not None
