"""Exports a trained model to ONNX, as an MLflow run that links to the training run."""

from pathlib import Path

from segmentation.errors import InputError
from segmentation.models.onnx_export import check_packages, export_onnx
from studies import tracking
from studies.base.markdown import code, escaped
from studies.config import ExportConfig
from studies.models import loading as model_store
from studies.runs.names import model_name


def run_export(config: ExportConfig) -> Path:
    """Export as configured, record the file in one MLflow run, and print where to look.

    Returns:
        The file.

    Raises:
        InputError: a mistake of the user. A run that is open by then ends as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    check_packages()
    file = Path(config.output).absolute()
    if file.suffix != ".onnx":
        raise InputError(f"output={config.output} must end in .onnx")
    if not file.parent.is_dir():
        raise InputError(f"output={config.output}: the folder {file.parent} does not exist")
    tracking.check_store()
    stored = model_store.load(config.model_uri)
    name = config.run_name or f"export · {model_name(stored.config, stored.calibration)}"
    with tracking.tracked_run(config.experiment, name, {"kind": "export", "exported": config.model_uri}) as run_id:
        tracking.log_config(config)
        tracking.log_model_input(stored.model_id)
        tags = {"model": stored.config.model, "dataset": stored.config.dataset, "exported": stored.name}
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        metadata = {
            "class_names": list(stored.labels.names), "palette": [list(each) for each in stored.labels.palette],
            "channels": stored.config.channels, "bits": stored.bits,
            "resize": stored.config.resize, "interpolation": stored.config.interpolation,
            "calibration": stored.calibration["method"] if stored.calibration else None,
        }  # fmt: skip
        print(f"Exporting {stored.described()}; this takes up to a minute.")
        difference = export_onnx(stored.network(), file, metadata)
        with tracking.artifact_file(file.name) as artifact:
            artifact.write_bytes(file.read_bytes())
        tracking.log_metrics({"export/largest_difference": difference, "export/megabytes": file.stat().st_size / 1e6})
        tracking.log_note(
            f"{escaped(stored.described())} ({code(config.model_uri)}) as {code(file)}: input `images`, "
            f"uint{stored.bits} (B, {stored.config.channels}, H, W); outputs `logits` and `probabilities` "
            f"(B, C, H, W). Largest difference of a probability to the model: {difference:.2g}."
        )
    size = f"{file.stat().st_size / 1e6:.1f} MB"
    print(f"{file}: {size}. Largest difference of a probability to the model: {difference:.2g}.")
    print(tracking.where_to_look(run_id))
    return file
