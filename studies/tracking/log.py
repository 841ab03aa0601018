"""What is logged in a run: figures, settings, pictures, files, models; by way of its journal."""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlflow
from matplotlib.figure import Figure
from PIL import Image

from segmentation import plots
from segmentation.data import Split
from studies.base.redaction import hidden, redacted, without_password
from studies.tracking.journal import Entry
from studies.tracking.runs import journal_of, metrics_entry, now, open_run
from studies.tracking.store import patiently

NOTE_LENGTH = 7900
"""Characters that fit into a tag."""
NOTE_WIDTH = 560
"""Pixels; wider pictures push aside what the UI shows beside a description."""


def log_config(config: Any, leave_out: Collection[str] = ()) -> None:
    """Log the resolved configuration as params and as `config.json`, without the fields that are to be left out.

    `mlflow run` has already logged the parameters it was given, as they were typed; those cannot be logged again.
    """
    run_id = open_run()
    values = redacted({name: value for name, value in asdict(config).items() if name not in leave_out})
    logged = patiently(lambda: mlflow.MlflowClient().get_run(run_id)).data.params
    _record({"what": "params", "values": {name: str(value) for name, value in values.items() if name not in logged}})
    log_json(values, "config.json")


def log_split(split: Split, context: str) -> None:
    """Log a data set as an input of the run, identified by the hash of its files."""
    profile = {"images": len(split), "height": split.masks.shape[1], "width": split.masks.shape[2]}
    _record({
        "what": "input", **_dataset(split),
        "location": split.location, "profile": profile, "context": context,
    })  # fmt: skip


def _dataset(split: Split) -> dict[str, str]:
    """How MLflow tells data sets apart."""
    return {"name": f"{split.dataset}/{split.name}", "digest": split.fingerprint[:16]}


def log_model_input(model_id: str | None) -> None:
    """Log a logged model as an input of the run, so that its page lists the run; None logs nothing."""
    if model_id is not None:
        _record({"what": "model_input", "model_id": model_id})


def log_metrics(
    metrics: Mapping[str, float], step: int | None = None, model_id: str | None = None, split: Split | None = None
) -> None:
    """Log metrics of one moment; one that is not a number, such as the IoU of an absent class, is left out.

    Args:
        metrics: by name.
        step: an epoch, if they are of one.
        model_id: the logged model that was measured; its page then shows them, too.
        split: what it was measured on, see `log_split`.
    """
    entry = metrics_entry(metrics, step)
    if model_id is not None:
        entry["model_id"] = model_id
        if split is not None:
            entry |= {"dataset": _dataset(split)}
    _record(entry)


def log_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the current run."""
    _record({"what": "tags", "values": hidden(tags)})


def log_note(said: str, pictures: Sequence[Image.Image] = (), details: str = "", run_id: str | None = None) -> None:
    """Set the description that the UI shows on a run's page; lines for which MLflow has no room are left out.

    Args:
        said: Markdown; the UI shows its first lines at once, all else on a click.
        pictures: shown below it, made as narrow as the page needs them.
        details: Markdown below the pictures.
        run_id: the run; None is the one that is open here.
    """
    run_id, shown = run_id or open_run(), []
    for place, picture in enumerate(pictures):
        path = f"description/{place}.png"
        image = picture.convert("RGB")  # a copy
        image.thumbnail((NOTE_WIDTH, 2 * NOTE_WIDTH), Image.Resampling.LANCZOS)
        _keep(path, image.save, run_id)
        # relative, so that it holds wherever the UI is served
        shown.append(f"![{path}](get-artifact?path={path}&run_uuid={run_id})\n")
    kept, room = [], NOTE_LENGTH
    for line in "\n".join([said, "", *shown, details]).strip().splitlines():
        line = _spaced(line)
        room -= len(line) + 1
        if room < 0:
            kept.append("…")
            break
        kept.append(line)
    _record({"what": "tags", "values": {"mlflow.note.content": without_password("\n".join(kept))}}, run_id)


def _spaced(line: str) -> str:
    """A row of a table with a space after each cell: the UI leaves none, and trims those it knows as spaces."""
    is_row = line.startswith("|") and set(line) - set("|- ")
    return line.replace(" | ", "\u2003\u200b | ") if is_row else line


def log_figure(figure: Figure, path: str) -> Image.Image:
    """Log a picture as an artifact; returns it as drawn, since drawing takes long."""
    image = Image.fromarray(plots.pixels(figure))
    _keep(path, image.save)
    return image


def log_figure_at(figure: Figure, key: str, step: int) -> None:
    """Log a picture of one epoch, for the UI's image stepper."""
    image = Image.fromarray(plots.pixels(figure))
    with journal_of() as journal:
        entry = {"what": "image", "key": key, "step": step, "time": now()}
        journal.add("files", entry, lambda folder: image.save(folder / "image.png"))


def log_json(content: Any, path: str) -> None:
    """Log an object as a JSON artifact; NaN becomes null."""
    text = json.dumps(json.loads(json.dumps(redacted(content)), parse_constant=lambda _: None), indent=1)
    log_table(text, path)


def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """Log what is printed for people, such as a log, as a text artifact of the run that is open here, or of another."""
    log_table(without_password(text), path, run_id)


def log_table(text: str, path: str, run_id: str | None = None) -> None:
    """Log a structured text, such as a CSV or Markdown table, as it is; its values may equal a password by chance."""
    _keep(path, lambda file: file.write_text(text, encoding="utf-8"), run_id)


def log_folder(folder: str | Path, path: str) -> None:
    """Log a folder with all that is in it as the artifact folder `path`."""
    _keep(path, lambda there: shutil.copytree(folder, there, copy_function=_linked))


@contextmanager
def artifact_file(path: str) -> Iterator[Path]:
    """A file to write, logged as the artifact `path` afterwards."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / Path(path).name
        yield file
        _keep(path, lambda there: shutil.move(file, there))


def _record(entry: Entry, run_id: str | None = None) -> None:
    with journal_of(run_id) as journal:
        journal.add("records", entry)


def _keep(path: str, write: Callable[[Path], object], run_id: str | None = None) -> None:
    """Log what `write` writes to the path it is given as the artifact `path`."""

    def fill(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write(folder / path)

    with journal_of(run_id) as journal:
        journal.add("files", {"what": "artifacts", "path": path}, fill)


def _linked(source: str, target: str) -> None:
    """A second name for a file, or a copy where there cannot be one."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
