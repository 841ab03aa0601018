"""The ranks that train one model together, and the operations between them. A single process is a group of size 1."""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

Rows = TypeVar("Rows", np.ndarray, torch.Tensor)


@dataclass
class ProcessGroup:
    """Rank of this process, number of ranks, and torch's collective operations on numbers and objects."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    """Rank among the processes of this machine."""
    local_size: int = 1
    objects: Any = None
    """torch's process group for objects, which waits longer than the one for gradients; None for a single process."""

    def shard(self, rows: Rows) -> Rows:
        """Every `size`-th row, starting at row `rank`."""
        return rows if self.size == 1 else rows[self.rank :: self.size]

    def sum(self, *values: float) -> tuple[float, ...]:
        """Sum of each value over all ranks, in float64."""
        if self.size == 1:
            return values
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return tuple(sums.tolist())

    def sum_on_device(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of a tensor over all ranks, in place. On a GPU, the sum may still be running when this returns."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def mean(self, values: torch.Tensor) -> torch.Tensor:
        """Mean over all ranks of a tensor on the CPU."""
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    def broadcast(self, value: Any = None) -> Any:
        """The value of rank 0; the argument of the other ranks is ignored."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, src=0, group=self.objects)
        return values[0]

    def send(self, value: Any) -> None:
        """Send an object to rank 0."""
        dist.send_object_list([value], dst=0, group=self.objects)

    def receive(self, rank: int) -> Any:
        """On rank 0, the next object that another rank has sent."""
        values = [None]
        dist.recv_object_list(values, src=rank, group=self.objects)
        return values[0]
