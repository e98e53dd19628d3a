"""Supervised pretraining: cross-entropy with the labels, the baseline for the contrastive methods.

Images, views, order and schedule are those of the other methods; the second view of each image is not used. The
encoder ends in a linear classifier over the classes of the training set and has no projection head, as in He et al.,
"Deep Residual Learning for Image Recognition", CVPR 2016; the checkpoint still has MoCo's format, so converters read
its trunk like any other.

Shapes: B images of this rank, C classes.
"""

from dataclasses import replace

from torch import Tensor, nn
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig
from pretrain.encoder import build_encoder
from pretrain.loss import ContrastiveOutput
from pretrain.runtime.randomness import Generators


class Supervised(nn.Module):
    """A classifier, named encoder_q as in MoCo, so that checkpoints have the same format."""

    def __init__(self, settings: ModelConfig, *, classes: int) -> None:
        """Build the encoder with a classifier of `classes` outputs; `settings.head` and `dim` are not used."""
        super().__init__()
        self.classes, self.mixing = classes, MixingConfig()
        self.encoder_q = build_encoder(replace(settings, head="linear", dim=classes))

    def forward(
        self, im_q: Tensor, _im_k: Tensor, _index: Tensor, label: Tensor, *, generators: Generators, mixing_on: bool
    ) -> tuple[ContrastiveOutput, None]:
        """Return the cross-entropy of a batch and which images are classified correctly; None for the keys.

        Args: as pretrain.moco.MoCo.forward; `generators` and `mixing_on` have no effect.
        """
        del generators, mixing_on
        scores = self.encoder_q(im_q).float()  # (B, C)
        hits = scores.detach().argmax(dim=1) == label
        return ContrastiveOutput(F.cross_entropy(scores, label), hits, hits), None

    def known_keys(self, _count: int | None = None) -> None:
        """Return None: there are no negatives."""

    def update_key_encoder(self) -> None:
        """Do nothing: there is one encoder."""
