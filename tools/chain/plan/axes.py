"""The axes of a sweep as a chain file writes them: "OWNER:key", or "OWNER:part.a,b" for keys that change together."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any


def split_axis(axis: str) -> tuple[str, tuple[str, ...]]:
    """Return the owner and the keys of an axis: "mochi:mixing.n,s" has mixing.n and mixing.s."""
    owner, _, text = axis.partition(":")
    first, *more = (key.strip() for key in text.split(","))
    part = first.rpartition(".")[0]
    return owner, (first, *(key if "." in key or not part or not key else f"{part}.{key}" for key in more))


def find_axis_mistakes(axis: str, values: list[Any], known: Iterable[str]) -> list[str]:
    """Return what is wrong with an axis: it names nothing in the chain, or its values do not fit its keys."""
    (owner, keys), names = split_axis(axis), list(known)
    mistakes = []
    if owner not in names or not all(keys):
        near = difflib.get_close_matches(owner, names, 1)
        hint = f"did you mean {near[0]}:{axis.partition(':')[2]}?" if near else f"there are: {', '.join(names)}"
        mistakes.append(f"grid: expected BACKBONE:key or PROTOCOL:key, got {axis!r}; {hint}")
    if not values:
        mistakes.append(f"grid: the axis {axis!r} has no values")
    mistakes += [
        f"grid: the axis {axis!r} sets {len(keys)} keys; expected as many values, got {value}"
        for value in (values if len(keys) > 1 else ())
        if not isinstance(value, (list, tuple)) or len(value) != len(keys)
    ]
    return mistakes


def find_grid_mistakes(grid: Mapping[str, list[Any]], known: Iterable[str]) -> list[str]:
    """Return the mistakes of all axes."""
    names = list(known)
    return [text for axis, values in grid.items() for text in find_axis_mistakes(axis, values, names)]
