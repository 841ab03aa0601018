"""`Scores`: batches, merging, groups, intervals, and the file."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DistributedSampler

from segmentation.calibration.fitting import fit
from segmentation.calibration.stored_logits import StoredLogits
from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.prediction.predictor import at_size
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.groups import Group
from segmentation.scoring.reliability import Reliability
from segmentation.scoring.scores import Scores, common_classes, load_scores
from segmentation.scoring.softmax_counts import count_correct
from tests.segmentation.scoring.samples import LABELS, batch, rare_class, scores_of


def test_any_batches_and_any_merge_give_the_same_metrics() -> None:
    logits, labels = batch()
    whole = scores_of(logits, labels, 5).metrics()
    assert scores_of(logits, labels, 1).metrics() == pytest.approx(whole, abs=1e-12)
    first, second = scores_of(logits[:3], labels[:3], 2), scores_of(logits[3:], labels[3:], 2)
    first.merge(second)
    assert first.metrics() == pytest.approx(whole, abs=1e-12)


def test_an_all_void_split_has_nan_metrics() -> None:
    logits, labels = batch()
    scores = scores_of(logits, torch.full_like(labels, 255), 2)
    assert all(math.isnan(value) for value in scores.metrics().values())


def test_a_saved_file_loads_as_the_same_scores(tmp_path: Path) -> None:
    logits, labels = batch()
    scores = scores_of(logits, labels, 2)
    scores.save(tmp_path / "h.npz", {"name": np.array([f"image {index}" for index in range(5)])})
    loaded, about = load_scores(tmp_path / "h.npz", LABELS)
    assert about["name"].tolist() == [f"image {index}" for index in range(5)]
    assert loaded.metrics() == scores.metrics()
    assert loaded.confusion.counts.tolist() == scores.confusion.counts.tolist()
    saved = np.load(tmp_path / "h.npz", allow_pickle=False)
    assert saved["pixels"].tolist() == (labels != 255).sum((1, 2)).tolist()
    ten = {name: saved[name].sum(0).reshape(10, 60).sum(1) for name in ("count", "confidence_sum", "correct")}
    expected = np.abs(ten["correct"] - ten["confidence_sum"]).sum() / saved["pixels"].sum()
    assert scores.metrics()["ece"] == pytest.approx(expected)


def test_an_all_void_split_has_no_intervals() -> None:
    logits, labels = batch()
    assert all(
        math.isnan(interval.low)
        for interval in scores_of(logits, torch.full_like(labels, 255), 5).intervals(2000).values()
    )
    assert Scores(LABELS).intervals(2000) == {}
    assert math.isnan(Scores(LABELS).metrics()["ece"])


def test_empty_and_all_void_scores_are_nan(tmp_path: Path) -> None:
    empty, void = Scores(LABELS), scores_of(batch()[0], torch.full_like(batch()[1], 255), 5)
    for scores in (empty, void):
        low, high = scores.accuracy_band()
        assert low.shape == high.shape == (10,)
        assert np.isnan(low).all()
        groups = scores.groups()
        assert len(groups) == 2 + 2 * len(LABELS)
        for found in groups.values():
            assert np.isnan([*found.ece, *found.confidence_gap, found.bins.ece()]).all()
        assert np.isnan(scores.ece_interval(100)).all()
        assert np.isnan(scores.image_ece()).all()
        assert scores.class_iou() == {}
        assert all(math.isnan(value) for value in scores.metrics().values())
    empty.save(tmp_path / "h.npz", {"name": np.array([], "U1")})
    loaded, about = load_scores(tmp_path / "h.npz", LABELS)
    assert len(loaded) == 0
    assert about["name"].shape == (0,)


def test_two_models_are_compared_over_their_common_classes() -> None:
    """One model predicts a class without labels: its own mean IoU is over four classes, the other's over three."""
    logits, labels = rare_class()
    other = logits.clone()
    other[3, 3, 0, :4] = 9  # four pixels predicted as the absent class
    first, second = scores_of(logits, labels, 40), scores_of(other, labels, 40)
    classes = common_classes([first, second])
    assert classes.iou.tolist() == classes.boundary_iou.tolist() == [True, True, True, False]
    assert second.metrics()["mean_iou"] == pytest.approx(second.confusion.iou().mean())  # over four
    assert second.metrics(classes)["mean_iou"] == pytest.approx(second.confusion.iou()[:3].mean())
    assert first.metrics(classes) == first.metrics()
    differences = first.resampled(classes, 500)["mean_iou"] - second.resampled(classes, 500)["mean_iou"]
    assert differences.min() >= 0
    assert differences.max() < 0.02


def without(file: Path, *names: str) -> None:
    """Rewrite a file of scores without some columns, as an earlier version wrote it."""
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{name: values for name, values in arrays.items() if name not in names})


LATER = {
    ("log_odds_count", "log_odds_confidence_sum", "log_odds_correct"): {"aurc", "adaptive_ece"},
    ("log_odds_correct",): {"aurc", "adaptive_ece"},
    ("contour_intersection", "contour_union"): {"mean_boundary_iou"},
    ("contour_union",): {"mean_boundary_iou"},
    ("contour_union", "log_odds_count"): {"mean_boundary_iou", "aurc", "adaptive_ece"},
}
"""Columns that earlier versions did not write, and the metrics that are absent then."""


@pytest.mark.parametrize("missing", LATER)
def test_files_of_earlier_versions_lack_only_the_metrics_of_missing_columns(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    scores = scores_of(*batch(), 2)
    scores.save(tmp_path / "h.npz", {"name": np.array(list("abcde"))})
    without(tmp_path / "h.npz", *missing)
    loaded, about = load_scores(tmp_path / "h.npz", LABELS)
    assert about["name"].tolist() == list("abcde")
    expected = scores.metrics() | dict.fromkeys(LATER[missing], math.nan)
    assert loaded.metrics() == pytest.approx(expected, nan_ok=True)
    assert all(np.isnan(loaded.intervals(2000)[name]).all() for name in LATER[missing])
    chosen, _ = load_scores(tmp_path / "h.npz", LABELS, chosen=[3, 1])
    assert len(chosen) == 2


def test_scores_of_an_earlier_version_are_compared_in_what_both_have(tmp_path: Path) -> None:
    new = scores_of(*batch(), 2)
    new.save(tmp_path / "h.npz", {})
    without(tmp_path / "h.npz", "contour_intersection", "contour_union")
    old, _ = load_scores(tmp_path / "h.npz", LABELS)
    classes = common_classes([old, new])
    assert not classes.boundary_iou.any()
    expected = new.metrics() | {"mean_boundary_iou": math.nan}
    for scores in (old, new):
        assert scores.metrics(classes) == pytest.approx(expected, nan_ok=True)
        assert np.isnan(scores.resampled(classes, 50)["mean_boundary_iou"]).all()
    assert np.isnan(old.by_class().boundary_iou).all()
    assert np.isfinite(old.by_class().dice[:3]).all()


def test_contradicting_contour_counts_are_damage(tmp_path: Path) -> None:
    scores_of(*batch(), 2).save(tmp_path / "h.npz", {})
    with np.load(tmp_path / "h.npz") as archive:
        arrays = dict(archive)
    for name in ("contour_intersection", "contour_union"):
        np.savez(tmp_path / "damaged.npz", **(arrays | {name: arrays[name] + np.uint32(999)}))
        with pytest.raises(InputError, match="its counts contradict each other"):
            load_scores(tmp_path / "damaged.npz", LABELS)


@pytest.mark.parametrize("name", ["brier", "pixels", "true_count", "confusion"])
def test_files_without_another_column_are_of_another_version(tmp_path: Path, name: str) -> None:
    scores_of(*batch(), 2).save(tmp_path / "h.npz", {})
    without(tmp_path / "h.npz", name)
    with pytest.raises(InputError, match=f"another version.*holds no {name}"):
        load_scores(tmp_path / "h.npz", LABELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_channel_is_refused(dtype: torch.dtype) -> None:
    logits, masks = torch.randn(2, 1, 4, 4, dtype=dtype), torch.zeros(2, 4, 4, dtype=torch.uint8)
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with StoredLogits() as stored:
        for scored in (
            lambda: Scores(LABELS).update(logits, masks), lambda: Reliability().update(logits, masks),
            lambda: count_correct(logits, masks), lambda: stored.add(logits, images, masks),
            lambda: fit("temperature", lambda: [(logits, images, masks)], 1), lambda: at_size([logits[:1]], (4, 4)),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"1 channel.*zeros_like\(z\)"):
                scored()


def test_files_with_nan_are_refused(tmp_path: Path) -> None:
    logits, labels = batch()
    logits[0, :, 0, 0] = math.nan
    scores_of(logits, labels, 2).save(tmp_path / "h.npz", {})
    with pytest.raises(InputError, match="negative_log_likelihood that is NaN"):
        load_scores(tmp_path / "h.npz", LABELS)


def test_groups_equal_selecting_their_pixels_by_hand() -> None:
    names = Classes.named("background", "b", "c", "absent")
    logits, labels = batch(3)
    scores = Scores(names, boundary_width=1)
    scores.update(logits, labels)
    confidence, predicted = logits.softmax(1).max(1)
    valid, near = labels != 255, boundary_band(labels, 1)
    masks = {
        ("region", "boundary"): near, ("region", "interior"): ~near,
        ("ground", "background"): labels == 0, ("ground", "foreground"): labels != 0,
        ("true class", "c"): labels == 2, ("predicted class", "b"): predicted == 1,
    }  # fmt: skip
    groups = scores.groups()
    for group, mask in masks.items():
        chosen = Reliability()
        chosen.add_confidences(confidence[None], (predicted == labels)[None], (mask & valid)[None])
        bins = groups[Group(*group)].bins
        np.testing.assert_array_equal(bins.count, chosen.bins().count)
        assert bins.ece() == pytest.approx(chosen.ece(), abs=1e-7, nan_ok=True)
        if bins.count.sum() == 0:
            continue
        low, high = groups[Group(*group)].confidence_gap
        assert low <= bins.signed_gap() <= high
    assert math.isnan(groups[Group("true class", "absent")].bins.ece())
    assert not any(group.kind == "ground" for group in scores_of(logits, labels, 5).groups())


def test_the_ece_interval_and_the_accuracy_band() -> None:
    logits, labels = batch(images=30)
    scores = scores_of(logits, labels, 10)
    ece = scores.ece_interval(resamples=2000)
    assert ece == pytest.approx(scores.intervals(2000)["ece"], abs=1e-5)
    low, high = scores.accuracy_band()
    filled = scores.reliability.bins().count > 100
    accuracy = scores.reliability.bins().accuracy
    assert (low[filled] < accuracy[filled]).all()
    assert (accuracy[filled] < high[filled]).all()


def test_numbered_images_count_once_in_any_order() -> None:
    logits, labels = batch()
    whole, parts, second = Scores(LABELS), Scores(LABELS), Scores(LABELS)
    whole.update(logits, labels, range(5))
    parts.update(logits[[4, 1]], labels[[4, 1]], [4, 1])
    second.update(logits[[3, 0, 2, 4]], labels[[3, 0, 2, 4]], [3, 0, 2, 4])
    parts.merge(second)
    assert parts.metrics() == pytest.approx(whole.metrics(), abs=1e-12)
    assert parts.intervals(2000) == whole.intervals(2000)


def test_parts_of_a_distributed_sampler_that_repeats_images_merge_into_the_whole(tmp_path: Path) -> None:
    """Torch's sampler divides 5 images among 2 ranks by giving one image to both."""
    logits, labels = batch()
    for rank in (0, 1):
        part = Scores(LABELS)
        for index in DistributedSampler(range(len(logits)), num_replicas=2, rank=rank, shuffle=True, seed=3):
            part.update(logits[[index]], labels[[index]], [index])
        part.save(tmp_path / f"part{rank}.npz", {})
    (first, _), (second, _) = (load_scores(tmp_path / f"part{rank}.npz", LABELS) for rank in (0, 1))
    assert len(first) + len(second) == 6
    first.merge(second)
    whole = scores_of(logits, labels, 5)
    assert len(first) == 5
    assert first.metrics() == pytest.approx(whole.metrics(), abs=1e-12)
    assert first.confusion.counts.tolist() == whole.confusion.counts.tolist()
    np.testing.assert_allclose(first.image_ece(), whole.image_ece(), atol=1e-7)
