from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from segmentation.errors import InputError
from segmentation.models.network_check import check_network
from segmentation.models.network_outputs import network_outputs
from segmentation.models.segmenter import build
from studies.config import TrainConfig
from tests.segmentation.models.own import TEN_LINES, U_NET, written

BODY = "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, classes, channels):\n        super().__init__()\n        self.layer = nn.Conv2d(channels, classes, 1)\n\n    def forward(self, x):\n        y = self.layer(x)\n        return RETURNED\n\n\ndef net(classes, channels):\n    return Net(classes, channels)\n"  # noqa: E501


def checked(text: str, function: str = "net", size: tuple[int, int] = (32, 32), **fields: Any) -> int:
    """The divisor that the check of a network finds."""
    written({"my_models.py": text}, f"my_models:{function}")
    config = TrainConfig(model=f"my_models:{function}", **fields)
    model = build(config, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    random = torch.get_rng_state()
    found = check_network(model, config, 3, size).divisor
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    return found


def test_the_sides_that_a_network_takes_are_found() -> None:
    assert checked(TEN_LINES) == 1
    assert checked(U_NET, "unet", freeze_backbone=1) == 4  # two times halved


def test_a_network_of_one_size_is_used_at_that_size_with_a_note(capsys: pytest.CaptureFixture[str]) -> None:
    text = BODY.replace("RETURNED", "y + torch.zeros(1, 1, 32, 48)")
    assert checked(text, size=(32, 48)) == 1
    assert "48 x 32 pixels, but not of other sizes" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("returned", "parts"),
    [
        ("[y]", ["returns list in training", "dictionary with them as `out`"]),
        ("{'logits': y}", ["returns dict with the keys logits"]),
        ("y.softmax(1)", ["`out`", "is a probability", "softmax"]),
        ("{'out': y, 'aux': y[:, :1]}", ["`aux`", "has 1 channels", "3 classes"]),
        ("torch.cat([y, y], 1)", ["has 6 channels", "3 classes"]),
        ("y / 0 * 0", ["NaN or infinite"]),
        ("y.argmax(1)", ["torch.int64 of shape (2, 32, 32)"]),
        ("y.mean((2, 3))", ["shape (2, 3)"]),
        ("y if self.training else [y]", ["returns list in evaluation"]),
        ("undefined", ["its forward pass of images (1, 3, 32, 32) raised NameError", "my_models.py, line 12"]),
    ],
)
def test_a_network_that_returns_no_logits_is_refused(returned: str, parts: list[str]) -> None:
    with pytest.raises(InputError) as caught:
        checked(BODY.replace("RETURNED", returned))
    for part in ["my_models:net", *parts]:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"freeze_backbone": 1}, "freeze_backbone=1"),
        ({"recipe": "frozen_batch_norm"}, "freeze_batch_norm=True"),
        ({"backbone_learning_rate_factor": 0.1}, "backbone_learning_rate_factor=0.1"),
        ({"head_learning_rate_factor": 10.0}, "head_learning_rate_factor=10.0"),
        ({"batch_norm_momentum": 0.1}, "batch_norm_momentum=0.1"),
        ({"auxiliary_loss": 0.5}, "auxiliary_loss=0.5"),
    ],
)
def test_fields_without_effect_on_a_network_are_refused(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(InputError, match=name):
        checked(TEN_LINES, **fields)


def test_a_backbone_that_the_function_has_frozen_is_refused() -> None:
    frozen = (
        U_NET.replace("    return UNet(", "    made = UNet(")
        + "    made.encoder.requires_grad_(False)\n    return made\n"
    )
    with pytest.raises(InputError, match=r"encoder\.0\.0\.weight.*set freeze_backbone"):
        checked(frozen, "unet")


@pytest.mark.parametrize(("fields", "message"), [
    ({"model": "fcn_resnet5"}, "Did you mean 'fcn_resnet50'.*PACKAGE.MODULE:FUNCTION"),
    ({"model": "my models:net"}, "model='my models:net' is not of the form"),
    ({"model": "a:b:c"}, "model='a:b:c'"),
    ({"model": "my_models:"}, "model='my_models:'"),
    ({"model": "my_models:net", "weights": "imagenet"}, "weights=imagenet.*model=my_models:net.*in its function"),
    ({"model": "my_models:net", "weights": "coco"}, "weights=coco"),
])  # fmt: skip
def test_names_of_models_are_checked_without_an_import(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**fields)
    assert not Path("my_models.py").exists()


def test_small_logits_are_resized_and_odd_images_are_padded_at_the_border() -> None:
    images = torch.randn(2, 3, 9, 14)
    pool = nn.AvgPool2d(2, 2)
    found = network_outputs(pool, images, divisor=4)["out"]
    padded = torch.cat([images, images[:, :, -1:].expand(-1, -1, 3, -1)], 2)
    padded = torch.cat([padded, padded[..., -1:].expand(-1, -1, -1, 2)], 3)
    resized = nn.functional.interpolate(pool(padded), size=(12, 16), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, resized[:, :, :9, :14])
    both = network_outputs(lambda x: {"out": x, "aux": pool(x)}, images, divisor=1)  # type: ignore[arg-type]
    assert torch.equal(both["out"], images)
    torch.testing.assert_close(both["aux"], nn.functional.interpolate(pool(images), size=(9, 14), mode="bilinear"))
