"""Names are checked before a run starts, by MLflow's rules, and any accepted name can be searched for."""

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

import mlproject
from segmentation.errors import InputError
from studies.config import LONGEST_NAME, CalibrateConfig, StudyConfig, TrainConfig, TuneConfig
from studies.tracking import runs_tagged
from studies.tracking.queries import every_run, quoted

NAMES = ["plain", "it's", 'say "x"', "a b", "a/b", "a:b", "", " ", ".", "..", "ä", "a\\b", "a%_b", "-", "x" * 250]
ALIASES = ["best", "a-b_1", "Ä", "latest", "Latest", "v1", "V12", "v", "v1a", "", "a b", "a/b", "a.b", "it's"]


def is_taken(field: str, value: str) -> bool:
    try:
        TrainConfig(**{field: value})  # type: ignore[arg-type]
    except InputError:
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_a_model_s_name_is_possible_where_the_registry_takes_it(name: str) -> None:
    client = MlflowClient()
    try:
        client.create_registered_model(name)
    except MlflowException:
        assert not is_taken("register_as", name)
        return
    client.delete_registered_model(name)
    assert is_taken("register_as", name)


def test_an_alias_is_possible_where_the_registry_takes_it() -> None:
    client = MlflowClient()
    client.create_registered_model("aliased")
    client.create_model_version("aliased", "/tmp/nothing")
    possible = []
    for alias in ALIASES:
        try:
            client.set_registered_model_alias("aliased", alias, "1")
        except MlflowException:
            continue
        possible.append(alias)
    client.delete_registered_model("aliased")
    assert possible == [alias for alias in ALIASES if is_taken("alias", alias)]


@pytest.mark.parametrize("config", [TrainConfig, TuneConfig, lambda **values: CalibrateConfig(run_id="r", **values)])
def test_every_command_that_records_checks_its_names(config: type) -> None:
    for field in ("experiment", "run_name", "register_as"):
        with pytest.raises(InputError, match=f"{field}=.*has {LONGEST_NAME + 1} characters"):
            config(**{field: "x" * (LONGEST_NAME + 1)})
    with pytest.raises(InputError, match="experiment='' is empty"):
        config(experiment="")


def test_a_study_s_name_leaves_room_for_those_that_begin_with_it() -> None:
    for config in (StudyConfig, TuneConfig):
        if config is TuneConfig:
            with pytest.raises(InputError, match="study_name=.*201 characters; at most 200"):
                config(study_name="x" * 201)
        assert config(study_name="it's").study_name == "it's"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--register_as", "a/b"], "register_as='a/b'"),
        (["calibrate", "--run_id", "r", "--alias", "latest"], "alias='latest'"),
        (["train", "--register_as", "a", "--log_model", "false"], "register_as='a' needs log_model=true"),
    ],
)
def test_a_wrong_name_is_refused_before_a_run_is_opened(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert mlproject.main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("value", ["it's", 'say "x"', "back\\", "a\\'b", "tick`s", "a;b -- c", "50%_", "; DROP"])
def test_a_run_is_found_by_any_text(value: str) -> None:
    created = MlflowClient().create_run("0", tags={"by any text": value}).info.run_id
    assert [run.run_id for run in runs_tagged("by any text", value)] == [created]
    MlflowClient().delete_run(created)


def test_a_text_with_both_quotes_cannot_be_searched_for() -> None:
    text = '"it\'s"'
    with pytest.raises(MlflowException):
        every_run(["0"], f"tags.a = '{text}'")
    with pytest.raises(InputError, match="both"):
        quoted(text)
