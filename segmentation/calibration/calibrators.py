"""Post-hoc calibration: a correction of the logits, fitted to images that the network was not trained on.

Every fit makes the mean negative log-likelihood (NLL) of the non-void pixels small. It goes through the images in
passes and keeps sums only, in float64, so that memory does not grow with their number.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from segmentation.calibration.stored_logits import check_images
from segmentation.classes import VOID
from segmentation.devices import countable
from segmentation.errors import InputError, one_of
from segmentation.scoring.bootstrap import RESAMPLES, resampled
from segmentation.scoring.softmax import check_shapes

LOWEST, HIGHEST = 0.05, 20.0
"""Bounds of every temperature."""

AT_BOUND = 1.01
"""A temperature within this factor of a bound counts as being there: the local ones only come near it."""

LARGEST_LOGIT = 1e15
"""Squares of larger ones would overflow in float32."""

NODES = 9
"""Temperatures at which resamples of the fitting images are looked at; between them is interpolated."""

TINY = torch.finfo(torch.float32).tiny

Batches = Callable[[], Iterable[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]]
"""Starts a fresh pass of logits `(B, C, H, W)`, images `(B, 3, H, W)` uint8 and labels `(B, H, W)`, 255 is void."""

Quantiles = tuple[float, float, float]
"""5, 50 and 95 %."""


class Passes:
    """Passes over the fitting images, counted; each batch is checked, in float32 at least, and has a labelled pixel."""

    def __init__(self, batches: Batches, classes: int) -> None:
        self._batches = batches
        self._classes = classes
        self.count = 0
        self.device = self.given_on = torch.device("cpu")
        """Where the batches of the last pass are computed with, and where they were given."""
        self.length = 0
        """Batches with a labelled pixel in the last pass."""

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        self.count += 1
        length = 0
        for logits, images, labels in self._batches():
            # a generator that computes logits in inference mode would leave whoever iterates over it in that mode
            with torch.inference_mode(False):
                check_shapes(logits, labels)
                check_images(logits, images)
                self.given_on = logits.device
                logits, images, labels = countable(logits, images, labels)
                if logits.shape[1] != self._classes:
                    raise ValueError(f"logits of {logits.shape[1]} classes, where {self._classes} are expected")
                lowest, highest = logits.aminmax()
                if not -LARGEST_LOGIT < lowest.item() <= highest.item() < LARGEST_LOGIT:  # nor if they are NaN
                    raise InputError(
                        "the network's logits are not all finite, or absurdly large: it has diverged; "
                        "calibrate one that was trained with a lower learning_rate"
                    )
                self.device = logits.device
                if bool((labels != VOID).any()):
                    length += 1
                    yield _float32_at_least(logits), images, labels.long()
        self.length = length
        if not length:
            raise InputError("no pixel of the images to calibrate on has a class: all are void, or there are no images")


class Calibrator(nn.Module, ABC):
    """A correction of logits; a new one changes nothing (but for a shift of all classes, which no softmax sees)."""

    @abstractmethod
    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Corrected logits `(B, C, H, W)` float32 of logits `(B, C, H, W)` of images `(B, 3, H, W)` uint8."""

    @abstractmethod
    def fit(self, passes: Passes, seed: int) -> None:
        """Make the NLL small, starting from a new calibrator."""

    def summary(self, passes: Passes) -> tuple[Quantiles | None, float]:
        """Quantiles of the temperature over the non-void pixels, and the share of these where it is at a bound."""
        return None, 0.0


class Temperature(Calibrator):
    """One temperature for all pixels: it changes how sure the network is, and no predicted label.

    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(()))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return divided(logits, self.temperature)

    def fit(self, passes: Passes, seed: int) -> None:
        with torch.no_grad():
            self.temperature.fill_(_best_temperature(passes))

    def summary(self, passes: Passes) -> tuple[Quantiles | None, float]:
        value = self.temperature.item()
        return (value, value, value), float(not LOWEST * AT_BOUND < value < HIGHEST / AT_BOUND)


class VectorScaling(Calibrator):
    """A factor and an offset for each class (Guo et al. 2017): it may change predicted labels.

    The fit starts from the best temperature.
    """

    PULL = 1e-6
    """Nats a pixel for each squared unit that a factor is away from 1 or an offset from 0.

    It hardly moves an offset that pixels speak for. Without it, offsets of a class that labels no pixel would go to
    minus infinity, and offsets that all grow alike would change nothing.
    """

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(classes))
        self.bias = nn.Parameter(torch.zeros(classes))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        logits = _float32_at_least(logits)
        return (logits * self.weight[:, None, None] + self.bias[:, None, None]).float()

    def fit(self, passes: Passes, seed: int) -> None:
        identity = torch.stack([self.weight, self.bias]).detach().double()
        mean, deviation = _moments(passes, len(self.weight))
        # a factor of the standardised logits hardly depends on an offset at their mean, so far fewer steps are needed
        values = torch.stack([deviation, mean]) / _best_temperature(passes)
        values.requires_grad_()
        optimizer = torch.optim.LBFGS(
            [values], max_iter=60, tolerance_grad=1e-6, tolerance_change=1e-9, line_search_fn="strong_wolfe"
        )

        def affine() -> torch.Tensor:
            weight = values[0] / deviation
            return torch.stack([weight, values[1] - weight * mean])

        def objective() -> torch.Tensor:
            optimizer.zero_grad()
            with torch.enable_grad():
                current = affine()
            away = current.detach() - identity
            nll, gradient = _nll_of_affine(passes, current.detach())
            current.backward(gradient + 2 * self.PULL * away)
            return nll + self.PULL * away.square().sum()

        optimizer.step(objective)
        with torch.no_grad():
            for parameter, value in zip((self.weight, self.bias), affine(), strict=True):
                parameter.copy_(value)


class LocalTemperature(Calibrator):
    """A temperature for every pixel, from a small network that sees the logits and the image; labels stay.

    Ding et al., "Local Temperature Scaling for Probability Calibration", ICCV 2021, with dilated convolutions in place
    of their tree of them. Its fit starts from the best temperature for all pixels.
    """

    WIDTH = 8
    DILATIONS = (1, 2, 4)
    ITERATIONS = 40
    """Steps of the fit, each of one pass or a few."""
    CLIP = 16.0
    """Log-probabilities below minus this are all the same to the network."""

    def __init__(self, classes: int, seed: int = 0) -> None:
        super().__init__()
        self.classes = classes
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            layers: list[nn.Module] = [nn.Conv2d(classes + 3, self.WIDTH, 1), nn.ReLU()]
            for dilation in self.DILATIONS:
                layers += [nn.Conv2d(self.WIDTH, self.WIDTH, 3, padding=dilation, dilation=dilation), nn.ReLU()]
            self.features = nn.Sequential(*layers)
            self.field = nn.Conv2d(self.WIDTH, 1, 1)
        for parameter in self.field.parameters():
            nn.init.zeros_(parameter)

    def temperatures(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """What the logits of each pixel are divided by, float32 `(B, 1, H, W)`; arguments as of `forward`."""
        scores = F.log_softmax(_float32_at_least(logits).float(), 1).clamp(min=-self.CLIP) / (self.CLIP / 2) + 1
        field = self.field(self.features(torch.cat([scores, images / 127.5 - 1], 1)))
        return torch.exp(_MIDDLE + _REACH * torch.tanh(field.float()))

    def forward(self, logits: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        return divided(logits, self.temperatures(logits, images))

    def fit(self, passes: Passes, seed: int) -> None:
        self.load_state_dict(LocalTemperature(self.classes, seed).state_dict())
        place = (math.log(_best_temperature(passes)) - _MIDDLE) / _REACH
        assert self.field.bias is not None
        # at a bound itself, tanh has no slope that would lead away from it
        nn.init.constant_(self.field.bias, math.atanh(min(max(place, -0.999), 0.999)))
        start, pixels = deepcopy(self.state_dict()), sum(int((labels != VOID).sum()) for _, _, labels in passes)
        optimizer = torch.optim.LBFGS(self.parameters(), max_iter=self.ITERATIONS, line_search_fn="strong_wolfe")

        def nll_with_its_gradient() -> float:
            optimizer.zero_grad()
            return sum(self._add_gradient(*batch, pixels) for batch in passes)

        before = nll_with_its_gradient()
        optimizer.step(nll_with_its_gradient)
        if not _mean_nll(passes, self) < before:
            self.load_state_dict(start)

    def _add_gradient(self, logits: torch.Tensor, images: torch.Tensor, labels: torch.Tensor, pixels: int) -> float:
        """A batch's part of the mean NLL over so many pixels; its gradient is added to that of the parameters."""
        with torch.enable_grad():
            temperatures = self.temperatures(logits, images)
            inverse = 1 / temperatures
        # the NLL's slope is known, so only the small network is differentiated through
        slope, _ = _derivatives(logits, labels, inverse.detach())
        inverse.backward(slope[:, None] / pixels)
        corrected = divided(logits, temperatures.detach())
        nll = F.cross_entropy(corrected, labels, ignore_index=VOID, reduction="none")
        return nll.double().sum().item() / pixels

    def summary(self, passes: Passes) -> tuple[Quantiles | None, float]:
        bins = 6000  # equal in log T, so that a quantile is right to 0.05 %
        width = 2 * _REACH / bins
        count = torch.zeros(bins, dtype=torch.int64)
        at_bound = 0
        for logits, images, labels in passes:
            with torch.no_grad():
                values = self.temperatures(logits, images)[:, 0][labels != VOID]
            place = (values.log() - math.log(LOWEST)) / width
            count += torch.bincount(place.long().clamp(0, bins - 1), minlength=bins).cpu()
            at_bound += int(((values <= LOWEST * AT_BOUND) | (values >= HIGHEST / AT_BOUND)).sum())
        share = count.cumsum(0) / count.sum()
        low, middle, high = (
            LOWEST * math.exp((int((share < quantile).sum()) + 0.5) * width) for quantile in (0.05, 0.5, 0.95)
        )
        return (low, middle, high), at_bound / int(count.sum())


_MIDDLE, _REACH = math.log(LOWEST * HIGHEST) / 2, math.log(HIGHEST / LOWEST) / 2

METHODS: dict[str, type[Calibrator]] = {
    "temperature": Temperature,
    "vector": VectorScaling,
    "local": LocalTemperature,
}


@dataclass(frozen=True)
class Fit:
    """A fitted calibrator and how well it fits the images that it was fitted to."""

    calibrator: Calibrator
    nll_before: float
    """Mean over the non-void pixels of the fitting images, nats."""
    nll_after: float
    """The same with the calibrator, never higher; equal if nothing better was found, and then it changes nothing."""
    passes: int
    """How often the fitting images were gone through."""
    temperature: Quantiles | None
    """Of the temperature over the non-void pixels; all the same for a global one; None for vector scaling."""
    at_bound: float
    """Share of the non-void pixels whose temperature is at a bound, in [0, 1]."""
    refitted: np.ndarray | None = None
    """`(R,)` the temperature fitted to each resample of the fitting images; None for calibrators with more parameters,
    of which so many fits would take too long."""

    def described(self) -> str:
        """What was found, in a sentence; and a warning in another if a temperature is at a bound."""
        text = f"{self._correction()}: NLL {self.nll_before:.3f} -> {self.nll_after:.3f} on the fitting images"
        if not self.nll_after < self.nll_before:
            text += ", nothing better was found"
        if self.temperature is None or self.at_bound < 0.005:
            return text
        if self.at_bound < 1:
            reason = f"the temperatures of {self.at_bound:.0%} of the pixels are at a bound, {LOWEST:g} or {HIGHEST:g}"
        elif self.temperature[1] > 1:
            reason = f"that is the highest allowed, {HIGHEST:g}: the network's confidence says next to nothing"
        else:
            reason = f"that is the lowest allowed, {LOWEST:g}: nearly constant logits, or hardly a wrong pixel"
        return f"{text}. Warning: {reason}; do not rely on this calibration."

    def _correction(self) -> str:
        if self.temperature is None:
            return "a factor and an offset for each class"
        low, middle, high = self.temperature
        if low < high:
            return f"temperature {middle:.2f} in the middle, {low:.2f} to {high:.2f} for 90 % of pixels"
        was = "over" if middle > 1.005 else "under" if middle < 0.995 else "neither over- nor under"
        return f"temperature {middle:.2f} ({was}-confident before)"


def build(method: str, classes: int) -> Calibrator:
    """A new calibrator, which changes nothing yet; `load_state_dict` makes it a fitted one.

    Raises:
        InputError: the method is not known.
    """
    return METHODS[one_of("method", method, METHODS)](classes)


@torch.inference_mode(False)  # even where the caller evaluates a network: parameters made there could not be trained
def fit(method: str, batches: Batches, classes: int, seed: int = 0) -> Fit:
    """Fit a calibrator to all non-void pixels.

    The same images in the same batches and the same seed give the same calibrator; torch's own random state is neither
    used nor changed.

    Args:
        method: one of `METHODS`.
        batches: starts a fresh pass of logits `(B, C, H, W)`, images `(B, 3, H, W)` uint8 and labels `(B, H, W)`, whole
            numbers below C or 255 for void. Called for each of 8 to 100 passes.
        classes: C.
        seed: of the network's random start, for `local`.

    Raises:
        InputError: the method is not known, no pixel has a class, or logits are not finite.
        ValueError: a shape, a type or a label does not fit.
    """
    calibrator = build(method, classes)
    passes = Passes(batches, classes)
    before = _mean_nll(passes, lambda logits, _: logits)
    calibrator.to(passes.device).fit(passes, seed)
    after = _mean_nll(passes, calibrator)
    if not after < before:
        calibrator, after = build(method, classes).to(passes.device), before
    calibrator.requires_grad_(False)
    temperature, at_bound = calibrator.summary(passes)
    refitted = refitted_temperatures(passes, temperature[0]) if method == "temperature" and temperature else None
    return Fit(calibrator.to(passes.given_on), before, after, passes.count, temperature, at_bound, refitted)


def _float32_at_least(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def divided(logits: torch.Tensor, temperature: torch.Tensor | float) -> torch.Tensor:
    """Logits less the pixel's largest, divided by the temperature, float32; the largest stays so, alone.

    Plain division can round two unequal logits to the same number, and then the predicted label changes.
    """
    logits = _float32_at_least(logits)
    largest = logits.amax(1, keepdim=True)
    divided = ((logits - largest) / temperature).float()
    return torch.where(logits < largest, divided.clamp(max=-TINY), divided)


def _mean_nll(passes: Passes, corrected: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    total, pixels = 0.0, 0
    for logits, images, labels in passes:
        with torch.no_grad():
            nll = F.cross_entropy(corrected(logits, images), labels, ignore_index=VOID, reduction="none")
            total += nll.double().sum().item()
            pixels += int((labels != VOID).sum())
    return total / pixels


def _best_temperature(passes: Passes) -> float:
    """The temperature T within its bounds at which the NLL is least.

    The NLL is convex in 1/T: its slope has one root, which Newton's method finds, inside a bracket that shrinks.
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
        if abs(step) <= 1e-5 * inverse:  # Newton's steps square the error, so it is about 1e-10 now
            return 1 / inverse
        ((slope,), (curvature,)) = _slopes(passes, (inverse,))


def refitted_temperatures(passes: Passes, temperature: float, resamples: int = RESAMPLES, seed: int = 1) -> np.ndarray:
    """The best temperature of each resample of the fitting images, `(R,)`: images are drawn with replacement.

    The slope of the NLL by 1/T is a sum over images. It is computed for each image at a few values of 1/T; its root in
    a resample is interpolated between them. The values are spread over what one step of Newton's method from the best
    temperature of all images finds for the resamples.

    Args:
        passes: over the fitting images.
        temperature: the best for all of them.
        resamples: how many.
        seed: of the draws; another one than that of the scored images, which are drawn independently.
    """
    slope, curvature = _image_slopes(passes, np.array([1 / temperature]))

    def step(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        slopes, curvatures = sums["slope"][:, 0], sums["curvature"][:, 0]
        return {"step": np.divide(-slopes, curvatures, out=np.zeros_like(slopes), where=curvatures > 0)}

    steps = resampled(step, [{"slope": slope, "curvature": curvature}], len(slope), resamples, seed)["step"]
    # in the logarithm, so that no step leads below 0; half as far again, since one step is not the whole way
    reach = np.log1p(1.5 * np.abs(steps).max() * temperature)
    lowest, highest = np.clip(np.exp([-reach, reach]) / temperature, 1 / HIGHEST, 1 / LOWEST)
    inverses = np.geomspace(lowest, highest, NODES)
    slope, _ = _image_slopes(passes, inverses)

    def root(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        slopes = sums["slope"]  # (R, NODES), rising: the NLL is convex
        right = np.clip((slopes < 0).sum(1), 1, NODES - 1)[:, None]
        low, high = (np.take_along_axis(slopes, right - place, 1)[:, 0] for place in (1, 0))
        part = np.clip(np.divide(-low, high - low, out=np.zeros_like(low), where=high > low), 0, 1)
        logs = np.log(inverses)
        return {"temperature": np.exp(-(logs[right[:, 0] - 1] * (1 - part) + logs[right[:, 0]] * part))}

    return resampled(root, [{"slope": slope}], len(slope), resamples, seed)["temperature"]


def _image_slopes(passes: Passes, inverses: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of both `_derivatives` over each image's pixels, at each of K values of 1/T; `(N, K)` float64 each."""
    found: list[np.ndarray] = []
    for logits, _, labels in passes:
        for inverse in inverses:
            pair = _derivatives(logits, labels, float(inverse))
            found.append(torch.stack([part.sum((1, 2), dtype=torch.float64) for part in pair]).cpu().numpy())
    count = len(inverses)
    batches = [np.stack(found[start : start + count], -1) for start in range(0, len(found), count)]  # (2, B, K)
    slope, curvature = np.concatenate(batches, 1)
    return slope, curvature


def _slopes(passes: Passes, inverses: tuple[float, ...]) -> tuple[list[float], list[float]]:
    """Sums over the pixels of both `_derivatives` at each of the values of 1/T."""
    slopes, curvatures = [0.0] * len(inverses), [0.0] * len(inverses)
    for logits, _, labels in passes:
        for index, inverse in enumerate(inverses):
            slope, curvature = _derivatives(logits, labels, inverse)
            slopes[index] += slope.double().sum().item()
            curvatures[index] += curvature.double().sum().item()
    return slopes, curvatures


@torch.no_grad()
def _derivatives(
    logits: torch.Tensor, labels: torch.Tensor, inverse: torch.Tensor | float
) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second derivative of each pixel's NLL by 1/T, `(B, H, W)`; 0 at void pixels.

    With p the softmax of the logits z over T, and y the true class: E_p[z] - z_y, and Var_p[z].
    """
    valid = labels != VOID
    shifted = logits - logits.amax(1, keepdim=True)
    true = shifted.gather(1, torch.where(valid, labels, 0)[:, None])[:, 0]
    weighted = (shifted * inverse).exp_()
    total = weighted.sum(1)
    mean = weighted.mul_(shifted).sum(1) / total
    variance = weighted.mul_(shifted).sum(1) / total - mean.square()
    return torch.where(valid, mean - true, 0), torch.where(valid, variance, 0)


def _moments(passes: Passes, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation, never 0, of each class's logits over the non-void pixels, `(C,)` float64."""
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
    """Mean NLL of `weight * logits + bias`, and its gradient, float64; values and gradient `(2, C)`."""
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
