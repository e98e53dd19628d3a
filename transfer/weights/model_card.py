"""Write the model card of exported weights: method, data, epochs, input, provenance, loading code, measured results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from pretrain.runtime.storage import write_text
from transfer.results.run_result import RunResult, read_result
from transfer.weights.manifest import Manifest
from transfer.weights.method_name import describe_method

_UNKNOWN = "not recorded in the checkpoint"


def card_path(weights_path: str | Path) -> Path:
    """Return the path of a weights file's model card: the same name with the suffix .md."""
    return Path(weights_path).with_suffix(".md")


def write_model_card(
    weights_path: str | Path, manifest: Manifest, metrics_files: Sequence[str | Path] = (), *, licence: str = ""
) -> Path:
    """Write the model card beside `weights_path`; the same manifest and results give the same text.

    Args:
        weights_path: exported file.
        manifest: manifest of the conversion.
        metrics_files: metrics.json files of runs that started from these weights.
        licence: as for `render_model_card`.

    Returns:
        The card's path.

    """
    results = [read_result(path) for path in metrics_files]
    path = card_path(weights_path)
    write_text(path, render_model_card(Path(weights_path).name, manifest, results, licence=licence))
    return path


def render_model_card(
    name: str, manifest: Manifest, results: Sequence[RunResult] = (), *, licence: str = "", hub: bool = False
) -> str:
    """Return the card as Markdown with the YAML header that model hubs read.

    Args:
        name: name of the file or hub folder.
        manifest: manifest of the conversion.
        results: results of runs that started from these weights.
        licence: the hub's identifier; empty: the card says that it is not stated.
        hub: whether the card is for a hub folder.

    """
    arch = f"resnet{manifest.depth}"
    config, source = manifest.config, manifest.source
    rows = {
        "Architecture": f"ResNet-{manifest.depth} (torchvision's names), without classifier",
        "Method": describe_method(config, source["family"]) + ("" if config.get("model") else f" (details {_UNKNOWN})"),
        "Data": config.get("data", {}).get("root") or _UNKNOWN,
        "Epochs": _UNKNOWN if source["epoch"] is None else source["epoch"],
        "Batch size": config.get("run", {}).get("batch_size", _UNKNOWN),
        "Licence": licence or "not stated",
        "Input": f"{manifest.pixel_format}, 0…255, mean {list(manifest.pixel_mean)}, std {list(manifest.pixel_std)}",
        "Stride": "in the 3×3 convolution" if not manifest.stride_in_1x1 else "in the 1×1 convolution",
    }
    checks = {
        "Source": f"{Path(source['path']).name}, SHA-256 `{source['sha256']}`",
        "Family and branch": f"{source['family']}, {source['branch']}",
        "This file": f"SHA-256 `{manifest.output['sha256']}`",
        "Tensors equal to the source": f"{manifest.matched} of {manifest.expected}",
        "Largest relative difference, C2 … C5": f"{max(manifest.parity.values()):.1e} against {manifest.parity_by}",
        "Converter": manifest.commit,
    }
    load = _HUB_EXAMPLE.format(name=name) if hub else _EXAMPLE.format(name=name, arch=arch)
    parts = [_render_header(name, arch, results, licence), f"# {name}\n", _table(("", ""), rows.items())]
    parts += ["## Load\n", load]
    parts += ["## Verification\n", _table(("", ""), checks.items()), "## Results\n", _describe_results(results)]
    return "\n".join(parts)


_EXAMPLE = """```python
import timm, torch, torchvision
from safetensors.torch import load_file

model = timm.create_model("{arch}", num_classes=0, checkpoint_path="{name}")

model = torchvision.models.{arch}()
model.fc = torch.nn.Identity()
model.load_state_dict(load_file("{name}"))
```
"""


_HUB_EXAMPLE = """```python
import timm

model = timm.create_model("hf-hub:OWNER/{name}", num_classes=0, pretrained=True)  # or "local-dir:{name}"
```
"""


def _render_header(name: str, arch: str, results: Sequence[RunResult], licence: str) -> str:
    """Return the YAML header; its model-index holds one entry per measured result."""
    header: dict[str, Any] = {"library_name": "timm", "tags": ["self-supervised", arch]}
    if licence:
        header["license"] = licence
    if entries := [_index_result(result) for result in results]:
        header["model-index"] = [{"name": name, "results": entries}]
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _index_result(result: RunResult) -> dict[str, Any]:
    detector = result.protocol.startswith(("voc", "coco"))
    return {
        "task": {"type": "object-detection" if detector else "image-classification"},
        "dataset": {"name": result.protocol, "type": result.protocol.partition("@")[0], "args": {"seed": result.seed}},
        "metrics": [
            {"type": name, "name": name, "value": value} for name, value in result.metrics.items() if value is not None
        ],
    }


def _describe_results(results: Sequence[RunResult]) -> str:
    rows = [
        (
            result.protocol,
            result.seed,
            ", ".join(f"{name} {value:g}" for name, value in result.metrics.items() if value is not None),
        )
        for result in results
    ]
    return _table(("protocol", "seed", "result"), rows) if rows else "None measured yet.\n"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join("| " + " | ".join(str(cell) for cell in line) + " |\n" for line in lines)
