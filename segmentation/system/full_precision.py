"""Computing in float32 proper, whatever the training used. Goes along with logged models, so it imports nothing else.

NVIDIA's GPUs compute convolutions in TF32 unless told otherwise: float32 with a mantissa of 10 bits instead of 23.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

_LOCK = threading.Lock()
_before: list[str] = []
"""What was set before the first of the threads that are inside."""
_inside = 0


@contextmanager
def full_precision() -> Iterator[None]:
    """Inside the `with`, float32 is computed without TF32; other threads may be inside at the same time."""
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
