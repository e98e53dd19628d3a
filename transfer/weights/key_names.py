"""Interpret a container's keys: remove wrappers, find ResNets by key pattern, translate to torchvision's names."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from transfer.weights.resnet_names import torchvision_names

_WRAPPER = re.compile(r"(?:(?<=\.)|^)(module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Inserted into keys by DDP and averaged models, torch.compile, FSDP and activation checkpointing."""

STYLES = {
    "torchvision": r"(conv1|bn1|layer[1-4]\.\d+)\.",
    "sequential": r"([01]|[4-7]\.\d+)\.",
    "detectron2": r"(stem|res[2-5])\.",
    "caffe2": r"(conv1_w$|res_conv1_bn_|res[2-5]_\d+_branch)",
}
"""Naming style → pattern at the start of its keys; sequential: nn.Sequential(conv1, bn1, relu, maxpool, layer1, …)."""

_PREFIXES = {
    "torchvision": r"(?P<prefix>(.+\.)?)layer[1-4]\.\d+\.(conv|bn|downsample)",
    "sequential": r"(?P<prefix>(.+\.)?)[4-7]\.\d+\.(conv|bn|downsample)",
    "detectron2": r"(?P<prefix>(.+\.)?)res[2-5]\.\d+\.(conv|shortcut)",
    "caffe2": r"(?P<prefix>)res[2-5]_\d+_branch(1|2[abc])_w$",
}
_CHILDREN = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_CAFFE2_LAYERS = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3"}
_CAFFE2_NORMS = {
    "s": "weight",
    "gamma": "weight",
    "b": "bias",
    "beta": "bias",
    "rm": "running_mean",
    "running_mean": "running_mean",
    "riv": "running_var",
    "running_var": "running_var",
}
"""detectron2/checkpoint/c2_model_loading.py, convert_basic_c2_names."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """The tensors of one dictionary of the file, by keys without wrappers."""

    tensors: dict[str, Tensor]
    raw: dict[str, str]
    """Key without wrappers → key in the file."""


def find_containers(
    tree: Mapping[Any, Any], path: str = "", level: int = 0, seen: set[int] | None = None
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield (dotted path, tensors by name) of every dictionary that holds tensors under string keys.

    A dictionary that occurs in several places is yielded once, because hostile files may repeat it without end; `seen`
    holds the ids of the dictionaries visited.
    """
    seen = {id(tree)} if seen is None else seen
    tensors = {key: value for key, value in tree.items() if isinstance(key, str) and isinstance(value, Tensor)}
    if tensors:
        yield path, tensors
    for key, value in tree.items():
        if isinstance(key, str) and isinstance(value, Mapping) and level < 6 and id(value) not in seen:
            seen.add(id(value))
            yield from find_containers(value, f"{path}.{key}".lstrip("."), level + 1, seen)


def refuse_spoilt_names(names: Mapping[str, Any], where: str, *, detectron2: bool) -> None:
    """Raise ValueError for Detectron2 names corrupted by widely copied conversion scripts.

    Detectron2 loads such files without an error and leaves layers randomly initialised.
    """
    if not detectron2 and not any(re.match(r"(.+\.)?(stem\.(conv1|fc|backbone)|res[2-5]\.\d)", name) for name in names):
        return
    reasons = {
        r"module\.": "keys still begin with module.: Detectron2 would match 0 of them and train from random weights",
        r"stem\.backbone\.|backbone\.(res5|conv1|bn1|layer\d)\.": "keys still begin with backbone.: a C4 model would "
        "load 252 of 318 tensors and leave the stem and res5 randomly initialised",
        r"(.*\.)?stem\.(fc|head|projector|mlp)\.": "the projection head is written as part of the stem",
    }
    for pattern, reason in reasons.items():
        if spoilt := [name for name in names if re.match(pattern, name)]:
            raise ValueError(f"{where}: {reason} (for example {spoilt[0]}). Convert the original checkpoint instead")


def open_container(state: Mapping[str, Tensor], where: str) -> Container:
    """Return the tensors by keys without wrappers.

    Raises:
        ValueError: two keys differ only in their wrappers.

    """
    raw: dict[str, str] = {}
    for name in state:
        short = _WRAPPER.sub("", name)
        if short in raw:
            raise ValueError(f"{where}: the keys {raw[short]} and {name} mean the same tensor; keep one of them")
        raw[short] = name
    return Container(tensors={short: state[name] for short, name in raw.items()}, raw=raw)


def find_prefixes(names: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """Return (prefix, style) of every ResNet found; the two parts of Detectron2's C4 backbone count as one."""
    found: dict[tuple[str, str], None] = {}
    for name in names:
        for style, pattern in _PREFIXES.items():
            if match := re.match(pattern, name):
                found[match["prefix"], style] = None
                break
    if ("backbone.", "detectron2") in found:
        found.pop(("roi_heads.", "detectron2"), None)
    return list(found)


def extract(container: Container, prefix: str, style: str, where: str) -> tuple[dict[str, Tensor], str]:
    """Return a ResNet's tensors under torchvision names, and its prefix as written in the file.

    Names without a counterpart in torchvision stay unchanged.

    Raises:
        ValueError: only some of its keys are wrapped.

    """
    names = {name: name.removeprefix(prefix) for name in container.tensors if name.startswith(prefix)}
    if style == "detectron2" and prefix == "backbone.":
        heads = (name for name in container.tensors if re.match(r"roi_heads\.res5\.\d", name))
        names |= {name: name.removeprefix("roi_heads.") for name in heads}
    names = {name: short for name, short in names.items() if re.match(STYLES[style], short)}
    wrapped = {tuple(re.findall(r"(?:^|\.)module(?=\.)", container.raw[name])) for name in names}
    if len(wrapped) > 1:
        raise ValueError(f"{where}: some keys under {prefix or 'the top'} begin with module. and some do not: damaged")
    first, short = next(iter(names.items()), ("", ""))
    place = container.raw[first].removesuffix(short) if container.raw.get(first, "").endswith(short) else prefix
    return {_translate(short, style): container.tensors[name] for name, short in names.items()}, place


def _translate(name: str, style: str) -> str:
    if style == "sequential":
        child, _, rest = name.partition(".")
        return f"{_CHILDREN[child]}.{rest}"
    if style == "caffe2":
        name = _translate_caffe2(name)
    return torchvision_names().get(name, name) if style in ("detectron2", "caffe2") else name


def _translate_caffe2(name: str) -> str:
    """Return Detectron2's name ("res2_0_branch2a_bn_s" → "res2.0.conv1.norm.weight"); unknown names stay unchanged."""
    match = re.fullmatch(r"(?:res_)?(conv1)_(w|bn_(\w+))|(res\d)_(\d+)_branch(1|2[abc])_(w|bn_(\w+))", name)
    if not match:
        return name
    stem, stem_kind, stem_norm, stage, block, branch, kind, norm = match.groups()
    layer = "stem.conv1" if stem else f"{stage}.{block}.{_CAFFE2_LAYERS[branch]}"
    if (stem_kind or kind) == "w":
        return f"{layer}.weight"
    return f"{layer}.norm.{_CAFFE2_NORMS.get(stem_norm or norm, 'unknown')}"
