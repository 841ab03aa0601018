"""Run IDs may be given by their first digits."""

from pathlib import Path

import pytest

import mlproject
from segmentation.errors import InputError
from studies import tracking
from studies.base.short_run_ids import with_whole_run_ids
from studies.config import CompareConfig, EvaluateConfig, TrainConfig

FIRST, SECOND = "0123456789abcdef0123456789abcdef", "0123456700000000000000000000beef"


def find(digits: str) -> list[tuple[str, str]]:
    return [(run_id, "name") for run_id in (FIRST, SECOND) if run_id.startswith(digits)]


def test_beginnings_are_completed_wherever_a_run_is_named() -> None:
    assert with_whole_run_ids(EvaluateConfig(model_uri="012345678"), find).model_uri == FIRST
    assert with_whole_run_ids(EvaluateConfig(model_uri=f"runs:/{FIRST[:10]}"), find).model_uri == f"runs:/{FIRST}"
    assert with_whole_run_ids(TrainConfig(resume=SECOND[:31], weights="coco"), find).resume == SECOND
    compared = with_whole_run_ids(CompareConfig(run_ids="my-experiment, 0123456700,models:/m/1"), find)
    assert compared.run_ids == f"my-experiment,{SECOND},models:/m/1"


@pytest.mark.parametrize("given", ["0123456", "20261129", FIRST, "auto", "01234567/best.pt"])
def test_everything_else_is_left_as_it_is(given: str) -> None:
    config = TrainConfig(resume=given)
    object.__setattr__(config, "typed", frozenset({"resume"}))
    assert with_whole_run_ids(config, find) is config


def test_which_fields_were_typed_remains_known() -> None:
    config = TrainConfig(resume="012345678")
    object.__setattr__(config, "typed", frozenset({"resume"}))
    assert with_whole_run_ids(config, find).typed == {"resume"}


def test_a_file_of_that_name_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("012345678").touch()
    assert with_whole_run_ids(EvaluateConfig(model_uri="012345678"), find).model_uri == "012345678"


def test_two_runs_with_the_same_beginning_are_named() -> None:
    with pytest.raises(InputError, match=f"model_uri: '01234567' is the beginning of 2 run IDs.*{FIRST}.*{SECOND}"):
        with_whole_run_ids(EvaluateConfig(model_uri="01234567"), find)


def test_the_command_line_finds_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_id = tracking.create_run("e", "n", {"kind": "evaluate"})
    tracking.create_run("another", "n", {})
    assert mlproject.main(["train", "--resume", run_id[:8]]) == 1
    assert f"resume={run_id} is not the ID of a training run" in capsys.readouterr().err
