"""Pictures without labels predicted by a trained network, as an MLflow run that is linked to the training run."""

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from segmentation import plots
from segmentation.devices import memory_format, resolve_device
from segmentation.errors import InputError, listed
from segmentation.io.decoding import read_image
from segmentation.prediction.inputs import find_images
from segmentation.prediction.outputs import TABLE, PredictedFolder, output_names
from segmentation.prediction.pipeline import predict_images
from segmentation.prediction.predictor import Predictor
from studies import tracking
from studies.base.markdown import code, escaped
from studies.base.tables import table
from studies.config import PredictConfig
from studies.models import loading as model_store
from studies.models.stored import StoredModel
from studies.runs.names import run_name

EXAMPLES = 6
"""Predicted pictures that the run shows."""
EXAMPLE_SIDE = 1000
"""Pixels of their longer side there."""


def run_prediction(config: PredictConfig) -> dict[str, float]:
    """Predict as configured, write the files, record it in one MLflow run, and print where to look.

    Returns:
        The metrics.

    Raises:
        InputError: what the user can mend. If only some pictures could not be predicted, all others are done and
            recorded by then. The run has ended as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    images, output = Path(config.images), Path(config.output).absolute()
    name = config.run_name or f"predict · {config.model_uri[-40:]} · {images.name}"
    tags = {"kind": "predict", "predicted_with": config.model_uri}
    with tracking.tracked_run(config.experiment, name, tags) as run_id:
        tracking.log_config(config)
        pictures = find_images(images, output)
        stored = model_store.load(config.model_uri)
        if config.run_name is None:
            mended = f" · calibrated by {stored.calibration['method']}" if stored.calibration else ""
            tracking.log_tags({"mlflow.runName": f"predict · {run_name(stored.config)}{mended} · {images.name}"})
        tracking.log_model_input(stored.model_id)
        tags = {"model": stored.config.model, "dataset": stored.config.dataset, "predicted_with": stored.name}
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        device = resolve_device(config.device)
        network = stored.network().to(device).to(memory_format=memory_format(device, True))
        predictor = Predictor(network, stored.config.resize, stored.config.interpolation, device, config.flip)
        folder = PredictedFolder(output, stored.labels)
        started = time.perf_counter()
        try:
            predict_images(predictor, pictures, folder, config.batch_size)
        finally:
            with tracking.artifact_file(TABLE) as file:
                file.write_bytes((output / TABLE).read_bytes())
        seconds = time.perf_counter() - started
        metrics = {"predict/images": float(len(folder.rows)), "predict/skipped": float(len(folder.skipped))}
        if folder.skipped:
            tracking.log_text("".join(f"{path}: {why}\n" for path, why in folder.skipped.items()), "skipped.txt")
        shown: list[Image.Image] = []
        if folder.rows:
            metrics["predict/images_per_second"] = len(folder.rows) / seconds
            metrics["predict/mean_confidence"] = folder.mean_confidence()
            metrics |= {f"predict/share/{name}": share for name, share in folder.class_fractions().items()}
            for place, figure in enumerate(_examples(folder, pictures, stored.described())):
                drawn = tracking.log_figure(figure, f"examples/{place}.png")
                shown = shown or [drawn]
            tracking.log_figure(plots.legend(stored.labels), "legend.png")
        tracking.log_metrics(metrics)
        tracking.log_note(_note(folder, stored, config), shown)
        done = f"{len(folder.rows)} of {len(pictures)} pictures predicted in {seconds:.1f} s"
        print(f"{done} ({len(folder.rows) / seconds:.1f} a second). They are in {output}")
        print(tracking.where_to_look(run_id))
        if folder.skipped:
            told = listed((f"{path} ({why})" for path, why in folder.skipped.items()), 3)
            raise InputError(f"{len(folder.skipped)} of {len(pictures)} pictures could not be predicted: {told}")
    return metrics


def _examples(folder: PredictedFolder, pictures: dict[str, Path], which: str) -> Iterator[Figure]:
    """Pictures spread evenly over all that were predicted, from their files."""
    paths = sorted(folder.rows)
    names = output_names(list(pictures))
    for place in np.unique(np.linspace(0, len(paths) - 1, EXAMPLES).round().astype(int)):
        path = paths[place]
        image = read_image(pictures[path])
        shown = []
        for kind in ("masks", "confidence"):
            with Image.open(folder.folder / kind / f"{names[path]}.png") as made:
                made.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE), Image.Resampling.NEAREST)
                shown.append(np.array(made))
        image.thumbnail((EXAMPLE_SIDE, EXAMPLE_SIDE))
        title = f"{path}, {which}\nmean confidence {folder.rows[path].mean_confidence:.3f}"
        yield plots.prediction(np.array(image), shown[0], shown[1] / 255, folder.classes, title)


def _note(folder: PredictedFolder, stored: StoredModel, config: PredictConfig) -> str:
    flipped = ", each with its mirror image" if config.flip else ""
    lines = [
        f"**{len(folder.rows)}** pictures from {code(config.images)}{flipped}, predicted by",
        f"{escaped(stored.described())}",
        f"({code(config.model_uri)}). The files are in {code(folder.folder)}, the table is the artifact `{TABLE}`.",
    ]
    if folder.rows:
        rows = [[escaped(name), f"{share:.2%}"] for name, share in folder.class_fractions().items()]
        lines += ["", f"Mean confidence over all pixels: {folder.mean_confidence():.4f}.", ""]
        lines += table(["class", "share of all pixels"], rows)
    if folder.skipped:
        lines += ["", f"**{len(folder.skipped)}** could not be predicted:", ""]
        lines += [f"- {code(path)}: {escaped(why)}" for path, why in folder.skipped.items()]
    return "\n".join(lines)
