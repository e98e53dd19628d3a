"""Read the backbone out of any family's checkpoint: strictly, whole, under torchvision's names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from transfer.weights.file_claims import ASSUMED, Claims, read_claims
from transfer.weights.files.containers import read_tree
from transfer.weights.pixel_formats import PIXEL_FORMATS, TORCHVISION, describe_pixel_format
from transfer.weights.recognition import Candidate, Recognition, recognise
from transfer.weights.resnet_names import (
    COUNTER,
    as_expected_dtypes,
    expected_shapes,
    find_depth,
    find_key_mistakes,
    find_value_mistakes,
    summarise_mistakes,
)


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """A whole ResNet without its classifier, and where it came from."""

    state: dict[str, Tensor]
    """Torchvision names in torchvision's order; on the CPU, each tensor with storage of its own."""
    depth: int
    family: str
    branch: str
    epoch: int | None
    """Epochs trained, where the checkpoint says it."""
    reason: str
    """Why it was taken for this family and branch."""
    dropped: tuple[str, ...] = ()
    """Keys of heads and queues that were left out."""
    filled: int = 0
    """Batch counters and, of Caffe2's files, running statistics that the file did not hold (all of a kind or none)."""
    pixel_format: str = TORCHVISION
    """The input that the weights want: a key of `transfer.weights.pixel_formats.PIXEL_FORMATS`."""
    assumed: str = ""
    """What was taken for granted about network and input."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """What the user said beside family and branch: read it again with these."""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The pretraining's settings, where the checkpoint holds them."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """What a user may say about a checkpoint; each empty: recognised, or refused with the choices."""

    family: str | None = None
    """Whose checkpoint it is."""
    branch: str | None = None
    """query, key, teacher or student; None: the query (online) encoder."""
    prefix: str | None = None
    """CONTAINER:PREFIX, where the encoder lies in a file of no known scheme."""
    pixel_format: str | None = None
    """torchvision, msra, bgr or half: the input that the weights want."""
    float32: bool = False
    """Convert float16, bfloat16 and float64 weights to float32."""
    trust_pickle: bool = False
    """Accept torch files that name other classes; their objects are read as plain dictionaries."""


def read_backbone(path: str | Path, **options: Any) -> Backbone:
    """Return the backbone in the checkpoint at `path`; see `transfer.weights.families` for what is known.

    Args:
        path: a checkpoint in any container format, which is recognised by its content.
        options: the fields of `ReadOptions`: family, branch, prefix, pixel_format, float32, trust_pickle.

    Returns:
        Its tensors under torchvision's names (`state`), depth, family, branch, epoch and pixel format.

    Raises:
        ValueError: unreadable, unclear, incomplete, of another shape, or with NaN; the text says what and what to do.

    """
    said = ReadOptions(**options)
    where = str(path)
    tree = read_tree(path, trust_pickle=said.trust_pickle)
    found = recognise(tree, where, family=said.family, branch=said.branch, prefix=said.prefix)
    if found.unknown:
        raise ValueError(
            f"{where}: {len(found.unknown)} tensors belong to no branch and no head of {found.chosen.family}:\n"
            f"{summarise_mistakes(list(found.unknown))}\n{_advise_unknown(found, said)}"
        )
    claims = read_claims(tree, path, found.chosen.style, said.pixel_format)
    for candidate in found.candidates:
        _check_whole(candidate, where, float32=said.float32)
    return _take(found, tree, where, claims, said)


def _advise_unknown(found: Recognition, said: ReadOptions) -> str:
    """Return what helps: the place by name, where nothing unknown lies under it."""
    inside = found.chosen.raw_prefix
    if said.prefix is None and inside and not any(name.startswith(inside) for name in found.unknown):
        return f"To convert the encoder without them, add: {found.chosen.words()}"
    return "Remove them, or re-save the encoder's state_dict alone"


def load_backbone(path: str | Path) -> nn.Module:
    """Return a torchvision ResNet with the weights of `path` and an identity in place of fc.

    Args:
        path: a checkpoint of any known family; the key sets must agree exactly.

    Returns:
        The model in training mode. (B, 3, H, W) images, normalised as torchvision's whatever the weights want, give
        (B, 2048) features, or (B, 512) for ResNet-18 and 34.

    Raises:
        ValueError: as `read_backbone`.

    """
    backbone = read_backbone(path)
    with torch.device("meta"):  # no initialisation: every tensor is assigned, and the random state stays as it was
        model = build_resnet(backbone.depth)
    model.load_state_dict(fit_input(backbone), strict=True, assign=True)
    place_strides(model, backbone.pixel_format)
    return model


def build_resnet(depth: int) -> nn.Module:
    """Return torchvision's ResNet of that depth with an identity in place of fc, freshly initialised."""
    model: nn.Module = getattr(torchvision.models, f"resnet{depth}")()
    model.fc = nn.Identity()
    return model


def fit_input(backbone: Backbone) -> dict[str, Tensor]:
    """Return the tensors with the first convolution adapted to torchvision's input.

    With x = (pixel - mean) / std for torchvision's numbers, the input in another pixel format is a_c x_c + b_c in each
    channel c. All known formats except `half` have torchvision's means, so b is 0 and the padding stays 0; `half` is
    refused.

    Raises:
        ValueError: the means of the weights' pixel format differ from torchvision's.

    """
    ours, theirs = PIXEL_FORMATS[TORCHVISION], PIXEL_FORMATS[backbone.pixel_format]
    if ours == theirs:
        return dict(backbone.state)
    order = slice(None) if theirs.order == ours.order else [2, 1, 0]
    mean, std = torch.tensor(theirs.mean)[order], torch.tensor(theirs.std)[order]  # (3,) in the order of RGB
    if not torch.allclose(mean, torch.tensor(ours.mean)):
        raise ValueError(
            f"the weights expect the pixel format {describe_pixel_format(backbone.pixel_format)}; features are "
            "computed from torchvision's, and other means cannot be folded into a padded convolution. Fine-tune with "
            f"pixel_format={backbone.pixel_format} instead"
        )
    weight = backbone.state["conv1.weight"][:, order] * (torch.tensor(ours.std) / std)[:, None, None]  # (64, 3, 7, 7)
    return {**backbone.state, "conv1.weight": weight.contiguous()}


def place_strides(model: nn.Module, pixel_format: str) -> None:
    """Move the strides of a torchvision ResNet's bottlenecks to where the weights had them."""
    if not PIXEL_FORMATS[pixel_format].stride_in_1x1:
        return
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.conv1.stride, module.conv2.stride = module.conv2.stride, (1, 1)


def _check_whole(candidate: Candidate, where: str, *, float32: bool) -> None:
    depth = find_depth(candidate.state)
    state, _ = _fill(candidate, depth)
    state = as_expected_dtypes(state, float32=float32)
    mistakes = find_key_mistakes(state, depth)
    if not mistakes:
        return
    if not find_key_mistakes(as_expected_dtypes(state, float32=True), depth):
        dtypes = sorted({str(tensor.dtype) for tensor in state.values() if tensor.is_floating_point()})
        raise ValueError(
            f"{where}: the {candidate.branch} branch ({candidate.place()}) holds {' and '.join(dtypes)}:\n"
            f"{summarise_mistakes(mistakes)}\nTo convert them to float32, add: float32=true"
        )
    raise ValueError(
        f"{where}: the {candidate.branch} branch ({candidate.place()}) is nearest to a ResNet-{depth}, but "
        f"{len(mistakes)} of its tensors are off:\n{summarise_mistakes(mistakes)}\nNothing is written; "
        "take a whole checkpoint of ResNet-18, 34, 50, 101 or 152"
    )


def _fill(candidate: Candidate, depth: int) -> tuple[dict[str, Tensor], int]:
    """Return the state with what its kind of file leaves out, and how many tensors were added.

    Counters of 0 where the file has none at all. Caffe2's files fold the running statistics into scale and shift:
    mean 0, and a variance that makes the normalisation the identity, 1 - epsilon.
    """
    state = dict(candidate.state)
    fresh: dict[str, float] = {}
    if not any(name.endswith(COUNTER) for name in state):
        fresh[COUNTER] = 0
    if candidate.style == "caffe2" and not any("running_" in name for name in state):
        fresh |= {"running_mean": 0.0, "running_var": 1 - 1e-5}
    for name, shape in expected_shapes(depth).items():
        kind = name.rpartition(".")[2]
        if kind in fresh:
            state[name] = torch.full(shape, fresh[kind], dtype=torch.int64 if kind == COUNTER else torch.float32)
    return state, len(state) - len(candidate.state)


def _take(found: Recognition, tree: Mapping[str, Any], where: str, claims: Claims, said: ReadOptions) -> Backbone:
    chosen = found.chosen
    depth = find_depth(chosen.state)
    state, filled = _fill(chosen, depth)
    state = as_expected_dtypes(state, float32=said.float32)
    state = {name: state[name].detach().clone(memory_format=torch.contiguous_format) for name in expected_shapes(depth)}
    if mistakes := find_value_mistakes(state):
        raise ValueError(
            f"{where}: refused:\n{summarise_mistakes(mistakes)}\nThe training diverged or the file is damaged"
        )
    config = tree.get("config")
    pixel_format = claims.pixel_format or TORCHVISION
    return Backbone(
        state=state,
        depth=depth,
        family=chosen.family,
        branch=chosen.branch,
        epoch=read_epoch(tree),
        reason=found.reason(),
        dropped=found.dropped,
        filled=filled,
        pixel_format=pixel_format,
        assumed=f"input {describe_pixel_format(pixel_format)}: {claims.because}; {ASSUMED}",
        options={
            **({"prefix": said.prefix} if said.prefix else {}),
            **({"pixel_format": said.pixel_format} if said.pixel_format else {}),
            **({"float32": True} if said.float32 else {}),
        },
        config=config if isinstance(config, Mapping) else {},
    )


def read_epoch(tree: Mapping[str, Any]) -> int | None:
    """Return the epochs trained, where the checkpoint says a number that can be one."""
    epoch = tree.get("epoch")
    counted = isinstance(epoch, int) and not isinstance(epoch, bool) and 0 <= epoch < 2**31
    return epoch if counted else None
