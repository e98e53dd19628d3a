"""Random generators as pure functions of (seed, step, rank), so that an exact resume needs no stored state."""

from dataclasses import dataclass

import numpy as np
import torch

from pretrain.runtime import distributed


@dataclass(frozen=True)
class Generators:
    """Random generators of one step on this rank."""

    mixing: torch.Generator
    """For the mixes, on the training device; different on every rank."""
    shuffle: torch.Generator
    """For the shuffle of the key batch, on the CPU; the same on all ranks."""


def make_generators(seed: int, step: int, device: torch.device, part: int = 0) -> Generators:
    """Return the generators of accumulation slice `part` of `step`."""
    own = torch.Generator(device)
    own.manual_seed(_derive(seed, step, part, distributed.rank() + 1))
    shared = torch.Generator()
    shared.manual_seed(_derive(seed, step, part, 0))
    return Generators(own, shared)


def _derive(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
