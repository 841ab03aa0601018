"""The command line: help, spelling of values, and the message and exit code for a mistake."""

import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import mlproject
from segmentation.models import segmenter as models
from segmentation.training.checkpoints import Checkpoint, save
from studies.base.arguments import GROUPS, MOST_USED, groups
from studies.config import ReportConfig, TrainConfig
from studies.entry_points import NAMES, entry_point
from tests.conftest import PROJECT, last_run

SMALL = ["--resize", "32", "--crop", "32", "--epochs", "1", "--batch_size", "4", "--examples", "1",
         "--model", "lraspp_mobilenet_v3_large", "--log_model", "false"]  # fmt: skip


def called(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """Exit code and standard error of the command line, called in this process."""
    try:
        code = mlproject.main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, capsys.readouterr().err


def on_own_data(root: Path, *more: str) -> list[str]:
    return ["train", "--dataset", "folder", "--data_dir", str(root), *SMALL, *more]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "command='trian' is not known. Did you mean 'train'?"),
        (["train", "--learning_rate", "notafloat"], "learning_rate='notafloat' is not a number, such as 0.01"),
        (["train", "--epochs", "1.5"], "epochs='1.5' is not a whole number, such as 50"),
        (["train", "--resize", "small"], "resize='small' is not a whole number or none, such as 128"),
        (["train", "--epochs"], "--epochs has no value"),
        (["train", "epochs=3"], "'epochs=3' stands where a field should: write --epochs=3"),
        (["train", "--epochs", "-3"], "epochs=-3 is too small"),
        (["train", "--batch_size", "0"], "batch_size=0 is too small"),
        (["train", "--model", "fcn_resnet5"], "Did you mean 'fcn_resnet50'?"),
        (["train", "--dataset", "camvit"], "Did you mean 'camvid'? Known: shapes, voc2007, voc2012, camvid, folder"),
        (["train", "--learning_rat", "1"], "--learning_rate"),
        (["train", "--download", "maybe"], "download='maybe' is not known"),
        (["train", "--download=maybe"], "download='maybe' is not known"),
        (["train", "--model=fcn_resnet5"], "Did you mean 'fcn_resnet50'?"),
        (["evaluate"], "--model_uri is missing"),
        (["evaluate", "--model_uri", "x", "--score_at", "orginal"], "Did you mean 'original'?"),
        (["train", "--monitor", "val/confidence_gap"], "monitor='val/confidence_gap' is not known"),
        (["train", "--calibration_fraction", "0.95"], "calibration_fraction=0.95 is out of range"),
        (["calibrate"], "--run_id is missing"),
        (["calibrate", "--run_id", "x", "--method", "temprature"], "Did you mean 'temperature'?"),
        (["calibrate", "--run_id", "x", "--calibration_split", "val"], "calibration_split=val"),
        (["compare"], "--run_ids is missing"),
    ],
)
def test_a_wrong_call_is_refused_before_anything_starts(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = called(arguments, capsys)
    assert code == 2
    assert message in " ".join(said.replace("│", " ").split())


def test_all_mistakes_of_a_call_are_listed_once(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--epochs", "ten", "--batchsize", "4", "--seed", "-1", "--crop", "300", "--alias", "v1", "--model", "unet"]
    code, said = called(["train", *wrong], capsys)
    assert code == 2
    assert said.splitlines()[0] == "error: 6 mistakes:"
    for field in ("epochs='ten'", "--batchsize is not a field", "seed=-1", "crop=300", "alias='v1'", "model='unet'"):
        assert said.count(field) == 1, field


@pytest.mark.parametrize("more", [["--resize", "small", "--crop", "300"], ["--epochs", "0"], ["--batch_size", "x"]])
def test_a_wrong_value_is_listed_without_what_follows_from_it(
    more: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = called(["train", *more], capsys)
    assert len(said.splitlines()) == 1
    assert f"{more[0].removeprefix('--')}=" in said


def test_true_and_none_may_be_written_in_any_case() -> None:
    config = mlproject.parse(TrainConfig, ["--download", "true", "--crop", "none", "--micro-batch", "8"], "train")
    assert config.download is True
    assert config.crop is None
    assert config.micro_batch == 8


def test_the_variable_of_mlflow_names_the_experiment_of_our_own_command_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    assert mlproject.parse(TrainConfig, [], "train").experiment == "mine"
    assert mlproject.parse(TrainConfig, ["--experiment", "typed"], "train").experiment == "typed"
    assert mlproject.parse(ReportConfig, ["--run_ids", "a"], "report").experiment is None, "what to report on"
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    assert mlproject.parse(TrainConfig, [], "train").experiment == "training", "`mlflow run` has opened the run"


def test_a_recipe_leaves_alone_what_is_typed() -> None:
    config = mlproject.parse(TrainConfig, ["--recipe", "careful", "--freeze_backbone", "0"], "train")
    assert (config.freeze_backbone, config.freeze_batch_norm) == (0, True)
    config = mlproject.parse(TrainConfig, ["--recipe", "careful", "--freeze-batch-norm", "false"], "train")
    assert (config.freeze_backbone, config.freeze_batch_norm) == (3, False)


@pytest.mark.parametrize("flag", ["--log-model", "--freeze_batch_norm"])
@pytest.mark.parametrize("value", ["true", "FALSE", "False"])
def test_a_value_may_be_joined_to_its_flag_in_every_spelling(flag: str, value: str) -> None:
    joined = mlproject.parse(TrainConfig, [f"{flag}={value}"], "train")
    assert joined == mlproject.parse(TrainConfig, [flag, value], "train")
    assert getattr(joined, flag.removeprefix("--").replace("-", "_")) is (value.lower() == "true")


@pytest.mark.parametrize("flag", ["--resize", "--micro-batch", "--batch_norm_momentum", "--run_name"])
@pytest.mark.parametrize("value", ["none", "NONE"])
def test_none_may_be_joined_to_its_flag(flag: str, value: str) -> None:
    joined = mlproject.parse(TrainConfig, [f"{flag}={value}", "--crop=none", "--epochs=3"], "train")
    assert joined == mlproject.parse(TrainConfig, [flag, value, "--crop", "none", "--epochs", "3"], "train")
    assert getattr(joined, flag.removeprefix("--").replace("-", "_")) is None


def test_a_joined_value_may_hold_an_equals_sign() -> None:
    arguments = ["--data_dir=a=none", "--weight-decay=1e-3", "--model=fcn_resnet101"]
    config = mlproject.parse(TrainConfig, arguments, "train")
    assert (config.data_dir, config.weight_decay, config.model) == ("a=none", 0.001, "fcn_resnet101")


def nothing(root: Path) -> None:
    pass


def drop_mask(root: Path) -> None:
    (root / "train/masks/1.png").unlink()


def drop_image(root: Path) -> None:
    (root / "train/images/1.jpg").unlink()


def shrink_mask(root: Path) -> None:
    Image.new("L", (10, 10)).save(root / "val/masks/1.png")


def strange_value(root: Path) -> None:
    Image.fromarray(np.full((40, 48), 9, np.uint8)).save(root / "train/masks/2.png")


def cut_image(root: Path) -> None:
    (root / "train/images/2.jpg").write_bytes((root / "train/images/2.jpg").read_bytes()[:400])


def empty(root: Path) -> None:
    for file in (root / "val").rglob("*.*"):
        file.unlink()


def foreground_of_255(root: Path) -> None:
    (root / "classes.txt").write_text("background\nroad\n")
    for file in root.glob("*/masks/*"):
        Image.fromarray(np.kron(np.eye(2, dtype=np.uint8) * 255, np.ones((20, 24), np.uint8))).save(file)


def file_in_the_way(root: Path) -> None:
    (root / "taken").write_text("")


@pytest.mark.parametrize(
    ("damage", "more", "message"),
    [
        (nothing, ["--data_dir", "nowhere"], "data_dir=nowhere does not exist"),
        (nothing, ["--download", "true"], "download=True"),
        (drop_mask, [], "no mask in"),
        (drop_image, [], "no image in"),
        (nothing, ["--val_split", "vall"], "has no split 'vall' (val_split), only"),
        (nothing, ["--weights", "imagnet"], "weights='imagnet' is not known. Did you mean 'imagenet'?"),
        (nothing, ["--weights", "runs:/abcdef"], "weights='runs:/abcdef' is not known"),
        (nothing, ["--weights", f"runs:/{32 * 'a'}"], f"runs:/{32 * 'a'}/model cannot be loaded"),
        (nothing, ["--weights", "models:/unknown/1"], "models:/unknown/1 cannot be loaded"),
        (nothing, ["--device", "cuda:77"], "device='cuda:77'"),
        (nothing, ["--dataset", "voc2007", "--data_dir", "."], "-P download=true"),
    ],
)
def test_a_mistake_that_is_found_in_seconds_opens_no_run(
    damage: Callable[[Path], None], more: list[str], message: str, own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(own_data)
    code, said = called(on_own_data(own_data, "--experiment", str(own_data), *more), capsys)
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert mlflow.get_experiment_by_name(str(own_data)) is None


@pytest.mark.parametrize(
    ("damage", "more", "message"),
    [
        (shrink_mask, [], "has 48 x 40 pixels but its mask"),
        (strange_value, [], "2.png has values of no class: 9 (1920 pixels); known values: 0-2, 255"),
        (cut_image, [], "2.jpg cannot be read as an image; the file is damaged or cut off"),
        (empty, [], "split='val' of folder"),
        (foreground_of_255, [], 'replaces classes.txt: {"background": 0, "road": 255}'),
        (nothing, ["--weights", "imagenet"], "weights=imagenet could not be downloaded from"),
        (file_in_the_way, ["--cache_dir", "own/taken"], "choose another cache_dir"),
    ],
)
def test_a_mistake_in_the_data_or_weights_opens_no_run(
    damage: Callable[[Path], None], more: list[str], message: str, own_data: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    damage(own_data)
    code, said = called(on_own_data(own_data, "--experiment", str(own_data), *more), capsys)
    assert code == 1
    assert message in said
    assert "Traceback" not in said
    assert mlflow.get_experiment_by_name(str(own_data)) is None


@pytest.mark.parametrize(
    "arguments",
    [["evaluate", "--model_uri=x"], ["calibrate", "--run_id=x"], ["predict", "--model_uri=x", "--images=."]],
)
def test_an_unknown_model_opens_no_run(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (9, 9)).save("one.png")
    code, said = called([*arguments, "--experiment", "unknown model"], capsys)
    assert code == 1
    assert "'x' is " in said
    assert mlflow.get_experiment_by_name("unknown model") is None


def test_voc_without_a_network_says_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = called(["train", "--download", "true", *SMALL], capsys)
    assert code == 1
    assert "voc2007 could not be downloaded into data_dir=." in said
    assert "Check the network connection, or unpack the archive there yourself" in said


def test_a_diverging_run_fails_and_keeps_the_last_good_checkpoint(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = called(on_own_data(own_data, "--learning_rate", "1e30", "--epochs", "4"), capsys)
    assert code == 1
    assert "learning_rate=1e+30" in said
    assert last_run().info.status == "FAILED"
    assert "DivergedError" in last_run().data.tags["status_reason"]


def checkpoint_of(root: Path) -> Path:
    """Write the checkpoint of an untrained model for a data set of three classes."""
    config = TrainConfig(
        dataset="folder", data_dir=str(root), resize=32, crop=32, model="lraspp_mobilenet_v3_large", device="cpu"
    )
    state = models.build(config, 3).state_dict()
    save(
        Checkpoint(
            config=asdict(config), class_names=["red", "green", "blue"], palette=[[0, 0, 0]] * 3, fingerprint="f",
            epoch=1, best_epoch=1, best_value=0.5, network=state, optimizer={}, scaler={},
        ),
        root / "best.pt",
    )  # fmt: skip
    return root / "best.pt"


def test_a_checkpoint_of_other_classes_is_refused_for_evaluation(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own_data / "classes.txt").write_text("red\ngreen\nblue\nyellow\n")
    code, said = called(["evaluate", "--model_uri", str(checkpoint_of(own_data))], capsys)
    assert code == 1
    assert "3 classes (red, green, blue)" in said
    assert "dataset=folder has 4 (red, green, blue, yellow)" in said


@pytest.mark.parametrize("content", [b"", b"no checkpoint at all"])
def test_a_damaged_checkpoint_is_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.pt").write_bytes(content)
    code, said = called(["evaluate", "--model_uri", "broken.pt"], capsys)
    assert code == 1
    assert "broken.pt is not a checkpoint of this program, or it is damaged" in said


def test_a_checkpoint_of_another_architecture_gives_no_starting_weights(
    own_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = torch.load(checkpoint_of(own_data), weights_only=True)
    checkpoint["network"] = {"other.weight": torch.zeros(3)}
    torch.save(checkpoint, "other.pt")
    code, said = called(on_own_data(own_data, "--weights", "other.pt"), capsys)
    assert code == 1
    assert "none of the 1 tensors" in said


def test_a_server_that_is_not_there_is_told_at_once(
    own_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    code, said = called(on_own_data(own_data), capsys)
    assert code == 1
    assert "no MLflow server answers at http://127.0.0.1:9" in said
    assert "secret" not in said


def test_a_wrong_call_is_told_on_the_run_that_mlflow_opened(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = mlflow.MlflowClient().create_run("0")
    monkeypatch.setenv("MLFLOW_RUN_ID", run.info.run_id)
    assert called(["train", "--model", "fcn_resnet5"], capsys)[0] == 2
    assert "Did you mean" in mlflow.get_run(run.info.run_id).data.tags["status_reason"]
    assert called(["train", "--epochs", "many"], capsys)[0] == 2
    assert "epochs='many'" in mlflow.get_run(run.info.run_id).data.tags["status_reason"]


def test_the_module_can_be_run_from_the_shell(tmp_path: Path) -> None:
    for program in ([str(PROJECT / "mlproject.py")], ["-m", "mlproject"]):
        done = subprocess.run(
            [sys.executable, *program, "train", "--epochs", "0"], cwd=PROJECT, capture_output=True, text=True
        )
        assert done.returncode == 2
        assert "epochs=0 is too small" in done.stderr
        assert "Traceback" not in done.stderr


def test_overview_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert mlproject.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in NAMES:
        assert re.search(rf"^  {name} +\w", shown, re.MULTILINE), name
    assert mlproject.main([]) == 2


@pytest.mark.parametrize("name", NAMES)
def test_the_help_of_a_command_shows_every_field_once_in_groups(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    config_class = entry_point(name).Config
    assert called([name, "--help"], capsys)[0] == 0
    names = [each for group in groups(config_class).values() for each in group]
    assert sorted(names) == sorted(field.name for field in fields(config_class))
    if issubclass(config_class, TrainConfig):
        assert list(groups(config_class)) == ["", *GROUPS]


def test_help_starts_with_the_most_used_fields_and_shows_the_defaults_of_the_command(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        mlproject.main(["main", "--help"])
    shown = capsys.readouterr().out
    flags = re.findall(r"^. --(\w+)", shown, re.MULTILINE)
    assert flags[: len(MOST_USED)] == list(MOST_USED)
    assert len(flags) == len(fields(entry_point("main").Config))
    assert max(map(len, shown.splitlines())) <= 100
    assert re.findall(r"([A-Z]\w+) options", shown) == [title.capitalize() for title in GROUPS]
    dataset = " ".join(shown[shown.index("--dataset ") : shown.index("--data_dir")].split())
    assert "(default: shapes)" in dataset


def test_an_entry_point_is_a_module_with_fields_and_a_function() -> None:
    """An entry point needs its module, `MLproject` and a test; the overview and the help derive from the module."""
    declared = yaml.safe_load((PROJECT / "MLproject").read_text())["entry_points"]
    page = (PROJECT / "docs" / "commands.md").read_text()
    for name in NAMES:
        module = entry_point(name)
        assert is_dataclass(module.Config), name
        assert module.Config.__doc__, name
        assert list(inspect.signature(module.run).parameters) == ["config"], name
        assert name in declared
        assert f"| `{name}` | {module.Config.__doc__.splitlines()[0]} | " in page, "docs/commands.md repeats the help"
    others = ("mlproject.py", "studies/base/arguments.py", "studies/entry_points/__init__.py")
    for name in set(NAMES) - {"main", "train", "models"}:  # common words, and what torchrun may start
        for path in others:
            assert f'"{name}"' not in (PROJECT / path).read_text(), (name, path)
