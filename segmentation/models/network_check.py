"""Check of a user's own network before it is trained: what its forward pass returns, and for which sizes it works."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import nn

from segmentation.config import TrainingConfig
from segmentation.errors import InputError, listed
from segmentation.models.model_code import DIVISORS, ModelCode
from segmentation.models.network_outputs import named
from segmentation.models.segmenter import BACKBONES, Segmenter

ODD_SIZE = (DIVISORS[-1] + 1, 2 * DIVISORS[-1] + 1)
"""Height and width of an image that no divisor divides. Padded to multiples of one, larger ones do not divide it."""


def check_network(model: Segmenter, config: TrainingConfig, classes: int, size: tuple[int, int]) -> ModelCode:
    """Return the code of an own network with the divisor of its input sizes, after a check on random images.

    Args:
        model: with the code of an own network; unchanged.
        config: the fields that need a backbone, batch norm or an auxiliary output.
        classes: number of channels that the logits must have.
        size: height and width of the training images.

    Raises:
        InputError: the network does not return logits, or lacks what a field needs.
    """
    code = model.code
    assert code is not None
    _check_fields(model, config, code)
    network = copy.deepcopy(model.network)
    channels = model.mean.shape[1]
    with _repeatable():
        divisor = _divisor(network, code, channels, size)
        padded = tuple(-(-side // divisor) * divisor for side in size)
        images = torch.randn(2, channels, *padded)
        for training in (True, False):
            network.train(training)
            returned = _run(network, images, code)
            outputs = named(returned)
            mode = "in training" if training else "in evaluation"
            if "out" not in outputs:
                keys = f" with the keys {listed(map(str, returned))}" if isinstance(returned, dict) else ""
                raise InputError(
                    f"model={code.function}: the network returns {type(returned).__name__}{keys} {mode}; it must "
                    f"return logits (B, C, H, W), or a dictionary with them as `out`"
                )
            if training and config.auxiliary_loss and "aux" not in outputs:
                raise InputError(
                    f"auxiliary_loss={config.auxiliary_loss}: model={code.function} must return a dictionary with "
                    f"`out` and `aux` in training; or set auxiliary_loss to 0"
                )
            for name, logits in outputs.items():
                _check_logits(logits, f"`{name}` of model={code.function} {mode}", classes)
    return replace(code, divisor=divisor)


def _check_fields(model: Segmenter, config: TrainingConfig, code: ModelCode) -> None:
    """Raise an `InputError` for fields that have no effect on this network."""
    needing = {
        "freeze_backbone": config.freeze_backbone not in (None, 0),
        "freeze_batch_norm": bool(config.freeze_batch_norm),
        "backbone_learning_rate_factor": config.backbone_learning_rate_factor not in (None, 1.0),
        "head_learning_rate_factor": config.head_learning_rate_factor != 1.0,
    }
    given = [f"{name}={getattr(config, name)}" for name, is_given in needing.items() if is_given]
    if given and model.backbone_name is None:
        raise InputError(
            f"{listed(given)}: the network of model={code.function} has no part called {' or '.join(BACKBONES)}; name "
            f"its backbone so, or leave these fields and recipe out"
        )
    if config.batch_norm_momentum is not None and not any(isinstance(each, nn.BatchNorm2d) for each in model.modules()):
        raise InputError(
            f"batch_norm_momentum={config.batch_norm_momentum}: the network of model={code.function} has no batch norm "
            f"(torch.nn.BatchNorm2d); leave the field out"
        )
    frozen = [name for name, each in model.backbone.named_parameters() if not each.requires_grad]
    if frozen:
        raise InputError(
            f"model={code.function}: {model.backbone_name}.{listed(frozen, 2)} do not require gradients; return them "
            f"trainable, and set freeze_backbone to the number of epochs in which the backbone stays frozen"
        )


@contextmanager
def _repeatable() -> Iterator[None]:
    """Inside the `with`, random numbers are the same every time; afterwards torch's generator is as before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def _divisor(network: nn.Module, code: ModelCode, channels: int, size: tuple[int, int]) -> int:
    """Return the number that the sides of the input must be multiples of: the smallest of `DIVISORS` that works.

    A network that only takes images of the training size has 1.
    """
    network.eval()
    for divisor in DIVISORS:
        height, width = (-(-side // divisor) * divisor for side in ODD_SIZE)
        try:
            _run(network, torch.randn(1, channels, height, width), code)
        except InputError:
            continue
        return divisor
    _run(network, torch.randn(1, channels, *size), code)
    print(
        f"Note: model={code.function} takes images of {size[1]} x {size[0]} pixels, but not of other sizes: it can "
        f"neither predict nor score images at their original size."
    )
    return 1


def _run(network: nn.Module, images: torch.Tensor, code: ModelCode) -> object:
    try:
        with torch.no_grad():
            return network(images)
    except Exception as error:
        raise code.failed(f"its forward pass of images {tuple(images.shape)}", error) from error


def _check_logits(logits: torch.Tensor, name: str, classes: int) -> None:
    if logits.ndim != 4 or len(logits) != 2 or not logits.is_floating_point():
        raise InputError(
            f"{name} is {logits.dtype} of shape {tuple(logits.shape)} for 2 images; it must be logits (B, C, H, W)"
        )
    if logits.shape[1] != classes:
        raise InputError(
            f"{name} has {logits.shape[1]} channels, but the data have {classes} classes: build the last layer with "
            f"`classes` output channels"
        )
    if not logits.isfinite().all():
        raise InputError(f"{name} is NaN or infinite for random images: check how its layers are initialized")
    sums = logits.sum(1)
    if classes > 1 and logits.min() >= 0 and torch.allclose(sums, torch.ones_like(sums), atol=1e-4):
        raise InputError(f"{name} is a probability, not a logit: leave out the softmax at the end of the network")
