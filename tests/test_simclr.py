"""SimCLR's loss is NT-Xent over both views, and the mixing drops into it."""

import math

import torch
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig
from pretrain.randomness import make_generators
from pretrain.simclr import SimCLR

MODEL = ModelConfig(arch="resnet18", dim=8, method="simclr", temperature=0.5)


def forward(mixing: MixingConfig, *, mixing_on: bool, label: torch.Tensor | None = None):
    torch.manual_seed(0)
    model = SimCLR(MODEL, mixing).train()
    im_q, im_k = torch.randn(5, 3, 32, 32), torch.randn(5, 3, 32, 32)
    generators = make_generators(0, 0, torch.device("cpu"))
    index = torch.arange(5)
    output, keys = model(
        im_q, im_k, index, index if label is None else label, generators=generators, mixing_on=mixing_on
    )
    z = F.normalize(model.encoder_q(torch.cat([im_q, im_k])), dim=1).double()
    return model, output, keys, z


def nt_xent(z: torch.Tensor, temperature: float, skip: set[tuple[int, int]] = frozenset()) -> float:
    """Algorithm 1 of Chen et al., in loops."""
    total, count = 0.0, len(z)
    for i in range(count):
        partner = (i + count // 2) % count
        others = [k for k in range(count) if k != i and (k == partner or (i, k) not in skip)]
        denominator = sum(math.exp(float(z[i] @ z[k]) / temperature) for k in others)
        total -= math.log(math.exp(float(z[i] @ z[partner]) / temperature) / denominator)
    return total / count


def test_loss_equals_nt_xent_in_loops() -> None:
    _, output, keys, z = forward(MixingConfig(), mixing_on=False)
    assert keys is None
    assert abs(output.loss.item() - nt_xent(z.detach(), 0.5)) < 1e-4


def test_oracle_leaves_out_the_querys_class() -> None:
    label = torch.tensor([0, 0, 1, 1, 2])
    _, output, _, z = forward(MixingConfig(oracle=True), mixing_on=False, label=label)
    labels = label.repeat(2).tolist()
    same = {(i, k) for i in range(10) for k in range(10) if labels[i] == labels[k]}
    assert abs(output.loss.item() - nt_xent(z.detach(), 0.5, same)) < 1e-4


def test_mixing_makes_the_task_harder_and_still_trains() -> None:
    _, plain, _, _ = forward(MixingConfig(), mixing_on=False)
    model, mixed, _, _ = forward(MixingConfig(n=4, s=16, s_prime=8), mixing_on=True)
    assert mixed.loss > plain.loss
    mixed.loss.backward()
    assert model.encoder_q.conv1.weight.grad.norm() > 0
