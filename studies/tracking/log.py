"""Log metrics, parameters, plots, files and models of a run, through its journal."""

import json
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from PIL import Image

from segmentation import plots
from segmentation.data import Split
from studies.base.redaction import hidden, redacted, without_password
from studies.tracking.journal import Entry
from studies.tracking.notes import note_tag
from studies.tracking.run_journals import journal_of, open_run
from studies.tracking.sending import metrics_entry, now
from studies.tracking.store import with_retries

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTE_WIDTH = 560
"""Width of an image in pixels; wider ones displace the right column of the run's page."""


def log_config(config: Any, leave_out: Collection[str] = ()) -> None:
    """Log the resolved configuration as params and as `config.json`, without the fields in `leave_out`.

    `mlflow run` has already logged the parameters that were typed, as raw text. MLflow refuses a second value for them.
    """
    run_id = open_run()
    values = redacted({name: value for name, value in asdict(config).items() if name not in leave_out})
    logged = with_retries(lambda: mlflow.MlflowClient().get_run(run_id)).data.params
    _record({"what": "params", "values": {name: str(value) for name, value in values.items() if name not in logged}})
    log_json(values, "config.json")


def log_split(split: Split, context: str) -> None:
    """Log a data set as an input of the run, identified by the hash of its files."""
    height, width = split.size or ("different", "different")
    profile = {"images": len(split), "height": height, "width": width}
    _record({
        "what": "input", **_dataset(split),
        "location": split.location, "profile": profile, "context": context,
    })  # fmt: skip


def _dataset(split: Split) -> dict[str, str]:
    """Return what identifies a data set in MLflow; the name of `dataset=folder` is that of its folder."""
    name = Path(split.location).name if split.dataset == "folder" else split.dataset
    return {"name": f"{name}/{split.name}", "digest": split.fingerprint[:16]}


def log_model_input(model_id: str | None) -> None:
    """Log a model as an input of the run, so that the model's page lists the run; None logs nothing."""
    if model_id is not None:
        _record({"what": "model_input", "model_id": model_id})


def log_model_card(
    description: str, tags: Mapping[str, str], metrics: Mapping[str, float], register_as: str | None
) -> None:
    """Describe the model that was logged last in the open run, and the version that it was registered as.

    Args:
        description: Markdown.
        tags: of the model.
        metrics: of the model, by the names they have in the run.
        register_as: name in the model registry, or None.
    """
    entry = metrics_entry(metrics, None) | {
        "what": "model_card", "description": without_password(description), "tags": hidden(tags),
        "register_as": register_as,
    }  # fmt: skip
    with journal_of() as journal:
        journal.add("files", entry)


def log_metrics(
    metrics: Mapping[str, float], step: int | None = None, model_id: str | None = None, split: Split | None = None
) -> None:
    """Log metrics with the same time and step. NaN, such as the IoU of an absent class, is left out.

    Args:
        metrics: by name.
        step: the epoch, if any.
        model_id: the logged model that was scored; its page then shows the metrics, too.
        split: the data it was scored on, see `log_split`.
    """
    entry = metrics_entry(metrics, step)
    if model_id is not None:
        entry["model_id"] = model_id
        if split is not None:
            entry |= {"dataset": _dataset(split)}
    _record(entry)


def log_tags(tags: Mapping[str, str]) -> None:
    """Set tags of the open run."""
    _record({"what": "tags", "values": hidden(tags)})


def log_note(summary: str, images: Sequence[Image.Image] = (), details: str = "", run_id: str | None = None) -> None:
    """Set the description on a run's page. Lines beyond MLflow's limit are left out.

    Args:
        summary: Markdown. The UI shows its first lines, and the rest on a click.
        images: shown below it, reduced to the width of the page.
        details: Markdown below the images.
        run_id: the run; None is the open one.
    """
    run_id, shown = run_id or open_run(), []
    for index, original in enumerate(images):
        path = f"description/{index}.png"
        image = original.convert("RGB")  # a copy
        image.thumbnail((NOTE_WIDTH, 2 * NOTE_WIDTH), Image.Resampling.LANCZOS)
        _log_artifact(path, image.save, run_id)
        # relative, so that it works at every address of the UI
        shown.append(f"![{path}](get-artifact?path={path}&run_uuid={run_id})\n")
    lines = "\n".join([summary, "", *shown, details]).splitlines()
    _record({"what": "tags", "values": note_tag(run_id, "\n".join(map(_spaced, lines)))}, run_id)


def _spaced(line: str) -> str:
    """Return a table row with a gap after each cell: the UI draws none, and trims ordinary spaces."""
    is_row = line.startswith("|") and set(line) - set("|- ")
    return line.replace(" | ", "\u2003\u200b | ") if is_row else line


def log_figure(figure: "Figure", path: str) -> Image.Image:
    """Log a plot as an artifact; return it as an image, since drawing is slow."""
    image = Image.fromarray(plots.pixels(figure))
    _log_artifact(path, image.save)
    return image


def log_figure_at(figure: "Figure", key: str, step: int) -> None:
    """Log a plot of one epoch, for the UI's image slider."""
    image = Image.fromarray(plots.pixels(figure))
    with journal_of() as journal:
        entry = {"what": "image", "key": key, "step": step, "time": now()}
        journal.add("files", entry, lambda folder: image.save(folder / "image.png"))


def log_json(content: Any, path: str) -> None:
    """Log a JSON artifact; NaN becomes null."""
    text = json.dumps(json.loads(json.dumps(redacted(content)), parse_constant=lambda _: None), indent=1)
    log_table(text, path)


def log_text(text: str, path: str, run_id: str | None = None) -> None:
    """Log printed text, such as a log, as an artifact of the open run or of another one."""
    log_table(without_password(text), path, run_id)


def log_table(text: str, path: str, run_id: str | None = None) -> None:
    """Log structured text, such as a CSV or Markdown table, unchanged: its values may equal a password by chance."""
    _log_artifact(path, lambda file: file.write_text(text, encoding="utf-8"), run_id)


def log_folder(folder: str | Path, path: str) -> None:
    """Log a folder with its content as the artifact folder `path`."""
    _log_artifact(path, lambda target: shutil.copytree(folder, target, copy_function=_linked))


@contextmanager
def artifact_file(path: str) -> Iterator[Path]:
    """Yield a path to write a file to. The file is logged as the artifact `path` when the context ends."""
    with tempfile.TemporaryDirectory() as temporary:
        file = Path(temporary) / Path(path).name
        yield file
        _log_artifact(path, lambda target: shutil.move(file, target))


def _record(entry: Entry, run_id: str | None = None) -> None:
    with journal_of(run_id) as journal:
        journal.add("records", entry)


def _log_artifact(path: str, write: Callable[[Path], object], run_id: str | None = None) -> None:
    """Log the file or folder that `write` writes to its argument as the artifact `path`."""

    def fill(folder: Path) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        write(folder / path)

    with journal_of(run_id) as journal:
        journal.add("files", {"what": "artifacts", "path": path}, fill)


def _linked(source: str, target: str) -> None:
    """Create a hard link, or a copy where the file system allows no link."""
    try:
        Path(target).hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
