"""Confidence intervals of calibration errors and their differences: 10,000 resamples, compared with scipy's bootstrap.

1,449 images are the validation split of Pascal VOC 2012. Every contestant draws anew in each round, except for the bare
products, whose draws are made before the first.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.case import Case, Goal
from benchmarks.rounds import Contestant
from segmentation.system.runtime import prepare_process

if TYPE_CHECKING:
    import numpy as np

    from segmentation.scoring.scores import Scores

TITLE = "Paired bootstrap"
MODELS, CLASSES, SIDE = 4, 21, 32
FIRST, SECOND = [0, 0, 0, 1, 1, 2], [1, 2, 3, 2, 3, 3]
"""The pairs of models."""
OURS, PRODUCT, SCIPY, TUNED = "this project", "bare product", "scipy", "scipy, tuned by hand"
AT_A_TIME, TUNED_AT_A_TIME = 200, 5
"""Resamples that scipy works on at a time: the fastest of 2, 5, 10, 25, 50, 100 and 200, and of 1, 5, 20 and 100."""
TAILS = (0.025, 0.975)
ERRORS, ROUNDING = 4, 1e-5
"""Standard errors by which ends of intervals may differ, since draws do; relative difference between equal draws."""

Run = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Work:
    """Data that is resampled, and the number of resamples."""

    images: int
    resamples: int = 10_000


def cases(quick: bool) -> list[Case]:
    """The ECE, which scipy computes too, and all metrics of a comparison of runs."""
    one, every = (Work(1449, 1000), Work(150)) if quick else (Work(1449), Work(1449))
    pairs = len(FIRST)
    return [
        Case(
            f"ECE of {MODELS} models and their {pairs} differences, {one.images} images",
            "resamples",
            one.resamples,
            [
                Contestant(OURS, "ours", this_project, (one,)),
                Contestant(PRODUCT, "limit", bare_product, (one,)),
                Contestant(SCIPY, "peer", scipy_bootstrap, (one,)),
                Contestant(TUNED, "peer", scipy_bootstrap_tuned, (one,)),
            ],
            _same,
            [Goal(SCIPY, 50)],
            rounds=7,
        ),
        Case(
            f"all metrics of {MODELS} models and their {pairs} differences, {every.images} images; scipy the ECE alone",
            "resamples",
            every.resamples,
            [
                Contestant(OURS, "ours", this_project_every_metric, (every,)),
                Contestant(PRODUCT, "limit", bare_product_every_metric, (every,)),
                Contestant(SCIPY, "peer", scipy_bootstrap_of_scores, (every,)),
            ],
            _same,
            [Goal(SCIPY, 1)],
            rounds=7,
        ),
    ]


def _same(returned: Mapping[str, Any]) -> str:
    import numpy as np

    values, tails = returned[OURS]["values"], np.array(TAILS)
    ends, error = np.quantile(values, tails, axis=1), np.sqrt(2) * _standard_errors(values, tails)
    apart = {name: np.abs(each["ends"] - ends) / error for name, each in returned.items() if "ends" in each}
    largest = max(each.max() for each in apart.values())
    assert largest <= ERRORS, f"ends of 95 % intervals are up to {largest:.1f} standard errors apart"
    most = max(np.abs(each["ends"] - ends).max() for each in returned.values() if "ends" in each)
    checked = (
        f"The ends of the {len(values)} plain 95 % percentile intervals differ by up to {most:.0e}; independent draws "
        f"would differ by {error.mean():.0e} on average (standard error; tolerated: {ERRORS} of them). This project "
        f"also computes bias-corrected intervals."
    )
    if "sums" not in returned[PRODUCT]:
        return f"{checked} The bare product has as many numbers as all metrics need."
    rounding = float(np.abs(_values(*returned[PRODUCT]["sums"]) / values - 1)[:MODELS].max())
    assert rounding <= ROUNDING, f"the bare product's ECE are up to {rounding:.0e} of them apart from ours"
    return f"{checked} The bare product's sums give each resample's ECE to {rounding:.0e} (tolerated: {ROUNDING:.0e})."


def _standard_errors(values: "np.ndarray", shares: "np.ndarray") -> "np.ndarray":
    """How much quantiles of values `(F, R)` vary from one set of `R` draws to another, `(S, F)`.

    The share of the values below a quantile varies as binomial numbers do. Quantiles three times as far to either side
    tell what that is in values; nearer ones would depend too much on chance.
    """
    import numpy as np

    away = 3 * np.sqrt(shares * (1 - shares) / values.shape[1])
    return (np.quantile(values, shares + away, axis=1) - np.quantile(values, shares - away, axis=1)) / (2 * 3)


def this_project(work: Work) -> Run:
    """Draw, sum, and compute the interval of each metric."""
    _prepare_our_own()

    from segmentation.scoring import bootstrap as resampling
    from segmentation.scoring import calibration_error as calibration

    count, gap = _image_bins(work.images)
    whole = _values(count.sum(0), gap.sum(0))

    def figures(sums: resampling.Sums) -> dict[str, "np.ndarray"]:
        return {"ece": calibration.ece(sums["count"], sums["gap"])}

    def run() -> dict[str, Any]:
        resampling._cached_draws.cache_clear()
        found = resampling.resampled(figures, [{"count": count, "gap": gap}], work.images, work.resamples)
        values = _with_differences(found["ece"].T)
        return {"values": values, "intervals": list(map(resampling.interval, values, whole))}

    return run


def bare_product(work: Work) -> Run:
    """Add up what is drawn, the draws being in memory already: one matrix product in float32.

    Of the numbers that are read and written each takes part in dozens of multiplications, so that it is arithmetic, not
    the memory's bandwidth, that bounds it.
    """
    _prepare_our_own()

    import numpy as np

    count, gap = _image_bins(work.images)
    times = _times(work)
    values = np.concatenate([part.reshape(work.images, -1) for part in (count, gap)], 1, dtype=np.float32)
    sums = np.empty((work.resamples, values.shape[1]), np.float32)

    def run() -> dict[str, Any]:
        np.matmul(times, values, out=sums)
        return {"sums": sums.reshape(work.resamples, 2, *count.shape[1:]).swapaxes(0, 1)}

    return run


def scipy_bootstrap(work: Work) -> Run:
    """As its documentation has it: samples in pairs, and a statistic that is vectorized."""
    return _scipy_in_pairs(*_image_bins(work.images), work.resamples)


def scipy_bootstrap_tuned(work: Work) -> Run:
    """scipy draws numbers of images, and the statistic looks their bins up, in float32, an image's side by side."""
    import numpy as np
    from scipy import stats

    count, gap = _image_bins(work.images)
    bins = np.stack([count, gap], 1, dtype=np.float32).reshape(work.images, -1)

    def statistic(images: "np.ndarray", axis: int) -> "np.ndarray":
        assert axis == -1
        sums = bins.take(images, 0).sum(-2)
        return _values(*np.moveaxis(sums.reshape(*images.shape[:-1], 2, *count.shape[1:]), -3, 0))

    def run() -> dict[str, Any]:
        found = stats.bootstrap(
            (np.arange(work.images),), statistic, vectorized=True, axis=-1, n_resamples=work.resamples,
            batch=TUNED_AT_A_TIME, method="percentile", rng=0,
        )  # fmt: skip
        return {"ends": np.stack(found.confidence_interval)}

    return run


def this_project_every_metric(work: Work) -> Run:
    """Every metric of each model over the same resamples, and all intervals."""
    _prepare_our_own()

    import numpy as np

    from segmentation.scoring import bootstrap as resampling

    models = _scores(work.images)

    def run() -> dict[str, Any]:
        resampling._cached_draws.cache_clear()
        metrics, found = [each.metrics() for each in models], [each.resampled() for each in models]
        values = {name: _with_differences(np.stack([each[name] for each in found])) for name in metrics[0]}
        whole = {name: _with_differences(np.array([each[name] for each in metrics])) for name in metrics[0]}
        intervals = {name: list(map(resampling.interval, values[name], whole[name])) for name in values}
        return {"values": values["ece"], "intervals": intervals}

    return run


def bare_product_every_metric(work: Work) -> Run:
    """`bare_product` of as many numbers of each image as there are in all metrics, model by model."""
    _prepare_our_own()

    import numpy as np

    from segmentation.scoring.definitions import sums_of_images

    times = _times(work)
    width = sum(values[0].size for values in sums_of_images(next(_scores(images=1)[0].blocks())).values())
    models = np.random.default_rng(0).random((MODELS, work.images, width), np.float32)
    sums = np.empty((work.resamples, width), np.float32)

    def run() -> dict[str, Any]:
        for values in models:
            np.matmul(times, values, out=sums)
        return {}

    return run


def scipy_bootstrap_of_scores(work: Work) -> Run:
    """`scipy_bootstrap` of the ECE alone."""
    import numpy as np

    from segmentation.scoring.calibration_error import coarse

    tables = [each.reliability.table for each in _scores(work.images)]
    count, confidence, right = (
        np.stack([coarse(table.column(name)) for table in tables], 1) for name in ("count", "confidence_sum", "correct")
    )
    return _scipy_in_pairs(count, right - confidence, work.resamples)


def _scipy_in_pairs(count: "np.ndarray", gap: "np.ndarray", resamples: int) -> Run:
    import numpy as np
    from scipy import stats

    data = [np.moveaxis(part, 0, -1).astype(np.float64, order="C") for part in (count, gap)]  # (models, bins, images)

    def statistic(count: "np.ndarray", gap: "np.ndarray", axis: int) -> "np.ndarray":
        return _with_differences(np.abs(gap.sum(axis)).sum(1) / count.sum(axis).sum(1))

    def run() -> dict[str, Any]:
        found = stats.bootstrap(
            data, statistic, paired=True, vectorized=True, axis=-1, n_resamples=resamples, batch=AT_A_TIME,
            method="percentile", rng=0,
        )  # fmt: skip
        return {"ends": np.stack(found.confidence_interval)}

    return run


def _prepare_our_own() -> None:
    prepare_process()

    import torch

    torch.set_num_threads(os.cpu_count() or 1)


def _times(work: Work) -> "np.ndarray":
    """How often we draw each image, `(R, N)`."""
    import numpy as np

    from segmentation.scoring.bootstrap import _draws

    return np.concatenate(list(_draws(work.images, work.resamples, seed=0)), 1).astype(np.float32)


def _image_bins(images: int) -> tuple["np.ndarray", "np.ndarray"]:
    """Count and gap of the bins of each image and model, `(N, 4, 10)`; what one model finds hard, the others do."""
    import numpy as np

    random = np.random.default_rng(0)
    count = random.integers(0, 4000, (images, MODELS, 10))
    miscalibration = np.array([0.03, 0.04, 0.04, 0.06])[:, None] + random.normal(0, 0.1, (images, 1, 1))
    return count, count * (miscalibration + random.normal(0, 0.1, count.shape))


def _scores(images: int) -> list["Scores"]:
    """Models that differ in their confidence on the same images."""
    import torch

    from segmentation.classes import Classes
    from segmentation.scoring.scores import Scores

    random = torch.Generator().manual_seed(0)
    models = [Scores(Classes.named(*(f"class {index}" for index in range(CLASSES)))) for _ in range(MODELS)]
    for start in range(0, images, 63):
        size = min(63, images - start)
        logits = torch.randn(size, CLASSES, SIDE, SIDE, generator=random)
        logits *= 1 + 3 * torch.rand(size, 1, 1, 1, generator=random)
        gumbel = -torch.empty(logits.shape).exponential_(generator=random).log()
        masks = (0.7 * logits + gumbel).argmax(1).to(torch.uint8)
        for place, scores in enumerate(models):
            scores.update((0.8 + 0.1 * place) * logits, masks)
    return models


def _values(count: "np.ndarray", gap: "np.ndarray") -> "np.ndarray":
    """ECE of each model, and their differences, `(10, ...)` from bins `(..., 4, 10)`."""
    from segmentation.scoring.calibration_error import ece

    return _with_differences(ece(count, gap).T)


def _with_differences(of_models: "np.ndarray") -> "np.ndarray":
    """First minus second of every pair, after the figures `(4, ...)` themselves."""
    import numpy as np

    return np.concatenate([of_models, of_models[FIRST] - of_models[SECOND]])
