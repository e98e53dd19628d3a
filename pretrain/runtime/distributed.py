"""The only file that uses torch.distributed; with a single process every function is a no-op or returns its input.

torchrun or a chain on Slurm starts the ranks, one per GPU; RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT
describe the group. Local observations (clock, files, signals) may differ between ranks, so a branch that contains a
collective must be decided by `any_rank` or `on_main`.
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
"""Timeout after which a waiting rank fails, assuming that another rank has died."""
Value = TypeVar("Value")


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the process group for the block, with nccl on CUDA and gloo on a CPU; no-op for a single process.

    On CUDA, gloo is also set up for CPU tensors, so that flags and counts do not wait for the GPU's queue of kernels.
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
    """Return the index of this process, and of its GPU, on its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def rank() -> int:
    """Return the rank of this process; 0 for a single process."""
    return torch_distributed.get_rank() if torch_distributed.is_initialized() else 0


def world_size() -> int:
    """Return the number of ranks; 1 for a single process."""
    return torch_distributed.get_world_size() if torch_distributed.is_initialized() else 1


def is_main() -> bool:
    """Return whether this is the main rank, the only one that writes files and logs."""
    return rank() == 0


def gather(tensor: Tensor) -> Tensor:
    """Return the rows of all ranks, in rank order, without gradient; every rank must pass equally many."""
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
    """Return the rows of all ranks, in rank order; gradients flow back to each row's rank."""
    if world_size() == 1:
        return tensor
    gathered: Tensor = _GatherWithGradient.apply(tensor)
    return gathered


def shuffle(batch: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return this rank's rows of the permuted global batch, and the permutation that `unshuffle` undoes.

    Shuffling BN (He et al., CVPR 2020, section 3.3): a query and its key must not share batch statistics with the same
    rows. Every rank draws the same permutation from a generator in the same state, so it is not communicated.

    Args:
        batch: (B, …), this rank's share.
        generator: a CPU generator, in the same state on all ranks.

    """
    permutation = torch.randperm(len(batch) * world_size(), generator=generator).to(batch.device)
    mine = permutation.view(world_size(), -1)[rank()]
    return gather(batch)[mine], permutation


def unshuffle(rows: Tensor, permutation: Tensor) -> Tensor:
    """Return all ranks' rows in the order of the global batch before `shuffle`: (B × ranks, D)."""
    return gather(rows)[permutation.argsort()]


def average_gradients_of(model: nn.Module) -> nn.Module:
    """Return `model` wrapped to average gradients over the ranks in the backward pass; `model` itself for one rank.

    DistributedDataParallel sends a layer's gradients while the backward pass computes the preceding layers. BatchNorm
    statistics are not synchronised.
    """
    if world_size() == 1:
        return model
    return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)


def hold_gradients(model: nn.Module, hold: bool) -> AbstractContextManager[None]:
    """Return DistributedDataParallel's no_sync() if `hold` (while accumulating gradients); else a null context."""
    return model.no_sync() if hold and isinstance(model, DistributedDataParallel) else nullcontext()


def any_rank(*flags: bool) -> list[bool]:
    """Return for each flag whether it is true on any rank; a collective, so every rank must call it."""
    if world_size() == 1:
        return list(flags)
    answer = torch.tensor(flags, dtype=torch.uint8)
    torch_distributed.all_reduce(answer, torch_distributed.ReduceOp.MAX)
    return [bool(flag) for flag in answer.tolist()]


def on_main(work: Callable[[], Value]) -> Value:
    """Run `work()` on the main rank only and return its result, or raise its exception, on every rank.

    Use it for whatever ranks may see differently, such as files that another host has just written.
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
    """Return the sum of `count` over the ranks; a collective, so every rank must call it."""
    return int(sum_in_place(torch.tensor(count)))


def all_equal(number: int) -> bool:
    """Return whether `number`, such as a checksum, is the same on every rank."""
    if world_size() == 1:
        return True
    bounds = torch.tensor([number, -number])
    torch_distributed.all_reduce(bounds, torch_distributed.ReduceOp.MAX)
    return bool(bounds[0] == -bounds[1])


def sum_in_place(values: Tensor) -> Tensor:
    """Replace `values` in place by their sum over the ranks, bit-identical on each, and return them."""
    if world_size() > 1:
        torch_distributed.all_reduce(values)
        torch_distributed.broadcast(values, 0)  # a reduction may round differently on different ranks
    return values


def copy_from_main(values: Tensor) -> None:
    """Replace `values` in place by those of the main rank."""
    if world_size() > 1:
        torch_distributed.broadcast(values, 0)


def average_gradients(model: nn.Module) -> None:
    """Replace each gradient by its mean over the ranks, for a model that `average_gradients_of` does not wrap."""
    if world_size() == 1:
        return
    for parameter in model.parameters():
        if parameter.grad is not None:
            torch_distributed.all_reduce(parameter.grad)
            parameter.grad /= world_size()


def barrier() -> None:
    """Wait until every rank has called this function."""
    if world_size() > 1:
        torch_distributed.all_reduce(torch.zeros(1))  # a CPU tensor, so as not to wait for the GPU
