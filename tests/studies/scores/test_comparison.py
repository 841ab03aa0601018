"""Comparison of runs: against scipy, by hand, and on trained models."""

import copy
import csv
import dataclasses
import io
import itertools
import json
from collections.abc import Sequence
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pytest
import torch
from scipy import stats

from segmentation.classes import Classes
from segmentation.errors import InputError
from segmentation.metrics import COMPARED
from segmentation.scoring.bootstrap import Interval, holm, interval, p_value
from segmentation.scoring.scores import Scores, common_classes
from studies import tracking
from studies.base.markdown import escaped
from studies.config import CompareConfig, EvaluateConfig
from studies.runs.comparison import run_comparison
from studies.runs.evaluation import run_evaluation
from studies.scores.comparison import (
    Contestant,
    Difference,
    Pair,
    SeedSpread,
    between_settings,
    check_protocols,
    comparable,
    compare,
    contestants_of,
    seed_spreads,
    shared_images,
)
from studies.scores.stored import StoredScores, find_runs, named_alone
from tests.conftest import last_run
from tests.studies.conftest import Trained

pytestmark = pytest.mark.slow

LABELS = Classes.named("a", "b", "c")


class Unknown(NamedTuple):
    """Replaces `StoredScores` for models that no run has trained."""

    name: str

    def model_key(self) -> str:
        return self.name


def scores_of(logits: torch.Tensor, labels: torch.Tensor) -> Scores:
    scores = Scores(LABELS)
    scores.update(logits, labels)
    return scores


def drawn_from(logits: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Classes `(B, H, W)` with the probabilities of logits `(B, C, H, W)`."""
    probabilities = logits.movedim(1, -1).softmax(-1)
    drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=random)
    return drawn.reshape(probabilities.shape[:-1])


def contestants(images: int = 40) -> list[Contestant]:
    """Return a model, an over-confident copy of it, and a model with more errors."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(images, 3, 8, 8, generator=random)
    labels = drawn_from(logits, random)
    worse = logits + torch.randn(logits.shape, generator=random)
    found = []
    for letter, each in zip("ABC", (logits, 3 * logits, worse), strict=True):
        scores = scores_of(each, labels)
        found.append(Contestant(letter, Unknown(letter), letter, scores, scores.metrics(), scores.resampled()))  # type: ignore[arg-type]
    return found


def test_differences_and_their_intervals_are_those_of_scipy_s_paired_bootstrap() -> None:
    first, _, third = contestants()
    pair = compare([first, third])[0]
    blocks = [next(each.scores.blocks()) for each in (first, third)]
    correct = [block["correct"].sum(1).astype(float) for block in blocks]
    pixels = blocks[0]["pixels"].astype(float)
    theirs = stats.bootstrap(
        (*correct, pixels), lambda a, b, n, axis: (a.sum(axis) - b.sum(axis)) / n.sum(axis), paired=True,
        vectorized=True, n_resamples=20_000, method="BCa", rng=1,
    ).confidence_interval  # fmt: skip
    ours = pair.differences["pixel_accuracy"]
    width = theirs.high - theirs.low
    assert ours.value == pytest.approx((correct[0].sum() - correct[1].sum()) / pixels.sum())
    assert ours.interval.low == pytest.approx(theirs.low, abs=0.06 * width)
    assert ours.interval.high == pytest.approx(theirs.high, abs=0.06 * width)


def test_pairing_shows_differences_that_separate_intervals_do_not() -> None:
    """Two models with the same errors, one more confident: intervals overlap, the difference is significant."""
    random = torch.Generator().manual_seed(1)
    logits = 2 * torch.randn(60, 3, 8, 8, generator=random) * (0.5 + torch.rand(60, 1, 1, 1, generator=random))
    labels = drawn_from(0.6 * logits, random)
    both = []
    for letter, factor in (("A", 1.0), ("B", 1.06)):
        scores = scores_of(factor * logits, labels)
        both.append(Contestant(letter, None, letter, scores, scores.metrics(), scores.resampled()))  # type: ignore[arg-type]
    ends = [scores.scores.intervals()["ece"] for scores in both]
    assert ends[0].high > ends[1].low
    difference = compare(both)[0].differences["ece"]
    assert difference.value < 0
    assert difference.interval.high < 0
    assert difference.shown
    assert (difference.interval, difference.p_value) == (difference.interval_alone, difference.p_value_alone)


def test_p_values_are_adjusted_over_the_pairs_of_each_metric() -> None:
    three = contestants()
    pairs = compare(three)
    assert [(pair.first.letter, pair.second.letter) for pair in pairs] == [("A", "B"), ("A", "C"), ("B", "C")]
    for metric in COMPARED:
        raw = [
            p_value(a.resampled[metric] - b.resampled[metric], a.metrics[metric] - b.metrics[metric])
            for a, b in itertools.combinations(three, 2)
        ]
        assert [pair.differences[metric].p_value for pair in pairs] == holm(raw)
    assert pairs[0].differences["pixel_accuracy"].value == 0
    assert pairs[0].differences["pixel_accuracy"].p_value == 1
    assert pairs[0].sentence().startswith("A is better calibrated than B: ECE -")


def test_adjusted_intervals_agree_with_adjusted_p_values() -> None:
    """Each is the interval at the level of Holm's test of its pair; alone, it is the plain 95 % interval."""
    random = np.random.default_rng(0)
    three = [
        dataclasses.replace(
            each,
            metrics=dict.fromkeys(COMPARED, value),
            resampled={metric: random.normal(value, 0.01, 10_000) for metric in COMPARED},
        )
        for each, value in zip(contestants(images=2), (0.0, 0.03, 0.037), strict=True)
    ]  # p-values alone of about 0.034, 0.009 and 0.6
    pairs = compare(three)
    for metric in COMPARED:
        found = [pair.differences[metric] for pair in pairs]
        ranks = np.argsort([each.p_value_alone for each in found], kind="stable")
        tests = 3
        for index in ranks:
            pair, each = pairs[index], found[index]
            resampled = pair.first.resampled[metric] - pair.second.resampled[metric]
            assert each.interval == interval(resampled, each.value, 1 - 0.05 / tests), metric
            assert each.interval_alone == interval(resampled, each.value), metric
            tests -= each.shown and tests > 1
            assert each.shown is (not each.interval.low <= 0 <= each.interval.high), metric
            assert each.shown_alone is (not each.interval_alone.low <= 0 <= each.interval_alone.high), metric
    assert any(each.shown_alone and not each.shown for pair in pairs for each in pair.differences.values())


def difference(
    value: float, ends: tuple[float, float], p: float, more: tuple[float, float] | None = None
) -> Difference:
    """A difference of one pair, or of several where `more` is its interval alone."""
    return Difference(value, Interval(*ends), p, Interval(*(more or ends)), p if more is None else 0.036)


def test_sentences_name_better_and_worse() -> None:
    a, b, _ = contestants(images=4)
    clear, unclear = difference(-0.019, (-0.028, -0.011), 0.0006), difference(0.001, (-0.02, 0.02), 0.9)
    better = Pair(a, b, {"ece": clear, "loss": clear, "pixel_accuracy": clear, "mean_iou": unclear})
    numbers = "-0.0190, 95 % [-0.0280, -0.0110], p = 0.0006"
    assert better.sentence() == (
        f"A is better calibrated than B: ECE {numbers}. A against B: better in loss ({numbers}); worse in pixel "
        f"accuracy ({numbers}); no difference shown in mean IoU (+0.0010, 95 % [-0.0200, 0.0200], p = 0.9000)."
    )
    none = Pair(a, b, dict.fromkeys(COMPARED, unclear))
    assert none.sentence().startswith("A and B: no difference in calibration shown on 4 images: ECE +0.0010, 95 % [")
    within = SeedSpread(["A", "D"], {}, {}, {"ece": 0.02}, {})
    assert better.sentence([within]) == (
        f"{better.sentence()} But A and D, which differ only in the seed, differ by 0.0200: the result holds for these "
        f"two models, not for their settings."
    )
    assert better.sentence([within._replace(largest={"ece": 0.01})]) == better.sentence()
    assert better.sentence([within._replace(letters=["A", "B"])]).endswith("They differ only in the seed.")
    worse = Pair(b, a, {"ece": difference(0.019, (0.01, 0.03), 0.001), **dict.fromkeys(COMPARED[1:], unclear)})
    assert worse.sentence().startswith("B is worse calibrated than A: ECE +0.0190")


def test_a_difference_that_only_the_pair_alone_shows_is_called_that() -> None:
    a, b, _ = contestants(images=4)
    alone = difference(0.0367, (-0.003, 0.0502), 0.18, (0.0049, 0.0432))
    sentence = Pair(a, b, dict.fromkeys(COMPARED, alone), pairs=6).sentence()
    numbers = "+0.0367, 95 % [-0.0030, 0.0502], p = 0.1800; alone 95 % [0.0049, 0.0432], p = 0.0360"
    assert sentence.startswith(
        f"A is worse calibrated than B in this pair alone, not after correcting for 6 pairs: ECE {numbers}."
    )
    assert f"better in this pair alone, not after correcting for 6 pairs in mean IoU ({numbers})" in sentence


def test_a_run_that_predicts_a_single_class_is_named_before_all_differences() -> None:
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(12, 3, 8, 8, generator=random)
    labels = drawn_from(logits, random)
    constant = torch.tensor([0.02, 0.01, 0.0])[:, None, None].expand(logits.shape)
    both = []
    for letter, each in (("A", logits), ("B", constant)):
        scores = scores_of(each, labels)
        both.append(Contestant(letter, Unknown(letter), letter, scores, scores.metrics(), scores.resampled()))  # type: ignore[arg-type]
    (pair,) = compare(both)
    assert pair.differences["ece"].value > 0, "the constant is better calibrated"
    assert pair.sentence().startswith("B has learned no segmentation: it predicts only a. A ")
    (reverse,) = compare(both[::-1])
    assert reverse.sentence().startswith("B has learned no segmentation: it predicts only a. B ")


def stored(two_seeds: Trained) -> list[StoredScores]:
    return [StoredScores(run, "val") for run in find_runs(",".join(two_seeds.run_ids), "val")]


def text(path: str) -> str:
    run = last_run()
    return mlflow.artifacts.load_text(f"runs:/{run.info.run_id}/{path}")


def test_a_comparison_records_tables_sentences_and_plots(
    two_seeds: Trained, capsys: pytest.CaptureFixture[str]
) -> None:
    (pair,) = run_comparison(CompareConfig(run_ids=",".join(two_seeds.run_ids), examples=2))
    run = last_run()
    assert run.info.status == "FINISHED"
    assert run.data.tags["compared_runs"] == ",".join(two_seeds.run_ids)

    record = json.loads(text("comparison/table.json"))
    assert [each["run_id"] for each in record["runs"]] == list(two_seeds.run_ids)
    assert record["images"] == [str(index) for index in range(12)] or len(record["images"]) == 12
    assert record["pairs"][0]["sentence"].startswith(pair.sentence())
    for each, run_id in zip(record["runs"], two_seeds.run_ids, strict=True):
        trained = mlflow.get_run(run_id).data.metrics
        assert each["metrics"]["ece"] == pytest.approx(trained["val/ece"], abs=1e-12)
    difference = record["runs"][0]["metrics"]["ece"] - record["runs"][1]["metrics"]["ece"]
    assert record["pairs"][0]["differences"]["ece"]["value"] == pytest.approx(difference)

    rows = list(csv.DictReader(io.StringIO(text("comparison/table.csv"))))
    row = next(row for row in rows if row["what"] == "difference" and row["metric"] == "ece")
    assert float(row["value"]) == pytest.approx(difference)
    assert escaped(pair.sentence()) in text("comparison/table.md")
    assert "differ only in the seed" in run.data.tags["mlflow.note.content"]

    folder = {file.path for file in mlflow.MlflowClient().list_artifacts(run.info.run_id, "comparison")}
    plots = {"reliability", "loss", "accuracy", "difference_ece", "difference_loss", "example_0", "example_1"}
    assert {f"comparison/{name}.png" for name in plots} <= folder

    printed = capsys.readouterr().out
    assert pair.sentence() in printed
    assert run.info.run_id in printed.splitlines()[-1]


def test_runs_are_found_by_experiment_and_by_registered_model(two_seeds: Trained) -> None:
    assert [run.info.run_id for run in find_runs(two_seeds.experiment, "val")] == list(two_seeds.run_ids)
    assert [run.info.run_id for run in find_runs("models:/first-seed@first", "val")] == [two_seeds.run_ids[0]]
    with pytest.raises(InputError, match="'two seeds' has no finished run that scored split='test'"):
        find_runs(two_seeds.experiment, "test")
    twice = f"runs:/{two_seeds.run_ids[1]}, {two_seeds.run_ids[1]}, models:/first-seed/1"
    assert [run.info.run_id for run in find_runs(twice, "val")] == list(reversed(two_seeds.run_ids))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("no such experiment", "'no such experiment' is not a run ID"),
        ("0" * 32, f"'{'0' * 32}' was not found"),
        ("models:/unknown/7", "'models:/unknown/7' was not found"),
        ("", r"names 0 runs"),
    ],
)
def test_an_unknown_name_is_refused_before_a_run_is_opened(names: str, message: str, two_seeds: Trained) -> None:
    before = last_run().info.run_id
    with pytest.raises(InputError, match=message):
        run_comparison(CompareConfig(run_ids=names))
    assert last_run().info.run_id == before


def test_a_run_without_scores_is_refused_with_what_to_do(two_seeds: Trained) -> None:
    with tracking.tracked_run("segmentation", "empty", {}) as run_id:
        pass
    with pytest.raises(InputError, match=r"\(empty, FINISHED\) has no scores of split='val'"):
        run_comparison(CompareConfig(run_ids=f"{two_seeds.run_ids[0]},{run_id}"))
    with pytest.raises(InputError, match="has no scores of split='test'"):
        run_comparison(CompareConfig(run_ids=",".join(two_seeds.run_ids), split="test"))


def test_runs_that_were_scored_differently_are_refused(two_seeds: Trained) -> None:
    run_evaluation(EvaluateConfig(model_uri=two_seeds.run_ids[0], score_at="original", examples=0))
    evaluated = last_run()
    with pytest.raises(InputError) as refused:
        run_comparison(CompareConfig(run_ids=f"{two_seeds.run_ids[1]},{evaluated.info.run_id}"))
    assert "score_at: training and original" in str(refused.value)
    assert "resolution: [32, 32] and" in str(refused.value)


def test_runs_of_an_experiment_that_were_scored_differently_are_skipped(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    original = changed(second, run_id="e" * 32, protocol=second.protocol | {"score_at": "original"})
    kept, skipped = comparable([original, first, second], required=[])
    assert kept == [first, second]
    assert skipped == [(original, "score_at: training and original")]
    assert comparable([original, first, second], required=[original.run_id]) == ([original, first, second], [])
    assert comparable([original, first], required=[]) == ([original, first], []), "fewer than two would remain"


def test_runs_of_an_experiment_on_other_images_are_skipped(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    renamed = {f"other/{name}": digest for name, digest in second.digests.items()}
    elsewhere = changed(second, run_id="e" * 32, digests=renamed)
    kept, skipped = comparable([elsewhere, first, second], required=[])
    assert kept == [first, second]
    assert [each.run_id for each, _ in skipped] == [elsewhere.run_id]
    assert f"0 of the {len(renamed)}" in skipped[0][1]
    assert named_alone(f"two seeds, runs:/{first.run_id}, models:/first-seed@first", [first, second]) == {first.run_id}


def changed(original: StoredScores, **attributes: Any) -> StoredScores:
    other = copy.copy(original)
    vars(other).update(attributes)
    return other


def test_other_bins_precision_or_contents_are_refused(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    check_protocols([first, second])
    for key, value in (("bins", 15), ("precision", "bfloat16"), ("interpolation", "bicubic"), ("classes", ["x"])):
        with pytest.raises(InputError, match=f"scored differently: {key}: "):
            check_protocols([first, changed(second, protocol=second.protocol | {key: value})])
    name = next(iter(first.digests))
    with pytest.raises(InputError, match=f"contents of 1 of 12 images or masks, such as {name}"):
        check_protocols([first, changed(second, digests=second.digests | {name: "other"})])


def test_a_run_whose_scores_an_earlier_version_stored_is_compared(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    with np.load(second._histograms) as archive:
        older = {name: values for name, values in archive.items() if not name.startswith(("log_odds_", "contour_"))}
    np.savez(second._histograms, **older)
    rules = {key: value for key, value in second.protocol.items() if key != "contour_width"}
    check_protocols([first, changed(second, protocol=rules)])
    both = list(contestants_of([first, second], shared_images([first, second])))
    assert np.isfinite([both[0].metrics["aurc"], *(each.metrics["mean_dice"] for each in both)]).all()
    for name in ("aurc", "mean_boundary_iou"):
        assert np.isnan(both[1].metrics[name])
        assert np.isnan(both[1].interval(name)).all()
    expected = second.scores(list(second.digests)).metrics(common_classes([each.scores for each in both]))
    assert both[1].metrics == pytest.approx(expected, nan_ok=True)
    (pair,) = compare(both)
    assert all(np.isfinite(difference.value) for difference in pair.differences.values())
    del older["brier"]
    np.savez(second._histograms, **older)
    with pytest.raises(InputError, match=rf"{second.run_id}.* another version of this program: it holds no brier"):
        second.scores(shared_images([first, second]))


class Rare(StoredScores):
    """Stands for a run with these scores."""

    def __init__(self, scores: Scores) -> None:
        self.run_id, self.name, self._scores = "0" * 32, "rare", scores
        self.origin = {"config": {"seed": 0}, "calibration": None, "epoch": 1, "trained_in_run": None}

    def scores(self, names: Sequence[str]) -> Scores:
        return self._scores


def test_all_runs_of_a_comparison_average_the_same_classes() -> None:
    """Class c is nowhere labelled; only the second predicts it, in one image, which is no reason to differ so much."""
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (20, 8, 8), generator=random)
    logits = 5 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    strange = logits.clone()
    strange[4, 2, 0, 0] = 9
    names = [f"{index}" for index in range(20)]
    pairs = compare(list(contestants_of([Rare(scores_of(each, labels)) for each in (logits, strange)], names)))
    difference = pairs[0].differences["mean_iou"]
    assert 0 < difference.value < 0.01
    assert 0 <= difference.interval.low <= difference.value <= difference.interval.high < 0.01


def test_only_shared_images_are_compared_in_one_order(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    fewer = dict(list(reversed(second.digests.items()))[:5])
    names = shared_images([first, changed(second, digests=fewer)])
    assert names == [name for name in first.digests if name in fewer]
    chosen = first.scores(names)
    assert len(chosen) == 5
    whole = first.scores(list(first.digests))
    places = [list(first.digests).index(name) for name in names]
    np.testing.assert_array_equal(chosen.image_ece(), whole.image_ece()[places])
    with pytest.raises(InputError, match=r"share 1 scored image"):
        shared_images([first, changed(second, digests=dict(list(fewer.items())[:1]))])


def test_runs_that_differ_in_the_seed_alone_are_grouped_by_hand(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    other = changed(second, origin=second.origin | {"config": second.origin["config"] | {"weight_decay": 0.1}})
    found = []
    for letter, each in zip("ABC", (first, second, other), strict=True):
        scores = each.scores(list(each.digests))
        found.append(Contestant(letter, each, letter, scores, scores.metrics(), scores.resampled()))
    (spread,) = seed_spreads(found)
    assert spread.letters == ["A", "B"]
    values = [each.metrics["ece"] for each in found[:2]]
    assert spread.mean["ece"] == pytest.approx(sum(values) / 2)
    assert spread.largest["ece"] == pytest.approx(abs(values[0] - values[1]))
    assert spread.deviation["ece"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert "A and B differ only in the seed" in spread.sentence()
    assert seed_spreads([found[0], found[2]]) == []


def test_a_model_scored_twice_counts_once(two_seeds: Trained) -> None:
    first, second = stored(two_seeds)
    again = changed(first, run_id="of an evaluation")
    found = []
    for letter, each in zip("ABC", (first, again, second), strict=True):
        scores = each.scores(list(each.digests))
        found.append(Contestant(letter, each, letter, scores, scores.metrics(), scores.resampled()))
    (spread,) = seed_spreads(found)
    assert spread.letters == ["A", "C"]
    pairs = compare(found)
    assert pairs[0].sentence([spread]).endswith("They are the same model.")
    assert pairs[1].sentence([spread]).endswith("They differ only in the seed.")


def test_two_settings_differ_by_their_means_over_seeds() -> None:
    def spread(letters: str, values: list[float]) -> SeedSpread:
        mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
        return SeedSpread(
            list(letters), dict.fromkeys(COMPARED, mean), dict.fromkeys(COMPARED, deviation),
            dict.fromkeys(COMPARED, 0.0), dict.fromkeys(COMPARED, 0.0),
        )  # fmt: skip

    one, other = [0.10, 0.14], [0.03, 0.05, 0.04]
    (sentence,) = between_settings([spread("AB", one), spread("CDE", other)])
    error = np.sqrt(stats.sem(one) ** 2 + stats.sem(other) ** 2)
    assert f"ECE {0.12 - 0.04:+.4f} ± {error:.4f}; loss" in sentence
    assert "Setting of A and B against setting of C, D and E" in sentence
    assert list(between_settings([spread("AB", one)])) == []
