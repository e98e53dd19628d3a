"""The only file that uses torch.distributed; with one process every function is a no-op or returns its input.

Ranks are started by torchrun or by a chain on Slurm, one per GPU; RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and
MASTER_PORT describe the group. What a rank sees by itself (its clock, a file, a signal) may differ from what the others
see: a branch that contains a collective must be decided by `any_rank` or `on_main`.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as torch_distributed
from torch.nn.parallel import DistributedDataParallel

COLLECTIVE_TIMEOUT_MIN = 30
"""A rank that waits longer for the others gives up: one of them is gone."""
Value = TypeVar("Value")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the other ranks for the block, with nccl on CUDA and gloo on a CPU; do nothing alone.

    On CUDA the CPU's tensors have gloo as well: flags and counts go round without waiting for the GPU's queue of work.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or torch_distributed.is_initialized():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(local_rank())
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    torch_distributed.init_process_group(backend, timeout=timedelta(minutes=COLLECTIVE_TIMEOUT_MIN))
    try:
        yield
    finally:
        torch_distributed.destroy_process_group()


def local_rank() -> int:
    """Return the index of this process, and of its GPU, on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    """Return this process's number among all."""
    return torch_distributed.get_rank() if torch_distributed.is_initialized() else 0


def world_size() -> int:
    """Return how many processes work together."""
    return torch_distributed.get_world_size() if torch_distributed.is_initialized() else 1


def is_main() -> bool:
    """Return whether this process writes files and talks."""
    return rank() == 0


def gather(tensor: Tensor) -> Tensor:
    """Return the rows of all ranks, in rank order, without gradient; every rank must bring equally many."""
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor) for _ in range(world_size())]
    torch_distributed.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _GatherWithGradient(torch.autograd.Function):
    """All-gather whose backward sums every rank's gradient of this rank's rows."""

    @staticmethod
    def forward(_ctx: object, tensor: Tensor) -> Tensor:
        return gather(tensor)

    @staticmethod
    def backward(_ctx: object, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous()
        torch_distributed.all_reduce(total)
        share = len(total) // world_size()
        return total[rank() * share : (rank() + 1) * share]


def gather_with_gradient(tensor: Tensor) -> Tensor:
    """Return the rows of all ranks; gradients flow back to the rank that each row came from."""
    if world_size() == 1:
        return tensor
    gathered: Tensor = _GatherWithGradient.apply(tensor)
    return gathered


def shuffle(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return this rank's rows of the permuted global batch, and the permutation that `unshuffle` undoes.

    Shuffling BN (He et al., CVPR 2020, section 3.3): the rows whose batch statistics are shared by a query and its key
    must differ. Every rank draws the same permutation from a generator in the same state, so none is sent around.

    Args:
        batch: (B, …), this rank's share.
        generator: on the CPU, in the same state on all ranks.

    """
    permutation = torch.randperm(len(batch) * world_size(), generator=generator).to(batch.device)
    mine = permutation.view(world_size(), -1)[rank()]
    return gather(batch)[mine], permutation


def unshuffle(rows: Tensor, permutation: Tensor) -> Tensor:
    """Return all ranks' rows in the order of the global batch before `shuffle`: (B × ranks, D)."""
    return gather(rows)[permutation.argsort()]


def average_gradients_of(model: nn.Module) -> nn.Module:
    """Return `model` such that its backward averages the gradients over the ranks; alone, `model` itself.

    DistributedDataParallel sends a layer's gradients while the backward is still busy with the layers before it. Batch
    norm's statistics stay each rank's own.
    """
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def hold_gradients(model: nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Return a context in which a backward adds to the gradients without averaging them, if `hold`."""
    return model.no_sync() if hold and isinstance(model, DistributedDataParallel) else nullcontext()


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is true on some rank; every rank must ask."""
    if world_size() == 1:
        return list(flags)
    answer = torch.tensor(flags, dtype=torch.uint8)
    torch_distributed.all_reduce(answer, torch_distributed.ReduceOp.MAX)
    return [bool(flag) for flag in answer.tolist()]


def on_main(work: Callable[[], Value]) -> Value:
    """Return `work()` of the main process on every rank; what it raises is raised on every rank.

    For everything that ranks might see differently, such as files that another host has just written.
    """
    if world_size() == 1:
        return work()
    answer: list[tuple[bool, Value | Exception] | None] = [None]
    if is_main():
        try:
            answer = [(True, work())]
        except Exception as error:  # raised below, here and on the other ranks
            answer = [(False, error)]
    torch_distributed.broadcast_object_list(answer)
    assert answer[0] is not None
    done, value = answer[0]
    if not done:
        assert isinstance(value, Exception)
        raise value
    return value  # type: ignore[return-value]


def mean_over_ranks(value: float) -> float:
    """Return the mean of `value` over the ranks."""
    if world_size() == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64)
    torch_distributed.all_reduce(total)
    return float(total.item()) / world_size()


def add_counts(count: int) -> int:
    """Return the sum of `count` over the ranks; every rank must ask."""
    if world_size() == 1:
        return count
    total = torch.tensor(count)
    torch_distributed.all_reduce(total)
    return int(total)


def all_equal(number: int) -> bool:
    """Return whether every rank has the same integer (a digest of what must be identical)."""
    if world_size() == 1:
        return True
    bounds = torch.tensor([number, -number])
    torch_distributed.all_reduce(bounds, torch_distributed.ReduceOp.MAX)
    return bool(bounds[0] == -bounds[1])


def sum_in_place(values: Tensor) -> Tensor:
    """Replace `values` by their sum over the ranks, the same bits on each, and return them."""
    if world_size() > 1:
        torch_distributed.all_reduce(values)
        torch_distributed.broadcast(values, 0)  # a reduction may round differently on different ranks
    return values


def copy_from_main(values: Tensor) -> None:
    """Replace `values` by the main process's."""
    if world_size() > 1:
        torch_distributed.broadcast(values, 0)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the ranks: for a model that `average_gradients_of` does not wrap."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch_distributed.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def barrier() -> None:
    """Wait for the other ranks."""
    if world_size() > 1:
        torch_distributed.all_reduce(torch.zeros(1))  # on the CPU: nobody waits for a GPU
