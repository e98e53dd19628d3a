"""One process per GPU: join the others that torchrun or a chain started, agree with them, leave.

Everything here does nothing, or answers for itself, when there is one process.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
from torch import nn

COLLECTIVE_TIMEOUT_MIN = 30
"""A rank that waits longer for the others gives up: one of them is gone."""


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Join the group that RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT describe, for the block."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch.distributed.is_initialized():
        yield
        return
    if device == "cuda":
        torch.cuda.set_device(local_rank())
    backend = "nccl" if device == "cuda" else "gloo"
    torch.distributed.init_process_group(backend, timeout=timedelta(minutes=COLLECTIVE_TIMEOUT_MIN))
    try:
        yield
    finally:
        torch.distributed.destroy_process_group()


def local_rank() -> int:
    """Return the index of this process, and of its GPU, on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def world_size() -> int:
    """Return how many processes work together."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def any_rank(flag: bool, device: str) -> bool:
    """Return whether `flag` is true on some rank; every rank must ask."""
    if world_size() == 1:
        return flag
    answer = torch.tensor(float(flag), device=device)
    torch.distributed.all_reduce(answer, torch.distributed.ReduceOp.MAX)
    return bool(answer.item())


def wrap_model(model: Any, device: str) -> Any:
    """Return `model` with gradients averaged over the ranks; batch norm statistics stay each rank's own business."""
    if world_size() == 1:
        return model
    devices = [local_rank()] if device == "cuda" else None
    return nn.parallel.DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
