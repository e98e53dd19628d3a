"""Say what is in a checkpoint and what would be converted, without converting."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.runtime.storage import digest_file
from transfer.weights.backbone import read_backbone
from transfer.weights.containers import describe_container, read_tree
from transfer.weights.recognition import find_containers
from transfer.weights.resnet_names import expected_shapes


def inspect_checkpoint(
    path: str | Path, *, family: str | None = None, branch: str | None = None, trust_pickle: bool = False
) -> str:
    """Return a report in plain text: container, digest, epochs, tensors by block, family, what would be converted.

    A refusal of the conversion is part of the report; only an unreadable file raises.

    Raises:
        ValueError: the file cannot be read safely.

    """
    tree = read_tree(path, trust_pickle=trust_pickle)
    lines = [
        f"{path}: {describe_container(path)}, {Path(path).stat().st_size:,} bytes",
        f"sha256     {digest_file(path)}",
        f"top level  {_list_keys(tree)}",
    ]
    if isinstance(tree.get("epoch"), int):
        lines.append(f"epoch      {tree['epoch']}")
    for place, state in find_containers(tree):
        lines.append(f"tensors    {len(state)} in {place or 'the top level'}")
        lines += [f"           {block}: {count}" for block, count in _count_blocks(state).items()]
    try:
        backbone = read_backbone(path, family=family, branch=branch, trust_pickle=trust_pickle)
    except ValueError as error:
        return "\n".join([*lines, f"would be refused: {error}"])
    counts = f"{len(backbone.state)} of {len(expected_shapes(backbone.depth))}"
    lines += [
        f"family     {backbone.family}: {backbone.reason}",
        f"backbone   ResNet-{backbone.depth}, {counts} tensors, values' sha256 {digest_state(backbone.state)}",
        f"dropped    {len(backbone.dropped)}: {_list_keys(backbone.dropped)}",
    ]
    if backbone.filled:
        lines.append(f"filled     {backbone.filled} batch counters that the file does not hold, with 0")
    return "\n".join(lines)


def digest_state(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over names, shapes and bytes: equal for two files of any format with equal tensors."""
    digest = hashlib.sha256()
    for name, tensor in state.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _count_blocks(names: Iterable[str]) -> dict[str, int]:
    """Return the number of tensors by stem, stage or first words: all of "…layer1.0.conv1.weight" under "…layer1"."""
    pattern = re.compile(r"(?P<block>(.+?\.)??(layer[1-4]|res[2-5]|stem|conv1|bn1))\.|(?P<other>(.+\.)?[^.]+)\.[^.]+$")
    matches = ((name, pattern.match(name)) for name in names)
    return dict(Counter((match["block"] or match["other"]) if match else name for name, match in matches))


def _list_keys(names: Iterable[Any], shown: int = 8) -> str:
    words = [str(name) for name in names]
    return ", ".join(words[:shown]) + (" …" if len(words) > shown else "")
