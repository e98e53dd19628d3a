"""A learning rate far above its source's rule gives a warning before the run; published recipes give none."""

import pytest

from pretrain.config import ModelConfig, OptimizerConfig, PretrainConfig, RunConfig
from pretrain.optimization.rates import find_doubts, rate_excess, source_rate


def make(batch: int, method: str = "moco", epochs: int = 200, **optimizer: object) -> PretrainConfig:
    return PretrainConfig(
        model=ModelConfig(method=method),
        optimizer=OptimizerConfig(**optimizer),
        run=RunConfig(batch_size=batch, epochs=epochs),
    )


@pytest.mark.parametrize(("batch", "rate"), [(256, 0.03), (64, 0.0075), (1024, 0.12)])
def test_moco_rate_follows_the_linear_rule(batch: int, rate: float) -> None:
    assert source_rate(OptimizerConfig(), "moco", batch) == pytest.approx(rate)
    assert find_doubts(make(batch, lr=rate)) == []
    assert find_doubts(make(batch, lr=0.03, lr_rule="linear")) == []


@pytest.mark.parametrize("method", ["moco", "simclr", "supervised"])
def test_rate_of_one_tenth_at_batch_64_gives_a_warning(method: str) -> None:
    (doubt,) = find_doubts(make(64, method, lr=0.1))
    assert doubt.startswith("optimizer.lr: the peak is 0.1")
    assert ("4.0 times" if method == "supervised" else "13.3 times") in doubt


def test_scaled_peak_is_compared_not_the_number_given() -> None:
    assert rate_excess(make(1024, lr=0.03, lr_rule="linear")) == pytest.approx(1)
    assert rate_excess(make(1024, lr=0.03, lr_rule="sqrt")) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "config",
    [
        make(256, "supervised", lr=0.1),
        make(64, lr=1e-3, name="adamw", epochs=30),
        make(4096, lr=9.6, name="lars"),  # MoCo-v3
        make(64, "simclr", lr=0.075 * 8, name="lars"),  # SimCLR, square-root rule
    ],
)
def test_published_rates_give_no_warning(config: PretrainConfig) -> None:
    assert find_doubts(config) == []


def test_per_epoch_rate_in_a_short_run_gives_a_warning() -> None:
    (doubt,) = find_doubts(make(256, epochs=6))
    assert "changes only 6 times" in doubt
    assert find_doubts(make(256, epochs=6, per_step=True)) == []
    assert find_doubts(make(256, epochs=0, lr=5.0)) == []
