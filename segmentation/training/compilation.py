"""Compiles the network of a model with `torch.compile`, for the training steps and the scoring of each epoch.

Compiled code rounds differently, so metrics are the same to a tolerance only. The modules keep their names, and outside
an epoch, where the model is drawn, stored and exported, it is the ordinary one.
"""

import importlib.util
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segmentation.config import OptimizationConfig
from segmentation.errors import InputError
from segmentation.models.segmenter import Segmenter

SAVED = 0.07
"""Fraction of the time of an epoch that `auto` expects to save, the smaller of those measured: docs/benchmarks.md."""
COST = 120.0
"""Seconds of compilation that `auto` expects: FCN-ResNet-50 on two cores, training and scoring."""
MARGIN = 2.0
"""How many times its cost `auto` expects the compilation to save."""

MODES = 64
"""Modes and sizes, over all networks of this process, that are compiled; equal networks share theirs."""
BACKEND = "inductor"
"""Name of torch's compiler that is used."""


def pays(seconds_left: float) -> bool:
    """Whether `compile=auto` compiles a run whose remaining epochs would take `seconds_left` without.

    With these constants: if more than 57 minutes are left after the first epoch.
    """
    return SAVED * seconds_left > MARGIN * COST


def obstacle(config: OptimizationConfig, device: torch.device, ranks: int) -> str:
    """Why the network cannot be compiled, and what to do; empty if it can.

    Args:
        config: micro-batches are an obstacle: the running statistics of all passes are collected by hooks, which
            compiled code would skip.
        device: of the model.
        ranks: number of processes that train it.
    """
    assert config.micro_batch != "auto", "choose_micro_batch replaces it"
    if config.micro_batch is not None and config.micro_batch < -(-config.batch_size // ranks):
        return f"micro_batch={config.micro_batch} divides a batch of {config.batch_size}: leave micro_batch out"
    if device.type == "cpu" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "a C++ compiler is needed: install g++"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "the package triton is needed: install it"
    if device.type not in ("cpu", "cuda"):
        return f"device={device} is neither a CPU nor an NVIDIA GPU"
    return ""


class Compilation:
    """The compiled network of a model, and the seconds that its compilation has taken so far."""

    def __init__(self, model: Segmenter) -> None:
        self.network = model.network
        self.seconds = 0.0
        self._compiled = torch.compile(model.network._call_impl, backend=BACKEND)
        self._started = 0.0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Inside the `with`, the model runs compiled code. It is compiled when a mode or size is met first.

        Raises:
            InputError: the network cannot be compiled.
        """
        from torch._dynamo import config  # imports for seconds
        from torch._dynamo.callback import callback_handler as handler
        from torch._dynamo.exc import TorchDynamoException

        handler.register_start_callback(self._start)
        handler.register_end_callback(self._end)
        self.network._compiled_call_impl = self._compiled  # as `Module.compile` does, but it can be undone
        try:
            with config.patch(recompile_limit=MODES):
                yield
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError(f"compile=true is not possible: {reason} Set compile=false") from error
        finally:
            self.network._compiled_call_impl = None
            handler.remove_start_callback(self._start)
            handler.remove_end_callback(self._end)

    def _start(self, *_: object) -> None:
        self._started = time.perf_counter()

    def _end(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._started
