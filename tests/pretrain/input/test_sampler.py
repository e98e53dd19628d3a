"""Every sample occurs once per epoch, for any number of ranks and any step at which the run was stopped."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.input.sampler import ShardedSampler, permute


def global_batches(samples: int, batch: int, ranks: int, epoch: int = 0, begin: int = 0) -> list[list[tuple[int, int]]]:
    samplers = [ShardedSampler(samples, batch, 7, rank, ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_position(epoch, begin)
    return [[request for part in parts for request in part] for parts in zip(*samplers, strict=True)]


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_epoch_resumed_on_other_ranks_has_every_sample_once(data: st.DataObject) -> None:
    first, second = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    batch = first * second * data.draw(st.integers(1, 3))
    samples = batch + data.draw(st.integers(0, 200))
    stop = data.draw(st.integers(0, samples // batch))
    whole = global_batches(samples, batch, 1)
    resumed = global_batches(samples, batch, first)[:stop] + global_batches(samples, batch, second, begin=stop)
    assert resumed == whole
    seen = [index for step in resumed for _, index in step]
    assert len(seen) == len(set(seen)) == samples // batch * batch
    assert set(seen) <= set(range(samples))


def test_three_ranks_become_two_within_an_epoch() -> None:
    before, after = global_batches(100, 12, 3)[:5], global_batches(100, 12, 2, begin=5)
    assert before + after == global_batches(100, 12, 1)


def test_epochs_and_seeds_differ_and_repeat() -> None:
    assert permute(50, 1, 0).tolist() == permute(50, 1, 0).tolist()
    assert len({tuple(permute(50, seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9
    assert {epoch for step in global_batches(20, 5, 1, epoch=4) for epoch, _ in step} == {4}


def test_length_is_the_number_of_remaining_steps() -> None:
    sampler = ShardedSampler(103, 10, 0)
    assert (len(sampler), sampler.steps_per_epoch) == (10, 10)
    sampler.set_position(0, 7)
    assert len(list(sampler)) == len(sampler) == 3


def test_first_sample_is_uniform_over_epochs() -> None:
    counts = [0] * 10
    for epoch in range(2000):
        counts[permute(10, 0, epoch)[0]] += 1
    assert sum((count - 200) ** 2 / 200 for count in counts) < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((100, 10, 0, 0, 3), "batch of 10 cannot be split evenly over 3 ranks"),
        ((100, 10, 0, 2, 2), "rank 2 is not among 2"),
        ((5, 10, 0), "5 samples do not fill one global batch of 10"),
    ],
)
def test_impossible_splits_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShardedSampler(*arguments)
    with pytest.raises(ValueError, match="step 11 is not in an epoch of 10"):
        ShardedSampler(100, 10, 0).set_position(0, 11)
