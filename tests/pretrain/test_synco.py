"""SynCo's six types equal materialised mixes, have the configured counts and are constant for the gradient."""

import pytest
import torch
from torch.nn import functional as F

from pretrain.config import MixingConfig
from pretrain.loss import contrastive_loss
from pretrain.synco import DELTA, ETA, SIGMA, mix_synco


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=1)


def mixes_of(kind: int, queries: torch.Tensor, negatives: torch.Tensor, count: int = 400) -> torch.Tensor:
    counts = tuple(count if index == kind else 0 for index in range(6))
    settings = MixingConfig(n=len(negatives), synco=counts)
    return mix_synco(queries, negatives, queries @ negatives.T, settings, generator=torch.Generator().manual_seed(1))


def test_counts_of_all_types_add_up() -> None:
    settings = MixingConfig(n=20, synco=(5, 4, 3, 2, 1, 6))
    q, n = unit(3, 8), unit(40, 8, seed=1)
    assert mix_synco(q, n, q @ n.T, settings).shape == (3, 21)


def test_with_one_negative_only_the_coefficients_are_random() -> None:
    q, n = unit(2, 8), unit(1, 8, seed=1)
    t = q @ n.T  # (2, 1)
    interpolation, extrapolation, mixup = (mixes_of(kind, q, n) for kind in range(3))
    assert torch.allclose(mixup, t.expand_as(mixup))
    perturbed = F.normalize(n + DELTA * q[:, None], dim=2)[:, 0]
    assert torch.allclose(mixes_of(4, q, n), (q * perturbed).sum(1, keepdim=True))
    adversarial = F.normalize(n + ETA * q.sign()[:, None], dim=2)[:, 0]
    assert torch.allclose(mixes_of(5, q, n), (q * adversarial).sum(1, keepdim=True))
    for row in range(2):
        b = torch.linspace(0, 0.5, 1001, dtype=torch.float64)[:, None]
        inside = F.normalize(b * q[row] + (1 - b) * n[0], dim=1) @ q[row]
        assert inside.min() - 1e-9 <= interpolation[row].min()
        assert interpolation[row].max() <= inside.max() + 1e-9
        c = torch.linspace(1, 1.5, 1001, dtype=torch.float64)[:, None]
        outside = F.normalize(q[row] + c * (n[0] - q[row]), dim=1) @ q[row]
        assert outside.min() - 1e-9 <= extrapolation[row].min()
        assert extrapolation[row].max() <= outside.max() + 1e-9


def test_noise_has_the_configured_strength() -> None:
    q = F.one_hot(torch.tensor([0]), 64).double()
    n = F.one_hot(torch.tensor([1]), 64).double()
    values = mixes_of(3, q, n, count=20_000)  # q·n = 0, so q·h = sigma e_0 / norm, e_0 ~ N(0, 1)
    assert values.mean().abs() < 5 * SIGMA / 20_000**0.5
    assert values.std() == pytest.approx(SIGMA, rel=0.03)


def test_gradient_is_the_synthetic_feature_itself() -> None:
    raw, n = unit(3, 8).requires_grad_(), unit(30, 8, seed=1)
    q = F.normalize(raw, dim=1)
    settings = MixingConfig(n=10, synco=(0, 0, 0, 0, 7, 0))
    values = mix_synco(q, n, q @ n.T, settings, generator=torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad(values[0, 0], raw)
    candidates = F.normalize(n + DELTA * q[0].detach(), dim=1)
    h = candidates[(candidates @ q[0].detach() - values[0, 0].detach()).abs().argmin()]
    tangent = (h - (h @ q[0]) * q[0]) / raw[0].norm()
    assert torch.allclose(gradient[0], tangent, atol=5e-4)  # excludes the component of delta q along q: it is radial


def test_loss_uses_synco_instead_of_mochi() -> None:
    q, k, n = unit(4, 8), unit(4, 8, seed=3), unit(50, 8, seed=1)
    settings = MixingConfig(n=20, synco=(8, 8, 8, 2, 2, 2))
    harder = contrastive_loss(q, k, n, temperature=0.2, mixing=settings).loss
    assert harder > contrastive_loss(q, k, n, temperature=0.2).loss


def test_five_counts_are_refused() -> None:
    q, n = unit(2, 8), unit(9, 8, seed=1)
    with pytest.raises(ValueError, match="expected six counts"):
        mix_synco(q, n, q @ n.T, MixingConfig(n=4, synco=(1, 1, 1, 1, 1)))
