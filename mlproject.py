"""The command line: `python mlproject.py COMMAND --field value ...`, which `mlflow run` calls too."""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmentation.errors import InputError, one_of
from segmentation.system import interruption
from segmentation.system.runtime import check_system, prepare_process
from studies.base.arguments import parse
from studies.base.opened_run import (
    failure_tags,
    find_callers_modules,
    name_tags,
    opened_run,
    tag_in_file,
    with_callers_paths,
)
from studies.base.redaction import move_credentials_to_environment, refuse_passwords, without_password
from studies.base.short_run_ids import with_whole_run_ids
from studies.entry_points import NAMES, entry_point

DISTRIBUTED = ("main", "train")
"""Commands that torchrun may start."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse and run a command. Return the exit code: 0 done, 1 failed, 2 wrong call, 130 interrupted."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if arguments else 2
    move_credentials_to_environment()
    try:
        check_system()
        refuse_passwords(arguments)
        command = entry_point(one_of("command", arguments[0], NAMES))
        if int(os.environ.get("WORLD_SIZE", "1")) > 1 and arguments[0] not in DISTRIBUTED:
            raise InputError(f"torchrun can start train and main only: start {arguments[0]} without it")
        config = with_callers_paths(parse(command.Config, arguments[1:], f"{_program()} {arguments[0]}"))
        find_callers_modules(config)
    except InputError as error:
        return _failed(error, 2, arguments[0])
    except BrokenPipeError:  # the reader of the help, such as head, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    prepare_process()
    _silence_new_databases()
    previous = interruption.catch(answer=True)
    try:
        _warn_about_clone(config)
        command.run(with_whole_run_ids(config, _runs_beginning_with))
        _tag_opened_run(name_tags(arguments[0]))
    except (Exception, KeyboardInterrupt) as error:
        started = not hasattr(config, "run_name")  # a command that has a run was not started, or its run has the error
        if stopped := interruption.stopped_by(error):
            print(f"Stopped: {stopped or 'interrupted'}.", file=sys.stderr)
            _tag_opened_run(failure_tags(arguments[0], f"stopped by {stopped or 'the user'}", started))
            return interruption.EXIT_CODE
        from studies.base.errors import explained

        input_error = error if isinstance(error, InputError) else explained(error)
        if input_error is None:
            _tag_opened_run(failure_tags(arguments[0], f"{type(error).__name__}: {error}", started))
            raise
        return _failed(input_error, 1, arguments[0], started)
    finally:
        interruption.restore(previous)
    return 0


def _warn_about_clone(config: Any) -> None:
    """Print a warning if `mlflow run` has cloned the project into a temporary folder, where relative outputs go."""
    if opened_run():
        from studies.base.clone import warning

        if message := warning(config):
            print(message, file=sys.stderr)


def _runs_beginning_with(digits: str) -> list[tuple[str, str]]:
    """Return ID and name of the runs whose ID begins with some digits. Import MLflow only if it is needed."""
    from studies.tracking import runs_beginning_with

    return [(run.run_id, run.name) for run in runs_beginning_with(digits)]


def _silence_new_databases() -> None:
    """Hide the lines in which MLflow logs how it makes a new database."""
    import logging  # here and not above: `--help` does not need it

    logging.getLogger("mlflow.store.db.utils").addFilter(lambda record: record.levelno >= logging.WARNING)


def _failed(error: InputError, code: int, command: str, started: bool = False) -> int:
    message = without_password(str(error))
    print(f"error: {message}", file=sys.stderr)
    _tag_opened_run(failure_tags(command, message, started))
    return code


def _tag_opened_run(tags: Mapping[str, str]) -> None:
    """Tag the run that `mlflow run` has opened, unless the command has used it. Import MLflow only if it is needed."""
    if (run_id := opened_run()) and not tag_in_file(run_id, tags):
        from studies.tracking import tag_run

        tag_run(run_id, tags)


def _program() -> str:
    """Return the name that the user typed: the installed program's, or this file's."""
    return "mlproject" if Path(sys.argv[0]).name == "mlproject" else "python mlproject.py"


def _overview() -> str:
    lines = [f"usage: {_program()} COMMAND [--field value ...]", "", "commands:"]
    lines += [f"  {name:10} {(entry_point(name).Config.__doc__ or '').splitlines()[0]}" for name in NAMES]
    return "\n".join([*lines, "", f"`{_program()} COMMAND --help` lists the fields of a command."])


if __name__ == "__main__":
    sys.exit(main())
