"""MoCo v1 and v2 with optional hard negative mixing.

Source: He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020, algorithm 1;
facebookresearch/moco, moco/builder.py.

Shapes: B images of this rank, G = B × ranks, K keys in the queue, D their width.
"""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig
from pretrain.encoder import build_encoder
from pretrain.key_queue import KeyQueue, KnownKeys
from pretrain.loss import ContrastiveOutput, contrastive_loss, find_excluded
from pretrain.runtime import distributed
from pretrain.runtime.randomness import Generators


class MoCo(nn.Module):
    """A query encoder, its moving average and a queue of keys."""

    def __init__(self, settings: ModelConfig, mixing: MixingConfig) -> None:
        """Build both encoders, equal at the start, and a queue of random unit rows."""
        super().__init__()
        self.settings, self.mixing = settings, mixing
        self.encoder_q = build_encoder(settings)
        self.encoder_k = copy.deepcopy(self.encoder_q).requires_grad_(False)
        self.queue = KeyQueue(settings.queue_len, settings.dim)

    def forward(
        self, im_q: Tensor, im_k: Tensor, index: Tensor, label: Tensor, *, generators: Generators, mixing_on: bool
    ) -> tuple[ContrastiveOutput, Tensor]:
        """Return the loss of a batch, and the keys (G, D) to enqueue after the step.

        Args:
            im_q: one view of each image, (B, 3, H, W).
            im_k: another view of each, (B, 3, H, W).
            index: (B,) sample index of each image.
            label: (B,) class of each image; used by the class oracle only.
            generators: random generators of the shuffle and of the mixing.
            mixing_on: whether this epoch mixes.

        """
        q = self.encode(self.encoder_q, im_q)  # (B, D)
        k_all = self.encode_keys(im_k, generators)  # (G, D)
        mine = slice(distributed.rank() * len(q), (distributed.rank() + 1) * len(q))
        excluded = find_excluded(self.mixing, indices=(index, self.queue.indices), labels=(label, self.queue.labels))
        output = contrastive_loss(
            q,
            k_all[mine],
            self.queue.keys,
            temperature=self.settings.temperature,
            mixing=self.mixing if mixing_on else self.mixing.without_mixes(),
            generator=generators.mixing,
            exclude=excluded,
        )
        return output, k_all

    def known_keys(self, count: int | None = None) -> KnownKeys:
        """Return the queue's newest `count` keys, all if None: the negatives of the next step."""
        return self.queue.newest_first(count)

    @torch.no_grad()
    def encode_keys(self, im_k: Tensor, generators: Generators) -> Tensor:
        """Return the keys of the global batch (G, D); with `shuffle_bn`, in shuffled order through the encoder."""
        shared = distributed.world_size() * self.settings.bn_groups == 1  # one set of statistics: no need to shuffle
        if shared or self.settings.sync_bn or not self.settings.shuffle_bn:
            return distributed.gather(self.encode(self.encoder_k, im_k))
        shuffled, permutation = distributed.shuffle(im_k, generators.shuffle)
        return distributed.unshuffle(self.encode(self.encoder_k, shuffled), permutation)

    def encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Return the embeddings of this rank's images, (B, D) of unit length, encoded group by group (`bn_groups`)."""
        groups = [encoder(part) for part in images.tensor_split(self.settings.bn_groups)]
        return F.normalize(torch.cat(groups).float(), dim=1)

    @torch.no_grad()
    def update_key_encoder(self) -> None:
        """Update the key encoder's parameters: k = m k + (1-m) q; batch-norm statistics are not averaged."""
        keys: list[Tensor] = list(self.encoder_k.parameters())
        queries: list[Tensor] = list(self.encoder_q.parameters())
        torch._foreach_lerp_(keys, queries, 1 - self.settings.momentum)
