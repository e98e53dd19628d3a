"""Add MoCHi's hard negatives to a contrastive loss of your own: run with `python examples/mixing_in_your_loop.py`.

B queries and their positive keys, K negatives (a queue or the rest of a batch), D dimensions; all of unit length.
"""

import torch
import torch.nn.functional as F

from pretrain.config import MixingConfig
from pretrain.mixing import mix

TEMPERATURE = 0.2


def main() -> torch.Tensor:
    """Return the loss of one step on random features."""
    queries, keys, bank = (F.normalize(torch.randn(n, 128), dim=1) for n in (8, 8, 4096))  # (B, D), (B, D), (K, D)
    negatives = queries @ bank.T  # (B, K) your logits, before the temperature
    harder = mix(queries, bank, negatives, MixingConfig(n=256, s=512, s_prime=256))  # (B, 768) more columns
    positives = (queries * keys).sum(1, keepdim=True)  # (B, 1)
    logits = torch.cat([positives, negatives, harder], dim=1) / TEMPERATURE  # (B, 1 + K + 768)
    loss = F.cross_entropy(logits, torch.zeros(len(queries), dtype=torch.long))
    print(f"loss with {harder.shape[1]} mixed negatives per query: {loss.item():.3f}")
    return loss


if __name__ == "__main__":
    main()
