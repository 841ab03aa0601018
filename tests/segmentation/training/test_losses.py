import math
from pathlib import Path

import pytest
import torch

from segmentation.config import TrainingConfig
from segmentation.training import losses
from segmentation.training.losses import cross_entropy_sum, training_loss


def test_cross_entropy_is_summed_over_non_void_pixels() -> None:
    logits = torch.tensor([[[[0.0, 5.0, 1.0]], [[math.log(3), 0.0, 2.0]]]])
    masks = torch.tensor([[[1, 255, 0]]], dtype=torch.uint8)
    expected = -math.log(3 / 4) - (1 - math.log(math.e + math.e**2))
    assert cross_entropy_sum(logits, masks).item() == pytest.approx(expected, rel=1e-5)
    assert cross_entropy_sum(logits.bfloat16(), masks).dtype == torch.float32


def test_the_loss_of_a_void_batch_is_0_without_gradient() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = cross_entropy_sum(logits, torch.full((2, 4, 4), 255, dtype=torch.uint8))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert not logits.grad.any()


def test_the_auxiliary_loss_is_added_with_its_weight() -> None:
    random = torch.Generator().manual_seed(0)
    outputs = {name: torch.randn(2, 3, 4, 4, generator=random) for name in ("out", "aux")}
    masks = torch.randint(0, 3, (2, 4, 4), generator=random)
    main, auxiliary = (cross_entropy_sum(outputs[name], masks) for name in ("out", "aux"))
    total, logged = training_loss(outputs, masks, TrainingConfig(auxiliary_loss=0.4))
    torch.testing.assert_close(total, main + 0.4 * auxiliary)
    assert logged == main
    assert training_loss(outputs, masks, TrainingConfig()) == (main, main)


def test_a_new_loss_changes_this_module_and_the_configuration_only() -> None:
    files = Path(losses.__file__).parent.glob("*.py")
    assert [file.name for file in files if "cross_entropy" in file.read_text()] == ["losses.py"]
