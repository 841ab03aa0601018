"""Predicts images with a trained model, as an MLflow run that links to the training run."""

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from segmentation import plots
from segmentation.devices import memory_format, resolve_device
from segmentation.errors import InputError, listed
from segmentation.io.channels import as_rgb, display_note
from segmentation.io.decoding import read_image
from segmentation.io.folders import SUFFIXES
from segmentation.prediction.inputs import find_images
from segmentation.prediction.outputs import TABLE, PredictedFolder, earlier_files, output_names
from segmentation.prediction.pipeline import predict_images
from segmentation.prediction.predictor import Predictor
from segmentation.prediction.views import scale_note, shrinking
from studies import tracking
from studies.base.markdown import code, escaped
from studies.base.tables import table
from studies.config import LONGEST_NAME, PredictConfig
from studies.models import loading as model_store
from studies.models.stored import StoredModel
from studies.runs.names import model_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXAMPLES = 6
"""Number of predicted images that the run plots."""
LARGEST_EXAMPLE = 2**26
"""Most pixels of an image that is plotted."""
EXAMPLE_SIDE = 1000
"""Longer side of a plotted image, in pixels."""


def run_prediction(config: PredictConfig) -> dict[str, float]:
    """Predict as configured, write the files, record the predictions in one MLflow run, and print where to look.

    Returns:
        The metrics.

    Raises:
        InputError: a mistake of the user. If some images could not be predicted, all others are written and recorded
            first. A run that is open by then ends as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    images, output = Path(config.images), Path(config.output).absolute()
    found, ignored = find_images(images, output)
    earlier = earlier_files(output, list(found))
    tracking.check_store()
    stored = model_store.load(config.model_uri)
    device = resolve_device(config.device)
    name = config.run_name or f"predict {images.name} · {config.model_uri[-40:]}"
    tags = {"kind": "predict", "predicted_with": config.model_uri}
    with tracking.tracked_run(config.experiment, name, tags) as run_id:
        tracking.log_config(config)
        if config.run_name is None:
            name = f"predict {images.name} · {model_name(stored.config, stored.calibration)}"[:LONGEST_NAME]
            tracking.log_tags({"mlflow.runName": name})
        tracking.log_model_input(stored.model_id)
        tags = {"model": stored.config.model, "dataset": stored.config.dataset, "predicted_with": stored.name}
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        model = stored.network().to(device).to(memory_format=memory_format(device, True))
        views, resize = config.views(), stored.config.resize
        predictor = Predictor(
            model,
            resize,
            stored.config.interpolation,
            device,
            channels=stored.config.channels,
            bits=stored.bits,
            views=views,
            batch_size=config.batch_size,
        )
        folder = PredictedFolder(output, stored.labels, earlier, config.kinds(), config.min_confidence)
        if (note := scale_note(views, resize)) is not None:
            print(note)
        started = time.perf_counter()
        try:
            predict_images(predictor, found, folder, config.batch_size, config.max_pixels)
        finally:
            with tracking.artifact_file(TABLE) as file:
                file.write_bytes((output / TABLE).read_bytes())
        seconds = time.perf_counter() - started
        metrics = {"predict/images": float(len(folder.rows)), "predict/skipped": float(len(folder.skipped))}
        if folder.skipped:
            tracking.log_text("".join(f"{path}: {reason}\n" for path, reason in folder.skipped.items()), "skipped.txt")
        shown: list[Image.Image] = []
        if folder.rows:
            metrics["predict/images_per_second"] = len(folder.rows) / seconds
            metrics["predict/mean_confidence"] = folder.mean_confidence()
            metrics |= {f"predict/share/{name}": fraction for name, fraction in folder.class_fractions().items()}
            if config.min_confidence is not None:
                metrics["predict/below_min_confidence"] = folder.fraction_below()
            for number, figure in enumerate(_examples(folder, found, stored)):
                drawn = tracking.log_figure(figure, f"examples/{number}.png")
                shown = shown or [drawn]
            tracking.log_figure(plots.legend(stored.labels), "legend.png")
        tracking.log_metrics(metrics)
        shrunk = shrinking([(row.width, row.height) for row in folder.rows.values()], views, resize)
        tracking.log_note(_note(folder, stored, config, ignored, shrunk), shown)
        done = f"{len(folder.rows)} of {len(found)} images predicted in {seconds:.1f} s"
        print(f"{done} ({len(folder.rows) / seconds:.1f} images/s). Files: {output}")
        if config.min_confidence is not None and folder.rows:
            below = f"{folder.fraction_below():.2%} of all pixels have a confidence below {config.min_confidence:g}"
            print(f"{below}: void (255) in the masks.")
        if shrunk is not None:
            print(f"Warning: {shrunk}.")
        if (only := folder.only_class()) is not None:
            print(f"Warning: every pixel of every image is predicted as {only}. Look at the scores of the model's run.")
        if ignored:
            print(f"Not read: {listed(ignored)}. Formats that are read: {', '.join(SUFFIXES)}.")
        print(tracking.where_to_look(run_id))
        if folder.skipped:
            raise InputError(
                f"{len(folder.skipped)} of {len(found)} images could not be predicted; each reason is printed above "
                f"and in the run's artifact skipped.txt"
            )
    return metrics


def _examples(folder: PredictedFolder, images: dict[str, Path], stored: StoredModel) -> Iterator["Figure"]:
    """Yield a plot of each of some images spread evenly over all whose mask and confidence were written.

    Images of more than `LARGEST_EXAMPLE` pixels are left out: their masks would be in memory as wholes.
    """
    if not {"masks", "confidence"} <= folder.kinds:
        return
    paths = [path for path, row in sorted(folder.rows.items()) if row.width * row.height <= LARGEST_EXAMPLE]
    if not paths:
        return
    names = output_names(list(images))
    for index in np.unique(np.linspace(0, len(paths) - 1, EXAMPLES).round().astype(int)):
        path = paths[index]
        image = as_rgb(read_image(images[path], channels=stored.config.channels, bits=stored.bits))
        shown = []
        for kind in ("masks", "confidence"):
            with Image.open(folder.folder / kind / f"{names[path]}.png") as output:
                output.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE), Image.Resampling.NEAREST)
                shown.append(np.array(output))
        image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        title = f"{path}, {stored.described()}\nmean confidence {folder.rows[path].mean_confidence:.3f}"
        if note := display_note(stored.config.channels, stored.bits):
            title += f"; {note}"
        yield plots.prediction(np.array(image), shown[0], shown[1] / 255, folder.classes, title)


def _note(
    folder: PredictedFolder, stored: StoredModel, config: PredictConfig, ignored: Sequence[str], shrunk: str | None
) -> str:
    views = config.views().described()
    seen = f", with {code(views)}" if views else ""
    lines = [
        f"**{len(folder.rows)}** images from {code(config.images)}{seen}, predicted by",
        f"{escaped(stored.described())}",
        f"({code(config.model_uri)}). Files: {code(folder.folder)}. Table: artifact `{TABLE}`.",
    ]
    if shrunk is not None:
        lines += ["", f"**Warning:** {escaped(shrunk)}."]
    if ignored:
        lines += ["", f"Not read: {escaped(listed(ignored))}."]
    if folder.rows:
        rows = [[escaped(name), f"{fraction:.2%}"] for name, fraction in folder.class_fractions().items()]
        lines += ["", f"Mean confidence over all pixels: {folder.mean_confidence():.4f}.", ""]
        if config.min_confidence is not None:
            below = f"{folder.fraction_below():.2%} of all pixels are void: their confidence is below"
            lines += [f"{below} {config.min_confidence:g}.", ""]
        lines += table(["class", "fraction of all pixels"], rows)
    if folder.skipped:
        lines += ["", f"**{len(folder.skipped)}** could not be predicted:", ""]
        lines += [f"- {code(path)}: {escaped(reason)}" for path, reason in folder.skipped.items()]
    return "\n".join(lines)
