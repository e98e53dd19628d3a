"""SimCLR's loss is NT-Xent over both views, and mixing works with it."""

import math

import pytest
import torch
from torch.nn import functional as F

from pretrain.config import MixingConfig, ModelConfig
from pretrain.monitoring.diagnostics import class_geometry, hardness_curve, same_class_share
from pretrain.monitoring.epoch_checks import measure_negatives
from pretrain.runtime.randomness import make_generators
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


def test_oracle_excludes_the_querys_class() -> None:
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


def test_the_latest_batch_is_measured_without_an_images_own_views() -> None:
    fresh = SimCLR(MODEL, MixingConfig())
    assert measure_negatives(fresh, 0.5) == {}  # before the first step
    label = torch.tensor([0, 0, 1, 1, 2])
    model, _, _, z = forward(MixingConfig(n=4, s=6, s_prime=3), mixing_on=True, label=label)
    values = measure_negatives(model, 0.5)
    logits, labels, images = z.detach() @ z.detach().T / 0.5, label.repeat(2), torch.arange(5).repeat(2)
    logits[images[:, None] == images] = -math.inf
    assert len(values["hardness"]) == 8  # ten views minus the two of the query's image
    assert values["hardness"] == pytest.approx(hardness_curve(logits, 8).tolist(), abs=1e-5)
    assert values["false_negatives"] == pytest.approx(100 * (8 * 2 / 8) / 10)  # the fifth image is alone in its class
    assert values["oracle_share"] == pytest.approx(100 * same_class_share(logits, labels, labels), rel=1e-4)
    assert values["separation"] == pytest.approx(class_geometry(z.detach(), labels).separation, rel=1e-4)
    assert 0 <= values["mixes_pair_both"] <= values["mixes_pair_one"] <= 100
