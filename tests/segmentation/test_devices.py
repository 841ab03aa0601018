import pytest
import torch

from segmentation.devices import resolve_device, resolve_precision
from segmentation.errors import InputError


def test_auto_takes_what_is_there() -> None:
    kind = resolve_device("auto").type
    assert kind == ("cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu")


@pytest.mark.parametrize("name", ["cuda:99", "tpu9", "meta:x"])
def test_a_device_that_is_not_here_is_told_with_those_that_are(name: str) -> None:
    with pytest.raises(InputError, match=rf"device='{name}' is not here. Present: cpu"):
        resolve_device(name)


def test_precision_on_a_cpu() -> None:
    cpu = torch.device("cpu")
    assert resolve_precision("auto", cpu) == torch.float32
    assert resolve_precision("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(InputError, match="precision=float16 is for GPUs"):
        resolve_precision("float16", cpu)
