"""Loops over pixels or images as machine code, where no library has one that fits."""

from collections.abc import Callable
from typing import Any

from numba import njit


def compiled(signature: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Compile at once, and keep it on disk for the next process wherever a folder can be written."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz", "reassoc"}}

    def compile_it(function: Callable[..., Any]) -> Callable[..., Any]:
        try:
            return njit(signature, cache=True, **options)(function)
        except RuntimeError:  # nowhere to keep it
            return njit(signature, **options)(function)

    return compile_it
