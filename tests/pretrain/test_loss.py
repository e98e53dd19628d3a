"""InfoNCE with mixing: the fused form, the plain form and loops over materialised mixes agree."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from pretrain.config import MixingConfig
from pretrain.loss import contrastive_loss, find_excluded, plain_loss
from tests.pretrain.test_mixing import build_mixes, seeded, unit

TAU = 0.2


def loop_loss(q: Tensor, k: Tensor, n: Tensor, h: Tensor, exclude: Tensor) -> Tensor:
    """Return -log of the positive's probability, query by query, with exponentials as in the paper."""
    losses = []
    for row in range(len(q)):
        positive = torch.exp(q[row] @ k[row] / TAU)
        real = [torch.exp(q[row] @ n[j] / TAU) for j in range(len(n)) if not exclude[row, j]]
        mixed = [torch.exp(q[row] @ h[row, j] / TAU) for j in range(h.shape[1])]
        losses.append(-torch.log(positive / sum([positive, *real, *mixed])))
    return torch.stack(losses).mean()


@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 3), st.integers(2, 12), st.integers(3, 6)),
    counts=st.tuples(st.integers(0, 15), st.integers(0, 6), st.integers(0, 6)),
    seed=st.integers(0, 10**6),
    some_excluded=st.booleans(),
)
def test_fused_and_plain_form_equal_the_loops(
    sizes: tuple[int, int, int], counts: tuple[int, int, int], seed: int, some_excluded: bool
) -> None:
    (B, K, D), (N, s, s_prime) = sizes, counts
    raw, k, n = unit(B, D, seed), unit(B, D, seed + 1), unit(K, D, seed + 2)
    config = MixingConfig(n=N, s=s, s_prime=s_prime)
    exclude = torch.rand(B, K, generator=seeded(seed)) < 0.3 * some_excluded
    exclude[:, 0] = False
    h = build_mixes(raw, n, config, seed, exclude) if N and s + s_prime else torch.zeros(B, 0, D, dtype=raw.dtype)

    def differentiate(kind: torch.dtype, form: str) -> tuple[Tensor, Tensor]:
        leaf = raw.clone().requires_grad_()
        q = F.normalize(leaf, dim=1)
        if form == "loops":
            loss = loop_loss(q, k, n, h, exclude)
        elif form == "fused":
            loss = contrastive_loss(
                q.to(kind), k.to(kind), n.to(kind), temperature=TAU, mixing=config, generator=seeded(seed),
                exclude=exclude,
            ).loss  # fmt: skip
        else:
            loss = plain_loss(q.to(kind), k.to(kind), n.to(kind), TAU, config, seeded(seed), exclude).loss
        loss.backward()
        return loss.detach().double(), leaf.grad

    expected, slope = differentiate(torch.float64, "loops")
    for form in ("fused", "plain"):
        loss, gradient = differentiate(torch.float64, form)
        assert abs(loss - expected) <= 1e-10 * abs(expected)
        assert (gradient - slope).norm() <= 1e-10 * slope.norm() + 1e-13
    single = contrastive_loss(raw.float(), k.float(), n.float(), temperature=TAU).loss
    assert single.dtype == torch.float32


@pytest.mark.parametrize("form", ["fused", "plain"])
@settings(max_examples=12, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(5, 200), st.integers(8, 40)),
    counts=st.tuples(st.integers(1, 40), st.integers(0, 50), st.integers(0, 30)),
    seed=st.integers(0, 10**6),
)
def test_float32_is_close_to_float64(
    form: str, sizes: tuple[int, int, int], counts: tuple[int, int, int], seed: int
) -> None:
    (B, K, D), (N, s, s_prime) = sizes, counts
    q, k, n = unit(B, D, seed).float(), unit(B, D, seed + 1).float(), unit(K, D, seed + 2).float()
    config = MixingConfig(n=N, s=s, s_prime=s_prime)
    h = build_mixes(q, n, config, seed)  # float64, of the mixes that are drawn in float32
    exact = q.double().requires_grad_()
    expected = loop_loss(exact, k.double(), n.double(), h, torch.zeros(B, K, dtype=torch.bool))
    expected.backward()
    leaf = q.clone().requires_grad_()
    if form == "fused":
        loss = contrastive_loss(leaf, k, n, temperature=TAU, mixing=config, generator=seeded(seed)).loss
    else:
        loss = plain_loss(leaf, k, n, TAU, config, seeded(seed), None).loss
    loss.backward()
    assert abs(loss.item() - expected.item()) <= 1e-5 * expected.item()

    def across(gradient: Tensor) -> Tensor:
        """Remove the component along q, which the normalisation of q removes."""
        return gradient - (gradient * exact.detach()).sum(1, keepdim=True) * exact.detach()

    assert (across(leaf.grad.double()) - across(exact.grad)).norm() <= 2e-4 * across(exact.grad).norm()


@pytest.mark.parametrize("detach_keys", [True, False])
def test_gradcheck(detach_keys: bool) -> None:
    q, k, n = unit(3, 5, 0).requires_grad_(), unit(3, 5, 1), unit(20, 5, 2)
    config = MixingConfig(n=6, s=4, s_prime=5, detach=False)  # finite differences do not apply to detached tensors

    def loss(query: Tensor) -> Tensor:
        keys = k if detach_keys else k.clone().requires_grad_()
        return contrastive_loss(query, keys, n, temperature=TAU, mixing=config, generator=seeded(4)).loss

    assert torch.autograd.gradcheck(loss, (q,))


def test_in_batch_negatives_learn_and_own_positives_are_masked() -> None:
    q = unit(4, 6, 0).requires_grad_()
    k = unit(4, 6, 1).requires_grad_()
    own = torch.eye(4, dtype=torch.bool)
    output = contrastive_loss(q, k, k, temperature=TAU, mixing=MixingConfig(n=3, s=5, s_prime=4), exclude=own)
    output.loss.backward()
    assert k.grad is not None
    assert k.grad.abs().sum() > 0
    plain = contrastive_loss(q, k, k, temperature=TAU, exclude=own).loss
    torch.testing.assert_close(plain, F.cross_entropy(q @ k.T / TAU, torch.arange(4)))


def test_equal_embeddings_give_the_log_of_the_number_of_candidates() -> None:
    one = F.normalize(torch.ones(1, 8, dtype=torch.float64), dim=1)
    config = MixingConfig(n=5, s=7, s_prime=3)
    loss = contrastive_loss(one.repeat(2, 1), one.repeat(2, 1), one.repeat(20, 1), temperature=TAU, mixing=config).loss
    assert loss.item() == pytest.approx(math.log(1 + 20 + 7 + 3), rel=1e-12)


def test_accuracy_is_reported_without_and_with_mixes() -> None:
    n = F.normalize(torch.tensor([[1.0, 1.0, 0.0], [1.0, -1.0, 0.0]]), dim=1)  # their mixes come close to (1, 0, 0)
    q = torch.tensor([[1.0, 0.0, 0.0]])
    k = F.normalize(torch.tensor([[1.0, 0.0, 0.8]]), dim=1)  # 0.78: above 0.71 of each negative, below the best mix
    config = MixingConfig(n=2, s=500)
    for output in (
        contrastive_loss(q, k, n, temperature=TAU, mixing=config, generator=seeded(0)),
        plain_loss(q, k, n, TAU, config, seeded(0), None),
    ):
        assert (output.accuracy, output.accuracy_with_mixes) == (100.0, 0.0)


def test_autocast_leaves_the_head_in_float32() -> None:
    q, k, n = unit(4, 16, 0).float(), unit(4, 16, 1).float(), unit(50, 16, 2).float()
    outside = contrastive_loss(q, k, n, temperature=TAU).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_loss(q, k, n, temperature=TAU).loss, outside)


def test_hcl_weights_each_negative_by_its_hardness() -> None:
    q, k, n = unit(3, 6, 0), unit(3, 6, 1), unit(9, 6, 2)
    positive, real, beta = (q * k).sum(1) / TAU, q @ n.T / TAU, 0.5
    weights = torch.exp(beta * real) / torch.exp(beta * real).mean(dim=1, keepdim=True)
    expected = -(positive.exp() / (positive.exp() + (weights * real.exp()).sum(1))).log().mean()
    loss = contrastive_loss(q, k, n, temperature=TAU, mixing=MixingConfig(hcl_beta=beta)).loss
    torch.testing.assert_close(loss, expected)


def test_oracle_removes_the_class_and_masking_the_image() -> None:
    indices = (torch.tensor([7, 8]), torch.tensor([7, 5, 8, -1]))
    labels = (torch.tensor([0, 1]), torch.tensor([0, 0, 1, -1]))
    assert find_excluded(MixingConfig(), indices=indices, labels=labels) is None
    oracle = find_excluded(MixingConfig(oracle=True), indices=indices, labels=labels)
    assert oracle is not None
    assert oracle.tolist() == [[True, True, False, False], [False, False, True, False]]
    image = find_excluded(MixingConfig(mask_same_image=True), indices=indices, labels=labels)
    assert image is not None
    assert image.tolist() == [[True, False, False, False], [False, False, True, False]]


def test_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature"):
        contrastive_loss(unit(1, 3, 0), unit(1, 3, 1), unit(4, 3, 2), temperature=0.0)
