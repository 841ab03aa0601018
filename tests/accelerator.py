"""A simulated accelerator without float64, such as Apple's mps, that computes real results on any machine.

Its tensors report the device `meta`, which needs no driver and is neither the CPU nor CUDA. Each of them wraps a tensor
on the CPU, where every operation is computed. As on the real device, an operation with a float64 result raises a
`TypeError`, and one that mixes devices raises a `RuntimeError`. With `has_float64=True` it has float64, as CUDA has.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

DEVICE = torch.device("meta")
NO_FLOAT64 = "Cannot convert a tensor to float64 on a device that does not support it"
MOVES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense.default)
"""Operations whose tensors may be on different devices."""
WAITING = {
    "aten._local_scalar_dense.default", "aten.nonzero.default", "aten.masked_select.default", "aten.bincount.default",
    "aten._unique2.default", "aten.equal.default",
}  # fmt: skip
"""Operations for which a program waits on CUDA until all earlier ones have ended, because it needs a result."""


class OnDevice(torch.Tensor):
    """A tensor on the simulated device."""

    held: torch.Tensor
    has_float64 = False

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> "OnDevice":
        if held.dtype in (torch.float64, torch.complex128) and not cls.has_float64:
            raise TypeError(NO_FLOAT64)
        made: OnDevice = torch.Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE, requires_grad=held.requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(operation, args, kwargs or {})

    def __tensor_flatten__(self) -> tuple[list[str], None]:
        return ["held"], None

    @staticmethod
    def __tensor_unflatten__(inner: dict[str, torch.Tensor], *_: Any) -> "OnDevice":
        return OnDevice(inner["held"])


class Device(TorchDispatchMode):
    """Intercepts all operations, including those that create tensors on a device."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: set[str] = set()
        self.layouts: set[str] = set()
        """Memory formats of the inputs of batch norm on the device."""
        self.waits: list[str] = []
        """Operations on the device for whose result the program waits, copies to the CPU included."""
        self.received = 0
        """Number of copies from the CPU to the device."""

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_device = any(isinstance(each, OnDevice) for each in tree_flatten((args, kwargs))[0])
        if on_device:
            self.operations.add(str(operation))
            if "batch_norm" in str(operation) and args[0].ndim == 4:
                self.layouts.add("contiguous" if args[0].is_contiguous() else "other")
            by_mask = "aten.index" in str(operation) and any(
                isinstance(each, torch.Tensor) and each.dtype == torch.bool for each in tree_flatten(args[1])[0]
            )
            leaves = operation in MOVES and (kwargs or {}).get("device") == torch.device("cpu")
            if str(operation) in WAITING or by_mask or leaves:
                self.waits.append(str(operation))
        elif operation in MOVES and (kwargs or {}).get("device") == DEVICE:
            self.received += 1
        return computed(operation, args, kwargs or {})


def computed(operation: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Compute an operation on the CPU; its result is on the device if its inputs are or if that was requested."""
    tensors = [each for each in tree_flatten((args, kwargs))[0] if isinstance(each, torch.Tensor)]
    on_device = any(isinstance(each, OnDevice) for each in tensors)
    others = [each for each in tensors if not isinstance(each, OnDevice) and each.ndim]
    if on_device and others and operation not in MOVES:
        raise RuntimeError(f"{operation}: expected all tensors to be on the same device, this one and cpu were found")
    device = kwargs.get("device")
    if device is not None:
        on_device = torch.device(device).type == DEVICE.type
        kwargs = kwargs | {"device": torch.device("cpu") if on_device else device}
    if operation is torch.ops.aten.copy_.default:
        on_device = isinstance(args[0], OnDevice)
    on_cpu = tree_map(lambda each: each.held if isinstance(each, OnDevice) else each, (args, kwargs))
    result = operation(*on_cpu[0], **on_cpu[1])
    if operation._schema.is_mutable and tensors and result is on_cpu[0][0]:
        return args[0]
    return tree_map(lambda each: OnDevice(each) if on_device and isinstance(each, torch.Tensor) else each, result)


@contextmanager
def accelerator(has_float64: bool = False) -> Iterator[Device]:
    """Inside the `with`, `device="meta"` is the simulated device."""
    OnDevice.has_float64 = has_float64
    try:
        with Device() as device:
            yield device
    finally:
        OnDevice.has_float64 = False
