"""The reference's MoCo-v2 step, rewritten after facebookresearch/moco (moco/builder.py, main_moco.py) for one device.

Its costs are kept: float32 in torch's default layout, one statement per parameter in the key encoder's update,
a clone of the queue in every step, and a transfer of the loss and both accuracies to the host after each step.
"""

import copy

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

DIM, MOMENTUM, TEMPERATURE = 128, 0.999, 0.2


class ReferenceMoCo(nn.Module):
    """Both encoders, the queue (DIM, K) and the optimizer."""

    queue: Tensor

    def __init__(self, arch: str, queue_len: int) -> None:
        super().__init__()
        encoder = getattr(torchvision.models, arch)(num_classes=DIM)
        width = encoder.fc.weight.shape[1]
        encoder.fc = nn.Sequential(nn.Linear(width, width), nn.ReLU(), encoder.fc)
        self.encoder_q, self.encoder_k = encoder, copy.deepcopy(encoder).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(DIM, queue_len), dim=0))
        self.place = 0
        self.meters: list[tuple[float, float, float]] = []
        self.optimizer = torch.optim.SGD(self.encoder_q.parameters(), 0.03, momentum=0.9, weight_decay=1e-4)

    def take_step(self, im_q: Tensor, im_k: Tensor) -> None:
        """Take one step on two views (B, 3, H, W) of each image."""
        logits = self._find_logits(im_q, im_k)
        target = torch.zeros(len(logits), dtype=torch.long, device=logits.device)
        loss = F.cross_entropy(logits, target)
        top = logits.detach().topk(5, dim=1).indices == 0
        self.meters.append((loss.item(), top[:, 0].float().mean().item(), top.any(dim=1).float().mean().item()))
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()

    def _find_logits(self, im_q: Tensor, im_k: Tensor) -> Tensor:
        q = F.normalize(self.encoder_q(im_q), dim=1)
        with torch.no_grad():
            for query, key in zip(self.encoder_q.parameters(), self.encoder_k.parameters(), strict=True):
                key.data = key.data * MOMENTUM + query.data * (1.0 - MOMENTUM)
            shuffled = torch.randperm(len(im_k), device=im_k.device)
            k = F.normalize(self.encoder_k(im_k[shuffled]), dim=1)[torch.argsort(shuffled)]
        positive = torch.einsum("nc,nc->n", q, k).unsqueeze(-1)
        negative = torch.einsum("nc,ck->nk", q, self.queue.clone().detach())
        self.queue[:, self.place : self.place + len(k)] = k.T
        self.place = (self.place + len(k)) % self.queue.shape[1]
        return torch.cat([positive, negative], dim=1) / TEMPERATURE
