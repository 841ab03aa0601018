"""Scores a trained model on any split, as an MLflow run that links to the training run."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from segmentation.classes import Classes
from segmentation.data import Originals, Split, has_own_split, load_split, open_split, report_coverage
from segmentation.data.batches import in_order
from segmentation.data.source import data_name
from segmentation.devices import resolve_device
from segmentation.errors import InputError, listed
from segmentation.prediction.predictor import LogProbabilities, Predictor
from segmentation.prediction.views import scale_note, shrinking
from segmentation.scoring.evaluate import score
from studies import tracking
from studies.config import LONGEST_NAME, EvaluateConfig, TrainConfig
from studies.models import loading as model_store
from studies.models.stored import StoredModel
from studies.runs.names import model_name
from studies.runs.parts import check_parts_unchanged
from studies.scores.recording import log_scores, protocol
from studies.scores.wording import trained_on_warning


def run_evaluation(config: EvaluateConfig) -> dict[str, float]:
    """Score as configured, record the scores in one MLflow run, and print where to look.

    Returns:
        The metrics by their logged names.

    Raises:
        InputError: a mistake of the user. A run that is open by then ends as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    stored = model_store.load(config.model_uri)
    data, views = _data(config, stored), config.views()
    device = resolve_device(config.device)
    if not config.download:
        check_classes(config.model_uri, stored, open_split(data, config.split).labels, data.dataset)
    name = config.run_name or f"evaluate {config.split} · {config.model_uri[-40:]}"
    with tracking.tracked_run(config.experiment, name, {"kind": "evaluate", "evaluated": config.model_uri}) as run_id:
        tracking.log_config(config)
        if config.run_name is None:
            size = " at original size" if config.score_at == "original" else ""
            data_set = data_name(data.dataset, data.data_dir)
            other = "" if data_set == data_name(stored.config.dataset, stored.config.data_dir) else f" of {data_set}"
            size += f" with {views.described()}" if not views.is_plain else ""
            name = f"evaluate {config.split}{other}{size} · {model_name(stored.config, stored.calibration)}"
            tracking.log_tags({"mlflow.runName": name[:LONGEST_NAME]})
        split = load_split(data, config.split)
        check_classes(config.model_uri, stored, split.labels, data.dataset)
        stored.check_images(split)
        check_parts_unchanged(stored, data, split)
        report_coverage(split)
        tracking.log_split(split, "evaluation")
        tracking.log_model_input(stored.model_id)
        tags = {
            "model": stored.config.model, "dataset": data.dataset, "dataset_fingerprint": split.fingerprint,
            "evaluated": stored.name,
        }  # fmt: skip
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        model: torch.nn.Module = stored.network().to(device)
        scored: Split | Originals = split
        resize = data.resize
        if config.score_at == "original":
            scored = Originals(split, open_split(data, config.split), data)
        if not views.is_plain:
            # the predictor resizes the images itself, once for each scale
            scored = Originals(split, open_split(data, config.split), replace(data, resize=None))
            predictor = Predictor(
                model, resize, data.interpolation, device, channels=stored.config.channels, bits=stored.bits,
                views=views, batch_size=config.batch_size,
            )  # fmt: skip
            model = LogProbabilities(model, predictor)
            if (note := scale_note(views, resize)) is not None:
                print(note)
        sizes: list[tuple[int, int]] = []
        batches = _noting_sizes(
            in_order(scored, 1 if config.score_at == "original" else config.batch_size, device), sizes
        )
        scores = score(model, batches, split.labels, boundary_width=config.boundary_width)
        found = scores.metrics()
        if scores.reliability.bins().count.any() and not math.isfinite(found["loss"]):
            raise InputError(
                f"{config.model_uri} predicts NaN or infinite logits on {split.title}: the model has "
                f"diverged. Evaluate a model trained with a lower learning_rate"
            )
        warnings = _trained_on(stored, data, split)
        if config.score_at == "original" and (shrunk := shrinking(sizes, views, resize)) is not None:
            warnings.append(shrunk)
        metrics = {f"{split.name}/{key}": value for key, value in found.items()}
        metrics |= {f"{split.name}/iou/{key}": value for key, value in scores.class_iou().items()}
        tracking.log_metrics(metrics, model_id=stored.model_id, split=split)
        rules = protocol(data, scored, scores)
        if not views.is_plain:
            rules["views"] = views.described()
        log_scores(
            model, scored, scores, rules, stored.origin(), device, config.examples, stored.described(),
            warnings=warnings,
        )  # fmt: skip
    print(tracking.where_to_look(run_id))
    return metrics


def _noting_sizes(
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]], sizes: list[tuple[int, int]]
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the batches, and append width and height of every mask."""
    for images, masks in batches:
        sizes += [(masks.shape[2], masks.shape[1])] * len(masks)
        yield images, masks


def check_classes(name: str, stored: StoredModel, labels: Classes, dataset: str) -> None:
    """Raise an `InputError` if a model predicts other classes than those of a data set."""
    if labels.names != stored.labels.names:
        raise InputError(
            f"{name} predicts {len(stored.labels)} classes ({listed(stored.labels.names)}), but dataset={dataset} has "
            f"{len(labels)} ({listed(labels.names)})"
        )


def _trained_on(stored: StoredModel, data: TrainConfig, split: Split) -> list[str]:
    """Return the warning that a model was trained on the scored images; empty if that is not known."""
    is_trained_on = stored.trained_on(data) and split.name == stored.config.train_split
    return trained_on_warning(split.name, len(split)) if is_trained_on else []


def _data(config: EvaluateConfig, stored: StoredModel) -> TrainConfig:
    """Return the configuration of the training run with the data set to score."""
    data = replace(
        stored.config,
        dataset=config.dataset or stored.config.dataset,
        data_dir=config.data_dir or stored.config.data_dir,
        download=config.download,
        cache_dir=config.cache_dir,
    )
    elsewhere = config.data_dir is not None and data.val_fraction > 0 and has_own_split(data)
    if data.dataset != stored.config.dataset or elsewhere:  # other data, of which nothing was held out
        data = replace(data, val_fraction=0.0, folds=None, fold=None, group_by=None)
    return data
