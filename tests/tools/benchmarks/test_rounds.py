"""Each side runs once per round, the first round is not counted, and the order rotates."""

import pytest

from tools.benchmarks.rounds import divide, find_versions, summarise_ratios, take_turns


def test_first_round_warms_up_and_the_order_rotates() -> None:
    turns: list[str] = []
    sides = {name: (lambda name=name: turns.append(name) or len(turns)) for name in "abc"}  # type: ignore[misc]
    taken = take_turns(sides, 2)
    assert "".join(turns) == "abcbcacab"
    assert taken == {"a": [6, 8], "b": [4, 9], "c": [5, 7]}


def test_rounds_below_one_are_refused() -> None:
    with pytest.raises(ValueError, match="expected at least 1"):
        take_turns({"a": lambda: 1}, 0)


def test_ratios_are_taken_within_rounds() -> None:
    ratios = divide([2.0, 9.0, 8.0], [1.0, 3.0, 2.0])
    assert summarise_ratios(ratios, "speedup") == {"speedup": 3.0, "low": 2.0, "high": 4.0, "rounds": 3}


def test_versions_name_what_is_installed() -> None:
    assert set(find_versions("torch", "no-such-package-at-all")) == {"torch"}
