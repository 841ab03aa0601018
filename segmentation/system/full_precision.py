"""Full float32 precision on NVIDIA GPUs. This module is shipped with logged models and imports nothing of the project.

By default, NVIDIA GPUs compute convolutions in TF32, which is float32 with a mantissa of 10 instead of 23 bits.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_before: list[str] = []
"""Settings before the first thread entered `full_precision`."""
_inside = 0
"""Number of threads inside `full_precision`."""


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the `with`, float32 is computed without TF32. Several threads may be inside at the same time."""
    global _inside
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    backends: tuple[Any, ...] = cuda.matmul, cudnn.conv, cudnn.rnn  # type: ignore[attr-defined]
    with _LOCK:
        if _inside == 0:
            _before[:] = [backend.fp32_precision for backend in backends]
            for backend in backends:
                backend.fp32_precision = "ieee"
        _inside += 1
    try:
        yield
    finally:
        with _LOCK:
            _inside -= 1
            if _inside == 0:
                for backend, value in zip(backends, _before, strict=True):
                    backend.fp32_precision = value
