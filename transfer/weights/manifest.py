"""The manifest beside a converted file: where the weights came from, what was proved, which input they want."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import digest_file, read_json, write_json
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION, match_pixel_format

_DEFAULT = PIXEL_FORMATS[TORCHVISION]
MAX_SETTINGS = 10_000
"""Values; the settings of a pretraining are some hundred."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of a converted file; the JSON has these keys in this order."""

    source: dict[str, Any]
    """path, sha256, family, branch, epoch, reason; dropped and filled: how many keys; options: the user's."""
    output: dict[str, Any]
    """path (the file's name), sha256, format, tensors."""
    depth: int
    pixel_format: str = _DEFAULT.order
    """RGB or BGR."""
    pixel_mean: tuple[float, ...] = _DEFAULT.mean
    pixel_std: tuple[float, ...] = _DEFAULT.std
    stride_in_1x1: bool = _DEFAULT.stride_in_1x1
    """Torchvision's bottleneck has its stride in the 3×3 convolution."""
    assumed: str = ""
    """What was taken for granted about the network and its input, since no tensor shows it."""
    matched: int
    """Tensors of the output that equal the source's, name by name."""
    expected: int
    """Tensors of a whole ResNet of that depth: 318 for ResNet-50."""
    parity: dict[str, float]
    """Largest difference of C2 … C5 between torchvision on the source and Detectron2 on the output, relative to the
    largest activation."""
    parity_by: str = ""
    """detectron2 and its version, or torch (Detectron2's forward pass restated) where it is not installed."""
    commit: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """The pretraining's settings, where the source holds them; see `keep_plain`."""


def pixel_format_of(manifest: Manifest) -> str:
    """Return the name of the pixel format that a manifest describes.

    Raises:
        ValueError: it is none of the known ones.

    """
    name = match_pixel_format(manifest.pixel_mean, manifest.pixel_std, manifest.pixel_format)
    if name is None or PIXEL_FORMATS[name].stride_in_1x1 != manifest.stride_in_1x1:
        raise ValueError(
            f"the manifest describes no known input: {manifest.pixel_format}, mean {list(manifest.pixel_mean)}, std "
            f"{list(manifest.pixel_std)}, stride in the 1×1: {manifest.stride_in_1x1}; convert the checkpoint again"
        )
    return name


def manifest_path(weights_path: str | Path) -> Path:
    """Return where the manifest of a weights file lies: OUT.manifest.json."""
    path = Path(weights_path)
    return path.with_name(f"{path.name}.manifest.json")


def write_manifest(weights_path: str | Path, manifest: Manifest) -> Path:
    """Write the manifest beside the weights; return its path."""
    path = manifest_path(weights_path)
    write_json(path, dataclasses.asdict(manifest))
    return path


def keep_plain(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what JSON can hold of a checkpoint's settings; {} when there is more than any settings have.

    Foreign checkpoints keep devices, sets and tensors there; in a hostile one a few dictionaries repeat each other and
    unfold without end.
    """
    count = 0

    def keep(value: Any, level: int) -> Any:
        nonlocal count
        count += 1
        if count > MAX_SETTINGS or level > 16:
            raise OverflowError
        if isinstance(value, Mapping):
            named = {str(key): item for key, item in value.items() if _is_plain(str(key)) and _is_plain(item)}
            return {name: keep(item, level + 1) for name, item in named.items()}
        if isinstance(value, list | tuple):
            return [keep(item, level + 1) for item in value if _is_plain(item)]
        return value

    try:
        kept: dict[str, Any] = keep(settings, 0)
    except OverflowError:
        return {}
    return kept


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return value.bit_length() <= 64
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.encode(errors="ignore").decode() == value  # a lone surrogate has no place in UTF-8
    return value is None or isinstance(value, Mapping | list | tuple)


def read_manifest(weights_path: str | Path) -> Manifest:
    """Return the manifest of a converted file, after its digest has been compared with the file's bytes.

    Raises:
        ValueError: no manifest, not one of ours, or the weights file is another one than was converted.

    """
    path = manifest_path(weights_path)
    if not path.is_file():
        raise ValueError(
            f"{weights_path}: has no manifest ({path.name}), so nothing is proved about it; make it with "
            "`python -m tools.convert_checkpoint IN OUT`"
        )
    values = read_json(path)
    names = {entry.name for entry in dataclasses.fields(Manifest)}
    required = {"source", "output", "depth", "matched", "expected", "parity"}
    if not isinstance(values, dict) or not required <= values.keys() <= names:
        keys = sorted(values) if isinstance(values, dict) else type(values).__name__
        raise ValueError(f"{path}: not a manifest of this converter: has {keys}, expected {sorted(names)}")
    digest = digest_file(weights_path)
    if digest != values["output"]["sha256"]:
        raise ValueError(
            f"{weights_path}: its SHA-256 is {digest}, the manifest says {values['output']['sha256']}: the file was "
            "changed or cut after the conversion; convert again"
        )
    values |= {key: tuple(values[key]) for key in ("pixel_mean", "pixel_std") if key in values}
    return Manifest(**values)
