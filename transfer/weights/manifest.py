"""The manifest beside a converted file: origin of the weights, results of the verification, pixel format."""

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
"""Maximum number of values kept; a pretraining config has a few hundred."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Record of a conversion; the JSON has these keys in this order."""

    source: dict[str, Any]
    """path, sha256, family, branch, epoch, reason; dropped and filled: numbers of keys; options: given by the user."""
    output: dict[str, Any]
    """path (the file's name), sha256, format, tensors."""
    depth: int
    pixel_format: str = _DEFAULT.order
    """RGB or BGR."""
    pixel_mean: tuple[float, ...] = _DEFAULT.mean
    pixel_std: tuple[float, ...] = _DEFAULT.std
    stride_in_1x1: bool = _DEFAULT.stride_in_1x1
    """Whether bottlenecks have their stride in the 1×1 convolution; torchvision's have it in the 3×3."""
    assumed: str = ""
    """Assumptions about the network and its input that no tensor shows."""
    matched: int
    """Tensors of the output that equal the source's, name by name."""
    expected: int
    """Tensors of a complete ResNet of this depth: 318 for ResNet-50."""
    parity: dict[str, float]
    """Largest difference of C2 … C5 between torchvision on the source and Detectron2 on the output, relative to the
    largest activation."""
    parity_by: str = ""
    """detectron2 and its version; or torch (a reimplementation of Detectron2's forward pass) if it is not installed."""
    commit: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    """The pretraining's config, if the source holds it; see `keep_plain`."""


def pixel_format_of(manifest: Manifest) -> str:
    """Return the name of the pixel format that a manifest describes.

    Raises:
        ValueError: it is not a known pixel format.

    """
    name = match_pixel_format(manifest.pixel_mean, manifest.pixel_std, manifest.pixel_format)
    if name is None or PIXEL_FORMATS[name].stride_in_1x1 != manifest.stride_in_1x1:
        raise ValueError(
            f"the manifest describes no known pixel format: {manifest.pixel_format}, mean {list(manifest.pixel_mean)}, "
            f"std {list(manifest.pixel_std)}, stride in the 1×1: {manifest.stride_in_1x1}; convert the checkpoint again"
        )
    return name


def manifest_path(weights_path: str | Path) -> Path:
    """Return the path of a weights file's manifest: OUT.manifest.json."""
    path = Path(weights_path)
    return path.with_name(f"{path.name}.manifest.json")


def write_manifest(weights_path: str | Path, manifest: Manifest) -> Path:
    """Write the manifest beside the weights; return its path."""
    path = manifest_path(weights_path)
    write_json(path, dataclasses.asdict(manifest))
    return path


def keep_plain(settings: Mapping[Any, Any]) -> dict[str, Any]:
    """Return the JSON-compatible part of a checkpoint's config; {} if it exceeds `MAX_SETTINGS` values or 16 levels.

    Foreign checkpoints keep devices, sets and tensors there; in a hostile one, dictionaries that contain each other
    would expand without end.
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
        return value.encode(errors="ignore").decode() == value  # UTF-8 cannot encode a lone surrogate
    return value is None or isinstance(value, Mapping | list | tuple)


def read_manifest(weights_path: str | Path) -> Manifest:
    """Return the manifest of a converted file after checking the file's SHA-256 against it.

    Raises:
        ValueError: the manifest is missing or not written by this project, or the weights file has changed.

    """
    path = manifest_path(weights_path)
    if not path.is_file():
        raise ValueError(
            f"{weights_path}: has no manifest ({path.name}), so its weights are unverified; create the file with "
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
            f"{weights_path}: its SHA-256 is {digest}, but the manifest states {values['output']['sha256']}: the file "
            "was changed or truncated after the conversion; convert again"
        )
    values |= {key: tuple(values[key]) for key in ("pixel_mean", "pixel_std") if key in values}
    return Manifest(**values)


def check_same_source(output: Path, origin: Mapping[str, Any]) -> None:
    """Refuse to replace an output that was made from another checkpoint or another branch."""
    path = manifest_path(output)
    if not output.exists() or not path.is_file():
        return
    older = read_json(path)
    source = older.get("source", {}) if isinstance(older, dict) else {}
    keys = ("sha256", "family", "branch")
    if any(source.get(key) != origin[key] for key in keys):
        raise ValueError(
            f"{output}: was made from {source.get('path')} ({source.get('family')}, {source.get('branch')}), not from "
            f"{origin['path']} ({origin['family']}, {origin['branch']}); choose another output name, or replace it "
            "with overwrite=true"
        )


def check_unverified(output: Path, manifest: Manifest) -> None:
    """Refuse to replace a file without a manifest, unless it equals this output (left by a crash)."""
    if digest_file(output) != manifest.output["sha256"]:
        raise ValueError(
            f"{output}: exists and has no manifest, so its origin is unknown; choose another output name, or replace "
            "it with overwrite=true"
        )
