"""Map tensor names between torchvision's and Detectron2's ResNets, and check that a ResNet is complete.

Without its classifier, a ResNet-50 has 318 tensors: 53 convolutions of one tensor, 53 normalisations of five.
Torchvision's names: torchvision/models/resnet.py; Detectron2's: detectron2/modeling/backbone/resnet.py.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
import torchvision
from torch import Tensor

DEPTHS = (18, 34, 50, 101, 152)
"""Depths of ResNet that both libraries build with these names."""

COUNTER = "num_batches_tracked"
"""Batch counter of a normalisation layer; the forward pass does not use it, and some writers omit it."""

STAGES = ("res2", "res3", "res4", "res5")
"""Detectron2's names of layer1 … layer4; their outputs are C2 … C5."""

LAYER_NAMES = {
    "conv1": "stem.conv1",
    "bn1": "stem.conv1.norm",
    "layer{}.{}.conv{}": "res{}.{}.conv{}",
    "layer{}.{}.bn{}": "res{}.{}.conv{}.norm",
    "layer{}.{}.downsample.0": "res{}.{}.shortcut",
    "layer{}.{}.downsample.1": "res{}.{}.shortcut.norm",
}
"""Torchvision's layers → Detectron2's; the first number counts from 1 in torchvision and from 2 in Detectron2."""


@cache
def expected_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Return name → shape of torchvision's ResNet of this depth without fc, in the order of its state_dict."""
    with torch.device("meta"):
        model = getattr(torchvision.models, f"resnet{depth}")()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("fc.")}


@cache
def detectron2_name(name: str) -> str:
    """Return Detectron2's name of a torchvision tensor ("layer1.0.bn2.bias" → "res2.0.conv2.norm.bias").

    Raises:
        ValueError: the name is not a tensor of a torchvision ResNet.

    """
    layer, _, kind = name.rpartition(".")
    numbers = re.findall(r"\d+", layer) if layer.startswith("layer") else []
    pattern = re.sub(r"\d+", "{}", layer, count=3 if "downsample" not in layer else 2) if numbers else layer
    if pattern not in LAYER_NAMES:
        raise ValueError(f"{name}: not a tensor of a torchvision ResNet, so Detectron2 has no name for it")
    return f"{LAYER_NAMES[pattern].format(*_shift_stage(numbers))}.{kind}"


@cache
def name_table(depth: int) -> dict[str, str]:
    """Return torchvision's name → Detectron2's name for every tensor of this depth; the mapping is one to one."""
    table = {name: detectron2_name(name) for name in expected_shapes(depth)}
    assert len(set(table.values())) == len(table), "tensor names must be unique"
    return table


def find_depth(names: Iterable[str]) -> int:
    """Return the depth whose torchvision names differ least from `names`."""
    given = _without_counters(names)
    return min(DEPTHS, key=lambda depth: len(given ^ _without_counters(expected_shapes(depth))))


@cache
def torchvision_names() -> dict[str, str]:
    """Return Detectron2's name → torchvision's name for the tensors of all depths."""
    return {theirs: ours for depth in DEPTHS for ours, theirs in name_table(depth).items()}


def find_key_mistakes(state: Mapping[str, Tensor], depth: int) -> list[str]:
    """Return the differences between `state` (torchvision names, no fc) and a complete ResNet of this depth.

    Compares the key sets in both directions, shapes and dtypes (float32; int64 for the counters), but no values.
    """
    shapes = expected_shapes(depth)
    mistakes = [f"missing: {name}" for name in shapes if name not in state]
    mistakes += [f"not of a ResNet-{depth}: {name}" for name in state if name not in shapes]
    for name, tensor in state.items():
        dtype = torch.int64 if name.endswith(COUNTER) else torch.float32
        if name in shapes and tuple(tensor.shape) != shapes[name]:
            mistakes.append(f"{name}: shape {tuple(tensor.shape)}, expected {shapes[name]}")
        elif name in shapes and tensor.dtype != dtype:
            mistakes.append(f"{name}: {tensor.dtype}, expected {dtype}")
    return mistakes


def as_expected_dtypes(state: Mapping[str, Tensor], *, float32: bool = False) -> dict[str, Tensor]:
    """Return the state with int32 counters as int64 and, if `float32`, all floating-point tensors as float32.

    Widening float16 and bfloat16 is exact; float64 is rounded to the nearest float32.
    """
    dtypes = {name: torch.int64 if name.endswith(COUNTER) else torch.float32 for name in state}
    return {
        name: tensor.to(dtypes[name])
        if (tensor.is_floating_point() and float32 and dtypes[name] == torch.float32)
        or (tensor.dtype == torch.int32 and dtypes[name] == torch.int64)
        else tensor
        for name, tensor in state.items()
    }


def find_value_mistakes(state: Mapping[str, Tensor]) -> list[str]:
    """Return the tensors that hold NaN or infinity, or a negative running variance or counter."""
    return [text for name, tensor in state.items() if (text := _find_bad_value(name, tensor))]


def summarise_mistakes(mistakes: list[str], shown: int = 8) -> str:
    """Return the first `shown` mistakes, one per line, and the number of the others."""
    rest = [f"… and {len(mistakes) - shown} more"] if len(mistakes) > shown else []
    return "\n".join(f"  {text}" for text in [*mistakes[:shown], *rest])


def _find_bad_value(name: str, tensor: Tensor) -> str:
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        return f"{name}: holds NaN or infinity"
    if name.endswith(("running_var", COUNTER)) and bool((tensor < 0).any()):
        return f"{name}: negative, which no training writes"
    return ""


def _without_counters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(COUNTER)}


def _shift_stage(numbers: list[str]) -> list[str]:
    return [str(int(numbers[0]) + 1), *numbers[1:]] if numbers else []
