"""Inspects a data set, writes the page, and records both in one MLflow run."""

import shutil
import tempfile
from pathlib import Path

from segmentation.data.source import data_name
from segmentation.errors import InputError, counted, listed
from segmentation.inspection.advice import advise
from segmentation.inspection.problems import find_problems, is_wrong
from segmentation.inspection.split import inspect_splits
from studies import tracking
from studies.config import LONGEST_NAME, InspectConfig
from studies.inspection import page as inspection_page
from studies.inspection.content import Inspection
from studies.report.html import to_html

PRINTED = 8
"""Most problems that are printed."""


def run_inspection(config: InspectConfig) -> Path:
    """Inspect the data set, write the page and its tables, record them in one MLflow run, and print where they are.

    Returns:
        The page.

    Raises:
        InputError: no split can be opened, the output folder cannot be written; or, with `strict`, the data set has an
            error or a warning.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    splits = None if config.splits is None else [name.strip() for name in config.splits.split(",") if name.strip()]
    inspected = inspect_splits(config, splits)
    inspection = Inspection(
        data_name(config.dataset, config.data_dir), config, inspected, find_problems(inspected, config),
        advise(inspected, config),
    )  # fmt: skip
    output = Path(config.output)
    name = config.run_name or f"{inspection.name} · inspect"
    tags = {"kind": "inspect", "dataset": config.dataset}
    with (
        tracking.tracked_run(config.experiment, name[:LONGEST_NAME], tags) as run_id,
        tempfile.TemporaryDirectory() as folder,
    ):
        tracking.log_config(config)
        tracking.log_metrics(inspection.metrics())
        _write_files(inspection, Path(folder))
        _copy(Path(folder), output)
        tracking.log_folder(folder, "inspect")
        tracking.log_note("\n".join(["The page: artifact `inspect/index.html`.", "", *_described(inspection)]))
        _print(inspection)
        where = f"Page: {output / 'index.html'} ({(output / 'index.html').stat().st_size / 1e6:.1f} MB)"
        if config.strict and is_wrong(inspection.problems):
            raise InputError(
                f"{inspection.name} has {counted(inspection.count('error'), 'error')} and "
                f"{counted(inspection.count('warning'), 'warning')}. {where}"
            )
    print(tracking.where_to_look(run_id))
    print(where)
    return output / "index.html"


def _write_files(inspection: Inspection, folder: Path) -> None:
    page = inspection_page.write(inspection)
    title = f"{inspection.name} before training"
    for name, content in {
        "index.html": to_html("\n".join(page.lines), page.images, title),
        "problems.csv": inspection.problems_table(), "classes.csv": inspection.classes_table(),
        "images.csv": inspection.images_table(),
    }.items():  # fmt: skip
        (folder / name).write_text(content, encoding="utf-8")


def _copy(folder: Path, output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
        for file in folder.iterdir():
            shutil.copyfile(file, output / file.name)
    except OSError as error:
        raise InputError(f"output={output}: the page cannot be written ({error}); name another folder") from error


def _described(inspection: Inspection) -> list[str]:
    """Return the lines of the run's description."""
    return [f"- {inspection.summary()}", *(f"- {line}" for line in inspection_page.lines(inspection.problems))]


def _print(inspection: Inspection) -> None:
    """Print what is wrong, what to set, and the size of the data set; the most important first."""
    problems = list(inspection_page.lines(inspection.problems))
    for line in problems[:PRINTED]:
        print(line)
    if len(problems) > PRINTED:
        print(f"and {len(problems) - PRINTED} more on the page.")
    if not problems:
        print("No error and no warning.")
    if notes := [problem.what for problem in inspection.problems if problem.level == "note"]:
        print(f"{counted(len(notes), 'note')} on the page: {listed(notes, 2)}")
    print(f"{inspection.name}: {inspection.summary()}")
    if inspection.advice and inspection.can_train:
        print("To train with the settings that fit these data:")
        print(f"  {inspection.training_command()}")
