"""Convert a checkpoint into a backbone file and verify its keys, every tensor and the forward pass.

1. Read the source strictly (backbone.py); 2. write the output to a temporary file in the same folder; 3. read it back
with no other information and compare every tensor bit by bit; 4. measure the parity of C2 … C5; 5. only then rename it
to its final name and write the manifest beside it. The same source gives the same bytes.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as save_safetensors
from torch import Tensor

from pretrain.runtime.machine import read_commit
from pretrain.runtime.storage import TEMPORARY_PREFIX, digest_file, write_whole
from transfer.weights.backbone import Backbone, read_backbone
from transfer.weights.files.array_pickle import write_arrays
from transfer.weights.files.containers import digest_checkpoint
from transfer.weights.manifest import (
    Manifest,
    check_same_source,
    check_unverified,
    keep_plain,
    manifest_path,
    pixel_format_of,
    read_manifest,
    write_manifest,
)
from transfer.weights.parity import measure_parity, name_implementation
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION, describe_pixel_format
from transfer.weights.resnet_names import expected_shapes, name_table
from transfer.weights.sources.remote_weights import fetch_weights, is_remote

__all__ = ["check_converted", "convert", "read_manifest", "to_detectron2"]

FORMATS = {
    "detectron2": (".pkl", ".pth"),
    "torchvision": (".pth", ".pt"),
    "timm": (".pth", ".pt"),
    "moco": (".pth", ".pt", ".tar"),
    "safetensors": (".safetensors",),
}
"""Output format → allowed file suffixes."""

LAYOUTS = ("any", "c4", "fpn")
"""For to=detectron2: names that Detectron2 matches by suffix (any model), or the full names of a C4 or FPN detector."""


def to_detectron2(state: Mapping[str, Tensor], depth: int, layout: str = "any") -> dict[str, Tensor]:
    """Return the tensors under Detectron2's names; `state` has torchvision's (see `Backbone.state`).

    Args:
        state: a complete ResNet without fc.
        depth: 18, 34, 50, 101 or 152.
        layout: any (stem.…, res2.…, which Detectron2 matches by suffix), or full names: c4 (backbone.…,
            roi_heads.res5.…) or fpn (backbone.bottom_up.…).

    Raises:
        ValueError: unknown layout.

    Returns:
        The tensors by name.

    Raises:
        ValueError: the layout is none of these.

    """
    if layout not in LAYOUTS:
        raise ValueError(f"layout={layout}: expected one of {', '.join(LAYOUTS)}")
    return {_place(name, layout): state[ours] for ours, name in name_table(depth).items()}


def convert(
    source: str | Path,
    output: str | Path,
    *,
    to: str = "detectron2",
    layout: str = "any",
    overwrite: bool = False,
    **options: Any,
) -> Manifest:
    """Convert `source` to `output`, verify it and write OUT.manifest.json beside it; return the manifest.

    Args:
        source: checkpoint of any known family: a path, or an address that remote_weights.py fetches.
        output: file to write.
        to: a key of `FORMATS`.
        layout: see `to_detectron2`.
        overwrite: replace an output that was made from another checkpoint.
        options: fields of `transfer.weights.backbone.ReadOptions`.

    Returns:
        What OUT.manifest.json holds: source, digests, pixel format, matched tensors, parity.

    Raises:
        ValueError: the request or the checkpoint is invalid, or the verification failed; no file is written or changed.

    """
    output = Path(output)
    _check_request(source, output, to, layout)
    file = fetch_weights(source)
    backbone = read_backbone(file, **options)
    _check_input(backbone, to)
    origin = _describe_source(source, file, backbone)
    if not overwrite:
        check_same_source(output, origin)
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=output.parent) as folder:
        written = Path(folder) / output.name
        write_backbone(written, backbone, to, layout)
        copy = read_backbone(written)
        matched = _compare(backbone, copy, str(written.name))
        detectron2 = to_detectron2(copy.state, copy.depth)
        parity = measure_parity(backbone.state, detectron2, copy.depth, backbone.pixel_format)
        manifest = _make_manifest(written, output, origin, backbone, to, matched, parity)
        written_manifest = write_manifest(written, manifest)
        if not overwrite and output.exists() and not manifest_path(output).exists():
            check_unverified(output, manifest)
        manifest_path(output).unlink(missing_ok=True)  # a crash here leaves no manifest rather than a wrong one
        written.replace(output)
        written_manifest.replace(manifest_path(output))
    return manifest


def _make_manifest(
    written: Path,
    output: Path,
    origin: dict[str, Any],
    backbone: Backbone,
    to: str,
    matched: int,
    parity: dict[str, float],
) -> Manifest:
    pixels = PIXEL_FORMATS[backbone.pixel_format]
    return Manifest(
        source=origin,
        output={"path": output.name, "sha256": digest_file(written), "format": to, "tensors": matched},
        depth=backbone.depth,
        pixel_format=pixels.order,
        pixel_mean=pixels.mean,
        pixel_std=pixels.std,
        stride_in_1x1=pixels.stride_in_1x1,
        assumed=backbone.assumed,
        matched=matched,
        expected=len(expected_shapes(backbone.depth)),
        parity=parity,
        parity_by=name_implementation(),
        commit=read_commit(),
        config=keep_plain(backbone.config),
    )


def _check_input(backbone: Backbone, to: str) -> None:
    """Refuse an output format that cannot record the pixel format: readers would assume torchvision's."""
    if backbone.pixel_format != TORCHVISION and to != "detectron2":
        raise ValueError(
            f"to={to}: the weights expect the pixel format {describe_pixel_format(backbone.pixel_format)}, which this "
            "output format cannot record, so its readers would assume torchvision's. Use to=detectron2"
        )


def check_converted(
    weights_path: str | Path, source: str | Path | None = None, *, trust_pickle: bool = False
) -> tuple[Manifest, bool]:
    """Verify a converted file again: digests, key sets, values, parity.

    Args:
        weights_path: converted file, with its manifest beside it.
        source: checkpoint that it was made from; None: the path in the manifest, if that file exists.
        trust_pickle: as for `convert`; applies to the source.

    Returns:
        The manifest, and whether the tensors were compared with the source's.

    Raises:
        ValueError: a check failed.

    """
    manifest = read_manifest(weights_path)
    copy = read_backbone(weights_path)
    if copy.depth != manifest.depth or len(copy.state) != manifest.expected:
        raise ValueError(
            f"{weights_path}: holds {len(copy.state)} tensors of a ResNet-{copy.depth}, but its manifest states "
            f"{manifest.expected} of a ResNet-{manifest.depth}; convert again"
        )
    wanted = pixel_format_of(manifest)
    if copy.pixel_format != wanted:
        raise ValueError(
            f"{weights_path}: has the pixel format {copy.pixel_format}, but its manifest states {wanted}; convert again"
        )
    measure_parity(copy.state, to_detectron2(copy.state, copy.depth), copy.depth, wanted)
    named = source or manifest.source["path"]
    if source is None and (is_remote(named) or not Path(named).exists()):
        return manifest, False
    origin = fetch_weights(named)
    if (digest := digest_checkpoint(origin)) != manifest.source["sha256"]:
        raise ValueError(
            f"{origin}: its SHA-256 is {digest}, but the manifest of {weights_path} states "
            f"{manifest.source['sha256']}: the source has changed; convert it again"
        )
    options = dict(manifest.source.get("options", {}))
    if "prefix" not in options:
        options |= {"family": manifest.source["family"], "branch": manifest.source["branch"]}
    original = read_backbone(origin, trust_pickle=trust_pickle, **options)
    _compare(original, copy, str(weights_path))
    return manifest, True


def write_backbone(path: Path, backbone: Backbone, to: str, layout: str = "any") -> None:
    """Write the backbone in one of `FORMATS`; the bytes depend only on the tensors (and on the epoch for to=moco)."""
    state = backbone.state
    if to == "safetensors":
        write_whole(path, lambda stream: stream.write(save_safetensors(state, {"format": "pt"})))
        return
    tree: dict[str, Any] = dict(state)
    if to == "moco":
        epoch = {} if backbone.epoch is None else {"epoch": backbone.epoch}
        encoder = {f"module.encoder_q.{name}": tensor for name, tensor in state.items()}
        tree = {**epoch, "arch": f"resnet{backbone.depth}", "state_dict": encoder}
    if to == "detectron2":
        named = to_detectron2(state, backbone.depth, layout)
        tree = {"model": named, "__author__": "mochi-transfer", "matching_heuristics": layout == "any"}
        if backbone.pixel_format != TORCHVISION:
            tree["pixel_format"] = backbone.pixel_format
    if path.suffix == ".pkl":
        tree["model"] = {name: tensor.numpy() for name, tensor in tree["model"].items()}
        write_whole(path, lambda stream: write_arrays(stream, tree))
    else:
        write_whole(path, lambda stream: torch.save(tree, stream))


def _describe_source(source: str | Path, file: Path, backbone: Backbone) -> dict[str, Any]:
    """Return the manifest's record of the source: the path or address as given, and the file's digest."""
    return {
        "path": str(source),
        "sha256": digest_checkpoint(file),
        "family": backbone.family,
        "branch": backbone.branch,
        "epoch": backbone.epoch,
        "reason": backbone.reason,
        "dropped": len(backbone.dropped),
        "filled": backbone.filled,
        "options": dict(backbone.options),
    }


def _check_request(source: str | Path, output: Path, to: str, layout: str) -> None:
    if to not in FORMATS:
        raise ValueError(f"to={to}: expected one of {', '.join(FORMATS)} (or, on the command line, hub-folder)")
    if output.suffix not in FORMATS[to]:
        raise ValueError(
            f"{output}: a file for to={to} must end in {' or '.join(FORMATS[to])}; got {output.suffix or 'no suffix'}"
        )
    if layout not in LAYOUTS or (layout != "any" and to != "detectron2"):
        raise ValueError(f"layout={layout}: expected one of {', '.join(LAYOUTS)}; c4 and fpn need to=detectron2")
    if output.exists() and Path(source).exists() and output.samefile(source):
        raise ValueError(f"{output}: is the source itself; choose another output name")


def _compare(ours: Backbone, theirs: Backbone, where: str) -> int:
    """Return the number of tensors compared; raise ValueError unless all are equal bit by bit."""
    if ours.state.keys() != theirs.state.keys():
        raise ValueError(
            f"{where}: its tensor names differ from the source's: {sorted(ours.state.keys() ^ theirs.state.keys())}"
        )
    unequal = [name for name, tensor in ours.state.items() if not torch.equal(tensor, theirs.state[name])]
    if unequal:
        raise ValueError(f"{where}: {len(unequal)} tensors differ from the source, the first is {unequal[0]}")
    return len(ours.state)


def _place(name: str, layout: str) -> str:
    if layout == "any":
        return name
    if layout == "fpn":
        return f"backbone.bottom_up.{name}"
    return f"roi_heads.{name}" if name.startswith("res5.") else f"backbone.{name}"
