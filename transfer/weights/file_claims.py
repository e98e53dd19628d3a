"""Read what a checkpoint records about its network beyond the tensors: architecture, pixel format, stride placement.

Blur pooling, dilation, the activation, stride placement and channel order leave no trace in a ResNet's tensors: the
same names and shapes compute different features. Recorded facts are used or refused; a missing one must be given by the
user if files of this kind differ in it, otherwise it is reported as an assumption.
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
"""`__author__` values of scripts that rename a torchvision ResNet for Detectron2: facebookresearch/moco
detection/convert-pretrain.py, detectron2 tools/convert-torchvision-to-d2.py, and this project's own files."""

ASSUMED = "dilation 1, epsilon 1e-5, ReLU, max pooling without blur"
"""Properties of the converted network that no tensor shows."""

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
"""Arguments of timm's and torchvision's ResNets that no tensor shows → values of a plain ResNet."""
_OPENMMLAB = {"dilations": (1, 1, 1, 1), "strides": (1, 2, 2, 2)}
"""The same for mmpretrain/models/backbones/resnet.py."""
_MAX_VALUES = 20_000


@dataclass(frozen=True, kw_only=True)
class Claims:
    """Pixel format of a file's weights, with its origin."""

    pixel_format: str | None
    """Name of a pixel format; None: not recorded."""
    because: str
    """The entry of the file, or the option, that it was read from."""


def read_claims(tree: Mapping[str, Any], path: str | Path, style: str, pixel_format: str | None = None) -> Claims:
    """Return the pixel format of a file's weights, from the file's records and the user's option.

    Args:
        tree: the checkpoint.
        path: its path; a config.json beside safetensors is read too.
        style: naming style of the chosen ResNet, a key of `transfer.weights.key_names.STYLES`.
        pixel_format: option given by the user, a key of `PIXEL_FORMATS`; None: as recorded in the file.

    Raises:
        ValueError: the network is not a plain ResNet, the option contradicts the file, or neither states the format.

    """
    if pixel_format is not None and pixel_format not in PIXEL_FORMATS:
        raise ValueError(f"pixel_format={pixel_format}: expected one of {', '.join(PIXEL_FORMATS)}")
    values = list(_walk(tree)) + list(_walk(_read_config_beside(path)))
    texts = [text for key, text in values if isinstance(text, str) and ("=" in text or ":" in text)]
    mistakes = [*_find_other_networks(values), *_find_modifiers(values), *_find_modifiers_in_texts(texts)]
    if mistakes:
        raise ValueError(
            f"{path}: its tensors have a plain ResNet's names and shapes, but the file says that the network is "
            f"another one: {'; '.join(dict.fromkeys(mistakes))}. It computes different features and cannot be converted"
        )
    stated = _find_pixel_format(tree, values, texts, style)
    if stated and pixel_format and stated.pixel_format != pixel_format:
        raise ValueError(
            f"{path}: pixel_format={pixel_format}, but the file says {stated.pixel_format} ({stated.because})"
        )
    if pixel_format:
        return Claims(pixel_format=pixel_format, because="pixel_format=")
    if stated:
        return stated
    if style == "detectron2":
        choices = "".join(f"\n  pixel_format={name}: {describe_pixel_format(name)}" for name in PIXEL_FORMATS)
        raise ValueError(
            f"{path}: files with Detectron2's names hold weights for different pixel formats, and this one does not "
            f"say which. Add one of these options (see INPUT.FORMAT and MODEL.PIXEL_MEAN in its training config):"
            f"{choices}"
        )
    return Claims(pixel_format=TORCHVISION, because="nothing in the file says otherwise")


def _walk(tree: Mapping[Any, Any]) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of the plain values and lists below `tree`; each dictionary is visited once."""
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
    """Return the config.json of a hub folder, {} if none; timm's holds architecture, mean and std."""
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
    """Yield deviations from a plain ResNet in the backbone part of OpenMMLab configs (Python or JSON text)."""
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
    """Return the text within the brackets after backbone=…; "" if there is none."""
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
    return Claims(pixel_format=name, because=f"mean {list(mean)}, std {list(std)} in its config") if name else None


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
