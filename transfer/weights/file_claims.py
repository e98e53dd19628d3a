"""What a checkpoint says of its network beyond the tensors: another architecture, another input, another stride.

Blur pooling, dilation, the activation, the place of a stride and the order of the colours leave no trace in a ResNet's
tensors: the same names and shapes compute other features. What the file says is used or refused; what it does not say
is asked for, where files of its kind differ, or printed as assumed.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.runtime.storage import read_json
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION, describe_pixel_format, match_pixel_format

RGB_AUTHORS = ("moco", "third_party", "torchvision", "mochi-transfer")
"""`__author__` of the scripts that rename a torchvision ResNet for Detectron2: facebookresearch/moco
detection/convert-pretrain.py, detectron2 tools/convert-torchvision-to-d2.py, and this project's own files."""

ASSUMED = "dilation 1, epsilon 1e-5, ReLU, max pooling without blur"
"""What no tensor shows and the converted network has."""

_PLAIN_NETWORK = re.compile(r"(?<![a-z0-9])resnet[_-]?(18|34|50|101|152)(?![a-z0-9])")
_OTHER_WORDS = re.compile(r"blur|aa\d|(^|[^a-z])(gn|ibn|wide|dilated|frozen_bn|evonorm|silu|gelu)([^a-z]|$)")
_NETWORK_KEYS = {"arch", "architecture", "model_name", "backbone", "backbone_name", "name", "model"}
_MODIFIERS: dict[str, tuple[Any, ...]] = {
    "aa_layer": (None, ""),
    "act_layer": (None, "", "relu", "ReLU"),
    "output_stride": (None, 32),
    "replace_stride_with_dilation": (None, (False, False, False), ()),
    "stem_type": (None, ""),
    "avg_down": (None, False),
    "deep_stem": (None, False),
}
"""Arguments of timm's and torchvision's ResNets that no tensor shows, and the values that change nothing."""
_OPENMMLAB = {"dilations": (1, 1, 1, 1), "strides": (1, 2, 2, 2)}
"""The same of mmpretrain/models/backbones/resnet.py."""
_MAX_VALUES = 20_000


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What the file says."""

    pixel_format: str | None
    """Name of an pixel format; None: not said."""
    because: str
    """What in the file says so, or who asked for it."""


def read_claims(tree: Mapping[str, Any], path: str | Path, style: str, pixel_format: str | None = None) -> Claims:
    """Return the pixel format of a file's weights, from what it says and what the user says.

    Args:
        tree: the checkpoint.
        path: where it lies; a config.json beside safetensors is read too.
        style: the way of naming of the chosen ResNet.
        pixel_format: the user's word: a key of `PIXEL_FORMATS`; None: what the file says.

    Raises:
        ValueError: the network is another one, the user's word contradicts the file's, or neither says which input.

    """
    if pixel_format is not None and pixel_format not in PIXEL_FORMATS:
        raise ValueError(f"pixel_format={pixel_format}: expected one of {', '.join(PIXEL_FORMATS)}")
    values = list(_walk(tree)) + list(_walk(_read_config_beside(path)))
    texts = [text for key, text in values if isinstance(text, str) and ("=" in text or ":" in text)]
    mistakes = [*_find_other_networks(values), *_find_modifiers(values), *_find_modifiers_in_texts(texts)]
    if mistakes:
        raise ValueError(
            f"{path}: its tensors are named and shaped like a plain ResNet's, but the file says that the network is "
            f"another one: {'; '.join(dict.fromkeys(mistakes))}. It computes other features: nothing to convert"
        )
    said = _find_pixel_format(tree, values, texts, style)
    if said and pixel_format and said.pixel_format != pixel_format:
        raise ValueError(f"{path}: pixel_format={pixel_format}, but the file says {said.pixel_format} ({said.because})")
    if pixel_format:
        return Claims(pixel_format=pixel_format, because="pixel_format=")
    if said:
        return said
    if style == "detectron2":
        choices = "".join(f"\n  pixel_format={name}: {describe_pixel_format(name)}" for name in PIXEL_FORMATS)
        raise ValueError(
            f"{path}: files under Detectron2's names hold weights for different inputs, and this one does not say for "
            f"which. Say it (the config it was trained with has INPUT.FORMAT and MODEL.PIXEL_MEAN):{choices}"
        )
    return Claims(pixel_format=TORCHVISION, because="nothing in the file says otherwise")


def _walk(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the plain values and short lists below `tree`, each dictionary once."""
    seen: set[int] = set()
    waiting: list[tuple[Mapping[Any, Any], int]] = [(tree, 0)]
    count = 0
    while waiting:
        mapping, level = waiting.pop()
        for key, value in mapping.items():
            count += 1
            if count > _MAX_VALUES:
                return
            if isinstance(value, Mapping):
                if id(value) not in seen and level < 8:
                    seen.add(id(value))
                    waiting.append((value, level + 1))
            elif isinstance(key, str) and not isinstance(value, Tensor):
                yield key, tuple(value) if isinstance(value, list) else value


def _read_config_beside(path: str | Path) -> dict[str, Any]:
    """Return the config.json of a hub folder: timm's holds the architecture, the mean and the std."""
    config = Path(path).with_name("config.json")
    if Path(path).suffix not in (".safetensors", ".bin") or not config.is_file():
        return {}
    values = read_json(config)
    return values if isinstance(values, dict) and "architecture" in values else {}


def _find_other_networks(values: list[tuple[str, Any]]) -> Iterator[str]:
    for key, value in values:
        if key not in _NETWORK_KEYS or not isinstance(value, str) or not re.search("resne[tsx]|res2net", value.lower()):
            continue
        if len(value) < 100 and (not _PLAIN_NETWORK.search(value.lower()) or _OTHER_WORDS.search(value.lower())):
            yield f"{key} is {value}"


def _find_modifiers(values: list[tuple[str, Any]]) -> Iterator[str]:
    for key, value in values:
        plain = _MODIFIERS.get(key)
        if plain is not None and isinstance(value, str | int | tuple | None) and value not in plain:
            yield f"{key} is {value!r:.60}"


def _find_modifiers_in_texts(texts: list[str]) -> Iterator[str]:
    """Yield what an OpenMMLab config (Python or JSON as a text) says of its backbone."""
    for text in texts:
        part = _find_backbone(text)
        for key, plain in _OPENMMLAB.items():
            if match := re.search(rf"['\"]?{key}['\"]?\s*[=:]\s*[(\[]([\d,\s]*)[)\]]", part):
                numbers = tuple(int(number) for number in re.findall(r"\d+", match[1]))
                if numbers != plain:
                    yield f"{key} of its config is {numbers}"
        for key in ("deep_stem", "avg_down"):
            if re.search(rf"['\"]?{key}['\"]?\s*[=:]\s*[Tt]rue", part):
                yield f"{key} of its config is true"


def _find_backbone(text: str) -> str:
    """Return the text within the brackets after backbone=…, or nothing."""
    match = re.search(r"['\"]?backbone['\"]?\s*[=:]\s*(dict\(|\{)", text)
    if not match:
        return ""
    depth = 1
    for place in range(match.end(), min(len(text), match.end() + 20_000)):
        depth += {"(": 1, "{": 1, ")": -1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[match.end() : place]
    return text[match.end() : match.end() + 20_000]


def _find_pixel_format(
    tree: Mapping[str, Any], values: list[tuple[str, Any]], texts: list[str], style: str
) -> Claims | None:
    named = tree.get("pixel_format")
    if style == "caffe2":
        return Claims(pixel_format="msra", because="Caffe2's names")
    if isinstance(named, str) and named in PIXEL_FORMATS:
        return Claims(pixel_format=named, because="the file's own pixel_format")
    return _find_detectron2_format(tree) if style == "detectron2" else _find_config_format(values, texts)


def _find_detectron2_format(tree: Mapping[str, Any]) -> Claims | None:
    model, author = tree.get("model"), str(tree.get("__author__", ""))
    if isinstance(model, Mapping) and "pixel_mean" in model:
        return _read_pixel_tensors(model)
    return (
        Claims(pixel_format=TORCHVISION, because=f"__author__ is {author}") if author.lower() in RGB_AUTHORS else None
    )


def _find_config_format(values: list[tuple[str, Any]], texts: list[str]) -> Claims | None:
    styles = [value for key, value in values if key == "style"]
    pattern = r"['\"]?style['\"]?\s*[=:]\s*['\"](\w+)"
    styles += [match[1] for text in texts for match in re.finditer(pattern, _find_backbone(text))]
    if "caffe" in styles:
        return Claims(pixel_format="msra", because='style is "caffe": BGR, std 1, stride in the 1×1 convolution')
    cfg = dict(values)
    mean, std = cfg.get("mean"), cfg.get("std")
    if not isinstance(mean, tuple) or not isinstance(std, tuple) or not _are_numbers(mean) or not _are_numbers(std):
        return None
    scale = 255.0 if max(mean) <= 1 else 1.0
    name = match_pixel_format(tuple(scale * n for n in mean), tuple(scale * n for n in std))
    return Claims(pixel_format=name, because=f"mean {list(mean)}, std {list(std)} in its settings") if name else None


def _read_pixel_tensors(model: Mapping[str, Any]) -> Claims | None:
    mean, std = (
        tuple(float(value) for value in model[name].flatten()[:3]) if isinstance(model.get(name), Tensor) else ()
        for name in ("pixel_mean", "pixel_std")
    )
    name = match_pixel_format(mean, std)
    return (
        Claims(pixel_format=name, because=f"pixel_mean {json.dumps(mean)}, pixel_std {json.dumps(std)}")
        if name
        else None
    )


def _are_numbers(values: tuple[Any, ...]) -> bool:
    return len(values) == 3 and all(isinstance(value, int | float) for value in values)
