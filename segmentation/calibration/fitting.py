"""Fitting of post-hoc calibrators to images that the model was not trained on.

Every fit minimises the mean negative log-likelihood (NLL) of the non-void pixels. It passes over the images several
times and keeps only sums, in float64, so that memory does not grow with the number of images.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from segmentation.calibration.calibrators import (
    HIGHEST,
    LOWEST,
    MIDDLE,
    REACH,
    Calibrator,
    LocalTemperature,
    Measured,
    Temperature,
    VectorScaling,
    at_least_float32,
    build,
    divided,
)
from segmentation.calibration.refitting import derivatives, refitted_temperatures
from segmentation.calibration.stored_logits import check_images
from segmentation.classes import VOID
from segmentation.devices import countable
from segmentation.errors import InputError
from segmentation.scoring.logit_checks import check_shapes

AT_BOUND = 1.01
"""A temperature within this factor of a bound counts as at the bound, which local temperatures only approach."""
LARGEST_LOGIT = 1e15
"""Larger logits have squares that overflow in float32."""
PULL = 1e-6
"""Weight decay of vector scaling: nats per pixel for each squared unit of (scale - 1) or bias.

It hardly moves parameters that the pixels determine. Without it, the bias of a class without labelled pixels would go
to minus infinity, and the sum of all biases would be undetermined.
"""
LOCAL_ITERATIONS = 40
"""L-BFGS iterations of a local fit; each needs one pass or a few."""

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
"""Starts a new pass over logits `(B, C, H, W)`, images `(B, N, H, W)` and labels `(B, H, W)`, 255 is void."""

Quantiles = tuple[float, float, float]
"""5, 50 and 95 %."""


class Passes:
    """Passes over the fitting images: checks and counts them, converts to float32 or more, skips all-void batches."""

    def __init__(self, batches: Batches, classes: int) -> None:
        self._batches = batches
        self._classes = classes
        self.count = 0
        self.device = self.given_on = torch.device("cpu")
        """Device of the computation, and device on which the batches came, in the last pass."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        self.count += 1
        empty = True
        for logits, images, labels in self._batches():
            # a generator that computes logits in inference mode would leave this loop's body in that mode
            with torch.inference_mode(False):
                check_shapes(logits, labels)
                check_images(logits, images)
                self.given_on = logits.device
                logits, images, labels = countable(logits, images, labels)
                if logits.shape[1] != self._classes:
                    raise ValueError(f"logits have {logits.shape[1]} classes, expected {self._classes}")
                lowest, highest = logits.aminmax()
                if not -LARGEST_LOGIT < lowest.item() <= highest.item() < LARGEST_LOGIT:  # also if they are NaN
                    raise InputError(
                        f"the model's logits are not finite, or exceed {LARGEST_LOGIT:g}: its training has diverged. "
                        f"Calibrate a model that was trained with a lower learning_rate"
                    )
                self.device = logits.device
                if bool((labels != VOID).any()):
                    empty = False
                    yield at_least_float32(logits), images, labels.long()
        if empty:
            raise InputError("the images to calibrate on have no labelled pixel: all are void, or there are no images")


@dataclass(frozen=True)
class Fit:
    """A fitted calibrator and its fit to the fitting images."""

    calibrator: Calibrator
    nll_before: float
    """Mean over the non-void pixels of the fitting images, nats."""
    nll_after: float
    """The same with the calibrator. Never higher: without an improvement the calibrator is a new one."""
    passes: int
    """Number of passes over the fitting images."""
    temperature: Quantiles | None
    """Quantiles over the non-void pixels; equal for a global temperature; None for vector scaling."""
    at_bound: float
    """Fraction of the non-void pixels whose temperature is at a bound, in [0, 1]."""
    refitted: np.ndarray | None = None
    """`(R,)` temperature fitted to each resample of the fitting images; None for other methods, whose fits take too
    long to repeat."""

    def described(self) -> str:
        """A sentence about the fit, and a warning if temperatures are at a bound."""
        text = f"{self._correction()}: NLL {self.nll_before:.3f} -> {self.nll_after:.3f} on the fitting images"
        if not self.nll_after < self.nll_before:
            text += ", no improvement found"
        if self.temperature is None or self.at_bound < 0.005:
            return text
        if self.at_bound < 1:
            reason = f"the temperatures of {self.at_bound:.0%} of the pixels are at a bound, {LOWEST:g} or {HIGHEST:g}"
        elif self.temperature[1] > 1:
            reason = f"the temperature is at its upper bound, {HIGHEST:g}: confidence hardly predicts correctness"
        else:
            reason = (
                f"the temperature is at its lower bound, {LOWEST:g}: logits are nearly constant or hardly ever wrong"
            )
        return f"{text}. Warning: {reason}. Do not rely on this calibration."

    def _correction(self) -> str:
        if self.temperature is None:
            return "a scale and a bias for each class"
        low, middle, high = self.temperature
        if low < high:
            return f"median temperature {middle:.2f}, {low:.2f} to {high:.2f} for 90 % of pixels"
        effect = "lowers" if middle > 1.005 else "raises" if middle < 0.995 else "hardly changes"
        return f"temperature {middle:.2f} ({effect} the confidence)"


@torch.inference_mode(False)  # parameters created in a caller's inference mode could not be trained
def fit(method: str, batches: Batches, classes: int, seed: int = 0, measured: Measured | None = None) -> Fit:
    """Fit a calibrator to all non-void pixels.

    The same images in the same batches and the same seed give the same calibrator. Torch's global random state is not
    used.

    Args:
        method: one of `METHODS`.
        batches: starts a new pass over logits `(B, C, H, W)`, images `(B, N, H, W)` and labels `(B, H, W)`,
            integers below C or 255 for void. Called for each of 8 to 100 passes.
        classes: C.
        seed: seed of the CNN's initial weights, for `local`.
        measured: of the model's `normalization=measured`, for `local`; None for RGB images of 8 bits.

    Raises:
        InputError: the method is unknown, no pixel is labelled, or logits are not finite.
        ValueError: a shape, a type or a label is wrong.
    """
    calibrator = build(method, classes, measured)
    passes = Passes(batches, classes)
    before = _mean_nll(passes, lambda logits, _: logits)
    _fit_in_place(calibrator.to(passes.device), passes, seed, measured)
    after = _mean_nll(passes, calibrator)
    if not after < before:
        calibrator, after = build(method, classes, measured).to(passes.device), before
    calibrator.requires_grad_(False)
    temperature, at_bound = _summary(calibrator, passes)
    refitted = refitted_temperatures(passes, temperature[0]) if method == "temperature" and temperature else None
    return Fit(calibrator.to(passes.given_on), before, after, passes.count, temperature, at_bound, refitted)


def _fit_in_place(calibrator: Calibrator, passes: Passes, seed: int, measured: Measured | None) -> None:
    """Minimise the NLL, starting from a new calibrator."""
    if isinstance(calibrator, Temperature):
        with torch.no_grad():
            calibrator.temperature.fill_(_best_temperature(passes))
    elif isinstance(calibrator, VectorScaling):
        _fit_vector(calibrator, passes)
    else:
        assert isinstance(calibrator, LocalTemperature)
        _fit_local(calibrator, passes, seed, measured)


def _fit_vector(calibrator: VectorScaling, passes: Passes) -> None:
    """Fit scales and biases by L-BFGS, starting from the best temperature."""
    identity = torch.stack([calibrator.weight, calibrator.bias]).detach().double()
    mean, std = _moments(passes, len(calibrator.weight))
    # scales of standardised logits hardly depend on biases at their mean, which takes far fewer iterations
    values = torch.stack([std, mean]) / _best_temperature(passes)
    values.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [values], max_iter=60, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
    )

    def affine() -> torch.Tensor:
        weight = values[0] / std
        return torch.stack([weight, values[1] - weight * mean])

    def objective() -> torch.Tensor:
        optimizer.zero_grad()
        with torch.enable_grad():
            current = affine()
        away = current.detach() - identity
        nll, gradient = _nll_of_affine(passes, current.detach())
        current.backward(gradient + 2 * PULL * away)
        return nll + PULL * away.square().sum()

    optimizer.step(objective)
    with torch.no_grad():
        for parameter, value in zip((calibrator.weight, calibrator.bias), affine(), strict=True):
            parameter.copy_(value)


def _fit_local(calibrator: LocalTemperature, passes: Passes, seed: int, measured: Measured | None) -> None:
    """Fit the CNN by L-BFGS, starting from the best global temperature."""
    calibrator.load_state_dict(LocalTemperature(calibrator.classes, seed, measured).state_dict())
    level = (math.log(_best_temperature(passes)) - MIDDLE) / REACH
    assert calibrator.field.bias is not None
    # at a bound tanh has no slope, and the fit could not leave it
    nn.init.constant_(calibrator.field.bias, math.atanh(min(max(level, -0.999), 0.999)))
    start, pixels = deepcopy(calibrator.state_dict()), sum(int((labels != VOID).sum()) for _, _, labels in passes)
    optimizer = torch.optim.LBFGS(calibrator.parameters(), max_iter=LOCAL_ITERATIONS, line_search_fn="strong_wolfe")

    def objective() -> float:
        optimizer.zero_grad()
        return sum(_add_local_gradient(calibrator, *batch, pixels) for batch in passes)

    before = objective()
    optimizer.step(objective)
    if not _mean_nll(passes, calibrator) < before:
        calibrator.load_state_dict(start)


def _add_local_gradient(
    calibrator: LocalTemperature, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, pixels: int
) -> float:
    """Part of one batch in the mean NLL over `pixels` pixels; its gradient is added to that of the parameters."""
    with torch.enable_grad():
        temperatures = calibrator.temperatures(logits, images)
        inverse = 1 / temperatures
    # the NLL's derivative is known in closed form, so only the CNN needs automatic differentiation
    slope, _ = derivatives(logits, labels, inverse.detach())
    inverse.backward(slope[:, None] / pixels)
    corrected = divided(logits, temperatures.detach())
    nll = F.cross_entropy(corrected, labels, ignore_index=VOID, reduction="none")
    return nll.double().sum().item() / pixels


def _summary(calibrator: Calibrator, passes: Passes) -> tuple[Quantiles | None, float]:
    """Quantiles of the temperature over the non-void pixels, and the fraction of them at a bound."""
    if isinstance(calibrator, Temperature):
        value = calibrator.temperature.item()
        return (value, value, value), float(not LOWEST * AT_BOUND < value < HIGHEST / AT_BOUND)
    if not isinstance(calibrator, LocalTemperature):
        return None, 0.0
    bins = 6000  # of equal width in log T: quantiles are exact to 0.05 %
    width = 2 * REACH / bins
    count = torch.zeros(bins, dtype=torch.int64)
    at_bound = 0
    for logits, images, labels in passes:
        with torch.no_grad():
            values = calibrator.temperatures(logits, images)[:, 0][labels != VOID]
        index = (values.log() - math.log(LOWEST)) / width
        count += torch.bincount(index.long().clamp(0, bins - 1), minlength=bins).cpu()
        at_bound += int(((values <= LOWEST * AT_BOUND) | (values >= HIGHEST / AT_BOUND)).sum())
    fraction = count.cumsum(0) / count.sum()
    low, middle, high = (
        LOWEST * math.exp((int((fraction < quantile).sum()) + 0.5) * width) for quantile in (0.05, 0.5, 0.95)
    )
    return (low, middle, high), at_bound / int(count.sum())


def _mean_nll(passes: Passes, corrected: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    """Mean NLL over the non-void pixels of logits that `corrected` computes from logits and images."""
    total, pixels = 0.0, 0
    for logits, images, labels in passes:
        with torch.no_grad():
            nll = F.cross_entropy(corrected(logits, images), labels, ignore_index=VOID, reduction="none")
            total += nll.double().sum().item()
            pixels += int((labels != VOID).sum())
    return total / pixels


def _best_temperature(passes: Passes) -> float:
    """The temperature T within its bounds with the smallest NLL.

    The NLL is convex in 1/T. Newton's method finds the root of its slope, safeguarded by a shrinking bracket.
    """
    low, high = 1 / HIGHEST, 1 / LOWEST
    (slope_low, slope, slope_high), (_, curvature, _) = _slopes(passes, (low, 1.0, high))
    if slope_low >= 0:
        return HIGHEST
    if slope_high <= 0:
        return LOWEST
    inverse, step = 1.0, math.inf
    while True:
        if slope > 0:
            high = inverse
        else:
            low = inverse
        before, step = step, (-slope / curvature if curvature > 0 else math.inf)
        if not (low <= inverse + step <= high and abs(step) < abs(before) / 2):
            step = math.sqrt(low * high) - inverse
        inverse += step
        if abs(step) <= 1e-5 * inverse:  # Newton's method squares the error: it is about 1e-10 now
            return 1 / inverse
        ((slope,), (curvature,)) = _slopes(passes, (inverse,))


def _slopes(passes: Passes, inverses: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Sums over all pixels of both `derivatives` at each value of 1/T."""
    slopes, curvatures = [0.0] * len(inverses), [0.0] * len(inverses)
    for logits, _, labels in passes:
        for index, inverse in enumerate(inverses):
            slope, curvature = derivatives(logits, labels, inverse)
            slopes[index] += slope.double().sum().item()
            curvatures[index] += curvature.double().sum().item()
    return slopes, curvatures


def _moments(passes: Passes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and positive standard deviation of each class's logits over the non-void pixels, `(C,)` float64."""
    sums = torch.zeros(2, classes, dtype=torch.float64, device=passes.device)
    pixels = 0
    for logits, _, labels in passes:
        with torch.no_grad():
            chosen = torch.where((labels != VOID)[:, None], logits, 0)
            sums[0] += chosen.sum((0, 2, 3), dtype=torch.float64)
            sums[1] += chosen.square_().sum((0, 2, 3), dtype=torch.float64)
            pixels += int((labels != VOID).sum())
    mean, square = sums / pixels
    return mean, (square - mean.square()).clamp(min=1e-6).sqrt()


def _nll_of_affine(passes: Passes, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean NLL of `weight * logits + bias` and its gradient, float64; values and gradient are `(2, C)`."""
    nll = torch.zeros((), dtype=torch.float64, device=values.device)
    gradient = torch.zeros_like(values)
    pixels = 0
    for logits, _, labels in passes:
        with torch.no_grad():
            valid = labels != VOID
            true = torch.where(valid, labels, 0)[:, None]
            weight, bias = values.detach().to(logits.dtype)[..., None, None]
            log_probabilities = F.log_softmax(logits * weight + bias, 1)
            nll -= torch.where(valid, log_probabilities.gather(1, true)[:, 0], 0).double().sum()
            residual = log_probabilities.exp_().mul_(valid[:, None])
            residual.scatter_add_(1, true, -valid[:, None].to(residual.dtype))
            gradient[1] += residual.sum((0, 2, 3), dtype=torch.float64)
            gradient[0] += residual.mul_(logits).sum((0, 2, 3), dtype=torch.float64)
            pixels += int(valid.sum())
    return nll / pixels, gradient / pixels
