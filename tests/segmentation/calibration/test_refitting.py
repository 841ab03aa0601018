"""Refitted temperatures compared with a fit to each resample."""

import numpy as np
import torch

from segmentation.calibration.calibrators import LOWEST
from segmentation.calibration.fitting import fit
from segmentation.scoring.bootstrap import resampled
from tests.segmentation.calibration.samples import CLASSES, SIDE, in_batches, split


def test_refitted_temperatures_equal_a_fit_to_each_resample() -> None:
    """Draw images and fit a temperature to them, 60 times."""
    random = torch.Generator().manual_seed(3)
    truth = 0.8 + 1.2 * torch.rand(12, 1, 1, 1, generator=random)  # images with different temperatures
    logits, rgb, labels = split(truth.expand(12, CLASSES, SIDE, SIDE), images=12)
    labels[5] = 255  # an image without labelled pixels
    whole = logits, rgb, labels
    fitted = fit("temperature", in_batches(whole, (5, 7)), CLASSES)
    assert fitted.refitted is not None
    assert fitted.refitted.shape == (10_000,)
    times = resampled(lambda sums: dict(sums), [{"x": np.eye(12)}], 12, 10_000, seed=1)["x"].astype(int)
    again = []
    for drawn_times in times[:60]:
        chosen = np.repeat(np.arange(12), drawn_times)
        drawn_images = logits[chosen], rgb[chosen], labels[chosen]
        again.append(
            fit("temperature", in_batches(drawn_images, (12,)), CLASSES).calibrator.get_parameter("temperature").item()
        )
    assert np.std(again) > 0.02
    np.testing.assert_allclose(fitted.refitted[:60], again, rtol=0.002)


def test_refits_are_within_bounds_and_other_methods_have_none() -> None:
    logits, rgb, _ = split(images=4)
    right = fit("temperature", in_batches((logits, rgb, logits.argmax(1))), CLASSES)  # never wrong
    assert right.refitted is not None
    np.testing.assert_allclose(right.refitted, LOWEST, rtol=1e-6)
    constant = fit("temperature", in_batches((0 * logits, rgb, logits.argmax(1))), CLASSES)
    assert constant.refitted is not None
    assert np.isfinite(constant.refitted).all()
    assert fit("vector", in_batches((logits, rgb, logits.argmax(1))), CLASSES).refitted is None
