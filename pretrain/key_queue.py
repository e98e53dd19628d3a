"""Keep the newest K keys, first in, first out, with the index and the class of the image each came from.

Shapes: K the queue's length, D the width of a key, B the keys that come in at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNKNOWN = -1
"""Index and label of the random rows that the queue begins with: equal to no image and no class."""


@dataclass(frozen=True)
class KnownKeys:
    """Embeddings that queries are held against, the newest first, and where each comes from."""

    keys: Tensor  # (K, D) of unit length
    indices: Tensor  # (K,) sample index of the image, or UNKNOWN
    labels: Tensor  # (K,) class of the image, or UNKNOWN


class KeyQueue(nn.Module):
    """K unit-length keys as buffers: they move, save and load with the model.

    The memory layout is (K, D), rows contiguous: products and gathers read whole keys. A checkpoint in MoCo's format
    holds the transpose (facebookresearch/moco, moco/builder.py: `queue` is (dim, K)).
    """

    keys: Tensor
    indices: Tensor
    labels: Tensor
    pointer: Tensor

    def __init__(self, length: int, dim: int, *, generator: torch.Generator | None = None) -> None:
        """Fill the queue with random unit rows.

        Args:
            length: K, at least 1.
            dim: D.
            generator: of the initial rows; ranks must agree on it.

        """
        super().__init__()
        if length < 1 or dim < 1:
            raise ValueError(f"a queue needs at least one key of width one; got length {length}, width {dim}")
        self.register_buffer("keys", F.normalize(torch.randn(length, dim, generator=generator), dim=1))
        self.register_buffer("indices", torch.full((length,), UNKNOWN))
        self.register_buffer("labels", torch.full((length,), UNKNOWN))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """Return K."""
        return len(self.keys)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, indices: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Put (B, D) keys in place of the oldest ones; exact at the wrap, whatever B and K.

        Of more keys than the queue holds, the newest K stay. Ranks must pass the same keys in the same order.

        Args:
            keys: (B, D), unit length.
            indices: (B,) sample index of each key's image; unknown if None.
            labels: (B,) class of each key's image; unknown if None.

        """
        begin = max(0, len(keys) - len(self))
        end = int(self.pointer) + len(keys)
        places = torch.arange(int(self.pointer) + begin, end, device=self.keys.device) % len(self)
        self.keys[places] = keys[begin:].to(self.keys.dtype)
        self.indices[places] = torch.tensor(UNKNOWN) if indices is None else indices[begin:]
        self.labels[places] = UNKNOWN if labels is None else labels[begin:]
        self.pointer.fill_(end % len(self))

    def newest_first(self, count: int | None = None) -> KnownKeys:
        """Return a copy of the newest `count` keys (all K if None or more than K), the newest first."""
        count = len(self) if count is None else min(count, len(self))
        order = (self.pointer - 1 - torch.arange(count, device=self.keys.device)) % len(self)
        return KnownKeys(self.keys[order], self.indices[order], self.labels[order])

    def digest(self) -> int:
        """Return a number that differs when the keys' bytes do: ranks compare it."""
        words = self.keys.view(torch.int32).long()
        places = torch.arange(1, words.numel() + 1, device=words.device).view_as(words)
        return int((words * places).sum())
