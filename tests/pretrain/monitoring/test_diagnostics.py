import math
import resource

import numpy as np
import pytest
import torch

from pretrain.config import MixingConfig, ModelConfig
from pretrain.moco import MoCo
from pretrain.monitoring import diagnostics
from pretrain.monitoring.diagnostics import (
    class_alignment,
    class_geometry,
    compare_with_oracle,
    hardness_curve,
    pair_alignment,
    proxy_hits,
    same_class_by_rank,
    same_class_parents,
    same_class_share,
    uniformity,
)
from pretrain.monitoring.epoch_checks import measure_negatives


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    x = torch.nn.functional.normalize(torch.randn(53, 6, generator=generator), dim=1)
    return x, torch.randint(0, 4, (53,), generator=generator) * 3


def test_hardness_curve_equals_sorted_softmax_in_float64() -> None:
    logits = torch.randn(7, 30, generator=torch.Generator().manual_seed(1)) * 5
    values = np.exp(logits.double().numpy())
    reference = np.sort(values / values.sum(1, keepdims=True), axis=1)[:, ::-1].mean(0)
    assert np.allclose(hardness_curve(logits, 30).numpy(), reference, atol=1e-7)
    assert np.allclose(hardness_curve(logits, 4).numpy(), reference[:4], atol=1e-7)
    assert hardness_curve(logits).shape == (30,)


def test_hardness_curve_of_equal_logits_is_flat() -> None:
    assert torch.allclose(hardness_curve(torch.zeros(3, 8), 8), torch.full((8,), 1 / 8, dtype=torch.float64))


def test_proxy_hits_count_synthetic_columns_only_when_given() -> None:
    positive = torch.tensor([0.5, 0.5, 0.5])
    negatives = torch.tensor([[0.1, 0.4], [0.6, 0.0], [0.5, 0.0]])
    synthetic = torch.tensor([[0.7], [0.0], [0.0]])
    assert proxy_hits(positive, negatives).tolist() == [True, False, False]
    assert proxy_hits(positive, negatives, synthetic).tolist() == [False, False, False]
    assert proxy_hits(positive, negatives, synthetic[:, :0]).tolist() == [True, False, False]


def test_same_class_by_rank_follows_the_ranks() -> None:
    negatives = torch.tensor([[0.9, 0.1, 0.5], [0.1, 0.8, 0.3]])
    by_rank = same_class_by_rank(negatives, torch.tensor([1, 2]), torch.tensor([1, 2, -1]), top=5)
    assert by_rank.tolist() == [1.0, 0.0, 0.0]
    by_rank = same_class_by_rank(negatives, torch.tensor([1, 1]), torch.tensor([1, 2, 1]), top=2)
    assert by_rank.tolist() == [0.5, 1.0]


def test_same_class_parents_distinguish_one_from_both() -> None:
    key_labels = torch.tensor([0, 0, 1, 1])
    parents = torch.tensor([[[0, 1], [0, 2], [2, 3], [3, 0]]])
    assert same_class_parents(parents, torch.tensor([0]), key_labels) == {"one": 0.75, "both": 0.25}
    assert same_class_parents(parents[:, :, :1], torch.tensor([0]), key_labels) == {"one": 0.5, "both": 0.5}


def test_oracle_comparison_equals_loops_in_float64() -> None:
    generator = torch.Generator().manual_seed(2)
    positive, negatives = torch.randn(5, generator=generator), torch.randn(5, 9, generator=generator)
    query_labels, key_labels = torch.randint(0, 3, (5,)), torch.randint(0, 3, (9,))
    losses: tuple[list[float], list[float]] = ([], [])
    hits: tuple[list[bool], list[bool]] = ([], [])
    for row in range(5):
        p = float(positive[row].double())
        for column, keep in enumerate((torch.ones(9, dtype=torch.bool), key_labels != query_labels[row])):
            entries = [float(value) for value in negatives[row].double()[keep]]
            losses[column].append(-math.log(math.exp(p) / (math.exp(p) + sum(map(math.exp, entries)))))
            hits[column].append(all(p > value for value in entries))
    result = compare_with_oracle(positive, negatives, query_labels, key_labels)
    assert result.loss == pytest.approx(np.mean(losses[0]), rel=1e-12)
    assert result.loss_oracle == pytest.approx(np.mean(losses[1]), rel=1e-12)
    assert (result.accuracy, result.accuracy_oracle) == pytest.approx((np.mean(hits[0]), np.mean(hits[1])))


def test_oracle_without_any_other_class_has_zero_loss() -> None:
    labels = torch.zeros(4, dtype=torch.long)
    result = compare_with_oracle(torch.zeros(2), torch.zeros(2, 4), labels[:2], labels)
    assert result.loss == pytest.approx(math.log(5))
    assert (result.loss_oracle, result.accuracy_oracle) == (0.0, 1.0)


def test_class_alignment_equals_the_loop_over_pairs(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, labels = points
    values = [
        float((x[i].double() - x[j].double()).square().sum())
        for i in range(len(x))
        for j in range(i)
        if labels[i] == labels[j]
    ]
    assert class_alignment(x, labels) == pytest.approx(np.mean(values), rel=1e-10)
    assert pair_alignment(x, x.flip(0)) == pytest.approx(float((x - x.flip(0)).double().square().sum(1).mean()))


def test_class_alignment_without_a_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="two points of one class"):
        class_alignment(torch.eye(3), torch.arange(3))


@pytest.mark.parametrize("chunk", [1, 7, 52, 53, 54])
def test_uniformity_equals_the_loop_at_every_chunk_size(chunk: int, points: tuple[torch.Tensor, torch.Tensor]) -> None:
    x = points[0]
    values = [math.exp(-2 * float((x[i].double() - x[j].double()).square().sum())) for i in range(53) for j in range(i)]
    assert uniformity(x, chunk=chunk) == pytest.approx(math.log(np.mean(values)), abs=1e-6)


def test_uniformity_of_equal_and_of_orthogonal_points_is_known() -> None:
    assert uniformity(torch.ones(5, 1)) == pytest.approx(0)
    assert uniformity(torch.eye(6)) == pytest.approx(-4, abs=1e-6)
    with pytest.raises(ValueError, match="at least two points"):
        uniformity(torch.ones(1, 3))


def test_class_geometry_equals_loops_in_float64(points: tuple[torch.Tensor, torch.Tensor]) -> None:
    x, labels = points
    values = x.double().numpy()
    classes = sorted(set(labels.tolist()))
    means = {c: values[labels.numpy() == c].mean(0) for c in classes}
    variance = [((values[labels.numpy() == c] - means[c]) ** 2).sum(1).mean() for c in classes]
    apart = {(c, d): np.linalg.norm(means[c] - means[d]) for c in classes for d in classes if c != d}
    geometry = class_geometry(x, labels)
    assert geometry.classes.tolist() == classes
    assert geometry.counts.sum() == 53
    assert np.allclose(geometry.variance, variance, rtol=1e-10)
    assert geometry.inter_distance == pytest.approx(np.mean(list(apart.values())), rel=1e-10)
    assert geometry.intra_variance == pytest.approx(np.mean(variance), rel=1e-10)
    assert geometry.separation == pytest.approx(geometry.inter_distance / math.sqrt(geometry.intra_variance))
    for index, c in enumerate(classes):
        assert geometry.nearest[index] == pytest.approx(min(v for (a, _), v in apart.items() if a == c), rel=1e-10)


def test_class_geometry_of_points_without_spread_is_infinitely_separate() -> None:
    geometry = class_geometry(torch.eye(2).repeat(3, 1), torch.tensor([0, 1] * 3))
    assert geometry.intra_variance == 0
    assert geometry.inter_distance == pytest.approx(math.sqrt(2))
    assert geometry.separation == math.inf
    with pytest.raises(ValueError, match="two classes"):
        class_geometry(torch.eye(2), torch.tensor([1, 1]))


def test_same_class_share_equals_the_loop_in_float64() -> None:
    generator = torch.Generator().manual_seed(3)
    logits, labels = 4 * torch.randn(5, 20, generator=generator), torch.arange(20) % 3
    expected = []
    for row, label in zip(logits.double().numpy(), (0, 1, 2, 0, 1), strict=True):
        terms = np.exp(row)
        expected.append(sum(terms[i] for i in range(20) if i % 3 == label) / terms.sum())
    assert same_class_share(logits, torch.tensor([0, 1, 2, 0, 1]), labels) == pytest.approx(np.mean(expected), rel=1e-6)


def test_queue_is_measured_by_the_single_functions_and_without_random_state() -> None:
    settings = ModelConfig(arch="resnet18", dim=8, queue_len=40, shuffle_bn=False)
    torch.manual_seed(0)
    model = MoCo(settings, MixingConfig(n=10, s=20, s_prime=10))
    assert measure_negatives(model, 0.2) == {}  # no key in the queue has a class yet
    keys, labels = torch.nn.functional.normalize(torch.randn(50, 8), dim=1), torch.arange(50) % 4
    model.queue.enqueue(keys, torch.arange(50), labels)
    state = torch.get_rng_state()
    values = measure_negatives(model, 0.2)
    assert torch.equal(torch.get_rng_state(), state)
    newest, classes = keys[10:], labels[10:]  # the remaining forty
    logits = (newest @ newest.T / 0.2).fill_diagonal_(-math.inf)
    assert len(values["hardness"]) == 39
    assert values["hardness"] == pytest.approx(hardness_curve(logits, 39).tolist(), abs=1e-6)
    assert values["false_negatives"] == pytest.approx(100 * 9 / 39)  # of all its negatives, nine are of its class
    assert values["oracle_share"] == pytest.approx(100 * same_class_share(logits, classes, classes), rel=1e-5)
    assert values["alignment"] == pytest.approx(class_alignment(newest, classes), rel=1e-6)
    assert values["uniformity"] == pytest.approx(uniformity(newest), rel=1e-5)
    assert values["separation"] == pytest.approx(class_geometry(newest, classes).separation, rel=1e-6)
    assert 0 <= values["mixes_pair_both"] <= values["mixes_query"] <= values["mixes_pair_one"] <= 100


def test_pairs_of_views_are_compared_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = torch.randn(2, 23, 5, generator=torch.Generator().manual_seed(4))
    expected = float((x - y).double().square().sum(1).mean())
    monkeypatch.setattr(diagnostics, "CHUNK", 7)
    assert pair_alignment(x, y) == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_distances_of_50000_by_2048_features_stay_in_bounded_memory() -> None:
    x = torch.nn.functional.normalize(torch.randn(50_000, 2048, generator=torch.Generator().manual_seed(0)), dim=1)
    labels = torch.arange(50_000) % 1000
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    geometry = class_geometry(x, labels)
    assert class_alignment(x, labels) == pytest.approx(2, abs=0.01)
    assert pair_alignment(x, x) == 0
    uniformity(x[:10_000], chunk=2048)
    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024
    assert geometry.variance.shape == (1000,)
    assert grown_mib < 600, f"the diagnostics used {grown_mib:.0f} MiB beyond the features"
