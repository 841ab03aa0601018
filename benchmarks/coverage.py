"""Coverage of 95 % intervals of the ECE, with and without bias correction: `python benchmarks/coverage.py`.

Simulates splits of 40 images with 10 bins of 30 pixels each. The gap of a bin is the true miscalibration plus noise per
image with a standard deviation of 0.1.
"""

import numpy as np

from segmentation.scoring.bootstrap import interval, resampled

IMAGES, BINS, PIXELS, SPLITS, SPREAD = 40, 10, 30, 400, 0.1


def main() -> None:
    floor = SPREAD / np.sqrt(IMAGES) * np.sqrt(2 / np.pi)
    print(f"noise floor {floor:.4f}\n| true ECE | corrected | plain percentiles |\n| --- | --- | --- |")
    for truth in (0.005, 0.01, 0.02, 0.03, 0.05):
        held = np.array([_held(truth, np.random.default_rng([seed, 1])) for seed in range(SPLITS)])
        corrected, plain = held.mean(0)
        print(f"| {truth} | {corrected:.0%} | {plain:.0%} |")


def _held(truth: float, random: np.random.Generator) -> tuple[bool, bool]:
    gap = PIXELS * (truth + random.normal(0, SPREAD, (IMAGES, BINS)))
    values = resampled(_ece, [{"gap": gap}], IMAGES, resamples=1000)["ece"]
    low, high = interval(values, float(_ece({"gap": gap.sum(0)})["ece"]))
    plain_low, plain_high = np.quantile(values, [0.025, 0.975])
    return bool(low <= truth <= high), bool(plain_low <= truth <= plain_high)


def _ece(sums: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"ece": np.abs(sums["gap"]).sum(-1) / (IMAGES * BINS * PIXELS)}


if __name__ == "__main__":
    main()
