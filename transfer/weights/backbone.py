"""Read the backbone out of any family's checkpoint: strictly, whole, under torchvision's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from transfer.weights.containers import read_tree
from transfer.weights.recognition import Candidate, Recognition, recognise
from transfer.weights.resnet_names import (
    COUNTER,
    expected_shapes,
    find_depth,
    find_key_mistakes,
    find_value_mistakes,
    summarise_mistakes,
)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A whole ResNet without its classifier, and where it came from."""

    state: dict[str, Tensor]
    """Torchvision names in torchvision's order; on the CPU, each tensor with storage of its own."""
    depth: int
    family: str
    branch: str
    epoch: int | None
    """Epochs trained, where the checkpoint says it."""
    reason: str
    """Why it was taken for this family and branch."""
    dropped: tuple[str, ...] = ()
    """Keys of heads and queues that were left out."""
    filled: int = 0
    """Batch counters that the file did not hold and that were set to 0 (all of them or none)."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The pretraining's settings, where the checkpoint holds them."""


def read_backbone(
    path: str | Path, *, family: str | None = None, branch: str | None = None, trust_pickle: bool = False
) -> Backbone:
    """Return the backbone in the checkpoint at `path`; see `transfer.weights.families` for what is known.

    Args:
        path: any container format (told by content).
        family: one of the known names; None: recognised.
        branch: query, key, teacher or student; None: the query (online) encoder.
        trust_pickle: accept torch files that name other classes; they are replaced by empty stand-ins.

    Raises:
        ValueError: unreadable, unclear, incomplete, of another shape, or with NaN; the text says what and what to do.

    """
    where = str(path)
    tree = read_tree(path, trust_pickle=trust_pickle)
    found = recognise(tree, where, family=family, branch=branch)
    if found.unknown:
        raise ValueError(
            f"{where}: {len(found.unknown)} tensors belong to no branch and no head of {found.chosen.family}:\n"
            f"{summarise_mistakes(list(found.unknown))}\nRemove them, or re-save the encoder's state_dict alone"
        )
    for candidate in found.candidates:
        _check_whole(candidate, where)
    return _take(found, tree, where)


def load_backbone(path: str | Path) -> nn.Module:
    """Return a torchvision ResNet with the weights of `path` and an identity in place of fc; it yields (B, 2048).

    (B, 512) for ResNet-18 and 34. The key sets must agree exactly.
    """
    backbone = read_backbone(path)
    with torch.device("meta"):  # no initialisation: every tensor is assigned, and the random state stays as it was
        model = build_resnet(backbone.depth)
    model.load_state_dict(backbone.state, strict=True, assign=True)
    return model


def build_resnet(depth: int) -> nn.Module:
    """Return torchvision's ResNet of that depth with an identity in place of fc, freshly initialised."""
    model: nn.Module = getattr(torchvision.models, f"resnet{depth}")()
    model.fc = nn.Identity()
    return model


def _check_whole(candidate: Candidate, where: str) -> None:
    depth = find_depth(candidate.state)
    state, _ = _fill_counters(candidate.state, depth)
    if mistakes := find_key_mistakes(state, depth):
        raise ValueError(
            f"{where}: the {candidate.branch} branch ({candidate.place()}) is nearest to a ResNet-{depth}, but "
            f"{len(mistakes)} of its tensors are off:\n{summarise_mistakes(mistakes)}\nNothing is written; "
            "take a whole checkpoint of ResNet-18, 34, 50, 101 or 152"
        )


def _fill_counters(state: Mapping[str, Tensor], depth: int) -> tuple[dict[str, Tensor], int]:
    """Return the state with counters of 0 where the file has none at all, and how many were added."""
    if any(name.endswith(COUNTER) for name in state):
        return dict(state), 0
    counters = [name for name in expected_shapes(depth) if name.endswith(COUNTER)]
    return {**state, **{name: torch.tensor(0) for name in counters}}, len(counters)


def _take(found: Recognition, tree: Mapping[str, Any], where: str) -> Backbone:
    chosen = found.chosen
    depth = find_depth(chosen.state)
    state, filled = _fill_counters(chosen.state, depth)
    state = {name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in expected_shapes(depth)}
    if mistakes := find_value_mistakes(state):
        raise ValueError(
            f"{where}: refused:\n{summarise_mistakes(mistakes)}\nThe training diverged or the file is damaged"
        )
    epoch, config = tree.get("epoch"), tree.get("config")
    counted = isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 2**31
    return Backbone(
        state=state,
        depth=depth,
        family=chosen.family,
        branch=chosen.branch,
        epoch=epoch if counted else None,
        reason=found.reason(),
        dropped=found.dropped,
        filled=filled,
        config=config if isinstance(config, Mapping) else {},
    )
