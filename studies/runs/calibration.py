"""Calibrates a trained model on held-out images, as an MLflow run."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from segmentation import plots
from segmentation.calibration import calibrators, fitting
from segmentation.calibration.fitting import Fit
from segmentation.calibration.stored_logits import StoredLogits
from segmentation.data import HELD_OUT, Split, load_split, load_training_split, open_split
from segmentation.data.batches import in_order
from segmentation.devices import resolve_device
from segmentation.errors import InputError, counted, listed, one_of
from segmentation.metrics import COMPARED, HEADLINE, METRICS, OF_CHANGE
from segmentation.models.segmenter import Segmenter
from segmentation.scoring.bootstrap import Interval, interval
from segmentation.scoring.evaluate import evaluating
from segmentation.scoring.scores import Scores, common_classes
from studies import tracking
from studies.base.markdown import escaped
from studies.base.tables import table
from studies.config import LONGEST_NAME, CalibrateConfig, TrainConfig
from studies.models import loading as model_store
from studies.models.card import model_card
from studies.models.logging import log_model
from studies.models.stored import StoredModel
from studies.runs.evaluation import check_classes
from studies.runs.names import run_name
from studies.runs.parts import check_parts_unchanged
from studies.scores.recording import Lead, bins_record, log_scores, protocol
from studies.scores.wording import FEW, protocol_line, trained_on_warning

REFITS = (0.0005, 0.1, 0.5, 0.9, 0.9995)
"""Quantiles of the refitted temperatures at which images are scored; metrics in between are interpolated."""


class Change(NamedTuple):
    """A metric on the same images before and after calibration."""

    before: float
    after: float
    interval: Interval
    """95 % interval of after - before over scored images, and for one temperature also over fitting images."""


def run_calibration(config: CalibrateConfig) -> Fit:
    """Calibrate as configured, record the calibrated model in one MLflow run, and print where to look.

    Returns:
        The fit.

    Raises:
        InputError: a mistake of the user. A run that is open by then ends as FAILED, with the reason in a tag.
    """
    tracking.keep_records_in(config.records)
    tracking.check_store()
    stored = model_store.load(config.run_id)
    device = resolve_device(config.device)
    data = replace(
        stored.config,
        data_dir=config.data_dir or stored.config.data_dir,
        cache_dir=config.cache_dir,
        download=False,
    )
    _check_splits(config, data, stored)
    name = config.run_name or f"calibrate {config.method} · {config.run_id[-40:]}"
    with tracking.tracked_run(config.experiment, name, {"kind": "calibrate", "calibrated": config.run_id}) as run_id:
        tracking.log_config(config)
        if stored.calibration:
            print(f"{config.run_id} is already calibrated: its model is calibrated again from the raw logits.")
        fitted_on, scored_on = _splits(config, data)
        for split in (fitted_on, scored_on):
            stored.check_images(split)
        if config.calibration_split == HELD_OUT:
            check_parts_unchanged(stored, data, load_training_split(data))
        check_parts_unchanged(stored, data, scored_on)
        tracking.log_split(fitted_on, "calibration")
        tracking.log_split(scored_on, "evaluation")
        tracking.log_model_input(stored.model_id)
        tags = {"model": data.model, "dataset": data.dataset, "method": config.method, "calibrated": stored.name}
        tracking.log_tags(tags | ({"trained_in_run": stored.run_id} if stored.run_id else {}))
        if config.run_name is None:
            name = f"calibrate {config.method} · {run_name(stored.config)}"[:LONGEST_NAME]
            tracking.log_tags({"mlflow.runName": name})
        about = {
            "method": config.method, "split": fitted_on.name, "images": len(fitted_on),
            "fingerprint": fitted_on.fingerprint,
        }  # fmt: skip
        calibrated = stored._replace(calibration=about)
        model = stored.uncalibrated().network().to(device)
        fit = _fit(model, fitted_on, config, device)
        summary = f"Fitted to {fitted_on.title}, {len(fitted_on)} images: {fit.described()}"
        before, after, others = _scored(model, fit, scored_on, config, device)
        model.calibrator = fit.calibrator
        rules, state = protocol(data, scored_on, after), calibrated.described()
        changes = changed(before, after, others, fit.refitted)
        tracking.log_json(_fit_record(fit) | about, "calibration/fit.json")
        plain = {"metrics": before.metrics(), "intervals": before.intervals()}
        tracking.log_json(plain | bins_record(before, rules), "calibration/before.json")
        covered = interval_covers(fit, len(fitted_on), len(scored_on))
        verdict = "; ".join(_verdict(name, changes[name]) for name in COMPARED) + "."
        _print_changes(verdict, changes, summary, covered)
        record = {
            "protocol": rules, "interval_includes_fit": fit.refitted is not None, "interval": covered,
            "changes": {name: change._asdict() for name, change in changes.items()},
        }  # fmt: skip
        tracking.log_json(record, "calibration/changes.json")
        tracking.log_metrics(_metrics(fit, before, after, scored_on.name))
        title = f"{scored_on.title}, {len(scored_on)} images\n{state}"
        both = {"before": before, "after": after}
        figure = plots.reliability_lines(
            {name: scores.reliability.bins() for name, scores in both.items()}, title,
            {name: scores.accuracy_band() for name, scores in both.items()}, protocol_line(rules),
        )  # fmt: skip
        drawn = tracking.log_figure(figure, "calibration/before_and_after.png")
        lead = Lead(f"**{verdict}**", f"{_change_table(changes, scored_on)}\n\n{covered}\n\n{summary}", drawn)
        log_scores(
            model, scored_on, after, rules, calibrated.origin(), device, config.examples, state, lead,
            warnings=_warnings(fitted_on, scored_on, data),
        )  # fmt: skip
        registered = log_model(model, scored_on, calibrated.metadata(), config.register_as, config.alias)
        named = f"models:/{config.register_as}@{config.alias}" if config.register_as else f"runs:/{run_id}/model"
        card, card_tags = model_card(calibrated, after.metrics(), scored_on, named)
        by_logged_name = {f"{scored_on.name}_after/{name}": value for name, value in after.metrics().items()}
        tracking.log_model_card(card, card_tags, by_logged_name, config.register_as)
        if registered:
            print(f"Registered as {registered}, alias {config.alias}.")
    print(f"Calibrated model: model_uri=runs:/{run_id} for evaluate and predict.")
    print(tracking.where_to_look(run_id))
    return fit


def changed(
    before: Scores,
    after: Scores,
    others: Mapping[float, Scores] | None = None,
    refitted: np.ndarray | None = None,
) -> dict[str, Change]:
    """Return the change of every metric on the images of a split.

    Means over classes use the classes that have a value both before and after.

    Args:
        before, after: scores of the same images.
        others: scores of these images at other temperatures, at least one.
        refitted: temperatures `(R,)` fitted to resamples of the fitting images, as many as `Scores.resampled` makes;
            metrics at each are interpolated between those of `others`. None keeps the fit fixed.
    """
    classes = common_classes([before, after])
    plain, calibrated = before.metrics(classes), after.metrics(classes)
    first = before.resampled(classes)
    if refitted is None or not others:
        second = after.resampled(classes)
    else:
        second = _at_temperatures({value: scores.resampled(classes) for value, scores in others.items()}, refitted)
    return {
        name: Change(
            plain[name], calibrated[name], interval(second[name] - first[name], calibrated[name] - plain[name])
        )
        for name in plain
    }


def _at_temperatures(
    resampled: Mapping[float, Mapping[str, np.ndarray]], refitted: np.ndarray
) -> dict[str, np.ndarray]:
    """Return metrics `(R,)` of resamples, each at its own temperature, interpolated between those of `resampled`."""
    nodes = np.array(sorted(resampled))
    if len(nodes) == 1:
        return dict(resampled[nodes[0]])
    right = np.clip(np.searchsorted(nodes, refitted), 1, len(nodes) - 1)
    weight = np.clip((refitted - nodes[right - 1]) / (nodes[right] - nodes[right - 1]), 0, 1)
    rows = np.arange(len(refitted))
    found = {}
    for name in resampled[nodes[0]]:
        values = np.stack([resampled[node][name] for node in nodes])
        low, high = values[right - 1, rows], values[right, rows]
        found[name] = low + weight * (high - low)  # exactly the value where both are the same
    return found


def interval_covers(fit: Fit, fitted_on: int, scored_on: int) -> str:
    """Return which randomness the intervals of the changes include, in a sentence."""
    if fit.refitted is None:
        return (
            f"The intervals resample the {scored_on} scored images. They do not include the randomness of the fit on "
            f"{fitted_on} images."
        )
    low, high = np.quantile(fit.refitted, [0.025, 0.975])
    return (
        f"The intervals resample the {scored_on} scored images and the {fitted_on} fitting images (temperature "
        f"{low:.3f} to {high:.3f} in 95 % of the resamples)."
    )


def _check_splits(config: CalibrateConfig, data: TrainConfig, stored: StoredModel) -> None:
    """Raise an `InputError` for splits that do not exist, have other classes, or must not be fitted on.

    No image is prepared.
    """
    if config.calibration_split == data.train_split:
        raise InputError(
            f"calibration_split={config.calibration_split} is the split that the model was trained on, where it is "
            f"more confident than elsewhere: name another split, or train with calibration_fraction=0.15 and use "
            f"{HELD_OUT}"
        )
    if difflib.get_close_matches(config.calibration_split, [HELD_OUT], cutoff=0.8):
        one_of("calibration_split", config.calibration_split, [HELD_OUT])
    for split in (config.calibration_split, config.split):
        check_classes(config.run_id, stored, open_split(data, split).labels, data.dataset)


def _splits(config: CalibrateConfig, data: TrainConfig) -> tuple[Split, Split]:
    """Return the split to fit on and the split to score.

    Raises:
        InputError: they share images with each other or with the training split.
    """
    fitted_on, scored_on = load_split(data, config.calibration_split), load_split(data, config.split)
    digests = set(fitted_on.digests)
    for other, use in ((load_training_split(data), "trained on"), (scored_on, "scored on")):
        shared = [name for name, digest in zip(other.names, other.digests, strict=True) if digest in digests]
        if shared:
            raise InputError(
                f"calibration_split={config.calibration_split} contains {counted(len(shared), 'image')} that the "
                f"model is also {use}, in split {other.name}: {listed(shared)}. Use a split that shares none"
            )
    return fitted_on, scored_on


def _fit(model: Segmenter, split: Split, config: CalibrateConfig, device: torch.device) -> Fit:
    with StoredLogits() as stored:
        with evaluating(model):
            for images, masks in in_order(split, config.batch_size, device):
                stored.add(model(images), images, masks)
        print(f"Fitting {config.method} to {len(split)} images ...", flush=True)
        return fitting.fit(config.method, stored.batches, len(split.labels), config.seed, model.measured())


def _scored(
    model: Segmenter, fit: Fit, split: Split, config: CalibrateConfig, device: torch.device
) -> tuple[Scores, Scores, dict[float, Scores]]:
    """Return scores of the raw logits, the calibrated logits, and at refitted temperatures, from one forward pass."""
    refits = [] if fit.refitted is None else np.unique(np.quantile(fit.refitted, REFITS)).tolist()
    before, after, *others = (Scores(split.labels, config.boundary_width) for _ in range(2 + len(refits)))
    with evaluating(model):
        for images, masks in in_order(split, config.batch_size, device):
            logits = model(images)
            before.update(logits, masks)
            after.update(fit.calibrator(logits, images), masks)
            for scores, temperature in zip(others, refits, strict=True):
                scores.update(calibrators.divided(logits, temperature), masks)
    return before, after, dict(zip(refits, others, strict=True))


def _fit_record(fit: Fit) -> dict[str, object]:
    parameters = {
        name: tensor.tolist() for name, tensor in fit.calibrator.state_dict().items() if tensor.numel() < 1000
    }
    return {
        "nll_before": fit.nll_before, "nll_after": fit.nll_after, "passes": fit.passes, "temperature": fit.temperature,
        "at_bound": fit.at_bound, "parameters": parameters, "described": fit.described(),
        "refitted_temperature": None if fit.refitted is None else interval(fit.refitted, fit.refitted.mean()),
    }  # fmt: skip


def _metrics(fit: Fit, before: Scores, after: Scores, split: str) -> dict[str, float]:
    found = {"fit/loss_before": fit.nll_before, "fit/loss_after": fit.nll_after, "fit/at_bound": fit.at_bound}
    if fit.temperature is not None:
        found["fit/temperature"] = fit.temperature[1]
    for state, scores in (("before", before), ("after", after)):
        found |= {f"{split}_{state}/{name}": value for name, value in scores.metrics().items()}
    return found


def _change_table(changes: Mapping[str, Change], scored_on: Split) -> str:
    where = f"{scored_on.title}, {len(scored_on)} images"
    rows = [
        [name, f"{changes[name].before:.4f}", f"{changes[name].after:.4f}", str(changes[name].interval)]
        for name in OF_CHANGE
    ]
    return "\n".join(table([escaped(where), "before", "after", "95 % of the change"], rows))


def _warnings(fitted_on: Split, scored_on: Split, data: TrainConfig) -> list[str]:
    """Return what makes the result of a calibration unreliable."""
    on_training_images = scored_on.name == data.train_split
    warnings = trained_on_warning(scored_on.name, len(scored_on)) if on_training_images else []
    if len(fitted_on) < FEW:
        warnings.append(
            f"only {counted(len(fitted_on), 'image')} to fit to (split={fitted_on.name}): other images may give "
            f"another fit. Hold out more with calibration_fraction"
        )
    return warnings


def _print_changes(verdict: str, changes: Mapping[str, Change], summary: str, covered: str) -> None:
    print(f"\n{verdict}\nBefore -> after. Brackets: 95 % interval of the change.")
    for name in HEADLINE:
        change = changes[name]
        print(f"  {METRICS[name].label:16} {change.before:7.4f} -> {change.after:7.4f}   {change.interval}")
    print(covered)
    print(summary)


def _verdict(name: str, change: Change) -> str:
    """Return whether a metric improved, in words."""
    words = "Calibration (ECE)" if name == "ece" else METRICS[name].label
    if not (change.interval.low > 0 or change.interval.high < 0):
        if change.before == change.after:
            return f"{words}: unchanged"
        return f"{words}: no change shown ({change.after - change.before:+.4f} {change.interval})"
    better = "better" if (change.after > change.before) is METRICS[name].higher_is_better else "worse"
    return f"{words} {better} by {abs(change.after - change.before):.4f}, 95 % of the change {change.interval}"
