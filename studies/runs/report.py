"""A report as one MLflow run: the page in a folder, and as artifacts that the UI shows."""

import re
import shutil
import tempfile
from dataclasses import asdict
from importlib.metadata import version
from io import BytesIO
from pathlib import Path

from PIL import Image

from segmentation.errors import InputError
from studies import tracking
from studies.base import rerun as commands
from studies.config import ReportConfig
from studies.report.collected import collect
from studies.report.html import to_html
from studies.report.markup import Page
from studies.report.page import summary, write


def run_report(config: ReportConfig) -> Path:
    """Write the page as configured, record it in one MLflow run, and print where it is; returns the HTML file.

    Raises:
        InputError: what the user can mend.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    reported = collect(config)
    versions = {name: version(name) for name in ("mlflow", "markdown")}
    page = write(reported, commands.command("report", asdict(config)), versions)
    output = Path(config.output)
    name = config.run_name or reported.title
    with (
        tracking.tracked_run(reported.experiment, name[:250], {"kind": "report"}) as run_id,
        tempfile.TemporaryDirectory() as folder,
    ):
        tracking.log_config(config)
        write_files(page, reported.title, Path(folder))
        _put(Path(folder), output)
        tracking.log_folder(folder, "report")
        lines = ["The page: artifact `report/report.html`.", "", *(f"- {line}" for line in summary(reported, page))]
        diagrams = [content for path, content in page.pictures.items() if "reliability" in path][:1]
        tracking.log_note("\n".join(lines), [Image.open(BytesIO(content)) for content in diagrams])
    size = (output / "report.html").stat().st_size / 1e6
    print(f"{reported.title}: {output / 'report.html'} ({size:.1f} MB, {len(page.pictures)} pictures), and report.md")
    for part in page.missing:
        print(f"Missing: {part.what}:\n  {part.command}")
    print(tracking.where_to_look(run_id))
    return output / "report.html"


def write_files(page: Page, title: str, folder: Path) -> None:
    """Write report.md with images/, and report.html, which holds them."""
    text = "\n".join(page.lines)
    (folder / "images").mkdir()
    for path, content in page.pictures.items():
        (folder / path).write_bytes(content)
    (folder / "report.md").write_text(text, encoding="utf-8")
    (folder / "report.html").write_text(to_html(text, page.pictures, title), encoding="utf-8")


def _put(folder: Path, output: Path) -> None:
    """Copy the files to where the user wants them, in the place of those of an earlier report."""
    try:
        before = output / "report.md"
        if before.is_file():
            for picture in re.findall(r"\]\((images/[A-Za-z0-9.-]+\.png)\)", before.read_text(encoding="utf-8")):
                (output / picture).unlink(missing_ok=True)
        (output / "images").mkdir(parents=True, exist_ok=True)
        for file in (path for path in folder.rglob("*") if path.is_file()):
            shutil.copyfile(file, output / file.relative_to(folder))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"output={output}: the report cannot be written there ({error}); name another folder"
        ) from error
