import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F

from segmentation.calibration.fitting import fit
from segmentation.calibration.stored_logits import StoredLogits
from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.metrics import METRICS
from segmentation.prediction.predictor import Predictor, at_size
from segmentation.scoring import calibration_error as calibration
from segmentation.scoring.bootstrap import interval
from segmentation.scoring.boundaries import boundary_band
from segmentation.scoring.counting import count_correct
from segmentation.scoring.evaluate import evaluating, score
from segmentation.scoring.groups import Group
from segmentation.scoring.reliability import Reliability
from segmentation.scoring.scores import Scores, common_classes, load_scores
from segmentation.system.full_precision import full_precision
from tests.conftest import PROJECT

LABELS = Classes.named("a", "b", "c", "absent")


def batch(seed: int = 0, images: int = 5) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(images, 4, 6, 7, generator=random)
    logits[:, 3] = -20
    labels = torch.randint(0, 3, (images, 6, 7), generator=random)
    labels[0, 1:] = 255  # images with different numbers of pixels
    return logits, labels


def scores_of(logits: torch.Tensor, labels: torch.Tensor, size: int) -> Scores:
    scores = Scores(LABELS)
    for start in range(0, len(logits), size):
        scores.update(logits[start : start + size], labels[start : start + size])
    return scores


def test_loss_is_the_mean_over_the_pixels_of_the_split_not_of_batch_means() -> None:
    logits, labels = batch()
    expected = F.cross_entropy(logits.double(), labels, ignore_index=255).item()
    for size in (1, 2, 5):
        assert scores_of(logits, labels, size).metrics()["loss"] == pytest.approx(expected, abs=1e-6)
    mean_of_means = np.mean(
        [F.cross_entropy(one[None], truth[None], ignore_index=255) for one, truth in zip(logits, labels, strict=True)]
    )
    assert abs(mean_of_means - expected) > 1e-3


def test_brier_is_the_mean_squared_distance_of_all_probabilities() -> None:
    logits, labels = batch()
    valid = labels != 255
    truth = F.one_hot(torch.where(valid, labels, 0), 4).permute(0, 3, 1, 2)
    distance = ((logits.double().softmax(1) - truth) ** 2).sum(1)
    assert scores_of(logits, labels, 2).metrics()["brier"] == pytest.approx(distance[valid].mean().item(), abs=1e-6)


def test_any_batches_and_any_merge_give_the_same_metrics() -> None:
    logits, labels = batch()
    whole = scores_of(logits, labels, 5).metrics()
    assert scores_of(logits, labels, 1).metrics() == pytest.approx(whole, abs=1e-12)
    first, second = scores_of(logits[:3], labels[:3], 2), scores_of(logits[3:], labels[3:], 2)
    first.merge(second)
    assert first.metrics() == pytest.approx(whole, abs=1e-12)


def test_every_metric_of_the_table_is_measured_and_absent_classes_have_no_iou() -> None:
    scores = scores_of(*batch(), 5)
    assert list(scores.metrics()) == list(METRICS)
    assert list(scores.class_iou()) == ["a", "b", "c"]


def test_an_all_void_split_has_no_figures_but_does_not_fail() -> None:
    logits, labels = batch()
    scores = scores_of(logits, torch.full_like(labels, 255), 2)
    assert all(math.isnan(value) for value in scores.metrics().values())


def test_what_is_saved_of_each_image_gives_the_same_scores_when_loaded(tmp_path: Path) -> None:
    logits, labels = batch()
    scores = scores_of(logits, labels, 2)
    scores.save(tmp_path / "h.npz", {"name": np.array([f"picture {index}" for index in range(5)])})
    loaded, about = load_scores(tmp_path / "h.npz", LABELS)
    assert about["name"].tolist() == [f"picture {index}" for index in range(5)]
    assert loaded.metrics() == scores.metrics()
    assert loaded.confusion.counts.tolist() == scores.confusion.counts.tolist()
    saved = np.load(tmp_path / "h.npz", allow_pickle=False)
    assert saved["pixels"].tolist() == (labels != 255).sum((1, 2)).tolist()
    ten = {name: saved[name].sum(0).reshape(10, 60).sum(1) for name in ("count", "confidence_sum", "correct")}
    expected = np.abs(ten["correct"] - ten["confidence_sum"]).sum() / saved["pixels"].sum()
    assert scores.metrics()["ece"] == pytest.approx(expected)


def test_every_interval_equals_resampling_by_hand() -> None:
    """The brute-force twin: draw images, put them together as one split, and score that split anew.

    The debiased figures take away chance once more in a resample than in the split itself, so they have no twin here.
    """
    logits, labels = batch(images=8)
    scores = scores_of(logits, labels, 8)
    found = scores.intervals()
    assert list(found) == list(METRICS)
    draws = np.random.default_rng(5).integers(0, 8, (400, 8))
    again = [scores_of(logits[draw], labels[draw], 8).metrics() for draw in draws]
    for name in METRICS.keys() - {"debiased_ece", "debiased_rmsce"}:
        low, high = interval(np.array([metrics[name] for metrics in again]), scores.metrics()[name])
        width = high - low
        assert found[name].low == pytest.approx(low, abs=0.25 * width), name
        assert found[name].high == pytest.approx(high, abs=0.25 * width), name


def in_order_of_confidence(logits: torch.Tensor, labels: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it is right of all non-void pixels, float64, the most confident first."""
    logits, valid = logits.double(), labels != 255
    label = logits.argmax(1)
    others = logits.scatter(1, label[:, None], -torch.inf).logsumexp(1)
    log_odds = (logits.amax(1) - others)[valid]
    order = torch.argsort(log_odds, descending=True, stable=True)
    return log_odds.sigmoid()[order].numpy(), (label == labels)[valid][order].numpy()


def aurc(correct: np.ndarray) -> float:
    return float(np.mean(np.cumsum(~correct) / np.arange(1, len(correct) + 1)))


def drawn_from(logits: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(1)
    labels = torch.distributions.Categorical(logits=logits.movedim(1, -1)).sample()
    labels[torch.rand(labels.shape) < 0.05] = 255
    return labels


CONFIDENT = {
    "2 classes": (6, 2, 1.5), "4 classes": (8, 4, 2.5), "21 classes": (3, 21, 1.0), "extreme": (120, 4, 60.0),
}  # fmt: skip
"""Standard deviation of the logits, classes, and how over-confident they are."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("case", CONFIDENT)
@pytest.mark.parametrize("temperature", [0.25, 0.5, 1, 2, 4])
def test_what_needs_pixels_in_order_equals_sorting_every_pixel(
    case: str, temperature: float, dtype: torch.dtype
) -> None:
    """Compiled and by torch, up to log-odds that no float32 confidence tells apart from 1."""
    deviation, classes, wrong = CONFIDENT[case]
    plain = deviation * torch.randn(8, classes, 64, 64, generator=torch.Generator().manual_seed(0))
    labels, logits = drawn_from(plain / wrong), (plain / temperature).to(dtype)
    scores = Scores(Classes.named(*(f"class {index}" for index in range(classes))))
    scores.update(logits, labels.to(torch.uint8))
    confidence, correct = in_order_of_confidence(logits, labels)
    metrics = scores.metrics()
    assert metrics["aurc"] == pytest.approx(aurc(correct), rel=1e-3)
    parts = np.array_split(correct - confidence, 10)
    adaptive = sum(abs(part.sum()) for part in parts) / len(correct)
    assert metrics["adaptive_ece"] == pytest.approx(adaptive, rel=1e-3, abs=2e-4)
    bins = scores.log_odds_bins()
    coverage, risk = calibration.risk_coverage(bins.count, bins.correct)
    kept = np.round(coverage[1:] * len(correct)).astype(int)
    expected = (np.cumsum(~correct) / np.arange(1, len(correct) + 1))[kept - 1]
    assert (np.abs(risk[1:] - expected) <= 2 / kept).all()  # a pixel or two on the edge of a bin
    assert np.diff(coverage).max() < 0.05


def test_an_all_void_split_has_no_intervals() -> None:
    logits, labels = batch()
    assert all(
        math.isnan(interval.low) for interval in scores_of(logits, torch.full_like(labels, 255), 5).intervals().values()
    )
    assert Scores(LABELS).intervals() == {}
    assert math.isnan(Scores(LABELS).metrics()["ece"])


def test_empty_scores_have_no_numbers_but_do_not_fail(tmp_path: Path) -> None:
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


def rare_class(images: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """A class in one image of 40 alone, and mostly missed there; the others are found well."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (images, 8, 8), generator=random)
    labels[7, :4] = 2
    wrong = torch.rand(labels.shape, generator=random) < torch.where(labels == 2, 0.8, 0.1)
    predicted = torch.where(wrong, 0, labels)
    return 4 * F.one_hot(predicted, 4).movedim(-1, 1).float(), labels


def test_means_over_classes_are_over_one_set_in_every_resample() -> None:
    """The brute-force twin, a resample at a time: a class that a resample lacks keeps its value in the whole split."""
    logits, labels = rare_class()
    scores = scores_of(logits, labels, 40)
    metrics, found = scores.metrics(), scores.intervals()
    confusion = scores.confusion.table.column("confusion").astype(np.int64)

    def by_class(times: np.ndarray) -> np.ndarray:
        total = np.tensordot(times, confusion, 1)
        right, labelled, predicted = total.diagonal(), total.sum(1), total.sum(0)
        with np.errstate(invalid="ignore"):
            return np.array([right / (labelled + predicted - right), right / labelled])

    whole = by_class(np.ones(40, int))
    assert np.isnan(whole[:, 3]).all()
    random, values = np.random.default_rng(3), []
    for _ in range(4000):
        found_by_class = by_class(np.bincount(random.integers(0, 40, 40), minlength=40))
        lacking = np.isnan(found_by_class)
        found_by_class[lacking] = whole[lacking]
        values.append(found_by_class[:, :3].mean(1))
    for name, resamples, value in zip(("mean_iou", "mean_class_accuracy"), np.transpose(values), whole, strict=True):
        assert metrics[name] == pytest.approx(value[:3].mean())
        low, high = interval(resamples, metrics[name])
        assert found[name].low == pytest.approx(low, abs=0.1 * (high - low)), name
        assert found[name].high == pytest.approx(high, abs=0.1 * (high - low)), name
        assert high - low < 0.1  # far from what two classes instead of three would give
    kept = [group for group in METRICS if not math.isnan(metrics[group])]
    assert all(found[name].low <= found[name].high for name in kept)


def test_two_scorings_are_compared_over_the_classes_that_both_have() -> None:
    """One predicts a class that is nowhere labelled: its own mean IoU is over four classes, the other's over three."""
    logits, labels = rare_class()
    strange = logits.clone()
    strange[3, 3, 0, :4] = 9  # four pixels taken for the absent class
    first, second = scores_of(logits, labels, 40), scores_of(strange, labels, 40)
    classes = common_classes([first, second])
    assert classes.iou.tolist() == classes.accuracy.tolist() == [True, True, True, False]
    assert second.metrics()["mean_iou"] == pytest.approx(second.confusion.iou().mean())  # over four
    assert second.metrics(classes)["mean_iou"] == pytest.approx(second.confusion.iou()[:3].mean())
    assert first.metrics(classes) == first.metrics()
    differences = first.resampled(classes)["mean_iou"] - second.resampled(classes)["mean_iou"]
    assert differences.min() >= 0
    assert differences.max() < 0.02


def without(file: Path, *names: str) -> None:
    """Write a file of scores anew, as a version that does not measure these columns would have."""
    with np.load(file) as archive:
        arrays = dict(archive)
    np.savez(file, **{name: values for name, values in arrays.items() if name not in names})


@pytest.mark.parametrize("missing", [("count", "confidence_sum", "correct"), ("correct",)])
def test_older_files_of_scores_are_read_and_lack_only_the_metrics_that_they_cannot_give(
    tmp_path: Path, missing: tuple[str, ...]
) -> None:
    scores = scores_of(*batch(), 2)
    scores.save(tmp_path / "h.npz", {"name": np.array(list("abcde"))})
    without(tmp_path / "h.npz", *(f"log_odds_{name}" for name in missing))
    loaded, about = load_scores(tmp_path / "h.npz", LABELS)
    assert about["name"].tolist() == list("abcde")
    expected = scores.metrics() | {"aurc": math.nan, "adaptive_ece": math.nan}
    assert loaded.metrics() == pytest.approx(expected, nan_ok=True)
    assert np.isnan(loaded.intervals()["aurc"]).all()
    chosen, _ = load_scores(tmp_path / "h.npz", LABELS, chosen=[3, 1])
    assert len(chosen) == 2


@pytest.mark.parametrize("name", ["brier", "pixels", "true_count", "confusion"])
def test_files_that_lack_another_column_are_of_another_version_and_not_damaged(tmp_path: Path, name: str) -> None:
    scores_of(*batch(), 2).save(tmp_path / "h.npz", {})
    without(tmp_path / "h.npz", name)
    with pytest.raises(InputError, match=f"another version of this program: it holds no {name}; score the model again"):
        load_scores(tmp_path / "h.npz", LABELS)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_channel_is_refused_with_what_to_do(dtype: torch.dtype) -> None:
    logits, masks = torch.randn(2, 1, 4, 4, dtype=dtype), torch.zeros(2, 4, 4, dtype=torch.uint8)
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    with StoredLogits() as stored:
        for scored in (
            lambda: Scores(LABELS).update(logits, masks), lambda: Reliability().update(logits, masks),
            lambda: count_correct(logits, masks), lambda: stored.add(logits, images, masks),
            lambda: fit("temperature", lambda: [(logits, images, masks)], 1), lambda: at_size([logits[:1]], (4, 4)),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=r"stack \[0, z\]"):
                scored()


def test_scores_of_logits_that_are_no_numbers_are_not_called_damaged_alone(tmp_path: Path) -> None:
    logits, labels = batch()
    logits[0, :, 0, 0] = math.nan
    scores_of(logits, labels, 2).save(tmp_path / "h.npz", {})
    with pytest.raises(InputError, match="NaN or infinite: the model that was scored has diverged"):
        load_scores(tmp_path / "h.npz", LABELS)


def test_pooled_and_image_wise_ece_differ_by_hand() -> None:
    """Two images of two pixels: one right, one wrong, both as sure."""
    sure = math.log(9)  # confidence 0.9
    logits = torch.zeros(2, 4, 1, 2)
    logits[:, 2:] = -1e4
    logits[0, 0] = logits[1, 0] = sure
    labels = torch.tensor([[[0, 0]], [[1, 1]]])
    metrics = scores_of(logits, labels, 2).metrics()
    assert metrics["ece"] == pytest.approx(abs(2 - 4 * 0.9) / 4, abs=1e-6)  # 0.4
    assert metrics["image_ece"] == pytest.approx((0.1 + 0.9) / 2, abs=1e-6)
    assert metrics["image_ece_spread"] == pytest.approx(np.std([0.1, 0.9], ddof=1), abs=1e-6)


def test_classwise_ece_and_its_bins_equal_a_loop_over_classes_and_pixels() -> None:
    logits, labels = batch()
    valid = (labels != 255).numpy()
    probabilities = logits.softmax(1).numpy()
    found = []
    for index in range(4):
        p, is_class = probabilities[:, index][valid], (labels.numpy() == index)[valid]
        place = np.clip(np.ceil(p.astype(np.float64) * 10).astype(int) - 1, 0, 9)
        gaps = np.bincount(place, is_class, 10) - np.bincount(place, p, 10)
        found.append(np.abs(gaps).sum() / valid.sum())
    assert scores_of(logits, labels, 2).metrics()["classwise_ece"] == pytest.approx(np.mean(found), abs=1e-7)


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


def test_the_ece_interval_alone_and_the_accuracy_band_are_those_of_all_images() -> None:
    logits, labels = batch(images=30)
    scores = scores_of(logits, labels, 10)
    ece = scores.ece_interval(resamples=10_000)
    assert ece == pytest.approx(scores.intervals()["ece"], abs=1e-5)
    low, high = scores.accuracy_band()
    filled = scores.reliability.bins().count > 100
    accuracy = scores.reliability.bins().accuracy
    assert (low[filled] < accuracy[filled]).all()
    assert (accuracy[filled] < high[filled]).all()


def test_images_that_come_twice_or_in_any_order_count_once() -> None:
    logits, labels = batch()
    whole, parts, second = Scores(LABELS), Scores(LABELS), Scores(LABELS)
    whole.update(logits, labels, range(5))
    parts.update(logits[[4, 1]], labels[[4, 1]], [4, 1])
    second.update(logits[[3, 0, 2, 4]], labels[[3, 0, 2, 4]], [3, 0, 2, 4])
    parts.merge(second)
    assert parts.metrics() == pytest.approx(whole.metrics(), abs=1e-12)
    assert parts.intervals() == whole.intervals()


PROCESS = """
import sys, torch
from pathlib import Path
from torch.utils.data import DistributedSampler
from segmentation.classes import Classes
from segmentation.scoring.scores import Scores
logits, labels = torch.load("data.pt", weights_only=True)
rank, scores = int(sys.argv[1]), Scores(Classes.named("a", "b", "c", "absent"))
for index in DistributedSampler(range(len(logits)), num_replicas=2, rank=rank, shuffle=True, seed=3):
    scores.update(logits[[index]], labels[[index]], [index])
scores.save(Path(f"part{rank}.npz"), {})
"""


def test_several_processes_and_a_sampler_that_repeats_images_give_what_one_process_gives(tmp_path: Path) -> None:
    """5 images on 2 processes: torch's distributed sampler gives one image to both, so that each has 3."""
    logits, labels = batch()
    torch.save((logits, labels), tmp_path / "data.pt")
    environment = os.environ | {"PYTHONPATH": str(PROJECT)}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, str(rank)], cwd=tmp_path, env=environment) for rank in (0, 1)
    ]
    assert [process.wait() for process in processes] == [0, 0]
    (first, _), (second, _) = (load_scores(tmp_path / f"part{rank}.npz", LABELS) for rank in (0, 1))
    assert len(first) + len(second) == 6
    first.merge(second)
    whole = scores_of(logits, labels, 5)
    assert len(first) == 5
    assert first.metrics() == pytest.approx(whole.metrics(), abs=1e-12)
    assert first.confusion.counts.tolist() == whole.confusion.counts.tolist()
    np.testing.assert_allclose(first.image_ece(), whole.image_ece(), atol=1e-7)


def perfectly_calibrated(random: np.random.Generator, images: int) -> Scores:
    """Images of 10 x 10 pixels whose true class is drawn from the probabilities, pixel by pixel."""
    logits = torch.from_numpy(random.normal(0, 1.5, (images, 4, 10, 10))).float()
    draws = torch.from_numpy(random.random((images, 1, 10, 10)))
    labels = (logits.double().softmax(1).cumsum(1) < draws).sum(1).clamp(max=3)
    return scores_of(logits, labels, images)


def test_the_noise_floor_is_the_ece_that_perfectly_calibrated_networks_show() -> None:
    random = np.random.default_rng(0)
    splits = [perfectly_calibrated(random, 40) for _ in range(30)]
    shown = np.mean([scores.metrics()["ece"] for scores in splits])
    floors = [np.mean(scores.resampled()["noise_floor"]) for scores in splits[:8]]
    assert np.mean(floors) == pytest.approx(shown, rel=0.15)


class Recorder(nn.Module):
    """Says what it is given, and whether it was training at the time."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen_training = self.training
        return torch.cat([images.float(), torch.zeros_like(images[:, :1], dtype=torch.float32)], 1)


def test_the_network_is_scored_in_evaluation_mode_and_put_back() -> None:
    network = Recorder().train()
    images = torch.randint(0, 9, (4, 3, 5, 5), dtype=torch.uint8)
    scores = score(network, [(images, images.argmax(1).to(torch.uint8))], LABELS)
    assert not network.seen_training
    assert network.training
    assert scores.metrics()["pixel_accuracy"] == 1


def test_a_network_is_in_the_mode_it_was_in_whatever_happens_while_it_is_scored() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(3), torch.nn.Dropout()).train()
    network[1].eval()
    with pytest.raises(ValueError, match="expected 4D input"), evaluating(network):
        network(torch.zeros(3))
    assert [each.training for each in network.modules()] == [True, True, False]
    assert not torch.is_inference_mode_enabled()


def test_tf32_is_off_while_a_network_is_scored_or_predicts_and_as_it_was_afterwards() -> None:
    def now() -> list[str]:
        cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
        return [each.fp32_precision for each in (cuda.matmul, cudnn.conv, cudnn.rnn)]

    def network(images: torch.Tensor) -> torch.Tensor:
        assert now() == ["ieee"] * 3
        return torch.cat([images.float(), images[:, :1].float()], 1)

    class Network(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return network(images)

    before = now()
    assert before != ["ieee"] * 3
    images = torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    score(Network(), [(images, torch.zeros(1, 4, 4, dtype=torch.uint8))], LABELS)
    assert now() == before
    predictor = Predictor(network, None, "bilinear")
    predictor([Image.new("RGB", (4, 4))])
    assert now() == before
    with full_precision(), ThreadPoolExecutor(4) as pool:  # whoever leaves first must not switch it on for the others
        list(pool.map(lambda _: predictor([Image.new("RGB", (4, 4))]), range(50)))
        assert now() == ["ieee"] * 3
    assert now() == before
