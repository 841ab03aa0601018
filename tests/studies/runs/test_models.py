"""Several settings in one command: which are trained, reused or resumed, and what the parent run records."""

import contextlib
import io
import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import pytest
import torch
from mlflow import MlflowClient

import mlproject
from segmentation.errors import InputError
from segmentation.system.processes import me
from segmentation.training import checkpoints
from segmentation.training.checkpoints import Checkpoint
from studies import tracking
from studies.base import original_report as published
from studies.base.markdown import escaped
from studies.config import ModelsConfig, TemplateConfig, TrainConfig, settled
from studies.runs import resume as resumption
from studies.runs.comparison import published_ece_table
from studies.runs.models import PlannedRun, run_models
from studies.runs.start import IDENTITY, identity, load_data, starting_model
from studies.runs.training import run_training
from studies.runs.variants import run_configs
from studies.scores.comparison import contestants_of
from studies.scores.stored import StoredScores, find_runs
from tests import tiny_network
from tests.conftest import write_own_data

pytestmark = pytest.mark.slow

NETWORK = tiny_network.NAME
LRASPP = "lraspp_mobilenet_v3_large"


def settings(**more: Any) -> ModelsConfig:
    values: dict[str, Any] = {
        "dataset": "folder", "resize": 32, "crop": 32, "device": "cpu", "epochs": 2, "batch_size": 4,
        "learning_rate": 0.05, "examples": 1, "log_model": False, "variants": f"{NETWORK}, {NETWORK} flip=0.5",
    }  # fmt: skip
    return ModelsConfig(**values | more)


def names(variants: str, **more: Any) -> list[str]:
    return [str(each.run_name) for each in run_configs(settings(variants=variants, **more))]


def test_a_variant_is_a_network_and_the_fields_that_differ() -> None:
    first, second, third = run_configs(
        settings(variants=f"fcn_resnet50, fcn_resnet101 weights=coco recipe=careful learning_rate=1e-3,{NETWORK}")
    )
    assert (first.model, first.weights, first.learning_rate, first.run_name) == (
        "fcn_resnet50", "none", 0.05,
        "lr 0.05 · no recipe · fcn_resnet50 · weights none · wd 0 · batch 4 · 2 epochs · resize 32 · crop 32 · "
        f"{Path.cwd().name}",
    )  # fmt: skip
    assert (second.model, second.weights, second.learning_rate, second.recipe) == (
        "fcn_resnet101", "coco", 0.001, "careful",
    )  # fmt: skip
    assert second.freeze_batch_norm
    assert str(second.run_name).startswith("lr 0.001 · careful · fcn_resnet101 · coco · wd 0 · ")
    assert third == replace(first, model=NETWORK, run_name=third.run_name)


def test_the_default_is_the_original_report_s_four_models() -> None:
    configs = list(run_configs(ModelsConfig()))
    assert [(each.model, each.weights != "none") for each in configs] == [
        (each.model, each.pretrained) for each in published.MODELS
    ]
    for each in configs:
        assert each.normalization == ("imagenet" if each.weights == "coco" else "signed_unit")
        usual = {"model": "fcn_resnet50", "weights": "none", "normalization": "signed_unit"}
        assert replace(each, **usual, run_name=None, experiment="training") == TrainConfig()


def test_a_variant_s_recipe_keeps_given_fields_and_its_weights_decide_normalization() -> None:
    variants = f"{NETWORK} recipe=careful, {NETWORK} recipe=careful freeze_backbone=0, {LRASPP} weights=imagenet"
    configs = list(run_configs(settings(variants=variants, backbone_learning_rate_factor=1.0)))
    assert [each.backbone_learning_rate_factor for each in configs] == [1.0] * 3
    assert [each.freeze_backbone for each in configs] == [3, 0, 0]
    assert [each.freeze_batch_norm for each in configs] == [True, True, False]
    assert [each.normalization for each in configs] == ["signed_unit", "signed_unit", "imagenet"]


def test_seeds_are_counted_from_the_seed() -> None:
    configs = list(run_configs(settings(seeds=3, seed=5, variants=NETWORK)))
    assert [each.seed for each in configs] == [5, 6, 7]
    assert names(NETWORK, seeds=2)[1].startswith("seed 1 · ")


@pytest.mark.parametrize(
    ("variants", "expected"),
    [
        (NETWORK, "at least two variants"),
        ("", "at least two variants"),
        (f"{NETWORK}, {NETWORK}", "given twice"),
        (f"{NETWORK}, {NETWORK} flip=0", "given twice"),
        (f"{NETWORK}, fcn_resnet5", "Did you mean 'fcn_resnet50'"),
        (f"{NETWORK}, {NETWORK} coco", "'coco' is not a field"),
        (f"{NETWORK}, {NETWORK} flipp=0.5", "Did you mean 'flip'"),
        (f"{NETWORK}, {NETWORK} flip=often", "'often' is not a number"),
        (f"{NETWORK}, {NETWORK} flip=2", "flip=2.0 is out of range"),
        (f"{NETWORK}, {NETWORK} flip=0.1 flip=0.2", "flip is given twice"),
        (f"{NETWORK}, {NETWORK} crop=16", "field='crop' is not known"),
        (f"{NETWORK}, {NETWORK} dataset=camvid", "field='dataset' is not known"),
    ],
)
def test_mistakes_are_reported_before_anything_is_trained(variants: str, expected: str) -> None:
    with pytest.raises(InputError) as error:
        list(run_configs(settings(variants=variants)))
    assert expected in str(error.value)


def test_runs_are_identical_if_everything_that_decides_their_result_is(own_data: Path, tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "dataset": "folder", "data_dir": str(own_data), "resize": 32, "crop": 32, "model": LRASPP,
        "learning_rate": 0.05, "device": "cpu",
    }  # fmt: skip
    config = TrainConfig(**given)

    def hashed(**changes: Any) -> str:
        changed = settled(TemplateConfig(**given | changes))
        data = load_data(changed)
        return identity(changed, data, starting_model(changed, data.train)[0])

    first = hashed()
    network = starting_model(config, load_data(config).train)[0]
    weights = tmp_path / "weights.pt"
    labels = load_data(config).train.labels
    state = {name: torch.full_like(tensor, 0.25) for name, tensor in network.state_dict().items()}
    checkpoint = Checkpoint(
        config=asdict(config), class_names=list(labels.names), palette=[list(each) for each in labels.palette],
        fingerprint="", epoch=1, best_epoch=1, best_value=0.0, network=state, optimizer={}, scaler={},
    )  # fmt: skip
    checkpoints.save(checkpoint, weights)
    copy = tmp_path / "copy.pt"
    copy.write_bytes(weights.read_bytes())
    assert hashed(run_name="other", plot_every=1, checkpoint_dir="elsewhere") == first
    different = {
        hashed(seed=1), hashed(learning_rate=0.06),
        hashed(recipe="careful"), hashed(crop=16), hashed(val_split="train"),
        hashed(weights=str(weights)), first,
    }  # fmt: skip
    assert len(different) == 7
    assert hashed(weights=str(weights)) == hashed(weights=str(copy))
    assert hashed(precision="float32") == hashed(precision="auto") != hashed(precision="bfloat16")
    assert hashed(device="meta") != first, "another kind of device"


class Compared(NamedTuple):
    """The same command twice, the first time with a stopped run to resume, the second time with one more variant."""

    config: ModelsConfig
    stopped: str
    first: list[str]
    second: list[str]
    printed: tuple[str, str]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, store: str) -> Compared:
    folder = tmp_path_factory.mktemp("models")
    config = settings(
        data_dir=str(write_own_data(folder)), cache_dir=str(folder / "cache"), experiment="side by side",
        checkpoint_dir=str(folder / "checkpoints"), variants=f"{NETWORK}, {NETWORK} flip=0.5",
    )  # fmt: skip

    def stop(epoch: int, metrics: dict[str, float]) -> None:
        raise tracking.Stopped(f"after epoch {epoch}")

    printed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", store)
        patch.chdir(folder)
        stopped = ""
        with contextlib.redirect_stdout(io.StringIO()):
            try:
                run_training(list(run_configs(config))[1], watch=stop)
            except tracking.Stopped:
                experiment = mlflow.get_experiment_by_name("side by side")
                (run,) = MlflowClient().search_runs([experiment.experiment_id])
                stopped = run.info.run_id
        found = []
        for variants in (config.variants, f"{config.variants}, {NETWORK} flip=0.25"):
            with contextlib.redirect_stdout(io.StringIO()) as output:
                found.append(run_models(replace(config, variants=variants)))
            printed.append(output.getvalue())
    return Compared(config, stopped, found[0], found[1], (printed[0], printed[1]))


def parent_of(run_id: str) -> str:
    return str(mlflow.get_run(run_id).data.tags["mlflow.parentRunId"])


def test_a_stopped_run_is_resumed(compared: Compared) -> None:
    assert compared.first[1] == compared.stopped
    assert "Resuming after epoch 1 of 2" in compared.printed[0]
    first, second = compared.printed[0].split("\n2 of 2: ")
    assert re.search(r"epoch 2/2: .* 0:00 left, \d+:\d\d for all runs at this speed", first), "2 epochs are to come"
    assert "for all runs" not in second
    history = MlflowClient().get_metric_history(compared.stopped, "val/loss")
    assert [point.step for point in history] == [1, 2]
    assert mlflow.get_run(compared.stopped).info.status == "FINISHED"
    assert parent_of(compared.stopped) == parent_of(compared.first[0])


def test_what_was_trained_is_not_trained_again(compared: Compared) -> None:
    assert compared.second[:2] == compared.first
    assert compared.printed[1].count("Already trained") == 2
    assert compared.printed[1].count("(2 epochs left in all runs)") == 3, "the epochs of the third run alone"
    assert compared.second[2] not in compared.first
    experiment = mlflow.get_experiment_by_name("side by side")
    kinds = [run.data.tags["kind"] for run in MlflowClient().search_runs([experiment.experiment_id])]
    assert sorted(kinds) == ["models", "models", "train", "train", "train"]
    assert parent_of(compared.second[2]) != parent_of(compared.first[0])


def test_the_parent_run_holds_the_comparison(compared: Compared) -> None:
    parent = mlflow.get_run(parent_of(compared.second[2]))
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["compared_runs"].split(",") == compared.second
    assert parent.data.params["variants"].endswith("flip=0.25")
    assert "model" not in parent.data.params
    table = json.loads(mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/comparison/table.json"))
    for each, run_id in zip(table["runs"], compared.second, strict=True):
        stored = json.loads(mlflow.artifacts.load_text(f"runs:/{run_id}/reliability/val.json"))
        assert each["run_id"] == run_id
        assert each["metrics"]["ece"] == pytest.approx(stored["metrics"]["ece"], abs=1e-12)
    assert len(table["pairs"]) == 3
    assert escaped(table["pairs"][0]["sentence"]) in parent.data.tags["mlflow.note.content"]
    assert f"mlproject.py report --run_ids {parent.info.run_id}" in compared.printed[1]


def test_a_variant_that_diverges_does_not_take_the_others_with_it(
    compared: Compared, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given = asdict(replace(compared.config, variants=f"{compared.config.variants}, {NETWORK} learning_rate=1e30"))
    arguments = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    assert mlproject.main(["models", *arguments]) == 1
    shown = capsys.readouterr()
    assert "1 run diverged: lr 1e+30 · flip 0 · " in shown.err
    assert "On 3 images that all runs share" in shown.out


def test_published_metrics_are_shown_if_the_data_are_the_same(compared: Compared) -> None:
    def table(**protocol: Any) -> list[str]:
        stored = [StoredScores(run, "val") for run in find_runs(",".join(compared.first), "val")]
        for each in stored:
            each.protocol.update(protocol)
        for each, model, weights in zip(stored, ("fcn_resnet50", "fcn_resnet101"), ("none", "coco"), strict=True):
            each.origin["config"] |= {"model": model, "weights": weights}
        return list(published_ece_table(list(contestants_of(stored, list(stored[0].digests)))))

    assert table() == []
    assert table(dataset="voc2007", resize=128, crop=128) == []  # two images
    assert table(dataset="voc2007", images=213) == []  # of another size
    lines = table(dataset="voc2007", resize=128, crop=128, images=213)
    assert [line.split("|")[-2].strip() for line in lines[2:]] == ["0.0733", "0.0685"]


def test_identity_is_a_tag_of_every_run(compared: Compared) -> None:
    for run_id in compared.second:
        (found,) = tracking.runs_tagged(IDENTITY, mlflow.get_run(run_id).data.tags[IDENTITY])
        assert found.run_id == run_id


@pytest.mark.parametrize("status", ["KILLED", "RUNNING"])
def test_a_study_s_runs_are_left_to_the_study(compared: Compared, status: str) -> None:
    """A pruned trial, and one that waits or whose worker died, are not resumed by another command."""
    config = replace(next(iter(run_configs(compared.config))), learning_rate=0.04, epochs=1)
    data = load_data(config)
    found = identity(config, data, starting_model(config, data.train)[0])
    tags = {"kind": "train", "study": "s", "trial": "0", IDENTITY: found}
    run_id = tracking.create_run("side by side", "trial 0", tags)
    MlflowClient().set_tag(run_id, tracking.PROCESS, json.dumps(me() | {"started": 1.0}))  # dead
    if status == "KILLED":
        tracking.end_run(run_id, status, "pruned")
    assert PlannedRun(config, found).started() is None
    assert resumption.find(replace(config, resume="auto")).run_id is None
    with pytest.raises(InputError, match=f"resume={run_id}: that run is a trial of study 's'"):
        resumption.find(replace(config, resume=run_id))
    assert mlflow.get_run(run_id).info.status == status
    MlflowClient().delete_tag(run_id, "study")
    resumed = PlannedRun(config, found).started()
    MlflowClient().delete_run(run_id)
    assert resumed is not None
    assert resumed.run_id == run_id, "a run that is no trial is resumed"
