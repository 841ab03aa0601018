"""Every loss beside its definition written out pixel by pixel, and its independence of micro-batches."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from segmentation.config import TrainingConfig
from segmentation.training import losses
from segmentation.training.losses import (
    LOSSES,
    cross_entropy_sum,
    dice_sum,
    focal_sum,
    lovasz_sum,
    totals,
    training_loss,
)

WEIGHTS = torch.tensor([0.5, 2.0, 1.25])


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `(4, 3, 5, 6)` and masks with void; the second image lacks class 2, the last is all void."""
    random = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(4, 3, 5, 6, generator=random)
    masks = torch.randint(0, 3, (4, 5, 6), generator=random)
    masks[1][masks[1] == 2] = 0
    masks[torch.rand(masks.shape, generator=random) < 0.2] = 255
    masks[3] = 255
    return logits, masks.byte()


def labelled(logits: torch.Tensor, masks: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Softmax probabilities `(C, N)` and labels `(N,)` of the non-void pixels of each image that has some."""
    images = zip(logits.double().softmax(1).numpy(), masks.numpy(), strict=True)
    return [(p[:, mask != 255], mask[mask != 255]) for p, mask in images if (mask != 255).any()]


def test_cross_entropy_is_summed_over_non_void_pixels() -> None:
    logits = torch.tensor([[[[0.0, 5.0, 1.0]], [[math.log(3), 0.0, 2.0]]]])
    masks = torch.tensor([[[1, 255, 0]]], dtype=torch.uint8)
    expected = -math.log(3 / 4) - (1 - math.log(math.e + math.e**2))
    assert cross_entropy_sum(logits, masks).item() == pytest.approx(expected, rel=1e-5)
    assert cross_entropy_sum(logits.bfloat16(), masks).dtype == torch.float32


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_loss_is_its_definition(batch: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor | None) -> None:
    expected = 0.0
    for probabilities, labels in labelled(*batch):
        for pixel, label in enumerate(labels):
            p = probabilities[label, pixel]
            expected -= (1.0 if weights is None else float(weights[label])) * (1 - p) ** 1.5 * math.log(p)
    assert focal_sum(*batch, 1.5, weights).item() == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(focal_sum(*batch, 0.0, weights), cross_entropy_sum(*batch, weights))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_dice_loss_is_its_definition(batch: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor | None) -> None:
    expected = 0.0
    for probabilities, labels in labelled(*batch):
        values, shares = [], []
        for index in np.unique(labels):
            y = labels == index
            values.append(1 - 2 * probabilities[index][y].sum() / (probabilities[index].sum() + y.sum()))
            shares.append(1.0 if weights is None else float(weights[index]))
        expected += np.average(values, weights=shares)
    assert dice_sum(*batch, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_lovasz_loss_is_the_lovasz_extension_of_the_jaccard_loss(
    batch: tuple[torch.Tensor, torch.Tensor], weights: torch.Tensor | None
) -> None:
    """The extension of a set function `f` at `m`: over the level sets of `m`, the integral of `f` of the level set."""
    expected = 0.0
    for probabilities, labels in labelled(*batch):
        values, shares = [], []
        for index in np.unique(labels):
            y = labels == index
            errors = np.abs(y - probabilities[index])
            levels = np.concatenate([[0.0], np.sort(errors)])
            value = 0.0
            for low, high in itertools.pairwise(levels):
                wrong = errors >= high
                value += (high - low) * (1 - (y & ~wrong).sum() / (y | wrong).sum())
            values.append(value)
            shares.append(1.0 if weights is None else float(weights[index]))
        expected += np.average(values, weights=shares)
    assert lovasz_sum(*batch, weights).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("smoothing", "weights"), [(0.0, None), (0.0, WEIGHTS), (0.1, None), (0.1, WEIGHTS)]
)  # fmt: skip
def test_the_weighted_cross_entropy_is_torch_s_mean(
    batch: tuple[torch.Tensor, torch.Tensor], smoothing: float, weights: torch.Tensor | None
) -> None:
    logits, masks = batch
    config = TrainingConfig(label_smoothing=smoothing)
    loss, logged = training_loss({"out": logits}, masks, config, totals(masks, weights), weights)
    expected = F.cross_entropy(logits, masks.long(), weights, ignore_index=255, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(logged, F.cross_entropy(logits, masks.long(), ignore_index=255, reduction="sum"))


@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_micro_batches_add_up(
    batch: tuple[torch.Tensor, torch.Tensor], loss: Any, weights: torch.Tensor | None
) -> None:
    logits, masks = batch
    config, whole = TrainingConfig(loss=loss), totals(masks, weights)
    assert whole.images == 3
    at_once = training_loss({"out": logits}, masks, config, whole, weights)
    parts = [training_loss({"out": logits[i : i + 1]}, masks[i : i + 1], config, whole, weights) for i in range(4)]
    for value, of_parts in zip(at_once, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(torch.stack(of_parts).sum(), value)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_against_the_gradient_reduces_the_loss(batch: tuple[torch.Tensor, torch.Tensor], loss: Any) -> None:
    logits, masks = batch
    config, whole = TrainingConfig(loss=loss), totals(masks, None)
    logits.requires_grad_()
    before, _ = training_loss({"out": logits}, masks, config, whole)
    before.backward()
    assert logits.grad is not None
    assert not logits.grad[(masks == 255)[:, None].expand_as(logits)].any(), "void pixels have no gradient"
    after, _ = training_loss({"out": logits.detach() - 0.1 * logits.grad}, masks, config, whole)
    assert after < before


@pytest.mark.parametrize("loss", LOSSES)
def test_the_loss_of_void_images_is_0_without_gradient(loss: Any) -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    masks = torch.full((2, 4, 4), 255, dtype=torch.uint8)
    other = torch.zeros(1, 4, 4, dtype=torch.uint8)
    value, logged = training_loss({"out": logits}, masks, TrainingConfig(loss=loss), totals(other, None))
    value.backward()
    assert value.item() == logged.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_auxiliary_loss_is_added_with_its_weight() -> None:
    random = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(2, 3, 4, 4, generator=random) for name in ("out", "aux")}
    masks = torch.randint(0, 3, (2, 4, 4), generator=random).byte()
    whole = totals(masks, None)
    main, auxiliary = (cross_entropy_sum(outputs[name], masks) for name in ("out", "aux"))
    total, logged = training_loss(outputs, masks, TrainingConfig(auxiliary_loss=0.4), whole)
    torch.testing.assert_close(total, (main + 0.4 * auxiliary) / 32)
    assert logged == main
    assert training_loss(outputs, masks, TrainingConfig(), whole) == (main / 32, main)


def test_a_new_loss_changes_this_module_and_the_configuration_only() -> None:
    files = Path(losses.__file__).parent.glob("*.py")
    assert [file.name for file in files if "cross_entropy" in file.read_text()] == ["losses.py"]
    assert set(LOSSES) == set(TrainingConfig.__dataclass_fields__["loss"].type.__args__)  # type: ignore[union-attr]
