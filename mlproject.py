"""The door to everything: `python mlproject.py COMMAND --field value ...`, which is what `mlflow run` calls too."""

import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, get_args

from segmentation.errors import InputError, one_of
from segmentation.fields import choices
from segmentation.system import interruption
from segmentation.system.runtime import check_system, prepare_process
from studies.base.redaction import move_credentials_to_environment, refuse_passwords, without_password
from studies.config import TrainConfig
from studies.entry_points import NAMES, entry_point


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command; returns the exit code: 0 done, 1 went wrong, 2 wrongly called, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    move_credentials_to_environment()
    try:
        check_system()
        refuse_passwords(arguments)
        command = entry_point(one_of("command", arguments[0], NAMES))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and arguments[0] not in ("train", "main"):
            raise InputError(f"torchrun is for train and main: start {arguments[0]} by itself, with processes=N")
        config = parse(command.Config, arguments[1:], f"mlproject.py {arguments[0]}")
    except InputError as error:
        return _refused(error, 2)
    except SystemExit as stop:  # tyro has explained the mistake, or shown the help
        if stop.code:
            _tag_the_run(f"wrongly called: {' '.join(arguments)}")
        raise
    prepare_process()
    before = interruption.catch()
    try:
        _warn_of_copy(config)
        command.run(config)
        _name_the_run(arguments[0])
    except (Exception, KeyboardInterrupt) as error:
        if stopped := interruption.stopped_by(error):
            print(f"Stopped: {stopped or 'interrupted'}.", file=sys.stderr)
            return 130
        from studies.base.errors import explained

        ours = error if isinstance(error, InputError) else explained(error)
        if ours is None:
            raise
        return _refused(ours, 1)
    finally:
        interruption.restore(before)
    return 0


def parse(config_class: type, arguments: Sequence[str], program: str) -> Any:
    """Turn `--field value` pairs into a configuration; a mistake ends the program with a message and code 2."""
    import tyro

    config: Any = tyro.cli(
        config_class,
        prog=program,
        args=_in_python_spelling(config_class, arguments),
        use_underscores=True,
        config=(tyro.conf.FlagConversionOff,),
    )
    # `mlflow run` types every parameter that MLproject declares, given or not
    if isinstance(config, TrainConfig) and "MLFLOW_RUN_ID" not in os.environ:
        words = (word.removeprefix("--").partition("=")[0] for word in arguments if word.startswith("--"))
        object.__setattr__(config, "typed", frozenset(word.replace("-", "_") for word in words))
    return config


def _in_python_spelling(config_class: type, arguments: Sequence[str]) -> list[str]:
    """Let `true`, `none` and the like through in any case, and check closed lists here, to suggest the nearest."""
    known, spelled = choices(config_class), list(arguments)
    types = {field.name: field.type for field in fields(config_class)}
    for place, argument in enumerate(spelled):
        joined = argument.startswith("--") and "=" in argument  # `--field=value`; otherwise a value follows its flag
        flag, _, value = argument.partition("=") if joined else (spelled[place - 1] if place else "", "", argument)
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or "=" in flag or name not in types:
            continue
        optional = type(None) in get_args(types[name])
        is_bool = bool in (types[name], *get_args(types[name]))
        if (is_bool and value.lower() in ("true", "false")) or (optional and value.lower() == "none"):
            spelled[place] = f"{flag}={value.capitalize()}" if joined else value.capitalize()
        elif name in known:
            one_of(name, value, [*known[name], "None"] if optional else known[name])
    return spelled


def _warn_of_copy(config: Any) -> None:
    """Say so where `mlflow run` has fetched the project into a folder that nobody will find again."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from studies.base.clone import warning

        if told := warning(config):
            print(told, file=sys.stderr)


def _refused(error: InputError, code: int) -> int:
    told = without_password(str(error))
    print(f"error: {told}", file=sys.stderr)
    _tag_the_run(told)
    return code


def _tag_the_run(reason: str) -> None:
    """Tell a wrong call on the run that `mlflow run` has opened for it."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from studies.tracking import tag_reason

        tag_reason(os.environ["MLFLOW_RUN_ID"], reason)


def _name_the_run(command: str) -> None:
    """Say what the run is that `mlflow run` has opened, where the command has not made it its own."""
    if os.environ.get("MLFLOW_RUN_ID"):
        from studies.tracking import describe_run

        describe_run(os.environ["MLFLOW_RUN_ID"], command, {"kind": command})


def _overview() -> str:
    lines = ["usage: mlproject.py COMMAND [--field value ...]", "", "commands:"]
    lines += [f"  {name:10} {(entry_point(name).Config.__doc__ or '').splitlines()[0]}" for name in NAMES]
    return "\n".join([*lines, "", "`mlproject.py COMMAND --help` explains every field."])


if __name__ == "__main__":
    sys.exit(main())
