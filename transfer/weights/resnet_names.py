"""The one table of tensor names: torchvision's ResNet and Detectron2's, and what a whole ResNet must hold.

Without its classifier a ResNet-50 has 318 tensors: 53 convolutions of one, 53 normalisations of five tensors.
Torchvision's names: torchvision/models/resnet.py; Detectron2's: detectron2/modeling/backbone/resnet.py.
"""

import re
from collections.abc import Iterable, Mapping
from functools import cache

import torch
import torchvision
from torch import Tensor

DEPTHS = (18, 34, 50, 101, 152)
"""The ResNets that both libraries build under these names."""

COUNTER = "num_batches_tracked"
"""The batch counter of a normalisation layer: no input of the forward pass, left out by some writers."""

STAGES = ("res2", "res3", "res4", "res5")
"""Detectron2's names of layer1 … layer4; what they put out is C2 … C5."""

LAYER_NAMES = {
    "conv1": "stem.conv1",
    "bn1": "stem.conv1.norm",
    "layer{}.{}.conv{}": "res{}.{}.conv{}",
    "layer{}.{}.bn{}": "res{}.{}.conv{}.norm",
    "layer{}.{}.downsample.0": "res{}.{}.shortcut",
    "layer{}.{}.downsample.1": "res{}.{}.shortcut.norm",
}
"""Torchvision's layers → Detectron2's; the first number is the stage, and Detectron2 counts it from 2."""


@cache
def expected_shapes(depth: int) -> dict[str, tuple[int, ...]]:
    """Return name → shape of torchvision's ResNet of that depth without fc; in the order of its state_dict."""
    with torch.device("meta"):
        model = getattr(torchvision.models, f"resnet{depth}")()
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if not name.startswith("fc.")}


@cache
def detectron2_name(name: str) -> str:
    """Return Detectron2's name of one of torchvision's tensors ("layer1.0.bn2.bias" → "res2.0.conv2.norm.bias")."""
    layer, _, kind = name.rpartition(".")
    numbers = re.findall(r"\d+", layer) if layer.startswith("layer") else []
    pattern = re.sub(r"\d+", "{}", layer, count=3 if "downsample" not in layer else 2) if numbers else layer
    if pattern not in LAYER_NAMES:
        raise ValueError(f"{name}: not a tensor of a torchvision ResNet, so Detectron2 has no name for it")
    return f"{LAYER_NAMES[pattern].format(*_shift_stage(numbers))}.{kind}"


@cache
def name_table(depth: int) -> dict[str, str]:
    """Return torchvision's name → Detectron2's name for every tensor of that depth: one to one."""
    table = {name: detectron2_name(name) for name in expected_shapes(depth)}
    assert len(set(table.values())) == len(table), "two tensors must never share a name"
    return table


def find_depth(names: Iterable[str]) -> int:
    """Return the depth whose torchvision names are nearest to `names` (exact when the set is whole)."""
    given = _without_counters(names)
    return min(DEPTHS, key=lambda depth: len(given ^ _without_counters(expected_shapes(depth))))


@cache
def torchvision_names() -> dict[str, str]:
    """Return Detectron2's name → torchvision's name for the tensors of all depths."""
    return {theirs: ours for depth in DEPTHS for ours, theirs in name_table(depth).items()}


def find_key_mistakes(state: Mapping[str, Tensor], depth: int) -> list[str]:
    """Return where `state` (torchvision names, no fc) differs from a whole ResNet of that depth; reads no value.

    The key sets must agree both ways, the shapes too, and the dtypes: float32, and int64 for the counters.
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
    """Return the state with int32 counters as int64; with `float32`, other floating-point tensors as float32.

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
    """Return the first few mistakes, one a line, and how many more there are."""
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
