"""Let ranks that train a small head share work: who is main, rows gathered, gradients averaged.

Everything here does nothing, or answers for itself, when there is one process; `transfer.process_group` starts several.
"""

import torch
from torch import Tensor, nn

from transfer.process_group import world_size


def own_rank() -> int:
    """Return this process's rank, 0 when it is alone."""
    return torch.distributed.get_rank() if world_size() > 1 else 0


def is_main() -> bool:
    """Return whether this process writes files."""
    return own_rank() == 0


def wait_for_all() -> None:
    """Return when every rank has come here."""
    if world_size() > 1:
        torch.distributed.barrier()


def gather_rows(values: Tensor) -> Tensor:
    """Return every rank's rows (n, …), the ranks in order; each must bring equally many."""
    if world_size() == 1:
        return values
    parts = [torch.empty_like(values) for _ in range(world_size())]
    torch.distributed.all_gather(parts, values.contiguous())
    return torch.cat(parts)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the ranks."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= world_size()
