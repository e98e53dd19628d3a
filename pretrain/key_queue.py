"""FIFO queue of the newest K keys, with the sample index and the class of each key's image.

Shapes: K the queue's length, D the width of a key, B the keys enqueued at once.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

UNKNOWN = -1
"""Index and label of the random initial rows; matches no image and no class."""


@dataclass(frozen=True)
class KnownKeys:
    """Embeddings used as negatives, newest first, with the sample index and class of each."""

    keys: Tensor  # (K, D) of unit length
    indices: Tensor  # (K,) sample index of the image, or UNKNOWN
    labels: Tensor  # (K,) class of the image, or UNKNOWN


class KeyQueue(nn.Module):
    """K unit-length keys in buffers, so that they are moved, saved and loaded with the model.

    The memory layout is (K, D) with contiguous rows, so that products and gathers read complete keys. A checkpoint in
    MoCo's format holds the transpose (facebookresearch/moco, moco/builder.py: `queue` is (dim, K)).
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
            generator: source of the initial rows; its state must be the same on all ranks.

        Raises:
            ValueError: `length` or `dim` is below 1.

        """
        super().__init__()
        if length < 1 or dim < 1:
            raise ValueError(f"key queue: expected length and dim of 1 or more; got length {length}, dim {dim}")
        self.register_buffer("keys", F.normalize(torch.randn(length, dim, generator=generator), dim=1))
        self.register_buffer("indices", torch.full((length,), UNKNOWN))
        self.register_buffer("labels", torch.full((length,), UNKNOWN))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))

    def __len__(self) -> int:
        """Return K."""
        return len(self.keys)

    @torch.no_grad()
    def enqueue(self, keys: Tensor, indices: Tensor | None = None, labels: Tensor | None = None) -> None:
        """Replace the oldest keys by (B, D) new ones; correct at the wrap-around for any B and K.

        If B > K, only the newest K are kept. All ranks must pass the same keys in the same order.

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
        """Return a checksum of the keys' bytes, by which ranks compare their queues."""
        words = self.keys.view(torch.int32).long()
        places = torch.arange(1, words.numel() + 1, device=words.device).view_as(words)
        return int((words * places).sum())
