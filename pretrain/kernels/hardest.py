"""Find the N largest of many values per row on a CPU, exactly, in a fraction of a full selection's time.

For each row: 1. A sixteenth of it is sampled, in runs of one cache line spread evenly over it. 2. From the sample
follows a threshold that slightly more than N values exceed, nearly always. 3. One pass collects those values, and a
selection among them finds the N-th largest. Where fewer than N exceed the threshold, or very many (ties), the
selection goes over the whole row. So the answer is exact for every input; only its time depends on the sample.

Shapes: B rows, K values each.
"""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

RUN, STRIDE = 16, 256
"""RUN of every STRIDE values are sampled: 16 float32 values are a cache line."""
SMALLEST = 16_384
"""A full selection from fewer values is quick enough."""
LARGEST_SHARE = 1 / 16
"""To find more than this share of the values, a full selection is as quick."""
MARGIN = 5.0
"""Standard deviations by which the threshold's rank in the sample exceeds the expected one, so that about one row of
100,000 has too few values above the threshold."""

Row = npt.NDArray[np.floating]
Columns = npt.NDArray[np.intp]


def find_largest(values: Tensor, n: int, *, ordered: bool = False) -> Tensor:
    """Return the columns of the `n` largest values of each row, (B, n) int64.

    Args:
        values: (B, K), without NaN (of a row with NaN, any columns come out).
        n: 1 … K.
        ordered: the largest first. Otherwise the order is the same for the same input, whatever the threads: that of
            the columns where the sample is used, and torch.topk's for few values or on a GPU.

    """
    width = values.shape[1]
    quick = values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)
    if not quick or width < SMALLEST or n > LARGEST_SHARE * width:
        return values.topk(n, dim=1, sorted=ordered).indices
    rows, found = values.detach().numpy(), np.empty((len(values), n), np.int64)

    def fill(numbers: range) -> None:
        for number in numbers:
            columns = _find_in_row(rows[number], n)
            found[number] = columns[np.argsort(-rows[number, columns], kind="stable")] if ordered else columns

    count = min(torch.get_num_threads(), len(rows))
    if count <= 1:
        fill(range(len(rows)))
    else:
        with ThreadPoolExecutor(count) as threads:  # numpy releases the interpreter while it compares and selects
            list(threads.map(fill, (range(first, len(rows), count) for first in range(count))))
    return torch.from_numpy(found)


def _find_in_row(row: Row, n: int) -> Columns:
    """Return the columns of the `n` largest values of `row` (K,), ascending; of equal values the first."""
    runs = len(row) // STRIDE
    sample = row[: runs * STRIDE].reshape(runs, STRIDE)[:, :RUN].ravel()  # (K / 16,)
    expected = n * RUN / STRIDE
    rank = math.ceil(expected + MARGIN * math.sqrt(expected) + MARGIN)
    threshold = np.partition(sample, len(sample) - rank)[len(sample) - rank]
    candidates = np.flatnonzero(row >= threshold)
    if not n <= len(candidates) <= len(row) // 4:
        candidates = np.arange(len(row))
    values = row[candidates]
    last = np.partition(values, len(values) - n)[len(values) - n]  # the n-th largest
    kept = np.flatnonzero(~(values <= last))  # fewer than n, but for NaN
    if len(kept) < n:
        ties = np.flatnonzero(values == last)
        kept = np.sort(np.concatenate([kept, ties[: n - len(kept)]]))
    return candidates[kept[:n]]
