"""SimCLR with optional hard negative mixing: the negatives are the other images of the global batch.

Source: Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020, algorithm 1.
Shapes: B images of this rank, two views each; G = B × ranks; D the width of an embedding.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig
from pretrain.encoder import build_encoder
from pretrain.key_queue import KnownKeys
from pretrain.loss import ContrastiveOutput, contrastive_loss, find_excluded
from pretrain.runtime import distributed
from pretrain.runtime.randomness import Generators


class SimCLR(nn.Module):
    """One encoder with in-batch negatives and the same mixing as MoCo."""

    def __init__(self, settings: ModelConfig, mixing: MixingConfig) -> None:
        """Build the encoder, named encoder_q as in MoCo, so that checkpoints have the same format."""
        super().__init__()
        self.settings, self.mixing = settings, mixing
        self.encoder_q = build_encoder(settings)
        self.latest: KnownKeys | None = None

    def forward(
        self, im_q: Tensor, im_k: Tensor, index: Tensor, label: Tensor, *, generators: Generators, mixing_on: bool
    ) -> tuple[ContrastiveOutput, None]:
        """Return NT-Xent over both views of each image; None, as there are no keys to enqueue.

        Args: as pretrain.moco.MoCo.forward.
        """
        z = F.normalize(self.encoder_q(torch.cat([im_q, im_k])).float(), dim=1)  # (2B, D): first views, then second
        gathered = distributed.gather_with_gradient(z)  # (2G, D), rank by rank
        partners = z.roll(len(im_q), dims=0)
        images = index.repeat(2)
        all_images, all_labels = distributed.gather(images), distributed.gather(label.repeat(2))
        self.latest = KnownKeys(gathered.detach(), all_images, all_labels)
        own = images[:, None] == all_images  # the query itself and its positive are not negatives
        excluded = find_excluded(self.mixing, indices=(images, all_images), labels=(label.repeat(2), all_labels))
        output = contrastive_loss(
            z,
            partners,
            gathered,
            temperature=self.settings.temperature,
            mixing=self.mixing if mixing_on else self.mixing.without_mixes(),
            generator=generators.mixing,
            exclude=own if excluded is None else own | excluded,
        )
        return output, None

    def known_keys(self, count: int | None = None) -> KnownKeys | None:
        """Return both views of the latest global batch (2G, D), or its first `count` rows; None before the first."""
        if self.latest is None or count is None:
            return self.latest
        return KnownKeys(self.latest.keys[:count], self.latest.indices[:count], self.latest.labels[:count])

    def update_key_encoder(self) -> None:
        """Do nothing: the same encoder computes keys and queries."""
