"""The largest values of a row are found exactly for any row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.kernels.hardest import LARGEST_SHARE, RUN, SMALLEST, STRIDE, find_largest
from pretrain.mixing import find_hardest

K = SMALLEST + 37  # not a multiple of the stride


def assert_largest(values: torch.Tensor, n: int) -> None:
    """The sorted values found are the first n of the sorted row, and no column occurs twice."""
    columns = find_largest(values, n)
    assert columns.shape == (len(values), n)
    assert columns.dtype == torch.int64
    found = values.gather(1, columns).sort(dim=1, descending=True).values
    assert torch.equal(found, values.sort(dim=1, descending=True).values[:, :n])
    assert all(len(set(row.tolist())) == n for row in columns)


@pytest.mark.parametrize("n", [1, 2, 128, 1024, int(LARGEST_SHARE * K), int(LARGEST_SHARE * K) + 1, K])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_random_rows(n: int, dtype: torch.dtype) -> None:
    torch.manual_seed(n)
    assert_largest(torch.randn(3, K, dtype=dtype), n)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 1200), st.sampled_from([1, 2, 3, 50, 10**6]), st.floats(0, 1))
def test_rows_with_ties_and_excluded_values(seed: int, n: int, levels: int, excluded: float) -> None:
    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (2, K)).astype(np.float32)
    values[rng.random((2, K)) < excluded] = -np.inf
    assert_largest(torch.from_numpy(values), n)


def sampled_columns() -> torch.Tensor:
    columns = torch.arange(K // STRIDE * STRIDE)
    return columns[columns % STRIDE < RUN]


@pytest.mark.parametrize("sampled_are_large", [True, False])
def test_rows_with_unrepresentative_samples(sampled_are_large: bool) -> None:
    torch.manual_seed(0)
    values = torch.rand(2, K)
    values[:, sampled_columns()] += 5 if sampled_are_large else -5
    assert_largest(values, 1000)


@pytest.mark.parametrize("order", ["rising", "falling", "equal"])
def test_rows_in_order(order: str) -> None:
    row = torch.arange(K, dtype=torch.float32)
    assert_largest({"rising": row, "falling": -row, "equal": torch.zeros(K)}[order].repeat(2, 1), 700)


def test_ties_are_resolved_by_ascending_column() -> None:
    assert find_largest(torch.zeros(1, K), 5).tolist() == [[0, 1, 2, 3, 4]]


def test_ordered_columns_have_descending_values() -> None:
    torch.manual_seed(0)
    values = torch.randn(2, K)
    assert torch.equal(find_largest(values, 900, ordered=True), values.topk(900, dim=1).indices)


def test_threads_and_memory_layout_do_not_change_the_answer() -> None:
    torch.manual_seed(0)
    values = torch.randn(7, K)
    threads = torch.get_num_threads()
    expected = find_largest(values, 600)
    try:
        torch.set_num_threads(1 if threads > 1 else 3)
        assert torch.equal(find_largest(values, 600), expected)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(find_largest(values.T.contiguous().T, 600), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64])
def test_other_dtypes_use_a_full_selection(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    assert_largest((1000 * torch.rand(2, K)).to(dtype), 300)


def test_row_of_nan_terminates() -> None:
    values = torch.full((2, K), torch.nan)
    values[1, ::3] = 1.0
    assert find_largest(values, 300).shape == (2, 300)


def test_usable_negatives_come_first_in_a_long_queue() -> None:
    torch.manual_seed(0)
    cosines = torch.rand(3, K)
    exclude = torch.ones(3, K, dtype=torch.bool)
    exclude[:, 500:900] = False
    hardest, allowed = find_hardest(cosines, 1000, exclude=exclude)
    assert allowed.tolist() == [400] * 3
    assert all(sorted(row[:400].tolist()) == list(range(500, 900)) for row in hardest)
