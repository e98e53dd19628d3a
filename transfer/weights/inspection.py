"""Say what is in a checkpoint and what would be converted, without converting."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from transfer.weights.backbone import read_backbone, read_epoch
from transfer.weights.files.containers import describe_container, digest_checkpoint, read_tree
from transfer.weights.key_names import find_containers
from transfer.weights.recognition import list_resnets
from transfer.weights.resnet_names import expected_shapes
from transfer.weights.sources.remote_weights import fetch_weights


def inspect_checkpoint(path: str | Path, **options: Any) -> str:
    """Return a report in plain text: container, digest, epochs, tensors by block, family, what would be converted.

    Every ResNet in the file is listed with the option that converts it. A refusal of the conversion is part of the
    report; only an unreadable file raises.

    Args:
        path: the checkpoint.
        options: the fields of `transfer.weights.backbone.ReadOptions`.

    Raises:
        ValueError: the file cannot be read safely.

    """
    path = fetch_weights(path)
    tree = read_tree(path, trust_pickle=bool(options.get("trust_pickle")))
    lines = [
        f"{path}: {describe_container(path)}, {_measure(Path(path)):,} bytes",
        f"sha256     {digest_checkpoint(path)}",
        f"top level  {_list_keys(tree)}",
    ]
    if (epoch := read_epoch(tree)) is not None:
        lines.append(f"epoch      {epoch}")
    for place, state in find_containers(tree):
        lines.append(f"tensors    {len(state)} in {place or 'the top level'}")
        lines += [f"           {block}: {count}" for block, count in _count_blocks(state).items()]
    try:
        lines += [f"resnet     {place}; convert it by: {words}" for place, words in list_resnets(tree, str(path))]
        backbone = read_backbone(path, **options)
    except ValueError as error:
        return "\n".join([*lines, f"would be refused: {error}"])
    counts = f"{len(backbone.state)} of {len(expected_shapes(backbone.depth))}"
    lines += [
        f"family     {backbone.family}: {backbone.reason}",
        f"backbone   ResNet-{backbone.depth}, {counts} tensors, values' sha256 {digest_state(backbone.state)}",
        f"assumed    {backbone.assumed}",
        f"dropped    {len(backbone.dropped)}: {_list_keys(backbone.dropped)}",
    ]
    if backbone.filled:
        lines.append(f"filled     {backbone.filled} counters and statistics that the file does not hold")
    return "\n".join(lines)


def digest_state(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and bytes: equal for two files of any format with equal tensors."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _measure(path: Path) -> int:
    return sum(file.stat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())


def _count_blocks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of tensors by stem, stage or first words: all of "…layer1.0.conv1.weight" under "…layer1"."""
    pattern = re.compile(r"(?P<block>(.+?\.)??(layer[1-4]|res[2-5]|stem|conv1|bn1))\.|(?P<other>(.+\.)?[^.]+)\.[^.]+$")
    matches = ((name, pattern.match(name)) for name in names)
    return dict(Counter((match["block"] or match["other"]) if match else name for name, match in matches))


def _list_keys(names: Iterable[Any], shown: int = 8) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:shown]) + (" …" if len(words) > shown else "")
