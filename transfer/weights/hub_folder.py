"""Write a backbone as a folder for the Hugging Face Hub, which timm loads as it is, and upload it when asked.

The folder holds model.safetensors and its manifest, config.json for timm's loader, and README.md, the model card.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime.storage import write_json, write_text
from transfer.results.run_result import read_result
from transfer.weights.convert import convert
from transfer.weights.manifest import Manifest
from transfer.weights.model_card import render_model_card
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION

WEIGHTS = "model.safetensors"
FILES = (WEIGHTS, f"{WEIGHTS}.manifest.json", "config.json", "README.md")


def write_hub_folder(
    source: str | Path,
    folder: str | Path,
    metrics_files: Sequence[str | Path] = (),
    *,
    licence: str = "",
    **options: Any,
) -> Manifest:
    """Convert `source` into the folder; return the manifest.

    Args:
        source: as for `convert`.
        folder: made if it is missing; its model.safetensors is replaced as `convert` replaces a file.
        metrics_files: metrics.json files of runs that started from these weights, for the model card.
        licence: as the hub writes it ("cc-by-nc-4.0"); empty: the card says that it is not stated.
        options: the further options of `convert`.

    Raises:
        ValueError: as `convert`.

    """
    folder = Path(folder)
    if folder.is_file() or folder.suffix in (".safetensors", ".pth", ".pkl", ".pt"):
        raise ValueError(f"{folder}: to=hub-folder writes a folder; give its name without an ending")
    results = [read_result(path) for path in metrics_files]
    manifest = convert(source, folder / WEIGHTS, to="safetensors", **options)
    write_json(folder / "config.json", describe_for_timm(manifest, licence))
    write_text(folder / "README.md", render_model_card(folder.name, manifest, results, licence=licence, hub=True))
    return manifest


def describe_for_timm(manifest: Manifest, licence: str = "") -> dict[str, Any]:
    """Return config.json as timm's hf-hub and local-dir loaders read it (timm/models/_hub.py)."""
    wanted = PIXEL_FORMATS[TORCHVISION]
    return {
        "architecture": f"resnet{manifest.depth}",
        "num_classes": 0,
        "num_features": 2048 if manifest.depth >= 50 else 512,
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "pool_size": [7, 7],
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": [round(value / 255, 6) for value in wanted.mean],
            "std": [round(value / 255, 6) for value in wanted.std],
            "first_conv": "conv1",
            "classifier": "fc",
            "num_classes": 0,
            **({"license": licence} if licence else {}),
        },
    }


def push_folder(folder: str | Path, repository: str, *, dry: bool = True) -> list[str]:
    """Upload a folder that `write_hub_folder` wrote; return what is (or, dry, would be) done, a line each.

    Args:
        folder: the folder.
        repository: OWNER/NAME on the hub; made if it is missing.
        dry: upload nothing.

    Raises:
        ValueError: the folder is not whole, the name is none, or the hub refuses.

    """
    from huggingface_hub import HfApi  # takes a second to import
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    folder = Path(folder)
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise ValueError(f"{folder}: lacks {', '.join(missing)}; write it with to=hub-folder")
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", repository):
        raise ValueError(f"push={repository}: expected OWNER/NAME of letters, digits, dots and hyphens")
    lines = [f"{folder / name} ({(folder / name).stat().st_size:,} bytes) to {repository}" for name in FILES]
    if dry:
        return [f"would upload {line}" for line in lines] + ["nothing was uploaded; to do it, add: dry=false"]
    api = HfApi()
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, allow_patterns=list(FILES))
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise ValueError(
            f"push={repository}: the hub refused or could not be reached ({type(error).__name__}: "
            f"{str(error).strip().partition(chr(10))[0]}); log in with `hf auth login` and check the name"
        ) from error
    return [f"uploaded {line}" for line in lines]
