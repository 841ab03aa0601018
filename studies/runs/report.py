"""Write a report to a folder, and record it as one MLflow run."""

import re
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from itertools import groupby
from pathlib import Path

from PIL import Image

from segmentation.errors import InputError
from studies import tracking
from studies.base.rerun import command, for_this_folder
from studies.config import LONGEST_NAME, ReportConfig
from studies.report.collect import collect
from studies.report.html import to_html
from studies.report.markup import Page
from studies.report.page import summary, write
from studies.report.predictions import warnings_of


def run_report(config: ReportConfig) -> Path:
    """Write the report, record it in one MLflow run, and print where it is.

    Returns:
        The HTML file.

    Raises:
        InputError: a run, experiment or study does not exist, or the output folder cannot be written.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    content = collect(config)
    versions = {name: version(name) for name in ("mlflow", "markdown")}
    page = write(content, command("report", asdict(config)), versions)
    output = Path(config.output)
    name = config.run_name or content.title
    with (
        tracking.tracked_run(content.experiment, name[:LONGEST_NAME], {"kind": "report"}) as run_id,
        tempfile.TemporaryDirectory() as folder,
    ):
        tracking.log_config(config)
        write_files(page, content.title, Path(folder))
        _copy_to_output(Path(folder), output)
        tracking.log_folder(folder, "report")
        lines = ["The page: artifact `report/report.html`.", "", *(f"- {line}" for line in summary(content, page))]
        diagrams = [png for path, png in page.images.items() if "reliability" in path][:1]
        tracking.log_note("\n".join(lines), [Image.open(BytesIO(png)) for png in diagrams])
    size = (output / "report.html").stat().st_size / 1e6
    print(f"{content.title}: {output / 'report.html'} ({size:.1f} MB, {len(page.images)} images), and report.md")
    if content.main:
        print(f"Main run: {content.main.name}")
    for warning in warnings_of(content.scored or content.main, content.split) if content.main else ():
        print(f"Warning: {warning}.")
    for needed, parts in groupby(sorted(page.missing, key=lambda part: part.command), key=lambda part: part.command):
        what = "; ".join(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", part.what) for part in parts)  # no links in a terminal
        print(f"Not here: {what}. To create it:\n  {for_this_folder(needed)}")
    print(tracking.where_to_look(run_id))
    return output / "report.html"


def write_files(page: Page, title: str, folder: Path) -> None:
    """Write `report.md` with its `images/`, and `report.html`, which embeds them."""
    text = "\n".join(page.lines)
    (folder / "images").mkdir()
    for path, content in page.images.items():
        (folder / path).write_bytes(content)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(to_html(text, page.images, title), encoding="utf-8")


def _copy_to_output(folder: Path, output: Path) -> None:
    """Copy the files to the output folder, and delete the images of an earlier report there."""
    try:
        earlier = output / "report.md"
        if earlier.is_file():
            for image in re.findall(r"\]\((images/[A-Za-z0-9.-]+\.png)\)", earlier.read_text(encoding="utf-8")):
                (output / image).unlink(missing_ok=True)
        (output / "images").mkdir(parents=True, exist_ok=True)
        for file in (path for path in folder.rglob("*") if path.is_file()):
            shutil.copyfile(file, output / file.relative_to(folder))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"output={output}: the report cannot be written ({error}); name another folder") from error
