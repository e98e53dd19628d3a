"""The closed forms against mixes that are materialised one by one in float64; and the statistics of the draws."""

import doctest
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import pretrain.mixing
from pretrain.config import MixingConfig
from pretrain.mixing import draw_mixes, find_hardest, measure_recall, mix
from pretrain.synco import mix_synco


def unit(rows: int, dim: int, seed: int) -> Tensor:
    return F.normalize(
        torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=1
    )


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build_mixes(q: Tensor, n: Tensor, config: MixingConfig, seed: int, exclude: Tensor | None = None) -> Tensor:
    """Return h (B, M, D), materialised from the formulas with the drawn parents and coefficients."""
    drawn = draw_mixes(q @ n.T, n, config, generator=seeded(seed), exclude=exclude)
    slack = 1e-12 if q.dtype == torch.float64 else 1e-4  # a and b are recovered from rounded weights
    q, n = q.double(), n.double()
    t, cosines, weights = q @ n.T, drawn.cosines.double(), drawn.weights.double()
    features = torch.zeros(len(q), config.s + config.s_prime, q.shape[1], dtype=q.dtype)
    for row in range(len(q)):
        for column in range(config.s + config.s_prime):
            i, j = drawn.parents[:, row, column].tolist()
            of_i, of_j = weights[:, row, column]
            if column < config.s:
                a = of_i / (of_i + of_j)
                assert 0 <= a <= 1
                mixed = a * n[i] + (1 - a) * n[j]
            else:
                along_q = cosines[row, column] - of_i * t[row, i]  # h' = x q + w n_j
                b = along_q / (along_q + of_i)
                assert -slack <= b <= 0.5 + slack
                mixed = b * q[row] + (1 - b) * n[i]
            features[row, column] = mixed / mixed.norm()
    return features


@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(2, 30), st.integers(3, 8)),
    counts=st.tuples(st.integers(1, 40), st.integers(0, 9), st.integers(0, 9)),
    seed=st.integers(0, 10**6),
    some_excluded=st.booleans(),
)
def test_closed_forms_equal_materialised_mixes_and_parents_are_among_the_hardest(
    sizes: tuple[int, int, int], counts: tuple[int, int, int], seed: int, some_excluded: bool
) -> None:
    (B, K, D), (N, s, s_prime) = sizes, counts
    q, n = unit(B, D, seed), unit(K, D, seed + 1)
    config = MixingConfig(n=N, s=s, s_prime=s_prime)
    exclude = torch.rand(B, K, generator=seeded(seed)) < 0.4 if some_excluded else torch.zeros(B, K, dtype=torch.bool)
    exclude[:, 0] = False
    t = (q @ n.T).requires_grad_()
    ours = mix(q, n, t, config, generator=seeded(seed), exclude=exclude)
    h = build_mixes(q, n, config, seed, exclude)
    torch.testing.assert_close(ours.detach(), torch.einsum("bd,bmd->bm", q, h), rtol=1e-10, atol=1e-10)
    drawn = draw_mixes(t.detach(), n, config, generator=seeded(seed), exclude=exclude)
    for row in range(B):
        order = [k for k in t[row].argsort(descending=True).tolist() if not exclude[row, k]]
        assert set(drawn.parents[:, row].flatten().tolist()) <= set(order[:N])


def test_gradient_of_a_mix_is_the_mix() -> None:
    q, n = unit(3, 6, 0), unit(40, 6, 1)
    config = MixingConfig(n=10, s=20, s_prime=15)
    weights = torch.rand(3, 35, dtype=torch.float64)
    h = build_mixes(q, n, config, 5)

    def gradient(loss_of: object) -> Tensor:
        raw = q.clone().requires_grad_()
        (loss_of(F.normalize(raw, dim=1)) * weights).sum().backward()  # type: ignore[operator]
        return raw.grad  # through the normalisation: the component along q vanishes

    ours = gradient(lambda unit_q: mix(unit_q, n, unit_q @ n.T, config, generator=seeded(5)))
    torch.testing.assert_close(
        ours, gradient(lambda unit_q: torch.einsum("bd,bmd->bm", unit_q, h)), rtol=1e-10, atol=1e-12
    )


def test_queries_mix_their_own_hardest_negatives() -> None:
    n = torch.eye(8, dtype=torch.float64)
    q = F.normalize(torch.eye(8, dtype=torch.float64)[:4] + 0.01, dim=1)  # the hardest of query i is negative i
    drawn = draw_mixes(q @ n.T, n, MixingConfig(n=1, s=6, s_prime=5))
    assert torch.equal(drawn.parents, torch.arange(4)[None, :, None].expand(2, 4, 11))


def test_draws_are_uniform() -> None:
    q, n = unit(20, 16, 0), unit(100, 16, 1)
    s = s_prime = 4000
    drawn = draw_mixes(q @ n.T, n, MixingConfig(n=10, s=s, s_prime=s_prime), generator=seeded(0))
    for parents in (drawn.parents[0, :, :s], drawn.parents[1, :, :s], drawn.parents[0, :, s:]):
        counts = torch.stack([row.bincount(minlength=100).topk(10).values for row in parents])
        assert (counts.sum(dim=1) == 4000).all(), "parents outside the ten hardest"
        assert ((counts - 400).abs() < 5.5 * (4000 * 0.1 * 0.9) ** 0.5).all()
    assert (drawn.parents[0, :, :s] == drawn.parents[1, :, :s]).double().mean() < 0.12  # 1/10 if independent
    a = drawn.weights[0, :, :s] / drawn.weights[:, :, :s].sum(dim=0)
    along_q = drawn.cosines[:, s:] - drawn.weights[0, :, s:] * (q @ n.T).gather(1, drawn.parents[0, :, s:])
    b = along_q / (along_q + drawn.weights[0, :, s:])
    for shares, top in ((a, 1.0), (b, 0.5)):
        steps = torch.linspace(0, 1, 80000, dtype=torch.float64)
        assert (shares.flatten().sort().values / top - steps).abs().max() < 0.01, "not uniform (Kolmogorov-Smirnov)"


def test_same_seed_same_mixes_other_seed_other_mixes() -> None:
    q, n = unit(3, 6, 0), unit(40, 6, 1)
    first, again, other = (
        mix(q, n, q @ n.T, MixingConfig(n=10, s=20, s_prime=15), generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_random_numbers_are_drawn_in_batches_never_in_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    draws: list[Tensor] = []
    rand = torch.rand

    def record(*shape: int, **options: object) -> Tensor:
        draws.append(rand(*shape, **options))  # type: ignore[call-overload]
        return draws[-1]

    monkeypatch.setattr(torch, "rand", record)
    monkeypatch.setattr(torch, "randperm", lambda *_: pytest.fail("a permutation per mix takes seconds per step"))
    q, n = unit(16, 8, 0), unit(300, 8, 1)
    mix(q, n, q @ n.T, MixingConfig(n=64, s=128, s_prime=128))
    assert len(draws) <= 4


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_mixed_in_float32(kind: torch.dtype) -> None:
    q, n = unit(3, 16, 0).to(kind), unit(40, 16, 1).to(kind)
    config = MixingConfig(n=10, s=20, s_prime=15)
    for synco, make in (((), mix), ((2, 2, 2, 2, 2, 2), mix_synco)):
        chosen = replace(config, synco=synco)
        half = make(q, n, q @ n.T, chosen, generator=seeded(1))
        full = make(q.float(), n.float(), (q @ n.T).float(), chosen, generator=seeded(1))
        assert half.dtype == torch.float32
        assert torch.equal(half, full)


def test_mismatched_shapes_and_mixes_without_negatives_are_refused() -> None:
    q, n = unit(2, 5, 0), unit(9, 5, 1)
    with pytest.raises(ValueError, match=r"expected queries \(B, D\), negatives \(K, D\) and logits \(B, K\)"):
        mix(q, n, n @ q.T, MixingConfig(n=4, s=3))
    with pytest.raises(ValueError, match=r"mixing\.n: expected 1 or more, since mixes are configured; got 0"):
        mix(q, n, q @ n.T, MixingConfig(s=3))


def test_query_without_negatives_gets_no_mixes_and_no_nan() -> None:
    q, n = unit(2, 5, 0), unit(9, 5, 1)
    exclude = torch.tensor([[True] * 9, [False] * 9])
    t = (q @ n.T).requires_grad_()
    mixes = mix(q, n, t, MixingConfig(n=4, s=3, s_prime=2), exclude=exclude)
    assert (mixes[0] == -torch.inf).all()
    assert mixes[1].isfinite().all()
    mixes.exp().sum().backward()
    assert t.grad is not None
    assert t.grad.isfinite().all()


def test_opposite_parents_give_finite_mixes() -> None:
    n = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    q = torch.tensor([[0.0, 1.0]])
    assert mix(q, n, q @ n.T, MixingConfig(n=2, s=1000, s_prime=1000)).isfinite().all()


def test_approximate_top_n_finds_most_and_exact_finds_all() -> None:
    cosines = torch.randn(2, 65536, generator=seeded(0))
    assert 0.92 < measure_recall(cosines, 1024) < 0.97
    assert measure_recall(cosines[:, :5000], 1024) == 1.0  # too few for bins: exact
    hardest, allowed = find_hardest(cosines, 5)
    assert allowed.tolist() == [5, 5]
    torch.testing.assert_close(cosines.gather(1, hardest).sort(1).values, cosines.sort(1).values[:, -5:])


@pytest.mark.parametrize(("epoch", "on"), [(0, False), (9, False), (10, True), (197, True), (198, False)])
def test_mixing_pauses_in_warm_up_and_cool_down(epoch: int, on: bool) -> None:
    assert MixingConfig(n=8, s=4, warmup_epochs=10, cooldown_epochs=2).is_on_in(epoch, 200) is on
    assert not MixingConfig().is_on_in(epoch, 200)


def test_example_in_the_docstring_runs() -> None:
    result = doctest.testmod(pretrain.mixing)
    assert (result.attempted > 6, result.failed) == (True, 0)
