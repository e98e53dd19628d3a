"""KeyQueue against a Python list, including the wrap-around."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from pretrain.key_queue import UNKNOWN, KeyQueue


@settings(max_examples=40, deadline=None)
@given(length=st.integers(1, 9), batches=st.lists(st.integers(0, 25), max_size=6))
def test_queue_equals_a_ring_written_key_by_key(length: int, batches: list[int]) -> None:
    queue = KeyQueue(length, 3, generator=torch.Generator().manual_seed(0))
    keys, indices = queue.keys.clone(), [UNKNOWN] * length
    place = number = 0
    for batch in batches:
        new = F.normalize(torch.randn(batch, 3), dim=1)
        numbers = torch.arange(number, number + batch)
        queue.enqueue(new, numbers, numbers % 4)
        for row in new:  # one at a time, replacing the oldest
            keys[place], indices[place] = row, number
            place, number = (place + 1) % length, number + 1
    assert torch.equal(queue.keys, keys)
    assert queue.indices.tolist() == indices
    assert queue.labels.tolist() == [UNKNOWN if index == UNKNOWN else index % 4 for index in indices]
    assert int(queue.pointer) == place


def test_initial_rows_have_unit_length_and_belong_to_no_image() -> None:
    queue = KeyQueue(50, 7)
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(50))
    assert (queue.indices == UNKNOWN).all()
    assert (queue.labels == UNKNOWN).all()


def test_restored_queue_continues_at_its_pointer() -> None:
    queue, other = KeyQueue(10, 4), KeyQueue(10, 4)
    queue.enqueue(F.normalize(torch.randn(7, 4), dim=1), torch.arange(7), torch.arange(7))
    other.load_state_dict(queue.state_dict())
    more = F.normalize(torch.randn(6, 4), dim=1)
    for one in (queue, other):
        one.enqueue(more, torch.arange(6))
    assert all(torch.equal(a, b) for a, b in zip(queue.state_dict().values(), other.state_dict().values(), strict=True))
    assert int(other.pointer) == 3


def test_empty_queue_is_refused() -> None:
    with pytest.raises(ValueError, match="length and dim of 1 or more"):
        KeyQueue(0, 4)
