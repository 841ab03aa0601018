"""A trained network scored on any split, as an MLflow run of its own that is linked to the training run."""

import math
from dataclasses import replace

from segmentation.data import Originals, Split, load_split, open_split, report_coverage
from segmentation.data.batches import in_order
from segmentation.devices import resolve_device
from segmentation.errors import InputError
from segmentation.scoring.evaluate import score
from studies import tracking
from studies.config import EvaluateConfig
from studies.models import loading as model_store
from studies.runs.names import run_name
from studies.scores.recording import log_scores, protocol


def run_evaluation(config: EvaluateConfig) -> dict[str, float]:
    """Score as configured, record it in one MLflow run, and print where to look; returns the metrics.

    Raises:
        InputError: what the user can mend; the run has then ended as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    name = config.run_name or f"evaluate · {config.model_uri[-40:]} · {config.split}"
    with tracking.tracked_run(config.experiment, name, {"kind": "evaluate", "evaluated": config.model_uri}) as run_id:
        tracking.log_config(config)
        stored = model_store.load(config.model_uri)
        if config.run_name is None:
            size = ", original size" if config.score_at == "original" else ""
            mended = f" · calibrated by {stored.calibration['method']}" if stored.calibration else ""
            tracking.log_tags({"mlflow.runName": f"{run_name(stored.config)}{mended} · {config.split}{size}"})
        device = resolve_device(config.device)
        data = replace(
            stored.config,
            dataset=config.dataset or stored.config.dataset,
            data_dir=config.data_dir or stored.config.data_dir,
            download=config.download,
            cache_dir=config.cache_dir,
        )
        split = load_split(data, config.split)
        if split.labels.names != stored.labels.names:
            raise InputError(
                f"{config.model_uri} tells {len(stored.labels)} classes apart ({', '.join(stored.labels.names)}) but "
                f"{data.dataset} has {len(split.labels)} ({', '.join(split.labels.names)})"
            )
        report_coverage(split)
        tracking.log_split(split, "evaluation")
        tracking.log_model_input(stored.model_id)
        tags = {
            "model": stored.config.model, "dataset": data.dataset, "dataset_fingerprint": split.fingerprint,
            "evaluated": stored.name,
        }  # fmt: skip
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        network = stored.network().to(device)
        scored: Split | Originals = split
        if config.score_at == "original":
            scored = Originals(split, open_split(data, config.split), data)
        batches = in_order(scored, 1 if config.score_at == "original" else config.batch_size, device)
        scores = score(network, batches, split.labels, boundary_width=config.boundary_width)
        found = scores.metrics()
        if scores.reliability.bins().count.any() and not math.isfinite(found["loss"]):
            raise InputError(
                f"{config.model_uri} gives logits that are NaN or infinite on {split.dataset}/{split.name}: the model "
                f"has diverged, and nothing can be scored. Evaluate one that was trained with a lower learning_rate"
            )
        metrics = {f"{split.name}/{key}": value for key, value in found.items()}
        metrics |= {f"{split.name}/iou/{key}": value for key, value in scores.class_iou().items()}
        tracking.log_metrics(metrics, model_id=stored.model_id, split=split)
        rules = protocol(data, scored, scores)
        log_scores(network, scored, scores, rules, stored.origin(), device, config.examples, stored.described())
    print(tracking.where_to_look(run_id))
    return metrics
