"""Assign samples to ranks and steps, as a pure function of seed, epoch, step and the number of ranks."""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from torch.utils.data import Sampler

Request = tuple[int, int]
"""(epoch, sample index), which together with the seed determine a view's random numbers."""


class ShardedSampler(Sampler[list[Request]]):
    """Yield this rank's share of each global batch, from `start_step` of `epoch` on.

    An epoch is one permutation of all samples, split into global batches of `global_batch`; an incomplete last batch is
    dropped, for any number of ranks. Rank r of R takes the r-th of R equal slices of every global batch, so a run that
    stops after a step can resume with any R that divides the batch, without repeating or dropping a sample.
    """

    def __init__(self, num_samples: int, global_batch: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank {rank} is not among {world_size} ranks")
        if global_batch < 1 or global_batch % world_size:
            raise ValueError(
                f"the global batch of {global_batch} cannot be split evenly over {world_size} ranks; choose a multiple"
            )
        if num_samples < global_batch:
            raise ValueError(
                f"{num_samples} samples do not fill one global batch of {global_batch}; choose a smaller batch"
            )
        self.num_samples, self.global_batch, self.seed = num_samples, global_batch, seed
        self.rank, self.world_size = rank, world_size
        self.epoch = self.start_step = 0

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of full global batches in an epoch."""
        return self.num_samples // self.global_batch

    def set_position(self, epoch: int, start_step: int = 0) -> None:
        """Start the next iteration at step `start_step` (0-based) of `epoch`."""
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"step {start_step} is not in an epoch of {self.steps_per_epoch} steps")
        self.epoch, self.start_step = epoch, start_step

    def __len__(self) -> int:
        """Return the number of steps of the next iteration."""
        return self.steps_per_epoch - self.start_step

    def __iter__(self) -> Iterator[list[Request]]:
        epoch, order = self.epoch, permute(self.num_samples, self.seed, self.epoch)
        share = self.global_batch // self.world_size
        for step in range(self.start_step, self.steps_per_epoch):
            begin = step * self.global_batch + self.rank * share
            yield [(epoch, index) for index in order[begin : begin + share].tolist()]


def permute(num_samples: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """Return the order of all samples in `epoch`."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_samples)
